"""The client's side of SMTP: commands out, replies in, no input or output of its own (RFC 5321 §4.2).

One reader of replies for every server: lines cut anywhere, replies of many lines, enhanced status codes, and a
bound on all of it, so that a server that babbles costs neither memory nor patience.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from posthouse.mail.lines import LineEnds, double_dots
from posthouse.mail.reply import PeerError, Reply

LINE: Final = 8_192  # octets of one reply line; RFC 5321 §4.5.3.1.5 says 512, servers with long texts exist
REPLY: Final = 131_072  # octets of one whole reply
BEFORE_LOST: Final = 200  # octets of a bad line that are repeated to the user

_REPLY_LINE: Final = re.compile(rb"[2-5][0-9]{2}(?:[ -]|\Z)")
_ENHANCED: Final = re.compile(rb"[2-5](?:\.[0-9]{1,3}){2}(?= |\Z)")

Tap = Callable[[bytes, bool], None]


class Command(Protocol):
    """Anything that can be sent and has one reply."""

    def encode(self) -> bytes:
        """The octets on the wire, CRLF included."""
        ...


@dataclass(slots=True)
class Answer:
    """One whole reply of a server. `lines` are its lines as they came, without their ends; `status` is the
    enhanced status code or "" (RFC 2034)."""

    code: int
    status: str
    lines: list[bytes]

    @property
    def positive(self) -> bool:
        """2xx: done."""
        return self.code // 100 == 2

    @property
    def intermediate(self) -> bool:
        """3xx: go on."""
        return self.code // 100 == 3

    @property
    def temporary(self) -> bool:
        """4xx: not now."""
        return self.code // 100 == 4

    @property
    def permanent(self) -> bool:
        """5xx: not so."""
        return self.code // 100 == 5

    @property
    def text(self) -> str:
        """All lines, whole, parted by "\\n". Not made harmless for a terminal."""
        return "\n".join(line.decode("utf-8", "replace") for line in self.lines)

    @property
    def said(self) -> str:
        """The reply on one line: the code once, then the texts of all lines."""
        texts = [line[4:].decode("utf-8", "replace").strip() for line in self.lines]
        return " ".join([str(self.code), *filter(None, texts)])


@dataclass(slots=True)
class Answered:
    """A reply to a command came (`command` None: the greeting)."""

    command: Command | None
    answer: Answer


@dataclass(slots=True)
class Unasked:
    """A reply came that no command waits for. 421 may come at any time (RFC 5321 §3.8)."""

    answer: Answer


Event = Answered | Unasked


@dataclass(slots=True)
class Response:
    """What the client says to a 334 of AUTH, already in base64 (RFC 4954 §4)."""

    octets: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The octets on the wire."""
        return self.octets + b"\r\n"


class SmtpClientCore:
    """Reads the replies of one server and knows which command each belongs to.

    The session calls `send` for each command and `feed` with what the server sent; `next_event` gives the replies
    in order. Raises PeerError for anything that is no SMTP reply.
    """

    __slots__ = ("_buffer", "_expected", "_lines", "_scanned", "_size", "tap")

    def __init__(self, tap: Tap | None = None) -> None:
        self.tap = tap
        self._buffer = bytearray()
        self._scanned = 0
        self._lines: list[bytes] = []
        self._size = 0
        self._expected: deque[Command | None] = deque([None])  # the greeting comes unasked

    @property
    def waiting(self) -> int:
        """Replies that are still to come."""
        return len(self._expected)

    @property
    def left_over(self) -> bool:
        """Whether octets came that belong to no reply yet."""
        return bool(self._buffer or self._lines)

    def send(self, command: Command) -> bytes:
        """The octets of a command; its reply is expected from now on."""
        octets = command.encode()
        assert octets.endswith(b"\r\n") and octets.count(b"\n") == 1, "a command is exactly one line"
        self._expected.append(command)
        return octets

    def expect(self, command: Command | None) -> None:
        """Expects one more reply to a command, such as LMTP's for each recipient (RFC 2033 §4.2)."""
        self._expected.append(command)

    def feed(self, octets: bytes) -> None:
        """Takes octets as they came, cut anywhere."""
        self._buffer += octets

    def next_event(self) -> Event | None:
        """The next reply, or None when more octets are needed."""
        while (line := self._next_line()) is not None:
            if self._take_line(line):
                answer = self._finish()
                if self._expected:
                    return Answered(self._expected.popleft(), answer)
                return Unasked(answer)
        return None

    def _next_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._buffer)
            if self._scanned > LINE:
                raise _broken("a reply line longer than 8192 octets", bytes(self._buffer))
            return None
        if end > LINE:
            raise _broken("a reply line longer than 8192 octets", bytes(self._buffer))
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line.removesuffix(b"\r")

    def _take_line(self, line: bytes) -> bool:
        """Adds a line to the reply under way; True when it is the last one."""
        if _REPLY_LINE.match(line) is None:
            raise _broken("something that is no SMTP reply", line)
        self._size += len(line)
        if self._size > REPLY:
            raise _broken("a reply that does not end", line)
        self._lines.append(line)
        if self.tap is not None:
            self.tap((b"334 ********" if line.startswith(b"334") else line) + b"\r\n", False)
        return line[3:4] != b"-"

    def _finish(self) -> Answer:
        # The codes of all lines should be equal (RFC 5321 §4.2.1); where a server breaks that, the last one counts.
        lines, self._lines, self._size = self._lines, [], 0
        return Answer(int(lines[-1][:3]), enhanced_status(lines[-1]), lines)


def enhanced_status(line: bytes) -> str:
    """The enhanced status code that a reply line carries, "" when it has none (RFC 2034 §4, RFC 3463 §2)."""
    found = _ENHANCED.match(line, 4)
    return found[0].decode("ascii") if found is not None and found[0].startswith(line[:1]) else ""


def _broken(what: str, line: bytes) -> PeerError:
    shown = line[:BEFORE_LOST].decode("utf-8", "backslashreplace")
    return PeerError(Reply("500", "5.5.0", f"The server sent {what}: {shown}"), fatal=True)


@dataclass(slots=True)
class Extensions:
    """What a server offers in its answer to EHLO (RFC 5321 §4.1.1.1). Keywords in capitals, their parameters as
    written."""

    keywords: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, answer: Answer) -> Extensions:
        """Reads the keyword lines; the first line is the greeting and says nothing about extensions."""
        keywords: dict[str, str] = {}
        for line in answer.lines[1:]:
            # Old servers write AUTH=LOGIN for Outlook's sake.
            keyword, _, rest = line[4:].decode("ascii", "replace").replace("AUTH=", "AUTH ").partition(" ")
            keyword = keyword.strip().upper()
            if keyword:
                keywords[keyword] = " ".join(filter(None, [keywords.get(keyword, ""), rest.strip()]))
        return cls(keywords)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    @property
    def mechanisms(self) -> list[str]:
        """The login mechanisms, in capitals (RFC 4954 §3)."""
        return self.keywords.get("AUTH", "").upper().split()

    @property
    def size(self) -> int | None:
        """The largest message the server takes; None when it does not say or has no limit (RFC 1870 §3)."""
        word = self.keywords.get("SIZE", "")
        return int(word) if word.isdigit() and len(word) < 20 and int(word) > 0 else None


class Stuffer:
    """Makes a message fit for DATA: a dot is added to each line that begins with one, and lines end with CRLF
    (RFC 5321 §4.5.2). Works on pieces cut anywhere, in constant memory."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = LineEnds()

    def add(self, octets: bytes) -> bytes:
        """The piece as it goes on the wire."""
        at_line_start = self._ends.line_start
        octets = self._ends.add(octets)
        stuffed = double_dots(octets)
        return b"." + stuffed if at_line_start and octets.startswith(b".") else stuffed

    def end(self) -> bytes:
        """What ends the message: its last line's end when that is missing, and the lone dot."""
        return self._ends.end() + b".\r\n"
