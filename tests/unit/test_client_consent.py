"""No password in clear to anybody but this machine, unless a person says so; and which door of a server is tried."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli import sending
from posthouse.cli.dialogue import Scripted, run_read, run_send
from posthouse.cli.letters import Draft, text_part
from posthouse.cli.shell import converse
from posthouse.mail.mailboxes import parse_mailboxes
from posthouse.net.dial import Server
from tests.system.scripted import ScriptedServer, pop3, smtp

QUESTION = "No encryption offered. Send the password in clear? [n]: "
LETTER = ["test@x.mail", "test", "secret", "test2@x.mail", "topic", "text", ""]


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server on loopback counts as one elsewhere."""
    monkeypatch.setattr("posthouse.clients.smtp.is_loopback", lambda host: False)
    monkeypatch.setattr("posthouse.clients.pop3.is_loopback", lambda host: False)


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize(("answer", "code"), [("", 77), ("n", 77), ("what", 77), ("y", 0), ("Yes", 0)])
async def test_sending_asks_before_a_password_goes_in_clear(answer: str, code: int) -> None:
    screen = io.StringIO()
    with ScriptedServer(smtp()) as server:
        assert await run_send([server.address, *LETTER, answer], screen) == code
    assert f"250 AUTH LOGIN PLAIN\n{QUESTION}{answer}\n" in screen.getvalue()
    assert any(line.startswith(b"AUTH") for line in server.heard) is (code == 0)
    assert ("the password was not sent in clear. Nothing was sent." in screen.getvalue()) is (code == 77)


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize("answer", ["", "y"])
async def test_reading_asks_before_a_password_goes_in_clear(answer: str) -> None:
    screen = io.StringIO()
    login = ["test", "secret"] if answer else []
    with ScriptedServer(pop3()) as server:
        assert await run_read([server.address, "Auth", answer, *login, "Quit"], screen) == 0
    assert QUESTION in screen.getvalue()
    assert (b"PASS secret" in server.heard) is bool(answer)
    assert (b"USER test" in server.heard) is bool(answer)


@pytest.mark.usefixtures("far_away")
async def test_insecure_auth_does_not_ask() -> None:
    screen = io.StringIO()
    with ScriptedServer(pop3()) as server:
        person = Scripted([server.address, "Auth", "test", "secret", "Quit"], screen)
        assert await converse(person, directory=Path(), insecure=True) == 0
    assert QUESTION not in screen.getvalue() and b"PASS secret" in server.heard


async def test_a_played_dialogue_ends_with_its_answers() -> None:
    screen = io.StringIO()
    with ScriptedServer(pop3()) as server:
        assert await run_read([server.address, "Stat"], screen) == 0
        with pytest.raises(EOFError):
            await run_send([server.address, "test@x.mail"], screen)
    assert b"QUIT" not in server.heard


def plan(server: Server, **more: Any) -> sending.Plan:
    sender, to = parse_mailboxes("test@x.mail, test2@x.mail")
    letter, message_id = Draft(sender, "s", text_part("text"), [to]).compose()
    return sending.Plan(server, letter, message_id, **more)


async def test_submission_is_tried_first_and_port_25_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    # A port that is taken and not listened on refuses, and nobody else gets it meanwhile.
    with socket.socket() as silent, ScriptedServer(smtp()) as server:
        silent.bind(("127.0.0.1", 0))
        free = silent.getsockname()[1]
        monkeypatch.setattr(sending, "SUBMISSION", free)
        monkeypatch.setattr(sending, "SMTP", server.port)
        report = await sending.deliver(plan(Server("127.0.0.1")))
        assert report.code == 0 and report.sent == 1
        monkeypatch.setattr(sending, "SMTP", free)
        report = await sending.deliver(plan(Server("127.0.0.1")))
        assert report.code == 75 and report.stage == "connect" and "nothing listens there" in report.text
        json.dumps(report.as_json())


async def test_the_next_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(smtp()) as server:
        real = socket.getaddrinfo

        def both(host: str, port: int, *rest: Any, **more: Any) -> Any:
            if host != "two.example.org":
                return real(host, port, *rest, **more)
            return [(socket.AF_INET6, 1, 6, "", (address, port)) for address in ("::1", "127.0.0.1")]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        report = await sending.deliver(plan(Server("two.example.org", server.port)))
    assert report.code == 0


def test_secrets_are_not_in_what_is_printed_of_plans() -> None:
    assert "hush" not in repr(plan(Server("h"), login="test", password="hush"))
