"""The consistency check of the embedded engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from posthouse.ports.store import Damage
from posthouse.ports.system import Clock
from posthouse.store.content import Files
from posthouse.store.sqlite.pool import Readers


class Examination:
    """One run of the check."""

    def __init__(self, readers: Readers, files: Files, clock: Clock, *, full: bool) -> None:
        self._readers = readers
        self._files = files
        self._clock = clock
        self._full = full

    def parts(self) -> Iterator[Callable[[], list[Damage]]]:
        """The steps of the check; each runs in a thread and gives what it found."""
        yield self._structure

    def _structure(self) -> list[Damage]:
        with self._readers.snapshot() as cursor:
            rows = cursor.execute("PRAGMA integrity_check" if self._full else "PRAGMA quick_check").fetchall()
        return [Damage("structure", "posthouse.db", text) for (text,) in rows if text != "ok"]
