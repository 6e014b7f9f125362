"""The client's side of POP3: commands out, replies in, no input or output of its own (RFC 1939 §3).

Replies of many lines come as a stream: the status line first, then the lines in pieces as they arrive, dots
unstuffed, then the end. A message of any size costs constant memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from posthouse.mail.reply import PeerError, Reply

LINE: Final = 8_192  # octets of a status line; RFC 1939 §3 says 512, servers with long texts exist
BEFORE_LOST: Final = 200  # octets of a bad line that are repeated to the user
END: Final = b"\r\n.\r\n"
LISTINGS: Final = frozenset({b"CAPA", b"RETR", b"TOP"})  # many lines, whatever the argument
LISTINGS_OF_ALL: Final = frozenset({b"LIST", b"UIDL", b"AUTH"})  # many lines when there is no argument

Tap = Callable[[bytes, bool], None]


class Command(Protocol):
    """Anything that can be sent and has one reply."""

    def encode(self) -> bytes:
        """The octets on the wire, CRLF included."""
        ...


@dataclass(slots=True)
class Answer:
    """The status line of a reply. `status` is "+OK", "-ERR" or "+" (go on, RFC 5034 §4), `code` the response code in
    capitals such as "IN-USE" or "" (RFC 2449 §8), `line` the whole line as it came without its end."""

    status: str
    code: str
    line: bytes

    @property
    def positive(self) -> bool:
        """Whether the server did what was asked."""
        return self.status == "+OK"

    @property
    def text(self) -> str:
        """The whole line. Not made harmless for a terminal."""
        return self.line.decode("utf-8", "replace")


@dataclass(slots=True)
class Answered:
    """The status line of a reply came (`command` None: the greeting). When `more`, pieces and an `Ended` follow."""

    command: Command | None
    answer: Answer
    more: bool


@dataclass(slots=True)
class Piece:
    """A piece of the lines that follow, unstuffed, cut anywhere."""

    octets: bytes


@dataclass(slots=True)
class Ended:
    """The lone dot came. `octets` counts what the pieces held."""

    octets: int


@dataclass(slots=True)
class Unasked:
    """A line came that no command waits for: the server is about to close, or is broken."""

    line: bytes


Event = Answered | Piece | Ended | Unasked


class Unstuffer:
    """Finds the lone dot that ends a reply and takes the stuffed dots out (RFC 1939 §3), in pieces cut anywhere."""

    __slots__ = ("_held", "_virtual", "octets", "rest")

    def __init__(self) -> None:
        # The end mark may stand on the first line: an imagined line end before it makes that the common case.
        self._held = b"\r\n"
        self._virtual = 2
        self.octets = 0
        self.rest: bytes | None = None  # what came after the end; None while there is no end

    def add(self, octets: bytes) -> bytes:
        """The content in these octets, as far as it is certain."""
        octets = self._held + octets
        end = octets.find(END)
        if end >= 0:
            self.rest = octets[end + len(END) :]
            return self._give(octets[: end + 2])
        kept = _begun(octets)
        self._held = octets[len(octets) - kept :]
        return self._give(octets[: len(octets) - kept])

    def _give(self, octets: bytes) -> bytes:
        content = octets.replace(b"\r\n.", b"\r\n")
        if self._virtual and octets:
            content, self._virtual = content[self._virtual :], 0
        self.octets += len(content)
        return content


def _begun(octets: bytes) -> int:
    """How many octets at the end may be the beginning of the end mark."""
    for length in range(min(len(END) - 1, len(octets)), 0, -1):
        if END.startswith(octets[-length:]):
            return length
    return 0


class Pop3ClientCore:
    """Reads the replies of one server and knows which command each belongs to.

    The session calls `send` for each command and `feed` with what the server sent; `next_event` gives the events in
    order. Raises PeerError for anything that is no POP3 reply.
    """

    __slots__ = ("_body", "_expected", "_input", "tap")

    def __init__(self, tap: Tap | None = None) -> None:
        self.tap = tap
        self._input = b""
        self._expected: deque[tuple[Command | None, bool]] = deque([(None, False)])  # the greeting
        self._body: Unstuffer | None = None

    @property
    def waiting(self) -> int:
        """Replies that are still to come."""
        return len(self._expected)

    @property
    def left_over(self) -> bool:
        """Whether octets came that belong to no reply yet."""
        return bool(self._input)

    def send(self, command: Command) -> bytes:
        """The octets of a command; its reply is expected from now on."""
        octets = command.encode()
        assert octets.endswith(b"\r\n") and octets.count(b"\n") == 1, "a command is exactly one line"
        self._expected.append((command, has_lines(octets)))
        return octets

    def feed(self, octets: bytes) -> None:
        """Takes octets as they came, cut anywhere."""
        self._input = self._input + octets if self._input else octets

    def next_event(self) -> Event | None:
        """The next event, or None when more octets are needed."""
        if self._body is not None:
            return self._next_piece(self._body)
        line = self._next_line()
        if line is None:
            return None
        if self.tap is not None:
            self.tap((b"+ ********" if line.startswith(b"+ ") else line) + b"\r\n", False)
        if not self._expected:
            return Unasked(line)
        command, many = self._expected.popleft()
        answer = read_status(line)
        more = many and answer.positive
        if more:
            self._body = Unstuffer()
        return Answered(command, answer, more)

    def _next_line(self) -> bytes | None:
        end = self._input.find(b"\n", 0, LINE)
        if end < 0:
            if len(self._input) >= LINE:
                raise _broken("a reply line longer than 8192 octets", self._input)
            return None
        line, self._input = self._input[:end], self._input[end + 1 :]
        return line.removesuffix(b"\r")

    def _next_piece(self, body: Unstuffer) -> Event | None:
        while body.rest is None and self._input:
            octets, self._input = self._input, b""
            if content := body.add(octets):
                return Piece(content)
        if body.rest is None:
            return None
        self._input, self._body = body.rest, None
        return Ended(body.octets)


def has_lines(command: bytes) -> bool:
    """Whether the positive reply to this command has many lines (RFC 1939 §5 and §7, RFC 2449 §5)."""
    words = command.split()
    verb = words[0].upper() if words else b""
    return verb in LISTINGS or (verb in LISTINGS_OF_ALL and len(words) == 1)


def read_status(line: bytes) -> Answer:
    """Reads a status line. Servers that write the keyword in small letters exist. Raises PeerError."""
    word, _, rest = line.partition(b" ")
    status = word.upper()
    if status not in (b"+OK", b"-ERR", b"+"):
        raise _broken("something that is no POP3 reply", line)
    code = ""
    if rest.startswith(b"[") and (end := rest.find(b"]", 0, 64)) > 0:
        code = rest[1:end].decode("ascii", "replace").upper()
    return Answer(status.decode("ascii"), code, line)


def _broken(what: str, line: bytes) -> PeerError:
    shown = line[:BEFORE_LOST].decode("utf-8", "backslashreplace")
    return PeerError(Reply("-ERR", "", f"The server sent {what}: {shown}"), fatal=True)
