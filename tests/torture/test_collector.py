"""The short forms of the reader's kill test, for every run of the tests; `make torture` runs the long ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.programs import find_program
from tests.torture.collector import Ground, dovecots, ours, run_points, run_rounds

Server = Callable[[Path], contextlib.AbstractContextManager[Ground]]


@pytest.mark.torture
@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", [ours, dovecots])
@pytest.mark.parametrize("kind", ["maildir", "mbox"])
def test_a_killed_reader_loses_and_doubles_nothing(server: Server, kind: str, tmp_path: Path) -> None:
    """Would catch a DELE before the letter is safe and remembered, and a letter that a crash lets come twice."""
    with server(tmp_path) as ground:
        run = run_rounds(ground, kind, tmp_path, rounds=2, seed=1)
    assert not run.complaints, "\n".join(run.complaints)
    assert run.kills >= 2, "the kills came too late to prove anything"


@pytest.mark.torture
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["maildir", "mbox"])
def test_it_may_be_killed_before_every_step(kind: str, tmp_path: Path) -> None:
    """Would catch a window between two steps that random kills seldom hit: written and not synced, synced and not
    remembered, remembered and not deleted, deleted and not yet quit."""
    find_program("strace")
    calls = ("fsync", "write", "rename" if kind == "maildir" else "ftruncate")
    with ours(tmp_path) as ground:
        run = run_points(ground, kind, tmp_path, points=(1, 3), calls=calls)
    assert not run.complaints, "\n".join(run.complaints)
    assert set(calls) <= set(run.killed_before), "a step was never reached"
