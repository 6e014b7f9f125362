"""Names of clients' addresses, from the hosts file and from DNS; nothing waits long for them.

A look-up starts when a connection is accepted and is awaited only when the name is written. It ends after a second
whatever DNS does. A name counts only when it leads back to the address: whoever owns an address may give it any
name, but not make the owner of that name agree (RFC 1912 §2.1 asks for such pairs).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from posthouse.config.schema import DnsSettings
from posthouse.config.values import is_host_name, split_host_port
from posthouse.net.sysfiles import (
    HOSTS,
    IP,
    LOOK_AGAIN,
    RESOLV_CONF,
    SystemFile,
    parse_ip,
    read_hosts,
    read_name_servers,
)

if TYPE_CHECKING:
    from posthouse.net.dnswire import Answer

MOST_AT_ONCE: Final = 256  # look-ups under way; further addresses have no name
MOST_NAMES: Final = 3  # names of one address that are tried
MOST_SERVERS: Final = 3  # name servers; resolv.conf(5) MAXNS
SHORTEST: Final = 60.0  # seconds a name is remembered at least and at most, whatever its TTL
LONGEST: Final = 3600.0
_WIRE: Final = "posthouse.net.dnswire"

T = TypeVar("T")


class _Unanswered(Exception):
    """No name server gave an answer."""


@dataclass(slots=True)
class _Known:
    """An answer that is there already."""

    value: str | None
    until: float = 0.0

    async def name(self) -> str | None:
        """The name of the address."""
        return self.value


_NOBODY: Final = _Known(None)


class _Lookup:
    """An answer that is being looked for."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[str | None]) -> None:
        self._task = task

    async def name(self) -> str | None:
        """The name of the address, once the look-up is over."""
        await asyncio.wait([self._task])
        return None if self._task.cancelled() else self._task.result()


class _Server:
    """One name server, and whether it is worth asking."""

    __slots__ = ("address", "dead_until", "probe")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.dead_until = 0.0
        self.probe: asyncio.Task[None] | None = None


class DnsResolver:
    """The resolver of a server (`ports.Resolver`). Lives on one event loop."""

    def __init__(
        self,
        settings: DnsSettings,
        *,
        hosts: Path = HOSTS,
        resolv_conf: Path = RESOLV_CONF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._hosts = SystemFile(hosts, clock, read_hosts)
        self._system = SystemFile(resolv_conf, clock, read_name_servers)
        self._servers: dict[tuple[str, int], _Server] = {}
        self._known: dict[str, _Known] = {}
        self._running: dict[str, _Lookup] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def reverse(self, address: str) -> _Known | _Lookup:
        """Starts looking for the name of an IP address; one that is known costs a microsecond."""
        known = self._known.get(address)
        if known is not None and known.until > self._clock():
            return known
        running = self._running.get(address)
        return self._begin(address) if running is None else running

    def close(self) -> None:
        """Breaks off what is under way: those look-ups found no name."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _begin(self, address: str) -> _Known | _Lookup:
        ip = parse_ip(address)
        if ip is None:
            return _NOBODY
        listed = self._hosts.read().get(ip)
        if listed is not None or not (ip.is_global or self._settings.servers):
            return self._remember(address, listed, LOOK_AGAIN)
        if len(self._running) >= MOST_AT_ONCE or self._closed or not self._alive():
            return _NOBODY
        lookup = self._running[address] = _Lookup(self._spawn(self._look_up(address, ip)))
        return lookup

    def _remember(self, address: str, name: str | None, seconds: float) -> _Known:
        known = _Known(name, self._clock() + seconds)
        self._known.pop(address, None)
        while len(self._known) >= self._settings.cache:
            del self._known[next(iter(self._known))]
        self._known[address] = known
        return known

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _look_up(self, address: str, ip: IP) -> str | None:
        try:
            async with asyncio.timeout(self._settings.timeout):
                name, seconds = await self._confirmed(ip)
        except (TimeoutError, _Unanswered):  # remembered for a moment only: it may be better soon
            name, seconds = None, min(self._settings.negative_cache, LOOK_AGAIN)
        finally:
            del self._running[address]
        self._remember(address, name, seconds)
        return name

    async def _confirmed(self, ip: IP) -> tuple[str | None, float]:
        """The first name of the address that leads back to it, and for how many seconds that may be remembered."""
        wire = await _wire()
        found = await self._ask(lambda server: wire.pointers(server, str(ip)))
        for pointer in found.records[:MOST_NAMES]:
            name = pointer.rstrip(".").lower()
            if not is_host_name(name):
                continue
            back = await self._ask(partial(wire.addresses, name=name, version=ip.version))
            if any(parse_ip(text) == ip for text in back.records):
                return name, min(max(min(found.ttl, back.ttl), SHORTEST), LONGEST)
        return None, self._settings.negative_cache

    # Name servers

    def _alive(self) -> list[_Server]:
        now = self._clock()
        return [server for server in self._all_servers() if server.dead_until <= now]

    def _all_servers(self) -> Iterator[_Server]:
        for text in self._settings.servers or self._system.read():
            host, port = split_host_port(text)
            address = (host, port or 53)
            server = self._servers.get(address)
            if server is None:
                server = self._servers[address] = _Server(address)
            yield server

    async def _ask(self, question: Callable[[tuple[str, int]], Awaitable[Answer]]) -> Answer:
        """The answer of the first name server that has one. Raises _Unanswered."""
        alive = self._alive()[:MOST_SERVERS]
        for number, server in enumerate(alive):
            answer = await self._exchange(server, question, self._settings.timeout / (len(alive) - number))
            if answer is not None:
                return answer
        raise _Unanswered

    async def _exchange(
        self, server: _Server, question: Callable[[tuple[str, int]], Awaitable[Answer]], patience: float
    ) -> Answer | None:
        """A server's answer, or None. One that cannot be reached is left alone for a while, as is one that was silent
        and stays so when it is asked for what every name server knows."""
        wire = await _wire()
        try:
            async with asyncio.timeout(patience):
                return await question(server.address)
        except TimeoutError:
            self._suspect(server)
        except OSError:
            self._bury(server)
        except wire.BadAnswer:
            return None
        except asyncio.CancelledError:
            # The whole look-up has run out of time while this server had not answered yet.
            self._suspect(server)
            raise
        return None

    def _suspect(self, server: _Server) -> None:
        if server.probe is None and server.dead_until <= self._clock() and not self._closed:
            server.probe = self._spawn(self._probe(server))

    async def _probe(self, server: _Server) -> None:
        """Asks again, something easy, so that somebody else's slow zone does not count against this server."""
        wire = await _wire()
        try:
            async with asyncio.timeout(self._settings.timeout):
                await wire.alive(server.address)
        except (TimeoutError, OSError):
            self._bury(server)
        finally:
            server.probe = None

    def _bury(self, server: _Server) -> None:
        server.dead_until = self._clock() + self._settings.dead_time


async def _wire() -> ModuleType:
    """The room that speaks DNS. Its library takes 60 ms and 6 MiB to load, which a server on loopback never needs, so
    it is loaded with the first look-up, and in a thread."""
    loaded = sys.modules.get(_WIRE)
    return loaded if loaded is not None else await asyncio.to_thread(import_module, _WIRE)
