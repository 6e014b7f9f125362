"""`posthouse send` and `posthouse read` against the real server: what goes in comes out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import poplib
import smtplib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli.dialogue import run_read, run_send
from tests.system.scripted import terminal
from tests.system.server import PASSWORD, SENDER, Server, find_command
from tests.system.test_read_dialogue import SELECT
from tests.system.test_send_dialogue import answer, finish


def posthouse(*arguments: str, given: bytes = b"", cwd: Path | None = None, password: str = PASSWORD) -> Any:
    """Runs one client command without a terminal."""
    return subprocess.run(
        [find_command(), *arguments],
        input=given,
        capture_output=True,
        cwd=cwd,
        timeout=50,
        env={
            "POSTHOUSE_PASSWORD": password,
            "LANG": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
            "HOME": str(cwd or "/nonexistent"),
        },
    )


def sending(server: Server) -> list[str]:
    return ["send", "--url", f"smtp://{SENDER.replace('@', '%40')}@{server.submission.url}"]


def reading(server: Server, mailbox: str) -> list[str]:
    return ["read", "--url", f"pop3://{mailbox.replace('@', '%40')}@{server.pop3.url}"]


@pytest.mark.parametrize("size", [0, 1, 57, 100_000, 10_000_000])
def test_attachments_come_back_bit_for_bit(server: Server, mailbox: str, tmp_path: Path, size: int) -> None:
    block = bytes(range(256)) + b"\r\n.\r\n..\n.\nFrom \0\r"
    file = tmp_path / "Отчёт за год.bin"
    file.write_bytes((block * (size // len(block) + 1))[:size])
    text = ".\n..\nПривет\n"
    sent = posthouse(*sending(server), mailbox, "-s", "Файл", "-a", str(file), given=text.encode(), cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    (tmp_path / "in").mkdir()
    saved = posthouse(*reading(server, mailbox), "save", "1", cwd=tmp_path / "in")
    assert saved.returncode == 0, saved.stderr
    assert hash_of(tmp_path / "in" / file.name) == hash_of(file)
    shown = json.loads(posthouse(*reading(server, mailbox), "1", "--json").stdout)["message"]
    assert (shown["subject"], shown["text"], shown["from"]) == ("Файл", text, SENDER)
    assert shown["attachments"] == [{"name": file.name, "type": "application/octet-stream"}]
    gone = posthouse(*reading(server, mailbox), "delete", "1")
    assert gone.returncode == 0
    assert posthouse(*reading(server, mailbox), "latest").returncode == 1


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_whole_messages_pass_as_they_are(server: Server, mailbox: str, tmp_path: Path) -> None:
    message = f"To: {mailbox}\nFrom: {SENDER}\nDate: Mon, 2 Mar 2026 09:14:57 +0300\nMessage-ID: <1@x.mail>\n"
    message += "Subject: as it is\n\n.\n..\nfrom cron, Привет\n" + "x" * 997 + "\n"
    sent = posthouse(*sending(server), "-t", "-i", given=message.encode())
    assert sent.returncode == 0 and b"id <1@x.mail>" in sent.stdout
    got = posthouse(*reading(server, mailbox), "1", "--to", "-")
    assert got.returncode == 0 and got.stdout.endswith(message.encode().replace(b"\n", b"\r\n"))


def test_a_notice_is_read_as_text_and_table(server: Server, mailbox: str) -> None:
    """A notice of ours, sent in as another server would, and one of Postfix."""
    for number, (name, report) in enumerate(
        (
            ("ours/failed-ru", "  failed     5.1.1    anna@example.org\n"),
            ("foreign/postfix", "  failed     4.4.1    clara@example.net\n"),
        ),
        1,
    ):
        octets = (Path(__file__).parents[1] / "notices" / f"{name}.eml").read_bytes()
        with smtplib.SMTP(server.smtp.host, server.smtp.port, timeout=20) as client:
            assert client.sendmail("", [mailbox], octets) == {}
        shown = posthouse(*reading(server, mailbox), str(number))
        assert shown.returncode == 0, shown.stderr
        assert report in shown.stdout.decode()
        told = json.loads(posthouse(*reading(server, mailbox), str(number), "--json").stdout)["message"]["report"]
        assert told["recipients"][0]["to"] == "anna@example.org"
    assert "Что можно сделать" in posthouse(*reading(server, mailbox), "1").stdout.decode()


def test_each_copy_arrives_and_blind_ones_stay_blind(server: Server, new_mailbox: Any, tmp_path: Path) -> None:
    seen, copied, blind = new_mailbox(), new_mailbox(), new_mailbox()
    done = posthouse(*sending(server), seen, "nobody@x.mail", "-c", copied, "-b", blind, "-m", "text", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == result["code"] == 1
    assert [row["status"] for row in result["recipients"]] == ["sent", "failed", "sent", "sent"]
    assert result["recipients"][1]["reply"].startswith("550 5.1.1")
    for mailbox in (seen, copied, blind):
        got = posthouse(*reading(server, mailbox), "1", "--to", "-").stdout
        assert b"text\r\n" in got and (blind.encode() not in got.split(b"\r\nDate:")[1])


def test_wrong_password_is_told_apart_from_a_mailbox_in_use(server: Server, mailbox: str) -> None:
    assert posthouse(*sending(server), mailbox, "-m", "x", password="wrong").returncode == 77
    assert posthouse(*reading(server, mailbox), "list", password="wrong").returncode == 77
    with contextlib.closing(poplib.POP3(server.pop3.host, server.pop3.port, timeout=20)) as other:
        other.user(mailbox)
        other.pass_(PASSWORD)
        busy = posthouse(*reading(server, mailbox), "list", "--json")
        assert busy.returncode == 75 and "in use" in json.loads(busy.stdout)["error"]
        other.quit()
    assert posthouse(*reading(server, mailbox), "list").returncode == 0


def test_what_the_server_will_not_take_is_said_before_it_is_sent(server: Server, mailbox: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"")
    with (tmp_path / "large").open("r+b") as file:
        file.truncate(60_000_000)
    done = posthouse(*sending(server), mailbox, "-m", "x", "-a", str(tmp_path / "large"), "--json")
    assert done.returncode == 69 and "takes at most" in json.loads(done.stdout)["error"]


def test_both_dialogues_on_a_terminal(server: Server, mailbox: str, tmp_path: Path) -> None:
    (tmp_path / "mail.txt").write_text("the file\n")
    with terminal([find_command(), "send"], tmp_path) as child:
        answer(child, "Input server domain: ", server.submission.url)
        answer(child, "Input your address: ", SENDER)
        answer(child, f"Input your login [{SENDER}]: ", "")
        answer(child, "Input your password: ", PASSWORD)
        answer(child, "Input destination address: ", mailbox)
        answer(child, "Input topic: ", "Message 1")
        answer(child, "Input message: ", "Hello\n")
        answer(child, "Input file name: ", "mail.txt")
        shown = finish(child)
        assert "\n250 2.0.0 Queued as " in shown and "\nSent to 1 of 1 recipients; id <" in shown
        assert child.exitstatus == 0
    with terminal([find_command(), "read", "--server", server.pop3.url], tmp_path) as child:
        answer(child, f"Input server domain [{server.pop3.url}]: ", "")
        answer(child, SELECT, "Auth")
        answer(child, "Input address: ", mailbox)
        answer(child, "Input password: ", PASSWORD)
        for word, number in (("List", ""), ("Read", "1"), ("Save", "1"), ("Delete", "1")):
            answer(child, SELECT, word)
            if number:
                answer(child, "Select message index: ", number)
        answer(child, SELECT, "Quit")
        shown = finish(child)
        assert child.exitstatus == 0
    assert (tmp_path / "mail (2).txt").read_text() == "the file\n"
    assert posthouse(*reading(server, mailbox), "latest").returncode == 1


async def test_the_dialogues_can_be_played(server: Server, mailbox: str, tmp_path: Path) -> None:
    """What the demo does."""
    (tmp_path / "mail.txt").write_text("the file\n")
    with (tmp_path / "screen").open("w+") as screen:
        answers = ["", SENDER, "", PASSWORD, mailbox, "Message 1", "Hello", "mail.txt"]
        assert await run_send(answers, screen, server=server.submission.url, directory=tmp_path) == 0
        words = ["", "Auth", mailbox, PASSWORD, "List", "Read", "1", "Delete", "1", "List", "Quit"]
        assert await run_read(words, screen, server=server.pop3.url) == 0
        screen.seek(0)
        shown = screen.read()
    assert "Input message: Hello\nInput file name: mail.txt\n220 " in shown
    assert "Select message index: 1\n+OK " in shown and "Subject: Message 1\n\nHello\n" in shown
    assert "[attachment 1: mail.txt, text/plain, " in shown
    assert shown.endswith(f"{SELECT}List\n+OK 0 messages (0 octets)\n{SELECT}Quit\n+OK POP3 server saying goodbye...\n")
    assert PASSWORD not in shown
