"""The octets of POP3: the endings of multi-line replies, dot-stuffing, the cut of TOP, challenges and capabilities.

ABNF of a multi-line reply (RFC 2449 §3):

    multi-line  =  single-line *dot-stuffed "." CRLF
    dot-stuffed =  *CHAR CRLF
    capability  =  capa-tag *(SP param) CRLF
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from posthouse.mail.lines import double_dots
from posthouse.sasl.mechanisms import encode_line

END: Final = b".\r\n"


def stuff(message: bytes, head: bytes = b"") -> list[bytes]:
    """A whole message as it stands in a reply, behind the reply's first line, with the lone dot that ends it; in
    pieces, which are joined when they leave.

    A dot is added after every line feed that a dot follows, whether a carriage return came before it or not, so
    that no reader of lines can take a line of the message for the end of the reply. RFC 1939 §3.
    """
    stuffed = double_dots(message)
    if message.startswith(b"."):
        stuffed = b"." + stuffed
    end = END if message.endswith(b"\r\n") or not message else b"\r\n" + END
    return [head, stuffed, end]


class Stuffer:
    """The same for a message that comes in pieces cut anywhere, in constant memory."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = b"\r\n"  # the last two octets so far

    def add(self, piece: bytes) -> bytes:
        """The piece as it goes on the wire."""
        if not piece:
            return b""
        stuffed = double_dots(piece)
        if self._last.endswith(b"\n") and piece.startswith(b"."):
            stuffed = b"." + stuffed
        self._last = piece[-2:] if len(piece) > 1 else self._last[-1:] + piece
        return stuffed

    def end(self) -> bytes:
        """What ends the reply: the lone dot, after the last line's end where that is missing."""
        return END if self._last == b"\r\n" else b"\r\n" + END


class TopCut:
    """Lets the header of a message, the empty line and the first lines of the body pass. RFC 1939 §7, TOP.

    Feed it pieces cut anywhere until `done`; what follows need not even be read.
    """

    __slots__ = ("_left", "_tail", "done")

    def __init__(self, lines: int) -> None:
        self._left = lines
        self._tail: bytes | None = b"\n"  # the last octets of the header so far; None once in the body
        self.done = False

    def add(self, piece: bytes) -> bytes:
        """As much of the piece as belongs to the top."""
        start = 0
        if self._tail is not None:
            start = self._header_end(piece)
            if self._tail is not None:
                return piece
        count = piece.count(b"\n", start)
        if count < self._left:
            self._left -= count
            return piece
        self.done = True
        return piece[: _line_end(piece, start, self._left)]

    def _header_end(self, piece: bytes) -> int:
        """Where the body begins in this piece, if the empty line ends in it."""
        assert self._tail is not None, "only asked while in the header"
        text = self._tail + piece
        ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := text.find(mark)) >= 0]
        if not ends:
            self._tail = text[-2:]
            return 0
        end = min(ends) - len(self._tail)
        self._tail = None
        return end


def _line_end(piece: bytes, start: int, lines: int) -> int:
    """The offset behind the n-th line feed from `start` on, which the piece has; halving instead of stepping."""
    if lines == 0:
        return start
    low, high = start, len(piece)
    while high - low > 1:
        middle = (low + high) // 2
        count = piece.count(b"\n", low, middle)
        if count >= lines:
            high = middle
        else:
            lines -= count
            low = middle
    return high


def challenge(octets: bytes) -> bytes:
    """A challenge of AUTH; the blank stands even before an empty one. RFC 5034 §4."""
    return b"+ " + encode_line(octets) + b"\r\n"


def capabilities(*, tls: bool, mechanisms: Sequence[str], implementation: str) -> list[str]:
    """The lines of CAPA. `mechanisms` are those by which this peer may log in with what the connection is now, none
    when it may not; `tls` says whether it may go over to TLS (RFC 2595 §4).

    Every line is the same in both states, as RFC 2449 §5 wants it of what is announced before the login; what a
    later TLS changes are the mechanisms and `tls`. No APOP line exists (RFC 2449 §6): its sign is a timestamp in the
    greeting.
    """
    lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "UTF8 USER"]
    if mechanisms:
        lines[1:1] = ["USER", " ".join(("SASL", *mechanisms))]
    if tls:
        lines.append("STLS")
    return [*lines, f"IMPLEMENTATION {implementation}"]


def lines(texts: Sequence[str]) -> bytes:
    """The lines of a multi-line reply that need no stuffing, with the dot that ends them."""
    return "".join(f"{text}\r\n" for text in texts).encode("ascii") + END
