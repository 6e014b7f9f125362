"""The real clock and real randomness of this machine."""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """The clock of this machine: `now` in seconds since 1970-01-01 UTC, `monotonic` on a clock that never jumps."""

    __slots__ = ()

    # The functions themselves: they are asked several times for every letter.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class SystemRandom:
    """Unguessable octets from the operating system."""

    __slots__ = ()

    def octets(self, count: int) -> bytes:
        """`count` random octets. Any thread may ask."""
        return secrets.token_bytes(count)
