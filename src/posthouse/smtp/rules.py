"""The rules of a session: which commands there are, when each may come, and what is counted against a peer.

One table, `COMMANDS`; what EHLO announces, what HELP lists and the order of commands (RFC 5321 §4.1.4) derive from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from posthouse.mail.reply import Smtp
from posthouse.smtp.commands import (
    PARSERS,
    AnyCommand,
    Auth,
    Bdat,
    Data,
    Ehlo,
    Expn,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Obsolete,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)


class Mode(StrEnum):
    """What a listener speaks."""

    SMTP = "smtp"
    SUBMISSION = "submission"
    LMTP = "lmtp"


class State(StrEnum):  # its hash is C code, an Enum's is Python's
    """How far a session is between two commands."""

    START = "start"  # nobody said EHLO yet
    GREETED = "greeted"
    MAIL = "mail"  # a sender, no recipient yet
    RCPT = "rcpt"  # at least one recipient
    CHUNKS = "chunks"  # at least one chunk of BDAT, not the last
    FAILED = "failed"  # a chunk was refused: RSET is due (RFC 3030 §2)


@dataclass(slots=True)
class Rule:
    """One command: how it is read, when it may come, and what hangs on it."""

    parse: Callable[[str], AnyCommand]
    states: frozenset[State]
    event: type[AnyCommand]
    before_tls: bool = True  # harmless on a line that others can read
    ends_pipeline: bool = False  # must be the last of a group (RFC 2920 §3.1)
    secret: bool = False  # what follows the verb is masked wherever it is shown
    modes: frozenset[Mode] = frozenset(Mode)
    extension: str = ""  # the keyword of EHLO that stands for it


_ANY: Final = frozenset(State)
_GREETED: Final = frozenset({State.GREETED})
_MAIL: Final = frozenset({State.MAIL, State.RCPT})
_RCPT: Final = frozenset({State.RCPT})
_CHUNKS: Final = frozenset({State.RCPT, State.CHUNKS})
_SMTP: Final = frozenset({Mode.SMTP, Mode.SUBMISSION})
_LMTP: Final = frozenset({Mode.LMTP})

COMMANDS: Final[dict[str, Rule]] = {
    "EHLO": Rule(PARSERS["EHLO"], _ANY, Ehlo, ends_pipeline=True, modes=_SMTP),
    "HELO": Rule(PARSERS["HELO"], _ANY, Helo, ends_pipeline=True, modes=_SMTP),
    "LHLO": Rule(PARSERS["LHLO"], _ANY, Lhlo, ends_pipeline=True, modes=_LMTP),
    "MAIL": Rule(PARSERS["MAIL"], _GREETED, Mail),
    "RCPT": Rule(PARSERS["RCPT"], _MAIL, Rcpt),
    "DATA": Rule(PARSERS["DATA"], _RCPT, Data, ends_pipeline=True),
    "BDAT": Rule(PARSERS["BDAT"], _CHUNKS, Bdat, extension="CHUNKING"),
    "RSET": Rule(PARSERS["RSET"], _ANY, Rset),
    "AUTH": Rule(PARSERS["AUTH"], _GREETED, Auth, before_tls=False, ends_pipeline=True, secret=True, modes=_SMTP),
    "STARTTLS": Rule(PARSERS["STARTTLS"], _GREETED, StartTls, ends_pipeline=True),
    "NOOP": Rule(PARSERS["NOOP"], _ANY, Noop, ends_pipeline=True),
    "HELP": Rule(PARSERS["HELP"], _ANY, Help, extension="HELP"),
    "VRFY": Rule(PARSERS["VRFY"], _ANY, Vrfy, ends_pipeline=True),
    "EXPN": Rule(PARSERS["EXPN"], _ANY, Expn, ends_pipeline=True),
    "QUIT": Rule(PARSERS["QUIT"], _ANY, Quit),
    "TURN": Rule(PARSERS["TURN"], _ANY, Obsolete, ends_pipeline=True),
    "SEND": Rule(PARSERS["SEND"], _ANY, Obsolete),
    "SOML": Rule(PARSERS["SOML"], _ANY, Obsolete),
    "SAML": Rule(PARSERS["SAML"], _ANY, Obsolete),
}
"""All commands. EHLO, HELP and the order of commands derive from here."""

REFUSED_ALWAYS: Final = frozenset({"EXPN", "TURN", "SEND", "SOML", "SAML"})  # HELP does not list them
BEYOND_ASCII: Final = frozenset({"MAIL", "RCPT", "VRFY", "EXPN"})  # RFC 6531 §3.3, §3.7.4.2
HTTP: Final = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI"})

OUT_OF_ORDER: Final = {
    State.START: Smtp.NEED_HELO,
    State.GREETED: Smtp.NEED_MAIL,
    State.MAIL: Smtp.NEED_RCPT_FIRST,
    State.RCPT: Smtp.NESTED_MAIL,
    State.CHUNKS: Smtp.NOT_IN_BDAT,
    State.FAILED: Smtp.BDAT_FAILED,
}
"""What a command that may not come now is told."""


class Offence(StrEnum):
    """What is counted against a peer."""

    ERROR = "error"
    RECIPIENT = "recipient"
    LOGIN = "login"
    IDLE = "idle"


LIMITS: Final = {
    Offence.ERROR: "errors",
    Offence.RECIPIENT: "bad_recipients",
    Offence.LOGIN: "login_failures",
    Offence.IDLE: "idle_commands",
}
