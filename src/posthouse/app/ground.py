"""What a server stands on: where its letters are kept, who knows names, how letters are received.

The defaults are this machine. A lab that builds many servers in one process gives them another ground; nothing else of
a server differs there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Protocol

from posthouse.config.schema import DnsSettings
from posthouse.mta.reception import Reception
from posthouse.net.buffers import Buffers
from posthouse.net.dns import DnsResolver
from posthouse.observe.log import Log
from posthouse.ports.bans import BanStore
from posthouse.ports.dns import MailResolver, Resolver
from posthouse.ports.store import Store
from posthouse.ports.system import Clock, Random
from posthouse.queue.manager import Carry
from posthouse.store import Options, open_bans, open_store


class Names(Resolver, Protocol):
    """A resolver that is closed at the end. `mail` asks where letters go."""

    @property
    def mail(self) -> MailResolver:
        """The same for letters that leave."""
        ...

    def close(self) -> None:
        """Breaks off what is under way."""
        ...


class OpenStore(Protocol):
    """Opens the store of a server. Raises StoreError."""

    def __call__(self, data: Path, clock: Clock, random: Random, options: Options, log: Log) -> Store: ...


class OpenBans(Protocol):
    """Opens its list of bans; None where nothing is remembered. Raises StoreError."""

    def __call__(self, data: Path, log: Log) -> BanStore | None: ...


def _store(data: Path, clock: Clock, random: Random, options: Options, log: Log) -> Store:
    return open_store(data, serve=True, clock=clock, random=random, options=options, log=log)


def _bans(data: Path, log: Log) -> BanStore | None:
    return open_bans(data, log=log)


def _as_it_is(carry: Carry) -> Carry:
    return carry


@dataclass(slots=True, frozen=True)
class Ground:
    """What a server stands on. `reception` makes its reception, with the arguments of that class; `carry` may put
    something around what carries letters on; `buffers` are those of the connections that it accepts."""

    names: Callable[[DnsSettings], Names] = DnsResolver
    open_store: OpenStore = _store
    open_bans: OpenBans = _bans
    reception: Callable[..., Reception] = Reception
    poll: float | None = 2.0  # seconds after which the queue is looked at for changes by commands
    carry: Callable[[Carry], Carry] = _as_it_is
    buffers: Callable[[int, Callable[[int], None]], Buffers] = Buffers
    zone: tzinfo | None = None  # of the dates that people read in notices; None: that of this machine


THIS_MACHINE = Ground()
