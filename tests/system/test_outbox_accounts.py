"""The outbox, the roles and answers with an account of the profile file: where the password comes from, and that it is
nowhere else."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.raw import collect
from tests.system.scripted import SEND, ScriptedServer, environment, smtp
from tests.system.server import PASSWORD, SENDER, Server

OUTBOX = [sys.executable, "-m", "posthouse.cli.outbox"]
SENDMAIL = [sys.executable, "-m", "posthouse.cli.main", "--as", "sendmail"]


class Home:
    """A person's home with a profile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder / "secret"
        self.secret.write_text(PASSWORD)
        self.secret.chmod(0o600)

    def profile(self, send: str, read: str = "", password: str = "") -> None:
        """Writes the file."""
        path = self.folder / "posthouse" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        source = password or f'{{ file = "{self.secret}" }}'
        lines = [f'[account.x]\naddress = "Ёж <{SENDER}>"\nsend = "{send}"\npassword = {source}']
        path.write_text("\n".join([*lines, f'read = "{read}"' if read else "", ""]))
        path.chmod(0o600)

    def run(self, command: list[str], *arguments: str, given: bytes = b"", code: int = 0) -> Any:
        """Runs a command; no password in its environment."""
        env = environment(home=self.folder) | {"XDG_CONFIG_HOME": str(self.folder)}
        done = subprocess.run([*command, *arguments], input=given, env=env, capture_output=True, timeout=50)
        assert done.returncode == code, done.stderr
        for path in (self.folder / "posthouse" / "outbox").rglob("*.*"):
            assert not path.is_file() or PASSWORD not in path.read_text(errors="replace"), path
        return done


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_account_gives_the_password_at_each_attempt(home: Home, server: Server, mailbox: str) -> None:
    home.profile("smtp://127.0.0.1:1")
    said = home.run(SEND, mailbox, "-m", "text", "-s", "late").stderr.decode()
    assert "waits in the outbox" in said
    home.profile(f"smtp://{server.submission.url}")  # the person mends the account, not the letter
    home.secret.write_text("wrong")
    assert b"held" in home.run(OUTBOX, "send", "all", code=77).stderr
    home.secret.write_text(PASSWORD)
    assert b": sent (1 sent)" in home.run(OUTBOX, "send", "all").stdout
    [message] = collect(server.pop3, mailbox)
    assert b"Subject: late" in message


def test_an_account_that_has_gone_is_told(home: Home) -> None:
    home.profile("smtp://127.0.0.1:1")
    home.run(SEND, "anna@x.mail", "-m", "text", "--queue")
    (home.folder / "posthouse" / "config.toml").write_text("")
    done = home.run(OUTBOX, "run", "--json", code=75)
    assert "no account 'x'" in json.loads(done.stdout)["letters"][0]["error"]


def test_the_environment_is_not_taken_for_the_password_of_several_accounts(home: Home) -> None:
    with ScriptedServer(smtp()) as server:
        home.profile(f"smtp://{server.address}")
        home.run(SEND, "anna@x.mail", "-m", "text", "--queue")
        home.run(
            SEND,
            "anna@x.mail",
            "-m",
            "text",
            "--queue",
            "-u",
            "other",
            "-f",
            "me@x.mail",
            "--url",
            "smtp://127.0.0.1:1",
        )
        env = environment("of nobody", home.folder) | {"XDG_CONFIG_HOME": str(home.folder)}
        subprocess.run([*OUTBOX, "run", "-v"], env=env, capture_output=True, timeout=50)
        login = base64.b64encode(f"\0{SENDER}\0{PASSWORD}".encode())
        assert b"AUTH PLAIN " + login in server.heard


def test_sendmail_takes_the_account(home: Home, server: Server, mailbox: str) -> None:
    home.profile(f"smtp://{server.submission.url}")
    home.run(SENDMAIL, "-t", "-i", given=f"To: {mailbox}\nSubject: role\n\ntext\n".encode())
    [message] = collect(server.pop3, mailbox)
    assert b"Subject: role" in message and f"<{SENDER}>\r\n".encode() in message
    home.run(SENDMAIL, "--account", "nobody", mailbox, given=b"Subject: x\n\n", code=78)


def test_a_letter_of_the_accounts_mailbox_is_answered(home: Home, server: Server, mailbox: str) -> None:
    collect(server.pop3, SENDER)
    home.profile(f"smtp://{server.submission.url}", f"pop3://{server.pop3.url}")
    whole = f"From: {mailbox}\nTo: {SENDER}\nSubject: Q\nMessage-ID: <q@x.mail>\n\nquestion\n"
    home.run([*SEND, "-t", "--url", f"smtp://{server.smtp.url}"], given=whole.encode())
    home.run(SEND, "--reply", "1", "-m", "answer")
    [message] = collect(server.pop3, mailbox)
    assert b"\r\nIn-Reply-To: <q@x.mail>\r\n" in message and b"\r\nSubject: Re: Q\r\n" in message
    collect(server.pop3, SENDER)
