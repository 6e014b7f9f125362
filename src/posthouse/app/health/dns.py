"""DNS: whether the world finds this server, for the server's own name and for every domain whose mail lies here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from posthouse.app.health.certificates import is_for
from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.config.schema import DnsSettings
from posthouse.net.dns import DnsResolver
from posthouse.net.maildns import MailDns
from posthouse.net.nameservers import NameServers, Unanswered, load_wire
from posthouse.net.sysfiles import parse_ip
from posthouse.ports.dns import DnsFailed, DnsProblem, NoRecords, NoSuchDomain

PATIENCE: Final = 5.0  # seconds for one question
MOST_DOMAINS: Final = 50
MOST_HOSTS: Final = 10  # of one domain
NO_FILE: Final = Path(os.devnull)  # in the place of the hosts file: others do not have ours
_AT_HOME: Final = (  # names that are nobody's in the public DNS
    *("localhost", "local", "test", "invalid", "example", "onion"),  # RFC 6761, RFC 6762, RFC 7686
    *("internal", "home.arpa", "lan", "home", "corp", "intranet", "localdomain"),  # RFC 8375; usual on networks
)


class Dns:
    """DNS"""

    LEFT_OUT = Kind(
        "dns.left-out",
        Level.NOTE,
        "DNS was not asked (--offline).",
        "Whether the world finds this server was not looked at.",
        "Run it again without --offline.",
    )
    NO_RESOLVER = Kind(
        "dns.no-resolver",
        Level.ERROR,
        "No name server answers: {why}.",
        "Letters for other domains wait in the queue, and nobody's name is known.",
        "Look at /etc/resolv.conf, or set servers below [dns]. Is this machine on the network?",
    )
    FOUND = Kind("dns.found", Level.OK, "{host} is in the DNS: {addresses}.")
    AT_HOME = Kind(
        "dns.at-home",
        Level.NOTE,
        "{host} is a name for a network of one's own, so DNS was asked neither about it nor about the domains.",
        "Nobody outside can send here.",
        "If mail from the Internet is wanted, set server.hostname to a name in the public DNS.",
    )
    NO_HOST = Kind(
        "dns.no-host",
        Level.ERROR,
        "The server's name {host} has no address in the DNS: {why}.",
        "Other servers do not find it, and distrust what it sends.",
        "Publish an A record (and AAAA) for {host}; posthouse quickstart --dry-run DOMAIN prints all records.",
    )
    ELSEWHERE = Kind(
        "dns.elsewhere",
        Level.WARNING,
        "{host} leads to {addresses}, and this machine has {own}.",
        "Mail goes to another machine, unless that one passes it on to here.",
        "Put the A and AAAA records of {host} right.",
    )
    NO_PTR = Kind(
        "dns.no-ptr",
        Level.WARNING,
        "The address {address} of {host} has no name that leads back to it (PTR).",
        "Large receivers refuse letters from such addresses.",
        "Have the provider of the address set its reverse name to {host}.",
    )
    OTHER_PTR = Kind(
        "dns.other-ptr",
        Level.NOTE,
        "The address {address} of {host} is called {name} (PTR).",
        "It leads back, which is what most receivers ask for; some want the very name of the greeting.",
        "Have the provider of the address set its reverse name to {host}.",
    )
    DOMAIN = Kind("dns.domain", Level.OK, "Mail for {domain} comes to {hosts}.")
    FAILED = Kind(
        "dns.failed",
        Level.WARNING,
        "{domain} cannot be looked up now: {why}.",
        "Whoever writes there now keeps the letter and tries again.",
        "Look whether the name servers of the domain answer: dig {domain} MX",
    )
    NO_DOMAIN = Kind(
        "dns.no-domain",
        Level.ERROR,
        "The domain {domain} does not exist in the DNS.",
        "Nobody outside can send to it, and what it sends is refused as coming from nowhere.",
        "Register it, or publish its records: posthouse quickstart --dry-run {domain} prints them.",
    )
    NO_MX = Kind(
        "dns.no-mx",
        Level.ERROR,
        "The domain {domain} has no MX record.",
        "Mail for it goes to the address of {domain} itself, which is not that of this server (RFC 5321 §5.1).",
        "Publish: {domain}. MX 10 {host}.",
    )
    IMPLICIT_MX = Kind(
        "dns.implicit-mx",
        Level.NOTE,
        "The domain {domain} has no MX record, and its address is that of this server.",
        "That works (RFC 5321 §5.1); some senders take such a domain for one without mail.",
        "Publish: {domain}. MX 10 {host}.",
    )
    NULL_MX = Kind(
        "dns.null-mx",
        Level.ERROR,
        "The domain {domain} says in the DNS that it takes no mail (null MX).",
        "Nobody sends to it (RFC 7505).",
        "Replace that record: {domain}. MX 10 {host}.",
    )
    NOT_OURS = Kind(
        "dns.not-ours",
        Level.WARNING,
        "Mail for {domain} goes to {hosts}, and none of these is this server ({host}).",
        "Letters arrive elsewhere, unless those hosts pass them on to here.",
        "Publish: {domain}. MX 10 {host}. If another host stands in front of this one, all is well.",
    )
    MX_ALIAS = Kind(
        "dns.mx-alias",
        Level.WARNING,
        "The MX record of {domain} names {host}, which is an alias (CNAME).",
        "That is against RFC 2181 §10.3; some servers do not send there.",
        "Name the host itself in the MX record, or give {host} an address in place of the CNAME.",
    )
    MX_ADDRESS = Kind(
        "dns.mx-address",
        Level.ERROR,
        "The MX record of {domain} names an address, {host}.",
        "It must name a host; most servers do not send there (RFC 5321 §5.1).",
        "Publish: {domain}. MX 10 NAME, and an A record for that name.",
    )
    MX_NOWHERE = Kind(
        "dns.mx-nowhere",
        Level.WARNING,
        "The MX record of {domain} names {host}, which has no address: {why}.",
        "Senders that try it first lose time, or keep the letter.",
        "Remove that MX record, or publish an address for {host}.",
    )
    NOT_CERTIFIED = Kind(
        "dns.not-certified",
        Level.WARNING,
        "Mail for {domain} comes here as {host}, and no certificate is for that name.",
        "Servers that look at certificates (MTA-STS, DANE) send nothing, others without proof.",
        "Have a certificate issued that has {host} too.",
    )
    SPF = Kind(
        "dns.no-spf",
        Level.NOTE,
        "{domain} does not say who may send for it (SPF).",
        "Large receivers take letters without it for junk.",
        'Publish: {domain}. TXT "v=spf1 mx -all", if only this server sends for it.',
    )
    TWO_SPF = Kind(
        "dns.two-spf",
        Level.WARNING,
        "{domain} has {count} SPF records.",
        "More than one counts as an error, and as none (RFC 7208 §4.5).",
        "Leave one of them and put what the others say into it.",
    )
    DMARC = Kind(
        "dns.no-dmarc",
        Level.NOTE,
        "{domain} does not say what is to become of letters that only pretend to come from it (DMARC).",
        "Some large receivers ask for it from whoever sends much.",
        'Publish: _dmarc.{domain}. TXT "v=DMARC1; p=none"',
    )
    MORE = Kind(
        "dns.more",
        Level.NOTE,
        "Only {most} of the {count} domains were looked up.",
        "The others were not looked at.",
        "Look at one of them: posthouse route test ADDRESS",
    )


@dataclass(slots=True)
class Place:
    """What the checks know of this server: its name, the addresses of this machine towards the world, the names of its
    certificates."""

    host: str
    own: Sequence[str]
    certified: Sequence[str]
    addresses: set[str] = field(default_factory=set)  # of the host in the DNS, once it was looked up


class Questions:
    """The name servers of the configuration, asked with little patience and without the hosts file."""

    def __init__(self, settings: DnsSettings) -> None:
        hurried = replace(settings, mail_timeout=PATIENCE, timeout=PATIENCE)
        self.servers = NameServers(hurried)
        self.mail = MailDns(self.servers, hurried, hosts=NO_FILE)
        self.names = DnsResolver(hurried, hosts=NO_FILE)

    def close(self) -> None:
        """Breaks off what is under way."""
        self.servers.close()
        self.names.close()

    async def texts(self, name: str) -> list[str]:
        """The TXT records of a name, none where nobody knows."""
        return await self._records(name, "TXT")

    async def alias(self, name: str) -> str:
        """What a name is an alias of, empty for none."""
        found = await self._records(name, "CNAME")
        return found[0] if found else ""

    async def _records(self, name: str, kind: str) -> list[str]:
        wire = await load_wire()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self.servers.insist(partial(wire.records, name=name, kind=kind))
        except (TimeoutError, Unanswered):
            return []
        return list(answer.records[:MOST_HOSTS])


def is_at_home(name: str) -> bool:
    """Whether a name cannot be in the public DNS."""
    name = name.lower().rstrip(".")
    return "." not in name or any(name == end or name.endswith(f".{end}") for end in _AT_HOME)


async def check(questions: Questions, place: Place, domains: Sequence[str]) -> list[Finding]:
    """The host first, for what is said of the domains rests on its addresses; then all domains at once."""
    if is_at_home(place.host):
        return [Dns.AT_HOME(host=place.host)]
    found = await _host(questions, place)
    if any(finding.id == Dns.NO_RESOLVER.id for finding in found):
        return found
    public = [domain for domain in domains if not is_at_home(domain)]
    answers = await asyncio.gather(*(_domain(questions, place, domain) for domain in public[:MOST_DOMAINS]))
    found += [finding for answer in answers for finding in answer]
    if len(public) > MOST_DOMAINS:
        found.append(Dns.MORE(most=MOST_DOMAINS, count=len(public)))
    return found


async def _host(questions: Questions, place: Place) -> list[Finding]:
    try:
        addresses = await questions.mail.addresses(place.host)
    except DnsFailed as error:
        return [Dns.NO_RESOLVER(why=error)]
    except DnsProblem as error:
        return [Dns.NO_HOST(host=place.host, why=error)]
    place.addresses = set(addresses)
    found = [Dns.FOUND(host=place.host, addresses=" ".join(addresses[:6]))]
    public = [address for address in place.own if (ip := parse_ip(address)) is not None and ip.is_global]
    if public and not place.addresses & set(public):
        elsewhere = {"addresses": " ".join(addresses[:6]), "own": " ".join(public)}
        found.append(Dns.ELSEWHERE(host=place.host, **elsewhere))
    for address in addresses[:MOST_HOSTS]:
        found += await _pointer(questions, place.host, address)
    return found


async def _pointer(questions: Questions, host: str, address: str) -> list[Finding]:
    ip = parse_ip(address)
    if ip is None or ip.is_private or ip.is_loopback:
        return []
    name = await questions.names.reverse(address).name()
    if name is None:
        return [Dns.NO_PTR(address=address, host=host)]
    return [] if name == host.lower() else [Dns.OTHER_PTR(address=address, host=host, name=name)]


async def _domain(questions: Questions, place: Place, domain: str) -> list[Finding]:
    words = {"domain": domain, "host": place.host}
    try:
        hosts = [one.host for one in await questions.mail.mail_hosts(domain)]
    except NoSuchDomain:
        return [Dns.NO_DOMAIN(**words)]
    except NoRecords:
        return [await _without_mx(questions, place, words), *await _says(questions, domain)]
    except DnsProblem as error:
        return [Dns.FAILED(domain=domain, why=error)]
    if "" in hosts:
        return [Dns.NULL_MX(**words)]
    return [*await _mail_hosts(questions, place, domain, hosts), *await _says(questions, domain)]


async def _without_mx(questions: Questions, place: Place, words: dict[str, str]) -> Finding:
    try:
        addresses = set(await questions.mail.addresses(words["domain"]))
    except DnsProblem:
        addresses = set()
    return (Dns.IMPLICIT_MX if addresses & _here(place) else Dns.NO_MX)(**words)


def _here(place: Place) -> set[str]:
    """The addresses at which this server is reached."""
    return place.addresses | set(place.own)


async def _mail_hosts(questions: Questions, place: Place, domain: str, hosts: Sequence[str]) -> list[Finding]:
    found: list[Finding] = []
    ours: list[str] = []
    for host in hosts[:MOST_HOSTS]:
        if parse_ip(host) is not None:
            found.append(Dns.MX_ADDRESS(domain=domain, host=host))
            continue
        if await questions.alias(host):
            found.append(Dns.MX_ALIAS(domain=domain, host=host))
        try:
            addresses = set(await questions.mail.addresses(host))
        except DnsProblem as error:
            found.append(Dns.MX_NOWHERE(domain=domain, host=host, why=error))
            continue
        if host == place.host.lower() or addresses & _here(place):
            ours.append(host)
    if not ours:
        listed = ", ".join(hosts[:MOST_HOSTS])
        return [*found, Dns.NOT_OURS(domain=domain, hosts=listed, host=place.host)]
    found += _certified(place, domain, ours)
    return found or [Dns.DOMAIN(domain=domain, hosts=", ".join(ours))]


def _certified(place: Place, domain: str, hosts: Iterable[str]) -> list[Finding]:
    lacking = [host for host in hosts if place.certified and not is_for(place.certified, host)]
    return [Dns.NOT_CERTIFIED(domain=domain, host=host) for host in lacking]


async def _says(questions: Questions, domain: str) -> list[Finding]:
    """What a domain says of its senders."""
    texts, policy = await asyncio.gather(questions.texts(domain), questions.texts(f"_dmarc.{domain}"))
    senders = [text for text in texts if text.strip('"').lower().split(" ")[0] == "v=spf1"]
    found = []
    if not senders:
        found.append(Dns.SPF(domain=domain))
    elif len(senders) > 1:
        found.append(Dns.TWO_SPF(domain=domain, count=len(senders)))
    if not any(text.strip('"').lower().startswith("v=dmarc1") for text in policy):
        found.append(Dns.DMARC(domain=domain))
    return found
