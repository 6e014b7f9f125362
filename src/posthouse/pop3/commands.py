"""The commands of POP3 as values: one class each, parsed from a line and printed as one.

Both roles use them: the server core parses lines into them, the client core prints them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from posthouse.mail.limits import Pop3Limits
from posthouse.mail.reply import PeerError, Pop3, Reply
from posthouse.sasl.mechanisms import SaslError, decode_line, encode_line

MAX_ARGUMENT: Final = Pop3Limits().argument  # RFC 2449 §4
_CONTROLS: Final = bytes([*range(0x20), 0x7F])
MAX_NUMBER: Final = 2**31 - 1  # a larger number names no message; RETR 99999999999 is "no such message"


class Command(ABC):
    """What all commands share."""

    __slots__ = ()

    @abstractmethod
    def encode(self) -> bytes:
        """The octets on the wire, CRLF included. Raises ValueError when an argument cannot be said in POP3."""


@dataclass(slots=True)
class User(Command):
    """The login name. RFC 1939 §7, RFC 6856 §2.2."""

    name: str

    def encode(self) -> bytes:
        return _line("USER", self.name)


@dataclass(slots=True)
class Pass(Command):
    """The password; blanks belong to it. RFC 1939 §7."""

    password: str = field(repr=False)

    def encode(self) -> bytes:
        return _line("PASS", self.password)


@dataclass(slots=True)
class Apop(Command):
    """A login by digest. RFC 1939 §7."""

    name: str
    digest: str = field(repr=False)

    def encode(self) -> bytes:
        return _line("APOP", self.name, self.digest)


@dataclass(slots=True)
class Auth(Command):
    """A SASL login; without a mechanism, the question for the list of them. `initial` is the initial response,
    decoded; None when it is not given. RFC 5034 §4."""

    mechanism: str | None = None
    initial: bytes | None = field(default=None, repr=False)

    def encode(self) -> bytes:
        if self.mechanism is None:
            return b"AUTH\r\n"
        if self.initial is None:
            return _line("AUTH", self.mechanism)
        return _line("AUTH", self.mechanism, encode_line(self.initial).decode("ascii") or "=")


@dataclass(slots=True)
class Stat(Command):
    """How many messages, how many octets. RFC 1939 §5."""

    def encode(self) -> bytes:
        return b"STAT\r\n"


@dataclass(slots=True)
class List(Command):
    """The size of one message or of each. RFC 1939 §5."""

    number: int | None = None

    def encode(self) -> bytes:
        return _numbered(b"LIST", self.number)


@dataclass(slots=True)
class Retr(Command):
    """A whole message. RFC 1939 §5."""

    number: int

    def encode(self) -> bytes:
        return b"RETR %d\r\n" % self.number


@dataclass(slots=True)
class Dele(Command):
    """Marks a message as deleted. RFC 1939 §5."""

    number: int

    def encode(self) -> bytes:
        return b"DELE %d\r\n" % self.number


@dataclass(slots=True)
class Noop(Command):
    """Does nothing. RFC 1939 §5."""

    def encode(self) -> bytes:
        return b"NOOP\r\n"


@dataclass(slots=True)
class Last(Command):
    """The highest number that was retrieved. RFC 1460 §5 (left out of its successors)."""

    def encode(self) -> bytes:
        return b"LAST\r\n"


@dataclass(slots=True)
class Rset(Command):
    """Takes all deletion marks back. RFC 1939 §5."""

    def encode(self) -> bytes:
        return b"RSET\r\n"


@dataclass(slots=True)
class Top(Command):
    """The header of a message and the first lines of its body. RFC 1939 §7."""

    number: int
    lines: int

    def encode(self) -> bytes:
        return b"TOP %d %d\r\n" % (self.number, self.lines)


@dataclass(slots=True)
class Uidl(Command):
    """The unique-id of one message or of each. RFC 1939 §7."""

    number: int | None = None

    def encode(self) -> bytes:
        return _numbered(b"UIDL", self.number)


@dataclass(slots=True)
class Capa(Command):
    """What the server can do. RFC 2449 §5."""

    def encode(self) -> bytes:
        return b"CAPA\r\n"


@dataclass(slots=True)
class Stls(Command):
    """Begins TLS. RFC 2595 §4."""

    def encode(self) -> bytes:
        return b"STLS\r\n"


@dataclass(slots=True)
class Utf8(Command):
    """The client takes header fields in UTF-8. RFC 6856 §2.1."""

    def encode(self) -> bytes:
        return b"UTF8\r\n"


@dataclass(slots=True)
class Quit(Command):
    """Carries out the deletions and ends the session. RFC 1939 §6."""

    def encode(self) -> bytes:
        return b"QUIT\r\n"


@dataclass(slots=True)
class SaslResponse(Command):
    """An answer to a challenge of AUTH; None cancels the login. RFC 5034 §4."""

    octets: bytes | None = field(repr=False)

    def encode(self) -> bytes:
        return b"*\r\n" if self.octets is None else encode_line(self.octets) + b"\r\n"


AnyCommand: TypeAlias = (
    User | Pass | Apop | Auth | Stat | List | Retr | Dele | Noop | Last | Rset | Top | Uidl | Capa | Stls | Utf8 | Quit
)
Parser: TypeAlias = Callable[[bytes], AnyCommand]


def decode_sasl(octets: bytes) -> bytes:
    """The octets behind base64; nothing but the alphabet and right padding is taken. Raises PeerError."""
    try:
        return decode_line(octets)
    except SaslError as error:
        raise PeerError(Pop3.AUTH_MALFORMED) from error


def _line(verb: str, *arguments: str) -> bytes:
    for argument in arguments:
        # Control characters are refused, among them what would begin a second command.
        if not argument or any(c < " " or c == "\x7f" for c in argument):
            raise ValueError(f"{verb} cannot carry this argument")
    octets = " ".join((verb, *arguments)).encode("utf-8")
    if verb != "AUTH" and len(octets) - len(verb) - 1 > MAX_ARGUMENT:
        raise ValueError(f"the argument of {verb} is longer than {MAX_ARGUMENT} octets")
    return octets + b"\r\n"


def _numbered(verb: bytes, number: int | None) -> bytes:
    return verb + b"\r\n" if number is None else b"%b %d\r\n" % (verb, number)


def _syntax(text: str) -> Reply:
    return Pop3.SYNTAX.fill(syntax=text)


def _bare(command: Callable[[], AnyCommand], verb: str) -> Parser:
    """A parser for a command without arguments. The values have no fields, so one serves for all."""
    value, refusal = command(), _syntax(verb)

    def parse(argument: bytes) -> AnyCommand:
        if argument.strip(b" "):
            raise PeerError(refusal)
        return value

    return parse


def _number(argument: bytes, refusal: Reply) -> int:
    """`argument` as a decimal number; larger ones than any message has are cut, so that their cost is bounded."""
    if not argument.isdigit():
        raise PeerError(refusal)
    return int(argument) if len(argument) < 10 else min(int(argument[:300]), MAX_NUMBER)


def _message(command: Callable[[int], AnyCommand], verb: str) -> Parser:
    """A parser for a command with a message-number."""
    refusal = _syntax(f"{verb} message-number")

    def parse(argument: bytes) -> AnyCommand:
        if argument.isdigit() and len(argument) < 10:
            return command(int(argument))
        return command(_number(argument.strip(b" "), refusal))

    return parse


def _listing(command: Callable[[int | None], AnyCommand], verb: str) -> Parser:
    """A parser for a command with an optional message-number."""
    refusal = _syntax(f"{verb} [message-number]")

    def parse(argument: bytes) -> AnyCommand:
        argument = argument.strip(b" ")
        return command(_number(argument, refusal) if argument else None)

    return parse


def _text(argument: bytes) -> str:
    """An argument as text: printable ASCII or UTF-8 (RFC 6856 §2.2). Raises PeerError."""
    if len(argument) > MAX_ARGUMENT:
        raise PeerError(Pop3.LINE_TOO_LONG)
    if len(argument.translate(None, _CONTROLS)) != len(argument):
        raise PeerError(Pop3.BAD_OCTETS)
    try:
        return argument.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerError(Pop3.BAD_OCTETS) from error


_USER = _syntax("USER name")
_PASS = _syntax("PASS password")
_APOP = _syntax("APOP name digest")
_AUTH = _syntax("AUTH [mechanism [initial-response]]")
_TOP = _syntax("TOP message-number lines")


def _parse_user(argument: bytes) -> AnyCommand:
    # A name with blanks belongs to nobody here, but the refusal must look like that of any unknown name.
    name = _text(argument.strip(b" "))
    if not name:
        raise PeerError(_USER)
    return User(name)


def _parse_pass(argument: bytes) -> AnyCommand:
    # RFC 1939 §7: PASS has exactly one argument, so blanks are part of the password, even at its ends.
    if not argument:
        raise PeerError(_PASS)
    return Pass(_text(argument))


def _parse_apop(argument: bytes) -> AnyCommand:
    words = argument.split()
    if len(words) != 2:
        raise PeerError(_APOP)
    return Apop(_text(words[0]), _text(words[1]))


def _parse_auth(argument: bytes) -> AnyCommand:
    words = argument.split()
    if not words:
        return Auth()
    if len(words) > 2 or len(words[0]) > 20 or not words[0].isascii():  # RFC 4422 §3.1: names have 1 to 20 characters
        raise PeerError(_AUTH)
    mechanism = words[0].decode("ascii").upper()
    if len(words) == 1:
        return Auth(mechanism)
    return Auth(mechanism, b"" if words[1] == b"=" else decode_sasl(words[1]))


def _parse_top(argument: bytes) -> AnyCommand:
    words = argument.split()
    if len(words) != 2:
        raise PeerError(_TOP)
    return Top(_number(words[0], _TOP), _number(words[1], _TOP))


PARSERS: Final[dict[bytes, Parser]] = {
    b"USER": _parse_user,
    b"PASS": _parse_pass,
    b"APOP": _parse_apop,
    b"AUTH": _parse_auth,
    b"STAT": _bare(Stat, "STAT"),
    b"LIST": _listing(List, "LIST"),
    b"RETR": _message(Retr, "RETR"),
    b"DELE": _message(Dele, "DELE"),
    b"NOOP": _bare(Noop, "NOOP"),
    b"LAST": _bare(Last, "LAST"),
    b"RSET": _bare(Rset, "RSET"),
    b"TOP": _parse_top,
    b"UIDL": _listing(Uidl, "UIDL"),
    b"CAPA": _bare(Capa, "CAPA"),
    b"STLS": _bare(Stls, "STLS"),
    b"UTF8": _bare(Utf8, "UTF8"),
    b"QUIT": _bare(Quit, "QUIT"),
}


def parse(line: bytes) -> AnyCommand:
    """A line without its CRLF as a command. Raises PeerError with the reply that says what is wrong."""
    verb, _, argument = line.partition(b" ")
    parser = PARSERS.get(verb) or PARSERS.get(verb.upper())
    if parser is None:
        raise PeerError(Pop3.UNKNOWN_COMMAND)
    return parser(argument)


def parse_response(line: bytes) -> SaslResponse:
    """A line without its CRLF as the answer to a challenge. Raises PeerError."""
    return SaslResponse(None if line == b"*" else decode_sasl(line))
