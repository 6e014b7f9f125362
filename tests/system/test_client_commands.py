"""`posthouse send` and `posthouse read` as single commands: exit codes, JSON, hostile servers, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from posthouse.cli.read import read as read_command
from posthouse.cli.send import send as send_command
from tests.system.scripted import READ, SEND, ScriptedServer, Talk, environment, pop3, run, smtp

TO = ["test2@x.mail", "-f", "test@x.mail", "-s", "Subject", "-m", "text"]


Script = Callable[[Talk], None]
Done = tuple[int, dict[str, Any], list[bytes]]


def send(script: Script, *arguments: str, given: bytes = b"") -> Done:
    """Exit code, JSON answer, and what the server heard."""
    with ScriptedServer(script) as server:
        done = run(
            [*SEND, "--url", f"smtp://{server.address}", "--timeout", "2", "--wait", "--json", *arguments], given=given
        )
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout), server.heard


def silent(talk: Talk) -> None:
    talk.rest()


def close_at(stage: int) -> Callable[[Talk], None]:
    """Closes the connection instead of its answer number `stage`."""

    def script(talk: Talk) -> None:
        answers = [b"220 x\r\n", b"250 x\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n", b"250 OK\r\n"]
        for number, answer in enumerate(answers):
            if number == stage:
                return
            talk.say(answer)
            talk.message() if answer.startswith(b"354") else talk.line()

    return script


@pytest.mark.parametrize(
    ("script", "code", "stage"),
    [
        (smtp(), 0, "end of data"),
        (smtp(greeting=b"554 no\r\n"), 69, "greeting"),
        (smtp(greeting=b"421 later\r\n"), 75, "greeting"),
        (smtp(greeting=b"+OK POP3\r\n"), 76, "greeting"),
        (smtp(greeting=b"\0\0\0\0\r\n"), 76, "greeting"),
        (smtp(greeting=b"220-" + b"x" * 100 + b"\r\n" * 40_000), 76, "greeting"),
        (smtp(greeting=b"220 a\r\n250 unasked\r\n"), 76, "ehlo"),
        (smtp(ehlo=b"554 no\r\n"), 69, "ehlo"),
        (smtp(mail=b"550 5.7.1 not you\r\n"), 69, "mail"),
        (smtp(mail=b"451 later\r\n"), 75, "mail"),
        (smtp(mail=b"530 5.7.0 log in first\r\n"), 77, "mail"),
        (smtp(rcpt=b"550 5.1.1 nobody\r\n"), 67, "rcpt"),
        (smtp(rcpt=b"554 5.7.1 no relaying\r\n"), 69, "rcpt"),
        (smtp(rcpt=b"450 4.2.1 later\r\n"), 75, "rcpt"),
        (smtp(rcpt=b"421 closing\r\n"), 75, "rcpt"),
        (smtp(data=b"451 later\r\n"), 75, "data"),
        (smtp(data=b"554 no\r\n"), 69, "data"),
        (smtp(data=b"250 what?\r\n"), 76, "data"),
        (smtp(end=b"554 5.6.0 no\r\n"), 69, "end of data"),
        (smtp(end=b"452 full\r\n"), 75, "end of data"),
        (smtp(end=b"421 closing\r\n"), 75, "end of data"),
        (smtp(quit=b"500 what?\r\n"), 0, "end of data"),
        (silent, 75, "greeting"),
        *((close_at(stage), 75, name) for stage, name in enumerate(("greeting", "ehlo", "mail", "rcpt", "data"))),
    ],
)
def test_every_refusal_has_its_code_and_its_stage(script: Callable[[Talk], None], code: int, stage: str) -> None:
    done, answer, _ = send(script, *TO)
    assert (done, answer["code"], answer["stage"], answer["ok"]) == (code, code, stage, code == 0)
    assert answer["recipients"][0]["to"] == "test2@x.mail"
    assert (answer["recipients"][0]["status"] == "sent") == (code == 0)


def test_a_line_lost_after_the_final_dot_is_uncertain() -> None:
    code, answer, _ = send(close_at(5), *TO)
    assert (code, answer["stage"], answer["recipients"][0]["status"]) == (75, "end of data", "uncertain")
    assert "Nobody knows" in answer["error"]


def test_one_refused_recipient_never_stops_the_others() -> None:
    for ehlo in (b"250 x\r\n", b"250-x\r\n250 PIPELINING\r\n"):
        code, answer, heard = send(smtp(ehlo=ehlo), "bad@x.mail", "-c", "c@x.mail", "-b", "dora@x.mail", *TO)
        assert code == 1
        assert [row["status"] for row in answer["recipients"]] == ["failed", "sent", "sent", "sent"]
        message = next(line for line in heard if b"\r\n" in line)
        assert b"Cc: c@x.mail\r\n" in message and b"dora" not in message


def test_pipelined_commands_leave_together_and_an_unwanted_354_is_answered() -> None:
    heard: list[bytes] = []

    def script(talk: Talk) -> None:
        talk.say(b"220 x\r\n")
        talk.line()
        talk.say(b"250-x\r\n250 PIPELINING\r\n")
        heard.extend(talk.line() for _ in range(3))  # no answer before all three are here
        talk.say(b"250 OK\r\n550 5.1.1 nobody\r\n354 go\r\n")
        heard.append(talk.message())
        talk.say(b"554 no valid recipients\r\n")
        heard.append(talk.line())
        talk.say(b"221 bye\r\n")

    code, answer, _ = send(script, *TO)
    assert code == 67 and answer["recipients"][0]["reply"] == "550 5.1.1 nobody"
    assert heard == [b"MAIL FROM:<test@x.mail>", b"RCPT TO:<test2@x.mail>", b"DATA", b"", b"QUIT"]


@pytest.mark.parametrize("pipelining", [b"", b"250-PIPELINING\r\n"])
def test_a_thousand_recipients(pipelining: bytes) -> None:
    to = ",".join(f"u{n}@x.mail" for n in range(1000))
    code, answer, heard = send(smtp(ehlo=b"250-x\r\n" + pipelining + b"250 SIZE\r\n"), to, "-f", "a@x.mail", "-m", "x")
    assert code == 0 and len(answer["recipients"]) == 1000
    assert sum(line.startswith(b"RCPT") for line in heard) == 1000


@pytest.mark.parametrize(
    ("stop", "last"),
    [("EHLO", b"EHLO"), ("AUTH", b"AUTH"), ("MAIL", b"MAIL"), ("RCPT", b"RCPT"), ("DATA", b"DATA")],
)
def test_stop_after(stop: str, last: bytes) -> None:
    code, answer, heard = send(smtp(), *TO, "-u", "test", "--stop-after", stop)
    assert code == 0 and answer["ok"]
    verbs = [line.split(b" ")[0] for line in heard]
    assert [verb for verb in verbs if verb not in (b"QUIT", b"")][-1] == last
    assert not any(b"Subject" in line for line in heard)


def test_login_in_the_ways_servers_offer() -> None:
    _, _, heard = send(smtp(), *TO, "-u", "test")
    assert b"AUTH PLAIN AHRlc3QAc2VjcmV0IHdvcmQ=" in heard  # "secret word", from the environment
    code, answer, _ = send(smtp(auth=b"535 5.7.8 wrong\r\n"), *TO, "-u", "test")
    assert (code, answer["stage"], answer["reply"]) == (77, "auth", "535 5.7.8 wrong")
    assert send(smtp(auth=b"454 4.7.0 busy\r\n"), *TO, "-u", "test")[0] == 75
    assert send(smtp(ehlo=b"250 x\r\n"), *TO, "-u", "test")[0] == 77
    with ScriptedServer(smtp()) as server:
        url = f"smtp://user%40x.mail@{server.address}"
        done = run([*SEND, "--url", url, "--password-stdin", "b@x.mail"], given=b"pass word\nthe body\n", password="")
    assert done.returncode == 0
    assert b"AUTH PLAIN AHVzZXJAeC5tYWlsAHBhc3Mgd29yZA==" in server.heard
    assert any(line.endswith(b"\r\n\r\nthe body\r\n") for line in server.heard)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 64),
        (("--nonsense",), 64),
        (("a@x.mail", "-m", "x"), 64),  # no server
        (("a@x.mail", "-m", "x", "--url", "smtp://h"), 64),  # no sender
        (("-m", "x", "-f", "b@x.mail", "--url", "smtp://h"), 64),  # no recipient
        (("not an address", "-m", "x", "-f", "b@x.mail", "--url", "smtp://h"), 65),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "-a", "/absent", "--url", "smtp://h"), 66),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "-a", "/", "--url", "smtp://h"), 66),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "-s", "two\nlines", "--url", "smtp://h"), 65),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "-H", "X: 1\r\nBcc: 2", "--url", "smtp://h"), 65),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtp://user:pass@h"), 64),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtpss://h"), 64),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtps://h", "--pin", "12:34"), 64),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtps://h", "--cacert", "/nowhere"), 66),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtp://h:0"), 64),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtp://h", "--wait", "--queue"), 64),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtp://h", "--hold", "soon"), 64),
        (("a@x.mail", "-m", "x", "-f", "b@x.mail", "--url", "smtp://127.0.0.1:1", "--wait"), 75),
    ],
)
def test_what_cannot_be_sent(arguments: tuple[str, ...], code: int) -> None:
    plain = CliRunner().invoke(send_command, list(arguments))
    assert plain.exit_code == code and plain.stdout == "" and plain.stderr.startswith(("posthouse send: ", "Usage"))
    as_json = CliRunner().invoke(send_command, [*arguments, "--json"])
    answer = json.loads(as_json.stdout)
    assert as_json.exit_code == answer["code"] == code and not answer["ok"]


def test_dry_run_prints_the_exact_octets(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    dry = run([*SEND, *TO, "-b", "hidden@x.mail", "-a", str(tmp_path / "a.bin"), "--dry-run"])
    assert dry.returncode == 0 and b"Content-Transfer-Encoding: base64\r\n" in dry.stdout
    assert dry.stdout.count(b"\r\n") == dry.stdout.count(b"\n") and b"hidden" not in dry.stdout
    assert f"{len(dry.stdout)} octets would go from <test@x.mail>".encode() in dry.stderr and b"hidden" in dry.stderr


def test_recipients_from_the_header() -> None:
    given = "To: a@x.mail,\n Имя <b@x.mail>\nBcc: c@x.mail\nSubject: Привет\n\n.body\nFrom me\n".encode()
    code, answer, heard = send(smtp(), "-t", "-i", "-f", "test@x.mail", given=given)
    assert code == 0 and [row["to"] for row in answer["recipients"]] == ["a@x.mail", "b@x.mail", "c@x.mail"]
    message = next(line for line in heard if b"\r\n" in line)
    assert message.isascii() and b"Bcc" not in message and b"Subject: =?utf-8?B?" in message
    assert b"\r\nMessage-ID: <" in message and b"\r\nDate: " in message and b"\r\nFrom: test@x.mail\r\n" in message
    assert message.endswith(b"\r\n\r\n.body\r\nFrom me\r\n")
    assert send(smtp(), "-t", given=b"Subject: x\n\nno recipients\n")[0] == 65


def test_addresses_beyond_ascii_need_smtputf8() -> None:
    arguments = ("анна@x.mail", "-f", "test@x.mail", "-m", "x", "-s", "Тема")
    code, answer, _ = send(smtp(), *arguments)
    assert code == 69 and "SMTPUTF8" in answer["error"]
    ehlo = b"250-x\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
    code, _, heard = send(smtp(ehlo=ehlo), *arguments)
    assert code == 0 and b"MAIL FROM:<test@x.mail> BODY=8BITMIME SMTPUTF8" in heard
    assert "RCPT TO:<анна@x.mail>".encode() in heard


def test_what_the_server_will_not_take_is_not_sent(tmp_path: Path) -> None:
    code, answer, heard = send(smtp(ehlo=b"250-x\r\n250 SIZE 100\r\n"), *TO)
    assert code == 69 and "takes at most 100" in answer["error"]
    assert not any(line.startswith(b"MAIL") for line in heard)


def test_the_transcript_holds_no_secret() -> None:
    with ScriptedServer(smtp()) as server:
        done = run([*SEND, *TO, "--url", f"smtp://test@{server.address}", "-v"])
    assert done.returncode == 0
    shown = done.stderr.decode()
    assert " -> AUTH PLAIN ********" in shown and "<-  235 authenticated." in shown and "=== connect" in shown
    assert "AHRl" not in shown and "secret" not in shown


def test_a_large_file_passes_in_constant_memory(tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    with file.open("wb") as out:
        out.truncate(100_000_000)
    counted = [0]

    def script(talk: Talk) -> None:
        talk.say(b"220 x\r\n")
        for answer in (b"250-x\r\n250 SIZE\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            talk.line()
            talk.say(answer)
        counted[0] = talk.swallow()
        talk.say(b"250 OK\r\n")
        talk.line()

    with ScriptedServer(script) as server:
        command = [*SEND, *TO, "-a", str(file), "--url", f"smtp://{server.address}"]
        peak, code = peak_memory(command)
    assert code == 0 and counted[0] > 136_000_000
    assert peak < 60_000_000


MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)
"""


def peak_memory(command: list[str]) -> tuple[int, int]:
    """The largest resident memory of a command in octets, and its exit code. A small process starts it: a child begins
    with the size of its parent."""
    shown = subprocess.run([sys.executable, "-c", MEASURE, *command], env=environment("x"), capture_output=True)
    kilobytes, code = map(int, shown.stdout.split())
    return kilobytes * 1024, code


def test_servers_that_know_only_helo() -> None:
    def script(talk: Talk) -> None:
        talk.say(b"220 x.mail\r\n")
        talk.line()
        talk.say(b"502 what?\r\n")
        for answer in (b"250 Hello.\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            talk.line()
            talk.say(answer)
        talk.message()
        talk.say(b"250 OK\r\n")
        talk.line()
        talk.say(b"221 bye\r\n")

    code, _, heard = send(script, *TO)
    assert code == 0
    assert [line.split(b" ")[0] for line in heard if b"\r\n" not in line] == [
        b"EHLO",
        b"HELO",
        b"MAIL",
        b"RCPT",
        b"DATA",
        b"QUIT",
    ]
    assert b"MAIL FROM:<test@x.mail>" in heard  # no parameter where nothing was offered


def test_a_server_that_stops_reading_has_its_words_heard(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50_000_000)

    def script(talk: Talk) -> None:
        for answer in (b"220 x\r\n", b"250 x\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            talk.say(answer)
            talk.line()
        talk.say(b"452 4.3.1 no room\r\n")
        threading.Event().wait(4)

    code, answer, _ = send(script, *TO, "-a", str(tmp_path / "large"))
    assert (code, answer["stage"]) == (75, "content") and answer["reply"] == "452 4.3.1 no room"


# The reader

LETTER = (
    b"From: a@x.mail\r\nSubject: =?koi8-r?B?8NLJ18XU?=\r\nContent-Type: text/plain; charset=koi8-r\r\n\r\n\xf0\xd2\r\n"
)


def read(script: Script, *what: str, home: Path | None = None) -> Done:
    """Exit code, JSON answer, and what the server heard."""
    with ScriptedServer(script) as server:
        command = [*READ, "--url", f"pop3://test@{server.address}", "--timeout", "2", "--json", *what]
        done = run(command, home=home)
    return done.returncode, json.loads(done.stdout), server.heard


def chatter(talk: Talk) -> None:
    talk.say(b"+OK hi\r\n")
    talk.line()
    for _ in range(1000):
        talk.say(b"+OK " + b"babble " * 2000)


@pytest.mark.parametrize(
    ("script", "code", "stage"),
    [
        (pop3([LETTER]), 0, None),
        (pop3([LETTER], greeting=b"-ERR [SYS/TEMP] later\r\n"), 75, "greeting"),
        (pop3([LETTER], greeting=b"-ERR go away\r\n"), 69, "greeting"),
        (pop3([LETTER], greeting=b"220 smtp\r\n"), 76, "greeting"),
        (pop3([LETTER], user=b"-ERR who?\r\n"), 77, "user"),
        (pop3([LETTER], **{"pass": b"-ERR [AUTH] wrong\r\n"}), 77, "pass"),
        (pop3([LETTER], **{"pass": b"-ERR [IN-USE] busy\r\n"}), 75, "pass"),
        (pop3([LETTER], **{"pass": b"-ERR [SYS/TEMP] ill\r\n"}), 75, "pass"),
        (pop3([LETTER], list=b"-ERR no\r\n"), 69, "list"),
        (pop3([LETTER], list=b"+OK\r\none two\r\n.\r\n"), 76, "list"),
        (pop3([LETTER], quit=b"-ERR no\r\n"), 69, "quit"),
        (pop3([LETTER], quit=b""), 75, "quit"),
        (silent, 75, "greeting"),
        (chatter, 76, "capa"),
    ],
)
def test_every_failure_of_reading_has_its_code(script: Callable[[Talk], None], code: int, stage: str | None) -> None:
    done, answer, _ = read(script, "list")
    assert (done, answer["code"], answer.get("stage")) == (code, code, stage)


def test_messages_are_decoded() -> None:
    code, answer, heard = read(pop3([LETTER, LETTER]), "latest")
    assert code == 0 and answer["message"]["n"] == 2
    assert answer["message"]["subject"] == "Привет" and answer["message"]["text"] == "Пр\n"
    assert heard[-1] == b"QUIT"
    assert read(pop3([]), "latest")[0] == 1
    assert read(pop3([LETTER]), "7")[0] == 69
    assert [row["subject"] for row in read(pop3([LETTER]), "list")[1]["messages"]] == ["Привет"]


def test_a_list_asks_for_many_headers_at_once_where_it_may() -> None:
    letters = [b"Subject: %d\r\n\r\n" % number for number in range(120)]
    capa = b"+OK\r\nTOP\r\nPIPELINING\r\n.\r\n"
    for script in (pop3(letters), pop3(letters, capa=capa)):
        code, answer, _ = read(script, "list")
        assert code == 0 and [row["subject"] for row in answer["messages"]] == [str(n) for n in range(120)]

    heard: list[bytes] = []

    def waits(talk: Talk) -> None:
        for reply in (
            b"+OK\r\n",
            b"-ERR\r\n",
            b"+OK\r\n",
            b"+OK\r\n",
            b"+OK\r\n1 5\r\n2 5\r\n.\r\n",
            b"-ERR\r\n",
            capa,
        ):
            talk.say(reply)
            talk.line()
        heard.extend((b"TOP 1 0", talk.line()))  # both are here before either is answered
        talk.say(b"-ERR gone\r\n+OK\r\nSubject: 2\r\n.\r\n")
        talk.line()
        talk.say(b"+OK\r\n")

    code, answer, _ = read(waits, "list")
    assert code == 0 and heard[1] == b"TOP 2 0"
    assert ["subject" in row for row in answer["messages"]] == [False, True]


def test_deleting() -> None:
    code, answer, heard = read(pop3([LETTER]), "delete", "1")
    assert code == 0 and answer["messages"][0]["deleted"] and heard[-2:] == [b"DELE 1", b"QUIT"]
    assert read(pop3([LETTER], dele=b"-ERR gone\r\n"), "delete", "1")[0] == 69
    code, answer, _ = read(pop3([LETTER], quit=b"-ERR [SYS/TEMP] no\r\n"), "delete", "1")
    assert code == 75 and "may not have been carried out" in answer["error"]


def test_what_is_new_is_collected_once(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER, LETTER + b"From the start\r\n"])) as server:
        base = [*READ, "--url", f"pop3://test@{server.address}", "new", "--to"]
        first = run([*base, f"mbox:{tmp_path}/box"], home=tmp_path)
        again = run([*base, f"mbox:{tmp_path}/box"], home=tmp_path)
        folder = run([*base, f"maildir:{tmp_path}/Mail", "--delete", "now"], home=tmp_path)
    assert (first.returncode, again.returncode, folder.returncode) == (0, 1, 0)
    box = (tmp_path / "box").read_bytes()
    assert box.count(b"\nSubject: ") == 2 and b"\n>From the start\n" in box and b"\r" not in box
    letters = sorted((tmp_path / "Mail" / "new").iterdir())
    assert len(letters) == 2
    assert letters[0].read_bytes().replace(b"\n", b"\r\n") in (LETTER, LETTER + b"From the start\r\n")
    assert server.talks[2].heard[-3:] == [b"DELE 1", b"DELE 2", b"QUIT"] or b"DELE 2" in server.talks[2].heard


def test_a_letter_is_deleted_only_when_it_is_safe_here(tmp_path: Path) -> None:
    (tmp_path / "Mail").write_text("a file where the folder should be")
    with ScriptedServer(pop3([LETTER])) as server:
        done = run(
            [
                *READ,
                "--url",
                f"pop3://t@{server.address}",
                "new",
                "--to",
                f"maildir:{tmp_path}/Mail",
                "--delete",
                "now",
            ],
            home=tmp_path,
        )
    assert done.returncode == 73
    assert not any(line.startswith(b"DELE") for line in server.heard)


def test_whole_messages_on_standard_output() -> None:
    evil = b"Subject: \x1b[2J\r\n\r\nas \0 it is\r\n.\r\n"
    with ScriptedServer(pop3([evil])) as server:
        done = run([*READ, "--url", f"pop3://t@{server.address}", "1", "--to", "-"])
    assert done.returncode == 0 and done.stdout == evil


@pytest.mark.parametrize(
    ("what", "code"),
    [(["nonsense"], 64), (["top"], 64), (["1", "2"], 64), (["list", "--to", "-"], 64), (["1", "--to", "x:y"], 64)],
)
def test_wrong_usage_of_read(what: list[str], code: int) -> None:
    arguments = ["--url", "pop3://t@127.0.0.1:1", *what]
    plain = CliRunner().invoke(read_command, arguments, env={"POSTHOUSE_PASSWORD": "x"})
    assert plain.exit_code == code and plain.stdout == ""
    as_json = CliRunner().invoke(read_command, [*arguments, "--json"], env={"POSTHOUSE_PASSWORD": "x"})
    assert json.loads(as_json.stdout)["code"] == code


def test_the_shell_asks_only_a_terminal() -> None:
    done = run(READ, given=b"Auth\n")
    assert done.returncode == 64 and b"needs a terminal" in done.stderr


def test_a_list_of_a_hundred_thousand_messages() -> None:
    rows = b"".join(b"%d 287\r\n" % number for number in range(1, 100_001))
    begun = time.monotonic()
    code, answer, _ = read(pop3(list=b"+OK 100000\r\n" + rows + b".\r\n"), "list")
    assert code == 0 and len(answer["messages"]) == 100_000
    assert time.monotonic() - begun < 20


def test_a_large_message_costs_constant_memory(tmp_path: Path) -> None:
    block = (b"QUJD" * 19 + b"\r\n") * 800

    def script(talk: Talk) -> None:
        for answer in (b"+OK hi\r\n", b"-ERR\r\n", b"+OK\r\n", b"+OK\r\n"):
            talk.say(answer)
            talk.line()
        head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n"
        head += b"Content-Disposition: attachment; filename=large.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        talk.say(b"+OK\r\n" + head)
        for _ in range(100_000_000 // len(block)):
            talk.say(block)
        talk.say(b"--b--\r\n.\r\n")
        talk.line()
        talk.say(b"+OK\r\n")

    with ScriptedServer(script) as server:
        peak, code = peak_memory([*READ, "--url", f"pop3://t@{server.address}", "1"])
    assert code == 0
    assert peak < 60_000_000


def test_a_server_that_closes_in_the_middle_of_a_message_loses_nothing(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        for answer in (
            b"+OK hi\r\n",
            b"-ERR\r\n",
            b"+OK\r\n",
            b"+OK\r\n",
            b"+OK\r\n1 id-1\r\n.\r\n",
            b"+OK\r\n1 100\r\n.\r\n",
        ):
            talk.say(answer)
            talk.line()
        talk.say(b"+OK 100 octets\r\nSubject: half\r\n")

    code, answer, _ = read(script, "new", "--to", f"maildir:{tmp_path}/Mail", home=tmp_path)
    assert code == 75 and answer["stage"] == "retr"
    assert not list((tmp_path / "Mail" / "new").iterdir())
    code, answer, _ = read(pop3([LETTER]), "new", "--to", f"maildir:{tmp_path}/Mail", home=tmp_path)
    assert code == 0 and len(list((tmp_path / "Mail" / "new").iterdir())) == 1


def test_ctrl_c_while_waiting_ends_at_once() -> None:
    import signal

    with ScriptedServer(silent) as server:
        child = subprocess.Popen(
            [*SEND, *TO, "--url", f"smtp://{server.address}"],
            env=environment(),
            stderr=-1,
            # A shell's background job ignores SIGINT, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not server.talks:
            threading.Event().wait(0.02)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=10)
    assert child.returncode == 130
