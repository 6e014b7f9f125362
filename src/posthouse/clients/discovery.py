"""Where the mail of an address goes out and comes in: what DNS and the domain's web server say, else good guesses.

The order is that of trust and of work: SRV records (RFC 6186 §3, RFC 8314 §5.1), the provider's own autoconfig over
https, then the usual ports of the hosts that take mail for the domain (MX) and of `mail.DOMAIN`. All of it ends after
five seconds, whoever is silent.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from posthouse.clients import autoconfig
from posthouse.config.values import is_host_name
from posthouse.net.dial import DialError, connect
from posthouse.net.discovery import Host, NoAnswer, ServiceResolver
from posthouse.net.fetch import FetchError, fetch

SECONDS: Final = 5.0  # for everything
SAYING: Final = 3.5  # of it for DNS and the web server; the rest is for guesses
GUESSED_HOSTS: Final = 3  # of MX

SERVICES: Final = {  # RFC 8314 §5.1 and RFC 6186 §3: service, what it is for, the scheme of its URL
    "submissions": ("send", "smtps"),
    "submission": ("send", "smtp"),
    "pop3s": ("read", "pop3s"),
    "pop3": ("read", "pop3"),
    "imaps": ("imap", "imaps"),
}
PORTS: Final = {"smtps": 465, "smtp": 587, "pop3s": 995, "pop3": 110, "imaps": 993}
GUESSES: Final = (("send", "smtps"), ("send", "smtp"), ("read", "pop3s"), ("read", "pop3"))

Fetch = Callable[[str, float], Awaitable[bytes]]


@dataclass(slots=True, frozen=True)
class Offer:
    """A server that somebody named, or that answers where one usually is. `way` is send, read or imap; `login` "" where
    the source does not say. `vouched`: it is of the domain itself, or the domain's web server named it over https."""

    way: str
    scheme: str
    host: str
    port: int
    source: str
    login: str = ""
    vouched: bool = True


@dataclass(slots=True, frozen=True)
class Clue:
    """What one source said, in words."""

    source: str
    said: str


@dataclass(slots=True)
class Found:
    """All that was found, the best offers first, and what each source said."""

    offers: list[Offer] = field(default_factory=list)
    clues: list[Clue] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)  # services that the domain says it has not
    seconds: float = 0.0

    def ways(self, way: str) -> list[Offer]:
        """The offers for one way."""
        return [offer for offer in self.offers if offer.way == way]


class Discovery:
    """Asks all sources about one address. `domain` is in A-labels."""

    def __init__(self, local: str, domain: str, resolver: ServiceResolver | None, load: Fetch) -> None:
        self._address = f"{local}@{domain}"
        self._domain = domain
        self._resolver = resolver
        self._load = load
        self._begun = time.monotonic()

    async def find(self) -> Found:
        """Everything, in at most five seconds. Raises nothing that a name server or a web server can cause."""
        found = Found()
        services = [asyncio.ensure_future(self._service(name)) for name in SERVICES]
        written = asyncio.ensure_future(self._autoconfig())
        exchangers = asyncio.ensure_future(self._exchangers())
        for source in services:
            _join(found, await source)
        _join(found, await written)
        hosts, clue = await exchangers
        found.clues.append(clue)
        missing = [way for way in ("send", "read") if not found.ways(way) and not _denied(found, way)]
        if missing:
            _join(found, await self._guess(hosts, missing))
        found.seconds = time.monotonic() - self._begun
        return found

    def _left(self, until: float) -> float:
        return max(0.05, self._begun + until - time.monotonic())

    def vouched(self, host: str) -> bool:
        """Whether a host is of the domain itself (RFC 6186 §6: of others the person has the word)."""
        return host == self._domain or host.endswith(f".{self._domain}")

    async def _service(self, name: str) -> Found:
        source = f"_{name}._tcp.{self._domain}"
        way, scheme = SERVICES[name]
        try:
            hosts = await self._bounded(lambda r, s: r.services(name, self._domain, s))
        except NoAnswer as error:
            return Found(clues=[Clue(source, str(error))])
        if hosts is None:
            return Found(clues=[Clue(source, "the domain has no such service")], denied=[name])
        offers = [Offer(way, scheme, h.name, h.port, f"SRV {source}", vouched=self.vouched(h.name)) for h in hosts]
        said = ", ".join(f"{host.name}:{host.port}" for host in hosts[:4]) or "nothing"
        return Found(offers, [Clue(source, said)])

    async def _exchangers(self) -> tuple[list[Host], Clue]:
        source = f"MX {self._domain}"
        try:
            hosts = await self._bounded(lambda r, s: r.exchangers(self._domain, s))
        except NoAnswer as error:
            return [], Clue(source, str(error))
        if hosts is None:
            return [], Clue(source, "the domain takes no mail")
        return hosts, Clue(source, ", ".join(host.name for host in hosts[:4]) or "nothing")

    async def _bounded(
        self, ask: Callable[[ServiceResolver, float], Awaitable[list[Host] | None]]
    ) -> list[Host] | None:
        if self._resolver is None:
            raise NoAnswer("this system names no name server")
        seconds = self._left(SAYING)
        try:
            async with asyncio.timeout(seconds):
                return await ask(self._resolver, seconds)
        except TimeoutError:
            raise NoAnswer("the name servers do not answer") from None

    # The provider's own document

    async def _autoconfig(self) -> Found:
        """Both usual places at once; the first that has something counts."""
        places = (
            f"https://autoconfig.{self._domain}/mail/config-v1.1.xml?emailaddress={quote(self._address)}",
            f"https://{self._domain}/.well-known/autoconfig/mail/config-v1.1.xml",
        )
        running = [asyncio.ensure_future(self._document(url)) for url in places]
        found = Found()
        for source in running:
            result = await source
            found.clues += result.clues
            found.offers = found.offers or result.offers
        return found

    async def _document(self, url: str) -> Found:
        source = url.partition("?")[0]
        try:
            entries = autoconfig.parse(await self._load(url, self._left(SAYING)), self._address)
        except (FetchError, autoconfig.BadConfig) as error:
            return Found(clues=[Clue(source, str(error))])
        offers = [_offer(entry, source) for entry in entries if entry.usable and is_host_name(entry.host)]
        said = ", ".join(f"{offer.scheme} {offer.host}:{offer.port}" for offer in offers)
        return Found(offers, [Clue(source, said or "no server that can be used with a password, encrypted")])

    # Guesses

    async def _guess(self, exchangers: Sequence[Host], ways: Sequence[str]) -> Found:
        """The usual ports of likely hosts. What counts is that something listens: the login test tells the rest."""
        hosts = [(f"MX {host.name}", host.name) for host in exchangers[:GUESSED_HOSTS]]
        hosts.append((f"mail.{self._domain}", f"mail.{self._domain}"))
        seconds = self._left(SECONDS)
        found = Found()
        hosts = list({host: (source, host) for source, host in reversed(hosts)}.values())[::-1]
        tries = [(source, host, scheme) for source, host in hosts for way, scheme in GUESSES if way in ways]
        answers = await asyncio.gather(*(_listens(host, PORTS[scheme], seconds) for _, host, scheme in tries))
        for (source, host, scheme), listens in zip(tries, answers, strict=True):
            if listens:
                way = "send" if scheme.startswith("smtp") else "read"
                vouched = self.vouched(host)
                found.offers.append(Offer(way, scheme, host, PORTS[scheme], source, vouched=vouched))
        for source, host in hosts:
            open_ports = [str(offer.port) for offer in found.offers if offer.host == host]
            said = f"ports {', '.join(open_ports)} are open" if open_ports else "nothing answers on the usual ports"
            found.clues.append(Clue(f"guess: {source}", said))
        return found


def _offer(entry: autoconfig.ServerEntry, source: str) -> Offer:
    base = {"pop3": "pop3", "imap": "imap", "smtp": "smtp"}[entry.kind]
    way = {"pop3": "read", "imap": "imap", "smtp": "send"}[entry.kind]
    scheme = base + ("s" if entry.socket == "ssl" else "")
    return Offer(way, scheme, entry.host, entry.port, f"autoconfig {source}", entry.user)


def _denied(found: Found, way: str) -> bool:
    """Whether the domain says that it has nothing for this way, so that guesses would be wrong."""
    return all(name in found.denied for name, (of, _) in SERVICES.items() if of == way)


async def _listens(host: str, port: int, seconds: float) -> bool:
    try:
        wire = await connect(host, port, seconds)
    except DialError:
        return False
    wire.abort()
    return True


def _join(all_of_it: Found, more: Found) -> None:
    all_of_it.offers += more.offers
    all_of_it.clues += more.clues
    all_of_it.denied += more.denied


def load_over(context: ssl.SSLContext) -> Fetch:
    """How documents are fetched, with whom the context trusts."""

    async def load(url: str, seconds: float) -> bytes:
        return await fetch(url, context, seconds=seconds)

    return load
