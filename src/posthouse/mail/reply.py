"""Every reply the servers speak, in one registry, and the three families of errors that carry them.

A server never writes reply text: it chooses a `Reply`, fills in its fields and writes its octets.
Two styles exist. `posthouse`, the default, has texts of our own with enhanced status codes (RFC 3463,
RFC 2034). `classic` answers with exactly the texts of the teaching lab the project grew from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

MAX_FIELD: Final = 200
"""Octets of foreign text repeated in a reply; a reply line has 512 (RFC 5321 §4.5.3.1.5, RFC 1939 §3)."""


class Style(StrEnum):
    """Which texts the servers speak."""

    POSTHOUSE = "posthouse"
    CLASSIC = "classic"


@dataclass(slots=True, unsafe_hash=True)
class Reply:
    """One reply: what a server says to one command. A value: nobody changes one.

    `code` is the SMTP reply code ("250") or the POP3 status ("+OK", "-ERR"). `status` is the enhanced status
    code of SMTP ("2.1.5") or the response code of POP3 ("IN-USE", RFC 2449 §8), empty where there is none.
    `text` may have several lines, parted by "\\n", and {fields} that `fill` replaces. `classic` is the text in
    the style of that name (None: the same text, without a status).
    """

    code: str
    status: str
    text: str
    classic: str | None = None
    _octets: dict[Style, bytes] = field(default_factory=dict, repr=False, compare=False)

    def fill(self, **fields: object) -> Reply:
        """The same reply with its {fields} replaced; foreign text is made harmless (one line, ASCII, short)."""
        clean = {name: _harmless(str(value)) for name, value in fields.items()}
        classic = self.classic
        return Reply(
            self.code,
            self.status,
            self.text.format_map(clean),
            classic if classic is None else classic.format_map(clean),
        )

    def lines(self, style: Style = Style.POSTHOUSE) -> list[str]:
        """The text lines of this style, without code and status."""
        text = self.classic if style is Style.CLASSIC and self.classic is not None else self.text
        return text.split("\n")

    def encode(self, style: Style = Style.POSTHOUSE) -> bytes:
        """The octets on the wire, CRLF included. Fixed replies are encoded once."""
        octets = self._octets.get(style)
        if octets is None:
            octets = self._octets[style] = self._encode(style)
        return octets

    def _encode(self, style: Style) -> bytes:
        status = "" if style is Style.CLASSIC else self.status
        if self.code[0] in "+-":
            mark = f"[{status}] " if status else ""
            lines = [f"{self.code} {mark}{self.lines(style)[0]}".rstrip()]
        else:
            mark = f"{status} " if status else ""
            texts = self.lines(style)
            if len(texts) == 1:
                return f"{self.code} {mark}{texts[0]}"[:510].encode("ascii", "replace") + b"\r\n"
            lines = [f"{self.code}-{mark}{text}" for text in texts[:-1]]
            lines.append(f"{self.code} {mark}{texts[-1]}")
        return "".join(f"{line[:510]}\r\n" for line in lines).encode("ascii", "replace")

    @property
    def positive(self) -> bool:
        """Whether the command was carried out (2xx, 3xx, +OK)."""
        return self.code[0] in "23+"


def _harmless(text: str) -> str:
    if len(text) <= MAX_FIELD and text.isascii() and text.isprintable():
        return text
    cut = text if len(text) <= MAX_FIELD else text[: MAX_FIELD - 3] + "..."
    return "".join(c if " " <= c <= "~" else "?" for c in cut)


class Fault(Enum):
    """What is temporarily wrong on our side; each protocol says it in its own words."""

    STORAGE = "storage"  # a write, sync or read failed
    FULL = "full"  # no space left on the disk
    BUSY = "busy"  # a bounded queue is full
    STOPPING = "stopping"  # the server is being stopped
    DAMAGED = "damaged"  # a stored letter does not match its checksum


class PeerError(Exception):
    """The peer broke the protocol. `reply` says how; `fatal` closes the connection after it."""

    def __init__(self, reply: Reply, *, fatal: bool = False) -> None:
        super().__init__(reply.text)
        self.reply = reply
        self.fatal = fatal


class Rejected(Exception):
    """A decision of ours: what was asked is understood and refused. `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Unavailable(Exception):
    """We cannot do it now. The peer may try again; nothing was lost. `detail` is for the log only."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(f"{fault.value}: {detail}" if detail else fault.value)
        self.fault = fault
        self.detail = detail


class Smtp:
    """The replies of SMTP, submission and LMTP (RFC 5321 §4.2, RFC 3463, RFC 4954, RFC 3030)."""

    GREETING = Reply("220", "", "{host} ESMTP Posthouse", "{host} ESMTP")
    LMTP_GREETING = Reply("220", "", "{host} LMTP Posthouse", "{host} LMTP")
    HELO = Reply("250", "", "{host} Hello {peer}", "Hello.")
    EHLO = Reply("250", "", "{host} Hello {peer}", "{host} Hello.")
    SENDER_OK = Reply("250", "2.1.0", "Sender accepted", "OK")
    RCPT_OK = Reply("250", "2.1.5", "Recipient accepted", "OK")
    START_DATA = Reply("354", "", "Send the message, end it with a line that holds only a dot", "OK, send.")
    CHUNK_OK = Reply("250", "2.0.0", "{size} octets received", "OK")
    QUEUED = Reply("250", "2.0.0", "Queued as {id} ({seconds} seconds)", "Queued ({seconds} seconds)")
    DELIVERED = Reply("250", "2.1.5", "<{recipient}> delivered as {id}", "OK")
    RESET = Reply("250", "2.0.0", "Forgotten, ready for a new message", "OK")
    NOOP = Reply("250", "2.0.0", "Nothing done, as asked", "OK")
    GOODBYE = Reply("221", "2.0.0", "{host} closing the connection, goodbye", "goodbye")
    VRFY = Reply("252", "2.1.5", "Not verified here; send a message, it will be delivered if it can be")
    NO_EXPN = Reply("502", "5.7.0", "Lists are not expanded here")
    AUTH_PROMPT = Reply("334", "", "{challenge}")
    AUTH_OK = Reply("235", "2.7.0", "Login accepted", "authenticated.")
    AUTH_FAILED = Reply("535", "5.7.8", "Login refused: unknown user name or wrong password")
    AUTH_CANCELLED = Reply("501", "5.7.0", "Login cancelled, as asked")
    AUTH_MALFORMED = Reply("501", "5.5.2", "The login was not valid base64 or has the wrong form")
    AUTH_UNKNOWN = Reply("504", "5.5.4", "This mechanism is not offered; EHLO lists those that are")
    AUTH_DONE = Reply("503", "5.5.1", "Already logged in")
    AUTH_IN_TRANSACTION = Reply("503", "5.5.1", "No login while a message is being sent")
    AUTH_NEEDS_TLS = Reply("538", "5.7.11", "No login without encryption from your network")
    AUTH_REQUIRED = Reply("530", "5.7.0", "Log in first")
    AUTH_NOT_OFFERED = Reply("503", "5.5.1", "No login on this port; submission has a port of its own")
    AUTH_BUSY = Reply("454", "4.7.0", "Too many logins at once, try again soon")
    NO_TLS = Reply("502", "5.5.1", "STARTTLS is not offered here")
    START_TLS = Reply("220", "2.0.0", "Begin with TLS now")
    TLS_DONE = Reply("503", "5.5.1", "TLS protects this connection already")
    TLS_IN_TRANSACTION = Reply("503", "5.5.1", "No STARTTLS while a message is being sent; RSET forgets it")
    UNKNOWN_COMMAND = Reply("500", "5.5.2", "Command not recognised")
    LINE_TOO_LONG = Reply("500", "5.5.2", "Line too long")
    BAD_OCTETS = Reply("500", "5.5.2", "A command holds only printable characters")
    BARE_LF_IN_COMMAND = Reply("500", "5.5.2", "A command ends with CR LF, not with a line feed alone")
    HELP = Reply("214", "2.0.0", "{lines}")
    NO_HELP = Reply("504", "5.5.4", "No help on that; HELP alone lists the commands")
    SYNTAX = Reply("501", "5.5.4", "Syntax: {syntax}")
    NO_ARGUMENT = Reply("501", "5.5.4", "This command takes no argument")
    BAD_ADDRESS = Reply("501", "5.1.3", "This is not a valid address")
    BAD_SENDER = Reply("501", "5.1.7", "This is not a valid sender address")
    ADDRESS_TOO_LONG = Reply("501", "5.1.3", "Too long: 64 octets before the @, 255 after it, 254 in all")
    BAD_PARAMETER = Reply("501", "5.5.4", "Parameter {name} has a wrong value")
    REPEATED_PARAMETER = Reply("501", "5.5.4", "Parameter {name} is given twice")
    UNKNOWN_PARAMETER = Reply("555", "5.5.4", "Parameter {name} is not known here")
    NEED_SMTPUTF8 = Reply("553", "5.6.7", "An address beyond ASCII needs the SMTPUTF8 parameter")
    NEED_HELO = Reply("503", "5.5.1", "Say EHLO first")
    NEED_MAIL = Reply("503", "5.5.1", "Say MAIL first")
    NEED_RCPT = Reply("554", "5.5.1", "No valid recipients")
    NEED_RCPT_FIRST = Reply("503", "5.5.1", "Say RCPT first")
    NESTED_MAIL = Reply("503", "5.5.1", "A message is already being sent; RSET forgets it")
    NOT_IN_BDAT = Reply("503", "5.5.1", "Finish the message with BDAT LAST or forget it with RSET")
    BDAT_FAILED = Reply("503", "5.5.1", "The message was refused before; RSET and begin again")
    NOT_IN_LMTP = Reply("500", "5.5.1", "Here LMTP is spoken: say LHLO")
    NOT_IN_SMTP = Reply("500", "5.5.1", "Here SMTP is spoken: say EHLO")
    OBSOLETE_TURN = Reply("502", "5.7.0", "TURN is refused: it hands mail to whoever asks (RFC 5321 F.1)")
    OBSOLETE_SEND = Reply("502", "5.5.1", "{verb} is obsolete: use MAIL (RFC 5321 F.6)")
    NO_SUCH_USER = Reply("550", "5.1.1", "No such mailbox here", "Unknown user")
    GREYLISTED = Reply("451", "4.7.1", "Greylisted: try again in {minutes} minutes, as every mail server does")
    NO_RELAY = Reply("554", "5.7.1", "No relaying: this server does not carry mail to that domain")
    NOT_FROM_HERE = Reply("554", "5.7.1", "No service for your network here")
    RIGHTS_UNKNOWN = Reply("421", "4.3.0", "{host} cannot find out now what your network may do, try again later")
    SENDER_NOT_YOURS = Reply("550", "5.7.1", "That sender does not belong to your login")
    AUTHOR_NOT_YOURS = Reply("550", "5.7.1", "Neither From nor Resent-From has an address that belongs to your login")
    HEADER_TOO_BIG = Reply("554", "5.6.0", "The header is too big: at most {limit} octets and {fields} fields")
    MAILBOX_FULL = Reply("552", "5.2.2", "The mailbox is full")
    TOO_BIG_FOR_MAILBOX = Reply("552", "5.2.3", "The message is larger than the whole mailbox may be")
    TOO_BIG = Reply("552", "5.3.4", "The message is too big: at most {limit} octets")
    TOO_MANY_RCPTS = Reply("452", "4.5.3", "Too many recipients: at most {limit}; send the others separately")
    TOO_MANY_ERRORS = Reply("421", "4.7.0", "Too many errors, closing the connection")
    TOO_MANY_IDLE = Reply("421", "4.7.0", "Too many commands without a message, closing the connection")
    TOO_MANY_SESSIONS = Reply("421", "4.7.0", "Too many connections, try again later")
    BANNED = Reply(
        "421", "4.7.0", "Refused for now: too many failed logins from your address, or the administrator's word"
    )
    TOO_MANY_LETTERS = Reply(
        "450", "4.7.1", "This account may send {count} letters a {period}; go on in {minutes} minutes"
    )
    TOO_MANY_SENT_TO = Reply(
        "452", "4.7.1", "This account may write to {count} recipients a {period}; go on in {minutes} minutes"
    )
    TOO_MANY_STRANGERS = Reply(
        "450", "4.7.1", "This account may write to {count} new recipients a {period}; go on in {minutes} minutes"
    )
    TIMEOUT = Reply("421", "4.4.2", "{host} waited too long, closing the connection")
    STOPPING = Reply("421", "4.3.2", "{host} is being stopped, try again in a minute")
    NOT_MAIL = Reply("421", "4.7.0", "This is a mail server, not a web server")
    PIPELINE_BROKEN = Reply("503", "5.5.0", "Commands were sent before the reply that must be waited for")
    BARE_CR = Reply("554", "5.6.0", "The message holds a carriage return without a line feed")
    BARE_LF = Reply("554", "5.6.0", "The message holds a line feed without a carriage return")
    HAS_NUL = Reply("554", "5.6.0", "The message holds a NUL octet")
    TOO_MANY_HOPS = Reply("554", "5.4.6", "The message goes in a circle: too many Received fields")
    STORAGE = Reply("451", "4.3.0", "The message could not be stored, try again later")
    FULL = Reply("452", "4.3.1", "No room for the message now, try again later")
    BUSY = Reply("451", "4.3.2", "Too busy now, try again soon")
    INTERNAL = Reply("451", "4.3.0", "Something went wrong here, try again later")

    @classmethod
    def for_fault(cls, fault: Fault) -> Reply:
        """The reply of SMTP to a fault of ours: always temporary."""
        return _SMTP_FAULTS[fault]


_SMTP_FAULTS: Final = {
    Fault.STORAGE: Smtp.STORAGE,
    Fault.FULL: Smtp.FULL,
    Fault.BUSY: Smtp.BUSY,
    Fault.STOPPING: Smtp.STOPPING.fill(host="The server"),
    Fault.DAMAGED: Smtp.STORAGE,
}


class Pop3:
    """The replies of POP3 (RFC 1939, RFC 2449 §8, RFC 3206)."""

    GREETING = Reply("+OK", "", "{host} POP3 Posthouse", "POP3")
    USER_OK = Reply("+OK", "", "Send your password")
    LOGGED_IN = Reply("+OK", "", "Mailbox locked and ready")
    STAT = Reply("+OK", "", "{count} {size}")
    LIST = Reply("+OK", "", "{count} messages ({size} octets)")
    LIST_ONE = Reply("+OK", "", "{number} {size}")
    UIDL = Reply("+OK", "", "{count} messages, unique-ids follow")
    UIDL_ONE = Reply("+OK", "", "{number} {id}")
    RETR = Reply("+OK", "", "{size} octets")
    TOP = Reply("+OK", "", "the top of the message follows")
    DELETED = Reply("+OK", "", "msg deleted")
    NOOP = Reply("+OK", "", "nothing done, as asked")
    LAST = Reply("+OK", "", "{number}")
    RESET = Reply("+OK", "", "{count} messages ({size} octets)")
    CAPA = Reply("+OK", "", "capabilities follow")
    UTF8_OK = Reply("+OK", "", "UTF8 enabled")
    GOODBYE = Reply("+OK", "", "POP3 server saying goodbye...")
    AUTH_LIST = Reply("+OK", "", "mechanisms follow")
    NOT_FROM_HERE = Reply("-ERR", "SYS/PERM", "No service for your network here")
    RIGHTS_UNKNOWN = Reply("-ERR", "SYS/TEMP", "It cannot be found out now what your network may do, try again later")
    LOGIN_FAILED = Reply("-ERR", "AUTH", "Login refused: unknown user name or wrong password")
    LOGIN_NEEDS_TLS = Reply("-ERR", "", "No login without encryption from your network")
    LOGIN_BUSY = Reply("-ERR", "SYS/TEMP", "Too many logins at once, try again soon")
    AUTH_CANCELLED = Reply("-ERR", "", "Login cancelled, as asked")
    AUTH_MALFORMED = Reply("-ERR", "", "The login was not valid base64 or has the wrong form")
    AUTH_UNKNOWN = Reply("-ERR", "", "This mechanism is not offered; AUTH alone lists those that are")
    IN_USE = Reply("-ERR", "IN-USE", "The mailbox is in use by another session, try again soon")
    NO_USER = Reply("-ERR", "", "Say USER first")
    NO_TLS = Reply("-ERR", "", "STLS is not offered here")
    START_TLS = Reply("+OK", "", "Begin with TLS now")
    TLS_DONE = Reply("-ERR", "", "TLS protects this connection already")
    PIPELINE_BROKEN = Reply("-ERR", "", "Commands were sent before the reply to STLS, closing the connection")
    NO_APOP = Reply("-ERR", "", "APOP is not offered here")
    UNKNOWN_COMMAND = Reply("-ERR", "", "Unknown command")
    WRONG_STATE = Reply("-ERR", "", "{verb} is not possible now")
    SYNTAX = Reply("-ERR", "", "Syntax: {syntax}")
    LINE_TOO_LONG = Reply("-ERR", "", "Line too long")
    BAD_OCTETS = Reply("-ERR", "", "A command holds only printable characters")
    NO_SUCH_MESSAGE = Reply("-ERR", "", "No such message")
    ALREADY_DELETED = Reply("-ERR", "", "The message is marked as deleted")
    UPDATE_FAILED = Reply("-ERR", "SYS/TEMP", "The deletions could not be carried out, nothing was lost")
    TOO_MANY_ERRORS = Reply("-ERR", "", "Too many errors, closing the connection")
    TOO_MANY_SESSIONS = Reply("-ERR", "SYS/TEMP", "Too many connections, try again later")
    BANNED = Reply(
        "-ERR", "SYS/TEMP", "Refused for now: too many failed logins from your address, or the administrator's word"
    )
    TOO_MANY_IDLE = Reply("-ERR", "", "Too many commands that ask for no mail, closing the connection")
    TIMEOUT = Reply("-ERR", "", "Waited too long, closing the connection; nothing was deleted")
    STOPPING = Reply("-ERR", "SYS/TEMP", "The server is being stopped, try again in a minute")
    NOT_MAIL = Reply("-ERR", "", "This is a mail server, not a web server")
    NOT_TLS = Reply("-ERR", "", "This port does not begin with TLS; it speaks plain POP3 first")
    STORAGE = Reply("-ERR", "SYS/TEMP", "The mailbox cannot be read now, try again later")
    DAMAGED = Reply("-ERR", "SYS/PERM", "This message is damaged; tell the administrator")
    MAILDROP_DAMAGED = Reply("-ERR", "SYS/PERM", "The mailbox is damaged; tell the administrator")
    INTERNAL = Reply("-ERR", "SYS/TEMP", "Something went wrong here, try again later")

    @classmethod
    def for_fault(cls, fault: Fault) -> Reply:
        """The reply of POP3 to a fault of ours."""
        return _POP3_FAULTS[fault]


_POP3_FAULTS: Final = {
    Fault.STORAGE: Pop3.STORAGE,
    Fault.FULL: Pop3.STORAGE,
    Fault.BUSY: Pop3.LOGIN_BUSY,
    Fault.STOPPING: Pop3.STOPPING,
    Fault.DAMAGED: Pop3.DAMAGED,
}
