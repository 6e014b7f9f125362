"""What was looked up a moment ago: domains, accounts and short maildrops.

Every RCPT asks for a domain and an account. In the database that costs some 70 microseconds under load, because each
COMMIT makes a reader's page cache stale and each statement gives up the interpreter lock. So answers are kept for a
second, and dropped at once when anybody changed a domain or an account: every process writes another mark into a file
after such a COMMIT, and the mark is looked at before an answer from memory is given (mark.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, cast

from posthouse.ports.store import Account, Alias, Credential, Domain, Maildrop, Network, Route
from posthouse.ports.system import Clock
from posthouse.store.datadir import DataDirectory
from posthouse.store.sqlite.mark import Mark

MARKER: Final = "directory.changes"  # in the data directory
LIFETIME: Final = 1.0  # seconds; also covers a process that was killed between its COMMIT and its mark
MOST: Final = 10_000
ROWS: Final = 50_000  # of all maildrops in memory together: some 8 MB
_UNKNOWN: Final = object()
DROP_LIFETIME: Final = 60.0  # seconds


class Lookups:
    """What was found, by name. Lives on the event loop's thread."""

    __slots__ = (
        "_accounts",
        "_aliases",
        "_clock",
        "_credentials",
        "_domains",
        "_mark",
        "_networks",
        "_networks_fresh",
        "_routes",
        "_routes_fresh",
        "_seen",
        "_since",
    )

    def __init__(self, directory: DataDirectory, clock: Clock) -> None:
        self._clock = clock
        self._domains: dict[str, Domain | None] = {}
        self._accounts: dict[str, Account] = {}
        self._aliases: dict[str, Alias] = {}
        self._networks: tuple[Network, ...] = ()
        self._networks_fresh = False
        self._routes: tuple[Route, ...] = ()
        self._routes_fresh = False
        self._credentials: dict[int, list[Credential]] = {}
        self._mark: Mark | None = None
        self._seen = b"none yet"
        self._since = 0.0
        if directory.in_memory:  # there are no others
            return
        with contextlib.suppress(OSError):  # without it, changes by others are seen within a second
            self._mark = Mark(directory.path / MARKER)

    def mark(self) -> bytes:
        """What is another one when any process changed a domain or an account, or brought mail back."""
        return b"" if self._mark is None else self._mark.read()

    def close(self) -> None:
        """Lets go of the mark."""
        if self._mark is not None:
            self._mark.close()
            self._mark = None

    def domain(self, name: str, find: Callable[[str], Domain | None]) -> Domain | None:
        """The domain, from memory or by `find`. That it is none of ours is remembered too: letters for elsewhere ask
        for it with every recipient."""
        self._check()
        known = self._domains.get(name, _UNKNOWN)
        if known is _UNKNOWN:
            known = find(name)
            self._make_room()
            self._domains[name] = known
        return cast("Domain | None", known)

    def account(self, address: str, find: Callable[[str], Account | None]) -> Account | None:
        """The account likewise; what does not exist is asked for every time. One with a quota is never from memory,
        because what it holds must be current."""
        self._check()
        if (known := self._accounts.get(address)) is None and (known := find(address)) is not None and not known.quota:
            self._make_room()
            self._accounts[address] = known
        return known

    def alias(self, address: str, find: Callable[[str], Alias | None]) -> Alias | None:
        """The alias likewise."""
        self._check()
        if (known := self._aliases.get(address)) is None and (known := find(address)) is not None:
            self._make_room()
            self._aliases[address] = known
        return known

    def networks(self, find: Callable[[], tuple[Network, ...]]) -> tuple[Network, ...]:
        """All networks likewise. What is found unchanged is the same tuple as before."""
        self._check()
        if not self._networks_fresh:
            if (found := find()) != self._networks:
                self._networks = found
            self._networks_fresh = True
        return self._networks

    def routes(self, find: Callable[[], tuple[Route, ...]]) -> tuple[Route, ...]:
        """All routes likewise."""
        self._check()
        if not self._routes_fresh:
            if (found := find()) != self._routes:
                self._routes = found
            self._routes_fresh = True
        return self._routes

    def credentials(self, account: int, find: Callable[[int], list[Credential]]) -> list[Credential]:
        """What an account can log in with beside its hash, likewise."""
        self._check()
        if (known := self._credentials.get(account)) is None:
            known = find(account)
            self._make_room()
            self._credentials[account] = known
        return known

    def changed(self) -> None:
        """Tells every process, this one included, that a domain or an account was changed just now."""
        self._forget()
        if self._mark is not None:
            self._mark.change()

    def _check(self) -> None:
        mark = b"" if self._mark is None else self._mark.read()
        now = self._clock.monotonic()
        if mark != self._seen or now - self._since > LIFETIME:
            self._forget()
            self._seen, self._since = mark, now

    def _make_room(self) -> None:
        """Before something is remembered: strangers choose what is asked for."""
        if len(self._accounts) + len(self._domains) + len(self._credentials) + len(self._aliases) > MOST:
            self._forget()

    def _forget(self) -> None:
        self._domains.clear()
        self._accounts.clear()
        self._aliases.clear()
        self._networks_fresh = False
        self._routes_fresh = False
        self._credentials.clear()


class Maildrops:
    """Short maildrops, for clients that look for mail every minute. Lives on the event loop's thread.

    Only this process changes mailboxes while it serves, but for letters that a command brings back, which changes the
    mark of the lookups; and `forget` is called before anybody is told of a change:
    so nobody who heard of a letter, or of a deletion, sees a maildrop from before it.
    """

    __slots__ = ("_clock", "_kept", "_mark", "_rows")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[int, tuple[Maildrop, float]] = {}
        self._rows = 0
        self._mark = b""

    def get(self, mailbox: int, mark: bytes) -> Maildrop | None:
        """The maildrop as it was read not long ago, if nothing changed since."""
        if mark != self._mark:
            self._mark = mark
            self.forget(list(self._kept))
        kept = self._kept.get(mailbox)
        if kept is None:
            return None
        if self._clock.monotonic() > kept[1]:
            self.forget((mailbox,))
            return None
        return kept[0]

    def keep(self, maildrop: Maildrop) -> Maildrop:
        """Keeps a maildrop that was read just now, and returns it."""
        self.forget((maildrop.mailbox,))
        self._kept[maildrop.mailbox] = (maildrop, self._clock.monotonic() + DROP_LIFETIME)
        self._rows += len(maildrop.rows) + 1
        while self._rows > ROWS:
            self.forget((next(iter(self._kept)),))
        return maildrop

    def forget(self, mailboxes: Sequence[int]) -> None:
        """These mailboxes were changed."""
        for mailbox in mailboxes:
            if (kept := self._kept.pop(mailbox, None)) is not None:
                self._rows -= len(kept[0].rows) + 1
