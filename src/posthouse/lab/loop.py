"""An event loop whose clock is moved instead of waited for.

Time stands still while anything is ready to run. When nothing is, it jumps to the next timer. So four days of waiting
take as long as the work that is done in them, and the same run gives the same times whenever it is repeated.

There are no threads in the box: what is given to an executor runs at once, on the loop's thread. A program that waits
for something that no timer and no callback will ever bring is stuck, and the loop says so instead of hanging.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from math import ulp
from typing import Any, Final, TypeVar

T = TypeVar("T")

MOST_TURNS: Final = 5_000_000
"""Turns of the loop at one and the same moment, beyond which somebody is waiting in a circle for time to pass."""


class Stuck(Exception):
    """Nothing is ready and no timer is set: whoever waits would wait for ever. Or time stands still for ever."""


class MovableClock:
    """Wall time in the box (`ports.Clock`): a chosen start, and the loop's time since."""

    __slots__ = ("_loop", "_start")

    def __init__(self, loop: MovableLoop, start: float) -> None:
        self._loop = loop
        self._start = start

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return self._start + self._loop.time()

    def monotonic(self) -> float:
        """Seconds since the box was opened."""
        return self._loop.time()


class _Jump:
    """Stands where an ordinary loop has its selector: it is asked to wait, and lets time jump instead."""

    __slots__ = ("_loop",)

    def __init__(self, loop: MovableLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Called once in each turn of the loop: with 0 when something is ready, else with the seconds to the next
        timer, with None when there is no timer."""
        self._loop.pass_time(timeout)
        return []


class MovableLoop(asyncio.BaseEventLoop):
    """An event loop with a clock of its own, without sockets and without threads.

    It stands on two seams of `BaseEventLoop` that have been the same since Python 3.4: `_selector.select(timeout)`
    is how it waits, `_process_events` how it takes what came. ADR 0122.
    """

    def __init__(self) -> None:
        super().__init__()
        self._moment = 0.0
        self._turns = 0
        self._selector = _Jump(self)
        self._clock_resolution = ulp(self._moment)
        self.jumps = 0  # how often time moved

    def time(self) -> float:
        """Seconds since the loop was made, as far as time was moved."""
        return self._moment

    def pass_time(self, timeout: float | None) -> None:
        """Moves the clock, for `_Jump`. Raises Stuck."""
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set: whoever waits would wait for ever")
        if timeout <= 0:
            self._turns += 1
            if self._turns > MOST_TURNS:
                self._turns = 0
                raise Stuck(f"{MOST_TURNS} turns of the event loop, and time has not moved: something runs in a circle")
            return
        # The next timer itself, not the sum: no rounding, so that what is due at a moment finds that moment.
        self._moment = min(self._next_timer(), self._moment + timeout)
        # What is due before the moment plus this is run: exactly what is due at the moment, however late it is.
        self._clock_resolution = ulp(self._moment)
        self._turns = 0
        self.jumps += 1

    def _next_timer(self) -> float:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # of BaseEventLoop
        return timers[0].when()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, then ends whatever is left and closes the loop. Raises Stuck."""
        try:
            asyncio.set_event_loop(self)
            return self.run_until_complete(main)
        finally:
            try:
                self._end_tasks()
                self.run_until_complete(self.shutdown_asyncgens())
            finally:
                asyncio.set_event_loop(None)
                self.close()

    def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks))

    def run_in_executor(  # type: ignore[override]  # the base class promises less exact types
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Runs `func` here and now; time does not move meanwhile."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever awaits
            future.set_exception(error)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody has to be woken."""
