"""`posthouse outbox` and what `send` puts into it: against servers that fail in every way, and against ours."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.raw import collect
from tests.system.scripted import SEND, ScriptedServer, Talk, environment, pexpect, run, smtp, terminal
from tests.system.server import PASSWORD, SENDER, Server, check_no_secret

OUTBOX = [sys.executable, "-m", "posthouse.cli.outbox"]
LETTER = ["anna@x.mail", "-f", "me@x.mail", "-s", "Привет", "-m", "text"]
SECRET = "secret word"


class Desk:
    """The two commands with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def folder(self) -> Path:
        """Where the letters lie."""
        return self.home / "posthouse" / "outbox"

    def send(self, port: int, *arguments: str, code: int = 0, letter: list[str] | None = None) -> dict[str, Any]:
        """`send --json` to this port."""
        url = f"smtp://127.0.0.1:{port}"
        return self._run([*SEND, *(letter or LETTER), "--url", url, "--timeout", "2", "--json", *arguments], code)

    def outbox(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """`outbox ... --json`."""
        return self._run([*OUTBOX, *arguments, "--json"], code)

    def _run(self, command: list[str], code: int) -> dict[str, Any]:
        done = run(command, home=self.home, password=SECRET)
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == answer["code"] == code, (answer, done.stderr)
        assert answer["ok"] == (code == 0)
        for path in self.folder.rglob("*.*"):
            assert not path.is_file() or SECRET not in path.read_text(errors="replace")
        return answer

    @property
    def letters(self) -> list[dict[str, Any]]:
        """What is in the outbox."""
        done = run([*OUTBOX, "list", "--json"], home=self.home)
        found: list[dict[str, Any]] = json.loads(done.stdout)["letters"]
        return found

    def states(self) -> list[tuple[str, list[str]]]:
        """State, and status of each recipient, of each letter."""
        return [(row["state"], [r["status"] for r in row["recipients"]]) for row in self.letters]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def line_lost(talk: Talk) -> None:
    """Takes the whole message and breaks the line before its reply."""
    talk.say(b"220 x\r\n")
    while talk.line() != b"DATA":
        talk.say(b"250 OK\r\n")
    talk.say(b"354 go\r\n")
    talk.message()


def test_what_no_server_takes_waits_and_leaves_later(desk: Desk) -> None:
    kept = desk.send(1)
    assert kept["recipients"] == [{"to": "anna@x.mail", "status": "deferred"}] and "waits in the outbox" in kept["note"]
    assert desk.states() == [("deferred", ["deferred"])]
    assert desk.letters[0]["subject"] == "Привет" and desk.letters[0]["message_id"] == kept["message_id"]
    with ScriptedServer(smtp()) as server:
        assert desk.send(server.port, "--queue")["outbox"] != kept["outbox"]
        assert desk.outbox("run")["letters"][0]["state"] == "sent"
        assert server.heard[-2].endswith(b"\r\n\r\ntext") or server.heard[-2].endswith(b"text\r\n")
    assert sorted(desk.states()) == [("deferred", ["deferred"]), ("sent", ["sent"])]


@pytest.mark.parametrize(
    ("script", "code", "states"),
    [
        (smtp(greeting=b"421 later\r\n"), 0, ["deferred", "deferred"]),
        (smtp(mail=b"451 later\r\n"), 0, ["deferred", "deferred"]),
        (smtp(end=b"452 full\r\n", rcpt_bad=b"250 OK\r\n"), 0, ["deferred", "deferred"]),
        (smtp(end=b"421 closing\r\n", rcpt_bad=b"250 OK\r\n"), 0, ["deferred", "deferred"]),
        (smtp(rcpt_bad=b"450 4.2.1 not now\r\n"), 0, ["sent", "deferred"]),
        (line_lost, 75, ["uncertain", "uncertain"]),
    ],
)
def test_what_is_kept(desk: Desk, script: Callable[[Talk], None], code: int, states: list[str]) -> None:
    with ScriptedServer(script) as server:
        answer = desk.send(server.port, "-b", "bad@x.mail", code=code)
    assert [row["status"] for row in answer["recipients"]] == states
    assert [statuses for _, statuses in desk.states()] == [states]
    again = desk.letters[0]["due"]
    assert (again is None) == (code == 75)
    transcript = run([*OUTBOX, "show", answer["outbox"], "--transcript"], home=desk.home).stdout
    assert b" -> MAIL FROM:<me@x.mail>" in transcript or b"<-* 421 later" in transcript


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (smtp(mail=b"550 5.7.1 no\r\n"), 69),
        (smtp(rcpt=b"550 5.1.1 nobody\r\n"), 67),
        (smtp(end=b"554 5.6.0 no\r\n"), 69),
        (smtp(greeting=b"+OK POP3\r\n"), 76),
        (smtp(rcpt_bad=b"550 5.1.1 nobody\r\n"), 1),
    ],
)
def test_what_is_refused_for_good_is_not_kept(desk: Desk, script: Callable[[Talk], None], code: int) -> None:
    with ScriptedServer(script) as server:
        desk.send(server.port, "-b", "bad@x.mail", code=code)
    assert desk.letters == []


def test_wait_keeps_nothing(desk: Desk) -> None:
    assert "outbox" not in desk.send(1, "--wait", code=75)
    assert desk.letters == []


def test_an_outbox_that_cannot_be_written_takes_nothing_back_of_what_was_said(desk: Desk) -> None:
    (desk.home / "posthouse").write_text("a file where a folder should be")
    with ScriptedServer(smtp(rcpt_bad=b"450 4.2.1 not now\r\n")) as server:
        answer = desk.send(server.port, "-c", "bad@x.mail", code=1)
    assert "did not take bad@x.mail" in answer["error"] and "cannot be kept in the outbox" in answer["error"]
    assert [row["status"] for row in answer["recipients"]] == ["sent", "deferred"]


def test_only_those_that_are_open_get_the_letter_again(desk: Desk) -> None:
    with ScriptedServer(smtp(rcpt_bad=b"450 4.2.1 not now\r\n")) as server:
        name = desk.send(server.port, "-c", "bad@x.mail")["outbox"]
        desk.outbox("run")  # not due yet
        assert len(server.talks) == 1
        assert desk.outbox("send", name, code=75)["letters"][0]["recipients"][1]["reply"] == "450 4.2.1 not now"
        heard = server.talks[1].heard
        assert [line for line in heard if line.startswith(b"RCPT")] == [b"RCPT TO:<bad@x.mail>"]


def test_uncertain_is_sent_again_only_on_request_under_the_same_id(desk: Desk) -> None:
    """RFC 1047: a line lost behind the final dot leaves the letter taken or not. The original sent it twice, or not."""
    with ScriptedServer(line_lost) as server:
        port = server.port
        answer = desk.send(port, code=75)
    assert "Nobody knows" in answer["error"] and f"outbox send {answer['outbox']}" in answer["error"]
    assert desk.outbox("run")["letters"] == []
    desk.outbox("release", answer["outbox"])
    assert desk.states() == [("uncertain", ["uncertain"])]
    first = server.heard[-1]
    with ScriptedServer(smtp()) as server:
        _redirect(desk, answer["outbox"], server.port)
        desk.outbox("send", answer["outbox"])
        assert server.heard[-2] == first and answer["message_id"].encode() in first
    assert desk.states() == [("sent", ["sent"])]


def _redirect(desk: Desk, name: str, port: int) -> None:
    path = desk.folder / name / "state.json"
    state = json.loads(path.read_text())
    state["route"]["url"] = f"smtp://127.0.0.1:{port}"
    path.write_text(json.dumps(state))


def test_a_refused_login_is_no_reason_to_try_again_and_again(desk: Desk) -> None:
    with ScriptedServer(smtp(auth=b"535 5.7.8 bad credentials\r\n")) as server:
        desk.send(server.port, "-u", "me", "--queue")
        answer = desk.outbox("run", code=77)
        assert "refused the login" in answer["letters"][0]["error"]
        assert desk.states() == [("held", ["deferred"])]
        assert desk.outbox("run")["letters"] == []
        name = desk.letters[0]["id"]
        transcript = run([*OUTBOX, "show", name, "--transcript"], home=desk.home)
        assert run([*OUTBOX, "show", "all", "--transcript"], home=desk.home).stdout == transcript.stdout
        assert b"AUTH PLAIN ********" in transcript.stdout and b"535 5.7.8" in transcript.stdout


def test_without_a_password_a_letter_stays_as_it_is(desk: Desk) -> None:
    with ScriptedServer(smtp()) as server:
        desk.send(server.port, "-u", "me", "--queue")
        done = run([*OUTBOX, "run", "--json"], home=desk.home, password="")
        answer = json.loads(done.stdout)
        assert done.returncode == 77 and "no password" in answer["letters"][0]["error"]
        assert desk.states() == [("queued", ["waiting"])] and server.talks == []


def test_the_password_of_one_login_is_not_given_to_another_server(desk: Desk) -> None:
    with ScriptedServer(smtp()) as one, ScriptedServer(smtp()) as other:
        desk.send(one.port, "-u", "me", "--queue")
        desk.send(other.port, "-u", "me", "--queue")
        desk.outbox("run", code=77)
        assert one.talks == other.talks == []


def test_hold_release_drop(desk: Desk) -> None:
    with ScriptedServer(smtp()) as server:
        name = desk.send(server.port, "--queue")["outbox"]
        desk.outbox("hold", name[:4])
        assert desk.states() == [("held", ["waiting"])]
        assert desk.outbox("run")["letters"] == [] and server.talks == []
        desk.outbox("release", name)
        assert desk.outbox("run")["letters"][0]["state"] == "sent"
        desk.outbox("hold", name, code=65)
        desk.outbox("drop", name)
        assert desk.letters == []
        desk.outbox("drop", name, code=66)


def test_a_letter_can_be_changed(desk: Desk) -> None:
    with ScriptedServer(smtp()) as server:
        name = desk.send(server.port, "--queue", "-b", "hidden@x.mail")["outbox"]
        script = desk.home / "editor"
        script.write_text(
            '#!/bin/sh\ncp "$1" shown\n'
            "sed -i 's/^Subject:.*/Subject: Пока/; s/^text/Ёлка\\n.\\nend/; s/anna/bert/' \"$1\"\n"
        )
        script.chmod(0o755)
        done = subprocess.run(
            [*OUTBOX, "edit", name], cwd=desk.home, env=environment(home=desk.home) | {"VISUAL": str(script)}
        )
        assert done.returncode == 0
        shown = (desk.home / "shown").read_text()
        assert "\nSubject: Привет\n" in shown and "\nBcc: hidden@x.mail\n" in shown and shown.endswith("\n\ntext\n")
        assert "Content-T" not in shown
        row = desk.letters[0]
        assert row["subject"] == "Пока" and [r["to"] for r in row["recipients"]] == ["bert@x.mail", "hidden@x.mail"]
        desk.outbox("run")
        sent = email.message_from_bytes(server.heard[-2], policy=email.policy.default)
        assert sent["subject"] == "Пока" and sent["to"] == "bert@x.mail" and sent["bcc"] is None
        assert sent.get_content().replace("\r\n", "\n") == "Ёлка\n.\nend\n"
        assert sent["message-id"] == row["message_id"]


def test_an_edit_adds_nobody_who_was_only_named(desk: Desk) -> None:
    """A sendmail is called for one recipient; those in To got the letter in another way."""
    sendmail = [sys.executable, "-m", "posthouse.cli.main", "--as", "sendmail", "--url", "smtp://127.0.0.1:1"]
    letter = b"From: me@x.mail\nTo: a@x.mail, list@x.mail\nSubject: x\n\ntext\n"
    assert run([*sendmail, "-i", "-odq", "a@x.mail", "hidden@x.mail"], given=letter, home=desk.home).returncode == 0
    env = environment(home=desk.home) | {"VISUAL": "sed -i s/list@x.mail,*/list@x.mail,new@x.mail/"}
    assert subprocess.run([*OUTBOX, "edit", desk.letters[0]["id"]], env=env).returncode == 0
    assert [r["to"] for r in desk.letters[0]["recipients"]] == ["a@x.mail", "new@x.mail", "hidden@x.mail"]


def test_an_editor_that_fails_changes_nothing(desk: Desk) -> None:
    name = desk.send(1, "--queue")["outbox"]
    before = desk.letters
    for editor, code in (("false", 1), ("/nowhere/editor", 66), ("true", 0)):
        done = subprocess.run(
            [*OUTBOX, "edit", name],
            env=environment(home=desk.home) | {"EDITOR": editor, "VISUAL": ""},
            capture_output=True,
        )
        assert done.returncode == code, done.stderr
    assert desk.letters == before


# The undo window


def test_hold_gives_time_to_take_a_letter_back(desk: Desk) -> None:
    with ScriptedServer(smtp()) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        with terminal([*SEND, *LETTER, "--url", url, "--hold", "1h"], desk.home) as child:
            child.expect("It leaves in 3600 s as ([0-9a-z]{8})")
            child.sendintr()
            child.expect("Taken back. It is held in the outbox as")
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 130
        assert server.talks == [] and desk.states() == [("held", ["waiting"])]


def test_hold_sends_when_the_time_is_over_or_sees_that_it_was_dropped(desk: Desk) -> None:
    with ScriptedServer(smtp()) as server:
        assert desk.send(server.port, "--hold", "1s")["recipients"][0]["status"] == "sent"
        assert len(server.talks) == 1 and desk.states() == [("sent", ["sent"])]
        command = [*SEND, *LETTER, "--url", f"smtp://127.0.0.1:{server.port}", "--hold", "2s", "--json"]
        with subprocess.Popen(
            command, env=environment(home=desk.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as sender:
            assert sender.stderr is not None
            said = sender.stderr.readline().decode()
            desk.outbox("drop", said.split(" as ")[1][:8])
            out, _ = sender.communicate(timeout=20)
        assert "taken out of our hands" in json.loads(out)["note"] and len(server.talks) == 1


# Two at once


def test_two_runners_send_a_letter_once(desk: Desk) -> None:
    """Both find the letters due; only the one that has a letter's lock sends it."""
    with ScriptedServers(2) as server:
        for number in range(12):
            desk.send(server.port, "--queue", letter=[f"box{number}@x.mail", "-f", "me@x.mail", "-m", "x"])
        runners = [
            subprocess.Popen([*OUTBOX, "run", "-q"], env=environment(home=desk.home), stderr=subprocess.DEVNULL)
            for _ in range(3)
        ]
        assert [runner.wait(40) for runner in runners] == [0, 0, 0]
        recipients = [line for line in server.heard if line.startswith(b"RCPT")]
        assert len(recipients) == len(set(recipients)) == 12
    assert {state for state, _ in desk.states()} == {"sent"}


class ScriptedServers(ScriptedServer):
    """The same, for several connections at a time."""

    def __init__(self, _: int) -> None:
        super().__init__(smtp())

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            talk = Talk(connection)
            self.talks.append(talk)
            threading.Thread(target=self._one, args=(talk,), daemon=True).start()

    def _one(self, talk: Talk) -> None:
        self._script(talk)
        talk.close()


def test_a_letter_in_an_attempt_is_left_alone(desk: Desk) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(talk: Talk) -> None:
        reached.set()
        go_on.wait(20)
        smtp()(talk)

    with ScriptedServer(slow) as server:
        name = desk.send(server.port, "--queue")["outbox"]
        with subprocess.Popen([*OUTBOX, "run", "-q"], env=environment(home=desk.home)) as runner:
            assert reached.wait(20)
            assert desk.states() == [("sending", ["waiting"])]
            for verb in ("hold", "drop", "edit", "send"):
                assert "Repeat it later" in desk.outbox(verb, name, code=75)["error"]
            go_on.set()
            assert runner.wait(20) == 0
    assert desk.states() == [("sent", ["sent"])]


# Again and again


@contextlib.contextmanager
def watching(desk: Desk) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*OUTBOX, "run", "--watch"], env=environment(home=desk.home), stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, "SIGTERM ends it well"


def test_watch_sends_what_comes_and_ends_well(desk: Desk) -> None:
    with ScriptedServer(smtp()) as server, watching(desk) as process:
        desk.send(server.port, "--queue")
        assert process.stdout is not None
        assert ": sent (1 sent)" in process.stdout.readline()
        assert len(server.talks) == 1


def test_the_unit_is_one_that_systemd_takes(desk: Desk, tmp_path: Path) -> None:
    from tests.system.programs import find_program

    analyze = find_program("systemd-analyze")
    text = run([*OUTBOX, "unit"], home=desk.home).stdout.decode()
    assert " outbox run --watch\n" in text
    unit = tmp_path / "posthouse-outbox.service"
    unit.write_text(text)
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=50)
    assert "posthouse-outbox" not in done.stderr, done.stderr


# With our own server


def test_a_server_that_was_down(desk: Desk, server: Server, mailbox: str) -> None:
    letter = [mailbox, "-f", SENDER, "-u", SENDER, "-s", "late", "-m", "text"]
    env = environment(password=PASSWORD, home=desk.home)
    done = subprocess.run([*SEND, *letter, "--url", "smtp://127.0.0.1:1"], env=env, capture_output=True)
    assert done.returncode == 0 and b"waits in the outbox" in done.stderr
    _redirect(desk, desk.letters[0]["id"], server.submission.port)
    again = subprocess.run([*OUTBOX, "send", "all", "-v"], env=env, capture_output=True, text=True)
    assert again.returncode == 0 and ": sent (1 sent)" in again.stdout, again.stderr
    check_no_secret(again.stderr)
    [message] = collect(server.pop3, mailbox)
    assert b"Subject: late" in message
    assert desk.states() == [("sent", ["sent"])]
