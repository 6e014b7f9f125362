"""Where letters lie. Only this room knows the engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from posthouse.net.system import SystemClock, SystemRandom
from posthouse.observe.log import Log
from posthouse.ports.bans import BanStore
from posthouse.ports.store import Damage, Repair, Store
from posthouse.ports.system import Clock, Random
from posthouse.store import datadir
from posthouse.store.datadir import DataDirectory, NoDirectory
from posthouse.store.model import Options, StoreError, StoreInUse, StoreTooNew
from posthouse.store.repairing import is_gone, require_idle

__all__ = [
    "Options",
    "StoreError",
    "StoreInUse",
    "StoreTooNew",
    "become_owner",
    "examine_store",
    "is_gone",
    "open_bans",
    "open_memory_store",
    "open_store",
    "power_cut",
    "repair_store",
    "require_idle",
]

LARGEST_PREFIX: Final = 1_048_576
"""Octets that are at most put before a content."""


def become_owner(path: Path, *, examines: bool = False) -> None:
    """Takes on the identity of the data directory's owner for good, so that no file of root's appears in it.

    For commands that root runs beside a server, before the store is opened. Does nothing when we are not root, when
    root owns the directory or when there is none yet. `examines` is for whoever examines or repairs the store.
    """
    # Loaded first, for the owner need not be able to read where Python is installed.
    from importlib import resources

    from posthouse.store.sqlite import engine

    if examines:
        from posthouse.store.sqlite import examine, repair  # noqa: F401 (loaded, as it says above)

    resources.files(engine.__package__ or "")
    path.absolute().as_uri()  # Python 3.13 loads urllib for it
    datadir.become_owner(path)


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

    clock = clock or SystemClock()
    random = random or SystemRandom()
    options = options or Options()
    directory = DataDirectory(Path(path), clock, random, options, serve=serve)
    try:
        return SqliteStore(directory, clock, random, options, log)
    except BaseException:
        directory.close()
        raise


def open_memory_store(
    *,
    clock: Clock | None = None,
    random: Random | None = None,
    options: Options | None = None,
    log: Log | None = None,
    image: bytes | None = None,
) -> Store:
    """Opens a store in memory, which is gone when it is closed: for a lab, where many servers share a process. It is
    empty, or holds what `power_cut` left of another.

    It commits on the event loop's thread, at once, and starts no thread. Every content lies in its row.
    """
    from posthouse.store.sqlite.engine import SqliteStore

    options = options or Options()
    within = replace(options, small=max(options.small, options.message_limit + LARGEST_PREFIX))
    return SqliteStore(NoDirectory(image), clock or SystemClock(), random or SystemRandom(), within, log)


def power_cut(store: Store) -> bytes:
    """What a store in memory has on its disk, as it were, at this moment. Whoever still uses the store is told
    Unavailable."""
    from posthouse.store.sqlite.engine import SqliteStore

    assert isinstance(store, SqliteStore), "a store of open_memory_store"
    return store.cut()


def examine_store(
    path: Path, *, full: bool = True, clock: Clock | None = None, random: Random | None = None
) -> Iterator[list[Damage]]:
    """Looks for every kind of damage in a data directory, beside a server or not, in portions; to be run in a thread.
    Changes nothing. Raises StoreError when the database cannot be opened."""
    from posthouse.store.sqlite.examine import examine

    return examine(path, clock or SystemClock(), random or SystemRandom(), full=full)


def repair_store(path: Path, *, dry: bool = False, clock: Clock | None = None, random: Random | None = None) -> Repair:
    """Repairs the store in a data directory that nobody uses; with `dry` it only finds out what would be done. To be
    run in a thread. Raises StoreError with a text for people; then nothing was changed."""
    from posthouse.store.sqlite.repair import repair

    return repair(path, clock or SystemClock(), random or SystemRandom(), dry=dry)


def open_bans(path: Path | str, *, log: Log | None = None) -> BanStore:
    """Opens the list of bans in a data directory that exists; beside a server, too. One that cannot be read is begun
    anew. Raises StoreError with a text for people."""
    from posthouse.store.sqlite.bans import BanFile

    bans = BanFile(Path(path))
    if bans.renewed and log is not None:
        log.warning("bans_begun_anew", reason=bans.renewed)
    return bans
