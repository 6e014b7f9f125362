"""The short form of the comparison: one power cut of the careless server. Ours has test_kill.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.system.programs import leave_out
from tests.torture.disk import missing
from tests.torture.ledger import Ledger
from tests.torture.peers import Control, Ours, Row, verdict


def row(name: str, *, lost: int = 0, torn: int = 0) -> Row:
    ledger = Ledger(["a@x.mail"])
    ledger.tally.lost, ledger.tally.torn = lost, torn
    return Row(name, ledger, 1.0)


def test_a_run_that_proves_nothing_fails() -> None:
    """Would catch a table of zeros from a disk whose power was never cut."""
    good, bad = row(Ours.name), row(Control.name, lost=3)
    assert verdict([good, bad]) == ""
    assert "prove nothing" in verdict([good, row(Control.name)])
    for broken in (row(Ours.name, lost=1), row(Ours.name, torn=1)):
        assert "broke its promise" in verdict([broken, bad])


def test_the_careless_one(tmp_path: Path) -> None:
    """Would catch a rig that starts nothing, or calls its letters torn. The long form (make peers) has 40 cuts each."""
    if lack := missing():
        leave_out(f"the power cut: {lack}")
    command = [sys.executable, "-m", "tests.torture.peers", "--cuts", "1", "--only", "control"]
    done = subprocess.run(
        [*command, "--seed", "7", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=Path(__file__).parents[2],
    )
    found = re.search(rf"\| {re.escape(Control.name)} \| 1 \| (\d+) \| \d+ \| 0 \| 0 \|", done.stdout)
    assert found and int(found[1]) > 0, done.stdout + done.stderr
