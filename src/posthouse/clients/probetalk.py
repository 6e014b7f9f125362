"""One connection of the probe: as little of SMTP or POP3 as it takes to see what a server offers.

No login is ever tried and no letter begun. Every wait, line and list is bounded by the cores and by `patience`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Protocol

from posthouse.clients.failure import Failure, Kind, dial, next_of
from posthouse.net.encryption import TlsFailed
from posthouse.net.wire import Wire
from posthouse.pop3 import client as pop3
from posthouse.pop3.commands import Capa, Stls
from posthouse.pop3.commands import Noop as Pop3Noop
from posthouse.pop3.commands import Quit as Pop3Quit
from posthouse.ports.system import SessionObserver
from posthouse.smtp import client as smtp
from posthouse.smtp.commands import Ehlo, Expn, Noop, Quit, StartTls, Vrfy

FEATURES: Final = 100  # lines of EHLO or CAPA that are kept
FEATURE: Final = 200  # characters of one


@dataclass(slots=True)
class Secured:
    """A connection that went over to TLS."""

    version: str
    cipher: str
    certificate: bytes | None


class Talk(Protocol):
    """What the probe asks of a protocol."""

    wire: Wire

    async def greet(self) -> str:
        """The greeting. Raises Failure, also when the server does not want to talk."""
        ...

    async def features(self) -> list[str]:
        """What the server offers now."""
        ...

    async def ask_for_tls(self, *, stuffed: bool = False) -> bool:
        """Asks for TLS; whether the server agrees. `stuffed`: a command stands behind the request, in the same packet.
        False also when that was answered before the handshake."""
        ...

    async def farewell(self) -> int:
        """Says goodbye; how many replies came, at most two."""
        ...


class _Base:
    def __init__(self, wire: Wire, patience: float) -> None:
        self.wire = wire
        self.patience = patience
        wire.patience = wire.stall_timeout = patience

    def close(self) -> None:
        """Drops the connection."""
        self.wire.abort()
        if self.wire.tap is not None:
            self.wire.tap.closed()
            self.wire.tap = None


class SmtpTalk(_Base):
    """SMTP and submission."""

    def __init__(self, wire: Wire, patience: float) -> None:
        super().__init__(wire, patience)
        self.core = smtp.SmtpClientCore(None if wire.tap is None else wire.tap.received)
        self._events: AsyncGenerator[smtp.Event, None] = wire.events(self.core)

    async def greet(self) -> str:
        """220, or Failure (RFC 5321 §3.1)."""
        answer = await self._next("greeting")
        if answer.code != 220:
            kind = Kind.TEMPORARY if answer.temporary else Kind.REFUSED
            raise Failure(kind, "greeting", "the server does not want to talk to us", answer.said)
        return answer.said

    async def features(self) -> list[str]:
        """The keyword lines of EHLO; none where the server knows only HELO."""
        host = self.wire.local.host.partition("%")[0]
        answer = await self._say(Ehlo(f"[IPv6:{host}]" if ":" in host else f"[{host}]"), "ehlo")
        if not answer.positive:
            return []
        return [line[4:].decode("utf-8", "replace").strip()[:FEATURE] for line in answer.lines[1 : FEATURES + 1]]

    async def ask_for_tls(self, *, stuffed: bool = False) -> bool:
        """STARTTLS (RFC 3207 §4)."""
        octets = self.core.send(StartTls())
        self.wire.write(octets + self.core.send(Noop()) if stuffed else octets)
        answer = await self._next("tls")
        self.wire.pause()
        return answer.code == 220 and not (self.core.left_over or self.wire.unread)

    async def farewell(self) -> int:
        """QUIT."""
        self.wire.write(self.core.send(Quit()))
        await self._next("quit")
        try:
            await self._next("quit")
        except Failure:
            return 1
        return 2

    async def verify(self, name: str) -> int:
        """The reply code of VRFY."""
        return (await self._say(Vrfy(name), "vrfy")).code

    async def expand(self, name: str) -> int:
        """The reply code of EXPN."""
        return (await self._say(Expn(name), "expn")).code

    async def _say(self, command: smtp.Command, stage: str) -> smtp.Answer:
        self.wire.write(self.core.send(command))
        return await self._next(stage)

    async def _next(self, stage: str) -> smtp.Answer:
        event = await next_of(self._events, stage, self.patience)
        if event.answer.code == 421 and stage != "quit":
            raise Failure(Kind.TEMPORARY, stage, "the server closes the connection", event.answer.said)
        return event.answer


class Pop3Talk(_Base):
    """POP3."""

    def __init__(self, wire: Wire, patience: float) -> None:
        super().__init__(wire, patience)
        self.core = pop3.Pop3ClientCore(None if wire.tap is None else wire.tap.received)
        self._events: AsyncGenerator[pop3.Event, None] = wire.events(self.core)

    async def greet(self) -> str:
        """+OK, or Failure (RFC 1939 §4)."""
        answer = (await self._next("greeting")).answer
        if not answer.positive:
            raise Failure(Kind.REFUSED, "greeting", "the server does not want to talk to us", answer.text)
        return answer.text

    async def features(self) -> list[str]:
        """The lines of CAPA; none where the server does not know it (RFC 2449 §5)."""
        self.wire.write(self.core.send(Capa()))
        answered = await self._next("capa")
        if not answered.more:
            return []
        octets = b""
        while not isinstance(event := await next_of(self._events, "capa", self.patience), pop3.Ended):
            if isinstance(event, pop3.Piece):
                octets += event.octets
            if len(octets) > FEATURES * FEATURE:
                raise Failure(Kind.PROTOCOL, "capa", "the server sent a list that is too long to be one")
        return [line.decode("utf-8", "replace").strip()[:FEATURE] for line in octets.split(b"\n") if line.strip()]

    async def ask_for_tls(self, *, stuffed: bool = False) -> bool:
        """STLS (RFC 2595 §4)."""
        octets = self.core.send(Stls())
        self.wire.write(octets + self.core.send(Pop3Noop()) if stuffed else octets)
        answered = await self._next("tls")
        self.wire.pause()
        return answered.answer.positive and not (self.core.left_over or self.wire.unread)

    async def farewell(self) -> int:
        """QUIT."""
        self.wire.write(self.core.send(Pop3Quit()))
        await self._next("quit")
        try:
            await self._next("quit")
        except Failure:
            return 1
        return 2

    async def _next(self, stage: str) -> pop3.Answered:
        event = await next_of(self._events, stage, self.patience)
        if not isinstance(event, pop3.Answered):
            raise Failure(Kind.PROTOCOL, stage, "the server said something that nobody asked for")
        return event


async def open_talk(
    kind: str, host: str, port: int, patience: float, observer: SessionObserver | None = None
) -> SmtpTalk | Pop3Talk:
    """Connects; `kind` is smtp or pop3. The greeting is still to be read. Raises Failure."""
    wire = await dial(host, port, patience)
    if observer is not None:
        observer.note(f"connect {host} [{wire.peer.host}]:{wire.peer.port}")
        wire.tap = observer
    return SmtpTalk(wire, patience) if kind == "smtp" else Pop3Talk(wire, patience)


async def secure(talk: Talk, host: str, context: ssl.SSLContext, patience: float) -> Secured:
    """The handshake. Raises TlsFailed; then the connection is gone."""
    tls = await talk.wire.start_tls(context, timeout=patience, server_name=host.rstrip("."))
    encryption = talk.wire.encryption
    if encryption is None:
        raise TlsFailed("the connection was lost during the handshake")
    certificate = None if tls is None else tls.getpeercert(binary_form=True)
    return Secured(encryption.version, encryption.cipher, certificate)
