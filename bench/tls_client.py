"""Clients that speak TLS, for the workloads about it: Python around OpenSSL, or `openssl s_time`, one process each.

`python -m bench.tls_client handshakes PORT COUNT` makes new connections, one after the other, each until the greeting
was read. `python -m bench.tls_client retrieve PORT USER PASSWORD MESSAGES REPEAT` logs in and retrieves. Both say
`ready`, wait for a line, and say their figures as JSON.
"""

from __future__ import annotations

import json
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.machine import BenchError

BUFFER = 1 << 20


@dataclass(slots=True)
class Run:
    """What all clients together did."""

    count: int
    octets: int
    seconds: float
    own_cpu_seconds: float


def run(commands: list[list[str]], at_ready: Callable[[], None], at_done: Callable[[], None]) -> Run:
    """Starts these clients, lets them go together, and adds up what they did."""
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.tls_client", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    try:
        for client in clients:
            if _line(client) != "ready\n":
                raise BenchError("a TLS client did not get ready")
        at_ready()
        began = time.monotonic()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        found = [json.loads(_line(client) or "{}") for client in clients]
        seconds = time.monotonic() - began
        at_done()
    finally:
        for client in clients:
            client.communicate()
    if any(client.returncode for client in clients):
        raise BenchError("a TLS client failed; its words stand above")
    total = {key: sum(one[key] for one in found) for key in ("count", "octets", "cpu")}
    return Run(int(total["count"]), int(total["octets"]), seconds, total["cpu"])


def s_time(port: int, processes: int, seconds: int) -> Run:
    """New handshakes by `openssl s_time`, each connection closed behind its own; nothing is resumed or verified."""
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", str(seconds)]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    said = [client.communicate()[0] for client in clients]
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(client.returncode for client in clients):
        raise BenchError(f"openssl s_time failed: {said}")
    found = [re.search(r"^(\d+) connections in \d+ real seconds", text, re.MULTILINE) for text in said]
    count = sum(int(one[1]) for one in found if one is not None)
    if not count:
        raise BenchError(f"openssl s_time made no connection: {said}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(count, 0, took, cpu)


def _line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline()


def connect(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    """A new connection over TLS whose greeting was read."""
    plain = socket.create_connection(("127.0.0.1", port), 30)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secured = context.wrap_socket(plain)
    greeting = secured.recv(512)
    if not greeting.startswith(b"+OK"):
        raise SystemExit(f"the greeting was {greeting!r}")
    return secured


def blind() -> ssl.SSLContext:
    """A context that checks nothing, so that the server's part is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def wait_to_go() -> None:
    """Until the others are ready too."""
    print("ready", flush=True)
    sys.stdin.readline()


def handshakes(port: int, count: int) -> None:
    """New connections, no session resumed."""
    context = blind()
    wait_to_go()
    cpu = time.process_time()
    for _ in range(count):
        connect(context, port).close()
    print(json.dumps({"count": count, "octets": 0, "cpu": time.process_time() - cpu}))


def retrieve(port: int, user: str, password: str, messages: int, repeat: int) -> None:
    """RETR of all messages, one after the other, as often as asked for."""
    connection = connect(blind(), port)
    buffer = bytearray(BUFFER)
    for command in (f"USER {user}", f"PASS {password}"):
        connection.sendall(f"{command}\r\n".encode())
        if not connection.recv(512).startswith(b"+OK"):
            raise SystemExit(f"{command[:4]} was refused")
    wait_to_go()
    cpu, octets = time.process_time(), 0
    for number in [*range(1, messages + 1)] * repeat:
        connection.sendall(b"RETR %d\r\n" % number)
        tail = b""
        while not tail.endswith(b"\r\n.\r\n"):
            size = connection.recv_into(buffer)
            if not size:
                raise SystemExit("the server closed")
            octets += size
            tail = (tail + bytes(buffer[max(0, size - 5) : size]))[-5:]
    print(json.dumps({"count": messages * repeat, "octets": octets, "cpu": time.process_time() - cpu}), flush=True)
    connection.sendall(b"QUIT\r\n")
    connection.recv(512)
    connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "handshakes":
        handshakes(int(sys.argv[2]), int(sys.argv[3]))
    else:
        retrieve(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
