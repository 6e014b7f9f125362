"""The reader's shell on a real terminal, word for word; every defect of the program it grew from turned round."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.scripted import READ, ScriptedServer, Talk, pop3, terminal
from tests.system.server import PASSWORD, Server
from tests.system.test_send_dialogue import answer, finish

SELECT = "Select the command (Auth, List, Read, Delete, Quit): "
LETTER = b"From: test@x.mail\r\nSubject: Message 1\r\n\r\nHello\r\n.a dot\r\n"


def login(child: Any, server: str) -> None:
    answer(child, "Input server domain: ", server)
    child.expect_exact("+OK POP3\r\n")
    answer(child, SELECT, "Auth")
    answer(child, "Input address: ", "test2@x.mail")
    child.expect_exact("+OK Send your password\r\n")
    answer(child, "Input password: ", "se cret")
    child.expect_exact("\r\n+OK Mailbox locked and ready\r\n")


def reply(child: Any, command: str) -> str:
    """What the shell shows after one line."""
    answer(child, SELECT, command)
    child.expect_exact(command + "\r\n")
    child.expect_exact(SELECT)
    shown = str(child.before).replace("\r\n", "\n")
    child.sendline("")  # an empty line asks again
    return shown


def played(script: Callable[[Talk], None], tmp_path: Path, *commands: str) -> list[str]:
    """What the shell shows for each command after the login."""
    with ScriptedServer(script) as server, terminal([*READ, "--timeout", "3"], tmp_path) as child:
        login(child, server.address)
        shown = [reply(child, command) for command in commands]
        answer(child, SELECT, "Quit")
        finish(child)
        assert child.exitstatus == 0
    return shown


def test_the_dialogue_of_the_lab(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER])) as server, terminal(READ, tmp_path) as child:
        login(child, server.address)
        answer(child, SELECT, "List")
        child.expect_exact(f"List\r\n+OK 1 messages ({len(LETTER)} octets)\r\n1 {len(LETTER)}\r\n")
        answer(child, SELECT, "Read")
        answer(child, "Select message index: ", "1")
        child.expect_exact(f"1\r\n+OK {len(LETTER)} octets\r\nFrom: test@x.mail\r\nSubject: Message 1\r\n\r\n")
        child.expect_exact("Hello\r\n.a dot\r\n")
        answer(child, SELECT, "Delete")
        answer(child, "Select message index: ", "1")
        child.expect_exact("1\r\n+OK msg deleted\r\n")
        answer(child, SELECT, "Quit")
        assert finish(child) == "Quit\n+OK POP3 server saying goodbye...\n"
        assert child.exitstatus == 0
    assert server.heard[1:] == [b"USER test2@x.mail", b"PASS se cret", b"LIST", b"RETR 1", b"DELE 1", b"QUIT"]


def test_words_in_any_case_and_shortened(tmp_path: Path) -> None:
    shown = played(pop3([LETTER]), tmp_path, "l", "LIST", "read 1", "De 1", "s 1", "xyzzy", "u")
    assert shown[0] == shown[1] == f"+OK 1 messages ({len(LETTER)} octets)\n1 {len(LETTER)}\n"
    assert "Hello\n" in shown[2]
    assert shown[3] == "+OK msg deleted\n"
    assert shown[4].startswith("Input error\nThe words are: Auth, List, Read, Delete, Quit, Stat")  # Stat or Save?
    assert shown[5].startswith("Input error\n")
    assert shown[6].startswith("+OK\n1 id-")


def test_a_refusal_is_shown_at_once_with_the_servers_words(tmp_path: Path) -> None:
    shown = played(pop3(list=b"-ERR the list is closed\r\n"), tmp_path, "List", "Read 7", "Stat")
    assert shown == ["-ERR the list is closed\n", "-ERR No such message\n", "-ERR No such message\n"]


def test_no_password_after_a_refused_user(tmp_path: Path) -> None:
    script = pop3(user=b"-ERR no such user\r\n")
    with ScriptedServer(script) as server, terminal(READ, tmp_path) as child:
        answer(child, "Input server domain: ", server.address)
        answer(child, SELECT, "auth")
        answer(child, "Input address: ", "test2@x.mail")
        child.expect_exact("-ERR no such user\r\n")
        answer(child, SELECT, "quit")
        finish(child)
    assert server.heard == [b"CAPA", b"USER test2@x.mail", b"QUIT"]


def test_the_strongest_login_keeps_the_dialogue(server: Server, mailbox: str, tmp_path: Path) -> None:
    """Would catch a password that leaves the machine where SCRAM is offered, and words that SCRAM changes."""
    with terminal([*READ, "-v"], tmp_path) as child:
        answer(child, "Input server domain: ", server.pop3.url)
        answer(child, SELECT, "Auth")
        answer(child, "Input address: ", mailbox)
        child.expect(r"\+OK [^\r]*\r\n")
        answer(child, "Input password: ", PASSWORD)
        answer(child, SELECT, "List")
        child.expect_exact("+OK 0 messages")
        answer(child, SELECT, "Quit")
        shown = str(child.before) + finish(child)
        assert child.exitstatus == 0
    assert "PASS" not in shown and PASSWORD not in shown


def test_a_strict_server_is_asked_without_user_the_next_time(tmp_path: Path) -> None:
    script = pop3([LETTER], capa=b"+OK\r\nSASL SCRAM-SHA-256\r\n.\r\n", auth=b"-ERR say PASS\r\n")
    with ScriptedServer(script) as server, terminal(READ, tmp_path) as child:
        answer(child, "Input server domain: ", server.address)
        for user in (True, False):
            answer(child, SELECT, "Auth")
            answer(child, "Input address: ", "test2@x.mail")
            if user:
                child.expect_exact("+OK Send your password\r\n")
            answer(child, "Input password: ", "secret")
            child.expect_exact("-ERR say PASS\r\n")
        answer(child, SELECT, "Quit")
        finish(child)
    verbs = [line.split()[0] for line in server.heard]
    assert verbs == [b"CAPA", b"USER", b"AUTH", b"CAPA", b"AUTH", b"QUIT"]
    assert not any(b"secret" in line for line in server.heard)


def test_the_end_of_input_commits_nothing(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER])) as server, terminal(READ, tmp_path) as child:
        login(child, server.address)
        assert reply(child, "Delete 1") == "+OK msg deleted\n"
        child.expect_exact(SELECT)
        child.sendeof()
        assert "The input ended without Quit: nothing was deleted." in finish(child)
        assert child.exitstatus == 0
    assert b"QUIT" not in server.heard


def test_a_refused_quit_is_noticed(tmp_path: Path) -> None:
    script = pop3([LETTER], quit=b"-ERR [SYS/TEMP] the deletions could not be carried out\r\n")
    with ScriptedServer(script) as server, terminal(READ, tmp_path) as child:
        login(child, server.address)
        reply(child, "Delete 1")
        answer(child, SELECT, "Quit")
        shown = finish(child)
        assert "-ERR [SYS/TEMP] the deletions could not be carried out\n" in shown
        assert "The deletions may not have been carried out" in shown
        assert child.exitstatus == 75


def test_nothing_in_a_message_drives_the_terminal(tmp_path: Path) -> None:
    evil = b"Subject: =?utf-8?B?G1swbQ==?= \x1b[2J\xe2\x80\xae\r\n\r\n"
    evil += b"\x1b]0;title\x07 \x9b31m nul\0 \xe2\x80\xaetxt\r\n\x08\x08"
    shown = played(pop3([evil + b"\r\n"], stat=b"+OK \x1b[31m \xe2\x80\xae\r\n"), tmp_path, "Read 1", "Stat")
    assert "^[[0m" in shown[0] and "^[]0;title^G" in shown[0] and "<U+202E>txt" in shown[0] and "nul^@" in shown[0]
    assert shown[1] == "+OK ^[[31m <U+202E>\n"
    assert not any(c in "".join(shown) for c in "\x1b\x07\x00\x08\u202e\x9b")


def test_a_slow_answer_shifts_nothing_and_lists_may_be_long(tmp_path: Path) -> None:
    rows = b"".join(b"%d 287\r\n" % number for number in range(1, 20_001))

    def script(talk: Talk) -> None:
        talk.say_slowly(b"+OK POP3\r\n")
        for reply in (b"-ERR CAPA?\r\n", b"+OK Send your password\r\n", b"+OK Mailbox locked and ready\r\n"):
            talk.line()
            talk.say(reply)
        talk.line()
        talk.say(b"+OK 20000 messages\r\n" + rows[:100_001])
        time.sleep(0.3)
        talk.say(rows[100_001:] + b".\r\n")
        talk.line()
        talk.say_slowly(b"+OK msg deleted\r\n")
        talk.line()
        talk.say(b"+OK POP3 server saying goodbye...\r\n")

    shown = played(script, tmp_path, "List", "Delete 2")
    assert shown[0] == "+OK 20000 messages\n" + rows.replace(b"\r", b"").decode()
    assert shown[1] == "+OK msg deleted\n"


def test_a_list_of_a_hundred_thousand_lines(tmp_path: Path) -> None:
    rows = b"".join(b"%d 287\r\n" % number for number in range(1, 100_001))
    script = pop3([LETTER], list=b"+OK 100000 messages\r\n" + rows + b".\r\n")
    shown = played(script, tmp_path, "List", "Delete 1")
    assert shown[0] == "+OK 100000 messages\n" + rows.replace(b"\r", b"").decode()
    assert shown[1] == "+OK msg deleted\n"


def test_the_server_leaves_while_a_person_thinks(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        talk.say(b"+OK POP3\r\n-ERR idle too long\r\n")

    with ScriptedServer(script) as server, terminal(READ, tmp_path) as child:
        answer(child, "Input server domain: ", server.address)
        answer(child, SELECT, "Stat")
        shown = finish(child)
        assert "-ERR idle too long\n" in shown
        assert "The server ended the session by itself." in shown
        assert child.exitstatus == 75


def test_attachments_are_saved_under_safe_names(tmp_path: Path) -> None:
    letter = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n"
        b'--b\r\nContent-Type: application/x\r\nContent-Disposition: attachment; filename="../../etc/passwd"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n"
        b"--b\r\nContent-Type: application/x; name=passwd\r\n\r\nother\r\n--b--\r\n"
    )
    (tmp_path / "passwd").write_text("mine")
    shown = played(pop3([letter]), tmp_path, "Save 1", "Read 1")
    assert shown[0].endswith("Saved passwd (2)\nSaved passwd (2) (2)\n")
    assert (tmp_path / "passwd").read_text() == "mine"
    assert (tmp_path / "passwd (2)").read_bytes() == b"\0\1\2"
    assert "text\n" in shown[1] and "[attachment 1: passwd, application/x, " in shown[1]


def test_the_path_of_a_message_with_and_without_top(tmp_path: Path) -> None:
    letter = (
        b"Received: from pc\x1b[2J ([192.0.2.7]) by mx.example.org; Mon, 2 Mar 2026 06:15:05 +0000\r\n\r\nHello\r\n"
    )
    for refused in ({}, {"top": b"-ERR what is that\r\n"}):
        (shown,) = played(pop3([letter], **refused), tmp_path, "Trace 1")
        assert "0 s, 1 hop\n" in shown and "pc^[[2J [192.0.2.7]" in shown and "mx.example.org" in shown


def test_raw_commands(tmp_path: Path) -> None:
    shown = played(pop3([LETTER]), tmp_path, "Raw LIST", "Raw DELE 1", "Raw QUIT", "Raw AUTH PLAIN")
    assert shown[0] == f"+OK 1 messages ({len(LETTER)} octets)\n1 {len(LETTER)}\n"
    assert shown[1] == "+OK msg deleted\n" and shown[2] == "Say Quit\n" and "cannot be sent" in shown[3]
