"""Tab in bash, zsh and fish: the shells themselves complete our commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.programs import find_program
from tests.system.scripted import environment, pexpect
from tests.system.server import find_command

CASES = [
    ("posthouse se", {"send", "serve", "setup"}),
    ("posthouse send --ca", {"--cacert"}),
    ("posthouse read -A ", {"home", "work"}),
    ("posthouse completion ", {"bash", "fish", "zsh"}),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two accounts, and our command on its PATH."""
    file = tmp_path / "posthouse" / "config.toml"
    file.parent.mkdir()
    file.write_text('[account.home]\naddress = "a@x.mail"\n[account.work]\naddress = "b@x.mail"\n')
    return tmp_path


def surroundings(home: Path) -> dict[str, str]:
    path = f"{Path(find_command()).parent}:{os.environ['PATH']}"
    return environment(home=home) | {"PATH": path, "XDG_CONFIG_HOME": str(home), "ZDOTDIR": str(home)}


def script(shell: str) -> str:
    done = subprocess.run([find_command(), "completion", shell], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run(home: Path, command: list[str]) -> set[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=surroundings(home))
    assert done.returncode == 0, done.stderr
    return {line.split("\t")[0] for line in done.stdout.split("\n") if line}


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash(home: Path, line: str, expected: set[str]) -> None:
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _posthouse_completion posthouse\n"
    code = f'{script("bash")}\n{ask}printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert run(home, [find_program("bash"), "--norc", "-c", code]) == expected


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish(home: Path, line: str, expected: set[str]) -> None:
    code = f"{script('fish')}\ncomplete -C '{line}'"
    assert run(home, [find_program("fish"), "--no-config", "-c", code]) == expected


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_zsh(home: Path, line: str, expected: set[str]) -> None:
    """On a terminal, as zsh completes nowhere else."""
    functions = home / "functions"
    functions.mkdir()
    (functions / "_posthouse").write_text(script("zsh"))
    (home / ".zshrc").write_text(
        f"fpath=({functions} $fpath)\nautoload -Uz compinit\ncompinit -u\nPS1='ready> '\nunsetopt zle_bracketed_paste\n"
        "zstyle ':completion:*' list-prompt ''\nLISTMAX=1000\n"
    )
    child = pexpect.spawn(
        find_program("zsh"), ["-i"], env=surroundings(home), encoding="utf-8", timeout=20, dimensions=(50, 150)
    )
    try:
        child.expect_exact("ready> ")
        child.send(line + "\t\t")
        missing = set(expected)  # in whatever order it lists them
        while missing:
            words = "|".join(map(re.escape, missing))
            child.expect(rf"(?<![\w-])({words})(?![\w-])")
            missing.discard(child.match[1])
    finally:
        child.close(force=True)


def test_what_is_no_shell() -> None:
    done = subprocess.run([find_command(), "completion", "cmd"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 64 and "bash" in done.stderr


def test_completing_a_verb_loads_no_verb() -> None:
    """Tab must be quick: would catch a completion that imports all commands for their help texts."""
    code = (
        "import os, sys, atexit\n"
        "os.environ |= {'_POSTHOUSE_COMPLETE': 'bash_complete', 'COMP_WORDS': 'posthouse s', 'COMP_CWORD': '1'}\n"
        "atexit.register(lambda: print('loaded', *sys.modules, sep='\\n'))\n"
        "from posthouse.cli.main import main\nmain([])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    offered, loaded = done.stdout.split("loaded\n")
    assert "plain,send\n" in offered and not {"posthouse.cli.send", "asyncio", "ssl"} & set(loaded.split())
