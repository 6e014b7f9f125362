"""What a server offers on the ports of mail, and what is weak about it.

A few connections for each port, one after the other: as a careful client, as one that believes anything (where the
careful one was refused), with old versions of TLS, and with a command put behind STARTTLS. All ports at once, and all
of it ends in time; what was found until then counts.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from posthouse.clients.failure import Failure, Kind, dial
from posthouse.clients.probetalk import Pop3Talk, Secured, SmtpTalk, open_talk, secure
from posthouse.net.dial import Unreachable, is_loopback
from posthouse.net.encryption import TlsFailed
from posthouse.net.tlsprobe import OLD, CertificateFacts, blind, facts_of, only
from posthouse.ports.system import SessionObserver

PATIENCE: Final = 15.0  # seconds for one reply: some servers let strangers wait for the greeting
BANNER: Final = 512  # octets of a banner that is only shown


@dataclass(slots=True, frozen=True)
class Service:
    """A protocol on a port. `kind` is smtp, pop3 or "" for one that is only looked at; `at_once`: begins with TLS."""

    name: str
    kind: str
    port: int
    at_once: bool = False


SERVICES: Final = {  # RFC 5321 §4.5.4.2, RFC 8314 §3, RFC 6409 §3.1, RFC 1939 §3
    service.name: service
    for service in (
        Service("smtp", "smtp", 25),
        Service("submissions", "smtp", 465, at_once=True),
        Service("submission", "smtp", 587),
        Service("pop3", "pop3", 110),
        Service("pop3s", "pop3", 995, at_once=True),
        Service("imap", "", 143),
        Service("imaps", "", 993, at_once=True),
    )
}


@dataclass(slots=True)
class PortReport:
    """What is known of one port. `state`: open, closed, silent; "" while nobody knows. `trouble`: why it went no
    further, in words. `inside`: what it offers within TLS. `verified`: None where no handshake came so far."""

    service: Service
    state: str = ""
    trouble: str = ""
    greeting: str = ""
    features: list[str] = field(default_factory=list)
    offers_tls: bool = False
    secured: Secured | None = None
    inside: list[str] = field(default_factory=list)
    verified: bool | None = None
    distrust: str = ""
    certificate: CertificateFacts | None = None
    old: list[str] = field(default_factory=list)
    injectable: bool | None = None
    verifies_names: bool = False
    expands_lists: bool = False
    finished: bool = False
    local: bool = False
    seconds: float = 0.0


async def probe(
    host: str,
    services: Sequence[Service],
    context: ssl.SSLContext,
    *,
    within: float,
    patience: float = PATIENCE,
    watch: Callable[[], SessionObserver] | None = None,
) -> list[PortReport]:
    """Looks at all of them, `within` so many seconds, of which each wait takes at most `patience`; `context` is that
    of a careful client. With `watch`, which gives an observer for each connection, one port after the other. Raises
    Failure when the host is not known."""
    reports = [PortReport(service) for service in services]
    turn = asyncio.Semaphore(1 if watch is not None else len(reports))
    tasks = [asyncio.ensure_future(_Look(host, report, context, turn, patience, watch).run()) for report in reports]
    try:
        await asyncio.wait(tasks, timeout=within)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [result for result in results if isinstance(result, Failure)]
    if failures and len(failures) == len(tasks):
        raise failures[0]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Failure | asyncio.CancelledError):
            raise result
    return reports


class _Look:
    """One port."""

    def __init__(
        self,
        host: str,
        report: PortReport,
        context: ssl.SSLContext,
        turn: asyncio.Semaphore,
        patience: float,
        watch: Callable[[], SessionObserver] | None,
    ) -> None:
        self.host = host
        self.report = report
        self.service = report.service
        self._context = context
        self._turn = turn
        self._patience = patience
        self._watch = watch

    async def run(self) -> None:
        """Everything about it. Raises Failure for a host that is not known, nothing else that a server can cause."""
        async with self._turn:
            begun = time.monotonic()
            try:
                await self._all()
                self.report.finished = True
            finally:
                self.report.seconds = time.monotonic() - begun

    async def _all(self) -> None:
        report = self.report
        try:
            if not self.service.kind:
                await self._only_open()
                return
            await self._first()
        except Failure as failure:
            self._tell(failure)
            return
        if report.offers_tls or self.service.at_once:
            await self._more_of_tls()
        if self.service.kind == "smtp":
            await self._strangers()

    async def _more_of_tls(self) -> None:
        report = self.report
        if report.secured is None or report.verified is False:
            await self._believing()
        for version in OLD:
            if await self._handshake(only(version)):
                report.old.append(version)
        if not self.service.at_once:
            await self._injection()

    def _tell(self, failure: Failure) -> None:
        report = self.report
        if failure.kind is Kind.UNKNOWN_HOST:
            raise failure
        if failure.stage != "connect" or report.state == "open":
            report.state = "open"
            report.trouble = f"{failure} {failure.reply}".strip()
            return
        cause = failure.__cause__
        report.state = "closed" if isinstance(cause, Unreachable) and cause.refused else "silent"

    async def _only_open(self) -> None:
        wire = await dial(self.host, self.service.port, self._patience)
        self.report.state = "open"
        try:
            if not self.service.at_once:
                wire.patience = min(3.0, self._patience)
                octets = await wire.read()
                self.report.greeting = octets[:BANNER].split(b"\n")[0].decode("utf-8", "replace").strip()
        except TimeoutError:
            pass
        finally:
            wire.abort()

    async def _open(self) -> SmtpTalk | Pop3Talk:
        observer = None if self._watch is None else self._watch()
        return await open_talk(self.service.kind, self.host, self.service.port, self._patience, observer)

    async def _first(self) -> None:
        """As a careful client: everything that is said, TLS with verification, what is offered within."""
        report = self.report
        talk = await self._open()
        try:
            report.state = "open"
            report.local = is_loopback(talk.wire.peer.host)
            if not self.service.at_once:
                report.greeting = await talk.greet()
                report.features = await talk.features()
                keyword = "STARTTLS" if self.service.kind == "smtp" else "STLS"
                report.offers_tls = any(line.split()[:1] == [keyword] for line in map(str.upper, report.features))
                if not report.offers_tls:
                    await talk.farewell()
                    return
                if not await talk.ask_for_tls():
                    report.trouble = f"it offers {keyword} and does not begin with it"
                    return
            await self._go_over(talk, self._context, verified=True)
        except TlsFailed as failed:
            report.verified, report.distrust = False, str(failed)
        finally:
            talk.close()

    async def _go_over(self, talk: SmtpTalk | Pop3Talk, context: ssl.SSLContext, *, verified: bool) -> None:
        """The handshake, the certificate, and what is offered within."""
        report = self.report
        report.secured = await secure(talk, self.host, context, self._patience)
        report.verified = verified
        if report.secured.certificate is not None:
            report.certificate = facts_of(report.secured.certificate)
        if self.service.at_once:
            report.greeting = await talk.greet()
        report.inside = await talk.features()
        await talk.farewell()

    async def _believing(self) -> None:
        """Once more, taking any certificate: to see what was refused."""
        try:
            talk = await self._ready()
        except Failure as failure:
            self.report.trouble = self.report.trouble or str(failure)
            return
        if talk is None:
            return
        try:
            await self._go_over(talk, blind(), verified=False)
        except TlsFailed as failed:
            self.report.trouble = f"no handshake is possible: {failed}"
        except Failure as failure:
            self._tell(failure)
        finally:
            talk.close()

    async def _ready(self, *, stuffed: bool = False) -> SmtpTalk | Pop3Talk | None:
        """A connection on which a handshake may begin; None when the server does not agree. Raises Failure."""
        talk = await self._open()
        try:
            if not self.service.at_once:
                await talk.greet()
                await talk.features()
                if not await talk.ask_for_tls(stuffed=stuffed):
                    talk.close()
                    return None
        except BaseException:
            talk.close()
            raise
        return talk

    async def _handshake(self, context: ssl.SSLContext) -> bool:
        """Whether a handshake with this context succeeds."""
        try:
            talk = await self._ready()
        except Failure:
            return False
        if talk is None:
            return False
        try:
            await secure(talk, self.host, context, self._patience)
        except TlsFailed:
            return False
        finally:
            talk.close()
        return True

    async def _strangers(self) -> None:
        """Whether it tells strangers who has a mailbox (RFC 5321 §7.3): by VRFY, when an invented name gets another
        answer than one that every server has, and by EXPN. On a connection of its own, for it may be ended for that."""
        report = self.report
        try:
            talk = await self._open()
        except Failure:
            return
        try:
            assert isinstance(talk, SmtpTalk), "POP3 has no such commands"
            if self.service.at_once:
                await secure(talk, self.host, blind(), self._patience)
            await talk.greet()
            await talk.features()
            invented = await talk.verify(f"nobody-{secrets.token_hex(6)}")
            known = await talk.verify("postmaster")
            report.verifies_names = known in (250, 251) or (known == 252 and invented in (550, 551, 553))
            report.expands_lists = await talk.expand("postmaster") == 250
            await talk.farewell()
        except (Failure, TlsFailed):
            pass
        finally:
            talk.close()

    async def _injection(self) -> None:
        """Whether a command that came in clear behind STARTTLS is carried out within TLS (CVE-2011-0411 and its kin):
        then two replies come where one was asked for."""
        try:
            talk = await self._ready(stuffed=True)
        except Failure:
            return
        if talk is None:
            self.report.injectable = False
            return
        try:
            await secure(talk, self.host, blind(), self._patience)
            talk.patience = talk.wire.patience = min(3.0, self._patience)
            self.report.injectable = await talk.farewell() > 1
        except (TlsFailed, Failure):
            self.report.injectable = False
        finally:
            talk.close()
