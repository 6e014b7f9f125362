"""The commands of SMTP, submission and LMTP: what a client says and a server reads (RFC 5321 §4.1.1).

Each command is a value. `parse` takes the text after the verb and raises PeerError with the reply for what is
wrong; `encode` gives the whole line with CRLF, so that server and client share one grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from posthouse.mail.address import Address, AddressError
from posthouse.mail.reply import PeerError, Smtp
from posthouse.smtp.grammar import (
    decode,
    decode_xtext,
    encode_unitext,
    encode_xtext,
    parse_host,
    parse_mailbox,
    split_parameters,
    split_path,
)

MAX_ENVID: Final = 100  # RFC 3461 §4.4
MAX_ORCPT: Final = 500  # RFC 3461 §4.2
_NUMBER: Final = re.compile(r"[0-9]{1,20}")  # RFC 1870 §4, RFC 3030 §2
_ADDR_TYPE: Final = re.compile(r"[!#-'*-+\--9=?A-Z^-~-]{1,40}")  # Atom, RFC 3461 §4.2
# esmtp-keyword of a mechanism, RFC 4422 §3.1
_MECHANISM: Final = re.compile(r"[A-Za-z0-9_-]{1,20}")


def _no_argument(argument: str) -> None:
    if argument:
        raise PeerError(Smtp.NO_ARGUMENT)


@dataclass(slots=True)
class Ehlo:
    """The client gives its name and asks what the server can do (RFC 5321 §4.1.1.1)."""

    verb: ClassVar[str] = "EHLO"
    syntax: ClassVar[str] = "EHLO name"
    name: str

    @classmethod
    def parse(cls, argument: str) -> Ehlo:
        """ehlo = "EHLO" SP ( Domain / address-literal ) CRLF."""
        return cls(parse_host(argument, cls.syntax))

    def encode(self) -> bytes:
        """The line with CRLF."""
        return f"EHLO {self.name}\r\n".encode("ascii")


@dataclass(slots=True)
class Helo:
    """The client gives its name in the old way, without extensions (RFC 5321 §4.1.1.1)."""

    verb: ClassVar[str] = "HELO"
    syntax: ClassVar[str] = "HELO name"
    name: str

    @classmethod
    def parse(cls, argument: str) -> Helo:
        """helo = "HELO" SP Domain CRLF; literals are taken too."""
        return cls(parse_host(argument, cls.syntax))

    def encode(self) -> bytes:
        """The line with CRLF."""
        return f"HELO {self.name}\r\n".encode("ascii")


@dataclass(slots=True)
class Lhlo:
    """EHLO of LMTP (RFC 2033 §4.1)."""

    verb: ClassVar[str] = "LHLO"
    syntax: ClassVar[str] = "LHLO name"
    name: str

    @classmethod
    def parse(cls, argument: str) -> Lhlo:
        """As EHLO."""
        return cls(parse_host(argument, cls.syntax))

    def encode(self) -> bytes:
        """The line with CRLF."""
        return f"LHLO {self.name}\r\n".encode("ascii")


@dataclass(slots=True)
class Mail:
    """Begins a message: the reverse-path and what is asked for the message (RFC 5321 §4.1.1.2).

    `sender` None is the null reverse-path `<>`. `auth` is the decoded AUTH= parameter, "" for `<>` in it.
    """

    verb: ClassVar[str] = "MAIL"
    syntax: ClassVar[str] = "MAIL FROM:<address> [parameters]"
    sender: Address | None
    size: int | None = None  # RFC 1870 §3
    body: str | None = None  # "7BIT", "8BITMIME": RFC 6152 §2
    smtputf8: bool = False  # RFC 6531 §3.4
    ret: str | None = None  # "FULL", "HDRS": RFC 3461 §4.3
    envid: str | None = None  # RFC 3461 §4.4
    auth: str | None = None  # RFC 4954 §5

    @classmethod
    def parse(cls, argument: str) -> Mail:
        """mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF; Reverse-path = Path / "<>"."""
        path, rest = split_path(argument, "FROM", cls.syntax)
        try:
            command = cls(parse_mailbox(path) if path else None)
        except AddressError as error:
            raise PeerError(Smtp.ADDRESS_TOO_LONG if error.too_long else Smtp.BAD_SENDER) from error
        if rest:
            for name, value in split_parameters(rest):
                setter = _MAIL_PARAMETERS.get(name)
                if setter is None:
                    raise PeerError(Smtp.UNKNOWN_PARAMETER.fill(name=name))
                if not setter(command, value):
                    raise PeerError(Smtp.BAD_PARAMETER.fill(name=name))
        if command.sender is not None and not command.smtputf8 and not command.sender.is_ascii:
            raise PeerError(Smtp.NEED_SMTPUTF8)
        return command

    def encode(self) -> bytes:
        """The line with CRLF; UTF-8 where SMTPUTF8 was asked."""
        words = [f"MAIL FROM:<{'' if self.sender is None else self.sender}>"]
        if self.size is not None:
            words.append(f"SIZE={self.size}")
        if self.body is not None:
            words.append(f"BODY={self.body}")
        if self.smtputf8:
            words.append("SMTPUTF8")
        if self.ret is not None:
            words.append(f"RET={self.ret}")
        if self.envid is not None:
            words.append(f"ENVID={encode_xtext(self.envid)}")
        if self.auth is not None:
            words.append(f"AUTH={encode_xtext(self.auth) or '<>'}")
        return f"{' '.join(words)}\r\n".encode()


@dataclass(slots=True)
class Rcpt:
    """Names one recipient: the forward-path and what is asked for it (RFC 5321 §4.1.1.3)."""

    verb: ClassVar[str] = "RCPT"
    syntax: ClassVar[str] = "RCPT TO:<address> [parameters]"
    address: Address
    notify: tuple[str, ...] = ()  # of NEVER, SUCCESS, FAILURE, DELAY: RFC 3461 §4.1
    orcpt: str | None = (
        None  # "rfc822;user@example.org", decoded (RFC 3461 §4.2); after "utf-8;" as it is (RFC 6533 §3)
    )

    @classmethod
    def parse(cls, argument: str) -> Rcpt:
        """rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters]."""
        path, rest = split_path(argument, "TO", cls.syntax)
        try:
            local = path.lower() == "postmaster"
            command = cls(Address(path, "") if local else parse_mailbox(path))
        except AddressError as error:
            raise PeerError(Smtp.ADDRESS_TOO_LONG if error.too_long else Smtp.BAD_ADDRESS) from error
        if rest:
            for name, value in split_parameters(rest):
                setter = _RCPT_PARAMETERS.get(name)
                if setter is None:
                    raise PeerError(Smtp.UNKNOWN_PARAMETER.fill(name=name))
                if not setter(command, value):
                    raise PeerError(Smtp.BAD_PARAMETER.fill(name=name))
        return command

    def encode(self) -> bytes:
        """The line with CRLF."""
        words = [f"RCPT TO:<{self.address}>"]
        if self.notify:
            words.append(f"NOTIFY={','.join(self.notify)}")
        if self.orcpt is not None:
            kind, _, address = self.orcpt.partition(";")
            encode = encode_unitext if kind.lower() == "utf-8" else encode_xtext
            words.append(f"ORCPT={kind};{encode(address)}")
        return f"{' '.join(words)}\r\n".encode()


def _set_size(command: Mail, value: str | None) -> bool:
    """size-value = 1*20DIGIT, RFC 1870 §4."""
    if value is None or not _NUMBER.fullmatch(value):
        return False
    command.size = int(value)
    return True


def _set_body(command: Mail, value: str | None) -> bool:
    """body-value = "7BIT" / "8BITMIME", RFC 6152 §2; BINARYMIME is not offered."""
    command.body = (value or "").upper()
    return command.body in ("7BIT", "8BITMIME")


def _set_smtputf8(command: Mail, value: str | None) -> bool:
    """The keyword stands alone, RFC 6531 §3.4."""
    command.smtputf8 = value is None
    return command.smtputf8


def _set_ret(command: Mail, value: str | None) -> bool:
    """ret-value = "FULL" / "HDRS", RFC 3461 §4.3."""
    command.ret = (value or "").upper()
    return command.ret in ("FULL", "HDRS")


def _set_envid(command: Mail, value: str | None) -> bool:
    """envid-parameter = "ENVID=" xtext of printable ASCII, RFC 3461 §4.4."""
    if not value or len(value) > MAX_ENVID:
        return False
    try:
        command.envid = decode_xtext(value)
    except ValueError:
        return False
    return command.envid.isascii() and command.envid.isprintable()


def _set_auth(command: Mail, value: str | None) -> bool:
    """AUTH= xtext of a Mailbox or "<>", RFC 4954 §5."""
    if not value:
        return False
    if value == "<>":
        command.auth = ""
        return True
    try:
        command.auth = str(Address.parse(decode_xtext(value)))
    except ValueError:
        return False
    return True


def _set_notify(command: Rcpt, value: str | None) -> bool:
    """notify-esmtp-value = "NEVER" / 1#( "SUCCESS" / "FAILURE" / "DELAY" ), RFC 3461 §4.1."""
    words = tuple((value or "").upper().split(","))
    command.notify = words
    if words == ("NEVER",):
        return True
    return set(words) <= {"SUCCESS", "FAILURE", "DELAY"} and len(set(words)) == len(words)


def _set_orcpt(command: Rcpt, value: str | None) -> bool:
    """original-recipient-address = addr-type ";" xtext, RFC 3461 §4.2; UTF-8 after "utf-8;" by RFC 6533 §3."""
    if not value or len(value) > MAX_ORCPT:
        return False
    kind, semicolon, address = value.partition(";")
    if not semicolon or not _ADDR_TYPE.fullmatch(kind) or not address:
        return False
    try:
        decoded = address if kind.lower() == "utf-8" else decode_xtext(address)
    except ValueError:
        return False
    command.orcpt = f"{kind};{decoded}"
    return decoded.isprintable()


_MAIL_PARAMETERS: Final[dict[str, Callable[[Mail, str | None], bool]]] = {
    "SIZE": _set_size,
    "BODY": _set_body,
    "SMTPUTF8": _set_smtputf8,
    "RET": _set_ret,
    "ENVID": _set_envid,
    "AUTH": _set_auth,
}
_RCPT_PARAMETERS: Final[dict[str, Callable[[Rcpt, str | None], bool]]] = {
    "NOTIFY": _set_notify,
    "ORCPT": _set_orcpt,
}


@dataclass(slots=True)
class Data:
    """Asks to send the message (RFC 5321 §4.1.1.4)."""

    verb: ClassVar[str] = "DATA"
    syntax: ClassVar[str] = "DATA"

    @classmethod
    def parse(cls, argument: str) -> Data:
        """data = "DATA" CRLF."""
        _no_argument(argument)
        return cls()

    def encode(self) -> bytes:
        """The line with CRLF."""
        return b"DATA\r\n"


@dataclass(slots=True)
class Bdat:
    """Announces a chunk of the message: exactly `size` octets follow the line (RFC 3030 §2)."""

    verb: ClassVar[str] = "BDAT"
    syntax: ClassVar[str] = "BDAT size [LAST]"
    size: int
    last: bool = False

    @classmethod
    def parse(cls, argument: str) -> Bdat:
        """bdat-cmd = "BDAT" SP chunk-size [ SP "LAST" ] CRLF; chunk-size = 1*DIGIT.

        What cannot be read is fatal: nobody knows how many octets follow, and they must not be taken for commands.
        """
        words = argument.split()
        last = len(words) == 2 and words[1].upper() == "LAST"
        if not (words and _NUMBER.fullmatch(words[0]) and (len(words) == 1 or last)):
            raise PeerError(Smtp.SYNTAX.fill(syntax=cls.syntax), fatal=True)
        return cls(int(words[0]), last)

    def encode(self) -> bytes:
        """The line with CRLF, without the chunk."""
        return b"BDAT %d LAST\r\n" % self.size if self.last else b"BDAT %d\r\n" % self.size


@dataclass(slots=True)
class Rset:
    """Forgets the message that was begun (RFC 5321 §4.1.1.5)."""

    verb: ClassVar[str] = "RSET"
    syntax: ClassVar[str] = "RSET"

    @classmethod
    def parse(cls, argument: str) -> Rset:
        """rset = "RSET" CRLF."""
        _no_argument(argument)
        return cls()

    def encode(self) -> bytes:
        """The line with CRLF."""
        return b"RSET\r\n"


@dataclass(slots=True)
class Noop:
    """Does nothing (RFC 5321 §4.1.1.9)."""

    verb: ClassVar[str] = "NOOP"
    syntax: ClassVar[str] = "NOOP [text]"
    text: str = ""

    @classmethod
    def parse(cls, argument: str) -> Noop:
        """noop = "NOOP" [ SP String ] CRLF; the text is ignored."""
        return cls(argument)

    def encode(self) -> bytes:
        """The line with CRLF."""
        return _line("NOOP", self.text)


@dataclass(slots=True)
class Quit:
    """Ends the session (RFC 5321 §4.1.1.10)."""

    verb: ClassVar[str] = "QUIT"
    syntax: ClassVar[str] = "QUIT"

    @classmethod
    def parse(cls, argument: str) -> Quit:
        """quit = "QUIT" CRLF."""
        _no_argument(argument)
        return cls()

    def encode(self) -> bytes:
        """The line with CRLF."""
        return b"QUIT\r\n"


@dataclass(slots=True)
class Help:
    """Asks what the server knows (RFC 5321 §4.1.1.8)."""

    verb: ClassVar[str] = "HELP"
    syntax: ClassVar[str] = "HELP [command]"
    topic: str = ""

    @classmethod
    def parse(cls, argument: str) -> Help:
        """help = "HELP" [ SP String ] CRLF."""
        return cls(argument)

    def encode(self) -> bytes:
        """The line with CRLF."""
        return _line("HELP", self.topic)


@dataclass(slots=True)
class Vrfy:
    """Asks whether a mailbox exists (RFC 5321 §4.1.1.6)."""

    verb: ClassVar[str] = "VRFY"
    syntax: ClassVar[str] = "VRFY name"
    name: str

    @classmethod
    def parse(cls, argument: str) -> Vrfy:
        """vrfy = "VRFY" SP String CRLF; SMTPUTF8 may follow (RFC 6531 §3.7.4.2)."""
        return cls(_some(argument, cls.syntax))

    def encode(self) -> bytes:
        """The line with CRLF."""
        return _line("VRFY", self.name)


@dataclass(slots=True)
class Expn:
    """Asks who is on a list (RFC 5321 §4.1.1.7)."""

    verb: ClassVar[str] = "EXPN"
    syntax: ClassVar[str] = "EXPN list"
    name: str

    @classmethod
    def parse(cls, argument: str) -> Expn:
        """expn = "EXPN" SP String CRLF."""
        return cls(_some(argument, cls.syntax))

    def encode(self) -> bytes:
        """The line with CRLF."""
        return _line("EXPN", self.name)


@dataclass(slots=True)
class Auth:
    """Begins a login (RFC 4954 §4). `initial` is the initial response as it was sent, in base64, "=" for an empty
    one; None when there is none."""

    verb: ClassVar[str] = "AUTH"
    syntax: ClassVar[str] = "AUTH mechanism [initial-response]"
    mechanism: str
    initial: str | None = None

    @classmethod
    def parse(cls, argument: str) -> Auth:
        """auth-command = "AUTH" SP sasl-mech [SP initial-response] CRLF."""
        words = argument.split()
        if not 1 <= len(words) <= 2 or not _MECHANISM.fullmatch(words[0]):
            raise PeerError(Smtp.SYNTAX.fill(syntax=cls.syntax))
        return cls(words[0].upper(), words[1] if len(words) == 2 else None)

    def encode(self) -> bytes:
        """The line with CRLF. It is a secret."""
        return _line(f"AUTH {self.mechanism}", self.initial or "")


@dataclass(slots=True)
class StartTls:
    """Asks for encryption (RFC 3207)."""

    verb: ClassVar[str] = "STARTTLS"
    syntax: ClassVar[str] = "STARTTLS"

    @classmethod
    def parse(cls, argument: str) -> StartTls:
        """starttls = "STARTTLS" CRLF."""
        _no_argument(argument)
        return cls()

    def encode(self) -> bytes:
        """The line with CRLF."""
        return b"STARTTLS\r\n"


@dataclass(slots=True)
class Obsolete:
    """TURN, SEND, SOML and SAML of RFC 821: read so that they can be refused with the reason (RFC 5321 F.1, F.6)."""

    verb: str
    argument: str = ""

    def encode(self) -> bytes:
        """The line with CRLF."""
        return _line(self.verb, self.argument)


def _line(verb: str, argument: str) -> bytes:
    return f"{verb} {argument}\r\n".encode() if argument else f"{verb}\r\n".encode()


def _some(argument: str, syntax: str) -> str:
    if not argument:
        raise PeerError(Smtp.SYNTAX.fill(syntax=syntax))
    return argument


def _obsolete(verb: str) -> Callable[[str], Obsolete]:
    return lambda argument: Obsolete(verb, argument)


AnyCommand = (
    Ehlo
    | Helo
    | Lhlo
    | Mail
    | Rcpt
    | Data
    | Bdat
    | Rset
    | Noop
    | Quit
    | Help
    | Vrfy
    | Expn
    | Auth
    | StartTls
    | Obsolete
)
"""Every command there is."""

PARSERS: Final[dict[str, Callable[[str], AnyCommand]]] = {
    "EHLO": Ehlo.parse,
    "HELO": Helo.parse,
    "LHLO": Lhlo.parse,
    "MAIL": Mail.parse,
    "RCPT": Rcpt.parse,
    "DATA": Data.parse,
    "BDAT": Bdat.parse,
    "RSET": Rset.parse,
    "NOOP": Noop.parse,
    "QUIT": Quit.parse,
    "HELP": Help.parse,
    "VRFY": Vrfy.parse,
    "EXPN": Expn.parse,
    "AUTH": Auth.parse,
    "STARTTLS": StartTls.parse,
    "TURN": _obsolete("TURN"),
    "SEND": _obsolete("SEND"),
    "SOML": _obsolete("SOML"),
    "SAML": _obsolete("SAML"),
}
"""How the text after each verb is read."""


def parse_command(line: bytes) -> AnyCommand:
    """The command of one line without its CRLF; raises PeerError (RFC 5321 §4.1.1)."""
    verb, _, argument = decode(line).partition(" ")
    parser = PARSERS.get(verb.upper())
    if parser is None:
        raise PeerError(Smtp.UNKNOWN_COMMAND)
    return parser(argument.strip(" "))
