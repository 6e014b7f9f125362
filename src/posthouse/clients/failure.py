"""What can go wrong in a session with somebody else's server, in the words a person needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum
from typing import TypeVar

from posthouse.mail.reply import PeerError
from posthouse.net.dial import DialError, UnknownHost, Unreachable, connect
from posthouse.net.wire import Wire
from posthouse.smtp.client import Answer

E = TypeVar("E")


class Kind(Enum):
    """What sort of failure it is. The command line has an exit code for each."""

    UNKNOWN_HOST = "unknown host"
    UNREACHABLE = "unreachable"  # also: no answer in time, the line was lost
    PROTOCOL = "protocol"  # the server does not speak the protocol
    LOGIN = "login"  # login refused, or impossible without risk
    CERTIFICATE = "certificate"  # the server's certificate is not accepted
    INSECURE = "insecure"  # encryption was asked for and is not to be had
    REFUSED = "refused"  # refused for good
    TEMPORARY = "temporary"  # refused for now
    IN_USE = "in use"  # another session holds the maildrop
    LOCAL = "local"  # a file of ours could not be read or changed meanwhile
    UNCERTAIN = "uncertain"  # the line was lost when the message may have been taken already


class Failure(Exception):
    """A session that ended before its purpose. `stage` is the step it failed at (`connect`, `greeting`, `ehlo`,
    `auth`, ...), `reply` the server's own words or "", the text says what happened; `answer` is the reply of an SMTP
    server that meant it."""

    def __init__(self, kind: Kind, stage: str, text: str, reply: str = "", answer: Answer | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.stage = stage
        self.reply = reply
        self.answer = answer


class Injected(Failure):
    """Something stood between the plain and the encrypted part of a session, where nothing may stand."""


def refusal(answer: Answer, stage: str, text: str) -> Failure:
    """The failure that a negative reply of an SMTP server means."""
    return Failure(Kind.TEMPORARY if answer.temporary else Kind.REFUSED, stage, text, answer.said, answer)


def closed(stage: str) -> Failure:
    """The failure that a lost line means."""
    return Failure(Kind.UNREACHABLE, stage, "the server closed the connection")


def silent(stage: str, seconds: float) -> Failure:
    """The failure that a silence means."""
    return Failure(Kind.UNREACHABLE, stage, f"the server did not answer within {seconds:g} s")


def broken(error: PeerError, stage: str) -> Failure:
    """The failure that words outside the protocol mean."""
    return Failure(Kind.PROTOCOL, stage, error.reply.text)


async def dial(host: str, port: int, timeout: float) -> Wire:
    """Opens a connection. Raises Failure."""
    try:
        return await connect(host, port, timeout)
    except DialError as error:
        kind = Kind.UNKNOWN_HOST if isinstance(error, UnknownHost) else Kind.UNREACHABLE
        raise Failure(kind, "connect", str(error)) from error


async def next_of(events: AsyncIterator[E], stage: str, seconds: float) -> E:
    """The next event of a session. Raises Failure when the server breaks off, is silent or breaks the protocol."""
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise closed(stage) from None
    except TimeoutError:
        raise silent(stage, seconds) from None
    except PeerError as error:
        raise broken(error, stage) from error


__all__ = [
    "DialError",
    "Failure",
    "Injected",
    "Kind",
    "Unreachable",
    "broken",
    "closed",
    "dial",
    "next_of",
    "refusal",
    "silent",
]
