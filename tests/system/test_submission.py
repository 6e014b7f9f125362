"""What submission does to a header, and whose address a sender may name, with programs nobody here wrote."""

from __future__ import annotations

import email
import email.policy
import email.utils
from pathlib import Path

import pytest

from tests.system.programs import find_program, run_program
from tests.system.raw import collect, greeted
from tests.system.server import PASSWORD, SENDER, Endpoint, Server, run_posthouse

BARE = (
    b"From: Test <%s>\r\nBcc: hidden@x.mail,\r\n\tsecond@x.mail\r\nSubject: bare\r\nBCC: third@x.mail\r\n"
    b"\r\nBcc: is text here\r\n" % SENDER.encode()
)
FORGED = b"From: The Boss <boss@x.mail>\r\nSubject: pay\r\n\r\nat once\r\n"


def curl(folder: Path, to: Endpoint, recipient: str, content: bytes, sender: str, codes: tuple[int, ...] = (0,)) -> str:
    file = folder / "letter"
    file.write_bytes(content)
    command = [find_program("curl"), "-v", "--silent", "--show-error", "--max-time", "60", f"smtp://{to.url}/client"]
    command += ["--user", f"{SENDER}:{PASSWORD}", "--mail-from", sender, "--mail-rcpt", recipient]
    done = run_program([*command, "--upload-file", str(file)], folder=folder, codes=codes)
    return done.stderr.decode()


def swaks(
    folder: Path, to: Endpoint, recipient: str, content: bytes, sender: str, codes: tuple[int, ...] = (0,)
) -> str:
    file = folder / "letter"
    file.write_bytes(content.removesuffix(b"\r\n"))
    command = [find_program("swaks"), "--server", to.host, "--port", str(to.port), "--ehlo", "client.x.mail"]
    command += ["--auth", "PLAIN", "--auth-user", SENDER, "--auth-password", PASSWORD, "--from", sender]
    command += ["--to", recipient, "--data", f"@{file}"]
    done = run_program(command, folder=folder, codes=codes)
    return (done.stdout + done.stderr).decode()


def msmtp(
    folder: Path, to: Endpoint, recipient: str, content: bytes, sender: str, codes: tuple[int, ...] = (0,)
) -> str:
    settings = folder / "msmtprc"
    settings.write_text(
        f"account x\nhost {to.host}\nport {to.port}\ndomain client.x.mail\nfrom {sender}\ntls off\n"
        f'auth plain\nuser {SENDER}\npassword "{PASSWORD}"\n'
        "set_from_header off\nset_date_header off\nset_msgid_header off\nremove_bcc_headers off\n"
    )
    settings.chmod(0o600)
    command = [find_program("msmtp"), f"--file={settings}", "--account=x", "--", recipient]
    done = run_program(command, folder=folder, stdin=content.replace(b"\r\n", b"\n"), codes=codes)
    return done.stderr.decode()


PROGRAMS = {"curl": (curl, (8, 55, 56)), "swaks": (swaks, (23, 26)), "msmtp": (msmtp, (65, 67, 69, 75, 76, 77, 78))}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bare_letter_is_completed(server: Server, mailbox: str, tmp_path: Path, program: str) -> None:
    """Would catch a hidden recipient that is handed on, and a letter without date or id (RFC 6409 §8)."""
    PROGRAMS[program][0](tmp_path, server.submission, mailbox, BARE, SENDER)
    [collected] = collect(server.pop3, mailbox)
    for hidden in (b"hidden@", b"second@", b"third@"):
        assert hidden not in collected
    message = email.message_from_bytes(collected, policy=email.policy.default)
    assert (message["Subject"], message["Bcc"]) == ("bare", None)
    assert email.utils.parsedate_to_datetime(str(message["Date"])).tzinfo is not None
    assert str(message["Message-ID"]).startswith("<")
    assert collected.endswith(b"\r\n\r\nBcc: is text here\r\n")


@pytest.mark.parametrize("port", ["submission", "smtp"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_writes_as_another(server: Server, mailbox: str, tmp_path: Path, program: str, port: str) -> None:
    """Would catch a login that sends in the name of somebody else, in the envelope or as author (reliability A7)."""
    send, failed = PROGRAMS[program]
    to = getattr(server, port)
    said = send(tmp_path, to, mailbox, BARE, "boss@x.mail", failed)
    assert "550" in said
    assert "5.7.1" in said
    said = send(tmp_path, to, mailbox, FORGED, SENDER, failed)
    assert "550" in said
    assert "5.7.1" in said
    assert collect(server.pop3, mailbox) == []


def test_a_grant_counts_from_the_next_letter(server: Server, mailbox: str, tmp_path: Path) -> None:
    """Would catch a grant that a running server learns of only after a restart, or never takes back."""
    run_posthouse(server.data, "account", "grant-sender", SENDER, "boss@x.mail")
    curl(tmp_path, server.submission, mailbox, FORGED, "boss@x.mail")
    run_posthouse(server.data, "account", "revoke-sender", SENDER, "boss@x.mail")
    curl(tmp_path, server.submission, mailbox, FORGED, "boss@x.mail", (8, 55, 56))
    [collected] = collect(server.pop3, mailbox)
    assert collected.startswith(b"Return-Path: <boss@x.mail>\r\n")


def test_a_large_letter_has_one_size(server: Server, mailbox: str, tmp_path: Path) -> None:
    """Would catch a size reckoned before the header was completed: LIST, STAT and RETR must agree."""
    body = b"0123456789abcdef" * 4 + b"\r\n"
    curl(tmp_path, server.submission, mailbox, BARE + body * 100_000, SENDER)
    import poplib

    client = poplib.POP3(server.pop3.host, server.pop3.port)
    client.user(mailbox)
    client.pass_(PASSWORD)
    count, total = client.stat()
    listed = int(client.list(1).split()[2])  # type: ignore[attr-defined]
    client.quit()
    [collected] = collect(server.pop3, mailbox)
    assert (count, total, listed) == (1, len(collected), len(collected))
    assert collected.endswith(body * 100_000)
    assert b"hidden@" not in collected[:2000]


def test_a_login_may_send_to_the_world(server: Server) -> None:
    """Would catch a login that is refused what it is for; letters that leave are tests of their own."""
    import base64

    token = base64.b64encode(f"\0{SENDER}\0{PASSWORD}".encode())
    with greeted(server.submission) as session:
        session.ask(b"AUTH PLAIN " + token, b"235")
        session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
        session.ask(b"RCPT TO:<joe@other.example>", b"250 2.1.5")
        session.ask(b"QUIT", b"221")
