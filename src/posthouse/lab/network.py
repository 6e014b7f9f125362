"""The network in the box: machines with addresses, what listens on them, and what goes wrong between them.

A program in the box opens and accepts connections with the same calls of the event loop as everywhere else; on which
machine it runs is a matter of its context, as it is a matter of its network namespace on a real system (ADR 0122).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from math import inf
from random import Random
from typing import Any, Final
from weakref import WeakSet

from posthouse.lab.loop import MovableLoop
from posthouse.lab.transport import Condition, MemoryTransport, join
from posthouse.ports.system import Endpoint

LOOPBACK: Final = ("127.0.0.1", "::1")
FIRST_PORT: Final = 32_768  # of the ports that callers get; ip(7) ip_local_port_range
LAST_PORT: Final = 60_999
SYN_TIMES: Final = (0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0)  # when a call is repeated; tcp(7) tcp_syn_retries 6
SYN_END: Final = 127.0
LATENCY: Final = 0.02  # seconds one way, where nothing else is said

HERE: ContextVar[Machine] = ContextVar("HERE")
"""The machine on which the running code runs."""


CALLED: ContextVar[Call | None] = ContextVar("CALLED", default=None)
"""The connection that a server accepted and that the running code serves."""


class How(StrEnum):
    """What an outage does."""

    SILENT = "silent"  # nothing comes through, as when its line is cut
    REFUSED = "refused"  # the machine answers that nothing listens, and ends what was open
    MUTE = "mute"  # connections are accepted, and nothing is ever said
    CUT = "cut"  # connections are reset once the caller has sent `octets`
    DOT = "dot"  # connections are reset when the server has taken a letter and answers: the reply is lost (RFC 1047)
    SLOW = "slow"  # everything takes `delay` seconds longer
    OFF = "off"  # the machine itself is switched off


@dataclass(slots=True, frozen=True)
class Outage:
    """Something wrong with a machine from `begin` until `end`, in seconds of the box; with a `peer` only between the
    two. `share` of the connections meet it."""

    host: str
    how: How
    begin: float = 0.0
    end: float = inf
    peer: str = ""
    share: float = 1.0
    octets: int = 0
    delay: float = 0.0

    def concerns(self, one: str, other: str, now: float) -> bool:
        """Whether it holds now between two machines."""
        if not self.begin <= now < self.end or self.host not in (one, other):
            return False
        return not self.peer or self.peer in (one, other)


@dataclass(slots=True, eq=False)
class Machine:
    """A machine in the box. `wake` is called once, before its first connection is accepted."""

    name: str
    addresses: tuple[str, ...]
    latency: float = LATENCY
    bandwidth: float = 0.0  # octets a second, 0 for no bound
    wake: Callable[[], Awaitable[None]] | None = None
    awake: asyncio.Task[None] | None = None
    services: dict[tuple[str, int], Callable[[], asyncio.BaseProtocol]] = field(default_factory=dict)
    context: Context = field(default_factory=copy_context)
    port: int = FIRST_PORT
    off: bool = False
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    links: WeakSet[MemoryTransport] = field(default_factory=WeakSet)

    def __post_init__(self) -> None:
        self.context.run(HERE.set, self)

    def address_to(self, target: str) -> str:
        """Its address from which it calls another. Raises OSError when it has none of that kind."""
        if target in LOOPBACK:
            return target
        for address in self.addresses:
            if (":" in address) == (":" in target):
                return address
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    def next_port(self) -> int:
        """A port for a call; after many calls they come again."""
        self.port = self.port + 1 if self.port < LAST_PORT else FIRST_PORT
        return self.port


class Network:
    """All machines, and what is wrong with them."""

    def __init__(self, loop: BoxLoop, random: Random) -> None:
        self._loop = loop
        self._random = random
        self._machines: dict[str, Machine] = {}
        self._outages: dict[str, list[Outage]] = {}
        self.killed: WeakSet[asyncio.Task[Any]] = WeakSet()  # of machines that were switched off: nobody hears of them
        loop.network = self

    def add(self, machine: Machine) -> Machine:
        """One more machine. Raises ValueError when an address is taken."""
        for address in machine.addresses:
            if address in self._machines:
                raise ValueError(f"{address} is the address of {self._machines[address].name} already")
        for address in machine.addresses:
            self._machines[address] = machine
        return machine

    def machine(self, address: str) -> Machine:
        """The one that has this address. Raises KeyError."""
        return self._machines[address]

    def spoil(self, outages: Iterable[Outage]) -> None:
        """These things go wrong."""
        for outage in outages:
            self._outages.setdefault(outage.host, []).append(outage)

    def troubles(self, one: str, other: str) -> list[Outage]:
        """What is wrong now between two machines."""
        if not self._outages:
            return []
        known = [*self._outages.get(one, ()), *(self._outages.get(other, ()) if other != one else ())]
        now = self._loop.time()
        return [outage for outage in known if outage.concerns(one, other, now)]

    async def call(self, address: str, port: int) -> tuple[Call, Machine]:
        """Reaches a machine, as TCP does: the call is repeated until it is answered or given up. Raises OSError."""
        source = HERE.get()
        address = str(ip_address(address.partition("%")[0]))
        local = source.address_to(address)
        target = source if address in LOOPBACK or address in source.addresses else self._machines.get(address)
        begun = self._loop.time()
        for wait in SYN_TIMES:
            await self._until(begun + wait)
            if target is not None:
                call = Call(self, source, target, Endpoint(local, source.next_port()), Endpoint(address, port))
                if await call.answered():
                    return call, target
        await self._until(begun + SYN_END)
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    def switch_off(self, machine: Machine) -> None:
        """Cuts the power of a machine: nothing runs on it any more, and its connections end without a word. Its tasks
        are cancelled, and whatever they still do reaches nobody."""
        machine.off = True
        machine.services.clear()
        machine.awake = None
        self._loop.drop_handles(machine)
        for link in list(machine.links):
            link.lose_power()
        machine.links.clear()
        for task in list(machine.tasks):
            self.killed.add(task)
            task.cancel()
        machine.tasks.clear()

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self._loop.time()))

    def falls_on(self, outage: Outage) -> bool:
        """Whether this connection is one of those that meet it."""
        return outage.share >= 1.0 or self._random.random() < outage.share


class Call:
    """One connection between two machines (`transport.Road`)."""

    __slots__ = ("_doomed", "_met", "_network", "_sent", "local", "peer", "source", "target")

    def __init__(self, network: Network, source: Machine, target: Machine, local: Endpoint, peer: Endpoint) -> None:
        self._network = network
        self.source = source
        self.target = target
        self.local = local
        self.peer = peer
        self._met = [trouble for trouble in self._troubles() if network.falls_on(trouble)]
        self._sent = 0
        self._doomed = False

    def _troubles(self) -> list[Outage]:
        return [] if self.source is self.target else self._network.troubles(self.source.name, self.target.name)

    def _meets(self, how: How) -> Outage | None:
        return next((trouble for trouble in self._met if trouble.how is how), None)

    async def answered(self) -> bool:
        """Whether the machine answers a call now. Raises OSError when it refuses."""
        if self._meets(How.SILENT) or self._meets(How.OFF):
            return False
        await asyncio.sleep(2 * self.latency())  # there and back
        if self._meets(How.REFUSED):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return True

    @property
    def mute(self) -> bool:
        """Whether nobody will ever speak at the other end."""
        return self._meets(How.MUTE) is not None

    def latency(self) -> float:
        """Seconds from one end to the other."""
        if self.source is self.target:
            return 0.0
        usual = max(self.source.latency, self.target.latency)
        return usual + sum(trouble.delay for trouble in self._met if trouble.how is How.SLOW)

    def duration(self, octets: int) -> float:
        """Seconds that sending so many octets takes beside that."""
        if self.source is self.target:
            return 0.0
        return octets / min(self.source.bandwidth or inf, self.target.bandwidth or inf)

    def condition(self) -> Condition:
        """What happens to what arrives now."""
        if self._doomed:
            return Condition.RESET
        for trouble in self._troubles():
            if trouble.share >= 1.0 and trouble.how in (How.SILENT, How.OFF):
                return Condition.LOST
            if trouble.share >= 1.0 and trouble.how is How.REFUSED:
                return Condition.RESET
        return Condition.OPEN

    def passed(self, octets: bytes, *, caller: bool) -> None:
        """Hears what arrived, and decides whether the connection has lived long enough."""
        cut = self._meets(How.CUT)
        if not caller or cut is None:
            return
        self._sent += len(octets)
        if self._sent >= cut.octets:
            self._doomed = True

    def taken(self) -> None:
        """The server has taken a letter and is about to say so."""
        if self._meets(How.DOT):
            self._doomed = True


class Listening(asyncio.AbstractServer):
    """What `create_server` returns: something that waits for connections on a machine."""

    def __init__(self, machine: Machine, places: Sequence[Endpoint], shown: Sequence[Endpoint]) -> None:
        self._machine = machine
        self._places = places
        self.sockets = tuple(_Bound(endpoint) for endpoint in shown)

    def close(self) -> None:
        """Stops accepting."""
        for place in self._places:
            self._machine.services.pop((place.host, place.port), None)
        self._places = ()
        self.sockets = ()

    def is_serving(self) -> bool:
        """Whether it still accepts."""
        return bool(self._places)

    async def start_serving(self) -> None:
        """It has accepted since it was made."""

    async def serve_forever(self) -> None:
        """Accepts until the box is closed."""
        await asyncio.get_running_loop().create_future()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it lives on."""
        return asyncio.get_running_loop()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""


@dataclass(slots=True, frozen=True)
class _Bound:
    """As much of a socket as a listener looks at."""

    endpoint: Endpoint

    def getsockname(self) -> tuple[str, int]:
        """Where it is bound."""
        return self.endpoint.host, self.endpoint.port


class BoxLoop(MovableLoop):
    """The event loop of the box: a movable clock, and connections in memory. `network` sets itself."""

    network: Network

    def create_task(  # type: ignore[override]  # what the base class promises for its many versions
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Runs a coroutine, and remembers on which machine."""
        task = super().create_task(coro, name=name, context=context)
        machine = HERE.get(None) if context is None else context.get(HERE)
        if machine is not None and machine.off:
            self.network.killed.add(task)
        elif machine is not None:
            machine.tasks.add(task)
            task.add_done_callback(machine.tasks.discard)
        return task

    def drop_handles(self, machine: Machine) -> None:
        """Forgets everything that was to run on a machine."""
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]  # of BaseEventLoop
            if handle._context.get(HERE) is machine:
                handle.cancel()

    async def create_connection(  # type: ignore[override]  # of its many arguments the two that programs here use
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Opens a connection from this machine to an IP address. Raises OSError."""
        call, target = await self.network.call(host, port)
        if target.off:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if target.wake is not None:
            if target.awake is None:
                target.awake = self.create_task(_wake(target.wake), context=target.context)
            await asyncio.shield(target.awake)
        accept = asyncio.Protocol if call.mute else target.services.get((call.peer.host, port))
        if accept is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        near = MemoryTransport(self, call, copy_context(), call.local, call.peer, caller=True)
        within = target.context.copy()
        within.run(CALLED.set, call)
        far = MemoryTransport(self, call, within, call.peer, call.local, caller=False)
        join(near, far)
        call.source.links.add(near)
        target.links.add(far)
        self.call_at(self.time() + call.latency(), _accept, far, accept, context=within)
        protocol = protocol_factory()
        near.begin(protocol)
        return near, protocol

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None,
        port: int,
        *,
        backlog: int = 100,
    ) -> Listening:
        """Accepts connections on this machine. Raises OSError."""
        machine = HERE.get()
        own = (*LOOPBACK, *machine.addresses)
        hosts = own if host is None else (str(ip_address(host)),)
        if not set(hosts) <= set(own):
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        port = port or machine.next_port()
        if any((address, port) in machine.services for address in hosts):
            raise OSError(errno.EADDRINUSE, "Address already in use")
        places = [Endpoint(address, port) for address in hosts]
        for place in places:
            machine.services[(place.host, place.port)] = protocol_factory
        return Listening(machine, places, [Endpoint("0.0.0.0", port)] if host is None else places)  # noqa: S104

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """Names are looked up by the box's resolver, never by this machine's."""
        raise socket.gaierror(socket.EAI_NONAME, f"nothing outside the box is asked for {host}:{port}")


async def _wake(wake: Callable[[], Awaitable[None]]) -> None:
    await wake()


def _accept(far: MemoryTransport, accept: Callable[[], asyncio.BaseProtocol]) -> None:
    if not far.is_closing():
        far.begin(accept())
