"""The command `posthouse` itself: its help, its errors, how soon it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from posthouse import __version__
from posthouse.cli import main
from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import Invocation, default_data


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"posthouse {__version__}\n", "")


def test_the_help_names_every_verb_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in main.VERBS:
        assert f"\n  {verb} " in out


@pytest.mark.parametrize("verb", list(main.VERBS))
def test_every_verb_loads_and_has_a_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, err = run(capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: posthouse {verb}" in out


def test_the_short_help_is_that_of_the_command() -> None:
    context = click.Context(main.cli)
    for verb, (_, text) in main.VERBS.items():
        command = main.cli.get_command(context, verb)
        assert command is not None and command.help, verb
        assert text.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sned"], 'There is no command "sned". Did you mean send?'),
        (["xyzzy"], "There are demo, quickstart, serve, send"),
        (["--frobnicate"], "No such option"),
        (["account", "frob"], "No such command"),
        (["account", "add"], "Missing argument"),
        (["account", "list", "--frob"], "No such option"),
        (["--data"], "requires an argument"),
    ],
)
def test_wrong_usage_is_one_line_and_64(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (64, "")
    assert said in err
    assert "--help tells what is possible" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["account"], ["domain"]])
def test_nothing_to_do_shows_the_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 64
    assert "Usage: posthouse" in err


def test_a_bug_is_told_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(main.cli, "main", fail)
    code, _, err = run(capsys, "account", "list")
    assert code == Exit.SOFTWARE
    assert "RuntimeError: oops" in err
    assert "This is a bug in Posthouse" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.FileError("x"), 66),
    ],
)
def test_other_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    assert run(capsys, "account", "list")[0] == code


def test_a_problem_is_told_in_the_name_of_its_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Problem(Exit.TEMPORARY, "The port is in use. Try later.")

    monkeypatch.setattr(click.Command, "invoke", fail)
    assert run(capsys, "serve") == (75, "", "posthouse serve: The port is in use. Try later.\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "0>&- 2>&-"])
def test_closed_standard_streams_are_nobodys_files(tmp_path: Path, closed: str) -> None:
    """Would catch a log that is written into the database, because that was opened as number 2."""
    program = (
        "import os, sys\n"
        "from posthouse.cli.main import hold_standard_streams\n"
        "hold_standard_streams()\n"
        f"found = os.open({str(tmp_path / 'next')!r}, os.O_RDWR | os.O_CREAT)\n"
        "print('to nobody'), print('to nobody', file=sys.stderr), sys.stdin.read()\n"
        "for stream in (sys.stdout, sys.stderr): stream.flush()\n"
        "sys.exit(0 if found > 2 else 1)\n"
    )
    command = f'exec "$0" -c "$1" {closed}'
    subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, program], check=True, timeout=30, stdin=subprocess.DEVNULL
    )
    assert (tmp_path / "next").read_bytes() == b""


def test_the_usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data() == Path("/var/lib/posthouse")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_data() == Path("/home/anna/.local/share/posthouse")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data() == Path("/data/posthouse")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_data() == Path("/home/anna/Library/Application Support/Posthouse")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/mail:/var/lib/other")
    assert default_data() == Path("/var/lib/mail")


def test_data_goes_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[server]\ndata = "there"\nconnections = 5\n')
    config, data = Invocation(tmp_path / "here", tmp_path / "p.toml").load()
    assert (config.server.connections, data) == (5, tmp_path / "here")
    assert Invocation(None, tmp_path / "p.toml").load()[1] == tmp_path / "there"
    assert Invocation(tmp_path, None).load()[0].server.connections == 10_000
    (tmp_path / "posthouse.toml").write_text("[server]\nconnections = 7\n")
    assert Invocation(tmp_path, None).load()[0].server.connections == 7


def test_a_client_starts_at_once() -> None:
    """Would catch an import of the whole server by `send`: processor time, with a wide margin over 90 ms here."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "posthouse.cli.main", "send", "--help"], check=True, capture_output=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0
    code = (
        "import sys\nfrom posthouse.cli.main import cli\ncli.get_command(None, 'send')\nprint('\\n'.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = ("asyncio", "msgspec", "argon2", "dns", "sqlite3", "email", "ssl", "tomllib", "keyring", "http", "xml")
    for name in (*heavy, "posthouse.config.schema", "posthouse.config.profiles", "posthouse.clients", "posthouse.net"):
        assert name not in loaded, name


def test_the_best_of_ten_starts_is_below_150_ms() -> None:
    """The promise itself. Processor time, so that a busy machine breaks nothing; about 50 ms, as is the wall time."""
    command = [sys.executable, "-m", "posthouse.cli.main", "send", "--help"]

    def once() -> float:
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(once() for _ in range(10)) < 0.150
