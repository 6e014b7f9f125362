"""Time, randomness and observers, as the other floors see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, frozen=True)
class Endpoint:
    """One end of a connection: an IP address as text and a port; a Unix socket has the host "" and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Clock(Protocol):
    """Wall time. Timers never use it: they run on the event loop's monotonic clock."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        ...


class Random(Protocol):
    """Where unguessable octets come from."""

    def octets(self, count: int) -> bytes:
        """`count` random octets."""
        ...


class SessionObserver(Protocol):
    """Sees one session: the octets in both directions, in order, secrets already masked by the caller."""

    def received(self, octets: bytes, secret: bool = False) -> None:
        """Octets that the peer sent; when `secret`, what follows the command word is to be masked."""
        ...

    def sent(self, octets: bytes, secret: bool = False) -> None:
        """Octets that we sent."""
        ...

    def note(self, text: str) -> None:
        """Something that happened beside the octets, such as a time-out."""
        ...

    def secured(self, text: str) -> None:
        """From here on TLS protects the octets; the text names its version and cipher."""
        ...

    def closed(self) -> None:
        """The session is over; called exactly once, last."""
        ...


class Observer(Protocol):
    """Decides for each new session whether anybody wants to see it."""

    def session(self, protocol: str, local: Endpoint, peer: Endpoint) -> SessionObserver | None:
        """An observer for the session, or None, which costs nothing."""
        ...
