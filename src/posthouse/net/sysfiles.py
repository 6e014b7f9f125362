"""What this system knows of names: its hosts file, its name servers, its own name and addresses. Asks no network."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Generic, TypeVar

from posthouse.config.values import is_host_name

HOSTS: Final = Path(r"C:\Windows\System32\drivers\etc\hosts" if sys.platform == "win32" else "/etc/hosts")
RESOLV_CONF: Final = Path("/etc/resolv.conf")
FILE_LIMIT: Final = 1_048_576  # octets of either file that are read
LOOK_AGAIN: Final = 5.0  # seconds after which a file is looked at again

IP = IPv4Address | IPv6Address
T = TypeVar("T")


def parse_ip(address: str) -> IP | None:
    """An IP address without its zone; an IPv4 address in IPv6 form is the IPv4 address. None when it is none."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


class SystemFile(Generic[T]):
    """What a file of the system says, read again when it was changed."""

    __slots__ = ("_clock", "_look_at", "_path", "_reader", "_stamp", "_value")

    def __init__(self, path: Path, clock: Callable[[], float], reader: Callable[[str], T]) -> None:
        self._path = path
        self._clock = clock
        self._reader = reader
        self._look_at = float("-inf")
        self._stamp: object = None
        self._value = reader("")

    def read(self) -> T:
        """What it says; what it said last when it cannot be read now."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            with contextlib.suppress(OSError):
                status = self._path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if stamp != self._stamp:
                    self._value = self._reader(_text_of(self._path))
                    self._stamp = stamp
        return self._value


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(FILE_LIMIT).decode("utf-8", "replace")


def _host_lines(text: str) -> Iterator[tuple[IP, list[str]]]:
    """The addresses of a hosts file, each with its valid names (hosts(5))."""
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        ip = parse_ip(address)
        valid = [name.rstrip(".").lower() for name in names]
        valid = [name for name in valid if is_host_name(name)]
        if ip is not None and valid:
            yield ip, valid


def read_hosts(text: str) -> dict[IP, str]:
    """The first name of each address in a hosts file."""
    found: dict[IP, str] = {}
    for ip, names in _host_lines(text):
        found.setdefault(ip, names[0])
    return found


def read_host_addresses(text: str) -> dict[str, tuple[str, ...]]:
    """The addresses of each name in a hosts file, in its order."""
    found: dict[str, tuple[str, ...]] = {}
    for ip, names in _host_lines(text):
        for name in names:
            found[name] = (*found.get(name, ()), str(ip))
    return found


def read_name_servers(text: str) -> tuple[str, ...]:
    """The name servers in a resolv.conf (resolv.conf(5))."""
    if sys.platform == "win32":
        from dns.resolver import get_default_resolver

        return tuple(str(server) for server in get_default_resolver().nameservers)
    found = [words[1] for line in text.splitlines() if len(words := line.split()) > 1 and words[0] == "nameserver"]
    return tuple(host for host in found if parse_ip(host) is not None)


def machine_name(hosts: Path = HOSTS) -> str:
    """The name of this machine, with its domain where the hosts file knows one. Asks no network."""
    name = socket.gethostname().rstrip(".").lower()
    if "." not in name:
        with contextlib.suppress(OSError):
            for _, names in _host_lines(_text_of(hosts)):
                if name in names and (full := next((other for other in names if "." in other), None)):
                    return full
    return name if is_host_name(name) else "localhost"


def machine_addresses() -> list[str]:
    """The addresses that this machine has towards the rest of the world, IPv4 and IPv6, at most one each."""
    found: list[str] = []
    # Connecting a datagram socket sends nothing; the system only chooses the address it would send from.
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((somewhere, 9))
            found.append(str(probe.getsockname()[0]).partition("%")[0])
    return found
