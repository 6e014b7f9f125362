"""Line ends: what leaves this machine has CRLF only."""

from __future__ import annotations


def whole_lines(octets: bytes) -> bytes:
    """Bare LF and bare CR become CRLF (RFC 5321 §2.3.8: neither may be sent). A CR at the end counts as bare."""
    if octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r"):
        return octets
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


class LineEnds:
    """The same for a text that comes in pieces cut anywhere, in constant memory."""

    __slots__ = ("_carriage", "line_start")

    def __init__(self) -> None:
        self._carriage = False  # the last piece ended with CR, which leaves with the next one
        self.line_start = True  # whether the last line is ended, so far

    def add(self, octets: bytes) -> bytes:
        """The piece with CRLF line ends."""
        if not octets:
            return b""
        if self._carriage:
            octets = b"\r" + octets
        self._carriage = octets.endswith(b"\r")
        if self._carriage:
            octets = octets[:-1]
        if octets:
            self.line_start = octets.endswith(b"\n")
        return whole_lines(octets)

    def end(self) -> bytes:
        """The end of the last line, when it is missing."""
        missing = self._carriage or not self.line_start
        self._carriage, self.line_start = False, True
        return b"\r\n" if missing else b""
