"""The queue's time: wall time that does not jump.

What waits is stored with wall times. When the wall clock of a running server is set, no letter grows older by that and
none comes early or late: the queue goes on by the monotonic clock until its stored times were moved as well.
"""

from __future__ import annotations

from typing import Final

from posthouse.ports.system import Clock

JUMP: Final = 3600.0
"""Seconds by which the wall clock must differ from the monotonic one to be said to have jumped. Smaller steps pass
through: summer time is none, for wall time is UTC, and what a time server corrects is seconds."""


class SteadyClock:
    """Wall time as long as that does not jump (`ports.system.Clock`). All that writes times into the queue uses the
    same one, so that they can be moved together."""

    __slots__ = ("_clock", "_offset")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now() - clock.monotonic()

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, by the clock as it was before it jumped."""
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        if abs(wall - monotonic - self._offset) > JUMP:
            return monotonic + self._offset
        self._offset = wall - monotonic
        return wall

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return self._clock.monotonic()

    def jumped(self) -> float:
        """Seconds by which the wall clock is ahead of the queue's time (behind: negative), 0 as long as that is no
        jump."""
        ahead = self._clock.now() - self._clock.monotonic() - self._offset
        return ahead if abs(ahead) > JUMP else 0.0

    def follow(self) -> None:
        """Takes the wall clock as it is now."""
        self._offset = self._clock.now() - self._clock.monotonic()
