"""Letters that a server carries on: handing them in with a login, looking into its queue, reading its notices."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from posthouse.mail.report import Report, read_report
from tests.system.raw import collect, greeted, stuffed
from tests.system.server import PASSWORD, Endpoint, Server, run_posthouse

LETTER = b"From: %s\r\nTo: boris@next.example\r\nSubject: Hello\r\nMessage-ID: <hello@x.mail>\r\n\r\nHello, Boris.\r\n"


def submit(
    to: Endpoint,
    sender: str,
    *recipients: str,
    content: bytes | None = None,
    mail: str = "",
    rcpt: str = "",
    login: str | None = None,
) -> str:
    """Hands in a letter with a login, and returns its id. `mail` and `rcpt` are parameters of those commands."""
    content = LETTER % sender.encode() if content is None else content
    with greeted(to) as session:
        word = base64.b64encode(f"\0{login or sender}\0{PASSWORD}".encode())
        session.ask(b"AUTH PLAIN " + word, b"235")
        session.ask(f"MAIL FROM:<{sender}> {mail}".rstrip().encode(), b"250")
        for recipient in recipients:
            session.ask(f"RCPT TO:<{recipient}> {rcpt}".rstrip().encode(), b"250")
        session.ask(b"DATA", b"354")
        session.send(stuffed(content))
        reply = session.reply()
        session.ask(b"QUIT", b"221")
    assert reply.startswith(b"250 2.0.0 Queued as "), reply
    return reply.split()[4].decode()


def add_route(data: Path, pattern: str, *targets: str, tls: str = "none", more: Sequence[str] = ()) -> None:
    """Says where letters go, beside the running server."""
    where = [word for target in targets for word in ("--to", target)]
    password = ["--password-stdin"] if "--login" in more else []
    words = ["route", "add", pattern, *where, "--tls", tls, "--replace", *more, *password]
    run_posthouse(data, *words, stdin=PASSWORD + "\n" if password else "")


def queued(data: Path, letter: str = "") -> list[dict[str, Any]]:
    """What waits, as `posthouse queue list --json` tells it: all of it, or of one letter."""
    done = run_posthouse(data, "queue", "list", *([letter] if letter else []), "--json")
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def wait_queue(
    data: Path, letter: str, wanted: Callable[[list[dict[str, Any]]], bool], seconds: float = 20.0
) -> list[dict[str, Any]]:
    """Waits until the queue has a letter as it is wanted; returns its items."""
    end = time.monotonic() + seconds
    while not wanted(items := queued(data, letter)):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {items}"
        time.sleep(0.05)
    return items


def wait_tried(data: Path, letter: str, times: int = 1, seconds: float = 20.0) -> dict[str, Any]:
    """The only item of a letter, once it was tried so many times and waits for the next one."""
    items = wait_queue(
        data,
        letter,
        lambda items: len(items) == 1 and items[0]["attempts"] >= times and items[0]["state"] != "sending",
        seconds,
    )
    return items[0]


def wait_gone(data: Path, letter: str, seconds: float = 20.0) -> None:
    """Waits until nothing of a letter is in the queue."""
    wait_queue(data, letter, lambda items: not items, seconds)


def wait_letters(pop3: Endpoint, address: str, count: int = 1, seconds: float = 20.0) -> list[bytes]:
    """The letters of a mailbox once there are so many; they are deleted there."""
    end = time.monotonic() + seconds
    while len(letters := collect(pop3, address, delete=False)) < count:
        assert time.monotonic() < end, f"only {len(letters)} of {count} letters came for {address}"
        time.sleep(0.05)
    assert len(letters) == count, f"{len(letters)} letters came, not {count}: {letters}"
    return collect(pop3, address)


@dataclass(slots=True)
class Told:
    """A notice as its reader finds it: read by the standard library, and its report by our reader too."""

    octets: bytes
    message: EmailMessage
    report: Report
    text: str
    fields: list[dict[str, str]] = field(default_factory=list)
    """Those of the message, then those of each recipient, as another program reads them."""

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    def check(self, action: str, recipient: str, status: str) -> None:
        """It tells one thing about one recipient."""
        fates = [(fate.action, fate.recipient, fate.status) for fate in self.report.fates]
        assert fates == [(action, recipient, status)], (fates, self.text)


def read_notice(octets: bytes) -> Told:
    """Checks the form of a notice (RFC 3464 §2, RFC 5321 §4.5.5) and returns what it says."""
    message = email.message_from_bytes(octets, policy=email.policy.SMTP)
    assert isinstance(message, EmailMessage)
    assert octets.startswith(b"Return-Path: <>\r\n"), octets[:200]
    assert message.get_content_type() == "multipart/report", octets[:2000]
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"
    parts = list(message.iter_parts())
    assert len(parts) == 3, [part.get_content_type() for part in parts]
    report = read_report(octets)
    assert report is not None
    blocks = parts[1].get_payload()
    fields = [dict(block.items()) for block in blocks if isinstance(block, EmailMessage)]
    assert parts[1].get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    return Told(octets, message, report, parts[0].get_content(), fields)


def wait_notice(server: Server, address: str, seconds: float = 20.0) -> Told:
    """The only letter of a mailbox: a notice."""
    return read_notice(wait_letters(server.pop3, address, 1, seconds)[0])


def is_empty(server: Server, address: str) -> bool:
    """Whether nothing has come for somebody."""
    return not collect(server.pop3, address, delete=False)
