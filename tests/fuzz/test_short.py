"""The short form of `make fuzz`: the seeds and a second of grown inputs for each target, always the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.run import Fuzzer, cut, fuzz, grow, seeds
from tests.fuzz.targets import TARGETS, Sight


@pytest.mark.parametrize("name", TARGETS)
def test_no_octets_break_a_core_or_a_parser(name: str, tmp_path: Path) -> None:
    assert fuzz([name], 1.5, 1, tmp_path) == 0


def test_a_fault_is_found_and_kept(tmp_path: Path) -> None:
    """Would catch a fuzzer that sees nothing."""

    def faulty(pieces: list[bytes] | tuple[bytes, ...]) -> Sight:
        assert b"BDAT" not in b"".join(pieces)
        return frozenset()

    one = Fuzzer("sasl", faulty, tmp_path, [b"EHLO x\r\n"])  # type: ignore[arg-type]
    one.work(random.Random(1), 20)
    assert one.failures == 5
    assert len(list(tmp_path.glob("fail-*"))) == 5


def test_pieces_are_the_input() -> None:
    chance, corpus = random.Random(1), seeds()
    for _ in range(200):
        octets = grow(chance, corpus)
        assert b"".join(cut(chance, octets)) == octets
