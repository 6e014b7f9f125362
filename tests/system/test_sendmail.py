"""The roles: programs nobody here wrote send their mail through us as their sendmail; and what they rely on."""

from __future__ import annotations

import email
import email.policy
import json
import os
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.system.programs import find_program, leave_out, run_program
from tests.system.raw import collect
from tests.system.scripted import ScriptedServer, run, smtp
from tests.system.server import Server, find_command, wait_for

SENDMAIL = [sys.executable, "-m", "posthouse.cli.main", "--as", "sendmail"]
MAIL = [sys.executable, "-m", "posthouse.cli.main", "--as", "mail"]


def read(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.default)


def body_of(message: EmailMessage) -> str:
    body = message.get_body()
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


@pytest.fixture
def program(server: Server, tmp_path: Path) -> Path:
    """A sendmail as an administrator would set it up: a script with the server's name."""
    path = tmp_path / "sendmail"
    path.write_text(f'#!/bin/sh\nexec {find_command()} --as sendmail --url smtp://{server.smtp.url} "$@"\n')
    path.chmod(0o755)
    return path


# Programs


def test_git_send_email(server: Server, program: Path, mailbox: str, tmp_path: Path) -> None:
    git = find_program("git")
    if not list(Path("/usr/lib/git-core").glob("git-send-email")):
        leave_out("git-email is not installed (as root: make test APT=1)")

    def run_git(*arguments: str) -> None:
        run_program([git, "-c", "user.name=Ёж", "-c", "user.email=hedgehog@x.mail", *arguments], folder=tmp_path)

    run_git("init", "-q", ".")
    (tmp_path / "file").write_text("one\n.\ntwo\n")
    run_git("add", "file")
    run_git("commit", "-q", "-m", "A change\n\n.\nof ours")
    run_git("format-patch", "-1", "-o", "out")
    run_git(
        *("send-email", f"--sendmail-cmd={program}", "--to", mailbox, "--from", "Ёж <hedgehog@x.mail>"),
        *("--confirm=never", "--suppress-cc=all", "--quiet", "out/0001-A-change.patch"),
    )
    [message] = map(read, collect(server.pop3, mailbox))
    assert message["subject"] == "[PATCH] A change" and str(message["from"]) == "Ёж <hedgehog@x.mail>"
    assert body_of(message).startswith(".\nof ours\n") and "\n+.\n" in body_of(message)


def test_mutt(server: Server, program: Path, mailbox: str, tmp_path: Path) -> None:
    mutt = find_program("mutt")
    (tmp_path / "picture.png").write_bytes(bytes(range(256)))
    settings = f'set sendmail="{program} -oem -oi"\nset from="me@x.mail"\nset copy=no\nset envelope_from=yes\n'
    (tmp_path / "muttrc").write_text(settings)
    command = [mutt, "-F", "muttrc", "-s", "Привет", "-b", mailbox, "-a", "picture.png", "--", "other@x.mail"]
    run_program(command, folder=tmp_path, stdin="Текст\n.\n".encode(), codes=(0, 1))  # other@x.mail is unknown here
    [message] = map(read, collect(server.pop3, mailbox))
    assert message["subject"] == "Привет" and message["bcc"] is None and message["to"] == "other@x.mail"
    assert body_of(message) == "Текст\n.\n"
    [attachment] = message.iter_attachments()
    assert attachment.get_content() == bytes(range(256))


def test_s_nail(server: Server, program: Path, mailbox: str, tmp_path: Path) -> None:
    s_nail = find_program("s-nail")
    command = [s_nail, "-n", "-S", "v15-compat", "-S", f"mta=file://{program}", "-S", "sendwait", "-r", "me@x.mail"]
    run_program([*command, "-s", "Привет", mailbox], folder=tmp_path, stdin="Текст\n".encode())
    [message] = map(read, collect(server.pop3, mailbox))
    assert (message["subject"], body_of(message)) == ("Привет", "Текст\n")


def test_php(server: Server, program: Path, mailbox: str, tmp_path: Path) -> None:
    php = find_program("php")
    fields = '["From" => "me@x.mail", "Bcc" => "test2@x.mail"]'
    script = f'exit(mail("{mailbox}", "Subject", "one\\n.\\ntwo", {fields}) ? 0 : 1);'
    run_program([php, "-n", "-d", f"sendmail_path={program} -t -i", "-r", script], folder=tmp_path)
    [message] = map(read, collect(server.pop3, mailbox))
    assert message["from"] == "me@x.mail" and body_of(message) == "one\n.\ntwo\n" and message["bcc"] is None
    collect(server.pop3, "test2@x.mail")
    refused = 'exit(mail("nobody@x.mail", "Subject", "text", ["From" => "me@x.mail"]) ? 0 : 1);'
    run_program([php, "-n", "-d", f"sendmail_path={program} -t -i", "-r", refused], folder=tmp_path, codes=(1,))


def test_cron(server: Server, program: Path, mailbox: str, tmp_path: Path) -> None:
    """Debian's cron with our sendmail in the place of the system's, in a room of its own; its job runs at once."""
    cron, unshare = find_program("cron"), find_program("unshare")
    tabs, real = tmp_path / "tabs", Path("/usr/sbin/sendmail")
    if os.geteuid() != 0 or not real.exists():
        leave_out("cron with another sendmail needs root and /usr/sbin/sendmail")
    tabs.mkdir(mode=0o700)
    (tabs / "root").write_text(f"MAILTO={mailbox}\n@reboot echo said by cron\n")
    (tabs / "root").chmod(0o600)
    rooms = (
        f"mount --bind {tabs} /var/spool/cron/crontabs && mount --bind {program} {real.resolve()}"
        f" && mount -t tmpfs none /run && exec {cron} -f"
    )
    command = [unshare, "--mount", "--propagation", "private", "sh", "-c", rooms]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, cwd="/") as process:
        try:
            found: list[bytes] = []

            def came() -> bool:
                found.extend(collect(server.pop3, mailbox))
                return bool(found) or process.poll() is not None

            wait_for(came, lambda: "no mail of cron", 30)
            if not found:
                assert process.stderr is not None
                leave_out(f"cron in a room of its own: {process.stderr.read().decode().strip()}")
        finally:
            process.terminate()
    message = read(found[0])
    assert "Cron Daemon" in message["from"] and "echo said by cron" in message["subject"]
    assert body_of(message) == "said by cron\n"


# What such programs rely on


def call(port: int, *arguments: str, given: bytes, home: Path, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = run([*SENDMAIL, "--url", f"smtp://127.0.0.1:{port}", *arguments], given=given, home=home)
    assert done.returncode == code, done.stderr
    return done


LETTER = b"From: Me <me@x.mail>\nTo: a@x.mail\nCc: b@x.mail\nBcc: c@x.mail\nSubject: x\n\nfirst\n.\nlast\n"


def rcpts(heard: list[bytes]) -> list[bytes]:
    lines = [line for line in heard if line.startswith((b"MAIL", b"RCPT"))]
    return [line.split(b" SIZE=")[0] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "envelope"),
    [
        ("-t -i", "? a@x.mail b@x.mail c@x.mail"),
        ("-i -fme@x.mail d@x.mail,e@x.mail", "me@x.mail d@x.mail e@x.mail"),
        ("-oi -f <> -oem -odb -- d@x.mail", " d@x.mail"),
        ("-tif me@x.mail", "me@x.mail a@x.mail b@x.mail c@x.mail"),
        ("-bm -ignored -B8BITMIME -r me@x.mail d@x.mail", None),
        ("-owhatever=x -O Whatever=1 -i -N never -FName -r me@x.mail d@x.mail", "me@x.mail d@x.mail"),
    ],
)
def test_options(tmp_path: Path, arguments: str, envelope: str | None) -> None:
    with ScriptedServer(smtp()) as server:
        call(server.port, *arguments.split(), given=LETTER, home=tmp_path, code=64 if envelope is None else 0)
    if envelope is None:
        assert server.heard == []
        return
    sender, *recipients = envelope.split(" ")
    mail, *others = rcpts(server.heard)
    assert others == [f"RCPT TO:<{recipient}>".encode() for recipient in recipients]
    assert mail == f"MAIL FROM:<{sender}>".encode() or (sender == "?" and b"@" in mail)
    content = server.heard[-2]
    assert b"Bcc" not in content and b"Message-ID: <" in content and content.endswith(b"\r\nfirst\r\n.\r\nlast\r\n")


def test_the_line_of_an_mbox_before_the_letter_is_left_out(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server:
        call(server.port, "-t", "-i", given=b"From me@x.mail Mon Mar  2 09:14:57 2026\n" + LETTER, home=tmp_path)
        assert server.heard[-2].startswith(b"From: Me <me@x.mail>\r\n")


def test_without_i_a_lone_dot_ends_the_letter(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server:
        call(server.port, "-t", given=LETTER, home=tmp_path)
        assert server.heard[-2].endswith(b"\r\n\r\nfirst\r\n")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("octets", "before"),
    [
        (b"a\n.\nb", b"a\n"),
        (b"a\r\n.\r\nb", b"a\r\n"),
        (b".\nb", b""),
        (b"a\n.", b"a\n"),
        (b"a\n..\n.b\n", b"a\n..\n.b\n"),
        (b"", b""),
        (b"a", b"a"),
    ],
)
def test_the_lone_dot_however_the_input_is_cut(octets: bytes, before: bytes, size: int) -> None:
    import io

    from posthouse.cli.sendmail import UntilDot

    class Slow(io.BytesIO):
        def read(self, most: int | None = -1) -> bytes:
            return super().read(min(size, most or size))

    source = UntilDot(Slow(octets))
    found = b""
    while piece := source.read(4):
        found += piece
    assert found == before


def test_names_without_a_domain_get_one(tmp_path: Path) -> None:
    given = b"From: root (Cron Daemon)\nTo: root\nSubject: x\n\ntext\n"
    with ScriptedServer(smtp()) as server:
        call(server.port, "-i", "-oem", "root", given=given, home=tmp_path)
    content = read(server.heard[-2])
    to = str(content["to"])
    assert to.startswith("root@") and f"RCPT TO:<{to}>".encode() in server.heard
    assert str(content["from"]) == f"Cron Daemon <{to}>"


@pytest.mark.parametrize(
    ("answers", "code", "kept"),
    [
        ({"mail": b"451 later\r\n"}, 0, 1),
        ({"greeting": b"421 later\r\n"}, 0, 1),
        ({"rcpt": b"550 5.1.1 nobody\r\n"}, 67, 0),
        ({"end": b"554 no\r\n"}, 69, 0),
        ({"rcpt_bad": b"550 5.1.1 nobody\r\n"}, 69, 0),
        ({"greeting": b"+OK\r\n"}, 76, 0),
    ],
)
def test_exit_codes(tmp_path: Path, answers: dict[str, bytes], code: int, kept: int) -> None:
    with ScriptedServer(smtp(**answers)) as server:
        call(
            server.port,
            "-i",
            "a@x.mail",
            "bad@x.mail" if "rcpt_bad" in answers else "b@x.mail",
            given=LETTER,
            home=tmp_path,
            code=code,
        )
    folder = tmp_path / "posthouse" / "outbox"
    assert len(list(folder.glob("[0-9a-z]*"))) == kept


@pytest.mark.parametrize(
    "arguments", [("-bd",), ("-bx",), ("-Z",), ("-f",), (), ("--nonsense", "a@x.mail"), ("-N", "x", "a@x.mail")]
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run([*SENDMAIL, *arguments], given=LETTER, home=tmp_path)
    assert done.returncode == 64 and done.stdout == b"" and done.stderr.startswith(b"posthouse --as sendmail: ")


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    done = run([*SENDMAIL, "a@x.mail"], given=LETTER, home=tmp_path)
    if done.returncode == 0:
        leave_out("a mail server listens on port 25 of this machine")
    assert done.returncode in (67, 69, 75)
    if done.returncode == 75:
        assert b"No server is set up" in done.stderr and not (tmp_path / "posthouse" / "outbox").exists()


def test_the_queue_in_the_old_words(tmp_path: Path) -> None:
    def link(name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        path = tmp_path / name
        if not path.exists():
            path.symlink_to(find_command())
        return run([str(path), *arguments], given=LETTER, home=tmp_path)

    assert link("mailq").stdout == b"Mail queue is empty\n"
    with ScriptedServer(smtp()) as server:
        assert link("sendmail", "--url", f"smtp://127.0.0.1:{server.port}", "-i", "-odq", "d@x.mail").returncode == 0
        listed = link("mailq").stdout
        assert listed == link("sendmail", "-bp").stdout
        assert b"d@x.mail" in listed and listed.endswith(b"in 1 Request.\n")
        assert server.talks == []
        assert link("sendmail", "-q").returncode == 0 and len(server.talks) == 1
    assert link("mailq").stdout == b"Mail queue is empty\n"
    assert link("newaliases").returncode == 0


# SMTP on standard input


DIALOGUE = (
    b"EHLO client\r\nMAIL FROM:<me@x.mail> BODY=8BITMIME\r\nRCPT TO:<a@x.mail>\r\nRCPT TO:<b@x.mail>\r\nDATA\r\n"
    b"Subject: one\r\n\r\n..\r\ntext\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@x.mail>\r\nRSET\r\nNOOP\r\nVRFY x\r\n"
    b"MAIL FROM:<>\r\nRCPT TO:<d@x.mail>\r\nBDAT 14\r\nSubject: two\r\nBDAT 5 LAST\r\nn\r\n\r\nQUIT\r\n"
)


def test_smtp_on_standard_input(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server:
        done = call(server.port, "-bs", given=DIALOGUE, home=tmp_path)
    codes = [line[:3] for line in done.stdout.splitlines() if line[3:4] == b" "]
    assert b" ".join(codes) == b"220 250 250 250 250 354 250 250 250 250 250 252 250 250 250 250 221"
    assert rcpts(server.heard) == [
        *(b"MAIL FROM:<me@x.mail>", b"RCPT TO:<a@x.mail>", b"RCPT TO:<b@x.mail>"),
        *(b"MAIL FROM:<>", b"RCPT TO:<d@x.mail>"),
    ]
    assert any(line.startswith(b"Subject: one") and line.endswith(b"\r\n.\r\ntext\r\n") for line in server.heard)


def test_what_was_answered_250_is_kept(tmp_path: Path) -> None:
    """The server cannot be reached, and the program hangs up without QUIT: the letter waits, nothing else does."""
    done = call(1, "-bs", given=DIALOGUE[: DIALOGUE.index(b"BDAT 5")], home=tmp_path)
    assert done.stdout.count(b"Queued as") == 1
    listed = json.loads(run([sys.executable, "-m", "posthouse.cli.outbox", "--json"], home=tmp_path).stdout)
    assert [[r["to"] for r in row["recipients"]] for row in listed["letters"]] == [["a@x.mail", "b@x.mail"]]


def test_an_outbox_that_cannot_be_written_is_451(tmp_path: Path) -> None:
    (tmp_path / "posthouse").write_text("a file where a folder should be")
    done = call(1, "-bs", given=DIALOGUE, home=tmp_path)
    assert b"451 4.3.0" in done.stdout and b"Queued" not in done.stdout


# mail


def as_mail(server: ScriptedServer, *arguments: str, given: bytes, home: Path) -> EmailMessage:
    done = run([*MAIL, "--url", f"smtp://127.0.0.1:{server.port}", *arguments], given=given, home=home)
    assert done.returncode == 0, done.stderr
    return read(server.heard[-2])


def test_mail(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("attached\n")
    with ScriptedServer(smtp()) as server:
        arguments = [
            "-s",
            "Привет",
            "-c",
            "c@x.mail",
            "-b",
            "d@x.mail",
            "-a",
            "X-Test: yes",
            "-A",
            str(tmp_path / "a.txt"),
        ]
        message = as_mail(
            server, "a@x.mail", *arguments, "-r", "Me <me@x.mail>", given="Текст\n.\nconsider\n".encode(), home=tmp_path
        )
        assert (message["subject"], message["cc"], message["bcc"], message["x-test"]) == (
            "Привет",
            "c@x.mail",
            None,
            "yes",
        )
        assert str(message["from"]) == "Me <me@x.mail>" and body_of(message) == "Текст\n.\nconsider\n"
        assert [part.get_filename() for part in message.iter_attachments()] == ["a.txt"]
        assert b"RCPT TO:<d@x.mail>" in server.heard
        talks = len(server.talks)
        assert run([*MAIL, "--url", "smtp://x", "-E", "a@x.mail"], home=tmp_path).returncode == 0
        assert len(server.talks) == talks, "-E: nothing was said, so nothing is sent"


def test_mail_without_recipients_reads(tmp_path: Path) -> None:
    done = run(MAIL, home=tmp_path)
    assert done.returncode == 64 and b"Say what to read" in done.stderr


def test_start_up_of_a_role(tmp_path: Path) -> None:
    """cron and git call it for each letter: it must not take what a server's start takes."""
    heavy = "('uvloop', 'sqlite3', 'cryptography', 'argon2', 'prompt_toolkit', 'markdown_it', 'email.message')"
    code = f"import sys; from posthouse.cli import roles, sendmail; print([m for m in sys.modules if m in {heavy}])"
    done = run([sys.executable, "-c", code], home=tmp_path)
    assert done.stdout == b"[]\n", done.stdout
