"""The sender's dialogue on a real terminal, word for word; every defect of the program it grew from turned round."""

from __future__ import annotations

import json
import re
import sys
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

from tests.system.scripted import SEND, ScriptedServer, pexpect, smtp, terminal


def answer(child: Any, prompt: str, text: str) -> None:
    child.expect_exact(prompt)
    child.sendline(text)


def hold(child: Any, server: str, *, file: str = "mail.txt", to: str = "test2@x.mail", text: str = "Hello") -> str:
    """The whole dialogue; returns what stood on the terminal after the last answer, without changing numbers."""
    answer(child, "Input server domain: ", server)
    answer(child, "Input your address: ", "test@x.mail")
    answer(child, "Input your login [test@x.mail]: ", "test")
    answer(child, "Input your password: ", "se cret")
    answer(child, "Input destination address: ", to)
    answer(child, "Input topic: ", "Message 1")
    answer(child, "Input message: ", text + "\n")
    answer(child, "Input file name: ", file)
    child.expect_exact(f"{file}\r\n")
    return finish(child)


def finish(child: Any) -> str:
    child.expect(pexpect.EOF)
    child.wait()
    text = str(child.before).replace("\r\n", "\n")
    return re.sub(r"id <[0-9.a-f]+@x\.mail>; \d+\.\d\d s", "id <...@x.mail>; 0.21 s", text)


def test_the_dialogue_of_the_lab(tmp_path: Path) -> None:
    (tmp_path / "mail.txt").write_bytes(b"RSET\n.\nthe file\n")
    with ScriptedServer(smtp()) as server, terminal(SEND, tmp_path) as child:
        shown = hold(child, server.address)
        assert shown == (
            "220 x.mail ESMTP\n"
            "250-x.mail Hello.\n"
            "250-SIZE 104857600\n"
            "250 AUTH LOGIN PLAIN\n"
            "235 authenticated.\n"
            "250 OK\n"
            "250 OK\n"
            "354 OK, send.\n"
            "250 Queued (0.016 seconds)\n"
            "221 goodbye\n"
            "Sent to 1 of 1 recipients; id <...@x.mail>; 0.21 s\n"
        )
        assert child.exitstatus == 0
    verbs = [line.split(b" ")[0].split(b":")[0] for line in server.heard if b"\r\n" not in line]
    assert verbs == [b"EHLO", b"AUTH", b"MAIL", b"RCPT", b"DATA", b"QUIT"]  # it waits for QUIT, and logs in
    message = message_from_bytes(next(line for line in server.heard if b"\r\n" in line), policy=default)
    assert message["Subject"] == "Message 1" and message["MIME-Version"] == "1.0"
    assert message["Date"] and message["Message-ID"] and message["From"] == "test@x.mail"
    body = message.get_body()
    assert body is not None and body.get_content().strip() == "Hello"
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "mail.txt"
    assert attachment.get_payload(decode=True) == b"RSET\n.\nthe file\n"


def test_the_password_is_never_on_the_screen(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server, terminal(SEND, tmp_path) as child:
        log = tmp_path / "screen"
        with log.open("w") as child.logfile_read:
            hold(child, server.address, file="")
        assert "se cret" not in log.read_text()


def test_login_replies_are_masked(tmp_path: Path) -> None:
    def script(talk: Any) -> None:
        talk.say(b"220 x.mail ESMTP\r\n")
        talk.line()
        talk.say(b"250-x.mail\r\n250 AUTH LOGIN\r\n")
        for reply in (b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n", b"535 no\r\n"):
            talk.line()
            talk.say(reply)
        talk.rest()

    with ScriptedServer(script) as server, terminal(SEND, tmp_path) as child:
        shown = hold(child, server.address, file="")
        assert shown.count("334 ********\n") == 2 and "VXNl" not in shown and "535 no\n" in shown
        assert child.exitstatus == 77


def test_a_greeting_cut_at_every_octet_shifts_nothing(tmp_path: Path) -> None:
    def script(talk: Any) -> None:
        talk.say_slowly(b"220-x.mail ESMTP\r\n220-second part\r\n220 third\r\n")
        smtp(greeting=b"")(talk)

    with ScriptedServer(script) as server, terminal(SEND, tmp_path) as child:
        shown = hold(child, server.address, file="")
        assert shown.startswith("220-x.mail ESMTP\n220-second part\n220 third\n250-x.mail Hello.\n")
        assert shown.endswith("Sent to 1 of 1 recipients; id <...@x.mail>; 0.21 s\n")


def test_after_a_refusal_nothing_of_the_message_leaves(tmp_path: Path) -> None:
    (tmp_path / "mail.txt").write_text("RSET\n")
    with ScriptedServer(smtp(rcpt=b"550 5.1.1 nobody\r\n")) as server, terminal(SEND, tmp_path) as child:
        shown = hold(child, server.address)
        assert "550 5.1.1 nobody\n" in shown
        assert "Sent to 0 of 1 recipients" in shown
        assert child.exitstatus == 67
    assert not any(b"Subject" in line or line.startswith(b"DATA") for line in server.heard)


def test_a_long_message_in_many_lines(tmp_path: Path) -> None:
    lines = "\n".join(f"line {n} " + "x" * 200 for n in range(100))
    with ScriptedServer(smtp()) as server, terminal(SEND, tmp_path) as child:
        hold(child, server.address, file="", text=lines)
        assert child.exitstatus == 0
    message = next(line for line in server.heard if b"\r\n" in line)
    assert message.replace(b"\r\n", b"\n").endswith(lines.encode() + b"\n")
    assert message.count(b"\r\n") == message.count(b"\n")


def test_a_missing_file_is_refused_now(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("x")
    with ScriptedServer(smtp()) as server, terminal(SEND, tmp_path) as child:
        for prompt, text in (
            ("Input server domain: ", server.address),
            ("Input your address: ", "test@x.mail"),
            ("Input your login [test@x.mail]: ", ""),
            ("Input your password: ", ""),
            ("Input destination address: ", "test2@x.mail"),
            ("Input topic: ", "t"),
            ("Input message: ", ""),
            ("Input file name: ", "absent.txt"),
        ):
            answer(child, prompt, text)
        child.expect_exact("absent.txt cannot be read: No such file or directory")
        assert not server.talks
        answer(child, "Input file name: ", "there.txt")
        assert "Sent to 1 of 1 recipients" in finish(child)
    assert not any(line.startswith(b"AUTH") for line in server.heard)  # no password, no login


def test_lists_with_prefixes_and_one_refused_recipient(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server, terminal(SEND, tmp_path) as child:
        shown = hold(child, server.address, file="", to="a@x.mail, bad@x.mail, cc: c@x.mail, bcc: dora@x.mail")
        assert "550 Unknown user\n" in shown
        assert "did not take bad@x.mail" in shown
        assert "Sent to 3 of 4 recipients" in shown
        assert child.exitstatus == 1
    message = next(line for line in server.heard if b"\r\n" in line)
    assert b"Cc: c@x.mail" in message and b"dora" not in message
    assert b"RCPT TO:<dora@x.mail>" in server.heard


def test_a_wrong_address_is_asked_again_and_the_end_of_input_ends_it(tmp_path: Path) -> None:
    with terminal(SEND, tmp_path) as child:
        answer(child, "Input server domain: ", "host:99999")
        child.expect_exact("is no port")
        answer(child, "Input server domain: ", "127.0.0.1:1")
        answer(child, "Input your address: ", "nonsense")
        child.expect_exact("nonsense is not a mail address")
        child.expect_exact("Input your address: ")
        child.sendeof()
        finish(child)
        assert child.exitstatus == 64


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    with terminal(SEND, tmp_path) as child:
        child.expect_exact("Input server domain: ")
        child.sendintr()
        finish(child)
        assert child.exitstatus == 130


def test_ipv6_and_a_silent_server(tmp_path: Path) -> None:
    with (
        ScriptedServer(lambda talk: void(talk.rest()), "::1") as server,
        terminal([*SEND, "--timeout", "1", "--server", server.address], tmp_path) as child,
    ):
        answer(child, f"Input server domain [{server.address}]: ", "")
        answer(child, "Input your address: ", "test@x.mail")
        answer(child, "Input your login [test@x.mail]: ", "")
        answer(child, "Input your password: ", "")
        answer(child, "Input destination address: ", "test2@x.mail")
        answer(child, "Input topic: ", "t")
        answer(child, "Input message: ", "")
        answer(child, "Input file name: ", "")
        shown = finish(child)
        assert "The server did not answer within 1 s. The letter waits in the outbox as " in shown
        assert "\nSent to 0 of 1 recipients; id <" in shown
        assert child.exitstatus == 0
    [state] = (tmp_path / "posthouse" / "outbox").glob("*/state.json")
    route = json.loads(state.read_text())["route"]
    assert (route["url"], route["user"]) == (f"smtp://{server.address}", "")


def test_without_a_queue_a_silent_server_is_an_error(tmp_path: Path) -> None:
    with (
        ScriptedServer(lambda talk: void(talk.rest())) as server,
        terminal([*SEND, "--timeout", "1", "--wait", "--server", server.address], tmp_path) as child,
    ):
        for question in ("Input server domain", "Input your address", "Input your login", "Input your password"):
            child.expect_exact(question)
            child.sendline("test@x.mail" if question == "Input your address" else "")
        for question in ("Input destination address", "Input topic", "Input message", "Input file name"):
            child.expect_exact(question)
            child.sendline("test2@x.mail" if question == "Input destination address" else "")
        shown = finish(child)
        assert "The server did not answer within 1 s. Nothing was sent. Repeat it later." in shown
        assert child.exitstatus == 75
    assert not (tmp_path / "posthouse").exists()


def void(_: object) -> None:
    """Nothing."""


def test_help_starts_fast() -> None:
    """`posthouse send --help` must not load what only sending needs."""
    import subprocess

    code = "import sys, posthouse.cli.send, posthouse.cli.read; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "email", "ssl", "socket", "prompt_toolkit", "idna"} & set(loaded)
