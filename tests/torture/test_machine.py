"""The short form of what machines do to a server; `make torture` runs more rounds, and prints the figures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.programs import leave_out
from tests.torture.machine import ROWS, LeftOut, format_table, run


@pytest.mark.torture
@pytest.mark.timeout(200)
@pytest.mark.parametrize("row", ROWS)
def test_nothing_is_lost_by_a_fault(tmp_path: Path, row: str) -> None:
    """Would catch a 250 or +OK said before the disk had it, a server that does not come back by itself, a letter
    handed on twice or given up because of a fault of ours."""
    try:
        score = run(row, tmp_path, 1, int(os.environ.get("TORTURE_SEED", "1")))
    except LeftOut as lack:
        leave_out(str(lack))
    print(format_table([score]))
    assert not score.failed, "\n".join([format_table([score]), *score.complaints[:5]])
