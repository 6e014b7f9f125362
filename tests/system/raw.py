"""SMTP and POP3 by hand: octets in, octets out, no library in between."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from types import TracebackType

from tests.system.server import PASSWORD, Endpoint

TIMEOUT = 30.0


class Raw:
    """A connection that sends exactly what it is told and reads whole replies."""

    def __init__(self, endpoint: Endpoint, *, timeout: float = TIMEOUT) -> None:
        self._socket: socket.socket = socket.create_connection((endpoint.host, endpoint.port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = bytearray()

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes at once, in whatever state the session is."""
        self._socket.close()

    def start_tls(self, authority: Path, host: str = "localhost") -> ssl.SSLSocket:
        """Goes over to TLS as a client that believes this authority; raises ssl.SSLError."""
        assert not self._input, f"something stands behind the reply: {bytes(self._input)!r}"
        context = ssl.create_default_context(cafile=authority)
        secured = context.wrap_socket(self._socket, server_hostname=host)
        self._socket = secured
        return secured

    def end_sending(self) -> None:
        """Says that nothing more will come, and goes on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def send(self, octets: bytes) -> None:
        """Sends octets as they are."""
        self._socket.sendall(octets)

    def line(self) -> bytes:
        """One line with its CRLF; what there is when the server closes."""
        while (end := self._input.find(b"\n")) < 0:
            piece = self._receive()
            if not piece:
                break
            self._input += piece
        length = len(self._input) if end < 0 else end + 1
        line = bytes(self._input[:length])
        del self._input[:length]
        return line

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            return b""

    def reply(self) -> bytes:
        """One SMTP reply, all its lines."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return b"".join(lines)

    def ask(self, command: bytes, code: bytes | None = None) -> bytes:
        """Sends one SMTP command, returns its reply, which must begin with `code` when one is given."""
        self.send(command + b"\r\n")
        reply = self.reply()
        assert code is None or reply.startswith(code), f"{command[:200]!r} was answered {reply!r}"
        return reply

    def pop(self, command: bytes, status: bytes = b"+OK") -> bytes:
        """Sends one POP3 command and returns its status line."""
        self.send(command + b"\r\n")
        line = self.line()
        assert line.startswith(status), f"{command[:200]!r} was answered {line!r}"
        return line

    def multiline(self) -> bytes:
        """The rest of a multi-line POP3 reply, dots unstuffed, without the line that ends it."""
        while not (self._input.startswith(b".\r\n") or b"\r\n.\r\n" in self._input[-70000:]):
            piece = self._receive()
            assert piece, "the connection ended within a multi-line reply"
            self._input += piece
        end = 0 if self._input.startswith(b".\r\n") else self._input.index(b"\r\n.\r\n") + 2
        text = bytes(self._input[:end])
        del self._input[: end + 3]
        text = text[1:] if text.startswith(b"..") else text
        return text.replace(b"\r\n..", b"\r\n.")

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while piece := self._receive():
            self._input += piece
        rest = bytes(self._input)
        self._input.clear()
        return rest


def greeted(endpoint: Endpoint, hello: bytes = b"EHLO client.x.mail") -> Raw:
    """An SMTP session after its greeting and EHLO (or what else is given)."""
    session = Raw(endpoint)
    try:
        greeting = session.reply()
        assert greeting.startswith(b"220"), greeting
        session.ask(hello, b"250")
    except BaseException:
        session.close()
        raise
    return session


def logged_in(endpoint: Endpoint, address: str, password: str = PASSWORD) -> Raw:
    """A POP3 session after USER and PASS."""
    session = Raw(endpoint)
    try:
        greeting = session.line()
        assert greeting.startswith(b"+OK"), greeting
        session.pop(b"USER " + address.encode())
        session.pop(b"PASS " + password.encode())
    except BaseException:
        session.close()
        raise
    return session


def stuffed(content: bytes) -> bytes:
    """What DATA sends for a content of whole lines: dots doubled, closed by the lone dot (RFC 5321 §4.5.2)."""
    text = content.replace(b"\r\n.", b"\r\n..")
    text = b"." + text if text.startswith(b".") else text
    return text + b".\r\n"


def deliver(endpoint: Endpoint, recipients: list[str], content: bytes, sender: str = "someone@example.org") -> bytes:
    """Sends one letter by DATA without a login and returns the reply to it."""
    with greeted(endpoint) as session:
        session.ask(b"MAIL FROM:<" + sender.encode() + b">", b"250")
        for recipient in recipients:
            session.ask(b"RCPT TO:<" + recipient.encode() + b">", b"250")
        session.ask(b"DATA", b"354")
        session.send(stuffed(content))
        reply = session.reply()
        session.ask(b"QUIT", b"221")
    return reply


def collect(endpoint: Endpoint, address: str, *, delete: bool = True) -> list[bytes]:
    """Every letter of a maildrop, removed afterwards unless it shall stay."""
    with logged_in(endpoint, address) as session:
        count = int(session.pop(b"STAT").split()[1])
        letters = []
        for number in range(1, count + 1):
            session.pop(b"RETR %d" % number)
            letters.append(session.multiline())
            if delete:
                session.pop(b"DELE %d" % number)
        session.pop(b"QUIT")
    return letters
