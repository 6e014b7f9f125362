"""The short form of the kill test, for every run of the tests; `make torture` runs 200 rounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.torture.kill import format_table, run_rounds


@pytest.mark.torture
@pytest.mark.timeout(240)
def test_nothing_is_lost(tmp_path: Path) -> None:
    """Would catch a 250 said before the letter was on the disk, and a deletion that is not one transaction."""
    seed = int(os.environ.get("TORTURE_SEED", "1"))
    outcome = run_rounds(tmp_path, rounds=12, seed=seed)
    print(format_table(outcome))
    assert not outcome.failed, "\n".join([*outcome.ledger.complaints[:10], outcome.damage, format_table(outcome)])
    assert outcome.ledger.tally.acknowledged > 100, format_table(outcome)
