"""Whether a login works: one session that says who one is and leaves, for SMTP and for POP3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from posthouse.cli.reading import Access, Job, Session
from posthouse.cli.sending import own_name
from posthouse.clients.failure import Failure, Kind
from posthouse.clients.login import KNOWN
from posthouse.clients.smtp import SmtpClient
from posthouse.ports.system import SessionObserver
from posthouse.sasl.registry import CLEAR

NEXT: Final = (Kind.UNKNOWN_HOST, Kind.UNREACHABLE, Kind.PROTOCOL, Kind.CERTIFICATE, Kind.INSECURE, Kind.LOGIN)


@dataclass(slots=True)
class Candidate:
    """A server that may be the right one: its URL's scheme, how to get in (the login stands in `logins`), and who named
    it."""

    way: str
    scheme: str
    access: Access
    logins: Sequence[str]
    source: str


@dataclass(slots=True)
class Working:
    """A candidate that let us in, under which login, and how the connection was encrypted ("" for not at all)."""

    candidate: Candidate
    login: str
    encryption: str


async def first_working(
    candidates: Sequence[Candidate], observer: Callable[[], SessionObserver | None], said: Callable[[str, str], None]
) -> Working:
    """The first candidate that lets us in. One that cannot be used is told to `said` and the next one is tried; one
    that refuses all logins ends it, so that a password is not carried from door to door. Raises Failure."""
    last = Failure(Kind.UNKNOWN_HOST, "discovery", "no server was found")
    for candidate in candidates:
        for login in candidate.logins:
            try:
                encryption = await _try(candidate, login, observer())
            except Failure as failure:
                last = failure
                if failure.kind not in NEXT:
                    raise
                said(str(candidate.access.server), f"{login}: {failure}" if failure.reply else str(failure))
                if failure.kind is not Kind.LOGIN or not failure.reply:
                    break  # nobody looked at the login: the next server may
            else:
                return Working(candidate, login, encryption)
        else:
            raise last
    raise last


async def _try(candidate: Candidate, login: str, observer: SessionObserver | None) -> str:
    access = replace(candidate.access, login=login)
    return await (_smtp(access, observer) if candidate.way == "send" else _pop3(access))


async def _smtp(access: Access, observer: SessionObserver | None) -> str:
    client = await SmtpClient.connect(
        access.server.host,
        access.server.port or 587,  # RFC 6409 §3.1
        timeout=access.timeout,
        observer=observer,
        security=access.security,
    )
    try:
        await client.greet()
        await client.hello(own_name(client))
        if client.mechanism is None:
            raise Failure(Kind.LOGIN, "auth", f"the server offers no login that we know ({KNOWN})")
        if client.mechanism in CLEAR and not (client.private or access.insecure):
            raise Failure(Kind.LOGIN, "auth", "the server offers no encryption, and the password was not sent in clear")
        await client.login(access.login, access.password)
        encryption = str(client.wire.encryption or "")
        await client.quit()
    finally:
        client.close()
    return encryption


async def _pop3(access: Access) -> str:
    session = Session(access, Job("test", []), None)
    try:
        await session.open()
        encryption = str(session.client.wire.encryption or "")
        await session.leave()
    except Failure as failure:
        if failure.kind is Kind.IN_USE:  # RFC 2449 §8.1.1: the password was right
            return ""
        raise
    finally:
        session.close()
    return encryption
