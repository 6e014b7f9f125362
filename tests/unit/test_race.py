"""The race of addresses (RFC 8305 §5): the first that answers, others not waited for, none left open."""

from __future__ import annotations

import asyncio
from typing import cast

from posthouse.net.dial import Unreachable
from posthouse.net.race import AT_ONCE, NEXT, race
from posthouse.net.wire import Wire


class Line:
    """As much of a connection as is looked at."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Network:
    """Addresses that answer after so many seconds, or refuse (None)."""

    def __init__(self, **seconds: float | None) -> None:
        self.seconds = seconds
        self.begun: dict[str, float] = {}
        self.lines: list[Line] = []
        self.under_way = self.most = 0

    async def connect(self, address: str, port: int, timeout: float) -> Wire:
        self.begun[address] = asyncio.get_running_loop().time()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            seconds = self.seconds[address]
            if seconds is None:
                raise Unreachable("refused", refused=True)
            await asyncio.sleep(min(seconds, timeout))
            if seconds > timeout:
                raise Unreachable("silent")
        finally:
            self.under_way -= 1
        self.lines.append(Line(address))
        return cast(Wire, self.lines[-1])


async def test_a_refusal_starts_the_next_at_once() -> None:
    network = Network(a=None, b=0.0)
    raced = await race(["a", "b"], 25, network.connect, 1.0)
    assert raced.address == "b" and [address for address, _ in raced.failures] == ["a"]
    assert network.begun["b"] - network.begun["a"] < NEXT / 2


async def test_a_silent_one_gets_its_start_and_no_more() -> None:
    network = Network(a=60.0, b=0.0)
    raced = await race(["a", "b"], 25, network.connect, 100.0)
    assert raced.address == "b" and network.begun["b"] - network.begun["a"] >= NEXT * 0.9
    assert not raced.failures and network.under_way == 0


async def test_the_first_address_wins_when_it_answers_in_time() -> None:
    network = Network(a=0.05, b=0.0)
    assert (await race(["a", "b"], 25, network.connect, 1.0)).address == "a"
    assert list(network.begun) == ["a"]


async def test_all_fail_within_bounds() -> None:
    """Many silent addresses are tried a few at a time, and each gives its reason."""
    names = [f"a{number}" for number in range(2 * AT_ONCE)]
    network = Network(**dict.fromkeys(names, 60.0))
    raced = await race(names, 25, network.connect, 0.1)
    assert raced.wire is None and sorted(address for address, _ in raced.failures) == names
    assert network.most <= AT_ONCE


async def test_whoever_breaks_off_leaves_nothing_open() -> None:
    network = Network(a=60.0, b=60.0)
    task = asyncio.create_task(race(["a", "b"], 25, network.connect, 100.0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and network.under_way == 0 and not network.lines


async def test_one_that_comes_too_late_is_closed() -> None:
    network = Network(a=NEXT + 0.02, b=0.02)
    raced = await race(["a", "b"], 25, network.connect, 1.0)
    others = [line for line in network.lines if line.address != raced.address]
    assert raced.wire is not None and all(line.aborted for line in others)
