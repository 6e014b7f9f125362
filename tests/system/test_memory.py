"""Memory and descriptors stay bounded whatever passes through."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.system.letters import MIB, letter
from tests.system.raw import Raw, collect, deliver, greeted, logged_in, stuffed
from tests.system.server import READER, Server, serving, start_server, wait_for

ROOM = 24 * MIB
"""What may come on top of the idle process: buffers of some sessions, the database's cache, Python's slack."""


def test_idle(data: Path) -> None:
    """Under 80 MB per process, with one letter passed and one login done."""
    with serving(data, "smtp", "submission", "pop3", "lmtp") as server:
        deliver(server.smtp, [READER], letter("1 KiB"))
        collect(server.pop3, READER)
        assert server.memory() < 80_000_000, f"{server.memory():,} octets"


def test_reloads(data: Path) -> None:
    """Would catch what a reload replaces and leaves lying: it was 22 KB each, in circles that nobody collected."""
    with serving(data, "smtp", "submission", "pop3") as server:

        def reload(times: int) -> int:
            for _ in range(times):
                done = server.log.count(" reloaded ")
                server.signal(signal.SIGHUP)
                wait_for(lambda: server.log.count(" reloaded ") > done, lambda: server.log[-2000:])  # noqa: B023
            return server.memory()

        warm = reload(20)
        assert reload(80) < warm + 80 * 8_000, f"{warm:,} octets after 20 reloads, {server.memory():,} after 100"


@pytest.mark.timeout(180)
def test_large_letters(data: Path) -> None:
    """50 MiB in, three at once, and out again: the process never holds a whole letter."""
    content = letter("50 MiB")
    with serving(data, "smtp", "pop3") as server:
        deliver(server.smtp, [READER], letter("1 KiB"))
        collect(server.pop3, READER)
        server.forget_peak()
        idle = server.memory()
        sessions = [greeted(server.smtp) for _ in range(3)]
        for session in sessions:
            session.ask(b"MAIL FROM:<>", b"250")
            session.ask(b"RCPT TO:<%s>" % READER.encode(), b"250")
            session.ask(b"DATA", b"354")
        wire = stuffed(content)
        for start in range(0, len(wire), MIB):
            for session in sessions:
                session.send(wire[start : start + MIB])
        for session in sessions:
            assert session.reply().startswith(b"250")
            session.close()
        peak = server.memory("VmHWM")
        assert peak - idle < ROOM, f"taking them cost {peak - idle:,} octets"
        server.forget_peak()
        assert all(collected.endswith(content) for collected in collect(server.pop3, READER))
        peak = server.memory("VmHWM")
        assert peak - idle < ROOM, f"handing them out cost {peak - idle:,} octets"


@pytest.mark.timeout(180)
def test_reader_that_does_not_read(data: Path) -> None:
    """A client that asks for much and reads nothing costs no memory (and no one else's time)."""
    with serving(data, "smtp", "pop3") as server:
        deliver(server.smtp, [READER], letter("10 MiB"))
        deliver(server.smtp, ["test@x.mail"], letter("1 KiB"))
        server.forget_peak()
        idle = server.memory()
        with logged_in(server.pop3, READER) as lazy:
            lazy.send(b"RETR 1\r\n" * 200)
            for _ in range(20):
                assert len(collect(server.pop3, "test@x.mail", delete=False)) == 1
            peak = server.memory("VmHWM")
        assert peak - idle < ROOM, f"{peak - idle:,} octets for 200 letters that nobody reads"


def test_endless_line(data: Path) -> None:
    """A command of 20 MB without an end is refused or cut off, never collected."""
    with serving(data, "smtp", "pop3") as server:
        server.forget_peak()
        idle = server.memory()
        for endpoint in (server.smtp, server.pop3):
            with Raw(endpoint) as session:
                try:
                    for _ in range(20):
                        session.send(b"x" * MIB)
                except OSError:
                    pass
        peak = server.memory("VmHWM")
        assert peak - idle < ROOM, f"{peak - idle:,} octets"


def test_descriptors_come_back(data: Path) -> None:
    """Would catch a socket or file that stays open after a session, however it ended."""
    server = start_server(data, "smtp", "pop3")
    try:
        before = _descriptors(server)
        for number in range(60):
            with Raw(server.smtp if number % 2 else server.pop3) as session:
                session.line()
                if number % 3 == 0:
                    session.send(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<test2@x.mail>\r\nDATA\r\nhalf a letter")
        large = stuffed(letter("10 MiB"))[: 2 * MIB]
        for _ in range(3):
            with greeted(server.smtp) as session:
                session.send(b"MAIL FROM:<>\r\nRCPT TO:<test2@x.mail>\r\nDATA\r\n")
                for _ in range(3):
                    session.reply()
                session.send(large)
        # A database connection of a reading thread may be new; sockets and drafts must be gone.
        wait_for(lambda: _descriptors(server) <= before + 8, lambda: f"{_descriptors(server)} open, {before} before")
        wait_for(lambda: _staged(data) == [], lambda: f"drafts stay: {_staged(data)}")
    finally:
        server.stop()


def _descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def _staged(data: Path) -> list[Path]:
    return [file for file in data.rglob("staging/**/*") if file.is_file() and file.stat().st_size > MIB]


@pytest.mark.timeout(120)
def test_idle_crowd(data: Path) -> None:
    """500 silent connections cost little memory and do not delay a real client."""
    with serving(data, "smtp", "pop3") as server:
        deliver(server.smtp, [READER], letter("1 KiB"))
        idle = server.memory()
        crowd: list[socket.socket] = []
        try:
            for _ in range(500):
                crowd.append(socket.create_connection((server.smtp.host, server.smtp.port), 20))
            for silent in crowd:
                assert silent.recv(512).startswith((b"220", b"421"))
            began = time.monotonic()
            deliver(server.smtp, [READER], letter("1 KiB"))
            took = time.monotonic() - began
            cost = (server.memory() - idle) / len(crowd)
        finally:
            for silent in crowd:
                silent.close()
        assert took < 20, f"a letter took {took:.1f} s"  # the crowd would hold it up for minutes
        assert cost < 48 * 1024, f"{cost:,.0f} octets for each"
