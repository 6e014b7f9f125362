"""`posthouse backup` from the command line: exit codes, JSON, and what is told to people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli.exits import Exit
from tests.unit.test_cli_admin import Shell, filled, shell

__all__ = ["filled", "shell"]


@pytest.fixture(autouse=True)
def stay_as_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command steps back behind a server; these run in the process of the tests."""
    monkeypatch.setattr("os.setpriority", lambda which, who, priority: None)


def backups(shell: Shell) -> str:
    """Where they lie."""
    return str(shell.data.parent / "backups")


def answer(shell: Shell, *arguments: str, code: Exit = Exit.OK) -> dict[str, Any]:
    """What a command tells a program."""
    done = shell("backup", *arguments, "--json")
    assert done.code == code, (done.out, done.err)
    told: dict[str, Any] = json.loads(done.out)
    assert told["code"] == code
    return told


def test_the_whole_way_in_json(filled: Shell) -> None:
    place = backups(filled)
    made = answer(filled, "create", place)["backup"]
    assert (made["letters"], made["accounts"], made["queued"]) == (0, 1, 0)
    assert answer(filled, "create", place, "--keep", "1")["removed"] == [made["name"]]
    (listed,) = answer(filled, "list", place)["backups"]
    found = answer(filled, "verify", place)
    assert found["restored"] == found["backups"] == [listed["name"]]
    assert found["damages"] == []
    drill = filled.data.parent / "drill"
    done = filled("--data", str(drill), "backup", "restore", place, "--json")
    assert json.loads(done.out)["data"] == str(drill)
    kept = json.loads(filled("backup", "restore", place, "--replace", "--json").out)["kept"]
    assert (Path(kept) / "posthouse.db").exists()
    assert answer(filled, "restore", place, "--account", "test@x.mail")["letters"] == 0
    dry = answer(filled, "restore", place, "--account", "test@x.mail", "--dry-run")
    assert (dry["count"], dry["letters"]) == (0, [])
    assert answer(filled, "prune", place, "--keep", "1")["removed"] == []


def test_what_is_refused_has_a_code_and_says_what_to_do(filled: Shell, tmp_path: Path) -> None:
    place = backups(filled)
    code: Exit
    words: str
    arguments: tuple[str, ...]
    for code, words, arguments in (
        (Exit.NO_INPUT, "no such directory", ("list", place)),
        (Exit.NO_INPUT, "not a backup directory", ("verify", str(tmp_path))),
        (Exit.IO, "No such file", ("create", str(tmp_path / "not-mounted" / "backups"))),
        (Exit.CANNOT_CREATE, "lies in the data directory", ("create", str(filled.data / "backups"))),
        (Exit.USAGE, "--keep N", ("prune", place)),
        (Exit.USAGE, "--account", ("restore", place, "--letter", "1")),
        (Exit.USAGE, "not both", ("restore", place, "--account", "a@x.mail", "--letter", "1", "--message", "1")),
        (Exit.USAGE, "nothing is replaced", ("restore", place, "--account", "a@x.mail", "--replace")),
    ):
        done = filled("backup", *arguments)
        assert done.code == code, (arguments, done.out, done.err)
        assert words in done.err
    answer(filled, "create", place)
    for code, words, arguments in (
        (Exit.CANNOT_CREATE, "--replace", ("restore", place)),
        (Exit.NO_INPUT, "There are: ", ("restore", place, "2020-01-01T000000Z")),
        (Exit.NO_INPUT, "test@x.mail", ("restore", place, "--account", "b@x.mail")),
        (Exit.DATA, "", ("restore", place, "--account", "no address")),
    ):
        told = answer(filled, *arguments, code=code)
        assert words in told["error"], told
    assert filled("backup", "restore", place, "--dry-run", "--replace").out.startswith("Would restore 0 letters")


def test_damage_ends_with_1_and_names_the_backup(filled: Shell) -> None:
    place = backups(filled)
    name = answer(filled, "create", place)["backup"]["name"]
    largest = max(Path(place, "objects").glob("*/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"!")
    done = filled("backup", "verify", place)
    assert done.code == Exit.NOT_ALL
    assert largest.name in done.out
    assert f"Concerned: {name}" in done.out
    assert answer(filled, "verify", place, name, code=Exit.NOT_ALL)["damages"][0]["backups"] == [name]
    assert name in answer(filled, "restore", place, "--replace", code=Exit.IO)["error"]
    manifest = Path(place, "backups", f"{name}.json")
    manifest.write_bytes(manifest.read_bytes()[1:])
    assert answer(filled, "list", place, code=Exit.NOT_ALL)["damaged"] == [name]


def test_nothing_is_backed_up_where_there_is_no_mail(shell: Shell) -> None:
    done = shell("backup", "create", backups(shell))
    assert done.code == Exit.NO_INPUT
    assert not Path(backups(shell)).exists()
