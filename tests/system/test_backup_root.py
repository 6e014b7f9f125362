"""Backups that root makes of somebody else's mail: no file changes hands, and no link leads root elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.system.installation import NOBODY, Office, office
from tests.system.letters import letter
from tests.system.raw import collect, deliver
from tests.system.server import READER, serving


def run(here: Office, data: Path, *arguments: str, code: int = 0) -> str:
    """One command, by root."""
    done = subprocess.run(
        [*here.program, "--data", str(data), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout


def strangers(folder: Path, owner: int) -> list[str]:
    """What in a folder belongs to somebody else."""
    return [str(path) for path in [folder, *folder.rglob("*")] if path.lstat().st_uid != owner]


def test_root_backs_up_and_restores_the_mail_of_another_user(prepared: Path, tmp_path: Path) -> None:
    """Would catch a file of root's in the mail, which the server cannot read, and a secret of root's in a backup."""
    secret = tmp_path / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    backups = tmp_path / "backups"
    with office(prepared) as here:
        data = here.data
        data.chmod(0o700)
        (data / "trap").symlink_to(secret)
        os.lchown(data / "trap", NOBODY, NOBODY)
        with serving(data, "smtp", "pop3", program=here.program) as server:
            for content in (letter("dots"), b"Subject: large\r\n\r\n" + b"y" * 400_000 + b"\r\n"):
                assert deliver(server.smtp, [READER], content).startswith(b"250")
            made = json.loads(run(here, data, "backup", "create", str(backups), "--json", code=1))
            assert made["unread"] == ["trap"]
            assert made["backup"]["letters"] == 2
            assert strangers(data, NOBODY) == []
            assert strangers(backups, os.geteuid()) == []
            collect(server.pop3, READER)
            run(here, data, "backup", "restore", str(backups), "--account", READER)
            assert strangers(data, NOBODY) == []
            assert len(collect(server.pop3, READER, delete=False)) == 2
        run(here, data, "backup", "verify", str(backups))
        run(here, data, "backup", "restore", str(backups), "--replace")
        assert strangers(data, NOBODY) == []
        drill = data.parent / "drill"
        run(here, drill, "backup", "restore", str(backups))
        assert strangers(drill, NOBODY) == []
        home = data.parent / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        run(here, home / "mail", "backup", "restore", str(backups))
        run(here, home / "mail", "backup", "restore", str(backups), "--replace")
        assert strangers(home, NOBODY) == []
        for path in backups.rglob("*"):
            assert path.is_dir() or b"root's own" not in path.read_bytes()
