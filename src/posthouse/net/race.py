"""The first of several addresses that accepts a connection (RFC 8305 §5).

The addresses are started one after the other, each 250 ms after the one before or as soon as that one has failed,
so that an address that swallows packets costs a quarter of a second and not a whole time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from posthouse.net.dial import DialError
from posthouse.net.wire import Wire

NEXT: Final = 0.25  # seconds; RFC 8305 §5, "Connection Attempt Delay"
AT_ONCE: Final = 4  # connections that are tried at the same time

Connect = Callable[[str, int, float], Awaitable[Wire]]


@dataclass(slots=True)
class Raced:
    """How a race ended: the connection, if there is one, its address, and why others are none."""

    wire: Wire | None = None
    address: str = ""
    failures: list[tuple[str, DialError]] = field(default_factory=list)


async def race(addresses: Sequence[str], port: int, connect: Connect, timeout: float) -> Raced:
    """Connects to the first address that answers; each has `timeout` seconds. Connections that come too late are
    closed. Raises nothing but what ends the caller."""
    raced = Raced()
    if len(addresses) == 1:  # no race: no task
        try:
            raced.wire, raced.address = await connect(addresses[0], port, timeout), addresses[0]
        except DialError as error:
            raced.failures.append((addresses[0], error))
        return raced
    waiting = list(addresses)
    running: dict[asyncio.Task[Wire], str] = {}
    try:
        while (waiting or running) and raced.wire is None:
            if waiting and len(running) < AT_ONCE:
                address = waiting.pop(0)
                running[asyncio.ensure_future(_settled(connect(address, port, timeout)))] = address
            pause = NEXT if waiting and len(running) < AT_ONCE else None
            done, _ = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _take(raced, task, running.pop(task))
    finally:
        await _end(running)
    return raced


async def _settled(attempt: Awaitable[Wire]) -> Wire:
    return await attempt


def _take(raced: Raced, task: asyncio.Task[Wire], address: str) -> None:
    try:
        wire = task.result()
    except DialError as error:
        raced.failures.append((address, error))
        return
    if raced.wire is None:
        raced.wire, raced.address = wire, address
    else:
        wire.abort()


async def _end(running: dict[asyncio.Task[Wire], str]) -> None:
    """Ends what still tries; what succeeded in the same moment is closed."""
    for task in running:
        task.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, Wire):
            result.abort()
