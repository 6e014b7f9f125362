"""Words put between the plain and the encrypted part of a session count for nothing (CVE-2011-0411, reliability F4)."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from posthouse.net.sysfiles import machine_addresses
from tests.system.programs import leave_out
from tests.system.raw import Raw, greeted
from tests.system.server import PASSWORD, SENDER, Endpoint, Server, serving, wait_for


@pytest.mark.parametrize("listener", ["smtp", "submission"])
def test_a_command_behind_starttls_closes_the_session(server: Server, listener: str) -> None:
    """In one packet with STARTTLS: refused, logged, closed, even for this machine itself, which may pipeline."""
    endpoint = server.listeners[listener][0]
    before = server.log.count("starttls_injection")
    with greeted(endpoint) as session:
        session.send(b"STARTTLS\r\nMAIL FROM:<evil@example.org>\r\n")
        assert session.rest() == b"503 5.5.0 Commands were sent before the reply that must be waited for\r\n"
    wait_for(lambda: server.log.count("starttls_injection") == before + 1, lambda: server.log[-2000:])


def test_a_command_behind_stls_closes_the_session(server: Server) -> None:
    """The same with POP3 (RFC 2595 §4)."""
    before = server.log.count("starttls_injection")
    with Raw(server.pop3) as session:
        session.line()
        session.send(b"STLS\r\nUSER test\r\n")
        said = session.rest()
    assert said == b"-ERR Commands were sent before the reply to STLS, closing the connection\r\n"
    wait_for(lambda: server.log.count("starttls_injection") == before + 1, lambda: server.log[-2000:])


@pytest.mark.parametrize("protocol", ["smtp", "pop3"])
def test_plain_words_after_the_go_ahead_never_reach_the_session(server: Server, protocol: str) -> None:
    """In a packet of their own, after the reply: they meet the handshake, which fails; nothing is answered to them."""
    before = server.log.count("tls_failed")
    with Raw(server.listeners[protocol][0]) as session:
        session.line()
        if protocol == "smtp":
            session.ask(b"EHLO pc", b"250")
            session.ask(b"STARTTLS", b"220")
        else:
            session.pop(b"STLS")
        session.send(b"NOOP\r\n" * 20)
        assert b"250" not in (rest := session.rest()) and b"+OK" not in rest
    wait_for(lambda: server.log.count("tls_failed") == before + 1, lambda: server.log[-2000:])


def test_half_a_command_before_the_handshake_is_forgotten(server: Server) -> None:
    """A piece of a line that arrives octet by octet just before STARTTLS's own end is part of that line, and the
    beginning of a line after it does not become the beginning of an encrypted command."""
    with greeted(server.smtp) as session:
        for octet in b"STARTTLS\r\n":
            session.send(bytes([octet]))
        assert session.reply().startswith(b"220")
        session.start_tls(server.authority)
        session.ask(b"EHLO pc", b"250")


def test_what_was_said_before_tls_does_not_count(server: Server) -> None:
    """EHLO, the login: all is forgotten (RFC 3207 §4.2)."""
    plain = base64.b64encode(f"\0{SENDER}\0{PASSWORD}".encode())
    with greeted(server.submission) as session:
        session.ask(b"AUTH PLAIN " + plain, b"235")
        session.ask(b"STARTTLS", b"220")
        session.start_tls(server.authority)
        session.ask(b"MAIL FROM:<test@x.mail>", b"503")
        extensions = session.ask(b"EHLO pc", b"250")
        assert b"STARTTLS" not in extensions and b"AUTH SCRAM-SHA-256 PLAIN LOGIN" in extensions
        session.ask(b"MAIL FROM:<test@x.mail>", b"530")
        session.ask(b"STARTTLS", b"503 5.5.1 TLS protects")


def test_from_elsewhere_a_login_needs_tls(data: Path) -> None:
    """Would catch a password taken in the clear from the network, and one refused over TLS (RFC 8314 §4.1)."""
    addresses = [address for address in machine_addresses() if ":" not in address]
    if not addresses:
        leave_out("this machine has no address but loopback")
    plain = base64.b64encode(f"\0{SENDER}\0{PASSWORD}".encode())
    with serving(data, "submission=0.0.0.0:0", "pop3=0.0.0.0:0") as server:
        with greeted(Endpoint(addresses[0], server.submission.port)) as session:
            assert b"AUTH" not in session.ask(b"EHLO pc", b"250")
            session.ask(b"AUTH PLAIN " + plain, b"538")
            session.ask(b"STARTTLS", b"220")
            session.start_tls(server.authority)
            assert b"AUTH" in session.ask(b"EHLO pc", b"250")
            session.ask(b"AUTH PLAIN " + plain, b"235")
        with Raw(Endpoint(addresses[0], server.pop3.port)) as session:
            session.line()
            session.pop(b"USER " + SENDER.encode(), b"-ERR No login without encryption")
            session.pop(b"STLS")
            session.start_tls(server.authority)
            session.pop(b"USER " + SENDER.encode())
            session.pop(b"PASS " + PASSWORD.encode())


def test_a_user_named_before_stls_is_forgotten(server: Server) -> None:
    """PASS alone after STLS finds no USER (RFC 2595 §4)."""
    with Raw(server.pop3) as session:
        session.line()
        session.pop(b"STLS")
        session.start_tls(server.authority)
        session.pop(b"PASS x", b"-ERR Say USER first")
        session.pop(b"CAPA")
        capabilities = session.multiline()
        assert b"STLS" not in capabilities and b"USER" in capabilities
        session.pop(b"STLS", b"-ERR TLS protects")


@pytest.mark.parametrize(
    "octets", [b"GET / HTTP/1.1\r\n\r\n", b"EHLO pc\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 3000, b"\x80"]
)
def test_garbage_on_a_tls_port_is_closed_and_logged(server: Server, octets: bytes) -> None:
    """What is no TLS gets no answer in the clear beyond an alert, and the server goes on."""
    before = server.log.count("tls_failed")
    with Raw(server.submissions) as session:
        session.send(octets)
        session.end_sending()
        assert b"220" not in session.rest()
    wait_for(lambda: server.log.count("tls_failed") == before + 1, lambda: server.log[-2000:])
