"""Notices between programs: those that Postfix and OpenSMTPD really write are read, and ours pass through them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from posthouse.mail.report import Report, read_report
from tests.notices.samples import OURS
from tests.system.raw import collect, deliver
from tests.system.relays import opensmtpd, postfix
from tests.system.server import Endpoint, Server
from tests.system.test_our_clients import posthouse, reading

RELAYS: list[Callable[[Endpoint, str], AbstractContextManager[Endpoint]]] = [postfix, opensmtpd]
LETTER = b"From: %s\r\nSubject: Minutes\r\nMessage-ID: <1@example.net>\r\n\r\nHello\r\n"


def arrived(server: Server, mailbox: str) -> bytes:
    """The letter that comes into an empty mailbox, which keeps it."""
    end = time.monotonic() + 40
    while not (letters := collect(server.pop3, mailbox, delete=False)):
        assert time.monotonic() < end, "no letter has come"
        time.sleep(0.2)
    return letters[0]


@pytest.mark.parametrize("relay", RELAYS)
def test_the_notice_of_another_server_is_understood(
    server: Server, mailbox: str, relay: Callable[[Endpoint, str], AbstractContextManager[Endpoint]]
) -> None:
    """We refuse a recipient, and the program that stands before us tells the sender in its own way."""
    with relay(server.lmtp if relay is postfix else server.smtp, "relay.example.org") as port:
        assert deliver(port, ["nobody@x.mail"], LETTER % mailbox.encode(), mailbox).startswith(b"250")
        octets = arrived(server, mailbox)
    report = read_report(octets)
    assert isinstance(report, Report)
    assert report.reporter == "relay.example.org"
    [fate] = report.fates
    assert (fate.recipient, fate.action) == ("nobody@x.mail", "failed")
    if relay is postfix:
        assert (fate.status, fate.transport, fate.diagnostic[:10]) == ("5.1.1", "smtp", "550 5.1.1 ")
    shown = posthouse(*reading(server, mailbox), "1").stdout.decode()
    assert "Report of relay.example.org:\n  failed     5." in shown
    assert "Hello" not in shown


@pytest.mark.parametrize("name", ["delayed-ru", "failed-en", "utf8-to-ascii"])
def test_our_notice_passes_through_postfix(server: Server, mailbox: str, name: str) -> None:
    """With the null reverse-path, over LMTP, octet for octet: nothing in it has to be converted on the way."""
    octets = (OURS / f"{name}.eml").read_bytes()
    with postfix(server.lmtp, "relay.example.org") as port:
        assert deliver(port, [mailbox], octets, "").startswith(b"250")
        came = arrived(server, mailbox)
    assert came.endswith(octets)
    assert b"Return-Path: <>\r\n" in came
    assert read_report(came) == read_report(octets)
