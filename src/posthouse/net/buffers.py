"""What the connections of an event loop share: one buffer for reading, and a bound on what they hold together.

Each connection is bounded by itself, but ten thousand of them are not: so those that hold more than a little are
counted. When they hold too much, all are read in small pieces, and those that hold most and do not go on are dropped.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, Protocol

from posthouse.mail.budget import FREE, Budget

READ_BUFFER: Final = 65_536  # octets of one read; larger gains nothing on loopback, smaller costs calls
INPUT_HIGH: Final = 262_144  # octets read and not yet used, above which a socket is not read
MEMORY: Final = 134_217_728  # octets for all connections together: half of `server.memory`
LOOK_AGAIN: Final = 1.0  # seconds between two looks at who holds what, while it is too much
STALE: Final = 10.0  # seconds without progress after which one is dropped then; a line of 13 kbit/s makes progress
PROGRESS: Final = 0.75  # of what a peer left unread before is no more than this: that is progress
RELIEF: Final = 0.75  # of the bound is left when enough were dropped


class Holder(Protocol):
    """A connection that holds more than its free octets."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for its peer, and not for us."""
        ...

    def weigh(self) -> None:
        """Calls `hold` with what it holds now, if that changed."""
        ...

    def abort(self) -> None:
        """Drops the connection at once."""
        ...


class Buffers:
    """The buffer, and the bound of `most` octets. `tell` hears how many connections were dropped, 0 at first."""

    __slots__ = ("_held", "_looking", "_shared", "_tell", "ample", "budget")

    def __init__(self, most: int = MEMORY, tell: Callable[[int], None] = lambda dropped: None) -> None:
        self.budget = Budget(most)
        self.ample = True
        self._shared = memoryview(bytearray(READ_BUFFER))
        self._tell = tell
        self._held: dict[Holder, tuple[int, float]] = {}  # octets, and when there was progress
        self._looking: asyncio.TimerHandle | None = None

    def take(self) -> memoryview:
        """The buffer for a new connection. Where the system fills buffers in the background (Windows), each gets its
        own."""
        return memoryview(bytearray(READ_BUFFER)) if sys.platform == "win32" else self._shared

    @property
    def high(self) -> int:
        """Octets read and not yet used, above which a socket is not read now."""
        return INPUT_HIGH if self.ample else FREE

    def hold(self, holder: Holder, octets: int, *, progress: bool) -> None:
        """A connection holds so many octets now; 0 when it is no more than what is free. `progress` when its session
        used some, or its peer read some."""
        now = asyncio.get_running_loop().time()
        before, since = self._held.pop(holder, (0, now))
        if octets:
            self._held[holder] = (octets, now if progress or octets <= before * PROGRESS else since)
        self.budget.change(before, octets)
        if self.ample == self.budget.short:
            self._turn()

    def _turn(self) -> None:
        self.ample = not self.budget.short
        if not self.ample and self._looking is None:
            self._tell(0)
            self._look_later()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look)

    def _look(self) -> None:
        """Drops those that hold most without going on; and whoever went on least lately, when that is not enough."""
        self._looking = None
        if self.ample:
            return
        for holder in list(self._held):
            holder.weigh()
        too_much = self.budget.used - int(self.budget.most * RELIEF)
        utterly = self.budget.used > 2 * self.budget.most
        before = asyncio.get_running_loop().time() - (0.0 if utterly else STALE)
        found = [(octets, since, one) for one, (octets, since) in self._held.items() if since <= before]
        found.sort(key=(lambda entry: entry[1]) if utterly else (lambda entry: -entry[0]))
        dropped = 0
        for octets, _, holder in found:
            if too_much <= 0:
                break
            if utterly or holder.waiting:
                holder.abort()
                too_much -= octets
                dropped += 1
        if dropped:
            self._tell(dropped)
        self._look_later()
