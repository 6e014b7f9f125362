"""The page about smarthosts is true: its commands are run in order and print what it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.system.nsd import nsd
from tests.system.test_tutorial import BLOCK, commands, matches

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "send-through-a-smarthost.md"


def test_every_command_of_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (tmp_path / "password.txt").write_text("stage-coach-7Kx9\n")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "POSTHOUSE_DATA": str(data),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    seen = 0
    with nsd({"provider.example": "smtp A 192.0.2.25\nsmtp AAAA 2001:db8::25\n"}) as port:
        (data / "posthouse.toml").write_text(f'[dns]\nservers = ["127.0.0.1:{port}"]\n')
        for _, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            for command, shown in commands(block):
                done = subprocess.run(
                    command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
                )
                assert done.returncode == 0, (command, done.stderr)
                assert matches(shown, done.stdout), (command, done.stdout)
                seen += 1
    assert seen == 7
