"""Which addresses are our own: those at which this server waits for mail."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Final

from posthouse.net.sysfiles import IP, machine_addresses, parse_ip

_NOBODYS: Final = {4: "192.0.2.1", 6: "2001:db8::1"}  # for documentation (RFC 5737 §3, RFC 3849 §2): on no machine


class OwnAddresses:
    """The addresses that listeners have; `*` and unspecified ones stand for all of this machine."""

    __slots__ = ("_everywhere", "_incoming", "_listened")

    def __init__(self, listened: Iterable[tuple[str, int]], incoming: Iterable[str]) -> None:
        """`listened` is where this server takes letters in any way, `incoming` the addresses at which other servers
        bring them."""
        self._listened: set[tuple[IP, int]] = set()
        self._everywhere: set[int] = set()  # ports
        for address, port in listened:
            ip = _one(address)
            if ip is None:
                self._everywhere.add(port)
            else:
                self._listened.add((ip, port))
        self._incoming = {_one(address) for address in incoming}

    def holds(self, address: str) -> bool:
        """Whether mail that other servers send to this address comes to us, whatever the port: a firewall may lead
        port 25 to another one."""
        ip = parse_ip(address)
        return ip is not None and (ip in self._incoming or (None in self._incoming and _is_here(ip)))

    def listens(self, address: str, port: int) -> bool:
        """Whether it is us who listen at this address and port."""
        ip = parse_ip(address)
        return ip is not None and ((ip, port) in self._listened or (port in self._everywhere and _is_here(ip)))


def _one(address: str) -> IP | None:
    """The one address that a listener has, None for all of them."""
    ip = parse_ip(address)
    return None if ip is None or ip.is_unspecified else ip


def _is_here(ip: IP) -> bool:
    """Whether this machine has the address. Python lists no interfaces; but the system lets nobody bind another's."""
    if ip.is_loopback:
        return True
    if _can_bind(_NOBODYS[ip.version], ip.version):  # ip_nonlocal_bind is set: then the question says nothing
        return str(ip) in machine_addresses()
    return _can_bind(str(ip), ip.version)


def _can_bind(address: str, version: int) -> bool:
    try:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EADDRINUSE)
    return True
