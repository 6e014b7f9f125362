"""The box: machines with whole mail systems on them, a network, names, and a clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Final, TypeVar

from posthouse.app import App
from posthouse.app.ground import Ground
from posthouse.config.load import examine
from posthouse.config.schema import KIB, Config
from posthouse.lab.loop import MovableClock
from posthouse.lab.network import LATENCY, BoxLoop, Machine, Network
from posthouse.lab.zone import Zone
from posthouse.mta.reception import Reception
from posthouse.net.buffers import Buffers
from posthouse.observe.log import Log, QuietLog
from posthouse.ports.store import Store
from posthouse.ports.system import Clock, Observer
from posthouse.ports.system import Random as Chance
from posthouse.queue.manager import Carry
from posthouse.store import Options, open_memory_store, power_cut

T = TypeVar("T")

START: Final = 1_772_438_400.0
"""2026-03-02 08:00 UTC, a Monday morning: when the box's clock begins unless something else is said."""

PASSWORD: Final = "box"  # noqa: S105 - of everybody in the box, which nobody outside can reach
NOWHERE: Final = Path("/nonexistent/posthouse-box")  # the data directory of servers that keep nothing on the disk


class SeededRandom:
    """Chance that is the same in every run (`ports.Random`)."""

    __slots__ = ("octets",)

    def __init__(self, seed: str) -> None:
        self.octets: Callable[[int], bytes] = random.Random(seed).randbytes  # noqa: S311 - a lab wants it repeatable


def usual_tables(name: str, addresses: Iterable[str]) -> dict[str, Any]:
    """The configuration of a server in the box, as tables: without TLS, which would only be slow, and with passwords
    that cost nothing, because there is nobody to guess them."""
    return {
        "server": {"hostname": name},
        "tls": {"offer": "no"},
        "accounts": {"hash_memory": 64 * KIB, "hash_passes": 1, "scram": "off"},
        "listener": [
            {"protocol": protocol, "address": address}
            for address in ("127.0.0.1", *addresses)
            for protocol in ("smtp", "submission", "pop3")
        ],
    }


def usual_config(name: str, addresses: Iterable[str]) -> Config:
    """The same as a value."""
    config, problems = examine(usual_tables(name, addresses))
    assert not problems, problems
    return config


@dataclass(slots=True)
class Furnishing:
    """What may differ from host to host beside the configuration: who watches it, and how its letters are received."""

    log: Log = field(default_factory=QuietLog)
    observer: Observer | None = None
    reception: Callable[..., Reception] = Reception
    wrap_store: Callable[[Store], Store] = lambda store: store
    wrap_carry: Callable[[Carry], Carry] = lambda carry: carry


@dataclass(slots=True, eq=False)
class House:
    """A machine with a mail system on it, which is built when the first connection reaches it."""

    machine: Machine
    config: Config
    clock: Clock
    chance: Chance
    zone: Zone
    buffers: Buffers
    domains: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    furnishing: Furnishing = field(default_factory=Furnishing)
    prepare: Callable[[], Awaitable[None]] | None = None
    app: App | None = None
    _store: Store | None = None
    _plain: Store | None = None
    _image: bytes | None = None

    @property
    def was_built(self) -> bool:
        """Whether there is a system, running or switched off."""
        return self.app is not None or self._image is not None

    @property
    def store(self) -> Store:
        """Its store, once it is built."""
        assert self._store is not None, "the host is built"
        return self._store

    async def wake(self) -> None:
        """Builds and starts the system, with its domains and accounts."""
        furnishing = self.furnishing
        self.app = App(
            self.config,
            NOWHERE,
            furnishing.log,
            observer=furnishing.observer,
            clock=self.clock,
            random=self.chance,
            ground=Ground(
                names=lambda settings: self.zone,
                open_store=self._open_store,
                open_bans=lambda data, log: None,
                reception=furnishing.reception,
                poll=None,
                carry=furnishing.wrap_carry,
                buffers=lambda most, tell: self.buffers,
                zone=UTC,
            ),
        )
        await self.app.start()
        image, self._image = self._image, None
        if image is not None:
            return
        directory = self.app.directory
        for domain in self.domains:
            await directory.add_domain(domain)
        for user in self.users:
            await directory.add_account(user, PASSWORD)
        if self.prepare is not None:
            await self.prepare()

    def _open_store(self, data: Path, clock: Clock, random: Chance, options: Options, log: Log) -> Store:
        self._plain = open_memory_store(clock=clock, random=random, options=options, log=log, image=self._image)
        self._store = self.furnishing.wrap_store(self._plain)
        return self._store

    def lose_power(self) -> None:
        """What was committed stays, everything else of the system is gone."""
        if self._plain is not None:
            self._image = power_cut(self._plain)
        self.app = self._store = self._plain = None


class Box:
    """A small internet. `host` and `desk` add machines; `run` lets time pass until a coroutine has ended."""

    def __init__(self, *, seed: int = 1, start: float = START) -> None:
        self._seed = seed
        self.loop = BoxLoop()
        self.clock = MovableClock(self.loop, start)
        self.network = Network(self.loop, random.Random(f"{seed}/network"))  # noqa: S311
        self.zone = Zone()
        self.houses: dict[str, House] = {}
        self._cuts: Counter[str] = Counter()
        self._buffers = Buffers()  # for the connections that all servers accept

    def host(
        self,
        name: str,
        addresses: tuple[str, ...],
        *,
        domains: tuple[str, ...] = (),
        users: tuple[str, ...] = (),
        config: Config | None = None,
        furnishing: Furnishing | None = None,
        latency: float = LATENCY,
        bandwidth: float = 0.0,
    ) -> House:
        """A mail server. It takes the mail of its domains, unless they have MX records already, and of its own
        name."""
        machine = self.desk(name, addresses, latency=latency, bandwidth=bandwidth)
        house = House(
            machine,
            config or usual_config(name, addresses),
            self.clock,
            SeededRandom(f"{self._seed}/{name}"),
            self.zone,
            self._buffers,
            domains,
            users,
            furnishing or Furnishing(),
        )
        machine.wake = house.wake
        for domain in domains:
            if not self.zone.knows(domain, "MX"):
                self.zone.add(domain, "MX", f"10 {name}")
        self.houses[name] = house
        return house

    def desk(
        self, name: str, addresses: tuple[str, ...], *, latency: float = LATENCY, bandwidth: float = 0.0
    ) -> Machine:
        """A machine without a server."""
        machine = self.network.add(Machine(name, addresses, latency, bandwidth))
        self.zone.add_host(name, addresses)
        return machine

    def on(self, machine: Machine, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Runs something on a machine, beside everything else."""
        return self.loop.create_task(work, context=machine.context.copy())

    def switch_off(self, house: House) -> None:
        """Cuts the power of a host. It may be cut several times before it comes back as often."""
        self._cuts[house.machine.name] += 1
        if self._cuts[house.machine.name] == 1:
            house.lose_power()
            self.network.switch_off(house.machine)

    def switch_on(self, house: House) -> None:
        """Starts it again, if it ever ran."""
        self._cuts[house.machine.name] -= 1
        if self._cuts[house.machine.name]:
            return
        house.machine.off = False
        if house.was_built:
            house.machine.awake = self.loop.create_task(house.wake(), context=house.machine.context.copy())

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs the box until `main` has ended, and stops all servers. Raises Stuck."""
        return self.loop.run(self._run(main))

    async def _run(self, main: Coroutine[Any, Any, T]) -> T:
        try:
            return await main
        finally:
            for house in self.houses.values():
                if house.app is not None:
                    await house.app.stop()
