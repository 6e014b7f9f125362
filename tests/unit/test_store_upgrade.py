"""Stores of every earlier form are brought to the newest one, whole, whenever the program is killed on the way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from posthouse.store import StoreError, open_store
from posthouse.store.sqlite import upgrade
from tests.contract.conftest import StillClock
from tests.system.programs import find_program
from tests.torture.upgrade import NEWEST, form_of, kill_at, make_store, require_whole, steps


@pytest.mark.parametrize("form", range(1, NEWEST))
async def test_every_earlier_form_is_brought_to_the_newest(tmp_path: Path, form: int) -> None:
    data = tmp_path / "data"
    make_store(data, form)
    await require_whole(data)
    copy = data / upgrade.FOLDER / f"form-{form:04}.db"
    assert form_of(copy) == form
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not copy.with_name(copy.name + "-wal").exists()


@pytest.mark.timeout(120)
def test_killed_at_any_step_an_upgrade_goes_on_where_it_was(tmp_path: Path) -> None:
    """Six steps of all; `python -m tests.torture.upgrade` kills at every one."""
    find_program("strace")
    known = steps(tmp_path)
    kills = kill_at(tmp_path, known[3 :: len(known) // 6])
    assert kills.count >= 6
    assert kills.half_copies, "one kill at least leaves a copy half-written"
    assert len(kills.forms) >= 3, "and others leave a form in between"


async def test_a_copy_is_kept_for_a_month(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_store(data, NEWEST - 1)
    clock = StillClock(1060.0)
    for wall, there in ((1060.0, True), (1060.0 + 29 * 86_400, True), (1060.0 + 31 * 86_400, False)):
        clock.wall = wall
        await open_store(data, serve=True, clock=clock).close()
        assert (data / upgrade.FOLDER).exists() is there


async def test_going_back_is_putting_the_copy_in_the_place(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_store(data, 2)
    await require_whole(data)
    (data / upgrade.FOLDER / "form-0002.db").replace(data / "posthouse.db")
    assert form_of(data / "posthouse.db") == 2
    await require_whole(data)


def test_without_room_for_the_copy_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    make_store(data, 3)
    monkeypatch.setattr(upgrade, "free_octets", lambda path: 1_000_000)
    with pytest.raises(StoreError, match=r"MiB are missing on the disk\. Nothing was changed"):
        open_store(data, serve=True)
    assert form_of(data / "posthouse.db") == 3
