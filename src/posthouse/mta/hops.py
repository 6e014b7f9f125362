"""The hosts of a destination: those that a route names, those of DNS, or the one of an address literal.

Every step is told to whoever wants to know (`posthouse route test`), by the code that decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import groupby, zip_longest
from typing import Final, Protocol

from posthouse.mail.address import domain_text
from posthouse.mta.plan import Hop, NoRoute
from posthouse.mta.routetable import SMTP_PORT, Target, read_target
from posthouse.net.sysfiles import parse_ip
from posthouse.ports.dns import DnsFailed, DnsProblem, MailHost, MailResolver, NoRecords, NoSuchDomain
from posthouse.ports.queue import Result, Status
from posthouse.ports.store import Route
from posthouse.ports.system import Random

MOST_HOSTS: Final = 15
"""Hosts of a destination that are tried; RFC 5321 §5.1 allows a limit and asks for two addresses at least."""

MOST_ADDRESSES: Final = 8
"""Addresses of one host that are tried."""

STRAGGLER: Final = 3.0
"""Seconds that hosts are still waited for once one of them has an address: what one of many hosts lacks in its name
servers must not hold up every letter for the domain."""


@dataclass(slots=True)
class Step:
    """One step of a decision: what was looked at, what came of it in words, and the same for programs."""

    kind: str
    text: str
    values: Mapping[str, object] = field(default_factory=dict)


class Own(Protocol):
    """Which addresses are this server's own."""

    def holds(self, address: str) -> bool:
        """Whether mail sent to this address comes to us, whatever the port."""
        ...

    def listens(self, address: str, port: int) -> bool:
        """Whether it is us who listen there."""
        ...


def mute(kind: str, text: str, /, **values: object) -> None:
    """Where nobody wants to know the steps."""


class Tell(Protocol):
    def __call__(self, kind: str, text: str, /, **values: object) -> None: ...


_Found = Sequence[str] | DnsProblem  # the addresses of a host, or why there are none


class Hosts:
    """Finds the hosts of destinations. Raises NoRoute where there are none."""

    __slots__ = ("_names", "_own", "_random", "_resolver")

    def __init__(self, resolver: MailResolver, random: Random, names: Sequence[str], own: Own) -> None:
        """`names` are those by which this server is known."""
        self._resolver = resolver
        self._random = random
        self._names = frozenset(name.rstrip(".").lower() for name in names)
        self._own = own

    # By the route table

    async def of_route(self, route: Route, tell: Tell) -> list[Hop]:
        """The targets of a route in its own order. A route that leads nowhere is a mistake: its letters wait."""
        try:
            targets = [read_target(text) for text in route.targets[:MOST_HOSTS]]
        except ValueError:  # nobody but a newer version writes such
            raise defer(f'the route "{route.pattern}" names hosts in an unknown form', "4.3.5") from None
        answers = await self._look_up([target.host for target in targets], self._addresses_of)
        hops: list[Hop] = []
        for target, answer in zip(targets, answers, strict=True):
            if isinstance(answer, DnsProblem):
                tell("host", f"{target}: left out, {answer}.", host=target.host, port=target.port, dropped=str(answer))
                continue
            others = [address for address in answer if not self._own.listens(address, target.port)]
            if len(others) < len(answer):
                tell("host", f"{target}: this server itself, left out.", host=target.host, dropped="this server itself")
            if others:
                hops.append(Hop(target.host, target.port, _interleave(others)))
                _tell_hop(hops[-1], tell)
        if hops:
            return hops
        problems = [answer for answer in answers if isinstance(answer, DnsProblem)]
        if not problems:
            raise defer(f'the route "{route.pattern}" leads back to this server', "4.3.5")
        # The sender may read this: the names of inner hosts are told to the administrator only, by the steps.
        failed = any(isinstance(problem, DnsFailed) for problem in problems)
        raise defer(f'no host of the route "{route.pattern}" can be found', "4.4.3" if failed else "4.3.5")

    async def _look_up(
        self, hosts: Sequence[str], find: Callable[[str], Coroutine[None, None, _Found]]
    ) -> list[_Found]:
        """The addresses of all hosts, or why there are none; once there are some, the rest is not waited for long."""
        tasks = [asyncio.create_task(find(host)) for host in hosts]
        patience: float | None = None
        pending = set(tasks)
        try:
            loop = asyncio.get_running_loop()
            while pending and (patience is None or loop.time() < patience):
                left = None if patience is None else patience - loop.time()
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if patience is None and any(not isinstance(task.result(), DnsProblem) for task in done):
                    patience = loop.time() + STRAGGLER
        finally:
            for task in pending:
                task.cancel()
        slow = [DnsFailed(f"the addresses of {host} take too long") for host in hosts]
        return [late if task in pending else task.result() for task, late in zip(tasks, slow, strict=True)]

    async def _addresses_of(self, target: str) -> _Found:
        """A route may name an address; DNS may not (RFC 5321 §5.1)."""
        return [target] if parse_ip(target) is not None else await self._addresses(target)

    async def _addresses(self, host: str) -> _Found:
        try:
            return await self._resolver.addresses(host)
        except DnsProblem as problem:
            return problem

    # By the address literal

    def of_literal(self, literal: str, tell: Tell) -> list[Hop]:
        """The host of `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3)."""
        address = literal[1:-1].removeprefix("IPv6:")
        ip = parse_ip(address)
        if ip is None:
            raise fail(f"nobody here knows what kind of address {literal} is", "5.1.2")
        reason = self._unusable(str(ip))
        if reason:
            raise fail(f"{literal} is {reason}", "5.4.6" if self._own.holds(str(ip)) else "5.4.4")
        hop = Hop(literal, SMTP_PORT, (str(ip),))
        _tell_hop(hop, tell)
        return [hop]

    # By DNS

    async def of_domain(self, domain: str, tell: Tell) -> list[Hop]:
        """The mail hosts of a domain: by preference, none that leads back to us, none that no other machine has."""
        records = await self._mail_hosts(domain, tell)
        candidates, ours = self._before_us(self._ordered(records), tell)
        answers = await self._look_up([record.host for record in candidates], self._addresses)
        found = list(zip(candidates, answers, strict=True))
        limit = self._first_of_ours(found, tell)
        hops: list[Hop] = []
        problems: list[DnsProblem] = []
        for record, answer in found:
            if limit is not None and record.preference >= limit:
                continue
            if isinstance(answer, DnsProblem):
                problems.append(answer)
                tell("host", f"{record.host}: left out, {answer}.", host=record.host, dropped=str(answer))
            elif usable := self._usable(record.host, answer, tell):
                hops.append(Hop(record.host, SMTP_PORT, usable))
                _tell_hop(hops[-1], tell)
        if not hops:
            raise _nobody(domain, records, problems, ours=ours or limit is not None)
        return hops

    def _first_of_ours(self, found: Sequence[tuple[MailHost, _Found]], tell: Tell) -> int | None:
        """The lowest preference of a host that has an address of ours."""
        for record, answer in found:
            if isinstance(answer, DnsProblem):
                continue
            if any(self._own.holds(address) for address in answer if not _is_inward(address)):
                _tell_ours(record, tell)
                return record.preference
        return None

    async def _mail_hosts(self, domain: str, tell: Tell) -> Sequence[MailHost]:
        """The MX records of a domain, or the domain itself as its only mail host. Raises NoRoute."""
        try:
            records = await self._resolver.mail_hosts(domain)
        except NoRecords:
            tell("mx", f"{domain} has no MX record: it is its own mail host.", implicit=True, records=[])
            return [MailHost(0, domain)]  # RFC 5321 §5.1, the implicit MX
        except NoSuchDomain as problem:
            raise fail(str(problem), "5.1.2") from None
        except DnsFailed as problem:
            raise defer(str(problem), "4.4.3") from None
        listed = sorted((one.preference, one.host) for one in records)
        words = ", ".join(f"{host or '.'} ({number})" for number, host in listed)
        values = [{"preference": number, "host": host or "."} for number, host in listed]
        tell("mx", f"The mail hosts of {domain}: {words}.", implicit=False, records=values)
        if named := [one for one in records if one.host]:
            return named
        raise fail(f"{domain_text(domain)} takes no mail: its MX record says so", "5.1.10")  # RFC 7505 §4.2

    def _ordered(self, records: Sequence[MailHost]) -> list[MailHost]:
        """By preference, those of the same in an order of chance (RFC 5321 §5.1). A host named twice counts once, where
        it is liked best."""
        ordered: dict[str, MailHost] = {}
        by_preference = sorted(records, key=lambda one: one.preference)
        for _, group in groupby(by_preference, key=lambda one: one.preference):
            equals = list(group)
            chances = self._random.octets(8 * len(equals))
            keys = {id(one): chances[8 * n : 8 * n + 8] for n, one in enumerate(equals)}
            for one in sorted(equals, key=lambda one: keys[id(one)]):
                ordered.setdefault(one.host, one)
        return list(ordered.values())

    def _before_us(self, records: list[MailHost], tell: Tell) -> tuple[list[MailHost], bool]:
        """The hosts that are to be tried, as far as names tell: ours is none, nor is any that DNS likes no better than
        ours, for such a host may send the letter to us again (RFC 5321 §5.1). And whether we are among them."""
        ours = [one for one in records if one.host in self._names]
        if ours:
            _tell_ours(ours[0], tell)
            records = [one for one in records if one.preference < ours[0].preference]
        for one in records[MOST_HOSTS:]:
            text = f"{one.host}: left out, {MOST_HOSTS} hosts are enough."
            tell("host", text, host=one.host, dropped="too many hosts")
        return records[:MOST_HOSTS], bool(ours)

    def _usable(self, host: str, addresses: Sequence[str], tell: Tell) -> tuple[str, ...]:
        kept: list[str] = []
        for address in addresses:
            reason = self._unusable(address)
            if reason:
                tell("address dropped", f"{host}: {address} left out, it is {reason}.", host=host, address=address)
            else:
                kept.append(address)
        return _interleave(kept)

    def _unusable(self, address: str) -> str:
        """Why no letter goes to an address that DNS or a sender named, empty when it does."""
        if _is_inward(address):
            return "an address that no other machine has"
        return "an address of this server" if self._own.holds(address) else ""


def _is_inward(address: str) -> bool:
    """Whether an address leads to no other machine: loopback, unspecified, link-local, multicast, reserved. Such an
    address in public DNS would have us talk to what trusts this machine."""
    ip = parse_ip(address)
    return (
        ip is None
        or ip.is_loopback
        or ip.is_unspecified
        or ip.is_link_local
        or ip.is_multicast
        # "This network" (RFC 1122 §3.2.1.3), and what is kept for later with the broadcast address (§3.2.1.3)
        or (isinstance(ip, IPv4Address) and (ip.packed[0] == 0 or ip.packed[0] >= 240))
    )


def _interleave(addresses: Sequence[str]) -> tuple[str, ...]:
    """IPv6 and IPv4 in turn, IPv6 first, each in the order of DNS (RFC 8305 §4): a broken one costs one attempt."""
    unique = list(dict.fromkeys(addresses))
    six = [address for address in unique if ":" in address]
    four = [address for address in unique if ":" not in address]
    turns = [address for pair in zip_longest(six, four) for address in pair if address is not None]
    return tuple(turns[:MOST_ADDRESSES])


def _tell_hop(hop: Hop, tell: Tell) -> None:
    tell(
        "host",
        f"{Target(hop.host, hop.port)}: {', '.join(hop.addresses)}.",
        host=hop.host,
        port=hop.port,
        addresses=list(hop.addresses),
    )


def _tell_ours(record: MailHost, tell: Tell) -> None:
    text = f"{record.host} is this server: left out, with all of preference {record.preference} and above."
    tell("host", text, host=record.host, dropped="this server itself", preference=record.preference)


def _nobody(domain: str, records: Sequence[MailHost], problems: Sequence[DnsProblem], *, ours: bool) -> NoRoute:
    """Why no host is left: what failed may be there again; else it is as DNS says."""
    named = domain_text(domain)
    for problem in problems:
        if isinstance(problem, DnsFailed):
            return defer(str(problem), "4.4.3")
    if ours:
        return fail(f"the way to {named} leads back to this server, which has no such domain", "5.4.6")
    if [one.host for one in records] == [domain]:
        return fail(f"{named} has no mail host and no address to which mail could go", "5.4.4")
    return fail(f"none of the mail hosts of {named} has an address to which mail could go", "5.4.4")


def fail(reply: str, status: str) -> NoRoute:
    """There is no way and will be none."""
    return NoRoute(Result(Status.FAILED, reply, status, stage="dns"))


def defer(reply: str, status: str) -> NoRoute:
    """There is no way now."""
    return NoRoute(Result(Status.DEFERRED, reply, status, stage="dns", dead=True))
