"""Changing a letter of the outbox in the person's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from posthouse.cli import letters
from posthouse.cli.exits import Exit, Problem
from posthouse.clients.outbox import Outbox, Taken
from posthouse.clients.waiting import Recipient, Waiting
from posthouse.mail import compose
from posthouse.mail.address import Address
from posthouse.mail.encoded import decode_field
from posthouse.mail.header import Field, Header
from posthouse.mail.mailboxes import Mailbox
from posthouse.mail.message import Message
from posthouse.mail.mime import text_of

MOST: Final = 16_777_216  # octets of a letter that an editor is given
CONTENT_FIELDS: Final = ("content-type", "content-transfer-encoding")


def edit(box: Outbox, name: str) -> bool:
    """Has the letter changed; nobody else can have it meanwhile. Returns whether it was. Raises Problem."""
    with box.take(name, time.time()) as taken:
        _check(taken)
        octets = b"".join(taken.content())
        shown = readable(octets, taken.waiting)
        changed = _in_editor(shown)
        if changed == shown:
            return False
        _put_back(taken, changed, _bystanders(Header(octets), taken.waiting), plain=_is_plain(Message(octets)))
        return True


def _check(taken: Taken) -> None:
    waiting = taken.waiting
    if not waiting.open and not waiting.count("failed"):
        raise Problem(Exit.DATA, f"Nothing of {waiting.id} can be changed: it has left.", stage="outbox")
    if waiting.count("uncertain"):
        text = f"{waiting.id} may have been taken as it is: send it again or drop it, but do not change it."
        raise Problem(Exit.DATA, text, stage="outbox")
    if waiting.size > MOST:
        raise Problem(Exit.DATA, f"{waiting.id} is too large for an editor.", stage="outbox")


def _is_plain(message: Message) -> bool:
    """Whether the letter is one text, which can be shown decoded."""
    root = message.root
    return not root.children and root.type == "text/plain" and root.disposition != "attachment"


def readable(octets: bytes, waiting: Waiting) -> bytes:
    """The letter for an editor: fields decoded, a text decoded, those who are in no field as Bcc."""
    message = Message(octets)
    header = Header(octets)
    plain = _is_plain(message)
    lines: list[str] = []
    for field in header:
        if field.name and not (plain and field.name.lower() in CONTENT_FIELDS):
            lines.append(_readable_field(header, field))
    seen = {box.address.key for name in ("to", "cc") for box in letters.all_mailboxes(header, name)}
    hidden = [r.address for r in waiting.recipients if r.status != "sent" and _key(r.address) not in seen]
    if hidden:
        lines.append(f"Bcc: {', '.join(hidden)}")
    head = "\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
    if plain:
        return head + "".join(text_of(octets, message.root)).encode("utf-8", "surrogateescape")
    return head + octets[header.body :].replace(b"\r\n", b"\n")


def _readable_field(header: Header, field: Field) -> str:
    """As it stands where that can be read; else decoded."""
    octets = header.octets(field)
    if octets.isascii() and b"=?" not in octets:
        return octets.decode("ascii").replace("\r\n", "\n").rstrip("\n")
    return f"{field.name}: {decode_field(header.value(field))}"


def _key(address: str) -> str:
    return Address.parse(address).key if "@" in address else address


def _in_editor(octets: bytes) -> bytes:
    """What the person makes of it. The file is for nobody else's eyes."""
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="posthouse-") as folder:
        path = Path(folder) / "letter.eml"
        path.write_bytes(octets)
        try:
            code = subprocess.run([*words, str(path)], check=False).returncode  # noqa: S603 - the person's own editor
        except OSError as error:
            text = f"The editor {words[0]} cannot be started: {error.strerror}. Set VISUAL or EDITOR."
            raise Problem(Exit.NO_INPUT, text, stage="edit") from error
        if code:
            raise Problem(Exit.NOT_ALL, f"The editor ended with {code}. Nothing was changed.", stage="edit")
        if path.stat().st_size > MOST:
            raise Problem(Exit.DATA, "The letter has become too large. Nothing was changed.", stage="edit")
        return path.read_bytes()


def _bystanders(header: Header, waiting: Waiting) -> set[str]:
    """Who stands in To and Cc and did not get the letter from us, such as those of a sendmail's call without -t."""
    named = {box.address.key for name in ("to", "cc") for box in letters.all_mailboxes(header, name)}
    return named - {_key(recipient.address) for recipient in waiting.recipients}


def _put_back(taken: Taken, octets: bytes, bystanders: set[str], *, plain: bool) -> None:
    waiting = taken.waiting
    sender = None if waiting.sender is None else Mailbox("", Address.parse(waiting.sender))
    whole = letters.whole_message(letters.octets_part(_encoded(octets) if plain else octets), sender, [])
    letter = whole.letter
    done = [recipient for recipient in waiting.recipients if recipient.status == "sent"]
    passed_over = bystanders | {_key(recipient.address) for recipient in done}
    fresh = [Recipient(str(one.address)) for one in letter.recipients if one.address.key not in passed_over]
    if not fresh:
        raise Problem(Exit.DATA, "Nobody is left to send it to. Nothing was changed.", stage="edit")
    pieces = list(letter.content())
    waiting.recipients = [*done, *fresh]
    waiting.message_id, waiting.eight_bit, waiting.utf8 = whole.message_id, letter.eight_bit, letter.utf8
    waiting.subject = Message(b"".join(pieces)).get("Subject")[:200]
    if not waiting.held:
        waiting.due = time.time()
    waiting.finished = None
    taken.replace(pieces)


def _encoded(octets: bytes) -> bytes:
    """The header, with fields that fit the text, and the text as it may travel."""
    header = Header(octets)
    fields, text = compose.encode_body(letters.octets_part(octets[header.body :]))
    kept = b"".join(header.octets(f) for f in header if f.name and f.name.lower() not in CONTENT_FIELDS)
    return kept + fields + b"\r\n" + b"".join(_pieces(text))


def _pieces(text: bytes | compose.Encoded) -> Iterable[bytes]:
    return [text] if isinstance(text, bytes) else text.content()
