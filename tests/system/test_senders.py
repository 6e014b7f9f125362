"""Letters go in by programs nobody here wrote; what is in the maildrop is what they sent, octet by octet."""

from __future__ import annotations

import email
import email.policy
import smtplib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.letters import KINDS, all_octets, check_same, letter, with_lf
from tests.system.programs import find_program, run_program
from tests.system.raw import collect, stuffed
from tests.system.server import PASSWORD, READER, SENDER, Endpoint, Server

Sender = Callable[[Path, Endpoint, str, bytes, str], None]
"""Sends a content to a recipient with a login by this mechanism; fails when the program does."""


def by_curl(folder: Path, to: Endpoint, recipient: str, content: bytes, mechanism: str) -> None:
    file = folder / "letter"
    file.write_bytes(content)
    command = [find_program("curl"), "--silent", "--show-error", "--max-time", "150", f"smtp://{to.url}/client.x.mail"]
    command += ["--user", f"{SENDER}:{PASSWORD}", "--login-options", f"AUTH={mechanism}"]
    command += ["--mail-from", SENDER, "--mail-rcpt", recipient, "--upload-file", str(file)]
    run_program(command, folder=folder)


def by_swaks(folder: Path, to: Endpoint, recipient: str, content: bytes, mechanism: str) -> None:
    file = folder / "letter"
    command = [find_program("swaks"), "--server", to.host, "--port", str(to.port), "--ehlo", "client.x.mail"]
    if not content or content.endswith(b"\r\n.\r\n"):
        # swaks takes no empty file, and a lone dot at a file's end for the end of data, unless it is told to send
        # just what stands there.
        file.write_bytes(stuffed(content))
        command.append("--no-data-fixup")
    else:
        # It ends the last line of its file itself.
        file.write_bytes(content.removesuffix(b"\r\n"))
    command += ["--auth", mechanism, "--auth-user", SENDER, "--auth-password", PASSWORD]
    command += ["--from", SENDER, "--to", recipient, "--data", f"@{file}", "--silent", "2"]
    run_program(command, folder=folder)


def by_msmtp(folder: Path, to: Endpoint, recipient: str, content: bytes, mechanism: str) -> None:
    settings = folder / "msmtprc"
    settings.write_text(
        f"account x\nhost {to.host}\nport {to.port}\ndomain client.x.mail\nfrom {SENDER}\ntls off\n"
        f'auth {mechanism.lower()}\nuser {SENDER}\npassword "{PASSWORD}"\n'
        # It would complete the header otherwise.
        "set_from_header off\nset_date_header off\nset_msgid_header off\n"
        "undisclosed_recipients off\nremove_bcc_headers off\n"
    )
    settings.chmod(0o600)
    command = [find_program("msmtp"), f"--file={settings}", "--account=x", "--", recipient]
    run_program(command, folder=folder, stdin=with_lf(content))


def by_smtplib(folder: Path, to: Endpoint, recipient: str, content: bytes, mechanism: str) -> None:
    with smtplib.SMTP(to.host, to.port, local_hostname="client.x.mail", timeout=150) as client:
        client.ehlo_or_helo_if_needed()
        client.user, client.password = SENDER, PASSWORD
        client.auth(mechanism, client.auth_plain if mechanism == "PLAIN" else client.auth_login)
        assert client.sendmail(SENDER, [recipient], content) == {}


SENDERS: dict[str, Sender] = {"curl": by_curl, "swaks": by_swaks, "msmtp": by_msmtp, "smtplib": by_smtplib}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", SENDERS)
def test_octets_stay(server: Server, mailbox: str, tmp_path: Path, program: str, kind: str) -> None:
    """Would catch any octet changed, lost or added between the client's DATA and RETR."""
    content = letter(kind)
    SENDERS[program](tmp_path, server.smtp, mailbox, content, "PLAIN")
    [collected] = collect(server.pop3, mailbox)
    # smtplib sends an empty letter as one empty line.
    check_same(collected, b"\r\n" if program == "smtplib" and not content else content)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("program", SENDERS)
def test_submission(server: Server, mailbox: str, tmp_path: Path, program: str, mechanism: str) -> None:
    """Would catch a mechanism or a port that some client cannot use."""
    content = letter("dots")
    SENDERS[program](tmp_path, server.submission, mailbox, content, mechanism)
    [collected] = collect(server.pop3, mailbox)
    assert collected.endswith(content)


def test_s_nail(server: Server, mailbox: str, tmp_path: Path) -> None:
    """s-nail writes the header and encodes the attachment itself, so the decoded attachment and text are compared."""
    (tmp_path / "all.bin").write_bytes(all_octets())
    url = f"smtp://{SENDER.replace('@', '%40')}:{PASSWORD}@{server.smtp.url}"
    command = [find_program("s-nail"), "-:/", "-S", "v15-compat=yes", "-S", f"mta={url}", "-S", "smtp-auth=plain"]
    command += ["-S", f"from={SENDER}", "-S", "hostname=client.x.mail", "-S", "sendwait", "-s", "with all octets"]
    command += ["-a", str(tmp_path / "all.bin"), mailbox]
    run_program(command, folder=tmp_path, stdin=b"Hello\n.\n..dots\n")
    [collected] = collect(server.pop3, mailbox)
    message = email.message_from_bytes(collected, policy=email.policy.default)
    assert message["Subject"] == "with all octets"
    [attachment] = message.iter_attachments()
    assert attachment.get_payload(decode=True) == all_octets()
    text = message.get_body(("plain",))
    assert text is not None
    assert text.get_content().splitlines() == ["Hello", ".", "..dots"]


@pytest.mark.parametrize("program", ["curl", "swaks"])
def test_lmtp(server: Server, mailbox: str, tmp_path: Path, program: str) -> None:
    """Would catch an LMTP listener that these cannot talk to; curl has no LMTP of its own, so it is asked to fail."""
    content = letter("1 KiB")
    file = tmp_path / "letter"
    file.write_bytes(content.removesuffix(b"\r\n"))
    if program == "swaks":
        command = [find_program("swaks"), "--protocol", "LMTP", "--server", server.lmtp.host]
        command += ["--port", str(server.lmtp.port), "--from", SENDER, "--to", f"{mailbox},{READER}"]
        run_program([*command, "--data", f"@{file}", "--silent", "2"], folder=tmp_path)
        [collected] = collect(server.pop3, mailbox)
        check_same(collected, content)
        assert any(other.endswith(content) for other in collect(server.pop3, READER))
    else:
        command = [find_program("curl"), "--silent", "--max-time", "20", f"smtp://{server.lmtp.url}/client.x.mail"]
        command += ["--mail-from", SENDER, "--mail-rcpt", mailbox, "--upload-file", str(file)]
        run_program(command, folder=tmp_path, codes=tuple(range(1, 100)))  # EHLO and HELO are refused there
        assert collect(server.pop3, mailbox) == []


def test_many_recipients(server: Server, new_mailbox: Callable[[], str], tmp_path: Path) -> None:
    """Would catch a copy missing, doubled or showing another recipient's address."""
    recipients = [new_mailbox() for _ in range(3)]
    content = letter("8-bit")
    (tmp_path / "letter").write_bytes(content)
    command = [find_program("curl"), "--silent", "--show-error", f"smtp://{server.smtp.url}/client.x.mail"]
    for recipient in recipients:
        command += ["--mail-rcpt", recipient]
    command += ["--mail-from", SENDER, "--upload-file", str(tmp_path / "letter"), "--user", f"{SENDER}:{PASSWORD}"]
    run_program(command, folder=tmp_path)
    for recipient in recipients:
        [collected] = collect(server.pop3, recipient)
        check_same(collected, content)
        head = collected[: -len(content)]
        assert not any(other.encode() in head for other in recipients if other != recipient)


def test_refusals_reach_the_program(server: Server, tmp_path: Path) -> None:
    """Would catch a refusal that looks like success to a client: unknown mailbox, foreign domain, wrong password."""
    content = letter("1 KiB")
    with smtplib.SMTP(server.smtp.host, server.smtp.port, timeout=20) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("someone@example.org", ["nobody@x.mail", "someone@example.net"], content)
        codes = {who: code for who, (code, _) in refused.value.recipients.items()}
        assert codes == {"nobody@x.mail": 550, "someone@example.net": 554}
        with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
            client.login(SENDER, "wrong")
        assert wrong.value.smtp_code == 535


def test_swaks_pipelines(server: Server, mailbox: str, tmp_path: Path) -> None:
    """Commands in one packet (RFC 2920), as swaks groups them."""
    content = letter("8-bit")
    (tmp_path / "letter").write_bytes(content.removesuffix(b"\r\n"))
    command = [find_program("swaks"), "--server", server.smtp.host, "--port", str(server.smtp.port), "--pipeline"]
    command += ["--from", SENDER, "--to", mailbox, "--data", f"@{tmp_path / 'letter'}", "--silent", "2"]
    run_program(command, folder=tmp_path)
    [collected] = collect(server.pop3, mailbox)
    check_same(collected, content)
