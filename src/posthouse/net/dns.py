"""Names of clients' addresses, from the hosts file and from DNS; nothing waits long for them.

A look-up starts when a connection is accepted and is awaited only when the name is written. It ends after a second
whatever DNS does. A name counts only when it leads back to the address: whoever owns an address may give it any
name, but not make the owner of that name agree (RFC 1912 §2.1 asks for such pairs).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from posthouse.config.schema import DnsSettings
from posthouse.config.values import is_host_name
from posthouse.net.maildns import MailDns
from posthouse.net.nameservers import NameServers, Unanswered, load_wire
from posthouse.net.sysfiles import HOSTS, IP, LOOK_AGAIN, RESOLV_CONF, SystemFile, parse_ip, read_hosts

MOST_AT_ONCE: Final = 256  # look-ups under way; further addresses have no name
MOST_NAMES: Final = 3  # names of one address that are tried
SHORTEST: Final = 60.0  # seconds a name is remembered at least and at most, whatever its TTL
LONGEST: Final = 3600.0


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


class DnsResolver:
    """The resolver of a server (`ports.Resolver`). Lives on one event loop. `servers` may be shared by others."""

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
        self.servers = NameServers(settings, resolv_conf=resolv_conf, clock=clock)
        self.mail = MailDns(self.servers, settings)
        self._known: dict[str, _Known] = {}
        self._running: dict[str, _Lookup] = {}

    def reverse(self, address: str) -> _Known | _Lookup:
        """Starts looking for the name of an IP address; one that is known costs a microsecond."""
        known = self._known.get(address)
        if known is not None and known.until > self._clock():
            return known
        running = self._running.get(address)
        return self._begin(address) if running is None else running

    def close(self) -> None:
        """Breaks off what is under way: those look-ups found no name."""
        self.servers.close()

    def _begin(self, address: str) -> _Known | _Lookup:
        ip = parse_ip(address)
        if ip is None:
            return _NOBODY
        listed = self._hosts.read().get(ip)
        if listed is not None or not (ip.is_global or self._settings.servers):
            return self._remember(address, listed, LOOK_AGAIN)
        if len(self._running) >= MOST_AT_ONCE or self.servers.closed or not self.servers.alive():
            return _NOBODY
        lookup = self._running[address] = _Lookup(self.servers.spawn(self._look_up(address, ip)))
        return lookup

    def _remember(self, address: str, name: str | None, seconds: float) -> _Known:
        known = _Known(name, self._clock() + seconds)
        self._known.pop(address, None)
        while len(self._known) >= self._settings.cache:
            del self._known[next(iter(self._known))]
        self._known[address] = known
        return known

    async def _look_up(self, address: str, ip: IP) -> str | None:
        try:
            async with asyncio.timeout(self._settings.timeout):
                name, seconds = await self._confirmed(ip)
        except (TimeoutError, Unanswered):  # remembered for a moment only: it may be better soon
            name, seconds = None, min(self._settings.negative_cache, LOOK_AGAIN)
        finally:
            del self._running[address]
        self._remember(address, name, seconds)
        return name

    async def _confirmed(self, ip: IP) -> tuple[str | None, float]:
        """The first name of the address that leads back to it, and for how many seconds that may be remembered."""
        wire = await load_wire()
        found = await self.servers.ask(lambda server: wire.pointers(server, str(ip)))
        for pointer in found.records[:MOST_NAMES]:
            name = pointer.rstrip(".").lower()
            if not is_host_name(name):
                continue
            back = await self.servers.ask(partial(wire.addresses, name=name, version=ip.version))
            if any(parse_ip(text) == ip for text in back.records):
                return name, min(max(min(found.ttl, back.ttl), SHORTEST), LONGEST)
        return None, self._settings.negative_cache
