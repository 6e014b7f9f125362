"""`posthouse quickstart`: from nothing to a server that runs, once as it is and once more without harm."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.system.installation import NOBODY, office
from tests.system.letters import check_same, letter
from tests.system.programs import leave_out
from tests.system.raw import collect, deliver
from tests.system.server import PASSWORD, run_posthouse, serving

ADDRESS = "postmaster@x.mail"


def start(data: Path, *options: str, stdin: str = PASSWORD + "\n", code: int = 0) -> str:
    words = ["quickstart", "x.mail", "--hostname", "localhost", "--password-stdin", "--user", "root", *options]
    return run_posthouse(data, *words, stdin=stdin, code=code).stdout


def prints(folder: Path) -> dict[str, str]:
    """Every file that no command should touch when all is there, by its digest."""
    names = ("posthouse.toml", "tls/server.pem", "tls/ca.pem", "posthouse.service")
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).exists()
    }


def test_a_letter_goes_in_and_out_after_it(tmp_path: Path) -> None:
    """Would catch a setup that leaves something out which the server needs."""
    data = tmp_path / "data"
    said = start(data)
    assert "Added the account postmaster@x.mail." in said
    assert "x.mail. 3600 IN MX 10 localhost." in said
    assert PASSWORD not in said
    content = letter("dots")
    with serving(data, "smtp", "pop3") as server:  # on other ports than the configured ones, which may be in use
        assert deliver(server.smtp, [ADDRESS], content).startswith(b"250")
        [collected] = collect(server.pop3, ADDRESS)
        check_same(collected, content)
        assert 'reason="' not in server.log, "the certificates that were made are the ones it takes"


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    data, unit = tmp_path / "data", tmp_path / "data" / "posthouse.service"
    start(data, "--unit", str(unit))
    before = prints(data)
    assert len(before) == 4
    said = start(data, "--unit", str(unit), stdin="another-password-9\n")
    assert prints(data) == before
    assert "there already, with the password it has" in said
    with serving(data, "smtp", "pop3") as server:
        assert collect(server.pop3, ADDRESS) == [], "the first password still holds"


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    said = start(data, "--dry-run", "--unit", str(tmp_path / "unit"))
    assert said.startswith("Nothing was changed.")
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in said
    assert list(tmp_path.iterdir()) == []


def test_json_and_a_password_that_is_made_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = run_posthouse(data, "quickstart", "x.mail", "--hostname", "localhost", "--user", "root", "--json")
    told = json.loads(done.stdout)
    assert told["ok"] and told["account"] == ADDRESS and len(told["password"]) == 20
    assert {"name": "x.mail", "type": "MX", "data": "10 localhost."}.items() <= told["records"][0].items()
    again = json.loads(start(data, "--json"))
    assert again["password"] is None


@pytest.mark.parametrize(
    ("domain", "options", "code"),
    [
        ("no domain", [], 65),
        ("[192.0.2.1]", [], 65),
        ("x.mail", ["--hostname", "no_host name"], 65),
        ("x.mail", ["--address", "anna@other.mail"], 65),
        ("x.mail", ["--address", "anna"], 65),
    ],
)
def test_what_makes_no_sense_makes_nothing(tmp_path: Path, domain: str, options: list[str], code: int) -> None:
    data = tmp_path / "data"
    done = run_posthouse(data, "quickstart", domain, *options, "--password-stdin", stdin=PASSWORD, code=code)
    assert done.stderr.startswith("posthouse quickstart: ")
    assert not data.exists()


def test_a_bad_password_makes_nothing(tmp_path: Path) -> None:
    assert start(tmp_path / "data", stdin="x" * 5000, code=65) == ""
    assert list(tmp_path.iterdir()) == []


def test_whoever_is_not_root_gets_ports_above_1024() -> None:
    """Would catch a configuration with which its owner cannot start the server."""
    with office(None) as here:
        folder = here.data.parent / "home"
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
        words = [*here.program, "--data", str(folder / "mail"), "quickstart", "x.mail", "--password-stdin"]
        done = subprocess.run(
            words,
            input=PASSWORD,
            text=True,
            capture_output=True,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        text = (folder / "mail" / "posthouse.toml").read_text()
        assert "port = 2025" in text and "port = 2995" in text and "user" not in text
        assert "_pop3s._tcp.x.mail. 3600 IN SRV 0 1 2995 mail.x.mail." in done.stdout


def test_root_makes_a_user_who_owns_the_mail() -> None:
    """Would catch files of root's in the service's directory, and a configuration that the service cannot read."""
    import pwd

    if os.geteuid() != 0:
        leave_out("only root can make users")
    name = f"posthouse-test-{os.getpid()}"
    with office(None) as here:
        unit = here.data.parent / "posthouse.service"
        try:
            words = [*here.program, "--data", str(here.data), "quickstart", "x.mail", "--hostname", "localhost"]
            words += ["--user", name, "--unit", str(unit), "--password-stdin"]
            done = subprocess.run(words, input=PASSWORD, text=True, capture_output=True, timeout=50, check=False)
            assert done.returncode == 0, done.stderr
            entry = pwd.getpwnam(name)
            assert entry.pw_shell.endswith("nologin")
            wrong = [str(file) for file in [here.data, *here.data.rglob("*")] if file.stat().st_uid != entry.pw_uid]
            assert wrong == []
            assert here.data.stat().st_mode & 0o777 == 0o700
            assert f"User={name}" in unit.read_text()
            with serving(here.data, "smtp", "pop3", program=here.program) as server:
                assert deliver(server.smtp, [ADDRESS], letter("dots")).startswith(b"250")
                assert Path(f"/proc/{server.process.pid}").stat().st_uid == entry.pw_uid
        finally:
            subprocess.run(["userdel", name], capture_output=True, check=False)
