"""What kinds of values settings have, and how each is read from a configuration file.

A `Setting` describes one setting: kind, unit, bounds, help and the standard behind it. `Setting.read` turns what
the file says into the value the program uses, or raises `Wrong` with a sentence for people.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from posthouse.mail.address import Address, AddressError, domain_key, parse_domain
from posthouse.mail.limits import DOMAIN
from posthouse.mail.schedule import parse_schedule, write_schedule


class Wrong(ValueError):
    """A value that a setting cannot have. The text says what is allowed."""


class Kind(StrEnum):
    """The kinds of values."""

    TEXT = "text"
    INTEGER = "whole number"
    OCTETS = "size"
    SECONDS = "time"
    CHOICE = "word"
    HOST = "host name"
    MAILBOX = "mail address"
    ADDRESS = "address to listen on"
    SERVERS = "list of addresses"
    SCHEDULE = "timetable"


@dataclass(slots=True, frozen=True)
class Setting:
    """One setting as the reference page shows it and as the loader checks it. Its default stands with the value
    class that has it."""

    kind: Kind
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    rfc: str = ""
    source: str = ""  # where the default comes from, where no standard says so
    empty: str = ""  # what an empty text or a 0 means, where it means something of its own

    def read(self, value: object) -> object:
        """The value the program uses. Raises Wrong."""
        return _READERS[self.kind](self, value)

    @property
    def allowed(self) -> str:
        """What this setting may be, in words."""
        return _ALLOWED[self.kind](self)

    def show(self, value: object) -> str:
        """A value as one would write it in a configuration file."""
        if self.kind is Kind.OCTETS and isinstance(value, int):
            return f'"{show_octets(value)}"' if value >= 1024 and value % 1024 == 0 else str(value)
        if self.kind is Kind.SECONDS and isinstance(value, float):
            return f"{value:g}"
        if isinstance(value, tuple):
            return "[" + ", ".join(f'"{item}"' for item in value) + "]"
        return f'"{value}"' if isinstance(value, str) else str(value)

    def _within(self, number: float, value: object) -> None:
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise Wrong(f"{_quote(value)} is out of bounds; allowed is {self.allowed}")


_OCTETS: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,3}))?\s*(?:([kmgt])(?:i?b)?|b|octets|bytes)?", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|min|h|d)?", re.IGNORECASE)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def read_octets(text: str) -> int:
    """A size such as `500M`, `1.5 GiB` or `4096` in octets; K, M, G and T are powers of 1024. Raises Wrong."""
    match = _OCTETS.fullmatch(text.strip())
    if match is None:
        raise Wrong(f"{_quote(text)} is not a size; write it like 500M, 2G or 4096 (octets)")
    whole, part, unit = match.groups()
    number = int(whole) + (int(part) / 10 ** len(part) if part else 0)
    return int(number * 1024 ** _POWERS[(unit or "").lower()])


def show_octets(octets: int) -> str:
    """A size in the shortest exact form: 52428800 is `50M`."""
    for letter, power in (("T", 4), ("G", 3), ("M", 2), ("K", 1)):
        unit = 1024**power
        if octets >= unit and octets % unit == 0:
            return f"{octets // unit}{letter}"
    return str(octets)


def is_host_name(name: str) -> bool:
    """Whether this is a host name in letters, digits and hyphens (RFC 1123 §2.1), without a final dot."""
    return len(name) <= DOMAIN and all(_LABEL.fullmatch(label) for label in name.split("."))


def _quote(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _text(setting: Setting, value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f'{_quote(value)} is not a text; texts stand in quotation marks, such as "abc"')
    if not value.isprintable():
        raise Wrong(f"{value!r} holds a control character; only printable characters are allowed")
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _integer(setting: Setting, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Wrong(f"{_quote(value)} is not a whole number; allowed is {setting.allowed}")
    setting._within(value, value)
    return value


def _octets(setting: Setting, value: object) -> int:
    if isinstance(value, str):
        octets = read_octets(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        octets = value
    else:
        raise Wrong(f"{_quote(value)} is not a size; allowed is {setting.allowed}")
    setting._within(octets, value)
    return octets


def _seconds(setting: Setting, value: object) -> float:
    if isinstance(value, str) and (match := _SECONDS.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[(match[2] or "s").lower()]
    elif isinstance(value, int | float) and _number(value):
        seconds = float(value)
    else:
        raise Wrong(f"{_quote(value)} is not a time; allowed is {setting.allowed}")
    setting._within(seconds, value)
    return seconds


def _choice(setting: Setting, value: object) -> str:
    if value not in setting.choices or not isinstance(value, str):
        raise Wrong(f"{_quote(value)} is not known; allowed is {setting.allowed}")
    return value


def _host(setting: Setting, value: object) -> str:
    name = _text(setting, value)
    if name == "" and setting.empty:
        return name
    try:
        bare = domain_key(parse_domain(name.removesuffix(".")))
    except AddressError:
        bare = ""
    if not is_host_name(bare):
        raise Wrong(f"{_quote(name)} is not a host name; allowed is {setting.allowed}")
    return bare


def _mailbox(setting: Setting, value: object) -> str:
    text = _text(setting, value)
    if text == "" and setting.empty:
        return text
    try:
        return Address.parse(text).key
    except AddressError as error:
        raise Wrong(f"{_quote(text)} is not a mail address ({error}); allowed is {setting.allowed}") from None


def read_listen_address(text: str) -> str:
    """An address to listen on: `*` for all of IPv4 and IPv6, `localhost` for 127.0.0.1, or an IP address, which
    may stand in brackets. Raises Wrong."""
    if text in {"*", ""}:
        return "*"
    if text == "localhost":
        return "127.0.0.1"
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address, _, scope = bare.partition("%")
    try:
        return f"{ipaddress.ip_address(address)}{'%' + scope if scope else ''}"
    except ValueError:
        raise Wrong(f"{_quote(text)} is not an IP address; write one such as 127.0.0.1 or ::1, or * for all") from None


def _address(setting: Setting, value: object) -> str:
    return read_listen_address(_text(setting, value))


def _list(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Wrong(f'{_quote(value)} is not a list of texts; write it like ["192.0.2.53", "2001:db8::53"]')
    if len(value) > 1000:
        raise Wrong(f"{len(value)} entries are too many; at most 1000 are allowed")
    return value


def _servers(setting: Setting, value: object) -> tuple[str, ...]:
    return tuple(_server(item) for item in _list(value))


def _server(text: str) -> str:
    host, port = split_host_port(text)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        example = "192.0.2.53 or [2001:db8::53]:5353"
        raise Wrong(f"{_quote(text)} is not an IP address; write one such as {example}") from None
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def split_host_port(text: str) -> tuple[str, int | None]:
    """Parts `host`, `host:port`, `[v6]` or `[v6]:port`; a bare IPv6 address has no port. Raises Wrong."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Wrong(f"{_quote(text)} has no closing bracket before the port; write it like [::1]:2525")
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not port:
        return host, None
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Wrong(f"{_quote(port)} is not a port; ports are numbers from 0 to 65535")
    return host, int(port)


def _schedule(setting: Setting, value: object) -> str:
    text = _text(setting, value)
    try:
        return write_schedule(parse_schedule(text))
    except ValueError as error:
        raise Wrong(f"{_quote(text)} is not a timetable: {error}; allowed is {setting.allowed}") from None


_READERS: Final[Mapping[Kind, Callable[[Setting, object], object]]] = MappingProxyType(
    {
        Kind.TEXT: _text,
        Kind.INTEGER: _integer,
        Kind.OCTETS: _octets,
        Kind.SECONDS: _seconds,
        Kind.CHOICE: _choice,
        Kind.HOST: _host,
        Kind.MAILBOX: _mailbox,
        Kind.ADDRESS: _address,
        Kind.SERVERS: _servers,
        Kind.SCHEDULE: _schedule,
    }
)


def _bounds(setting: Setting, show: Callable[[float], str]) -> str:
    low, high = setting.low, setting.high
    if low is not None and high is not None:
        text = f"{show(low)} to {show(high)}"
    elif low is not None:
        text = f"at least {show(low)}"
    else:
        text = "any" if high is None else f"at most {show(high)}"
    return f"{text} ({'0' if setting.kind is not Kind.TEXT else 'empty'}: {setting.empty})" if setting.empty else text


_ALLOWED: Final[Mapping[Kind, Callable[[Setting], str]]] = MappingProxyType(
    {
        Kind.TEXT: lambda s: f"a text (empty: {s.empty})" if s.empty else "a text",
        Kind.INTEGER: lambda s: _bounds(s, lambda n: f"{n:g}" if n < 1e6 else str(int(n))),
        Kind.OCTETS: lambda s: _bounds(s, lambda n: show_octets(int(n))) + ", such as 4096, 64K or 50M",
        Kind.SECONDS: lambda s: _bounds(s, lambda n: f"{n:g}") + ' seconds, or a text such as "90s", "5m" or "1h"',
        Kind.CHOICE: lambda s: " or ".join(f'"{choice}"' for choice in s.choices),
        Kind.HOST: lambda s: f'a name such as "mail.example.org"{f" (empty: {s.empty})" if s.empty else ""}',
        Kind.MAILBOX: lambda s: f'an address such as "anna@example.org"{f" (empty: {s.empty})" if s.empty else ""}',
        Kind.ADDRESS: lambda s: 'an IP address, "localhost", or "*" for all addresses',
        Kind.SERVERS: lambda s: f"IP addresses, with :port if it is not 53{f' (none: {s.empty})' if s.empty else ''}",
        Kind.SCHEDULE: lambda s: '"default", "classic", or times such as "1m 5m 1h, every 3h, until 4d, notice 4h"',
    }
)
