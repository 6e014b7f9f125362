"""The tutorial is true: its commands are run in order and print what it shows ("..." stands for anything)."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "first-letter.md"
BLOCK = re.compile(r"^```console( server)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a block with the output that follows it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def matches(shown: str, printed: str) -> bool:
    pattern = ".*?".join(re.escape(piece) for piece in re.split(r" *\.\.\. *", shown.rstrip()))
    return re.fullmatch(pattern, printed.rstrip(), re.DOTALL) is not None


@contextmanager
def running(command: str, folder: Path, environment: dict[str, str], shown: str) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        assert matches(shown, process.stdout.readline()), (folder / "server.log").read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.timeout(120)
def test_every_command_of_the_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    for port in ("2525", "2110"):
        text = text.replace(f":{port}", f":{free_port()}")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    blocks = BLOCK.findall(text)
    (before,) = [index for index, (kind, _) in enumerate(blocks) if kind]
    seen = 0

    def play(block: str) -> None:
        nonlocal seen
        for command, shown in commands(block):
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                environment[name] = value
                continue
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, (command, done.stderr)
            assert matches(shown, done.stdout), (command, done.stdout)
            seen += 1

    for _, block in blocks[:before]:
        play(block)
    ((command, shown),) = commands(blocks[before][1])
    with running(command, tmp_path, environment, shown):
        for _, block in blocks[before + 1 :]:
            play(block)
    assert seen >= 8
