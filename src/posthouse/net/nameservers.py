"""Which name servers are asked, in what order and for how long; those that do not answer are left alone for a while."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from posthouse.config.schema import DnsSettings
from posthouse.config.values import split_host_port
from posthouse.net.sysfiles import RESOLV_CONF, SystemFile, read_name_servers

if TYPE_CHECKING:
    from posthouse.net.dnswire import Answer

MOST_SERVERS: Final = 3  # name servers; resolv.conf(5) MAXNS
FIRST_PATIENCE: Final = 2.0  # seconds one server may take in the first round of a patient question, then twice as long
ROUNDS: Final = 4  # of a patient question: a datagram may be lost
_WIRE: Final = "posthouse.net.dnswire"

T = TypeVar("T")
Question = Callable[[tuple[str, int]], Awaitable["Answer"]]


class Unanswered(Exception):
    """No name server gave an answer. The text says why."""


class _Refused(Exception):
    """This name server has no answer, and will have none in a moment."""


class NameServer:
    """One name server, and whether it is worth asking."""

    __slots__ = ("address", "dead_until", "probe")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.dead_until = 0.0
        self.probe: asyncio.Task[None] | None = None


class NameServers:
    """The name servers of the configuration, or of this system. Lives on one event loop."""

    def __init__(
        self,
        settings: DnsSettings,
        *,
        resolv_conf: Path = RESOLV_CONF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._system = SystemFile(resolv_conf, clock, read_name_servers)
        self._servers: dict[tuple[str, int], NameServer] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts work that `close` breaks off."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def close(self) -> None:
        """Breaks off what is under way."""
        self.closed = True
        for task in self.tasks:
            task.cancel()

    def alive(self) -> list[NameServer]:
        """Those worth asking now."""
        now = self._clock()
        return [server for server in self._all() if server.dead_until <= now]

    def _all(self) -> Iterator[NameServer]:
        for text in self._settings.servers or self._system.read():
            host, port = split_host_port(text)
            address = (host, port or 53)
            server = self._servers.get(address)
            if server is None:
                server = self._servers[address] = NameServer(address)
            yield server

    async def ask(self, question: Question) -> Answer:
        """The answer of the first name server that has one, each asked once. Waits the setting's time for the last of
        them; the caller bounds the whole. Raises Unanswered."""
        alive = self.alive()[:MOST_SERVERS]
        for number, server in enumerate(alive):
            try:
                answer = await self._exchange(server, question, self._settings.timeout / (len(alive) - number))
            except _Refused:
                continue
            if answer is not None:
                return answer
        raise Unanswered

    async def insist(self, question: Question) -> Answer:
        """The same for a question that matters: silent servers are asked again, and when all are taken for dead, so
        are they. The caller bounds the whole. Raises Unanswered."""
        servers = (self.alive() or list(self._all()))[:MOST_SERVERS]
        why = "no name server answered" if servers else "no name server is known here"
        for turn in range(ROUNDS):
            for server in list(servers):
                try:
                    answer = await self._exchange(server, question, FIRST_PATIENCE * 2**turn)
                except _Refused as refused:
                    servers.remove(server)
                    why = str(refused)
                    continue
                if answer is not None:
                    return answer
            if not servers:
                break
        raise Unanswered(why)

    async def _exchange(self, server: NameServer, question: Question, patience: float) -> Answer | None:
        """A server's answer, or None when it was silent; one that stays so when it is asked for what every name server
        knows is left alone for a while, as is one that cannot be reached. Raises _Refused."""
        wire = await load_wire()
        try:
            async with asyncio.timeout(patience):
                return await question(server.address)
        except TimeoutError:
            self._suspect(server)
        except OSError:
            self._bury(server)
            raise _Refused("the name server cannot be reached") from None
        except wire.BadAnswer as error:
            raise _Refused(f"the name server failed ({error})") from None
        except asyncio.CancelledError:
            # The whole look-up has run out of time while this server had not answered yet.
            self._suspect(server)
            raise
        return None

    def _suspect(self, server: NameServer) -> None:
        if server.probe is None and server.dead_until <= self._clock() and not self.closed:
            server.probe = self.spawn(self._probe(server))

    async def _probe(self, server: NameServer) -> None:
        """Asks again, something easy, so that somebody else's slow zone does not count against this server."""
        wire = await load_wire()
        try:
            async with asyncio.timeout(self._settings.timeout):
                await wire.alive(server.address)
        except (TimeoutError, OSError):
            self._bury(server)
        finally:
            server.probe = None

    def _bury(self, server: NameServer) -> None:
        server.dead_until = self._clock() + self._settings.dead_time


async def load_wire() -> ModuleType:
    """The room that speaks DNS. Its library takes 60 ms and 6 MiB to load, which a server on loopback never needs, so
    it is loaded with the first look-up, and in a thread."""
    loaded = sys.modules.get(_WIRE)
    # It stands there half-made while the thread of another look-up is loading it; importing it waits for that.
    if loaded is not None and hasattr(loaded, "COMPLETE"):
        return loaded
    return await asyncio.to_thread(import_module, _WIRE)
