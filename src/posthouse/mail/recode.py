"""A letter rewritten for a host that does not take it as it is: octets over 127 encoded for one without 8BITMIME
(RFC 6152 §3, RFC 2045 §6), lines of more than 998 octets broken (RFC 5321 §4.5.3.1.6).

Parts whose octets may pass are left octet for octet, whatever is in them. What is signed is not rewritten.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from posthouse.mail.compose import base64_lines
from posthouse.mail.downgrade import Downgrade
from posthouse.mail.header import Header
from posthouse.mail.lines import whole_lines
from posthouse.mail.mime import HEADER, IDENTITY, PIECE, Octets, Part, decoded, parse
from posthouse.mail.traits import LONGEST, Traits

ENCODED: Final = ("base64", "quoted-printable")
_QUESTION: Final = bytes(c if c < 0x80 else 0x3F for c in range(256))
_ASCII: Final = bytes(range(128))
QUOTED_LINE: Final = 76  # characters of a line, RFC 2045 §6.7
_BASE64_WHOLE: Final = 57 * 1024  # octets that make whole lines


class Unconvertible(Exception):
    """The letter cannot be rewritten without breaking it. `signed` when the reason is a signature."""

    def __init__(self, text: str, *, signed: bool = False) -> None:
        super().__init__(text)
        self.signed = signed


@dataclass(slots=True)
class _Change:
    """From `start` to `end` something else shall stand: a part's header (`encoding` "" leaves its transfer encoding),
    or its body."""

    start: int
    end: int
    part: Part
    encoding: str
    within: Part | None = None  # for a header: the part that this one is of
    body: bool = False


def recode(octets: Octets, *, seven_bit: bool) -> Iterator[bytes]:
    """The rewritten letter in pieces: without octets over 127 if it must be `seven_bit`, without long lines anyhow.

    Takes as long as the letter is large: for a thread. Raises Unconvertible, before the first piece.
    """
    changes = sorted(_changes(octets, seven_bit), key=lambda change: change.start)
    return _written(octets, changes, seven_bit)


def _written(octets: Octets, changes: list[_Change], seven_bit: bool) -> Iterator[bytes]:
    place = 0
    for change in changes:
        yield from _between(octets, place, change.start, seven_bit)
        if change.body:
            yield from _body(octets, change.part, change.encoding)
        else:
            yield _header(octets, change, seven_bit)
        place = change.end
    yield from _between(octets, place, len(octets), seven_bit)


# What is changed


def _changes(octets: Octets, seven_bit: bool) -> Iterator[_Change]:
    root = parse(octets)
    signed = any(name == "dkim-signature" for name, _ in root.fields)
    pending: list[tuple[Part, Part | None, bool]] = [(root, None, signed)]
    while pending:
        part, within, sealed = pending.pop()
        sealed = sealed or part.type == "multipart/signed"
        found = list(_changes_of(octets, part, within, seven_bit))
        if found and sealed:
            raise Unconvertible("it is signed, and rewriting it would break the signature", signed=True)
        yield from found
        pending += [(child, part, sealed) for child in part.children]


def _changes_of(octets: Octets, part: Part, within: Part | None, seven_bit: bool) -> Iterator[_Change]:
    if part.children:
        if seven_bit and not part.parameters.get("boundary", "").isascii():
            raise Unconvertible("the boundary between its parts is not ASCII")
        # What is in it will be: a declaration of 8bit would be untrue (RFC 2045 §6.4).
        encoding = "7bit" if seven_bit and part.encoding in ("8bit", "binary") else ""
    else:
        encoding = _wanted_encoding(octets, part, seven_bit)
        if encoding:
            yield _Change(part.body, part.end, part, encoding, body=True)
    if encoding or _unfit(octets, part.start, part.body, seven_bit):
        if part.body - part.start > HEADER:
            raise Unconvertible("the header of a part is too large")
        yield _Change(part.start, part.body, part, encoding, within)


def _unfit(octets: Octets, start: int, end: int, seven_bit: bool) -> bool:
    traits = Traits()
    for place in range(start, end, PIECE):
        traits.add(octets[place : min(place + PIECE, end)])
    return traits.long_lines or (seven_bit and traits.eight_bit)


def _wanted_encoding(octets: Octets, part: Part, seven_bit: bool) -> str:
    """The encoding that the body of a part without parts gets; "" when it may stay."""
    if not _unfit(octets, part.body, part.end, seven_bit):
        return ""
    if part.encoding in ENCODED:
        return part.encoding  # written wrongly: what can be read of it is written anew
    if part.encoding not in IDENTITY:
        raise Unconvertible("a part has an encoding that nobody knows")
    if part.type.startswith("multipart/") or part.type in ("message/rfc822", "message/partial"):
        raise Unconvertible("a part that must not be encoded holds what must be (RFC 2045 §6.4)")
    if not part.type.startswith(("text/", "message/")):
        return "base64"
    beyond = sum(len(piece.translate(None, _ASCII)) for piece in decoded(octets, part))
    # Beyond a sixth of such octets quoted-printable is the longer one.
    return "base64" if 6 * beyond > part.end - part.body else "quoted-printable"


# How it is written


def _header(octets: Octets, change: _Change, seven_bit: bool) -> bytes:
    part = change.part
    source = octets[part.start : part.body]
    if change.encoding:
        source = _with_encoding(octets, source, change)
    if seven_bit and not source.isascii():
        downgrade = Downgrade()
        source = downgrade.add(source) + downgrade.end()
    return _broken(source, 0, b"\r\n ")[0]


def _with_encoding(octets: Octets, source: bytes, change: _Change) -> bytes:
    """The header with the encoding of the body, and what makes it count (RFC 2045 §4)."""
    header = Header(source, limit=HEADER)
    kept = [header.octets(field) for field in header if field.name.lower() != "content-transfer-encoding"]
    names = {field.name.lower() for field in header}
    if change.within is None or change.within.type == "message/rfc822":
        if "mime-version" not in names:
            kept.append(b"MIME-Version: 1.0\r\n")
        if "content-type" not in names and change.body is False and not change.part.children:
            kept.append(b"Content-Type: text/plain; charset=%b\r\n" % _charset(octets, change.part))
    kept.append(b"Content-Transfer-Encoding: %b\r\n" % change.encoding.encode("ascii"))
    return b"".join(kept) + b"\r\n"


def _charset(octets: Octets, part: Part) -> bytes:
    """What a text is in that does not say it: UTF-8 if it can be, else nobody knows (RFC 1428 §3)."""
    characters = b"".join(decoded(octets, part)) if part.end - part.body <= HEADER else b""
    try:
        characters.decode("utf-8")
    except UnicodeDecodeError:
        return b"unknown-8bit"
    return b"utf-8" if characters else b"unknown-8bit"


def _body(octets: Octets, part: Part, encoding: str) -> Iterator[bytes]:
    content = decoded(octets, part)
    if encoding == "base64":
        rest = b""
        for piece in content:
            rest += piece
            whole = len(rest) - len(rest) % _BASE64_WHOLE
            yield base64_lines(rest[:whole]) if whole else b""
            rest = rest[whole:]
        yield base64_lines(rest) if rest else b""
        return
    yield from _quoted(content)


def _quoted(content: Iterator[bytes]) -> Iterator[bytes]:
    """Quoted-printable in pieces: whole lines, or a soft line break where a line is longer than a piece."""
    rest = b""
    for piece in content:
        rest += piece
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield _quote(rest[:cut])
        elif len(rest) >= PIECE:
            cut = len(rest) - rest.endswith(b"\r")
            yield _soft(_quote(rest[:cut]))
        rest = rest[cut:]
    yield _quote(rest)


def _quote(octets: bytes) -> bytes:
    return whole_lines(binascii.b2a_qp(whole_lines(octets), istext=True))


def _soft(quoted: bytes) -> bytes:
    """The same with a soft line break at its end, which keeps the last line within 76 characters (RFC 2045 §6.7)."""
    if len(quoted) - quoted.rfind(b"\n") - 1 < QUOTED_LINE:
        return quoted + b"=\r\n"
    place = len(quoted) - 3
    while b"=" in quoted[place - 2 : place]:
        place -= 1
    return quoted[:place] + b"=\r\n" + quoted[place:] + b"=\r\n"


def _between(octets: Octets, start: int, end: int, seven_bit: bool) -> Iterator[bytes]:
    """What is no part (boundaries and what stands around them), or a part that may stay."""
    column = 0
    for place in range(start, end, PIECE):
        piece = octets[place : min(place + PIECE, end)]
        if seven_bit and not piece.isascii():
            piece = piece.translate(_QUESTION)
        piece, column = _broken(piece, column, b"\r\n")
        yield piece


def _broken(octets: bytes, column: int, joint: bytes) -> tuple[bytes, int]:
    """The octets with lines of at most 998; the first of them begins at a `column`. Returns the last column too."""
    lines = octets.split(b"\n")
    if column + max(map(len, lines)) >= LONGEST:
        lines[0] = _broken_line(lines[0], LONGEST - 2 - column, joint)
        lines[1:] = [_broken_line(line, LONGEST - 2, joint) for line in lines[1:]]
        octets = b"\n".join(lines)
    end = octets.rfind(b"\n") + 1
    return octets, len(octets) - end + (0 if end else column)


def _broken_line(line: bytes, room: int, joint: bytes) -> bytes:
    """At a blank, where there is one near the end: a folded field stays what it was (RFC 5322 §2.2.3)."""
    pieces: list[bytes] = []
    while len(line) - line.endswith(b"\r") > room:
        room = max(room, 0)
        blank = line.rfind(b" ", room // 2, room)
        cut = blank if blank > 0 else room
        pieces.append(line[:cut])
        line = line[cut + (blank > 0 and joint.endswith(b" ")) :]
        room = LONGEST - 2 - 1
    return joint.join([*pieces, line])
