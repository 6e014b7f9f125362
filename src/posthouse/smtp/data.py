"""The content of a message as it arrives: DATA up to its last dot, BDAT chunk by chunk.

Chunks are worked on as a whole: no loop runs over lines. Only CRLF.CRLF ends DATA, whatever else is in it, so no
other form of line end can smuggle a second message past us (RFC 5321 §4.1.1.4). What may not be in a message is
found here, at its first octet, however the octets were cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from posthouse.mail.lines import only_crlf
from posthouse.mail.reply import Reply, Smtp

END: Final = b"\r\n.\r\n"
_STUFFED: Final = b"\r\n."
_LINE_DOT: Final = re.compile(re.escape(_STUFFED))  # found so twice as fast as by bytes.find
_BAD: Final = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")
_BAD_BUT_LF: Final = re.compile(rb"\0|\r(?!\n)")
_FAILURES: Final = {b"\0": Smtp.HAS_NUL, b"\r": Smtp.BARE_CR, b"\n": Smtp.BARE_LF}


def clean(octets: bytes) -> bool:
    """Whether CR and LF come only as CRLF and NUL not at all. Must not begin with the LF of a CRLF cut in two."""
    return only_crlf(octets) and b"\0" not in octets


@dataclass(slots=True)
class Content:
    """Checks and counts the octets of one message. `failure` is the reply for the first thing wrong with it; after
    that nothing more passes. With `normalize`, a bare LF becomes CRLF instead of a failure (reliability F1)."""

    limit: int
    normalize: bool = False
    size: int = 0
    failure: Reply | None = None

    def take(self, piece: bytes) -> bytes:
        """The octets to keep of a piece that cuts no CRLF in two."""
        if self.failure is not None or not piece:
            return b""
        if not clean(piece):
            piece = self._mend(piece)
        self.size += len(piece)
        if self.size > self.limit:
            self.failure = Smtp.TOO_BIG.fill(limit=self.limit)
        return b"" if self.failure is not None else piece

    def _mend(self, piece: bytes) -> bytes:
        """Normalizes what may be normalized; notes the first octet that may not be there."""
        bad = (_BAD_BUT_LF if self.normalize else _BAD).search(piece)
        if bad is None:
            return _crlf(piece)
        before = piece[: bad.start()]
        if self.size + len(_crlf(before)) <= self.limit:
            self.failure = _FAILURES[bad[0]]
            return b""
        return _crlf(before)


def _crlf(piece: bytes) -> bytes:
    return piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


class DataReader:
    """Reads the content that follows DATA, takes away its dot-stuffing and finds its end (RFC 5321 §4.5.2).

    Dots are taken away only after CRLF: a line that a bare LF began keeps its own, as whoever writes bare LF was
    seen not to stuff, and nothing may be lost.
    """

    __slots__ = ("_first", "_held", "_most", "content", "overrun", "received")

    def __init__(self, content: Content) -> None:
        self.content = content
        self.received = 0  # octets used up, with stuffing and end
        self.overrun = False  # far beyond the limit without an end: not worth to be read to the end
        # What follows the line end of the DATA command begins a line, so "." CRLF at once is an empty message.
        self._held = b"\r\n"
        self._first = True
        self._most = 2 * content.limit + 1_048_576

    def feed(self, octets: bytes) -> tuple[bytes, int]:
        """Takes the next octets. Returns what is to be kept of them, and how many were used when the message ended
        within them, -1 when it goes on (then all were)."""
        held = len(self._held)
        buffer = self._held + octets
        dot = _first_line_dot(buffer)
        end = buffer.find(END, dot) if dot >= 0 else -1
        if end >= 0:
            used = end + len(END) - held
            piece, self._held = buffer[: end + 2], b""
        else:
            used = -1
            keep = _open_end(buffer)
            piece, self._held = buffer[: len(buffer) - keep], buffer[len(buffer) - keep :]
        self.received += len(octets) if used < 0 else used
        self.overrun = self.received > self._most
        if dot >= 0 and dot != end:
            piece = piece.replace(_STUFFED, b"\r\n")
        if self._first and piece:
            self._first = False
            piece = piece[2:]
        return self.content.take(piece), used


def _first_line_dot(buffer: bytes) -> int:
    """Where the first CRLF with a dot behind it stands, -1 for nowhere.

    One octet is found 30 times as fast as three, and nearly every message has its last dots at its end and the others
    in its header: so the octets behind the last dot but one are never searched for three.
    """
    last = buffer.rfind(b".")
    before = buffer.rfind(b".", 0, last) if last > 0 else -1
    if before >= 0 and (found := _LINE_DOT.search(buffer, 0, before + 1)) is not None:
        return found.start()
    return last - 2 if last >= 2 and buffer.startswith(_STUFFED, last - 2) else -1


def _open_end(buffer: bytes) -> int:
    """How many of the last octets may be the beginning of the end."""
    for length in range(4, 0, -1):
        if buffer.endswith(END[:length]):
            return length
    return 0


class ChunkReader:
    """Reads the chunks of one message that comes by BDAT: counted, never unstuffed (RFC 3030 §2).

    Chunks may be cut anywhere, also between CR and LF.
    """

    __slots__ = ("_carriage", "content", "left")

    def __init__(self, content: Content) -> None:
        self.content = content
        self.left = 0  # octets of the present chunk still to come
        self._carriage = False

    def begin(self, size: int) -> None:
        """A chunk of `size` octets follows."""
        self.left = size

    def feed(self, octets: bytes) -> tuple[bytes, int]:
        """Takes the next octets. Returns what is to be kept, and how many of them belonged to the chunk."""
        used = min(self.left, len(octets))
        self.left -= used
        piece = octets if used == len(octets) else octets[:used]
        if self._carriage and piece:
            piece = b"\r" + piece
            self._carriage = False
        if piece.endswith(b"\r"):
            self._carriage = True
            piece = piece[:-1]
        return self.content.take(piece), used

    def end(self) -> None:
        """The last chunk is complete: a CR that was held back had no LF."""
        if self._carriage and self.content.failure is None:
            self.content.failure = Smtp.BARE_CR
