"""Connections that we open: a server's name as people write it, its addresses, and the first that answers."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from posthouse.net.buffers import Buffers
from posthouse.net.wire import Wire

CONNECT_TIMEOUT: Final = 30.0  # seconds for name and connection together; RFC 5321 leaves it to the client
NEXT_ADDRESS: Final = 10.0  # seconds one of several addresses may take
MOST_ADDRESSES: Final = 8  # of one host


class DialError(Exception):
    """There is no connection. Its text says why, for people."""


class UnknownHost(DialError):
    """The name of the server leads to no address."""


class Unreachable(DialError):
    """No address of the server accepted a connection. `refused` when the machine answered that nothing listens."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


@dataclass(slots=True, frozen=True)
class Server:
    """A server as a person names it: a host name or an IP address, and a port (None: the usual ones)."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_server(text: str) -> Server:
    """Reads `host`, `host:port`, `192.0.2.1:25`, `[2001:db8::1]:25` or `2001:db8::1`. Raises ValueError whose text
    says what is wrong."""
    text = text.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text} has no closing bracket in its place: write [address]:port")
        return Server(_host(host.removeprefix("IPv6:")), _port(rest[1:]) if rest else None)
    if text.count(":") > 1:
        return Server(_host(text))
    host, colon, port = text.partition(":")
    return Server(_host(host), _port(port) if colon else None)


def _host(text: str) -> str:
    if not text or len(text) > 255 or any(c <= " " or c in "@/\\<>\x7f" for c in text):
        raise ValueError(f"{text!r} is no name of a server")
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            raise ValueError(f"{text!r} is no IPv6 address") from None
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65_536):
        raise ValueError(f"{text!r} is no port: ports are numbers from 1 to 65535")
    return int(text)


def is_loopback(host: str) -> bool:
    """Whether this IP address is this machine itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


async def connect(host: str, port: int, timeout: float = CONNECT_TIMEOUT) -> Wire:
    """Opens a connection to the first address of the host that answers, IPv6 and IPv4 alike. Raises UnknownHost or
    Unreachable after at most `timeout` seconds."""
    where = str(Server(host, port))
    try:
        async with asyncio.timeout(timeout):
            addresses = await _resolve(host, port)
            return await _open(addresses, port, where)
    except TimeoutError:
        raise Unreachable(f"{where} did not answer within {timeout:g} s") from None


async def open_address(address: str, port: int, timeout: float, buffers: Buffers | None = None) -> Wire:
    """Opens a connection to one IP address; `buffers` are those that it shares with others. Raises Unreachable after
    at most `timeout` seconds."""
    where = str(Server(address, port))
    buffers = buffers or Buffers()
    try:
        async with asyncio.timeout(timeout):
            _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(buffers), address, port)
        return wire
    except TimeoutError:
        raise Unreachable(f"{where} did not answer within {timeout:g} s") from None
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        why = "nothing listens there" if refused else error.strerror or str(error)
        raise Unreachable(f"{where} cannot be reached: {why}", refused=refused) from None


async def _open(addresses: list[str], port: int, where: str) -> Wire:
    buffers = Buffers()
    refused = False
    reasons: list[str] = []
    for address in addresses:
        others = len(addresses) > len(reasons) + 1
        try:
            # An address that swallows packets must not cost the whole time while another would answer.
            async with asyncio.timeout(NEXT_ADDRESS if others else None):
                _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(buffers), address, port)
            return wire
        except TimeoutError:
            if not others:
                raise
            reasons.append(f"{address}: no answer")
        except OSError as error:
            refused = refused or isinstance(error, ConnectionRefusedError)
            reasons.append(f"{address}: {error.strerror or error}")
    why = "nothing listens there" if refused and len(reasons) == 1 else "; ".join(reasons)
    raise Unreachable(f"{where} cannot be reached: {why}", refused=refused)


async def _resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, a few at most; of an IP address itself. The system's resolver blocks and cannot be
    stopped: it gets a thread that the end of the program does not wait for."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return [host]
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if found.done() else act())

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(_ascii(host), port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))[:MOST_ADDRESSES]
            settle(lambda: found.set_result(addresses))
        except (OSError, UnicodeError) as error:
            reason = error
            settle(lambda: found.set_exception(_unknown(host, reason)))

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await found


def _unknown(host: str, error: Exception) -> DialError:
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return Unreachable(f"the name {host} cannot be looked up now: the name servers do not answer")
    return UnknownHost(f"the host {host} is not known: check its spelling, or give its address")


def _ascii(host: str) -> str:
    """The name as DNS knows it (RFC 5891 §4.4)."""
    if host.isascii():
        return host
    import idna  # only needed for names beyond ASCII

    return idna.encode(host, uts46=True).decode("ascii")
