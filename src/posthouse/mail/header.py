"""Reading a message's header: where its fields stand and what they hold, octet for octet.

Iterative, lazy and bounded: nothing is parsed before it is asked for, a header of any form has some reading, and
what is read can be given back unchanged. The standard library's parser is never used on what came from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from posthouse.mail.limits import HEADER

FIELDS: Final = 100_000  # fields that are looked at
_FIELD_END: Final = re.compile(rb"\n(?![ \t])")
_FOLD: Final = re.compile(rb"\r?\n(?=[ \t])")
_NAME: Final = re.compile(rb"[!-9;-~]+")  # RFC 5322 §3.6.8: printable ASCII without the colon


@dataclass(slots=True)
class Field:
    """One header field. `start` and `end` are offsets into the message, CRLF included; `value` is the offset behind
    the colon. A line that is no field has an empty `name` and its `value` at `start`."""

    name: str
    start: int
    value: int
    end: int


def body_offset(octets: bytes, start: int = 0) -> int:
    """The offset behind the empty line that ends the header; -1 when there is none. RFC 5322 §2.1.

    An empty line may end with a bare LF; a message may begin with it, and then has no header.
    """
    for mark in (b"\r\n", b"\n"):
        if octets.startswith(mark, start):
            return start + len(mark)
    crlf, lf = octets.find(b"\n\r\n", start), octets.find(b"\n\n", start)
    if lf >= 0 and (crlf < 0 or lf < crlf):
        return lf + 2
    return crlf + 3 if crlf >= 0 else -1


def unfold(value: bytes) -> bytes:
    """A value on one line: line ends before a blank or tab go, the blank stays. RFC 5322 §2.2.3."""
    return _FOLD.sub(b"", value).rstrip(b"\r\n")


class Header:
    """The header of a message. `octets` may hold the body too, or only a part of the header."""

    __slots__ = ("_body", "_fields", "_octets", "_rest")

    def __init__(self, octets: bytes, *, limit: int = HEADER) -> None:
        self._octets = octets
        end = body_offset(octets[:limit] if len(octets) > limit else octets)
        self._body = end if end >= 0 else min(len(octets), limit)
        self._fields: list[Field] = []
        self._rest = _scan(octets, self._body)

    @property
    def body(self) -> int:
        """The offset of the body."""
        return self._body

    def __iter__(self) -> Iterator[Field]:
        """The fields in their order; those found once are not looked for again."""
        yield from self._fields
        for field in self._rest:
            self._fields.append(field)
            yield field

    def octets(self, field: Field) -> bytes:
        """The whole field as it stands."""
        return self._octets[field.start : field.end]

    def value(self, field: Field) -> bytes:
        """The value of a field, unfolded, without blanks at its ends."""
        return unfold(self._octets[field.value : field.end]).strip(b" \t")

    def all(self, name: str) -> list[bytes]:
        """The values of all fields of this name, any case."""
        wanted = name.lower()
        return [self.value(field) for field in self if field.name.lower() == wanted]

    def get(self, name: str) -> bytes | None:
        """The value of the first field of this name, any case; None when there is none."""
        wanted = name.lower()
        return next((self.value(field) for field in self if field.name.lower() == wanted), None)


def _scan(octets: bytes, stop: int) -> Iterator[Field]:
    start = 0
    for _ in range(FIELDS):
        found = _FIELD_END.search(octets, start, stop)
        end = found.end() if found is not None else stop
        if end <= start or octets.startswith((b"\r\n", b"\n"), start):
            return  # the empty line
        yield split(octets, start, end)
        start = end


def split(octets: bytes, start: int, end: int) -> Field:
    """The field that stands from `start` to `end`."""
    name = _NAME.match(octets, start, end)
    if name is None:
        return Field("", start, start, end)
    colon = name.end()
    # RFC 5322 §4.5: obsolete syntax has blanks before the colon.
    while colon < end and octets[colon] in b" \t":
        colon += 1
    if octets[colon : colon + 1] != b":":
        return Field("", start, start, end)
    return Field(name.group().decode("ascii"), start, colon + 1, end)
