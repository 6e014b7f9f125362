"""Where mail goes, by DNS: MX records and the addresses of hosts, remembered for as long as they hold.

Names that people gave (targets of routes) and names that DNS gave come the same way: the hosts file first, then the
name servers. Everything is bounded: the questions under way, the time of a look-up, the length of a chain of aliases,
what is remembered. A failure is remembered for a moment only, so that a thousand letters for a domain whose name
servers are down cost one look-up.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from posthouse.config.schema import DnsSettings
from posthouse.net.nameservers import NameServers, Unanswered, load_wire
from posthouse.net.sysfiles import HOSTS, LOOK_AGAIN, SystemFile, read_host_addresses
from posthouse.ports.dns import DnsFailed, DnsProblem, MailHost, NoRecords, NoSuchDomain

if TYPE_CHECKING:
    from posthouse.net.dnswire import Answer

MOST_AT_ONCE: Final = 64  # look-ups under way; further ones wait for their turn
MOST_ALIASES: Final = 8  # questions that one chain of CNAMEs may cost; each answer may hold a chain of its own
MOST_RECORDS: Final = 50  # of one answer, the best of them
SHORTEST: Final = 5.0  # seconds an answer is remembered at least and at most, whatever its TTL
LONGEST: Final = 3600.0
NAME: Final = 253  # characters of a name without its final dot (RFC 1035 §2.3.4: 255 octets on the wire)

_NEVER: Final = ("invalid", "onion")  # RFC 6761 §6.4, RFC 7686 §2: never asked of DNS
# RFC 1123 §2.1 with underscores, which names of hosts may not hold and some do.
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")


@dataclass(slots=True)
class _Found:
    """What a look-up brought: records, or in which way there are none; `until` then it may be told again."""

    records: Sequence[str]
    kind: type[DnsProblem] | None = None
    why: str = ""
    until: float = 0.0

    def given(self) -> Sequence[str]:
        """The records. Raises NoSuchDomain, NoRecords, DnsFailed."""
        if self.kind is not None:
            raise self.kind(self.why)
        return self.records


_Key = tuple[str, str]  # MX, A or AAAA; the name


class MailDns:
    """The resolver of a router (`ports.dns.MailResolver`). Lives on one event loop and ends with its name servers."""

    def __init__(
        self,
        servers: NameServers,
        settings: DnsSettings,
        *,
        hosts: Path = HOSTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._settings = settings
        self._clock = clock
        self._hosts = SystemFile(hosts, clock, read_host_addresses)
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._known: dict[_Key, _Found] = {}
        self._running: dict[_Key, asyncio.Task[_Found]] = {}

    async def mail_hosts(self, domain: str) -> Sequence[MailHost]:
        """The MX records of a domain, the best first."""
        found = await self._find("MX", domain)
        return [_mail_host(record) for record in found.given()]

    async def addresses(self, host: str) -> Sequence[str]:
        """The IP addresses of a host, IPv6 and then IPv4, each as DNS ordered them."""
        name = _canonical(host)
        if listed := self._hosts.read().get(name):
            return listed
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3
            return ["::1", "127.0.0.1"]
        both = await asyncio.gather(self._find("AAAA", name), self._find("A", name))
        if records := [record for found in both for record in found.records]:
            return records
        # What failed may have had an address; and a name that does not exist does so for both.
        for kind in (DnsFailed, NoSuchDomain):
            for found in both:
                if found.kind is kind:
                    return found.given()
        return both[0].given()

    async def _find(self, kind: str, name: str) -> _Found:
        key = (kind, _canonical(name))
        known = self._known.get(key)
        if known is not None and known.until > self._clock():
            return known
        task = self._running.get(key)
        if task is None:
            if (none := self._hopeless(key[1])) is not None:
                return none
            task = self._running[key] = self._servers.spawn(self._look_up(key))
        # Waited for and not awaited: whoever is cancelled meanwhile leaves it to the others.
        await asyncio.wait([task])
        return _STOPPED if task.cancelled() else task.result()

    def _hopeless(self, name: str) -> _Found | None:
        """What is known without asking anybody."""
        if self._servers.closed:
            return _STOPPED
        if len(name) > NAME or not _NAME.fullmatch(name):
            return _Found((), NoSuchDomain, f"{name[:60]} is not a name that DNS can hold")
        if name.rpartition(".")[2] in _NEVER:
            return _Found((), NoSuchDomain, f"{name} is kept free by the standards and exists nowhere")
        return None

    async def _look_up(self, key: _Key) -> _Found:
        try:
            async with asyncio.timeout(self._settings.mail_timeout), self._turns:
                found, ttl = await self._follow(*key)
        except TimeoutError:
            found, ttl = _failed(key[1], f"no answer within {self._settings.mail_timeout:g} s")
        except Unanswered as error:
            found, ttl = _failed(key[1], str(error))
        finally:
            del self._running[key]
        self._remember(key, found, ttl)
        return found

    async def _follow(self, kind: str, name: str) -> tuple[_Found, float]:
        """The records at the end of the chain of aliases that may begin at a name (RFC 5321 §5.1)."""
        wire = await load_wire()
        ttl = LONGEST
        at = name
        for _ in range(MOST_ALIASES):
            answer: Answer = await self._servers.insist(partial(_QUESTIONS[kind], wire, name=at))
            ttl = min(ttl, answer.ttl)
            if answer.circle:
                break
            if answer.records:
                return _Found(_best(kind, answer.records)), ttl
            if not answer.exists:
                where = "" if at == name else f" (an alias leads to {at})"
                return _Found((), NoSuchDomain, f"{name} does not exist{where}"), self._briefly(ttl)
            if not answer.alias:
                return _Found((), NoRecords, f"{name} has no {kind} record"), self._briefly(ttl)
            at = _canonical(answer.alias)
            if len(at) > NAME or not _NAME.fullmatch(at):
                return _Found((), NoSuchDomain, f"{name} is an alias of what is no name of a host"), self._briefly(ttl)
        return _failed(name, "its aliases go in a circle, or are too many")

    def _briefly(self, ttl: float) -> float:
        return min(ttl, self._settings.negative_cache)

    def _remember(self, key: _Key, found: _Found, ttl: float) -> None:
        found.until = self._clock() + min(max(ttl, SHORTEST), LONGEST)
        self._known.pop(key, None)
        while len(self._known) >= self._settings.mail_cache:
            del self._known[next(iter(self._known))]
        self._known[key] = found


_STOPPED: Final = _Found((), DnsFailed, "the server is being stopped")

_QUESTIONS: Final[dict[str, Callable[..., Awaitable[Answer]]]] = {
    "MX": lambda wire, server, name: wire.mail_hosts(server, name),
    "A": lambda wire, server, name: wire.addresses(server, name, 4),
    "AAAA": lambda wire, server, name: wire.addresses(server, name, 6),
}


def _canonical(name: str) -> str:
    return name.removesuffix(".").lower()


def _failed(name: str, why: str) -> tuple[_Found, float]:
    return _Found((), DnsFailed, f"{name} cannot be looked up now: {why}"), LOOK_AGAIN


def _best(kind: str, records: list[str]) -> list[str]:
    if kind == "MX":
        records = sorted(records, key=lambda record: int(record.partition(" ")[0]))
    return records[:MOST_RECORDS]


def _mail_host(record: str) -> MailHost:
    preference, _, host = record.partition(" ")
    return MailHost(int(preference), _canonical(host))
