"""Many connections: slow ones, dropped ones, and more than one address may have (reliability V3)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from pathlib import Path

import pytest

from tests.system.attacks.conftest import Start
from tests.system.attacks.strangers import connect, first_line
from tests.system.letters import MIB, letter
from tests.system.raw import collect, deliver
from tests.system.server import READER, Endpoint, Server, wait_for


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def at_home(endpoint: Endpoint) -> Endpoint:
    return Endpoint("127.0.0.1", endpoint.port)


def test_one_address_and_one_network_have_their_share(start: Start) -> None:
    with start("address_connections = 5\nnetwork_connections = 8\n") as server, contextlib.ExitStack() as crowd:
        for number in range(5):
            one = crowd.enter_context(connect(server.smtp, "127.7.0.1"))
            assert one.recv(3) == b"220", number
        assert first_line(server.smtp, "127.7.0.1").startswith(b"421 4.7.0")
        assert first_line(server.pop3, "127.7.0.1").startswith(b"-ERR [SYS/TEMP]")
        for _ in range(3):
            assert crowd.enter_context(connect(server.smtp, "127.7.0.2")).recv(3) == b"220"
        assert first_line(server.smtp, "127.7.0.3").startswith(b"421")
        assert first_line(server.smtp, "127.7.1.1").startswith(b"220")
        assert first_line(server.smtp, "127.0.0.1").startswith(b"220")
        crowd.close()
        wait_for(lambda: first_line(server.smtp, "127.7.0.1").startswith(b"220"), lambda: server.log[-1000:])


def test_new_connections_in_a_minute(start: Start) -> None:
    with start("address_rate = 20\n") as server:
        said = [first_line(server.smtp, "127.7.0.1")[:3] for _ in range(40)]
        assert said[:20] == [b"220"] * 20
        assert said.count(b"421") >= 15  # one place is free again every three seconds
        assert [first_line(server.smtp, "127.0.0.1")[:3] for _ in range(40)] == [b"220"] * 40


@pytest.mark.timeout(180)
def test_two_thousand_slow_connections_delay_nobody(start: Start) -> None:
    """Each was greeted, and drips a command octet by octet; a real client delivers within a second, every time."""
    with start("") as server, contextlib.ExitStack() as crowd:
        slow = []
        for number in range(2000):
            one = crowd.enter_context(connect(server.smtp, f"127.{100 + number // 200}.{number % 200}.9"))
            assert one.recv(512).startswith(b"220 "), "let in, so that it can be slow"
            slow.append(one)
        times = []
        for octet in b"EHLO ":
            for one in slow:
                one.sendall(bytes((octet,)))
            began = time.monotonic()
            assert deliver(at_home(server.smtp), [READER], letter("1 KiB")).startswith(b"250")
            times.append(time.monotonic() - began)
        assert descriptors(server) > 2000, "they are all still there"
        assert max(times) < 1.0, times
        assert len(collect(at_home(server.pop3), READER)) == 5


@pytest.mark.timeout(180)
def test_ten_thousand_connections_opened_and_dropped_leave_nothing(start: Start) -> None:
    """Would catch a session, a counter or a descriptor that stays behind. A part is reset, a part says something."""
    with start("") as server:
        _drop(server, 2000)
        wait_for(lambda: descriptors(server) < 60, lambda: f"{descriptors(server)} descriptors", 30)
        before, memory = descriptors(server), server.memory()
        _drop(server, 8000)
        wait_for(lambda: descriptors(server) <= before, lambda: f"{descriptors(server)}, not {before}", 30)
        assert server.memory() < memory + 16 * MIB
        assert deliver(at_home(server.smtp), [READER], letter("1 KiB")).startswith(b"250")


def test_connections_within_tls_leave_nothing(start: Start) -> None:
    """Would catch what TLS keeps of a connection, 30 KiB and more, waiting for the garbage collector."""
    with start("") as server:
        trust = ssl.create_default_context(cafile=server.authority)
        _drop_within_tls(server, trust, 300)
        memory = server.memory()
        _drop_within_tls(server, trust, 900)
        assert server.memory() < memory + 8 * MIB, f"{(server.memory() - memory) // 900} octets for each"


def _drop_within_tls(server: Server, trust: ssl.SSLContext, count: int) -> None:
    for number in range(count):
        with connect(server.pop3, f"127.{20 + number % 200}.{number // 200}.5") as one:
            one.recv(512)
            one.sendall(b"STLS\r\n")
            assert one.recv(512).startswith(b"+OK")
            with trust.wrap_socket(one, server_hostname="localhost") as secured:
                secured.sendall(b"CAPA\r\n")
                assert secured.recv(512).startswith(b"+OK")


def _drop(server: Server, count: int) -> None:
    """Opens connections and leaves them: reset, with a command under way, or after the greeting, which must be one."""
    for number in range(count):
        endpoint = server.smtp if number % 2 else server.pop3
        source = f"127.{20 + number % 200}.{number // 200 % 250}.5"
        with connect(endpoint, source) as one:
            if number % 3 == 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif number % 3 == 1:
                one.sendall(b"NOOP\r\n")
            else:
                assert one.recv(3) in (b"220", b"+OK"), "not turned away"
