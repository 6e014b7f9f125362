"""A crowd that wants our memory: everybody sends much, and reads nothing or never ends (reliability V3)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from tests.system.attacks.conftest import Start
from tests.system.attacks.strangers import connect
from tests.system.letters import MIB, letter
from tests.system.raw import collect, deliver
from tests.system.server import READER, Endpoint, Server, wait_for

MEMORY = 16 * MIB
SHORT = f'[server]\nmemory = "{MEMORY // MIB}M"\n'

ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<" + READER.encode() + b">\r\n"


def source(number: int) -> str:
    """Addresses in networks of their own, so that no limit but the one of all together is met."""
    return f"127.{100 + number // 200}.{number % 200}.9"


def push(one: socket.socket, octets: bytes, most: int = MIB) -> None:
    """Sends until the other end takes no more; whoever is dropped meanwhile is dropped."""
    one.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, OSError):
        while sent < most:
            sent += one.send(octets)


def greeted(server: Server, number: int) -> socket.socket:
    one = connect(server.smtp, source(number))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hear(one, b"220 ")
    one.sendall(b"EHLO stranger.example.org\r\n")
    hear(one, b"250 ")
    return one


def hear_lines(one: socket.socket, count: int) -> None:
    """So many lines, each of them 250 or, when memory is short, 451."""
    heard = b""
    while heard.count(b"\n") < count:
        piece = one.recv(65536)
        assert piece, heard
        heard += piece
    assert all(line[:3] in (b"250", b"451") for line in heard.splitlines()), heard


def hear(one: socket.socket, what: bytes) -> None:
    heard = b""
    while what not in heard:
        piece = one.recv(4096)
        assert piece, heard
        heard += piece


def names_everybody(server: Server, number: int) -> socket.socket:
    """A letter to as many as are allowed, each with an original recipient as long as it may be; it never comes."""
    one = greeted(server, number)
    one.sendall(b"MAIL FROM:<a@example.org>\r\n")
    hear(one, b"250 ")
    for _ in range(10):
        one.sendall(
            b"".join(b"RCPT TO:<%b> ORCPT=rfc822;%b%d\r\n" % (READER.encode(), b"x" * 450, n) for n in range(100))
        )
        hear_lines(one, 100)
    return one


def never_ends(server: Server, number: int) -> socket.socket:
    """Sends a letter that is kept in memory, all but its end."""
    one = greeted(server, number)
    one.sendall(ENVELOPE + b"DATA\r\n")
    hear(one, b"354 ")
    one.sendall(letter("10 MiB")[:100_000])
    return one


def never_reads_within_tls(server: Server, number: int) -> socket.socket:
    one = connect(server.pop3, source(number))
    one.recv(512)
    one.sendall(b"STLS\r\n")
    one.recv(512)
    secured = ssl.create_default_context(cafile=server.authority).wrap_socket(one, server_hostname="localhost")
    push(secured, b"CAPA\r\n" * 2000)
    return secured


CROWDS = {
    "names everybody": (names_everybody, 150, 70),
    "never ends": (never_ends, 600, 70),
    "within TLS": (never_reads_within_tls, 150, 300),
}
"""What each does, how many there are, and KiB that one may cost beside the bound of all together: its session, the
octets that are free, and with TLS what the event loop reads before anybody can say no."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("crowd", CROWDS)
def test_a_crowd_that_holds_memory_is_bounded_and_delays_nobody(start: Start, crowd: str) -> None:
    """Would catch a bound for each connection alone, a normal client that waits for the crowd, and a letter that was
    accepted and is not there."""
    act, count, each = CROWDS[crowd]
    with start(SHORT) as server, contextlib.ExitStack() as held:
        home, large = Endpoint("127.0.0.1", server.smtp.port), letter("10 MiB")
        assert deliver(home, [READER], letter("1 KiB")).startswith(b"250")
        server.forget_peak()
        idle = server.memory()
        for number in range(count):
            held.enter_context(contextlib.closing(act(server, number)))
        took = _seconds(lambda: deliver(home, [READER], large).startswith(b"250"))
        cost = server.memory("VmHWM") - idle
        assert cost < MEMORY + count * each * 1024 + 8 * MIB, f"{cost / MIB:.0f} MiB for {count}"
        assert took < 30, f"a letter of 10 MiB took {took:.1f} s"  # the crowd would hold it up for minutes
        if act is never_reads_within_tls:
            wait_for(lambda: "memory_short" in server.log, lambda: server.log[-2000:])
        held.close()
        assert _seconds(lambda: deliver(home, [READER], large).startswith(b"250")) < 5.0
        letters = collect(Endpoint("127.0.0.1", server.pop3.port), READER)
        assert [one.endswith(large) for one in letters] == [False, True, True], "those that were accepted, whole"


def _seconds(act: Callable[[], bool]) -> float:
    began = time.monotonic()
    assert act()
    return time.monotonic() - began
