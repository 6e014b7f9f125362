"""Connections from addresses of the loopback network that are not 127.0.0.1."""

from __future__ import annotations

import base64
import socket

from tests.system.server import Endpoint


def connect(endpoint: Endpoint, source: str, *, timeout: float = 60.0) -> socket.socket:
    """A connection that comes from this address."""
    return socket.create_connection(("127.0.0.1", endpoint.port), timeout, (source, 0))


def first_line(endpoint: Endpoint, source: str) -> bytes:
    """What a server says to a new connection from there."""
    with connect(endpoint, source) as one, one.makefile("rb") as lines:
        return lines.readline()


def pop3_login(endpoint: Endpoint, source: str, login: str, password: str) -> bytes:
    """The answer to PASS in a session of its own."""
    with connect(endpoint, source) as one, one.makefile("rb") as lines:
        greeting = lines.readline()
        if not greeting.startswith(b"+OK"):
            return greeting
        one.sendall(f"USER {login}\r\n".encode())
        assert lines.readline().startswith(b"+OK")
        one.sendall(f"PASS {password}\r\n".encode())
        answer = lines.readline()
        one.sendall(b"QUIT\r\n")
        lines.readline()
        return answer


def smtp_login(endpoint: Endpoint, source: str, login: str, password: str) -> bytes:
    """The answer to AUTH PLAIN in a session of its own."""
    with connect(endpoint, source) as one, one.makefile("rb") as lines:
        greeting = lines.readline()
        if not greeting.startswith(b"220"):
            return greeting
        one.sendall(b"EHLO stranger.example.org\r\n")
        while lines.readline()[3:4] == b"-":
            pass
        plain = base64.b64encode(f"\0{login}\0{password}".encode())
        one.sendall(b"AUTH PLAIN " + plain + b"\r\n")
        return lines.readline()
