"""The parts of a message: a tree of offsets, found without recursion and within bounds (RFC 2045, RFC 2046).

The reader takes any message a stranger sends. What breaks the rules, or the bounds, is shown as plain content
instead of being refused.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol, overload

from posthouse.mail.charsets import HARMFUL, decoder
from posthouse.mail.encoded import decode_field, parse_parameters
from posthouse.mail.header import Header

DEPTH: Final = 100  # parts within parts
PARTS: Final = 10_000  # of one message
HEADER: Final = 1_048_576  # octets of one part's header that are looked at
FIELDS: Final = 2_000  # of one header
SEARCH: Final = 16  # times the message's length that may be searched for boundaries in all
BOUNDARY: Final = 200  # octets; RFC 2046 §5.1.1 allows 70
PIECE: Final = 65_536  # octets decoded at a time


class Octets(Protocol):
    """A message in memory or in a file that is mapped into it."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, place: int, /) -> int: ...

    @overload
    def __getitem__(self, places: slice, /) -> bytes: ...

    def __getitem__(self, place: int | slice, /) -> int | bytes: ...

    def find(self, octets: bytes, start: int = ..., end: int = ..., /) -> int:
        """As bytes.find."""
        ...


@dataclass(slots=True)
class Part:
    """One part, by its offsets in the message: its header begins at `start`, its body at `body`, it ends before `end`.
    `type` is the media type in small letters, `fields` name (small letters) and unfolded value of each header field."""

    start: int
    body: int
    end: int
    depth: int = 0
    type: str = "text/plain"
    parameters: dict[str, str] = field(default_factory=dict)
    encoding: str = "7bit"
    disposition: str = ""
    filename: str = ""
    fields: list[tuple[str, bytes]] = field(default_factory=list)
    children: list[Part] = field(default_factory=list)

    @property
    def charset(self) -> str:
        """The declared charset."""
        return self.parameters.get("charset", "us-ascii").strip()

    def get(self, name: str) -> str:
        """The value of the first field of this name, decoded for people, "" when there is none."""
        value = next((value for key, value in self.fields if key == name), None)
        return "" if value is None else decode_field(value, self.charset)


def parse(octets: Octets) -> Part:
    """The tree of a message's parts."""
    root = _read(octets, 0, len(octets), 0, "text/plain")
    pending = [root]
    count = 1
    budget = SEARCH * len(octets) + 65_536
    while pending:
        part = pending.pop()
        if part.depth >= DEPTH or count >= PARTS or budget < 0:
            continue
        budget -= part.end - part.body
        if part.type.startswith("multipart/"):
            inner = "message/rfc822" if part.type == "multipart/digest" else "text/plain"
            for start, end in _split(octets, part, PARTS - count):
                part.children.append(_read(octets, start, end, part.depth + 1, inner))
        elif part.type == "message/rfc822" and part.encoding in IDENTITY:
            part.children.append(_read(octets, part.body, part.end, part.depth + 1, "text/plain"))
        count += len(part.children)
        pending += part.children
    return root


IDENTITY: Final = ("7bit", "8bit", "binary", "")


def _read(octets: Octets, start: int, end: int, depth: int, usual: str) -> Part:
    """A part with its header read, without its children."""
    body = _header_end(octets, start, end)
    part = Part(start, body, end, depth, usual)
    part.fields = _fields(octets[start : min(body, start + HEADER)])
    if not part.fields and octets[start : start + 1] not in (b"\r", b"\n"):
        part.body = start  # what has no header field is no header, and must not vanish
    values = dict(reversed(part.fields))  # of a repeated field the first one counts
    if (value := values.get("content-type")) is not None:
        kind, part.parameters = parse_parameters(value)
        part.type = kind if _TYPE.fullmatch(kind) else "text/plain"  # RFC 2045 §5.2
    part.encoding = _word(values.get("content-transfer-encoding", b""))
    if (value := values.get("content-disposition")) is not None:
        part.disposition, parameters = parse_parameters(value)
        part.filename = parameters.get("filename", "")
    part.filename = part.filename or part.parameters.get("name", "")
    return part


_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}")


def _word(value: bytes) -> str:
    words = value[:200].split()
    return words[0].decode("ascii", "replace").lower() if words else ""


def _header_end(octets: Octets, start: int, end: int) -> int:
    """Where the body begins: after the first empty line, at the end when there is none."""
    if octets[start : start + 1] == b"\n":
        return min(start + 1, end)
    if octets[start : start + 2] == b"\r\n":
        return min(start + 2, end)
    places = [place + len(mark) for mark in (b"\n\r\n", b"\n\n") if (place := octets.find(mark, start, end)) >= 0]
    return min(places, default=end)


def _fields(header: bytes) -> list[tuple[str, bytes]]:
    """Name in small letters and unfolded value of each field. Lines that are none are left out."""
    reader = Header(header, limit=HEADER)
    return [(field.name.lower(), reader.value(field)) for field in islice(reader, FIELDS) if field.name]


def _split(octets: Octets, part: Part, most: int) -> list[tuple[int, int]]:
    """The places of a multipart's parts (RFC 2046 §5.1.1). What stands before and after them is left out."""
    boundary = part.parameters.get("boundary", "").rstrip().encode("utf-8", "surrogateescape")
    if not 0 < len(boundary) <= BOUNDARY or b"\n" in boundary:
        return []
    mark = b"--" + boundary
    places: list[tuple[int, int]] = []
    start = -1
    place = part.body if octets[part.body : part.body + len(mark)] == mark else _find(octets, mark, part.body, part.end)
    while place >= 0 and len(places) < most:
        line_end = octets.find(b"\n", place, part.end)
        line_end = part.end if line_end < 0 else line_end + 1
        rest = octets[place + len(mark) : min(line_end, place + len(mark) + 100)]
        if rest.removeprefix(b"--").strip() == b"":
            if start >= 0:
                places.append((start, max(start, _before_line_end(octets, start, place))))
            start = line_end
            if rest.startswith(b"--"):
                return places
        place = _find(octets, mark, line_end - 1, part.end)
    if 0 <= start < part.end and len(places) < most:
        places.append((start, part.end))  # the end is missing: it was cut off
    return places


def _find(octets: Octets, mark: bytes, start: int, end: int) -> int:
    """The next place of the mark at the beginning of a line."""
    place = octets.find(b"\n" + mark, max(start, 0), end)
    return place + 1 if place >= 0 else -1


def _before_line_end(octets: Octets, start: int, place: int) -> int:
    """The line end before a boundary belongs to the boundary."""
    if octets[max(start, place - 2) : place] == b"\r\n":
        return place - 2
    return place - 1 if octets[max(start, place - 1) : place] == b"\n" else place


# Contents


def decoded(octets: Octets, part: Part) -> Iterator[bytes]:
    """The content of a part without its transfer encoding, in pieces. What is wrongly encoded comes as far as it can
    be read (RFC 2045 §6)."""
    if part.encoding == "base64":
        return _from_base64(octets, part)
    if part.encoding == "quoted-printable":
        return _from_quoted(octets, part)
    return _pieces(octets, part)


def _pieces(octets: Octets, part: Part) -> Iterator[bytes]:
    for place in range(part.body, part.end, PIECE):
        yield octets[place : min(place + PIECE, part.end)]


def _from_base64(octets: Octets, part: Part) -> Iterator[bytes]:
    rest = b""
    for piece in _pieces(octets, part):
        digits, padding, _ = piece.partition(b"=")
        rest += digits.translate(None, _NOT_DIGITS)
        whole = len(rest) - len(rest) % 4
        yield binascii.a2b_base64(rest[:whole])
        rest = rest[whole:]
        if padding:
            break  # what follows the padding is not part of it, such as a list's footer
    if len(rest) > 1:
        yield binascii.a2b_base64(rest + b"=" * (4 - len(rest)))


_NOT_DIGITS: Final = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def _from_quoted(octets: Octets, part: Part) -> Iterator[bytes]:
    rest = b""
    for piece in _pieces(octets, part):
        rest += piece
        # Whole lines, or all but what may be the beginning of an encoded octet or a soft line break.
        cut = rest.rfind(b"\n") + 1 or (rest.rfind(b"=", max(0, len(rest) - 3)) if b"=" in rest[-3:] else len(rest))
        yield binascii.a2b_qp(rest[:cut])
        rest = rest[cut:]
    yield binascii.a2b_qp(rest)


def text_of(octets: Octets, part: Part) -> Iterator[str]:
    """The text of a part in pieces, decoded from its charset, lines ended by "\\n". Not made harmless yet."""
    characters = decoder(part.charset)
    held = False
    for piece in decoded(octets, part):
        text = characters.decode(piece)
        if held:
            text = "\r" + text
        held = text.endswith("\r")
        yield (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n")
    yield characters.decode(b"", True) + ("\n" if held else "")


# Names


def safe_name(name: str, number: int, extension: str = ".bin") -> str:
    """A name under which a part can be saved in any folder of any system: no path, nothing hidden, no option of a
    command, nothing that deceives, at most 120 octets."""
    base = re.split(r"[/\\]", name)[-1]
    base = _UNSAFE.sub("_", base).strip(" .")
    if not base or base.split(".")[0].rstrip().upper() in _DEVICES:
        base = f"attachment-{number}{extension if not base else '-' + base}"
    if base.startswith("-"):  # `rm *` would take it for an option
        base = f"_{base}"
    stem, dot, ending = base.rpartition(".")
    if not dot or len(ending) > 20:
        stem, ending = base, ""
    while len((stem + ending).encode()) > 118:
        stem = stem[:-1]
    return f"{stem}.{ending}" if ending else stem.rstrip(" .")


_UNSAFE: Final = re.compile(f'{HARMFUL}|[\n\t<>:"|?*\u200c\u200d\u2800\ufe00-\ufe0f\ufffc-\uffff]')
# Superscript digits count as digits there (Microsoft, "Naming Files, Paths, and Namespaces").
_DEVICES: Final = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{device}{digit}" for device in ("COM", "LPT") for digit in "123456789¹²³"
}
