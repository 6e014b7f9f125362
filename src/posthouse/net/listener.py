"""Sockets that wait for connections, and the sessions that came of them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from posthouse.net.buffers import Buffers
from posthouse.net.wire import Wire
from posthouse.observe.log import Log
from posthouse.ports.gate import Gate, Refusal
from posthouse.ports.system import Endpoint

BACKLOG: Final = 1024  # connections the kernel keeps for us until they are accepted

Session = Callable[[Wire], Awaitable[None]]


@dataclass(slots=True, frozen=True)
class Service:
    """What a listener does with a connection: its session, or the whole reply to one beyond the bound (`refusal`),
    to one that comes while the server stops (`stopped`), and to one that is `banned`. With `protect` the connection
    goes over to TLS before anything is said; when that fails there is no session."""

    session: Session
    refusal: bytes
    stopped: bytes
    protect: Callable[[Wire], Awaitable[bool]] | None = None
    banned: bytes = b""


class ListenError(Exception):
    """An address cannot be listened on. Its text says why and what to do."""


@dataclass(slots=True)
class Sessions:
    """All sessions of a server: how many there may be, who is let in (`gate`; without one everybody), and how they
    end."""

    most: int
    log: Log
    gate: Gate | None = None
    buffers: Buffers = field(default_factory=Buffers)
    running: dict[asyncio.Task[None], Wire] = field(default_factory=dict)
    stopping: bool = False

    def begin(self, wire: Wire, service: Service) -> None:
        """Starts the session of a new connection, or refuses it with a reply."""
        refusal = self._refuse(wire, service)
        if refusal is not None:
            if service.protect is None:
                wire.write(refusal)
            wire.close()
            return
        if service.protect is not None:
            wire.pause()  # the handshake is not ours to read
        task = asyncio.get_running_loop().create_task(self._run(wire, service))
        self.running[task] = wire
        task.add_done_callback(self._ended)

    def _refuse(self, wire: Wire, service: Service) -> bytes | None:
        """The whole reply to a connection that is not served, or None; then the gate has counted it."""
        if self.stopping:
            return service.stopped
        if len(self.running) >= self.most:
            self.log.warning("connection_refused", peer=wire.peer.host, reason="limit", limit=f"{self.most} in all")
            return service.refusal
        if self.gate is None:
            return None
        refused = self.gate.enter(wire.peer.host)
        if refused is None:
            return None
        return service.banned if refused is Refusal.BANNED else service.refusal

    async def _run(self, wire: Wire, service: Service) -> None:
        try:
            if service.protect is None or await service.protect(wire):
                await service.session(wire)
        except Exception as error:  # the top of every session: a bug of ours ends this one only
            self.log.exception("session_failed", peer=str(wire.peer), error=type(error).__name__)
        finally:
            wire.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        wire = self.running.pop(task)
        if self.gate is not None:
            self.gate.leave(wire.peer.host)

    async def stop(self, seconds: float) -> int:
        """Asks every session to end: who waits is told so at once, who is sending a message may finish it. After
        `seconds` the rest is cut off; returns how many those were."""
        self.stopping = True
        for wire in self.running.values():
            wire.ask_to_stop()
        if self.running:
            await asyncio.wait(list(self.running), timeout=seconds)
        left = list(self.running.items())
        for task, wire in left:
            task.cancel()
            wire.abort()
        if left:
            await asyncio.wait([task for task, _ in left], timeout=1.0)
        return len(left)


class Listener:
    """One listening address."""

    __slots__ = ("_server", "_service", "_sessions", "protocol")

    def __init__(self, protocol: str, sessions: Sessions, service: Service) -> None:
        self.protocol = protocol
        self._sessions = sessions
        self._service = service
        self._server: asyncio.Server | None = None

    def serve(self, service: Service) -> None:
        """Does this with connections from now on; running sessions go on as they began."""
        self._service = service

    async def open(self, host: str, port: int) -> list[Endpoint]:
        """Starts accepting. An empty host or "*" means every address of the machine, IPv4 and IPv6. Returns the
        addresses; port 0 takes any free port. Raises ListenError."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._wire, None if host in ("", "*") else host, port, backlog=BACKLOG
            )
        except OSError as error:
            raise ListenError(_explain(self.protocol, host or "*", port, error)) from error
        return self.addresses

    @property
    def addresses(self) -> list[Endpoint]:
        """Where it listens."""
        sockets = () if self._server is None else self._server.sockets
        return [Endpoint(*sock.getsockname()[:2]) for sock in sockets]

    def close(self) -> None:
        """Stops accepting; running sessions go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _wire(self) -> Wire:
        return Wire(self._sessions.buffers, self._begin)

    def _begin(self, wire: Wire) -> None:
        self._sessions.begin(wire, self._service)


def _explain(protocol: str, host: str, port: int, error: OSError) -> str:
    where = f"{protocol} cannot listen on {Endpoint(host, port)}"
    number = error.errno
    if number == errno.EADDRINUSE or "already in use" in str(error).lower():
        return (
            f"{where}: the port is in use by another program. Stop that program (`ss -ltnp` shows it) "
            f"or choose another port, for example --listen {protocol}={Endpoint(host, 0)}"
        )
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"{where}: ports below 1024 are for the administrator. Choose a port above 1023, "
            f"or give the program the capability CAP_NET_BIND_SERVICE, or start it as root"
        )
    # Since Python 3.13 asyncio says it in words, without the number.
    if number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or "could not bind on any address" in str(error):
        return f"{where}: this machine has no such address. `ip address` lists those it has"
    if isinstance(error, socket.gaierror):
        return f"{where}: the name {host!r} is not known. Give an IP address"
    return f"{where}: {error.strerror or error}"
