"""Programs nobody here wrote log in by every mechanism they know, and our clients log in at Dovecot."""

from __future__ import annotations

import poplib
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.dovecot import USER, dovecot
from tests.system.programs import find_program, run_program
from tests.system.server import (
    PASSWORD,
    READER,
    SENDER,
    Server,
    add_account,
    prepare_data,
    run_posthouse,
    serving,
    wait_for,
)
from tests.system.test_our_clients import posthouse, reading, sending

MECHANISMS = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN")


@pytest.fixture(scope="module")
def recoverable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps passwords for CRAM-MD5 and APOP, too."""
    data = tmp_path_factory.mktemp("recoverable") / "data"
    data.mkdir(mode=0o700)
    (data / "posthouse.toml").write_text('[accounts]\nrecoverable_passwords = "on"\nfailure_time = 0.05\n')
    prepare_data(data)
    with serving(data, "submission", "pop3") as running:
        yield running


def told(server: Server, *words: str, after: int = 0) -> None:
    """Waits until one line of the log, from this offset on, has all the words."""

    def found() -> bool:
        return any(all(word in line for word in words) for line in server.log[after:].splitlines())

    wait_for(found, lambda: f"no line has {words}: {server.log[after:]}")


def by_swaks(folder: Path, server: Server, mechanism: str) -> None:
    command = [find_program("swaks"), "--server", server.submission.host, "--port", str(server.submission.port)]
    command += ["--auth", mechanism, "--auth-user", SENDER, "--auth-password", PASSWORD, "--from", SENDER]
    run_program([*command, "--to", READER, "--quit-after", "AUTH"], folder=folder)


def by_curl(folder: Path, server: Server, mechanism: str) -> None:
    (folder / "letter").write_bytes(b"Subject: x\r\n\r\nx\r\n")
    command = [find_program("curl"), "--silent", "--show-error", f"smtp://{server.submission.url}/pc.x.mail"]
    command += ["--user", f"{SENDER}:{PASSWORD}", "--login-options", f"AUTH={mechanism}", "--mail-from", SENDER]
    run_program([*command, "--mail-rcpt", READER, "--upload-file", "letter"], folder=folder)


def by_msmtp(folder: Path, server: Server, mechanism: str) -> None:
    settings = folder / "msmtprc"
    settings.write_text(
        f"account x\nhost {server.submission.host}\nport {server.submission.port}\nfrom {SENDER}\ntls off\n"
        f'auth {mechanism.lower()}\nuser {SENDER}\npassword "{PASSWORD}"\n'
    )
    settings.chmod(0o600)
    command = [find_program("msmtp"), f"--file={settings}", "--account=x", "--", READER]
    run_program(command, folder=folder, stdin=b"Subject: x\n\nx\n")


def by_smtplib(folder: Path, server: Server, mechanism: str) -> None:
    with smtplib.SMTP(server.submission.host, server.submission.port) as client:
        client.ehlo("pc.x.mail")
        client.user, client.password = SENDER, PASSWORD
        if mechanism == "CRAM-MD5":
            client.auth(mechanism, client.auth_cram_md5)
        else:
            client.auth(mechanism, client.auth_plain if mechanism == "PLAIN" else client.auth_login)


SMTP_PROGRAMS: dict[str, tuple[Callable[[Path, Server, str], None], tuple[str, ...]]] = {
    "swaks": (by_swaks, ("CRAM-MD5", "PLAIN", "LOGIN")),
    "curl": (by_curl, ("CRAM-MD5", "PLAIN", "LOGIN")),  # Debian builds it without SCRAM
    "msmtp": (by_msmtp, MECHANISMS),
    "smtplib": (by_smtplib, ("CRAM-MD5", "PLAIN", "LOGIN")),
}


@pytest.mark.parametrize(
    ("program", "mechanism"), [(name, one) for name, (_, known) in SMTP_PROGRAMS.items() for one in known]
)
def test_smtp_programs_log_in(recoverable: Server, tmp_path: Path, program: str, mechanism: str) -> None:
    before = len(recoverable.log)
    SMTP_PROGRAMS[program][0](tmp_path, recoverable, mechanism)
    told(recoverable, " login ", f"mechanism={mechanism}", SENDER, after=before)


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "user", "apop"])
def test_mpop_logs_in(recoverable: Server, tmp_path: Path, mechanism: str) -> None:
    settings = tmp_path / "mpoprc"
    settings.write_text(
        f"account x\nhost {recoverable.pop3.host}\nport {recoverable.pop3.port}\ntls off\nauth {mechanism.lower()}\n"
        f'user {READER}\npassword "{PASSWORD}"\ndelivery mbox {tmp_path}/mbox\nuidls_file {tmp_path}/uidls\n'
    )
    settings.chmod(0o600)
    before = len(recoverable.log)
    run_program([find_program("mpop"), f"--file={settings}", "x"], folder=tmp_path)
    wanted = {"user": "PASS", "apop": "APOP"}.get(mechanism, mechanism)
    told(recoverable, "pop3_session", f"mechanism={wanted}", READER, after=before)


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
def test_curl_collects(recoverable: Server, tmp_path: Path, mechanism: str) -> None:
    before = len(recoverable.log)
    command = [find_program("curl"), "--silent", "--show-error", f"pop3://{recoverable.pop3.url}/"]
    run_program([*command, "--user", f"{READER}:{PASSWORD}", "--login-options", f"AUTH={mechanism}"], folder=tmp_path)
    told(recoverable, "pop3_session", f"mechanism={mechanism}", READER, after=before)


def test_poplib_logs_in_by_apop(recoverable: Server) -> None:
    client = poplib.POP3(recoverable.pop3.host, recoverable.pop3.port)
    assert client.apop(READER, PASSWORD).startswith(b"+OK")
    client.quit()


def test_our_clients_take_the_strongest(recoverable: Server, tmp_path: Path) -> None:
    sent = posthouse(*sending(recoverable), "-v", READER, "-s", "x", given=b"x\n", cwd=tmp_path)
    assert sent.returncode == 0 and b"AUTH SCRAM-SHA-256 ********" in sent.stderr, sent.stderr
    listed = posthouse(*reading(recoverable, READER), "-v", "list", cwd=tmp_path)
    assert listed.returncode == 0 and b"AUTH SCRAM-SHA-256 ********" in listed.stderr, listed.stderr
    for said in (sent.stderr, listed.stderr):
        for line in said.splitlines():
            assert line.startswith((b"===", b"<-", b" ->", b"*->", b"<-*")) or b"r=" not in line
            if b"334" in line[:12] or b"+ " in line[:8]:
                assert b"********" in line
    refused = posthouse(*sending(recoverable), READER, "-s", "x", given=b"x\n", cwd=tmp_path, password="wrong")
    assert refused.returncode == 77
    told(recoverable, "login_failed", "mechanism=SCRAM-SHA-256", SENDER)


def test_an_app_password_works_until_it_is_revoked(recoverable: Server, tmp_path: Path) -> None:
    made = run_posthouse(recoverable.data, "account", "app-password", "add", SENDER, "phone", "--for", "smtp")
    password = made.stdout.strip()
    with smtplib.SMTP(recoverable.submission.host, recoverable.submission.port) as client:
        client.login(SENDER, password)
    told(recoverable, " login ", "app=phone")
    assert posthouse(*sending(recoverable), READER, given=b"x\n", cwd=tmp_path, password=password).returncode == 0
    told(recoverable, " login ", "app=phone", "mechanism=SCRAM-SHA-256")
    collector = poplib.POP3(recoverable.pop3.host, recoverable.pop3.port)
    with pytest.raises(poplib.error_proto, match="AUTH"):
        collector.apop(SENDER, password)
    collector.quit()
    run_posthouse(recoverable.data, "account", "app-password", "revoke", SENDER, "phone")
    with (
        smtplib.SMTP(recoverable.submission.host, recoverable.submission.port) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login(SENDER, password)
    assert password not in recoverable.log and password.replace("-", "") not in recoverable.log


def test_a_hash_of_dovecot_opens_the_account(recoverable: Server) -> None:
    """Made by Dovecot's own program, verified here once, and SCRAM works after it."""
    for number, scheme in enumerate(("SSHA256", "SHA512-CRYPT", "BLF-CRYPT", "ARGON2I", "SMD5")):
        made = subprocess.run(
            [find_program("doveadm"), "pw", "-s", scheme, "-p", PASSWORD], capture_output=True, text=True, check=True
        )
        address = f"moved{number}@x.mail"
        run_posthouse(recoverable.data, "account", "add", address, "--hash-stdin", stdin=made.stdout)
        for _ in range(2):
            client = poplib.POP3(recoverable.pop3.host, recoverable.pop3.port)
            client.user(address)
            assert client.pass_(PASSWORD).startswith(b"+OK"), scheme
            client.quit()


def test_a_stopped_server_forgets_no_verifier(data: Path, tmp_path: Path) -> None:
    """What is made behind a login is on the disk when the server has ended; SCRAM works after it."""
    add_account(data, "new@x.mail")
    with serving(data, "pop3") as server:
        client = poplib.POP3(server.pop3.host, server.pop3.port)
        client.user("new@x.mail")
        client.pass_(PASSWORD)
        client.quit()
    with serving(data, "pop3") as server:
        listed = posthouse(*reading(server, "new@x.mail"), "-v", "list", cwd=tmp_path)
        assert listed.returncode == 0 and b"SCRAM-SHA-256" in listed.stderr


@pytest.mark.parametrize(
    ("mechanisms", "taken"), [("plain login scram-sha-256", "SCRAM-SHA-256"), ("plain login", "PLAIN")]
)
def test_our_client_logs_in_at_dovecot(tmp_path: Path, mechanisms: str, taken: str) -> None:
    """Another hand's SCRAM: catches a mistake that both of our roles share."""
    with dovecot(mechanisms) as port:
        url = ["read", "--url", f"pop3://{USER.replace('@', '%40')}@127.0.0.1:{port}"]
        listed = posthouse(*url, "-v", "list", cwd=tmp_path)
        assert listed.returncode == 0, listed.stderr
        by_pass = b" -> PASS ********" in listed.stderr
        assert (f"AUTH {taken} ********".encode() in listed.stderr) != by_pass
        assert by_pass is (taken == "PLAIN")
        assert posthouse(*url, "list", cwd=tmp_path, password="wrong").returncode == 77
