"""Where letters lie. Only this room knows the engines."""

from __future__ import annotations

import os
import time
from pathlib import Path

from posthouse.observe.log import Log
from posthouse.ports.store import Store
from posthouse.ports.system import Clock, Random
from posthouse.store.datadir import DataDirectory, become_owner
from posthouse.store.model import Options, StoreError, StoreInUse, StoreTooNew

__all__ = ["Options", "StoreError", "StoreInUse", "StoreTooNew", "become_owner", "open_store"]


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()


class SystemRandom:
    """The system's source of random octets."""

    def octets(self, count: int) -> bytes:
        """`count` random octets."""
        return os.urandom(count)


def open_store(
    path: Path | str,
    *,
    serve: bool,
    clock: Clock | None = None,
    random: Random | None = None,
    options: Options | None = None,
    log: Log | None = None,
) -> Store:
    """Opens the store in a data directory, which is made when it is not there.

    `serve` is for the one process that serves mail from it: it sweeps what a crash left behind, and a second one is
    refused with StoreInUse. Commands beside a server open the same store with `serve=False`. Raises StoreError with a
    text for people. The caller awaits `close` at the end.
    """
    from posthouse.store.sqlite.engine import SqliteStore

    random = random or SystemRandom()
    options = options or Options()
    directory = DataDirectory(Path(path), random, options, serve=serve)
    try:
        return SqliteStore(directory, clock or SystemClock(), random, options, log)
    except BaseException:
        directory.close()
        raise
