"""The further flags of `send` on the wire: tables, notices, letters of a mailbox that are answered."""

from __future__ import annotations

import email
import email.policy
import json
import subprocess
import threading
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.system.raw import collect
from tests.system.relays import postfix
from tests.system.scripted import SEND, ScriptedServer, Talk, environment, run, smtp, terminal
from tests.system.server import PASSWORD, SENDER, Server, wait_for
from tests.system.test_client_commands import peak_memory

SIMPLE = ["a@x.mail", "-f", "me@x.mail", "-m", "x"]
LETTER = ["-f", "me@x.mail", "-m", "Dear {{name}}"]


def table(folder: Path, *names: str) -> str:
    path = folder / "rows.csv"
    path.write_text("name,email\n" + "".join(f"{name},{name}@x.mail\n" for name in names))
    return str(path)


def merge(script: Callable[[Talk], None], folder: Path, *names: str, more: tuple[str, ...] = ()) -> Any:
    """Exit code, answer, and the server after `send --merge --json`."""
    with ScriptedServer(script) as server:
        url = f"smtp://{server.address}"
        command = [*SEND, *LETTER, "--merge", table(folder, *names), "--url", url, "--json", "--timeout", "2", *more]
        done = run(command, home=folder)
    answer = json.loads(done.stdout)
    assert answer["code"] == done.returncode, done.stderr
    return done.returncode, answer, server


def outbox(folder: Path) -> list[str]:
    path = folder / "posthouse" / "outbox"
    states = [json.loads((place / "state.json").read_text()) for place in path.glob("[0-9a-z]*")]
    return sorted(recipient["address"] for state in states for recipient in state["recipients"])


def test_many_letters_leave_in_one_session(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(1, 131)]
    code, answer, server = merge(smtp(), tmp_path, *names)
    assert (code, answer["sent"], answer["kept"]) == (0, 130, 0)
    assert len(server.talks) == 2, "one session for a hundred letters"
    letters = [octets for octets in server.heard if b"Dear " in octets]
    assert [octets.split(b"Dear ")[1].split()[0].decode() for octets in letters] == names
    assert len({row["message_id"] for row in answer["letters"]}) == 130
    assert outbox(tmp_path) == []


def test_a_bad_row_stops_no_other(tmp_path: Path) -> None:
    code, answer, _ = merge(smtp(), tmp_path, "a", "bad", "c")
    assert (code, answer["sent"], answer["kept"]) == (1, 2, 0)
    assert [row["recipients"][0]["status"] for row in answer["letters"]] == ["sent", "failed", "sent"]
    code, answer, _ = merge(smtp(rcpt_bad=b"450 4.2.1 later\r\n"), tmp_path, "a", "bad", "c")
    assert (code, answer["sent"], answer["kept"]) == (0, 2, 1)
    assert outbox(tmp_path) == ["bad@x.mail"]


def test_what_a_server_cannot_take_now_waits_row_by_row(tmp_path: Path) -> None:
    code, answer, _ = merge(smtp(greeting=b"421 later\r\n"), tmp_path, "a", "b")
    assert (code, answer["kept"]) == (0, 2) and outbox(tmp_path) == ["a@x.mail", "b@x.mail"]
    code, answer, _ = merge(smtp(greeting=b"421 later\r\n"), tmp_path, "a", "b", more=("--wait",))
    assert (code, answer["kept"]) == (75, 0) and len(outbox(tmp_path)) == 2


def test_a_session_that_breaks_is_followed_by_another(tmp_path: Path) -> None:
    """The second letter's session is lost before its end: it waits, the third goes over a new session."""
    count = [0]

    def script(talk: Talk) -> None:
        talk.say(b"220 x\r\n")
        while line := talk.line():
            if line == b"DATA":
                count[0] += 1
                if count[0] == 2:
                    return
                talk.say(b"354 go\r\n")
                talk.message()
            talk.say(b"250 OK\r\n")

    code, answer, server = merge(script, tmp_path, "a", "b", "c")
    assert (code, answer["sent"], answer["kept"], len(server.talks)) == (0, 2, 1, 2)
    assert outbox(tmp_path) == ["b@x.mail"]


def test_a_table_into_the_outbox(tmp_path: Path) -> None:
    code, answer, server = merge(smtp(), tmp_path, "a", "b", more=("--queue", "--hold", "1h"))
    assert (code, answer["kept"], server.talks) == (0, 2, []) and outbox(tmp_path) == ["a@x.mail", "b@x.mail"]


def test_the_how_to_does_what_it_says(tmp_path: Path) -> None:
    """The files and the command of docs/howto/write-to-many-people.md."""
    text = (Path(__file__).parents[2] / "docs" / "howto" / "write-to-many-people.md").read_text("utf-8")
    screen = text.split("```\n")[1]
    people, letter, command = (part.partition("\n") for part in screen.split("$ ")[1:])
    assert (people[0], letter[0]) == ("cat people.csv", "cat letter.md")
    (tmp_path / "people.csv").write_text(people[2])
    (tmp_path / "letter.md").write_text(letter[2])
    (tmp_path / "bills").mkdir()
    for number in (1041, 1042):
        (tmp_path / "bills" / f"{number}.pdf").write_text("bill")
    lines = "\n".join(command).splitlines()
    *arguments, said = [*lines[:-1], lines[-1]]
    shell = " ".join(line.removesuffix("\\") for line in arguments if line.strip())
    with ScriptedServer(smtp()) as server:
        shell = shell.replace("posthouse send", " ".join(SEND)).replace("smtps://office@mail.example.net", "URL")
        shell = shell.replace("URL", f"smtp://{server.address}")
        done = subprocess.run(shell, shell=True, cwd=tmp_path, env=environment(home=tmp_path), capture_output=True)
    assert done.stdout.decode() == f"{said}\n" == "Sent 2 of 2 letters\n", done.stderr
    assert any(b"Subject: Bill 1042" in octets and b"bills/1042" in octets for octets in server.heard)


# Notices (RFC 3461)


DSN = b"250-x.mail\r\n250-DSN\r\n250 PIPELINING\r\n"


def test_notices_are_asked_for(tmp_path: Path) -> None:
    with ScriptedServer(smtp(ehlo=DSN)) as server:
        url = f"smtp://{server.address}"
        command = [*SEND, *LETTER, "a@x.mail", "--dsn", "failure,delay", "--ret", "hdrs", "--url", url, "--json"]
        done = run(command, home=tmp_path)
    assert done.returncode == 0 and done.stderr == b""
    envid = json.loads(done.stdout)["message_id"].strip("<>")
    assert f"MAIL FROM:<me@x.mail> RET=HDRS ENVID={envid}".encode() in server.heard
    assert b"RCPT TO:<a@x.mail> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a@x.mail" in server.heard


def test_a_recipient_beyond_ascii_is_named_so(tmp_path: Path) -> None:
    """RFC 6533 §3: a type of its own, in UTF-8, and no xtext in it. It waits in the outbox as well."""
    offer = b"250-x.mail\r\n250-DSN\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
    with ScriptedServer(smtp(ehlo=offer)) as server:
        command = [*SEND, *LETTER, "анна+x@пример.рф", "--dsn", "failure", "--url", f"smtp://{server.address}"]
        assert run(command, home=tmp_path).returncode == 0
        assert run([*command, "--queue"], home=tmp_path).returncode == 0
        assert run([*SEND[:-1], "posthouse.cli.outbox", "run"], home=tmp_path).returncode == 0
    line = "RCPT TO:<анна+x@пример.рф> NOTIFY=FAILURE ORCPT=utf-8;анна\\x{2B}x@пример.рф".encode()
    assert server.heard.count(line) == 2


def test_notices_wait_with_the_letter(tmp_path: Path) -> None:
    with ScriptedServer(smtp(ehlo=DSN)) as server:
        command = [*SEND, *LETTER, "a@x.mail", "--dsn", "never", "--url", f"smtp://{server.address}", "--queue"]
        assert run(command, home=tmp_path).returncode == 0
        assert run([*SEND[:-1], "posthouse.cli.outbox", "run"], home=tmp_path).returncode == 0
    assert b"RCPT TO:<a@x.mail> NOTIFY=NEVER ORCPT=rfc822;a@x.mail" in server.heard


def test_a_server_that_knows_no_notices(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server:
        done = run([*SEND, *LETTER, "a@x.mail", "--dsn", "success", "--url", f"smtp://{server.address}"], home=tmp_path)
    assert done.returncode == 0 and b"notices (DSN), so they were not asked for" in done.stderr
    assert b"RCPT TO:<a@x.mail>" in server.heard


def test_postfix_sends_the_notices_that_were_asked_for(server: Server, new_mailbox: Any, tmp_path: Path) -> None:
    """A report of success (RFC 3464) comes back to the sender, with the envelope id that `send` gave."""
    mine, theirs = new_mailbox(), new_mailbox()
    with postfix(server.lmtp, "mx1.example.org") as relay:
        command = [*SEND, theirs, "-f", mine, "-m", "text", "--dsn", "success", "--ret", "hdrs"]
        done = run([*command, "--url", f"smtp://{relay.url}", "--json"], home=tmp_path)
        assert done.returncode == 0 and done.stderr == b""
        notices: list[bytes] = []

        def came() -> bool:
            notices.extend(collect(server.pop3, mine))
            return bool(notices)

        wait_for(came, lambda: "no notice", 40)
    report = read(notices[0])
    assert report.get_content_type() == "multipart/report" and report.get_param("report-type") == "delivery-status"
    status = next(part for part in report.walk() if part.get_content_type() == "message/delivery-status")
    fields = "\n".join(str(block) for block in status.get_payload())
    assert f"Original-Envelope-Id: {json.loads(done.stdout)['message_id'].strip('<>')}" in fields
    assert f"Original-Recipient: rfc822;{theirs}" in fields and "Status: 2." in fields
    assert len(collect(server.pop3, theirs)) == 1


# What a person sees


def test_a_bar_shows_how_far_a_large_file_is(tmp_path: Path) -> None:
    """The server reads slowly until the bar was seen; then it hurries."""
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(100_000_000)
    seen = threading.Event()

    def script(talk: Talk) -> None:
        talk.say(b"220 x\r\n")
        for answer in (b"250-x\r\n250 SIZE\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            talk.line()
            talk.say(answer)
        while not seen.wait(0.01):
            talk.read_some()
        talk.swallow()
        talk.say(b"250 OK\r\n")
        talk.line()

    with ScriptedServer(script) as server:
        command = [*SEND, *SIMPLE, "-a", str(tmp_path / "large.bin"), "--url", f"smtp://{server.address}"]
        with terminal(command, tmp_path) as child:
            child.expect(r"Sending +\d+ % \[#*\.*\] [0-9.]+ MB, [0-9.]+ MB/s")
            seen.set()
            child.expect("Sent to 1 of 1 recipients")
            child.wait()
            assert child.exitstatus == 0


# Letters of a mailbox


def read(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.default)


def test_a_letter_of_the_mailbox_is_answered_and_passed_on(server: Server, new_mailbox: Any, tmp_path: Path) -> None:
    mine, theirs = new_mailbox(), new_mailbox()
    env = environment(password=PASSWORD, home=tmp_path)

    def send(*arguments: str, given: str = "") -> None:
        url = f"smtp://{SENDER.replace('@', '%40')}@{server.submission.url}"
        done = subprocess.run([*SEND, "--url", url, *arguments], input=given.encode(), env=env, capture_output=True)
        assert done.returncode == 0, done.stderr

    whole = f"From: Анна <{theirs}>\nTo: {mine}\nSubject: Вопрос\nMessage-ID: <1@x.mail>\n\nСколько?\n"
    run_by_hand = [*SEND, "-t", "--url", f"smtp://{server.smtp.url}"]
    assert subprocess.run(run_by_hand, input=whole.encode(), env=env, capture_output=True).returncode == 0
    box = f"pop3://{mine.replace('@', '%40')}@{server.pop3.url}"
    send("--reply", "1", "--quote", "--mailbox", box, "-f", SENDER, "-m", "Семь.")
    [octets] = collect(server.pop3, theirs)
    reply = read(octets)
    assert (reply["subject"], reply["in-reply-to"], reply["references"]) == ("Re: Вопрос", "<1@x.mail>", "<1@x.mail>")
    assert "> Сколько?" in reply.get_content() and reply.get_content().startswith("Семь.")
    send(theirs, "--forward", "1", "--mailbox", box, "-f", SENDER, "-m", "Вот")
    [octets] = collect(server.pop3, theirs)
    assert "\nСколько?".encode() in octets and b"Content-Type: message/rfc822" in octets
    done = run(
        [*SEND, "a@x.mail", "--reply", "9", "--mailbox", box, "-f", SENDER, "-m", "x", "--dry-run"], password=PASSWORD
    )
    assert done.returncode == 69 and b"Nothing was sent" in done.stderr


def swallowing(counted: list[int]) -> Callable[[Talk], None]:
    """A server that takes a letter of any size and counts its octets."""

    def script(talk: Talk) -> None:
        talk.say(b"220 x\r\n")
        for answer in (b"250-x\r\n250 SIZE\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            talk.line()
            talk.say(answer)
        counted.append(talk.swallow())
        talk.say(b"250 OK\r\n")
        talk.line()

    return script


def test_a_large_letter_is_passed_on_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.eml"
    with path.open("wb") as file:
        file.write(b"Subject: large\r\n\r\n")
        for _ in range(1_000):
            file.write((b"x" * 98 + b"\r\n") * 1000)
    counted: list[int] = []
    with ScriptedServer(swallowing(counted)) as server:
        peak, code = peak_memory([*SEND, *SIMPLE, "--forward", str(path), "--url", f"smtp://{server.address}"])
    assert code == 0 and counted[0] > 100_000_000
    assert peak < 60_000_000


def test_a_large_file_is_kept_and_sent_later_in_constant_memory(tmp_path: Path) -> None:
    home = ["env", f"XDG_STATE_HOME={tmp_path}"]
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(100_000_000)
    peak, code = peak_memory([*home, *SEND, *SIMPLE, "-a", str(tmp_path / "large.bin"), "--url", "smtp://127.0.0.1:1"])
    assert code == 0 and peak < 60_000_000 and outbox(tmp_path) == ["a@x.mail"]
    [state] = (tmp_path / "posthouse" / "outbox").glob("*/state.json")
    counted: list[int] = []
    with ScriptedServer(swallowing(counted)) as server:
        value = json.loads(state.read_text())
        value["route"]["url"], value["due"] = f"smtp://{server.address}", 0
        state.write_text(json.dumps(value))
        peak, code = peak_memory([*home, *SEND[:-1], "posthouse.cli.outbox", "run"])
    assert code == 0 and peak < 60_000_000 and counted[0] > 136_000_000
