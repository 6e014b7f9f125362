"""The tutorial of the box is true: its commands print what it shows ("..." stands for anything)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.system.test_tutorial import BLOCK, commands, matches

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "internet-in-a-box.md"


def test_every_command_of_the_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    seen = 0
    for _, block in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        for command, shown in commands(block):
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, (command, done.stderr)
            assert matches(shown, done.stdout), (command, done.stdout)
            seen += 1
    assert seen >= 8
