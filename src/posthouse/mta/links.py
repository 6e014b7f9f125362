"""Sessions with other hosts: how one begins, and those that wait for a further letter (RFC 5321 §4.5.4.1)."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final

from posthouse.clients.failure import Failure, Injected, Kind, Unreachable
from posthouse.clients.security import Security, When
from posthouse.clients.smtp import SmtpClient
from posthouse.mail.limits import RelayLimits
from posthouse.mta.plan import Hop, Plan
from posthouse.net.race import Connect
from posthouse.net.tls import BadCertificate, Trust, client_context
from posthouse.net.wire import Wire
from posthouse.ports.system import Observer

STILL: Final = 1.0  # seconds after which a connection is asked whether it is still there before a letter is risked
GOODBYE: Final = 200  # sessions that say goodbye at the same time; further ones are just closed

Key = tuple[str, Hashable]
"""A destination, and what decided how it is reached."""

_WHEN: Final = {
    "none": When.NEVER,
    "opportunistic": When.OFFERED,
    "required": When.ALWAYS,
    "verified": When.ALWAYS,
    "implicit": When.AT_ONCE,
}
VERIFIED: Final = ("verified", "implicit")


@dataclass(slots=True)
class Link:
    """A session that is ready for a letter. `dirty` when a transaction was begun in it and not ended."""

    client: SmtpClient
    host: str
    address: str
    port: int
    born: float
    letters: int = 0
    dirty: bool = False
    parked: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether nothing speaks against using it: an idle host has nothing to say."""
        wire, core = self.client.wire, self.client.core
        return not (wire.lost or wire.ended or wire.unread or core.waiting or core.left_over)


class Opener:
    """Begins sessions: greeting, EHLO or LHLO, TLS and login as a plan has it."""

    def __init__(
        self,
        connect: Connect,
        limits: RelayLimits,
        *,
        name: str,
        observer: Observer | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._connect = connect
        self._limits = limits
        self._name = name
        self._observer = observer
        self._trust = trust or Trust()
        self._patience = limits.patience()
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._loop = asyncio.get_running_loop()

    async def open(self, wire: Wire, hop: Hop, address: str, plan: Plan, seconds: float) -> Link:
        """A session over this connection, which has so many `seconds` in all. Where TLS is taken as it is offered and
        cannot begin, there is a second connection without it: better a letter in the clear than none (RFC 7435 §3).
        Raises Failure; then nothing is left open."""
        try:
            security = await self._security(plan)
        except BaseException:
            wire.abort()
            raise
        try:
            return await self._begin(wire, hop, address, plan, security, seconds)
        except Failure as failure:
            if plan.tls != "opportunistic" or failure.stage != "tls" or isinstance(failure, Injected):
                raise
        try:
            wire = await self._connect(address, hop.port, self._limits.connect)
        except Unreachable as error:
            raise Failure(Kind.UNREACHABLE, "connect", str(error)) from error
        return await self._begin(wire, hop, address, plan, Security(When.NEVER), seconds)

    async def _security(self, plan: Plan) -> Security:
        blind = plan.tls not in VERIFIED
        trust = Trust(blind=True) if blind else self._trust
        if plan.tls == "none":
            return Security(When.NEVER)
        if blind not in self._contexts:
            try:  # in a thread: the authorities of a system are some hundred, and take their time to be read
                self._contexts[blind] = await asyncio.to_thread(client_context, trust)
            except BadCertificate as error:
                raise Failure(Kind.LOCAL, "tls", str(error)) from error
        return Security(_WHEN[plan.tls], trust, here=self._limits.tls_here, context=self._contexts[blind])

    async def _begin(self, wire: Wire, hop: Hop, address: str, plan: Plan, security: Security, seconds: float) -> Link:
        session = None
        if self._observer is not None:
            session = self._observer.session(plan.protocol, wire.local, wire.peer)
        client = SmtpClient(
            wire,
            observer=session,
            host=_certified(hop.host, address),
            security=security,
            patience=self._patience,
            lmtp=plan.protocol == "lmtp",
        )
        client.note(f"connected to {hop.host} [{address}]:{hop.port}")
        client.limit(seconds)
        try:
            if security.when is When.AT_ONCE:
                await client.protect()
            await client.greet()
            await client.hello(self._name)
            if plan.login is not None:
                await _login(client, *plan.login)
        except BaseException as error:
            if isinstance(error, Failure):
                client.note(f"given up: {error}")
            client.close()
            raise
        return Link(client, hop.host, address, hop.port, self._loop.time())


async def _login(client: SmtpClient, name: str, password: str) -> None:
    if not client.private:
        text = "the login of the route would pass in the clear, as the host offers no encryption"
        raise Failure(Kind.INSECURE, "auth", text)
    await client.login(name, password)


def _certified(host: str, address: str) -> str:
    """The name that a certificate must be for: that of the host, of an address literal the address."""
    plain = host.rstrip(".")
    labels = plain.split(".")
    fits = plain.isascii() and len(plain) <= 253 and all(0 < len(label) <= 63 for label in labels)
    return plain if fits and not plain.startswith("[") else address


class Pool:
    """The sessions that wait for a further letter, few and not for long."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Key, deque[Link]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self, key: Key) -> Link | None:
        """A session with a host of this destination, the last one that was used."""
        links = self._waiting.get(key)
        while links:
            link = links.pop()
            self._count -= 1
            if not links:
                del self._waiting[key]
            if link.alive:
                return link
            link.client.close()
        return None

    def put(self, key: Key, link: Link) -> None:
        """Keeps a session, or says goodbye to it when it has served enough."""
        limits, now = self._limits, self._loop.time()
        links = self._waiting.get(key)
        full = self._count >= limits.idle_connections or (links is not None and len(links) >= limits.idle_each)
        worn = link.letters >= limits.letters or now - link.born >= limits.age
        if full or worn or self._closed or limits.idle <= 0 or not link.alive:
            self.dismiss(link)
            return
        link.parked = now
        if links is None:
            links = self._waiting[key] = deque()
        links.append(link)
        self._count += 1
        if self._timer is None:
            self._timer = self._loop.call_later(limits.idle, self._sweep)

    def since(self, link: Link) -> float:
        """Seconds since a session was put here."""
        return self._loop.time() - link.parked

    def dismiss(self, link: Link) -> None:
        """Says goodbye; nobody waits for it."""
        if not link.alive or len(self._leaving) >= GOODBYE:
            link.client.close()
            return
        task = self._loop.create_task(link.client.quit())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        for link in list(self._old(now - self._limits.idle)):
            self.dismiss(link)
        if self._waiting:
            first = min(links[0].parked for links in self._waiting.values())
            self._timer = self._loop.call_at(max(first + self._limits.idle, now + 0.1), self._sweep)

    def _old(self, before: float) -> Iterator[Link]:
        for key, links in list(self._waiting.items()):
            while links and links[0].parked <= before:
                self._count -= 1
                yield links.popleft()
            if not links:
                del self._waiting[key]

    async def close(self) -> None:
        """Says goodbye to all."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for link in list(self._old(float("inf"))):
            self.dismiss(link)
        await asyncio.gather(*self._leaving, return_exceptions=True)
