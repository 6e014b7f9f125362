"""The short form of the kill test of the outbox, for every run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.outbox import run_rounds


@pytest.mark.torture
@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    """Would catch a letter confirmed before it is on the disk, one that two attempts send, and one that is tried again
    after its final dot has left."""
    ledger = run_rounds(tmp_path, rounds=5, seed=1)
    assert not ledger.complaints, ledger.complaints[:20]
    assert ledger.kills["outbox run"] >= 3 and len(ledger.promised) >= 60, ledger
