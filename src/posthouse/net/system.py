"""The real clock and real randomness of this machine."""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()


class SystemRandom:
    """Unguessable octets from the operating system."""

    __slots__ = ()

    def octets(self, count: int) -> bytes:
        """`count` random octets. Any thread may ask."""
        return secrets.token_bytes(count)
