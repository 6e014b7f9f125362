"""A listener accepts, refuses beyond its bound, explains what it cannot do, and lets sessions end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from posthouse.net.listener import Listener, ListenError, Service, Sessions
from posthouse.net.wire import Stopping, Wire
from posthouse.observe.log import QuietLog
from posthouse.ports.system import Endpoint


class Remembering(QuietLog):
    """A log that keeps the names of what was told it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def exception(self, event: str, /, **fields: object) -> None:
        self.events.append(event)


@asynccontextmanager
async def listening(
    session: Callable[[Wire], Awaitable[None]], most: int = 10
) -> AsyncIterator[tuple[Endpoint, Sessions, Remembering]]:
    log = Remembering()
    sessions = Sessions(most, log)
    listener = Listener("smtp", sessions, Service(session, b"421 too many\r\n", b"421 stopping\r\n"))
    (address,) = await listener.open("127.0.0.1", 0)
    try:
        yield address, sessions, log
    finally:
        listener.close()
        await sessions.stop(0.0)


async def greet(wire: Wire) -> None:
    wire.write(b"220 hello\r\n")
    try:
        while await wire.read():
            pass
    except Stopping:
        wire.write(b"421 bye\r\n")


async def test_connections_beyond_the_bound_are_told_so() -> None:
    async with listening(greet, most=1) as (address, _, _):
        first, writer = await asyncio.open_connection(address.host, address.port)
        assert await first.readline() == b"220 hello\r\n"
        second, other = await asyncio.open_connection(address.host, address.port)
        assert await second.read() == b"421 too many\r\n"
        writer.close()
        other.close()


async def test_stopping_asks_sessions_and_refuses_new_ones() -> None:
    async with listening(greet) as (address, sessions, _):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        assert await reader.readline() == b"220 hello\r\n"
        assert await sessions.stop(5.0) == 0
        assert await reader.read() == b"421 bye\r\n"
        late, other = await asyncio.open_connection(address.host, address.port)
        assert await late.read() == b"421 stopping\r\n"
        writer.close()
        other.close()


async def test_a_session_that_does_not_end_is_cut_off() -> None:
    async def stubborn(wire: Wire) -> None:
        wire.busy = True
        wire.write(b"220 hello\r\n")
        while await wire.read():
            pass

    async with listening(stubborn) as (address, sessions, _):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        assert await reader.readline() == b"220 hello\r\n"
        assert await sessions.stop(0.05) == 1
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_a_bug_ends_its_own_session_only() -> None:
    async def buggy(wire: Wire) -> None:
        raise ZeroDivisionError

    async with listening(buggy) as (address, sessions, log):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        assert await reader.read() == b""
        assert log.events == ["session_failed"]
        assert not sessions.running
        writer.close()


async def test_a_busy_port_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = Listener("pop3", Sessions(1, QuietLog()), Service(greet, b"", b""))
        with pytest.raises(ListenError, match=rf"pop3 cannot listen on 127.0.0.1:{port}: the port is in use.*--listen"):
            await listener.open("127.0.0.1", port)


async def test_a_foreign_address_is_explained() -> None:
    listener = Listener("pop3", Sessions(1, QuietLog()), Service(greet, b"", b""))
    with pytest.raises(ListenError, match="no such address"):
        await listener.open("192.0.2.1", 0)
