"""A wire batches, waits no longer than it may, lets nobody grow its memory, and ends cleanly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from posthouse.net.buffers import Buffers
from posthouse.net.wire import Stopping, Wire


class Lines:
    """The smallest core: an event is a line."""

    def __init__(self) -> None:
        self.left = b""

    def feed(self, octets: bytes) -> None:
        self.left += octets

    def next_event(self) -> bytes | None:
        line, found, rest = self.left.partition(b"\n")
        if not found:
            return None
        self.left = rest
        return line


Session = Callable[[Wire], Awaitable[None]]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Wire, asyncio.StreamReader, asyncio.StreamWriter]]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: Wire(Buffers()), sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        yield wire, reader, writer
    finally:
        wire.abort()
        writer.close()


async def test_events_of_one_read_are_answered_in_one_write() -> None:
    async with connected() as (wire, reader, writer):
        writer.write(b"a\nb\nc")
        seen = []

        async def session() -> None:
            async for event in wire.events(Lines()):
                seen.append(event)
                wire.write(event.upper() + b"\n")
            wire.close()

        task = asyncio.create_task(session())
        assert await reader.read(100) == b"A\nB\n"
        writer.write(b"d\n")
        assert await reader.read(100) == b"CD\n"
        writer.write_eof()
        assert await reader.read() == b""
        await task
        assert seen == [b"a", b"b", b"cd"]


async def test_a_trickle_of_octets_without_an_event_does_not_extend_the_wait() -> None:
    async with connected() as (wire, _, writer):
        wire.patience = 0.2

        async def trickle() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        feeding = asyncio.create_task(trickle())
        with pytest.raises(TimeoutError):
            async for _ in wire.events(Lines()):
                pytest.fail("no line was sent")
        feeding.cancel()


async def test_the_deadline_caps_patience() -> None:
    async with connected() as (wire, _, _writer):
        wire.deadline(0.05)
        with pytest.raises(TimeoutError):
            await wire.read()
        wire.deadline(None)


async def test_a_shorter_wait_after_a_longer_one_is_kept() -> None:
    async with connected() as (wire, _, writer):
        writer.write(b"x")
        assert await wire.read() == b"x"
        wire.patience = 0.05
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await wire.read()
        assert asyncio.get_running_loop().time() - started < 10


async def test_stopping_waits_for_a_busy_session_and_for_octets_that_came() -> None:
    async with connected() as (wire, _, writer):
        events = wire.events(Lines())
        writer.write(b"one\n")
        assert await anext(events) == b"one"
        wire.busy = True
        wire.ask_to_stop()
        writer.write(b"two\n")
        assert await anext(events) == b"two"
        wire.busy = False
        with pytest.raises(Stopping):
            await anext(events)


async def test_stopping_ends_a_wait() -> None:
    async with connected() as (wire, _, _writer):
        task = asyncio.create_task(wire.read())
        await asyncio.sleep(0)
        wire.ask_to_stop()
        with pytest.raises(Stopping):
            await task


async def test_a_peer_that_does_not_read_is_given_up() -> None:
    async with connected() as (wire, _, _writer):
        wire.stall_timeout = 0.1
        with pytest.raises(TimeoutError):
            for _ in range(10_000):
                wire.write(b"x" * 65_536)
                await wire.drain()


async def test_a_peer_that_does_not_read_cannot_make_us_read_on() -> None:
    async with connected() as (wire, _, writer):
        wire.write(b"x" * 20_000_000)
        draining = asyncio.create_task(wire.drain())
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100_000_000:
                writer.write(b"y" * 65_536)
                sent += 65_536
                async with asyncio.timeout(0.5):
                    await writer.drain()
        assert not draining.done()
        assert wire._input_size < 1_000_000
        draining.cancel()


async def test_finish_sends_the_reply_and_reads_on_for_a_moment() -> None:
    async with connected() as (wire, reader, writer):
        wire.write(b"no\n")
        finishing = asyncio.create_task(wire.finish(discard=5.0))
        assert await reader.read() == b"no\n"
        writer.write(b"z" * 100_000)
        writer.close()
        await finishing


async def test_a_lost_connection_looks_like_its_end() -> None:
    async with connected() as (wire, _, writer):
        writer.transport.abort()
        assert [event async for event in wire.events(Lines())] == []
        wire.write(b"for nobody")
        await wire.drain()
        await wire.finish(discard=5.0)
