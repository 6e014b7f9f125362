"""What the store keeps in memory is never older than what anybody was told."""

from __future__ import annotations

from posthouse.ports.store import Maildrop
from posthouse.store.sqlite.lookups import DROP_LIFETIME, ROWS, Maildrops


class Ticking:
    """A clock that is moved by hand."""

    time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


def drop(mailbox: int, count: int = 1) -> Maildrop:
    return Maildrop(mailbox, [(uid, f"{uid:016x}", 100, 0) for uid in range(1, count + 1)], 100 * count)


def test_a_maildrop_is_kept_until_it_changes() -> None:
    maildrops = Maildrops(Ticking())
    first = maildrops.keep(drop(1))
    assert maildrops.get(1, b"") is first
    assert maildrops.get(2, b"") is None
    maildrops.forget([1, 2])
    assert maildrops.get(1, b"") is None


def test_a_maildrop_is_not_kept_for_ever() -> None:
    clock = Ticking()
    maildrops = Maildrops(clock)
    maildrops.keep(drop(1))
    clock.time = DROP_LIFETIME + 1
    assert maildrops.get(1, b"") is None


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    maildrops = Maildrops(Ticking())
    for mailbox in range(1, 300):
        maildrops.keep(drop(mailbox, 500))
    assert maildrops.get(1, b"") is None
    assert maildrops.get(299, b"") is not None
    assert maildrops._rows <= ROWS
    assert maildrops._rows == sum(len(kept[0].rows) + 1 for kept in maildrops._kept.values())
    maildrops.keep(drop(299, 2))
    assert maildrops._rows == sum(len(kept[0].rows) + 1 for kept in maildrops._kept.values())
