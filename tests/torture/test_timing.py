"""The measurement of login times goes through; what it finds is for `make torture`, on a quiet machine."""

from __future__ import annotations

import re

import pytest

from tests.torture.timing import WAYS, main


def test_every_way_is_measured_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a brake of the server (bans, delays, limits of a session) that ends the measurement half-way."""
    main(["--count", "55", "--seconds", "0.03", "--seed", "7"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [re.split(r" {2,}", line)[0] for line in lines] == list(WAYS)
    assert all(50 <= float(re.findall(r"([\d.]+)%", line)[0]) <= 100 for line in lines)
