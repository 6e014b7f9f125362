"""One destination as the queue's manager sees it: how many letters may leave for it at once, whether it is alive."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from posthouse.ports.queue import Parcel, Result

FIRST: Final = 2
"""Letters that leave at once for a destination nobody has reached yet. Each one taken allows one more (Postfix begins
with 5): fifty destinations that swallow packets then hold a hundred places, not a thousand."""

DEAD: Final = 20.0
"""Seconds a destination that could not be reached is left alone; twice as long with each time. Shorter than the first
wait of the timetable, so that every attempt of the timetable is a real one."""

DEAD_LONGEST: Final = 300.0


@dataclass(slots=True)
class Site:
    """What is known of one destination."""

    name: str
    due: float | None = None  # wall time when there is something to take, None: not known of any
    room: int = FIRST  # letters at once
    running: int = 0  # letters under way
    reserved: int = 0  # promised to letters that are being accepted
    ready: deque[Parcel] = field(default_factory=deque)  # taken, waiting for room
    claiming: bool = False
    stalled: bool = False  # letters wait whose last attempt reached nobody
    dead: Result | None = None
    dead_until: float = 0.0  # monotonic
    deaths: int = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is known about it that is worth keeping."""
        return not (
            self.due is not None or self.running or self.reserved or self.ready or self.claiming or self.stalled
        )

    def verdict(self, now: float) -> Result | None:
        """What to say to a letter without trying, while the destination is known to be dead."""
        return self.dead if now < self.dead_until else None

    def died(self, result: Result, now: float) -> bool:
        """Nobody was reached. True when that is news."""
        news = now >= self.dead_until
        if news:
            self.dead = result
            self.dead_until = now + min(DEAD * 2**self.deaths, DEAD_LONGEST)
            self.deaths = min(self.deaths + 1, 10)
            self.room = FIRST
        self.stalled = True
        return news

    def forgive(self) -> None:
        """The next letter is tried, whatever was found before; if nobody is reached, the pauses go on to grow."""
        self.dead_until = 0.0

    def lived(self, most: int) -> bool:
        """It took a letter. True when letters wait that had reached nobody."""
        self.dead, self.dead_until, self.deaths = None, 0.0, 0
        self.room = min(self.room + 1, most)
        stalled, self.stalled = self.stalled, False
        return stalled
