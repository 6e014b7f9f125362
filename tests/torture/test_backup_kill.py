"""The short form of the kill test of backups, for every run of the tests; `make torture` runs the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.torture.backup import format_line, run_rounds


@pytest.mark.torture
@pytest.mark.timeout(240)
def test_a_backup_is_whole_or_not_there(tmp_path: Path) -> None:
    """Would catch a backup listed before it is whole, one that lacks an acknowledged letter, a restore that leaves
    half a store when it is killed, and one that doubles letters."""
    score = run_rounds(tmp_path, rounds=2, seed=int(os.environ.get("TORTURE_SEED", "1")))
    print(format_line(score, score.seconds))
    assert not score.failed, "\n".join([*score.complaints[:10], *score.ledger.complaints[:10]])
    assert score.made and score.killed
    assert score.compared > 0
