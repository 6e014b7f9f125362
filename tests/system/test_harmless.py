"""Every verb that shows what a server or a letter says, against ones that say what drives terminals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from posthouse.cli.outbox import outbox
from posthouse.cli.probe import probe
from posthouse.cli.read import read
from posthouse.cli.send import send
from posthouse.cli.trace import trace
from posthouse.mail.charsets import HARMFUL
from tests.system.scripted import READ, ScriptedServer, Talk, pexpect, pop3, smtp, terminal
from tests.system.scripted import run as run_client

HARM = re.compile(HARMFUL)
EVIL = "\x1b[2J\x1b]0;t\x07\x9b31m\x08\u202eexe\u2066\u200b\U000e0041\x7f"
SAID = EVIL.encode()
LETTER = (
    b"Received: from pc" + SAID + b" ([192.0.2.7]) by mx" + SAID + b".example; Mon, 2 Mar 2026 06:15:05 +0000\r\n"
    b"From: a" + SAID + b" <a@x.mail>\r\nSubject: " + SAID + b"\r\nX-Mailer: " + SAID + b"\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + SAID + b"\r\n"
    b'--b\r\nContent-Type: a/b; name="' + SAID + b'"\r\n\r\nx\r\n--b--\r\n'
)
POP3 = pop3(
    [LETTER],
    greeting=b"+OK " + SAID + b"\r\n",
    capa=b"+OK " + SAID + b"\r\nUIDL\r\nTOP\r\nX-" + SAID + b"\r\n.\r\n",
    user=b"+OK " + SAID + b"\r\n",
    uidl=b"+OK " + SAID + b"\r\n1 " + SAID + b"\r\n.\r\n",
    dele=b"-ERR " + SAID + b"\r\n",
)
SMTP = smtp(
    greeting=b"220 x.mail " + SAID + b"\r\n",
    ehlo=b"250-x.mail " + SAID + b"\r\n250-X" + SAID + b"\r\n250 AUTH LOGIN PLAIN\r\n",
    rcpt_bad=b"550 5.1.1 " + SAID + b"\r\n",
    end=b"451 4.3.0 " + SAID + b"\r\n",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a verb to its end; what it showed, of which nothing may be harmful."""
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("POSTHOUSE_PASSWORD", "secret")
    monkeypatch.chdir(tmp_path)

    def run(verb: Command, *words: str) -> str:
        done = CliRunner().invoke(verb, words)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        harm = HARM.search(done.output)
        assert harm is None, f"{words}: {done.output[max(0, harm.start() - 80) : harm.end()]!a}"
        return done.stdout if "--json" in words else done.output

    return run


@pytest.mark.parametrize(
    "words", ["list", "1", "latest", "top 1", "save 1", "delete 1", "new", "new --to maildir:m", "trace 1"]
)
def test_what_the_reader_shows(run: Callable[..., str], words: str) -> None:
    with ScriptedServer(POP3) as server:
        verb, *rest = (trace, *words.split()[1:]) if words.startswith("trace") else (read, *words.split())
        access = ["--url", f"pop3://t@{server.address}", "--timeout", "3"]
        assert "^[[2J" in run(verb, *rest, *access) or words in ("save 1", "new --to maildir:m")
        assert "\\x1b[2J" in run(verb, *rest, *access, "-vv")
        answer = run(verb, *rest, *access, "--json")
    assert json.loads(answer)["code"] in (0, 1, 69)


def test_what_the_sender_and_the_outbox_show(run: Callable[..., str]) -> None:
    with ScriptedServer(SMTP) as server:
        words = ["bad@x.mail", "b@x.mail", "-f", "a@x.mail", "-s", EVIL.replace("\x7f", ""), "-m", "text"]
        words += ["--url", f"smtp://t@{server.address}", "--timeout", "3"]
        assert "^[[2J" in run(send, *words, "-v")
        assert json.loads(run(send, *words, "--json", "--wait"))["code"] == 75
        assert "^[[2J" in run(outbox, "show", "all") and "\\x1b[2J" in run(outbox, "show", "all", "--transcript")
        run(outbox)
        assert json.loads(run(outbox, "show", "all", "--json"))["letters"]
        run(outbox, "send", "all", "-v")


@pytest.mark.parametrize("service", ["smtp", "pop3"])
def test_what_a_probe_shows(run: Callable[..., str], service: str) -> None:
    with ScriptedServer(POP3 if service == "pop3" else SMTP) as server:
        words = ["127.0.0.1", "--port", f"{service}={server.port}", "--timeout", "2"]
        assert "^[[2J" in run(probe, *words, "-v")
        assert json.loads(run(probe, *words, "--json"))["ports"]


def test_a_greeting_that_refuses(run: Callable[..., str]) -> None:
    """The words of a failure that ends everything."""

    def refuse(talk: Talk) -> None:
        talk.say(b"-ERR " + SAID + b"\r\n")

    with ScriptedServer(refuse) as server:
        access = ["list", "--url", f"pop3://t@{server.address}"]
        assert "^[[2J" in run(read, *access)
        assert EVIL[:4] in json.loads(run(read, *access, "--json"))["reply"]


def test_octets_as_they_are_but_for_a_terminal(tmp_path: Path) -> None:
    """`--to -` gives a program every octet, and a person none that harms."""
    with ScriptedServer(POP3) as server:
        words = [*READ, "1", "--to", "-", "--url", f"pop3://t@{server.address}"]
        assert run_client(words, home=tmp_path).stdout == LETTER
        with terminal(words, tmp_path) as child:
            child.expect_exact("Password for t: ")
            child.sendline("secret")
            child.expect(pexpect.EOF)
            assert "Subject: ^[[2J^[]0;t^G" in child.before
            assert not HARM.search(child.before.replace("\r\n", ""))
