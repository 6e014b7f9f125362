"""How much memory all sessions of a server together may take for one purpose."""

from __future__ import annotations

from typing import Final

FREE: Final = 8192
"""Octets of each holder that are not counted: a command, or a letter of 4 KiB with all its commands. So nothing is
counted for most letters, and whoever holds no more than this is never told to wait."""


class Budget:
    """Counts octets that are held. What is done when they are too many is up to whoever holds them."""

    __slots__ = ("most", "used")

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    @property
    def short(self) -> bool:
        """Whether more is held than should be."""
        return self.used > self.most

    def change(self, before: int, after: int) -> int:
        """Somebody who held `before` octets holds `after` now, which is returned."""
        self.used += after - before
        assert self.used >= 0, "what is given back was counted"
        return after
