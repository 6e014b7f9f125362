"""From what a person gives (flags, files, standard input) to a message that is ready to leave."""

from __future__ import annotations

import io
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Final

from posthouse.cli.exits import Exit, Problem
from posthouse.clients.smtp import Letter
from posthouse.mail import compose
from posthouse.mail.address import Address, AddressError
from posthouse.mail.envelope import Recipient
from posthouse.mail.header import Header
from posthouse.mail.lines import LineEnds
from posthouse.mail.mailboxes import Mailbox, ascii_form, parse_mailboxes

IN_MEMORY: Final = 1_048_576  # octets of standard input that are kept in memory; more goes to a temporary file
HEADER: Final = 1_048_576  # octets of the header of a message that is given whole
RECIPIENTS: Final = ("to", "cc", "bcc")


@dataclass(slots=True)
class Draft:
    """A message in a person's terms."""

    sender: Mailbox
    subject: str
    text: compose.Part
    to: Sequence[Mailbox] = ()
    cc: Sequence[Mailbox] = ()
    bcc: Sequence[Mailbox] = ()
    fields: Sequence[tuple[str, str]] = ()
    attachments: Sequence[compose.Attachment] = field(default_factory=list)
    html: compose.Part | None = None
    inlines: Sequence[compose.Attachment] = ()

    def compose(self) -> tuple[Letter, str]:
        """The letter with its envelope, and its Message-ID. Raises Problem."""
        given = [value.strip() for name, value in self.fields if name.lower() == "message-id"]
        message_id = given[0] if given else new_message_id(self.sender.address)
        letter = compose.Letter(
            self.sender,
            self.to,
            self.subject,
            time.time(),
            message_id,
            self.text,
            cc=self.cc,
            fields=self.fields,
            attachments=self.attachments,
            html=self.html,
            inlines=self.inlines,
        )
        try:
            composed = compose.compose(letter, secrets.token_hex(16))
        except compose.ComposeError as error:
            raise Problem(Exit.DATA, f"{error}. Nothing was sent.") from error
        except OSError as error:
            raise Problem(Exit.IO, f"A file cannot be read: {error.strerror}. Nothing was sent.") from error
        everybody = [*self.to, *self.cc, *self.bcc]
        return envelope(composed, self.sender, everybody), message_id


def envelope(composed: compose.Composed, sender: Mailbox | None, everybody: Iterable[Mailbox]) -> Letter:
    """The letter with its envelope: each address once."""
    unique = {mailbox.address.key: mailbox.address for mailbox in everybody}
    utf8 = composed.utf8 or not all(address.local.isascii() for address in unique.values())

    def form(address: Address) -> Address:
        return address if utf8 else ascii_form(address)

    return Letter(
        None if sender is None else form(sender.address),
        [Recipient(form(address)) for address in unique.values()],
        composed.size,
        composed.content,
        eight_bit=composed.eight_bit or utf8,
        utf8=utf8,
    )


def want_notices(letter: Letter, notify: tuple[str, ...], ret: str | None, envid: str | None) -> None:
    """Asks for notices of a letter; each recipient goes with its address as it was given (RFC 3461 §4.2)."""
    letter.ret, letter.envid = ret, envid
    if notify:
        letter.recipients = [with_notices(recipient.address, notify) for recipient in letter.recipients]


def with_notices(address: Address, notify: tuple[str, ...]) -> Recipient:
    """A recipient of whom notices are wanted, or not. What is beyond ASCII has a type of its own (RFC 6533 §3)."""
    if not notify:
        return Recipient(address, notify)
    text = str(address)
    original = f"rfc822;{text}" if address.is_ascii else "utf-8;" + text.replace("\\", r"\x{5C}")
    return Recipient(address, notify, original)


def new_message_id(sender: Address) -> str:
    """An id nobody else ever makes (RFC 5322 §3.6.4)."""
    domain = ascii_form(sender).domain
    right = domain if domain.isascii() and domain else "localhost"
    return f"<{time.strftime('%Y%m%d%H%M%S', time.gmtime())}.{secrets.token_hex(8)}@{right}>"


def read_mailboxes(text: str, domain: str = "") -> list[Mailbox]:
    """The mailboxes of a list; names without a domain are of this one. Raises Problem."""
    try:
        return parse_mailboxes(text, domain)
    except AddressError as error:
        raise Problem(Exit.DATA, f"{error}. Nothing was sent.") from error


# Files and standard input


def text_part(text: str) -> compose.Part:
    """A text that is at hand."""
    return octets_part(text.encode("utf-8", "surrogateescape"))


def octets_part(octets: bytes) -> compose.Part:
    """Octets that are at hand."""
    return compose.Part(len(octets), lambda: io.BytesIO(octets))


def spool(source: IO[bytes]) -> compose.Part:
    """Everything a stream gives, in a temporary file when it is much."""
    octets = source.read(IN_MEMORY)
    if len(octets) < IN_MEMORY:
        return octets_part(octets)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the part, and has no name to be cleaned up
    while octets:
        file.write(octets)
        octets = source.read(IN_MEMORY)
    file.flush()
    size = file.tell()

    def again() -> BinaryIO:
        copy = os.fdopen(os.dup(file.fileno()), "rb")
        copy.seek(0)
        return copy

    return compose.Part(size, again)


def without_mbox_line(part: compose.Part) -> compose.Part:
    """A message without the line of an mbox file before it ("From ..."), which sendmails take and leave out."""
    with part.open() as file:
        line = file.readline(1000)
    if not line.startswith(b"From ") or not line.endswith(b"\n"):
        return part

    def behind() -> BinaryIO:
        file = part.open()
        file.seek(len(line))
        return file

    return compose.Part(part.size - len(line), behind)


def attachment(path: Path) -> compose.Attachment:
    """A file to go with the message, refused now when it cannot be read. Raises Problem."""
    import mimetypes

    try:
        with path.open("rb") as file:
            file.read(1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise Problem(Exit.NO_INPUT, f"{path} cannot be read: {error.strerror}. Nothing was sent.") from error
    if not path.is_file():
        raise Problem(Exit.NO_INPUT, f"{path} is no ordinary file. Nothing was sent.")
    kind, encoding = mimetypes.guess_type(path.name)
    if kind is None or encoding is not None:
        kind = "application/octet-stream"
    return compose.Attachment(size, lambda: path.open("rb"), path.name, kind)


# A message that is given whole (-t)


@dataclass(slots=True)
class Whole:
    """A message with its header, as programs hand it over."""

    letter: Letter
    message_id: str


def whole_message(
    source: compose.Part, sender: Mailbox | None, more: Sequence[Mailbox], *, listed: bool = True, domain: str = ""
) -> Whole:
    """Takes Bcc out and adds what is missing (RFC 5322 §3.6). The rest stays as it is, but for line ends. `listed`: the
    letter goes to those in To, Cc and Bcc as well. With a `domain`, names without one are of it. Raises Problem."""
    octets = _head(source)
    header = Header(octets, limit=HEADER)
    if header.body >= HEADER:
        raise Problem(Exit.DATA, "The header of the message does not end. Nothing was sent.")
    boxes = {name: all_mailboxes(header, name, domain) for name in ("from", *RECIPIENTS) if listed or name == "from"}
    sender = sender or next(iter(boxes["from"]), None)
    if sender is None:
        raise Problem(Exit.DATA, "The message has no From field: give -f ADDRESS. Nothing was sent.")
    everybody = [*more, *(box for name in RECIPIENTS for box in boxes.get(name, ()))]
    if not everybody:
        raise Problem(Exit.DATA, "The message names no recipient in To, Cc or Bcc. Nothing was sent.")
    message_id = (header.get("message-id") or b"").decode("ascii", "replace") or new_message_id(sender.address)
    utf8 = not all(box.address.local.isascii() for name in ("from", "to", "cc") for box in boxes.get(name, ()))
    fields = b"".join(_rewritten(header, utf8=utf8, domain=domain))
    fields += _missing(header, sender, message_id, utf8=utf8)
    composed = compose.Composed(fields + b"\r\n", [], utf8=utf8)
    _add_body(composed, source, header.body)
    return Whole(envelope(composed, sender, everybody), message_id)


def _head(source: compose.Part) -> bytes:
    with source.open() as file:
        octets = file.read(HEADER + 1)
    # An mbox line before the header is no field, and some programs leave it there.
    if octets.startswith((b"From ", b">From ")):
        raise Problem(Exit.DATA, 'The message begins with an mbox line ("From ..."): remove it. Nothing was sent.')
    return octets


def all_mailboxes(header: Header, name: str, domain: str = "") -> list[Mailbox]:
    """The mailboxes of all fields of a name. Raises Problem."""
    texts = [value.decode("utf-8", "surrogateescape") for value in header.all(name)]
    return [mailbox for text in texts for mailbox in read_mailboxes(text, domain)]


def _rewritten(header: Header, *, utf8: bool, domain: str) -> Iterable[bytes]:
    for item in header:
        name = item.name.lower()
        if name in ("bcc", "return-path", ""):
            continue  # Bcc is nobody's business; Return-Path is the server's to write (RFC 5321 §4.4)
        octets = header.octets(item)
        if domain and name in compose.ADDRESSES and (whole := _with_domains(header.value(item), domain)):
            yield _field(item.name, whole, utf8=utf8)
        elif octets.isascii() and b"\0" not in octets and max(map(len, octets.split(b"\n"))) <= compose.LINE:
            ends = LineEnds()
            yield ends.add(octets) + ends.end()
        else:
            value = header.value(item).decode("utf-8", "replace").replace("\r", " ").replace("\0", " ")
            yield _field(item.name, value, utf8=utf8)


_LOCAL: Final = re.compile(r"\s*([^\s@<>()\",;:]+)\s*(?:\(([^()]*)\)\s*)?")


def _with_domains(value: bytes, domain: str) -> str:
    """A list of addresses in which some have no domain (`root (Cron Daemon)`), with it; "" when all have one."""
    text = value.decode("utf-8", "replace")
    lonely = _LOCAL.fullmatch(text)
    if lonely is not None:
        box = Mailbox((lonely[2] or "").strip(), read_mailboxes(lonely[1], domain)[0].address)
        return box.encode(utf8=True).replace("\r\n", "")
    whole = read_mailboxes(text, domain)
    if text.count("@") >= len(whole) or not whole:
        return ""
    return ", ".join(box.encode(utf8=True).replace("\r\n", "") for box in whole)


def _field(name: str, value: str, *, utf8: bool) -> bytes:
    try:
        return compose.encode_field(name, value, utf8=utf8)
    except compose.ComposeError as error:
        raise Problem(Exit.DATA, f"{error}. Nothing was sent.") from error


def _missing(header: Header, sender: Mailbox, message_id: str, *, utf8: bool) -> bytes:
    present = {item.name.lower() for item in header}
    made = {
        "Date": compose.format_date(time.time()),
        "From": sender.encode(utf8=utf8),
        "Message-ID": message_id,
    }
    return "".join(f"{name}: {value}\r\n" for name, value in made.items() if name.lower() not in present).encode()


def _add_body(composed: compose.Composed, source: compose.Part, offset: int) -> None:
    def body() -> BinaryIO:
        file = source.open()
        file.seek(offset)
        return file

    part = compose.Part(max(0, source.size - offset), body)
    size = 0
    for piece in compose.with_line_ends(part):
        size += len(piece)
        composed.eight_bit = composed.eight_bit or not piece.isascii()
        if b"\0" in piece:
            raise Problem(Exit.DATA, "The message holds a NUL octet, which mail cannot carry. Nothing was sent.")
    composed.eight_bit = composed.eight_bit or composed.utf8
    composed.pieces.append(compose.Encoded(size, lambda: compose.with_line_ends(part)))
