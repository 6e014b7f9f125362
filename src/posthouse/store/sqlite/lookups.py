"""Domains and accounts that were looked up a moment ago.

Every RCPT asks for a domain and an account. In the database that costs some 70 microseconds under load, because each
COMMIT makes a reader's page cache stale and each statement gives up the interpreter lock. So answers are kept for a
second, and dropped at once when anybody changed a domain or an account: every process appends an octet to a marker
file after such a COMMIT, and the file's size is looked at before an answer from memory is given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

from posthouse.ports.store import Account, Domain
from posthouse.ports.system import Clock
from posthouse.store.datadir import DataDirectory

MARKER: Final = "directory.changes"  # in the data directory
LIFETIME: Final = 1.0  # seconds; also covers a process that was killed between its COMMIT and its mark
MOST: Final = 10_000


class Lookups:
    """What was found, by name. Lives on the event loop's thread."""

    __slots__ = ("_accounts", "_clock", "_domains", "_file", "_seen", "_since")

    def __init__(self, directory: DataDirectory, clock: Clock) -> None:
        self._clock = clock
        self._domains: dict[str, Domain] = {}
        self._accounts: dict[str, Account] = {}
        self._file = -1
        self._seen = -1
        self._since = 0.0
        with contextlib.suppress(OSError):  # without a marker, changes by others are seen within a second
            self._file = os.open(directory.path / MARKER, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            directory.adopt(directory.path / MARKER)

    def close(self) -> None:
        """Lets go of the marker."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def domain(self, name: str, find: Callable[[str], Domain | None]) -> Domain | None:
        """The domain, from memory or by `find`. What does not exist is asked for every time."""
        self._check()
        if (known := self._domains.get(name)) is None and (known := find(name)) is not None:
            self._domains[name] = known
        return known

    def account(self, address: str, find: Callable[[str], Account | None]) -> Account | None:
        """The account likewise. One with a quota is never from memory, because what it holds must be current."""
        self._check()
        if (known := self._accounts.get(address)) is None and (known := find(address)) is not None and not known.quota:
            self._accounts[address] = known
        return known

    def changed(self) -> None:
        """Tells every process, this one included, that a domain or an account was changed just now."""
        self._forget()
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.write(self._file, b".")

    def _check(self) -> None:
        size = os.fstat(self._file).st_size if self._file >= 0 else 0
        now = self._clock.monotonic()
        if size != self._seen or now - self._since > LIFETIME or len(self._accounts) + len(self._domains) > MOST:
            self._forget()
            self._seen, self._since = size, now

    def _forget(self) -> None:
        self._domains.clear()
        self._accounts.clear()
