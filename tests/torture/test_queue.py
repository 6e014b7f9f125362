"""The short form of the queue's kill test."""

from __future__ import annotations

from pathlib import Path

from tests.torture import queue


def test_nothing_that_waits_is_lost_doubled_or_told_wrongly(tmp_path: Path) -> None:
    """Catches a result that is believed before its COMMIT, a lease that outlives its process, a notice without the
    state it tells about."""
    books, table = queue.run(tmp_path, rounds := 4, seed=1)
    assert books.complaints == [], table
    assert books.rounds == rounds
    assert len(books.accepted) > 50, table
