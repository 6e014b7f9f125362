"""What about a letter decides how it may travel: octets beyond ASCII, where they stand, and long lines."""

from __future__ import annotations

from typing import Final

from posthouse.mail.header import body_offset

LONGEST: Final = 1_000  # octets of a line, with CRLF: RFC 5321 §4.5.3.1.6, RFC 5322 §2.1.1


class Traits:
    """Looks at a letter that comes in pieces cut anywhere, in constant memory. `eight_bit`: it holds octets over 127
    (RFC 6152 §3); `header`: some of them before its first empty line (RFC 6532); `long_lines`: it has a line of more
    than 998 octets."""

    __slots__ = ("_column", "_held", "_in_header", "eight_bit", "header", "long_lines")

    def __init__(self) -> None:
        self.eight_bit = self.header = self.long_lines = False
        self._in_header = True
        self._held = b"\r\n"  # a message may begin with the empty line
        self._column = 0

    @classmethod
    def of(cls, octets: bytes) -> Traits:
        """Those of a letter that is at hand."""
        traits = cls()
        traits.eight_bit = not octets.isascii()
        if traits.eight_bit:
            end = body_offset(octets)
            traits.header = not octets[: end if end >= 0 else len(octets)].isascii()
        traits._measure(octets)
        return traits

    def add(self, piece: bytes) -> None:
        """The next octets."""
        if not piece.isascii():
            self.eight_bit = True
        if self._in_header:
            self._look_at_header(piece)
        if not self.long_lines:
            self._measure(piece)

    def _look_at_header(self, piece: bytes) -> None:
        octets = self._held + piece
        end = octets.find(b"\r\n\r\n")
        self._in_header = end < 0
        self._held = octets[-3:]
        if not (octets if end < 0 else octets[:end]).isascii():
            self.header = True

    def _measure(self, piece: bytes) -> None:
        """Goes from line end to line end in steps as long as a line may be, so that few of the lines are looked at."""
        start = -self._column  # where the present line began
        while (end := piece.rfind(b"\n", max(start, 0), start + LONGEST)) >= 0:
            start = end + 1
        self._column = len(piece) - start
        self.long_lines = self._column >= LONGEST
