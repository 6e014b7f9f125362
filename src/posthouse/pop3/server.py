"""The server's side of POP3: octets in, commands out, no input or output of its own.

Lines become commands one by one, only when the session asks for the next one, so that a pipelined command is
judged in the state that the command before it brought about (RFC 2449 §6.6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Final, TypeAlias

from posthouse.mail.limits import Pop3Limits
from posthouse.mail.reply import PeerError, Pop3, Reply
from posthouse.pop3.commands import PARSERS, AnyCommand, Parser, SaslResponse, parse_response

Tap: TypeAlias = Callable[[bytes, bool], None]
MAX_DISCARD: Final = 65_536  # octets of one overlong line that are read over before we hang up


class State(IntEnum):  # its hash is C code, an Enum's is Python's
    """Where a session stands. RFC 1939 §3; AUTHORIZATION has two steps more."""

    AUTHORIZATION = auto()
    NAMED = auto()  # USER was accepted: PASS may follow
    CHALLENGED = auto()  # AUTH waits for an answer, which is no command
    TRANSACTION = auto()


@dataclass(slots=True, frozen=True)
class Rule:
    """When a command is possible, and whether its line holds a secret."""

    states: frozenset[State]
    secret: bool = False


_BEFORE: Final = frozenset({State.AUTHORIZATION, State.NAMED})
_AFTER: Final = frozenset({State.TRANSACTION})

RULES: Final[dict[bytes, Rule]] = {
    b"USER": Rule(_BEFORE),
    b"PASS": Rule(frozenset({State.NAMED}), secret=True),  # RFC 1939 §7: immediately after USER
    b"APOP": Rule(_BEFORE, secret=True),
    b"AUTH": Rule(_BEFORE, secret=True),  # RFC 5034 §4: in AUTHORIZATION only
    b"STLS": Rule(_BEFORE),  # RFC 2595 §4
    b"UTF8": Rule(_BEFORE),  # RFC 6856 §2
    b"CAPA": Rule(_BEFORE | _AFTER),  # RFC 2449 §5
    b"QUIT": Rule(_BEFORE | _AFTER),
    b"STAT": Rule(_AFTER),
    b"LIST": Rule(_AFTER),
    b"RETR": Rule(_AFTER),
    b"DELE": Rule(_AFTER),
    b"NOOP": Rule(_AFTER),
    b"LAST": Rule(_AFTER),
    b"RSET": Rule(_AFTER),
    b"TOP": Rule(_AFTER),
    b"UIDL": Rule(_AFTER),
}
_ALLOWED: Final[dict[State, dict[bytes, Parser]]] = {
    state: {
        word: PARSERS[verb] for verb, rule in RULES.items() if state in rule.states for word in (verb, verb.lower())
    }
    for state in State
}
_WRONG_STATE: Final = {verb: Pop3.WRONG_STATE.fill(verb=verb.decode("ascii")) for verb in RULES}
_ASK_NOTHING: Final = (b"NOOP", b"CAPA", b"RSET", b"LAST", b"USER", b"AUTH", b"UTF8")
_IDLE: Final = frozenset(word for verb in _ASK_NOTHING for word in (verb, verb.lower()))
_SECRET: Final = frozenset(verb for verb, rule in RULES.items() if rule.secret)
_HTTP: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PATCH"))
_CR: Final = 0x0D
_TLS: Final = b"\x16\x03"  # how every TLS connection begins: RFC 8446 §5.1
_PRINTABLE: Final = bytes(range(0x20, 0x7F))


@dataclass(slots=True)
class Refused:
    """A line was no command that can be carried out now. `fatal`: the connection is to be closed after the reply."""

    reply: Reply
    fatal: bool = False


Event: TypeAlias = AnyCommand | SaslResponse | Refused


class Pop3ServerCore:
    """Reads the commands of one client.

    The session sets `state` as its replies change it. NAMED and CHALLENGED hold for one line only, since PASS must
    follow USER immediately: the core falls back from them by itself. `tap` sees every line with the word whether it
    holds a secret. Memory is bounded by the octets of one feed and one line. After a fatal event nothing follows.
    """

    __slots__ = (
        "_buffer",
        "_discarding",
        "_ended",
        "_errors",
        "_idle",
        "_limits",
        "_once",
        "_parsers",
        "_position",
        "_state",
        "tap",
    )

    def __init__(self, limits: Pop3Limits, tap: Tap | None = None) -> None:
        self.state = State.AUTHORIZATION
        self.tap: Tap | None = tap
        self._limits = limits
        self._buffer = b""
        self._position = 0
        self._discarding = -1  # octets of an overlong line read over so far; -1: none
        self._errors = 0
        self._idle = 0  # commands in a row that asked for no mail
        self._ended = False

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._parsers = _ALLOWED[state]
        self._once = state is State.NAMED or state is State.CHALLENGED  # holds for one line

    def feed(self, octets: bytes) -> None:
        """Takes octets as they came, cut anywhere."""
        if not self._ended:
            self._buffer = self._buffer[self._position :] + octets
            self._position = 0

    def next_event(self) -> Event | None:
        """The next event, or None when more octets are needed."""
        if self._discarding >= 0 and not self._discard():
            return self._end(Pop3.LINE_TOO_LONG) if self._discarding > MAX_DISCARD else None
        buffer, start = self._buffer, self._position
        if start == len(buffer):
            # A session that waits keeps no octets it has used.
            self._buffer, self._position = b"", 0
            return None
        end = buffer.find(b"\n", start, start + self._limits.command_line)
        if end < 0:
            end = self._find_far_end(start)
            if end < 0:
                if self._speaks_tls(start):
                    return self._end(Pop3.NOT_TLS)
                if end == _TOO_LONG:
                    return self._overlong(start)
                self._buffer, self._position = buffer[start:], 0
                return None
        self._position = end + 1
        line = buffer[start : end - 1] if end > start and buffer[end - 1] == _CR else buffer[start:end]
        if self.tap is not None:
            self.tap(buffer[start : end + 1], self._is_secret(line))
        return self._event(line)

    @property
    def left_over(self) -> bool:
        """Whether octets came that were not used."""
        return self._position < len(self._buffer)

    def restart(self) -> None:
        """TLS has begun: what was said before does not count (RFC 2595 §4). Errors are not forgotten."""
        self._buffer, self._position, self._discarding = b"", 0, -1
        self.state = State.AUTHORIZATION

    def _event(self, line: bytes) -> Event:
        state, parsers = self._state, self._parsers
        try:
            if self._once:
                self.state = State.AUTHORIZATION
                if state is State.CHALLENGED:
                    return parse_response(line)
            verb, _, argument = line.partition(b" ")
            parser = parsers.get(verb)
            if parser is None:
                verb = verb.upper()
                if (parser := parsers.get(verb)) is None:
                    return self._refuse(line, verb, state)
            if verb not in _IDLE:
                self._idle = 0
            elif (idle := self._count_idle()) is not None:
                return idle
            return parser(argument)
        except PeerError as error:
            return self._error(error.reply)

    def _refuse(self, line: bytes, verb: bytes, state: State) -> Refused:
        """Says why a line is no command that is possible now."""
        if line.startswith(_TLS):
            return self._end(Pop3.NOT_TLS)
        if verb in _HTTP and b"HTTP/" in line.upper():
            return self._end(Pop3.NOT_MAIL)
        if verb == b"PASS" and state is State.AUTHORIZATION:
            return self._error(Pop3.NO_USER)
        if verb in _WRONG_STATE:
            return self._error(_WRONG_STATE[verb])
        return self._error(Pop3.BAD_OCTETS if line.translate(None, _PRINTABLE) else Pop3.UNKNOWN_COMMAND)

    def _error(self, reply: Reply) -> Refused:
        self._errors += 1
        return Refused(reply) if self._errors < self._limits.errors else self._end(Pop3.TOO_MANY_ERRORS)

    def _count_idle(self) -> Refused | None:
        """A peer that goes on asking for nothing keeps us busy for nothing (reliability V2)."""
        self._idle += 1
        return None if self._idle < self._limits.idle_commands else self._end(Pop3.TOO_MANY_IDLE)

    def _end(self, reply: Reply) -> Refused:
        self._ended = True
        self._buffer, self._position, self._discarding = b"", 0, -1
        return Refused(reply, fatal=True)

    def _is_secret(self, line: bytes) -> bool:
        # A mistyped line may hold a password all the same: blanks before PASS hide nothing from a reader.
        return self.state is State.CHALLENGED or line.lstrip()[:4].upper() in _SECRET

    def _speaks_tls(self, start: int) -> bool:
        """Whether a client begins with TLS where plain text is spoken: it would wait for us as we for its line end."""
        return self._state is not State.CHALLENGED and self._buffer.startswith(_TLS, start)

    def _find_far_end(self, start: int) -> int:
        """The end of a line that is longer than a command may be, where a login is allowed more room: an offset,
        -1 when it is still to come, _TOO_LONG when it can no longer come."""
        most = self._limits.command_line
        if len(self._buffer) - start < most:
            return -1
        if self.state is State.CHALLENGED or self._buffer[start : start + 5].upper() == b"AUTH ":
            most = max(most, self._limits.auth_line)
        end = self._buffer.find(b"\n", start, start + most)
        return end if end >= 0 or len(self._buffer) - start < most else _TOO_LONG

    def _overlong(self, start: int) -> Refused:
        """Answers an overlong line before its end has come, and reads over the rest of it."""
        if self.tap is not None:
            head = self._buffer[start : start + self._limits.command_line]
            self.tap(head + b"\r\n", self._is_secret(head))
        self._discarding = 0
        if self.state is State.CHALLENGED:
            # What is too long for an answer ends the login (RFC 4954 §4 says so for SMTP, and wants 500 there).
            self.state = State.AUTHORIZATION
        return self._error(Pop3.LINE_TOO_LONG)

    def _discard(self) -> bool:
        """Reads over an overlong line; True when its end was found."""
        end = self._buffer.find(b"\n", self._position)
        stop = end + 1 if end >= 0 else len(self._buffer)
        self._discarding += stop - self._position
        self._position = stop
        if end < 0 or self._discarding > MAX_DISCARD:
            self._buffer, self._position = b"", 0
            return False
        self._discarding = -1
        return True


_TOO_LONG: Final = -2
