"""The short form of the soak, for every run of the tests; `make soak` runs an hour and looks at growth too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.programs import find_program
from tests.torture.gauges import Sample, growth, slope, steepness
from tests.torture.soak import run

KINDS = {
    "by smtp",
    "by submission",
    "by lmtp",
    "secured sessions",
    "guess",
    "talk_nonsense",
    "hang_up",
    "kill_client",
    "lose_and_find",
    "command",
    "reload",
    "lose_next_host",
}


@pytest.mark.torture
@pytest.mark.timeout(120)
def test_everything_at_once(tmp_path: Path) -> None:
    """Would catch a letter lost, torn, doubled or back after its deletion by any of these things beside another, a
    descriptor or a staged file that is left behind, and a soak that no longer does what it says."""
    find_program("curl")
    score, table, done = run(tmp_path, 3.0, int(os.environ.get("TORTURE_SEED", "1")))
    print(table)
    assert not score.failed, "\n".join([table, *score.complaints[:5]])
    assert score.acknowledged and score.deletions
    assert done.keys() >= KINDS, KINDS - done.keys()


def sample(at: float, memory: int, descriptors: int = 40, contents: int = 0) -> Sample:
    return Sample(at, memory, descriptors, 12, 1_000_000, 0, contents, 0, 0)


def test_a_leak_is_seen_and_a_peak_is_not() -> None:
    """The soak's own judgement: 30 octets a letter at 100 letters a second, among peaks twice as high."""
    even = [sample(float(n), 60_000_000 * (2 if n % 10 == 0 else 1)) for n in range(3000)]
    assert steepness(even, 3000.0) == []
    leak = [sample(one.at, one.memory + int(one.at) * 6000) for one in even]
    assert 5900 < slope(leak, lambda one: one.memory) < 6100
    (complaint,) = steepness(leak, 3000.0)
    assert complaint.startswith("memory")
    assert growth(sample(0, 60_000_000), sample(1, 70_000_000)) == []
    assert len(growth(sample(0, 60_000_000), sample(1, 80_000_000, 60, contents=1))) == 3
