"""The short forms of the kill test, for every run of the tests; `make torture` runs 200 rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.programs import leave_out
from tests.torture.disk import missing
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


@pytest.mark.torture
@pytest.mark.timeout(120)
def test_nothing_is_lost_with_the_power(tmp_path: Path) -> None:
    """Would catch a file, or its name in a folder, that is not synced before the COMMIT that relies on it. It is a
    command of its own because the disk is mounted in a namespace that ends with it."""
    if lack := missing():
        leave_out(f"the power cut: {lack}")
    command = [sys.executable, "-m", "tests.torture.kill", "--power", "--rounds", "5", "--seed", "3"]
    folder = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=110, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
