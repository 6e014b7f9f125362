"""TLS with programs nobody here wrote, each verifying the certificate through the authority that was exported."""

from __future__ import annotations

import plistlib
import re
import signal
import ssl
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import make
from tests.system.programs import find_program, leave_out, run_program
from tests.system.raw import Raw, collect, deliver, greeted
from tests.system.server import PASSWORD, SENDER, Endpoint, Server, run_posthouse, serving, wait_for

Sender = Callable[[Path, Server, Path, str, bytes, bool], None]
"""Sends a letter over TLS, at once or after STARTTLS, believing only this authority."""


def _port(server: Server, at_once: bool) -> Endpoint:
    return server.submissions if at_once else server.submission


def by_curl(folder: Path, server: Server, authority: Path, to: str, content: bytes, at_once: bool) -> None:
    (folder / "letter").write_bytes(content)
    url = f"{'smtps' if at_once else 'smtp'}://localhost:{_port(server, at_once).port}/client.x.mail"
    command = [find_program("curl"), "--silent", "--show-error", "--ipv4", "--ssl-reqd", "--cacert", str(authority)]
    command += ["--user", f"{SENDER}:{PASSWORD}", "--mail-from", SENDER, "--mail-rcpt", to]
    run_program([*command, "--upload-file", str(folder / "letter"), url], folder=folder)


def by_swaks(folder: Path, server: Server, authority: Path, to: str, content: bytes, at_once: bool) -> None:
    if subprocess.run(["perl", "-MNet::SSLeay", "-e", "1"], capture_output=True).returncode:
        leave_out("swaks cannot speak TLS without Net::SSLeay (Debian: libnet-ssleay-perl)")
    (folder / "letter").write_bytes(content.removesuffix(b"\r\n"))
    place = _port(server, at_once)
    command = [find_program("swaks"), "--server", place.host, "--port", str(place.port), "--ehlo", "client.x.mail"]
    command += ["--tls-on-connect" if at_once else "--tls", "--tls-verify", "--tls-ca-path", str(authority)]
    command += ["--auth", "PLAIN", "--auth-user", SENDER, "--auth-password", PASSWORD]
    command += ["--from", SENDER, "--to", to, "--data", f"@{folder / 'letter'}", "--silent", "2"]
    run_program(command, folder=folder)


def by_msmtp(folder: Path, server: Server, authority: Path, to: str, content: bytes, at_once: bool) -> None:
    settings = folder / "msmtprc"
    settings.write_text(
        f"account x\nhost localhost\nport {_port(server, at_once).port}\ndomain client.x.mail\nfrom {SENDER}\n"
        f"tls on\ntls_starttls {'off' if at_once else 'on'}\ntls_trust_file {authority}\n"
        f'auth plain\nuser {SENDER}\npassword "{PASSWORD}"\nset_from_header off\nset_date_header off\n'
        "set_msgid_header off\n"
    )
    settings.chmod(0o600)
    command = [find_program("msmtp"), f"--file={settings}", "--account=x", "--", to]
    run_program(command, folder=folder, stdin=content.replace(b"\r\n", b"\n"))


def by_ourselves(folder: Path, server: Server, authority: Path, to: str, content: bytes, at_once: bool) -> None:
    url = f"{'smtps' if at_once else 'smtp'}://{SENDER.replace('@', '%40')}@localhost:{_port(server, at_once).port}"
    command = [sys.executable, "-m", "posthouse.cli.main", "send", "-t", "-f", SENDER, to, "--url", url]
    command += ["--cacert", str(authority), "--password-stdin"]
    run_program(command, folder=folder, stdin=PASSWORD.encode() + b"\n" + content)


SENDERS: dict[str, Sender] = {"curl": by_curl, "swaks": by_swaks, "msmtp": by_msmtp, "posthouse": by_ourselves}


@pytest.fixture(scope="module")
def authority(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate as `posthouse cert export` hands it out, beside the running server."""
    file = tmp_path_factory.mktemp("authority") / "authority.crt"
    run_posthouse(server.data, "cert", "export", str(file))
    return file


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "STARTTLS"])
@pytest.mark.parametrize("program", SENDERS)
def test_a_letter_goes_in(
    server: Server, authority: Path, mailbox: str, tmp_path: Path, program: str, at_once: bool
) -> None:
    """And its Received field says how it came: the protocol, the version of TLS and the cipher."""
    content = b"Subject: over TLS\r\nMessage-ID: <1@x.mail>\r\n\r\n..dots\r\ntext\r\n"
    SENDERS[program](tmp_path, server, authority, mailbox, content, at_once)
    [collected] = collect(server.pop3, mailbox)
    assert collected.endswith(content.partition(b"\r\n\r\n")[2])
    trace = collected.partition(b"\r\n\tby ")[0] + collected.partition(b"\r\n\tby ")[2][:100]
    assert re.search(rb"\(using TLSv1\.3 with cipher TLS_[A-Z0-9_]+\)", trace), collected[:600]
    assert b" with ESMTPSA id " in trace, collected[:600]


def collect_by_curl(folder: Path, server: Server, authority: Path, address: str, at_once: bool) -> bytes:
    url = f"{'pop3s' if at_once else 'pop3'}://localhost:{(server.pop3s if at_once else server.pop3).port}/1"
    command = [find_program("curl"), "--silent", "--show-error", "--ipv4", "--ssl-reqd", "--cacert", str(authority)]
    return run_program([*command, "--user", f"{address}:{PASSWORD}", url], folder=folder).stdout


def collect_by_mpop(folder: Path, server: Server, authority: Path, address: str, at_once: bool) -> bytes:
    settings, out = folder / "mpoprc", folder / "mbox"
    settings.write_text(
        f"account x\nhost localhost\nport {(server.pop3s if at_once else server.pop3).port}\ntls on\n"
        f"tls_starttls {'off' if at_once else 'on'}\ntls_trust_file {authority}\nauth user\nuser {address}\n"
        f'password "{PASSWORD}"\ndelivery mbox {out}\nreceived_header off\nkeep on\nuidls_file {folder}/uidls\n'
    )
    settings.chmod(0o600)
    run_program([find_program("mpop"), f"--file={settings}", "x"], folder=folder)
    return out.read_bytes()


def collect_by_fetchmail(folder: Path, server: Server, authority: Path, address: str, at_once: bool) -> bytes:
    settings = folder / "fetchmailrc"
    how = "ssl" if at_once else 'sslproto "tls1.2+"'
    settings.write_text(
        f"poll localhost protocol pop3 service {(server.pop3s if at_once else server.pop3).port} auth password uidl\n"
        f'  user "{address}" password "{PASSWORD}" {how} sslcertck sslcertfile "{authority}" no rewrite keep\n'
        f'  mda "cat > {folder}/out"\n'
    )
    settings.chmod(0o600)
    command = [find_program("fetchmail"), "--fetchmailrc", str(settings), "--pidfile", str(folder / "pid")]
    run_program([*command, "--idfile", str(folder / "ids")], folder=folder)
    return (folder / "out").read_bytes()


def collect_by_ourselves(folder: Path, server: Server, authority: Path, address: str, at_once: bool) -> bytes:
    place = server.pop3s if at_once else server.pop3
    url = f"{'pop3s' if at_once else 'pop3'}://{address.replace('@', '%40')}@localhost:{place.port}"
    command = [sys.executable, "-m", "posthouse.cli.main", "read", "1", "--to", "-", "--url", url, "--password-stdin"]
    return run_program([*command, "--cacert", str(authority)], folder=folder, stdin=PASSWORD.encode() + b"\n").stdout


COLLECTORS = {
    "curl": collect_by_curl,
    "mpop": collect_by_mpop,
    "fetchmail": collect_by_fetchmail,
    "posthouse": collect_by_ourselves,
}


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "STLS"])
@pytest.mark.parametrize("program", COLLECTORS)
def test_a_letter_comes_out(
    server: Server, authority: Path, mailbox: str, tmp_path: Path, program: str, at_once: bool
) -> None:
    deliver(server.smtp, [mailbox], b"Subject: over TLS\r\n\r\nHello over TLS.\r\n")
    before = server.log.count("tls_failed")
    assert b"Hello over TLS." in COLLECTORS[program](tmp_path, server, authority, mailbox, at_once)
    assert server.log.count("tls_failed") == before
    wait_for(lambda: f"account={mailbox} " in server.log and 'tls="TLSv1.3' in server.log, lambda: server.log[-2000:])


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("smtp", ["-starttls", "smtp"]),
        ("submission", ["-starttls", "smtp"]),
        ("submissions", []),
        ("lmtp", ["-starttls", "lmtp", "-name", "client.x.mail"]),
        ("pop3", ["-starttls", "pop3"]),
        ("pop3s", []),
    ],
)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_verifies_every_listener(
    server: Server, authority: Path, listener: str, options: list[str], version: str
) -> None:
    """The chain and the host name, with both versions of TLS, on each port; QUIT is answered and closes cleanly."""
    place = server.listeners[listener][0]
    command = ["openssl", "s_client", "-connect", place.url, version, "-CAfile", str(authority), "-verify_return_error"]
    command += ["-verify_hostname", "mail.x.mail", "-servername", "mail.x.mail", "-crlf", "-ign_eof", *options]
    done = subprocess.run(command, input=b"QUIT\n", capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"Verify return code: 0 (ok)" in done.stdout and b"Verified peername: mail.x.mail" in done.stdout
    assert b"goodbye" in done.stdout and b"unexpected eof" not in done.stderr


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_cannot_speak_anything_older(server: Server, version: str) -> None:
    command = ["openssl", "s_client", "-connect", server.pop3s.url, version, "-cipher", "ALL:@SECLEVEL=0"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=30)
    assert done.returncode != 0 and b"Cipher is (NONE)" in done.stdout, done.stdout
    wait_for(lambda: "tls_failed" in server.log and "unsupported protocol" in server.log, lambda: server.log[-2000:])


def shown(place: Endpoint, host: str, authority: Path) -> int:
    """The serial number of the certificate that is shown for a name to somebody who believes this authority."""
    with Raw(place) as session:
        secured = session.start_tls(authority, host)
        certificate = secured.getpeercert()
        assert certificate is not None
        session.reply()
        session.ask(b"QUIT", b"221")
        return int(str(certificate["serialNumber"]), 16)


def test_own_certificates_by_name_and_reloaded_without_a_restart(data: Path, tmp_path: Path) -> None:
    """Each name gets its own; a replaced file counts within `look_again`, and on SIGHUP; open sessions go on."""
    first, second = make(tmp_path, "mail.x.mail"), make(tmp_path, "mail.y.mail")
    (data / "posthouse.toml").write_text(
        f'[tls]\nlook_again = 0.2\n[[certificate]]\nchain = "{first.pem}"\n[[certificate]]\nchain = "{second.pem}"\n'
    )
    with serving(data, "submissions") as server:
        place = server.submissions
        one, two = shown(place, "mail.x.mail", first.authority), shown(place, "mail.y.mail", second.authority)
        assert one != two
        with Raw(place) as session:
            session.start_tls(second.authority, "mail.y.mail")
            session.reply()
            third = make(tmp_path, "mail.y.mail")
            wait_for(lambda: "certificate_loaded" in server.log, lambda: server.log[-2000:])
            assert shown(place, "mail.y.mail", third.authority) == third.identity.certificate.serial_number != two
            assert shown(place, "mail.x.mail", first.authority) == one
            session.ask(b"NOOP", b"250")
        third.pem.write_text("not a certificate")
        server.signal(signal.SIGHUP)
        wait_for(lambda: "certificate_failed" in server.log and "reloaded" in server.log, lambda: server.log[-2000:])
        assert shown(place, "mail.y.mail", third.authority) == third.identity.certificate.serial_number
        assert not (data / "tls").exists()


def test_a_renewal_by_hand_beside_the_server(data: Path) -> None:
    (data / "posthouse.toml").write_text("[tls]\nlook_again = 0.2\n")
    with serving(data, "submissions") as server:
        before = shown(server.submissions, "mail.x.mail", server.authority)
        run_posthouse(data, "cert", "renew")
        wait_for(lambda: "certificate_loaded" in server.log, lambda: server.log[-2000:])
        assert shown(server.submissions, "mail.x.mail", server.authority) != before


def test_a_wrong_certificate_stops_the_start_with_its_reason(data: Path) -> None:
    (data / "posthouse.toml").write_text('[[certificate]]\nchain = "nowhere.pem"\n')
    done = run_posthouse(data, "serve", "--listen", "smtp=127.0.0.1:0", code=78)
    assert f"{data}/nowhere.pem is not there" in done.stderr and "Traceback" not in done.stderr


def test_tls_can_be_left_out(data: Path) -> None:
    (data / "posthouse.toml").write_text('[tls]\noffer = "no"\n')
    done = run_posthouse(data, "serve", "--listen", "pop3s=127.0.0.1:0", code=69)
    assert "needs TLS" in done.stderr
    with serving(data, "smtp") as server, greeted(server.smtp) as session:
        assert b"STARTTLS" not in session.ask(b"EHLO pc", b"250")
    assert not (data / "tls").exists()


def test_a_transcript_shows_the_words_within(data: Path, tmp_path: Path) -> None:
    """Decrypted, with a line that says what protected them, and no password."""
    options = ["--transcript", str(tmp_path / "seen")]
    with serving(data, "submission", options=options) as server, greeted(server.submission) as session:
        session.ask(b"STARTTLS", b"220")
        session.start_tls(server.authority)
        session.ask(b"EHLO pc", b"250")
        session.ask(b"QUIT", b"221")
    [file] = (tmp_path / "seen").iterdir()
    text = file.read_text()
    assert re.search(r"<-  STARTTLS.*\n -> 220.*\n=== TLSv1\.3 TLS_\w+.*\n<~  EHLO pc", text), text
    assert " ~> 221" in text


def test_a_server_with_tls_starts_at_once(data: Path) -> None:
    """Making an authority and its certificate must not be felt: the first start makes both (well under a second)."""
    with serving(data, "submissions") as server:
        assert (data / "tls" / "server.pem").exists()
        assert shown(server.submissions, "x.mail", server.authority)


# What `posthouse cert` tells and writes


def test_show_names_what_openssl_names(server: Server, authority: Path) -> None:
    """The fingerprints are those that other programs compute."""
    text = run_posthouse(server.data, "cert", "show").stdout
    command = ["openssl", "x509", "-in", str(authority), "-noout", "-fingerprint", "-sha256"]
    printed = subprocess.run(command, capture_output=True, text=True).stdout.partition("=")[2].strip()
    assert printed.replace(":", "").lower() in text
    assert "mail.x.mail" in text and "AUTHORITY" in text and "SERVER" in text


def test_export_in_other_forms(server: Server, authority: Path, tmp_path: Path) -> None:
    run_posthouse(server.data, "cert", "export", "--der", str(tmp_path / "authority.cer"))
    assert ssl.DER_cert_to_PEM_cert((tmp_path / "authority.cer").read_bytes()) == authority.read_text()
    assert run_posthouse(server.data, "cert", "export").stdout == authority.read_text()
    drawn = run_posthouse(server.data, "cert", "export", "--qr").stdout.splitlines()
    assert len(drawn) > 40 and len({len(line) for line in drawn}) == 1


def test_mail_settings_for_thunderbird_and_apple(server: Server, tmp_path: Path) -> None:
    """Both name the ports of the configuration and the host; Apple's carries the authority's certificate."""
    run_posthouse(server.data, "cert", "export", "--mail-settings", str(tmp_path / "out"), "--address", "anna@x.mail")
    root = ElementTree.fromstring((tmp_path / "out" / "config-v1.1.xml").read_bytes())
    assert root.attrib == {"version": "1.1"} and root.findtext("emailProvider/domain") == "x.mail"
    found = {
        server.attrib["type"]: (server.findtext("port"), server.findtext("socketType"))
        for server in [*root.iter("incomingServer"), *root.iter("outgoingServer")]
    }
    assert found == {"pop3": ("995", "SSL"), "smtp": ("465", "SSL")}
    profile = plistlib.loads((tmp_path / "out" / "posthouse.mobileconfig").read_bytes())
    trust, mail = profile["PayloadContent"]
    assert ssl.DER_cert_to_PEM_cert(trust["PayloadContent"]) == (tmp_path / "out" / "authority.crt").read_text()
    assert (mail["EmailAccountType"], mail["EmailAddress"]) == ("EmailTypePOP", "anna@x.mail")
    assert mail["IncomingMailServerHostName"] == root.findtext("emailProvider/incomingServer/hostname")
    assert (mail["IncomingMailServerPortNumber"], mail["OutgoingMailServerPortNumber"]) == (995, 465)


@pytest.mark.parametrize(
    "words",
    [
        ["authority.crt", "--qr"],
        ["authority.crt", "--mail-settings", "out"],
        ["--der", "--qr"],
        ["--der", "--mail-settings", "out"],
        ["--address", "anna@x.mail"],
        ["--qr", "--json"],
        ["--der", "--json"],
    ],
)
def test_an_option_that_would_do_nothing_is_refused(server: Server, tmp_path: Path, words: list[str]) -> None:
    """Would catch a certificate that somebody believes to have been written."""
    given = [str(tmp_path / word) if word in ("authority.crt", "out") else word for word in words]
    run_posthouse(server.data, "cert", "export", *given, code=64)
    assert list(tmp_path.iterdir()) == []


def test_own_certificates_are_not_ours_to_export_or_renew(data: Path, tmp_path: Path) -> None:
    made = make(tmp_path)
    (data / "posthouse.toml").write_text(f'[[certificate]]\nchain = "{made.pem}"\n')
    assert "whoever issued them" in run_posthouse(data, "cert", "renew", code=78).stderr
    assert "no authority here" in run_posthouse(data, "cert", "export", code=78).stderr
    assert str(made.pem) in run_posthouse(data, "cert", "show").stdout
