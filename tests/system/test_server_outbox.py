"""A server that works on the outbox of the person as whom it runs (setting `server.outbox`)."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.programs import leave_out
from tests.system.scripted import SEND, ScriptedServer, run, smtp
from tests.system.server import find_command, prepare_data, wait_for

OUTBOX = [sys.executable, "-m", "posthouse.cli.outbox"]


class Own:
    """A person's home, with a data directory and a server in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = prepare_data(home / "data")
        self.log = home / "log"

    def configure(self, outbox: str) -> None:
        """Writes the settings."""
        listeners = '[[listener]]\nprotocol = "smtp"\naddress = "127.0.0.1"\nport = 0\n'
        (self.data / "posthouse.toml").write_text(f'[server]\noutbox = "{outbox}"\nstop_timeout = 5\n{listeners}')

    @contextmanager
    def server(self, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """It runs while the block does."""
        environment = os.environ | {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home)} | more
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [find_command(), "--data", str(self.data), "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n", self.said()
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text()

    def queue(self, port: int, *more: str) -> None:
        """A letter into the outbox."""
        command = [
            *SEND,
            "anna@x.mail",
            "-f",
            "me@x.mail",
            "-m",
            "text",
            "--queue",
            "--url",
            f"smtp://127.0.0.1:{port}",
        ]
        assert run([*command, *more], home=self.home).returncode == 0

    def states(self) -> list[str]:
        """Of the letters in the outbox."""
        done = run([*OUTBOX, "list", "--json"], home=self.home)
        return [letter["state"] for letter in json.loads(done.stdout)["letters"]]

    def runner(self) -> int:
        """The process that works on the outbox."""
        wait_for(lambda: "outbox_runs" in self.said(), self.said)
        return int(self.said().rpartition("outbox_runs")[2].partition("process=")[2].split()[0])

    def wait_sent(self, count: int = 1) -> None:
        wait_for(lambda: self.states() == ["sent"] * count, self.said, 30)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_letter_that_waits_leaves_while_the_server_runs(tmp_path: Path) -> None:
    """By the setting, taken back and given by SIGHUP; the runner ends with the server."""
    own = Own(tmp_path)
    own.configure("off")
    with ScriptedServer(smtp()) as next_host, own.server() as server:
        own.queue(next_host.port)
        assert "outbox_runs" not in own.said()
        own.configure("on")
        server.send_signal(signal.SIGHUP)
        own.wait_sent()
        wait_for(lambda: "sent (1 sent)" in own.said(), own.said)
        first = own.runner()
        assert is_there(first)
        own.configure("off")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: not is_there(first), own.said, 20)
        own.configure("on")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: own.said().count("outbox_runs") == 2, own.said)
        second = own.runner()
        server.terminate()
        assert server.wait(20) == 0
        assert not is_there(second)
    assert "outbox_ended" not in own.said(), "it was asked to end, each time"
    assert any(line.startswith(b"MAIL FROM:<me@x.mail>") for line in next_host.heard)


def test_the_runner_ends_with_a_server_that_is_killed(tmp_path: Path) -> None:
    own = Own(tmp_path)
    own.configure("on")
    with own.server() as server:
        runner = own.runner()
        server.kill()
        server.wait(20)
        wait_for(lambda: not is_there(runner), own.said, 20)


def test_nobody_is_asked_and_the_server_goes_on(tmp_path: Path) -> None:
    """A letter whose password is not there stays as it is; a runner that dies is started again, and mail goes on."""
    own = Own(tmp_path)
    own.configure("on")
    with ScriptedServer(smtp()) as next_host, own.server() as server:
        own.queue(next_host.port, "-u", "me")
        wait_for(lambda: "There is no password for me" in own.said(), own.said, 30)
        assert own.states() == ["queued"] and not next_host.heard
        os.kill(own.runner(), signal.SIGKILL)
        wait_for(lambda: "outbox_ended" in own.said(), own.said)
        wait_for(lambda: own.said().count("outbox_runs") == 2, own.said, 20)
        assert server.poll() is None


def test_somebody_elses_outbox_is_never_run(tmp_path: Path) -> None:
    """Would catch a server of root, started with a person's HOME, that runs that person's password commands."""
    if os.geteuid() != 0:
        leave_out("a folder of somebody else's can be made by root only")
    folder = tmp_path / "posthouse" / "outbox"
    folder.mkdir(parents=True)
    os.chown(folder, 65_534, 65_534)
    begun = time.monotonic()
    done = run([*OUTBOX, "run", "--watch", "--until-eof"], home=tmp_path)
    assert done.returncode == 77 and b"belongs to somebody else" in done.stderr
    assert time.monotonic() - begun < 20


def test_a_server_with_a_user_of_its_own_has_none(tmp_path: Path) -> None:
    own = Own(tmp_path)
    own.configure("on")
    settings = own.data / "posthouse.toml"
    settings.write_text(settings.read_text().replace("[server]\n", f'[server]\nuser = "{getpass.getuser()}"\n'))
    with own.server():
        wait_for(lambda: "outbox_not_run" in own.said(), own.said)
        assert "outbox_runs" not in own.said()
