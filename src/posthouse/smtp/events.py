"""What the server's core tells its session: the commands that are to be decided, and what came of the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from posthouse.mail.reply import Reply
from posthouse.smtp.commands import AnyCommand
from posthouse.smtp.rules import Offence


@dataclass(slots=True)
class Settled:
    """The reply to a command is known here. `fatal` closes the connection after it."""

    reply: Reply
    fatal: bool = False
    offence: Offence | None = Offence.ERROR


@dataclass(slots=True)
class ContentArrived:
    """Octets of the message, to be kept as they are. They may be none: then the peer only showed that it lives."""

    octets: bytes


@dataclass(slots=True)
class DataEnded:
    """The message is complete. `failure` is what is wrong with it; `fatal` closes the connection after the reply."""

    failure: Reply | None
    fatal: bool = False


@dataclass(slots=True)
class ChunkEnded:
    """A chunk of BDAT is complete; after the last one so is the message."""

    size: int
    last: bool
    failure: Reply | None


@dataclass(slots=True)
class LoginStep:
    """The client begins a login by an offered mechanism, or with `mechanism` "" answers the last challenge. The reply
    334 asks for the next answer, every other ends the login. `response` None: there was no initial response."""

    mechanism: str
    response: bytes | None = field(repr=False)


Event = AnyCommand | Settled | ContentArrived | DataEnded | ChunkEnded | LoginStep
"""What a session sees. Of the commands only Ehlo, Helo, Lhlo, Mail, Rcpt, Data, Rset, StartTls and Quit reach it."""
