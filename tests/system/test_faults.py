"""What machines do to a server: no room on the disk, no descriptors, a log that cannot be written."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.letters import MIB, letter
from tests.system.programs import find_program, leave_out
from tests.system.raw import Raw, collect, deliver, greeted, stuffed
from tests.system.server import READER, Endpoint, Server, find_command, run_posthouse, serving, wait_for


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={160 * MIB}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        leave_out("this machine lets nobody mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_full(prepared: Path, small_disk: Path) -> None:
    """Would catch a 250 without room, a deletion that needs room, and a server that has to be started anew."""
    data = Path(shutil.copytree(prepared, small_disk / "data"))
    with serving(data, "smtp", "pop3") as server:
        assert deliver(server.smtp, [READER], letter("10 MiB")).startswith(b"250")
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            for _ in range(160):
                file.write(bytes(MIB))
                file.flush()
        assert _answer_to_a_letter(server).startswith(b"452 4.3.1")
        [collected] = collect(server.pop3, READER)
        assert collected.endswith(letter("10 MiB"))
        assert collect(server.pop3, READER) == []
        ballast.unlink()
        wait_for(lambda: _answer_to_a_letter(server).startswith(b"250"), lambda: "no letter is taken again")
        assert len(collect(server.pop3, READER)) == 1
    run_posthouse(data, "doctor", "--store")


def _answer_to_a_letter(server: Server) -> bytes:
    """The first refusal of a transaction, or the answer to its letter."""
    with greeted(server.smtp) as session:
        for command in (b"MAIL FROM:<>", b"RCPT TO:<%s>" % READER.encode(), b"DATA"):
            reply = session.ask(command)
            if reply[:1] > b"3":
                return reply
        session.send(stuffed(letter("1 KiB")))
        return session.reply()


def test_no_descriptors_left(data: Path) -> None:
    """Would catch a crash, or a listener that never accepts again after the system refused it a descriptor."""
    with serving(data, "smtp", "pop3") as server:
        assert deliver(server.smtp, [READER], letter("1 KiB")).startswith(b"250")
        process = server.process.pid
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{process}/fd").iterdir()))
        resource.prlimit(process, resource.RLIMIT_NOFILE, (used + 8, before[1]))
        crowd = [socket.create_connection((server.smtp.host, server.smtp.port), 20) for _ in range(30)]
        for connection in crowd[:5]:
            assert connection.recv(3) in (b"220", b"421", b"")
        for connection in crowd:
            connection.close()
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        wait_for(lambda: _is_greeted(server), lambda: "no connection is accepted any more")
        assert deliver(server.smtp, [READER], letter("1 KiB")).startswith(b"250")
        assert len(collect(server.pop3, READER)) == 2


def _is_greeted(server: Server) -> bool:
    try:
        with Raw(server.smtp, timeout=2) as session:
            return session.reply().startswith(b"220")
    except OSError:
        return False


def test_log_that_cannot_be_written(data: Path) -> None:
    """Mail goes on when the log's disk is full."""
    smtp, pop3 = _free_ports(2)
    listen = ["--listen", f"smtp=127.0.0.1:{smtp}", "--listen", f"pop3=127.0.0.1:{pop3}"]
    with Path("/dev/full").open("wb") as full:
        server = subprocess.Popen(
            [find_command(), "--data", str(data), "serve", *listen],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=full,
        )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        for _ in range(20):
            assert deliver(Endpoint("127.0.0.1", smtp), [READER], letter("1 KiB")).startswith(b"250")
        assert len(collect(Endpoint("127.0.0.1", pop3), READER)) == 20
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_disk_that_fails(data: Path, tmp_path: Path, call: str) -> None:
    """A write or sync that fails is 451 and never 250; when the disk works again, so does the server, and nothing
    that was answered is missing."""
    strace = find_program("strace")
    with serving(data, "smtp", "pop3") as server:
        assert deliver(server.smtp, [READER], letter("1 KiB")).startswith(b"250")
        with (tmp_path / "strace").open("w") as words:
            process = str(server.process.pid)
            command = [strace, "-f", "-p", process, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=1..2"]
            fault = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        try:
            said = (tmp_path / "strace").read_text
            wait_for(lambda: "attached" in said() or fault.poll() is not None, said)
            if fault.poll() is not None:
                leave_out("this machine lets nobody trace a process")
            assert _answer_to_a_letter(server).startswith(b"451 4.3.0")
        finally:
            fault.send_signal(signal.SIGINT)
            fault.wait(20)
        assert "INJECTED" in said()
        wait_for(lambda: _answer_to_a_letter(server).startswith(b"250"), lambda: server.log[-2000:])
        assert len(collect(server.pop3, READER)) in (2, 3)  # what was told 451 may be there or not
    run_posthouse(data, "doctor", "--store")
