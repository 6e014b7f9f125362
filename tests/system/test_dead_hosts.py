"""Fifty hosts that do not answer, with letters waiting for each, delay no other host (reliability X11)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from bench.machine import free_port, start, stop, wait_for_port

from tests.system.next_host import black_hole
from tests.system.outgoing import LETTER, queued, submit
from tests.system.programs import find_program
from tests.system.raw import greeted, stuffed
from tests.system.server import SENDER, Server, run_posthouse, serving, wait_for

HOSTS = 50
EACH = 20  # letters that wait for each of them
LIVE = 100  # letters for the host that answers
BOUND = 5.0  # seconds; measured: see docs/explanation/how-a-letter-travels.md


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """A port where the system takes connections and nobody ever reads or says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def sink(log: Path) -> Iterator[int]:
    """Postfix's sink: it takes everything and tells in its log how much."""
    port = free_port()
    process = start([find_program("smtp-sink"), "-u", "nobody", f"127.0.0.1:{port}", "100"], log)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


def send(server: Server, count: int, *recipients: str) -> None:
    """The same letter so many times, in one session."""
    with greeted(server.smtp) as session:
        for _ in range(count):
            session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
            for recipient in recipients:
                session.ask(f"RCPT TO:<{recipient}>".encode(), b"250")
            session.ask(b"DATA", b"354")
            session.send(stuffed(LETTER % SENDER.encode()))
            assert session.reply().startswith(b"250")


def test_one_dead_host_never_delays_another(data: Path) -> None:
    run_posthouse(data, "network", "add", "127.0.0.1", "--allow", "relay")
    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(mute() if number % 2 else black_hole()) for number in range(HOSTS)]
        live = stack.enter_context(sink(data.parent / "sink.log"))
        run_posthouse(data, "route", "add", "live.example", "--to", f"127.0.0.1:{live}", "--tls", "none")
        for number, port in enumerate(dead):
            run_posthouse(data, "route", "add", f"dead{number}.example", "--to", f"127.0.0.1:{port}", "--tls", "none")
        server = stack.enter_context(serving(data, "smtp", "submission", "pop3"))
        send(server, EACH, *(f"boris@dead{number}.example" for number in range(HOSTS)))
        waiting = [item for item in queued(data) if item["destination"].startswith("dead")]
        assert len(waiting) == HOSTS * EACH, len(waiting)
        # All that wait are under way or due now: the worst moment for anybody else.
        begun = time.monotonic()
        letter = submit(server.submission, SENDER, "boris@live.example")
        wait_for(lambda: f"relay letter={letter}" in server.log, lambda: server.log[-3000:], BOUND)
        one = time.monotonic() - begun
        begun = time.monotonic()
        send(server, LIVE, "boris@live.example")
        wait_for(lambda: server.log.count("relayed=1") == LIVE + 1, lambda: server.log[-3000:], BOUND)
        many = time.monotonic() - begun
        print(f"beside {HOSTS} dead hosts: one letter {one * 1000:.0f} ms, {LIVE} letters {many:.2f} s")
        assert one < BOUND and many < BOUND
