"""What the table says about figures: medians, the best peer, gates."""

from __future__ import annotations

import pytest
from bench.report import OURS, as_page, failed, rows, table
from bench.workloads import Peer, Sample, Workload, workloads


def workload(key: str) -> Workload:
    return next(w for w in workloads() if w.key == key)


def runs(*figures: float, cpu: float = 100.0) -> list[Sample]:
    return [Sample(figure, cpu, 1.0, 2.0, 0.5) for figure in figures]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([499.0, 499.0, 9999.0], "BELOW GATE"),
        ([500.0, 1.0, 600.0], "gate"),
        ([1000.0], "goal"),
    ],
)
def test_the_median_decides(ours: list[float], verdict: str) -> None:
    (row,) = rows(workload("W1"), {OURS: runs(*ours, cpu=10), Peer.POSTFIX_DOVECOT.value: runs(100.0, 99.0, 101.0)})
    assert row.verdict == verdict
    assert failed([row]) == (["W1"] if verdict == "BELOW GATE" else [])


def test_the_best_of_the_named_peers_is_the_reference() -> None:
    found = rows(
        workload("P1"),
        {OURS: runs(300.0), Peer.DOVECOT_TUNED.value: runs(100.0), Peer.DOVECOT_SHARED.value: runs(201.0)},
    )
    assert [row.verdict for row in found] == ["", "BELOW GATE"]


def test_speed_that_costs_too_much_cpu_is_told() -> None:
    (row,) = rows(workload("W1"), {OURS: runs(1000.0, cpu=20), Peer.POSTFIX_DOVECOT.value: runs(100.0, cpu=100)})
    assert row.verdict == "goal, but CPU 1/5.0"


def test_less_is_better_where_time_and_memory_are_measured() -> None:
    (row,) = rows(workload("P4"), {OURS: runs(200.0), Peer.DOVECOT_TUNED.value: runs(500.0)})
    assert row.ratio == pytest.approx(2.5)
    (row,) = rows(workload("P5"), {OURS: runs(17.0), Peer.DOVECOT_SHARED.value: runs(129.0)})
    assert row.verdict == "above 16 KiB each"


def test_without_peers_the_figures_stand_alone() -> None:
    found = rows(workload("W1"), {OURS: runs(1000.0)})
    assert failed(found) == []
    assert "1,000" in table(found)


def test_the_page_escapes_what_it_shows() -> None:
    chosen = [workload("W1")]
    samples = {"W1": {OURS: runs(1000.0), Peer.POSTFIX_DOVECOT.value: runs(100.0)}}
    page = as_page({"cpu": "<b>"}, chosen, samples, rows(chosen[0], samples["W1"]))
    assert "<td>&lt;b&gt;</td>" in page
    assert "10.0 times Postfix + Dovecot LMTP (goal 10, gate 5)" in page
