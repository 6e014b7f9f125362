"""What the peers of each network may do: connect, send, relay, log in with a password in clear.

Networks are named by the administrator and kept in the store; of those that hold an address the one with the longest
prefix alone counts. Two built-in networks stand behind them: this machine itself, and everybody else. `Access`
answers from memory; a session asks once, when it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Protocol

from posthouse.config.schema import IMPLICIT_TLS, PROTOCOLS
from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Network
from posthouse.ports.system import Clock

LOCAL: Final = "local"
RELAY: Final = "relay"
LOGIN_RELAY: Final = "login-relay"
AUTH25: Final = "auth25"
CLEAR: Final = "clear"
TRUSTED: Final = "trusted"
UNLIMITED: Final = "unlimited"

MEANINGS: Final[Mapping[str, str]] = {
    "smtp": "connect by SMTP",
    "submission": "connect by submission",
    "pop3": "connect by POP3",
    "lmtp": "connect by LMTP",
    LOCAL: "send letters to mailboxes here without a login",
    RELAY: "send letters to other servers' mailboxes without a login",
    LOGIN_RELAY: "send letters to other servers' mailboxes after a login",
    AUTH25: "log in by SMTP (port 25), where servers talk to each other",
    CLEAR: "send passwords without encryption",
    TRUSTED: "have bare line feeds put right and pipeline against the rules",
    UNLIMITED: "open connections without limit, and be delayed, never banned, for failed logins",
}
"""Every right, in words that continue "may"."""

EVERYBODY: Final = frozenset({"smtp", "submission", "pop3", LOCAL, LOGIN_RELAY})
"""What anybody may do who is in no named network."""

LOOPBACK: Final = frozenset(MEANINGS) - {RELAY}
"""What this machine's own programs may do: all but relay without a login. A web form that was broken into, a tunnel or
a container's network all look like this machine."""

MOST_ADDRESSES: Final = 10_000  # whose rights are remembered
LONGEST: Final = 100  # characters of a network that are read

CONNECT: Final = ("smtp", "submission", "pop3", "lmtp")
"""The rights that are protocols; those that begin with TLS (submissions, pop3s) are the same protocols."""

assert {IMPLICIT_TLS.get(protocol, protocol) for protocol in PROTOCOLS} == set(CONNECT), "every protocol is a right"


@dataclass(slots=True, frozen=True)
class Rights:
    """What one peer may do, and the network that said so ("this machine", "everybody" for the built-in ones)."""

    rule: str
    words: frozenset[str]
    named: bool = False  # by the administrator

    def may(self, word: str) -> bool:
        """Whether the peer has this right: a protocol, or one of the words above."""
        return word in self.words


THIS_MACHINE: Final = Rights("this machine", LOOPBACK)
ANYBODY: Final = Rights("everybody", EVERYBODY)

AnyNetwork = IPv4Network | IPv6Network
AnyAddress = IPv4Address | IPv6Address

_BUILT_IN: Final = (
    (IPv4Network("127.0.0.0/8"), THIS_MACHINE),
    (IPv6Network("::1/128"), THIS_MACHINE),
    (IPv4Network("0.0.0.0/0"), ANYBODY),
    (IPv6Network("::/0"), ANYBODY),
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def read_address(text: str) -> AnyAddress:
    """An IP address without its zone, an IPv4-mapped one as IPv4 (RFC 4291 §2.5.5.2). Raises ValueError."""
    address = ip_address(text.partition("%")[0])
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def read_network(text: str) -> AnyNetwork:
    """A network as people write it: 192.0.2.0/24, 2001:db8::/32 or one address. One of mapped addresses is its IPv4
    network. Raises ValueError with a sentence for people."""
    text = text.strip()
    if len(text) > LONGEST:
        raise ValueError("This is too long to be a network.")
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(_no_network(text)) from None
    if isinstance(network, IPv6Network) and network.network_address.scope_id:
        raise ValueError(f'"{text}" has a zone, and a network has none. Leave out what follows the %.')
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = int(network.network_address) & 0xFFFFFFFF
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _no_network(text: str) -> str:
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        return f'"{text}" is not a network. Write one such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7.'
    return f'"{text}" names an address inside a network. Write {meant} for the whole network.'


class Table:
    """Networks by length of prefix, for one family of addresses each. The longest that holds an address wins."""

    __slots__ = ("_levels",)

    def __init__(self, entries: Iterable[tuple[AnyNetwork, Rights]]) -> None:
        levels: dict[tuple[int, int], dict[int, Rights]] = {}
        for network, rights in entries:
            shift = network.max_prefixlen - network.prefixlen
            levels.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = rights
        self._levels: dict[int, list[tuple[int, dict[int, Rights]]]] = {4: [], 6: []}
        for (version, shift), level in sorted(levels.items()):  # small shifts are long prefixes
            self._levels[version].append((shift, level))

    def find(self, address: AnyAddress) -> Rights:
        """The rights of the network that holds the address."""
        number = int(address)
        for shift, level in self._levels[address.version]:
            if (found := level.get(number >> shift)) is not None:
                return found
        return ANYBODY


class Networks(Protocol):
    """Where the named networks come from."""

    def networks(self) -> tuple[Network, ...]:
        """Those there are now, from memory; the same tuple as long as nobody changed them."""
        ...


class Access:
    """Tells what a peer may do. One for all sessions; lives on the event loop's thread."""

    __slots__ = ("_clock", "_known", "_rows", "_source", "_table", "_until")

    def __init__(self, source: Networks, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._rows: tuple[Network, ...] | None = None
        self._until = 0.0  # when the next network expires
        self._table = Table(_BUILT_IN)
        self._known: dict[str, Rights] = {}

    def rights(self, host: str) -> Rights:
        """What the peer at this IP address may do; "" is a local socket."""
        if not host:
            return THIS_MACHINE
        rows, now = self._now(), self._clock.now()
        if rows is not self._rows or now >= self._until:
            self._rebuild(rows, now)
        if (known := self._known.get(host)) is None:
            if len(self._known) >= MOST_ADDRESSES:
                self._known.clear()
            known = self._known[host] = self._table.find(read_address(host))
        return known

    def is_unlimited(self, host: str) -> bool:
        """Whether the limits for each address and network, and bans for failed logins, pass over this peer. It is asked
        before anything else, so it always has an answer: as long as no network could be read, the built-in one."""
        try:
            return self.rights(host).may(UNLIMITED)
        except Unavailable:
            return self._table.find(read_address(host)).may(UNLIMITED)

    def _now(self) -> tuple[Network, ...]:
        """The named networks; those known last when the store cannot be read. Raises Unavailable when none are."""
        try:
            return self._source.networks()
        except Unavailable:
            if self._rows is None:
                raise
            return self._rows

    def _rebuild(self, rows: tuple[Network, ...], now: float) -> None:
        valid = [row for row in rows if row.until is None or row.until > now]
        named = [(ip_network(row.network), Rights(row.network, frozenset(row.rights), named=True)) for row in valid]
        self._table = Table([*_BUILT_IN, *named])
        self._until = min((row.until for row in valid if row.until is not None), default=float("inf"))
        self._rows = rows
        self._known.clear()


_SEPARATOR: Final = re.compile(r"[\s,]+")


def read_rights(texts: Iterable[str]) -> frozenset[str]:
    """The rights that words name; `connect` stands for every protocol, `all` for every right. Raises ValueError."""
    found: set[str] = set()
    for word in (word for text in texts for word in _SEPARATOR.split(text) if word):
        if word == "connect":
            found.update(CONNECT)
        elif word == "all":
            found.update(MEANINGS)
        elif word in MEANINGS:
            found.add(word)
        else:
            raise ValueError(f'"{word[:40]}" is no right. There are {", ".join(MEANINGS)}; connect is all protocols.')
    return frozenset(found)


def in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Rights in the order in which they are shown."""
    held = frozenset(words)
    return tuple(word for word in MEANINGS if word in held)
