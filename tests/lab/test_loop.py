"""The movable clock: time jumps to the next timer, stands still while anything is ready, and never hangs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from posthouse.lab import loop as loops
from posthouse.lab.loop import MovableClock, MovableLoop, Stuck


def test_four_days_take_no_time() -> None:
    loop = MovableLoop()
    clock = MovableClock(loop, 1_000_000.0)

    async def wait() -> float:
        await asyncio.sleep(4 * 86_400.0)
        return clock.now()

    begun = time.thread_time()
    assert loop.run(wait()) == 1_000_000.0 + 4 * 86_400.0
    assert clock.monotonic() == 4 * 86_400.0
    assert time.thread_time() - begun < 5.0


def test_timers_ring_in_order_and_exactly_when_they_are_due() -> None:
    loop = MovableLoop()
    rung: list[tuple[str, float]] = []

    async def wait() -> None:
        for name, seconds in (("c", 0.3), ("a", 0.1), ("b", 0.1), ("d", 1e9)):
            loop.call_at(seconds, lambda given: rung.append((given, loop.time())), name)
        await asyncio.sleep(2e9)

    loop.run(wait())
    assert sorted(rung[:2]) == [("a", 0.1), ("b", 0.1)]
    assert rung[2:] == [("c", 0.3), ("d", 1e9)]  # 30 years on, a nanosecond is no more than a rounding error


def test_no_timer_rings_early() -> None:
    """Who looks at the clock when the timer rings, and waits again if it is too early, would wait in a circle."""
    loop = MovableLoop()
    early: list[float] = []

    async def wait() -> None:
        for moment in (1.0, 1.0 + 1e-9, 1.0 + 1e-12, 5e8, 5e8 + 1e-7):
            loop.call_at(moment, lambda given: early.append(given - loop.time()), moment)
        await asyncio.sleep(1e9)

    loop.run(wait())
    assert len(early) == 5
    assert max(early) <= 0.0


def test_time_stands_still_while_anything_is_ready() -> None:
    loop = MovableLoop()

    async def work() -> float:
        timer = asyncio.create_task(asyncio.sleep(0.001))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not timer.done()
        now = loop.time()
        await timer
        return now

    assert loop.run(work()) == 0.0


def test_timeouts_count_on_the_movable_clock() -> None:
    loop = MovableLoop()

    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600.0):
                await asyncio.Event().wait()
        return loop.time()

    assert loop.run(wait()) == 3600.0


def test_whoever_waits_for_nothing_is_told_so() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match="no timer"):
        MovableLoop().run(wait())


def test_whoever_runs_in_a_circle_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MOST_TURNS", 1000)

    async def turn() -> None:
        while True:  # noqa: ASYNC110 (that is what is tested)
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="circle"):
        MovableLoop().run(turn())


def test_work_for_threads_is_done_at_once_on_the_same_thread() -> None:
    async def work() -> None:
        assert await asyncio.to_thread(threading.current_thread) is threading.current_thread()
        with pytest.raises(ValueError, match="wrong"):
            await asyncio.to_thread(_fail)

    MovableLoop().run(work())


def _fail() -> None:
    raise ValueError("wrong")


def test_tasks_that_are_left_are_ended() -> None:
    ended: list[str] = []

    async def stay() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("stay")

    async def main() -> None:
        task = asyncio.create_task(stay())
        await asyncio.sleep(1.0)
        assert not task.done()

    loop = MovableLoop()
    loop.run(main())
    assert ended == ["stay"]
    assert loop.is_closed()
