"""The path of a message: what its Received fields say, in the order of travel, and how far they can be believed.

A Received field is believed when our own server wrote it. Anybody can write `by mx1.example.org` into a letter, so the
fields are read from the top, which the last server wrote, and only as long as each was handed over by one of ours: the
first hop that came from elsewhere is the last one that we know to be true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any, Final

from posthouse.mail.encoded import decode_field
from posthouse.mail.header import Field as HeaderField
from posthouse.mail.header import Header
from posthouse.mail.limits import HEADER
from posthouse.mail.moment import Moment, read_moment
from posthouse.mail.stamp import FIELD, Stamp, read_stamp, tokens
from posthouse.mail.verdicts import Verdicts, read_verdicts

# Addresses of inner networks: RFC 1918 §3, RFC 4193 §3.1. Nobody outside can speak from them.
_INSIDE: Final = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]
CLOCKS: Final = "the clocks of the two servers disagree"
HOPS: Final = 200  # Received fields that are read, the latest ones
_LISTS: Final = (
    "list-id",
    "list-post",
    "list-unsubscribe",
    "list-help",
    "list-archive",
    "list-owner",
    "list-subscribe",
)


@dataclass(slots=True)
class Leg:
    """One hop: what its field says, when it was counted from the hop before, whether our own server wrote it."""

    n: int
    stamp: Stamp
    raw: str
    delay: int | None = None
    trusted: bool = False
    notes: list[str] = field(default_factory=list)
    gap: bool = False
    asked: bool = False  # whether DNS was asked for the address; then `dns` is its name today
    dns: str | None = None

    @property
    def time(self) -> int | None:
        """Seconds since 1970 UTC."""
        return self.stamp.moment.seconds if self.stamp.moment is not None else None


@dataclass(slots=True)
class Path:
    """The whole of it. `fields` are the header's own words by name in small letters; `left_out` older hops."""

    legs: list[Leg]
    sent: Moment | None
    fields: dict[str, list[str]]
    left_out: int = 0
    verdicts: Verdicts = field(default_factory=Verdicts)

    @property
    def arrived(self) -> Leg | None:
        """The last hop that says when."""
        return next((leg for leg in reversed(self.legs) if leg.time is not None), None)

    @property
    def total(self) -> int | None:
        """Seconds from the Date field, or else the first hop, to the last; negative when clocks disagree."""
        begun = self.sent.seconds if self.sent is not None else None
        if begun is None:
            begun = next((leg.time for leg in self.legs if leg.time is not None), None)
        end = self.arrived
        return None if end is None or end.time is None or begun is None else end.time - begun

    @property
    def slowest(self) -> Leg | None:
        """The hop that took longest, when any took time."""
        late = [leg for leg in self.legs if (leg.delay or 0) > 0]
        return max(late, key=lambda leg: leg.delay or 0, default=None)

    def first(self, name: str) -> str | None:
        """The first field of this name."""
        return next(iter(self.fields.get(name, [])), None)

    @property
    def mailer(self) -> str | None:
        """The program that wrote the letter."""
        return self.first("user-agent") or self.first("x-mailer")


_KEPT: Final = frozenset(
    ("return-path", "delivered-to", "message-id", "date", "from", "to", "user-agent", "x-mailer", *_LISTS)
)


def read_path(octets: bytes, trusted: Collection[str] = ()) -> Path:
    """Reads a message, or its header. `trusted` names our own servers. Never raises, whatever the octets are."""
    header = Header(octets)
    stamps: list[HeaderField] = []
    fields: dict[str, list[str]] = {}
    count = 0
    for item in header:
        name = item.name.lower()
        if name == "received":
            count += 1
            if count <= HOPS:
                stamps.append(item)
        elif name in _KEPT and len(fields.setdefault(name, [])) < HOPS:
            fields[name].append(decode_field(octets[item.value : min(item.end, item.value + FIELD)]))
    legs = []
    for n, item in enumerate(reversed(stamps), 1):
        value = header.value(HeaderField(item.name, item.start, item.value, min(item.end, item.value + FIELD + 1)))
        legs.append(Leg(n, read_stamp(value), value[:FIELD].decode("utf-8", "backslashreplace")))
    date = (fields.get("date") or [""])[0]
    sent = read_moment([token.text for token in tokens(date[:FIELD]) if token.kind == "word"])
    path = Path(legs, sent, fields, max(0, count - HOPS))
    _measure(path)
    names = {name.lower().rstrip(".") for name in trusted}
    _judge(legs, names)
    path.verdicts = read_verdicts(header, _limit(stamps, legs), names)
    return path


def _limit(stamps: list[HeaderField], legs: list[Leg]) -> int:
    """Where the first Received field begins that others wrote. An authserv-id need not be the name of a host, so
    without a trusted hop the last server's own field is taken to be ours."""
    ours = max(1, sum(leg.trusted for leg in legs))
    return stamps[ours].start if ours < len(stamps) else HEADER


def _gap(before: Leg, leg: Leg) -> bool:
    """Whether a server is missing between two hops: the letter was taken by one and handed on by another."""
    taken, stamp = before.stamp.by, leg.stamp
    if taken is None or stamp.source is None or (stamp.ip is not None and ip_address(stamp.ip).is_loopback):
        return False
    names = [name.lower() for name in (stamp.source, stamp.helo, stamp.rdns, stamp.ip) if name]
    return not any(_same_site(taken.lower(), name) for name in names)


def _same_site(one: str, other: str) -> bool:
    """Whether two host names belong together: the same last two labels, three below short ones such as co.uk."""
    if one == other:
        return True
    labels, others = one.rstrip(".").split("."), other.rstrip(".").split(".")
    count = 3 if len(labels[-1]) == 2 and len(labels) > 2 and len(labels[-2]) <= 3 else 2
    return len(labels) >= count and labels[-1].isalpha() and labels[-count:] == others[-count:]


def _measure(path: Path) -> None:
    """Delays, each from the hop before that says a time."""
    before = None
    previous: Leg | None = None
    for leg in path.legs:
        leg.notes += leg.stamp.notes
        leg.gap = leg.stamp.by is None and leg.stamp.source is None and leg.time is None
        if previous is not None and _gap(previous, leg):
            leg.gap = True
            leg.notes.append(f"gap: {previous.stamp.by} took the letter, {leg.stamp.source} handed it on")
        previous = leg
        if leg.time is None:
            continue
        if before is not None:
            leg.delay = leg.time - before
            if leg.delay < 0:
                leg.notes.append(CLOCKS)
        elif path.sent is not None and path.sent.seconds is not None:
            wait = leg.time - path.sent.seconds
            if abs(wait) >= 60:
                leg.notes.append(f"{abs(wait)} s {'after' if wait > 0 else 'before'} the Date field")
        before = leg.time


def _judge(legs: list[Leg], trusted: set[str]) -> None:
    """Walks from the top as long as our own servers handed the letter to each other."""
    for leg in reversed(legs):
        if (leg.stamp.by or "").lower() not in trusted:
            return
        leg.trusted = True
        if not _from_ours(leg.stamp, trusted):
            return


def _from_ours(stamp: Stamp, trusted: set[str]) -> bool:
    """Whether the sender was one of ours: by the name that DNS gave, not by the one it called itself, unless the
    address is one that nobody outside has."""
    if stamp.source is None:
        return True  # nobody: the server itself
    if stamp.ip is not None:
        address = ip_address(stamp.ip)
        if address.is_loopback:
            return True
        if (stamp.rdns or "").lower() in trusted:
            return True
        inside = any(address in network for network in _INSIDE)
        return stamp.rdns is None and inside and (stamp.helo or "").lower() in trusted
    return (stamp.source or "").lower() in trusted


def to_json(path: Path) -> dict[str, Any]:
    """The path as programs read it: times in UTC, in the order of travel, null where nothing is said."""
    lists: Iterable[str] = (name for name in _LISTS if name in path.fields)
    return {
        "hops": [_leg(leg) for leg in path.legs],
        "hops_left_out": path.left_out,
        "total_s": path.total,
        "mailer": path.mailer,
        "message_id": path.first("message-id"),
        "from": path.first("from"),
        "to": path.first("to"),
        "sent": _utc(path.sent.seconds if path.sent is not None else None),
        "return_path": path.first("return-path"),
        "delivered_to": path.fields.get("delivered-to", []),
        "list": {name: path.fields[name] for name in lists},
        "auth": path.verdicts.to_json(),
    }


def _leg(leg: Leg) -> dict[str, Any]:
    stamp = leg.stamp
    return {
        "n": leg.n,
        "from": stamp.source,
        "helo": stamp.helo,
        "rdns": stamp.rdns,
        "ip": stamp.ip,
        "by": stamp.by,
        "with": stamp.protocol,
        "id": stamp.id,
        "for": stamp.recipient,
        "tls": None if stamp.tls is None else {"version": stamp.tls[0], "cipher": stamp.tls[1]},
        "time": _utc(leg.time),
        "zone": None if stamp.moment is None else stamp.moment.zone,
        "delay_s": leg.delay,
        "trusted": leg.trusted,
        "notes": leg.notes,
        "raw": leg.raw,
    } | ({"dns": leg.dns} if leg.asked else {})


def _utc(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
