"""Composing messages: header fields, text and attachments of any size as one stream of octets whose length is known
beforehand (RFC 5322, RFC 2045, RFC 2046).

What is composed here holds ASCII only, CRLF only and lines of at most 998 octets, so that any server takes it;
addresses beyond ASCII are the one exception (RFC 6532).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import BinaryIO, Final

from posthouse.mail.address import AddressError
from posthouse.mail.encoded import encode_parameter, encode_text
from posthouse.mail.lines import LineEnds, whole_lines
from posthouse.mail.mailboxes import Mailbox, encode_mailboxes, parse_mailboxes

BASE64_LINE: Final = 57  # octets that become one line of 76 (RFC 2045 §6.8)
PIECE: Final = BASE64_LINE * 1024  # octets of a file read at a time
SMALL_TEXT: Final = 1_048_576  # octets of a text up to which the shortest encoding is looked for
LINE: Final = 998  # RFC 5322 §2.1.1
FIELD_NAME: Final = re.compile(r"[!-9;-~]{1,76}")  # ftext, RFC 5322 §3.6.8


class ComposeError(ValueError):
    """This cannot be a message. Its text says why, for people."""


@dataclass(slots=True)
class Part:
    """Octets of a known length that can be read again and again: `open` gives them as a file."""

    size: int
    open: Callable[[], BinaryIO]


@dataclass(slots=True)
class Attachment(Part):
    """A file that goes with the message. `type` is its media type. With a `cid` it is shown where the HTML names it
    (RFC 2392). `encoding` 7bit or 8bit: a message that must go as it is (RFC 2046 §5.2.1)."""

    name: str
    type: str
    cid: str = ""
    encoding: str = "base64"


@dataclass(slots=True)
class Composed:
    """A message ready to be sent: `size` octets in all, given by `content`, anew with each call. `utf8`: it can pass
    only where SMTPUTF8 is offered. `eight_bit`: it holds octets over 127."""

    header: bytes
    pieces: list[bytes | Encoded]
    utf8: bool = False
    eight_bit: bool = False

    @property
    def size(self) -> int:
        """Octets before dots are stuffed."""
        return len(self.header) + sum(len(p) if isinstance(p, bytes) else p.size for p in self.pieces)

    def content(self) -> Iterator[bytes]:
        """The octets in pieces."""
        yield self.header
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from piece.content()


@dataclass(slots=True)
class Encoded:
    """A part whose octets are made as they are needed."""

    size: int
    content: Callable[[], Iterator[bytes]]


@dataclass(slots=True)
class Letter:
    """What a person says a message is. `date` is in seconds since 1970, `zone` in seconds east of UTC; `fields` are
    further header fields; Bcc is nobody's business and has no place here. `html` says the same as `text`, `inlines`
    are the pictures in it."""

    sender: Mailbox
    to: Sequence[Mailbox]
    subject: str
    date: float
    message_id: str
    text: Part
    cc: Sequence[Mailbox] = ()
    fields: Sequence[tuple[str, str]] = ()
    attachments: Sequence[Attachment] = ()
    html: Part | None = None
    inlines: Sequence[Attachment] = ()


@dataclass(slots=True)
class _Entity:
    """A part with its own header fields (RFC 2045 §2.4)."""

    fields: bytes
    pieces: list[bytes | Encoded]
    eight_bit: bool = False


def compose(letter: Letter, boundary: str) -> Composed:
    """The message. `boundary` is random text that no part holds. Raises ComposeError."""
    utf8 = not all(_passes(box) for box in (letter.sender, *letter.to, *letter.cc))
    header = b"".join(_fields(letter, utf8=utf8))
    whole = _text(letter.text, "plain")
    if letter.html is not None:
        rich = _text(letter.html, "html")
        if letter.inlines:  # RFC 2387 §3.1: the type of the part that is shown first is named
            parts = [rich, *map(_attached, letter.inlines)]
            rich = _multipart('related; type="text/html"', f"=_rel_{boundary}", parts)
        whole = _multipart("alternative", f"=_alt_{boundary}", [whole, rich])  # the best one last: RFC 2046 §5.1.4
    if letter.attachments:
        whole = _multipart("mixed", f"=_mix_{boundary}", [whole, *map(_attached, letter.attachments)])
    return Composed(header + whole.fields + b"\r\n", whole.pieces, utf8=utf8, eight_bit=utf8 or whole.eight_bit)


def _text(text: Part, subtype: str) -> _Entity:
    fields, body = encode_body(text, subtype)
    return _Entity(fields, [body])


def _multipart(kind: str, boundary: str, parts: Sequence[_Entity]) -> _Entity:
    """Parts in one (RFC 2046 §5.1). Neither base64 nor quoted-printable ever holds "=_" (RFC 2045 §6.7)."""
    pieces: list[bytes | Encoded] = []
    mark = f"--{boundary}".encode("ascii")
    for number, part in enumerate(parts):
        pieces.append((b"\r\n" if number else b"") + mark + b"\r\n" + part.fields + b"\r\n")
        pieces += part.pieces
    pieces.append(b"\r\n" + mark + b"--\r\n")
    eight_bit = any(part.eight_bit for part in parts)
    fields = f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"\r\n'
    fields += "Content-Transfer-Encoding: 8bit\r\n" if eight_bit else ""  # RFC 2045 §6.4
    return _Entity(fields.encode("ascii"), pieces, eight_bit)


def _attached(attachment: Attachment) -> _Entity:
    fields = _attachment_fields(attachment)
    if attachment.encoding == "base64":
        return _Entity(fields, [encode_base64(attachment)])
    size = sum(map(len, with_line_ends(attachment)))
    body = Encoded(size, lambda: with_line_ends(attachment))
    return _Entity(fields, [body], eight_bit=attachment.encoding == "8bit")


def _passes(mailbox: Mailbox) -> bool:
    return mailbox.address.local.isascii()


def _fields(letter: Letter, *, utf8: bool) -> Iterator[bytes]:
    own = {name.lower() for name, _ in letter.fields}
    made = [
        ("Date", format_date(letter.date)),
        ("From", letter.sender.encode(utf8=utf8)),
        ("To", encode_mailboxes(letter.to, utf8=utf8)),
        ("Cc", encode_mailboxes(letter.cc, utf8=utf8)),
        ("Subject", encode_text(letter.subject, 9, utf8=utf8)),
        ("Message-ID", letter.message_id),
        ("MIME-Version", "1.0"),
    ]
    for name, value in made:
        _check(name, letter.subject if name == "Subject" else "")
        if name.lower() not in own and (value or name == "Subject"):
            yield f"{name}: {value}\r\n".encode()
    for name, value in letter.fields:
        yield encode_field(name, value, utf8=utf8)


ADDRESSES: Final = frozenset({"from", "sender", "reply-to", "to", "cc", "resent-from", "resent-to", "resent-cc"})


def encode_field(name: str, value: str, *, utf8: bool = False) -> bytes:
    """One header field. Raises ComposeError, for a value with line breaks above all: it could pretend to be further
    fields. In fields with addresses only the names are encoded (RFC 2047 §5)."""
    if not FIELD_NAME.fullmatch(name):
        raise ComposeError(f"{name!r} is no name of a header field")
    _check(name, value)
    if name.lower() in ADDRESSES:
        try:
            encoded = encode_mailboxes(parse_mailboxes(value), utf8=utf8)
        except AddressError as error:
            raise ComposeError(f"The field {name}: {error}") from error
    else:
        encoded = encode_text(value.strip(), len(name) + 2, utf8=utf8)
    return f"{name}: {encoded}\r\n".encode()


def _check(name: str, value: str) -> None:
    if any(c in value for c in "\r\n\0"):
        raise ComposeError(f"The field {name} may not hold a line break")


def format_date(seconds: float) -> str:
    """A moment as the Date field holds it, in the local time zone (RFC 5322 §3.3)."""
    return formatdate(seconds, localtime=True)


# Bodies


def encode_body(text: Part, subtype: str = "plain") -> tuple[bytes, bytes | Encoded]:
    """The MIME fields of a text and its octets on the way: as they are where that is safe, else quoted-printable or
    base64, whichever is shorter."""
    facts = _look(text)
    if facts.plain:
        return _text_fields(subtype, "us-ascii", "7bit"), Encoded(facts.size, lambda: with_line_ends(text))
    charset = "utf-8" if facts.utf8 else "unknown-8bit"
    if text.size > SMALL_TEXT:
        return _text_fields(subtype, charset, "base64"), encode_base64(text, lines=True)
    with text.open() as file:
        octets = _ended(whole_lines(file.read()))
    quoted = quoted_printable(octets)
    encoded = base64_lines(octets)
    if len(quoted) <= len(encoded):
        return _text_fields(subtype, charset, "quoted-printable"), quoted
    return _text_fields(subtype, charset, "base64"), encoded


@dataclass(slots=True)
class _Facts:
    """What a text is like: `size` with CRLF line ends, `plain` when it may pass as it is."""

    size: int = 0
    plain: bool = True
    utf8: bool = True


def _look(text: Part) -> _Facts:
    """Reads the text once, in constant memory."""
    import codecs  # small, and only needed here

    facts = _Facts()
    utf8 = codecs.getincrementaldecoder("utf-8")()
    column = 0
    for piece in with_line_ends(text):
        facts.size += len(piece)
        lines = piece.split(b"\n")
        column += len(lines[0])
        longest = max(column, *map(len, lines))
        column = column if len(lines) == 1 else len(lines[-1])
        if longest > LINE or not piece.isascii() or _UNSAFE.search(piece):
            facts.plain = False
        try:
            utf8.decode(piece)
        except UnicodeDecodeError:
            facts.utf8 = False
            utf8.reset()
    return facts


_UNSAFE: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def with_line_ends(text: Part) -> Iterator[bytes]:
    """The octets of a text with CRLF line ends, the last one included."""
    ends = LineEnds()
    with text.open() as file:
        while piece := file.read(PIECE):
            yield ends.add(piece)
    yield ends.end()


def _ended(octets: bytes) -> bytes:
    return octets if octets.endswith(b"\r\n") or not octets else octets + b"\r\n"


def _text_fields(subtype: str, charset: str, encoding: str) -> bytes:
    text = f"Content-Type: text/{subtype}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n"
    return text.encode("ascii")


def quoted_printable(octets: bytes) -> bytes:
    """A text with CRLF line ends in quoted-printable (RFC 2045 §6.7)."""
    lines = (binascii.b2a_qp(line, istext=False) for line in octets.split(b"\r\n"))
    return b"\r\n".join(line.replace(b"=\n", b"=\r\n") for line in lines)


def encode_base64(part: Part, *, lines: bool = False) -> Encoded:
    """The octets of a file in base64, read as they are sent; `lines`: a text, whose line ends become CRLF."""
    size = sum(map(len, with_line_ends(part))) if lines else part.size

    def content() -> Iterator[bytes]:
        source = with_line_ends(part) if lines else _pieces(part)
        rest = b""
        done = 0
        for piece in source:
            done += len(piece)
            octets = rest + piece
            whole = len(octets) - len(octets) % BASE64_LINE
            rest = octets[whole:]
            if whole:
                yield base64_lines(octets[:whole])
        if rest:
            yield base64_lines(rest)
        if done != size:
            raise ComposeError("a file changed while it was sent")

    return Encoded(base64_size(size), content)


def base64_size(size: int) -> int:
    """The octets that base64 makes of `size` octets, line ends included."""
    whole, rest = divmod(size, BASE64_LINE)
    return whole * 78 + ((rest + 2) // 3 * 4 + 2 if rest else 0)


def _pieces(part: Part) -> Iterator[bytes]:
    with part.open() as file:
        while piece := file.read(PIECE):
            yield piece


def base64_lines(octets: bytes) -> bytes:
    """The octets in base64, in lines of 76 characters (RFC 2045 §6.8)."""
    encoded = base64.b64encode(octets)
    lines = [encoded[place : place + 76] for place in range(0, len(encoded), 76)]
    return b"\r\n".join([*lines, b""])


def _attachment_fields(attachment: Attachment) -> bytes:
    name = attachment.name
    text = (
        f"Content-Type: {attachment.type}{encode_parameter('name', name) if name.isascii() else ''}\r\n"
        f"Content-Transfer-Encoding: {attachment.encoding}\r\n"
    )
    text += f"Content-ID: <{attachment.cid}>\r\n" if attachment.cid else ""
    shown = attachment.cid or attachment.type == "message/rfc822"
    text += f"Content-Disposition: {'inline' if shown else 'attachment'}{encode_parameter('filename', name)}\r\n"
    return text.encode("ascii")
