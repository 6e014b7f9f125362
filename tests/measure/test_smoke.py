"""The bench itself, in its smallest form: a few letters in by SMTP and sessions by POP3, without peers.

It would catch a generator, a runner or a contract of the command line that no longer fit together; no figure is
asserted, because the machine of a test is nobody's yardstick.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.programs import find_program

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.timeout(300)  # a bound against hanging: a busy machine compiles and measures slowly
def test_bench_runs_and_finds_every_letter(tmp_path: Path) -> None:
    find_program("cc")
    words = ["--only", "W1", "--peers", "none", "--rounds", "1", "--scale", "0.02", "--json", "--any-disk"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", *words, "--work", str(tmp_path), "--results", str(tmp_path / "results")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["key"] for row in found["rows"]] == ["W1", "W1-100"]
    assert all(row["ours"] > 0 for row in found["rows"])
    assert 0 < found["memory_kib"]["idle_rss"] < 80 * 1024
    assert (tmp_path / "results" / "index.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"], "the servers' folders are gone"
