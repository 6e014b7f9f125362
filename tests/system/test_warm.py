"""The warm process must not differ from the installed command: in output, exit code, identity and its end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.system.server import find_command
from tests.system.warm import run_warm


@pytest.mark.parametrize(
    ("words", "given", "code"),
    [
        (("account", "list", "--json"), "", 0),
        (("account", "add", "x@nowhere.example", "--password-stdin"), "пароль\n", 67),
        (("account", "show", "nobody@x.mail"), "", 67),
        (("queue", "retry"), "", 64),
        (("no-such-command",), "", 64),
        (("--version",), "", 0),
    ],
)
def test_it_says_and_returns_what_the_command_does(data: Path, words: tuple[str, ...], given: str, code: int) -> None:
    """Would catch a test that passes because of the way its commands are run."""
    arguments = ["--data", str(data), *words]
    cold = subprocess.run([find_command(), *arguments], input=given, capture_output=True, text=True, timeout=50)
    warm = run_warm(arguments, stdin=given, timeout=50)
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert cold.returncode == code


def test_nothing_is_kept_from_one_command_to_the_next(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a configuration, an environment or a store that a later command inherits."""
    monkeypatch.setenv("POSTHOUSE_CONFIG", str(data / "no-such-file.toml"))
    wrong = run_warm(["--data", str(data), "account", "list"], stdin="", timeout=50)
    assert wrong.returncode != 0 and "no-such-file.toml" in wrong.stderr
    monkeypatch.delenv("POSTHOUSE_CONFIG")
    assert run_warm(["--data", str(data), "account", "list"], stdin="", timeout=50).returncode == 0


def test_one_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """Would catch a command that outlives the test that gave it up."""
    pipe = tmp_path / "posthouse.toml"
    os.mkfifo(pipe)  # whoever reads it waits for a writer
    with pytest.raises(subprocess.TimeoutExpired):
        run_warm(["--config", str(pipe), "domain", "list"], stdin="", timeout=1.0)
    with pytest.raises(OSError, match="No such device or address"):  # ENXIO: nobody reads it any more
        while True:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
