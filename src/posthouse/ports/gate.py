"""Who is let in, as a listener sees it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Refusal(Enum):
    """Why a connection is not served."""

    CROWDED = "crowded"  # too many of them, in all, from there, or in this minute
    BANNED = "banned"


class Gate(Protocol):
    """Asked about every new connection; answers at once, without a system call."""

    def enter(self, host: str) -> Refusal | None:
        """Lets a peer in (None), which `leave` ends, or says why not."""
        ...

    def leave(self, host: str) -> None:
        """The connection of a peer that was let in is over."""
        ...
