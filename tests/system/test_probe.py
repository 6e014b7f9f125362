"""`posthouse probe` at Postfix, Dovecot, our own server, and servers that do everything wrong."""

from __future__ import annotations

import json
import os
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.peers import POSTFIX_DAEMONS

from posthouse.cli.probe import probe as command
from tests.certificates import Made, make
from tests.system.dovecot import dovecot
from tests.system.programs import find_program, leave_out
from tests.system.relays import Relay, folder_for_servers
from tests.system.scripted import ScriptedServer, Talk, pop3, run, smtp
from tests.system.server import Endpoint, Server, find_command

Done = tuple[int, dict[str, Any]]


def probe(*arguments: str, host: str = "localhost", within: float = 20) -> Done:
    """Exit code and answer; standard error is silent and nothing is beyond its time."""
    begun = time.monotonic()
    done = run([find_command(), "probe", host, "--json", "--within", str(within), *arguments], timeout=50)
    assert done.stderr == b"" and time.monotonic() - begun < within + 15
    answer = json.loads(done.stdout)
    assert answer["code"] == done.returncode
    return done.returncode, answer


def codes(answer: dict[str, Any]) -> list[str]:
    return [one["code"] for one in answer["weaknesses"]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A certificate for localhost, and its authority."""
    return make(tmp_path_factory.mktemp("good"))


# Servers as they are


def test_our_own_server(server: Server) -> None:
    """Nothing is weak about it but what it allows on loopback, and only there."""
    names = {"smtp": server.smtp, "submission": server.submission, "submissions": server.submissions}
    names |= {"pop3": server.pop3, "pop3s": server.pop3s}
    ports = [f"--port={name}={end.port}" for name, end in names.items()]
    code, answer = probe(*ports, "--cacert", str(server.authority))
    assert set(codes(answer)) == {"login-in-clear"} and code == 1
    assert {one["port"] for one in answer["weaknesses"]} <= {server.submission.port, server.pop3.port, server.smtp.port}
    for port in answer["ports"]:
        assert (port["state"], port["finished"], port["trouble"]) == ("open", True, None)
        assert port["tls"]["verified"] and port["tls"]["version"] == "TLSv1.3" and port["tls"]["old_versions"] == []
        assert "localhost" in port["tls"]["certificate"]["names"] and len(port["tls"]["certificate"]["sha256"]) == 64
        at_once = port["protocol"].endswith("s")
        assert port["starttls"] != at_once and port["injection"] is (None if at_once else False)
        assert port["features_tls"]
    submission = next(port for port in answer["ports"] if port["protocol"] == "submission")
    assert "PIPELINING" in submission["features"] and "STARTTLS" not in submission["features_tls"]


def test_a_stranger_does_not_take_its_certificate(server: Server) -> None:
    """Without --cacert: not verified, and everything about the certificate is told all the same."""
    code, answer = probe(f"--port=pop3s={server.pop3s.port}")
    assert code == 1 and codes(answer) == ["certificate-not-verified"]
    tls = answer["ports"][0]["tls"]
    assert not tls["verified"] and "issuer" in tls["why_not"] and "Posthouse authority" in tls["certificate"]["issuer"]


class TlsRelay(Relay):
    """Postfix with STARTTLS, AUTH nowhere, VRFY as it is by default."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        super().__init__(folder, Endpoint("127.0.0.1", 1), "mx.x.mail")
        self._certificate = certificate

    def _main_cf(self) -> str:
        copy = self.folder / "tls.pem"
        copy.write_bytes(self._certificate.read_bytes())
        return super()._main_cf() + f"smtpd_tls_chain_files = {copy}\nsmtpd_tls_security_level = may\n"


def test_postfix(good: Made) -> None:
    find_program(str(POSTFIX_DAEMONS / "master"))
    if os.geteuid() != 0:
        leave_out("Postfix starts only as root")
    with folder_for_servers() as folder:
        relay = TlsRelay(folder, good.pem)
        try:
            relay.start(0)
            _, answer = probe(f"--port=smtp={relay.smtp_port}", "--cacert", str(good.authority))
            old = [version for version in ("TLSv1", "TLSv1.1") if openssl_takes(relay.smtp_port, version)]
        finally:
            relay.stop()
    port = answer["ports"][0]
    assert port["greeting"].startswith("220 mx.x.mail ESMTP") and "8BITMIME" in port["features"]
    assert port["tls"]["verified"] and port["injection"] is False
    assert port["tls"]["old_versions"] == old and ("old-tls" in codes(answer)) == bool(old)
    assert set(codes(answer)) <= {"vrfy", "old-tls"}


def openssl_takes(port: int, version: str) -> bool:
    """Whether OpenSSL's own client gets in with an old version."""
    option = {"TLSv1": "-tls1", "TLSv1.1": "-tls1_1"}[version]
    command = [find_program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-starttls", "smtp", option]
    done = run([*command, "-cipher", "ALL:@SECLEVEL=0"], given=b"QUIT\r\n")
    return b"Cipher is (NONE)" not in done.stdout and f"Protocol  : {version}".encode() in done.stdout


def test_dovecot_without_encryption() -> None:
    with dovecot("plain") as port:
        code, answer = probe(f"--port=pop3={port}", host="127.0.0.1")
    assert (code, sorted(codes(answer))) == (1, ["login-in-clear", "no-starttls"])
    assert answer["ports"][0]["greeting"].startswith("+OK") and "UIDL" in answer["ports"][0]["features"]


def test_dovecot_with_stls(good: Made) -> None:
    """It also asks for a login within TLS only, as it would of strangers."""
    more = f"ssl = required\nssl_cert = <{good.pem}\nssl_key = <{good.pem}\nssl_min_protocol = TLSv1.2\n"
    with dovecot("plain", more) as port:
        code, answer = probe(f"--port=pop3={port}", "--cacert", str(good.authority))
    found = answer["ports"][0]
    assert found["starttls"] and found["tls"]["verified"] and found["injection"] is False, answer
    assert "USER" in found["features_tls"] and found["tls"]["old_versions"] == []
    assert code in (0, 1) and set(codes(answer)) <= {"login-in-clear"}


# Servers that do it wrong, each in one way


def with_tls(
    certificate: Path, protocol: str = "smtp", *, versions: tuple[str, ...] = (), keeps: bool = False
) -> Callable[[Talk], None]:
    """A server with STARTTLS or STLS. `versions`: lowest and highest of TLS; `keeps` what stands behind STARTTLS."""
    greeting, go = (b"220 x\r\n", b"220 go\r\n") if protocol == "smtp" else (b"+OK x\r\n", b"+OK go\r\n")

    def script(talk: Talk) -> None:
        talk.say(greeting)
        secure = False
        while line := talk.line().upper():
            if line == b"EHLO [127.0.0.1]":
                talk.say(b"250-x\r\n250 SIZE\r\n" if secure else b"250-x\r\n250 STARTTLS\r\n")
            elif line == b"CAPA":
                talk.say(b"+OK\r\nTOP\r\n.\r\n" if secure else b"+OK\r\nTOP\r\nSTLS\r\n.\r\n")
            elif line in (b"STARTTLS", b"STLS"):
                talk.say(go)
                rest, talk._rest = talk._rest, b""
                if not start_tls(talk, certificate, versions):
                    return
                secure = True
                talk._rest = rest if keeps else b""
            elif line == b"QUIT":
                talk.say(b"221 bye\r\n" if protocol == "smtp" else b"+OK bye\r\n")
                return
            else:
                talk.say(b"252 maybe\r\n" if protocol == "smtp" else b"-ERR what\r\n")

    return script


def start_tls(talk: Talk, certificate: Path, versions: tuple[str, ...]) -> bool:
    """As Talk.start_tls, with versions that nobody should have."""
    if not versions:
        return talk.start_tls(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version, context.maximum_version = (getattr(ssl.TLSVersion, name) for name in versions)
    try:
        talk._socket = context.wrap_socket(talk._socket, server_side=True, do_handshake_on_connect=False)
        talk._socket.do_handshake()
    except OSError:
        return False
    return True


def look(script: Callable[[Talk], None], good: Made, protocol: str = "smtp", **options: Any) -> Done:
    with ScriptedServer(script) as server:
        return probe(f"--port={protocol}={server.port}", "--cacert", str(good.authority), **options)


@pytest.mark.parametrize("protocol", ["smtp", "pop3"])
def test_a_server_without_weaknesses(good: Made, protocol: str) -> None:
    code, answer = look(with_tls(good.pem, protocol), good, protocol)
    assert (code, codes(answer)) == (0, []), answer
    assert answer["ports"][0]["injection"] is False


@pytest.mark.parametrize("protocol", ["smtp", "pop3"])
def test_commands_that_are_carried_over_starttls(good: Made, protocol: str) -> None:
    """CVE-2011-0411. Would catch a probe that takes the kept command's reply for that of QUIT."""
    code, answer = look(with_tls(good.pem, protocol, keeps=True), good, protocol)
    assert (code, codes(answer), answer["ports"][0]["injection"]) == (1, ["injection"], True)


@pytest.mark.parametrize(
    ("versions", "old"),
    [(("TLSv1", "TLSv1_2"), ["TLSv1", "TLSv1.1"]), (("TLSv1_1", "TLSv1_3"), ["TLSv1.1"])],
)
def test_old_versions_of_tls(good: Made, versions: tuple[str, ...], old: list[str]) -> None:
    code, answer = look(with_tls(good.pem, versions=versions), good)
    assert (code, codes(answer), answer["ports"][0]["tls"]["old_versions"]) == (1, ["old-tls"], old)


def test_nothing_but_an_old_version(good: Made) -> None:
    """A careful client cannot speak to it at all; what there is is seen nevertheless."""
    code, answer = look(with_tls(good.pem, versions=("TLSv1", "TLSv1")), good)
    assert code == 1 and sorted(codes(answer)) == ["certificate-not-verified", "old-tls"]
    assert answer["ports"][0]["tls"]["certificate"]["names"] == ["localhost", "127.0.0.1", "::1"]


def test_an_expired_certificate(tmp_path: Path, good: Made) -> None:
    old = make(tmp_path, days_ago=500)
    code, answer = look(with_tls(old.pem), old)
    assert (code, codes(answer)) == (1, ["certificate-expired"])
    assert "expired" in answer["ports"][0]["tls"]["why_not"]


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    other = make(tmp_path, "other.x.mail")
    with ScriptedServer(with_tls(other.pem)) as server:
        code, answer = probe(f"--port=smtp={server.port}", "--cacert", str(other.authority))
    assert (code, codes(answer)) == (1, ["certificate-not-verified"])
    assert "Hostname mismatch" in answer["ports"][0]["tls"]["why_not"]


def test_a_certificate_that_signs_itself(tmp_path: Path) -> None:
    from bench.peers import make_certificate

    make_certificate(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "tls.key").read_bytes() + (tmp_path / "tls.crt").read_bytes())
    with ScriptedServer(with_tls(both)) as server:
        code, answer = probe(f"--port=smtp={server.port}")
    assert (code, codes(answer)) == (1, ["certificate-self-signed"])


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"vrfy": b"250 Postmaster <postmaster@x.mail>\r\n"}, ["vrfy"]),
        ({"expn": b"250 Anna <anna@x.mail>\r\n", "vrfy": b"252 maybe\r\n"}, ["expn"]),
        ({"expn": b"502 no\r\n", "vrfy": b"252 maybe\r\n"}, []),
        ({"expn": b"502 no\r\n", "vrfy": b"502 no\r\n"}, []),
    ],
)
def test_who_tells_strangers_about_mailboxes(good: Made, answers: dict[str, bytes], expected: list[str]) -> None:
    script = smtp(ehlo=b"250-x\r\n250 SIZE\r\n", **({"expn": b"550 no\r\n"} | answers))
    assert codes(look(script, good)[1]) == ["no-starttls", *expected]


def test_logins_in_clear(good: Made) -> None:
    assert codes(
        look(smtp(ehlo=b"250-x\r\n250-AUTH PLAIN CRAM-MD5\r\n250 AUTH=LOGIN\r\n", vrfy=b"502\r\n"), good)[1]
    ) == [
        "no-starttls",
        "login-in-clear",
        "expn",
    ]
    capa = b"+OK\r\nUSER\r\nSASL SCRAM-SHA-256\r\n.\r\n"
    assert codes(look(pop3(capa=capa), good, "pop3")[1]) == ["no-starttls", "login-in-clear"]


# Hostile servers


def babble(talk: Talk) -> None:
    talk.say(b"220-" + b"x" * 500 + b"\r\n")
    for _ in range(3000):
        talk.say(b"220-babble babble\r\n" * 50)


def slow_greeting(talk: Talk) -> None:
    talk.say_slowly(b"220-x.mail ESMTP\r\n220-second part\r\n220 third\r\n")
    smtp(greeting=b"", ehlo=b"250 x\r\n")(talk)


def no_handshake(talk: Talk) -> None:
    talk.say(b"220 x\r\n")
    talk.line()
    talk.say(b"250-x\r\n250 STARTTLS\r\n")
    talk.line()
    talk.say(b"220 go\r\n" + b"\0" * 2000)
    talk.rest()


@pytest.mark.parametrize(
    ("protocol", "script", "trouble"),
    [
        ("smtp", lambda talk: None, "closed the connection"),
        ("smtp", lambda talk: talk.say(b"\0\0\0\0\r\n"), "no SMTP"),
        ("smtp", lambda talk: talk.say(b"554 5.7.1 not you \x1b[2J\r\n"), "does not want to talk"),
        ("smtp", babble, "does not end"),
        ("smtp", smtp(greeting=b"+OK POP3\r\n"), "no SMTP"),
        ("smtp", no_handshake, ""),
        ("pop3", lambda talk: talk.say(b"-ERR go away\r\n"), "does not want to talk"),
        ("pop3", pop3(greeting=b"220 SMTP\r\n"), "no POP3"),
        ("pop3", pop3(capa=b"+OK\r\n" + b"X-LINE\r\n" * 40_000 + b".\r\n"), "too long"),
        ("pop3s", lambda talk: talk.say(b"+OK not TLS\r\n"), ""),
        ("submissions", lambda talk: talk.rest(), ""),
    ],
)
def test_a_hostile_server(good: Made, protocol: str, script: Callable[[Talk], None], trouble: str) -> None:
    """Ends in time, tells why it went no further, prints nothing that drives a terminal."""
    _, answer = look(script, good, protocol, within=4)
    port = answer["ports"][0]
    assert port["state"] == "open" and trouble in (port["trouble"] or "")
    with ScriptedServer(script) as server:
        done = run([find_command(), "probe", "localhost", f"--port={protocol}={server.port}", "--within", "2"])
    assert done.returncode in (0, 1) and b"\x1b" not in done.stdout and done.stderr == b""


def test_a_greeting_cut_at_every_octet(good: Made) -> None:
    _, answer = look(slow_greeting, good)
    assert answer["ports"][0]["greeting"] == "220 x.mail ESMTP second part third"


def test_a_silent_server_costs_its_time_and_no_more(good: Made) -> None:
    begun = time.monotonic()
    code, answer = look(lambda talk: talk.rest(), good, within=1)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 15 and answer["ports"][0]["finished"] is False and code == 0


def test_nothing_answers_and_nobody_is_known() -> None:
    code, answer = probe("--port=smtp=1", "--port=pop3s=2")
    assert code == 75 and [port["state"] for port in answer["ports"]] == ["closed", "closed"]
    done = run([find_command(), "probe", "nobody.invalid"])
    assert done.returncode == 68 and b"not known" in done.stderr
    text = run([find_command(), "probe", "localhost", "--port=smtp=1"])
    assert text.returncode == 75 and b"closed" in text.stdout and b"No port of localhost answers" in text.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 64),
        (("host:25",), 64),
        (("localhost", "--port", "smtp"), 64),
        (("localhost", "--port", "gopher=70"), 64),
        (("localhost", "--port", "smtp=0"), 64),
        (("localhost", "--cacert", "/nowhere"), 66),
        (("localhost", "--cacert", "/etc/hostname"), 66),
    ],
)
def test_what_cannot_be_probed(arguments: tuple[str, ...], code: int) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(command, [*arguments, "--json"])
    assert done.exit_code == json.loads(done.stdout)["code"] == code


def test_imap_is_only_looked_at() -> None:
    def script(talk: Talk) -> None:
        talk.say(b"* OK IMAP4rev1 \x1b]0;x\x07 ready\r\n")
        talk.rest()

    with ScriptedServer(script) as server:
        code, answer = probe(f"--port=imap={server.port}", f"--port=imaps={server.port}")
    assert code == 0 and [port["state"] for port in answer["ports"]] == ["open", "open"]
    assert answer["ports"][0]["greeting"].startswith("* OK IMAP4rev1") and server.heard == []


@pytest.fixture
def screen(good: Made) -> Iterator[str]:
    with ScriptedServer(with_tls(good.pem)) as server:
        command = [find_command(), "probe", "localhost", f"--port=smtp={server.port}", "--cacert", str(good.authority)]
        yield run(command).stdout.decode().replace(str(server.port), "25")


def test_the_table_for_people(screen: str) -> None:
    assert "verified, to " in screen and "STARTTLS TLSv1.3" in screen and "No weaknesses were found." in screen
    assert "  greeting    220 x\n" in screen and "  within TLS  SIZE\n" in screen


def test_the_transcript_shows_every_connection_in_order(good: Made) -> None:
    with ScriptedServer(with_tls(good.pem)) as server, ScriptedServer(with_tls(good.pem, "pop3")) as other:
        ports = [f"--port=smtp={server.port}", f"--port=pop3={other.port}"]
        done = run([find_command(), "probe", "localhost", *ports, "--cacert", str(good.authority), "-qv"])
    said = done.stderr.decode()
    assert done.returncode == 0 and done.stdout == b""
    assert said.count("=== connect") >= 8 and " -> STARTTLS" in said and "<~  250-x" in said
    assert said.rindex(" -> STARTTLS") < said.index(" -> STLS"), "one port after the other"


def test_json_drives_no_terminal(good: Made) -> None:
    """C1 control characters and marks that reorder text are escaped in JSON too."""
    _, answer = look(smtp(greeting="220 x \x9b2J\u202e\r\n".encode(), ehlo=b"250 x\r\n"), good)
    assert "\u202e" in answer["ports"][0]["greeting"]
    with ScriptedServer(smtp(greeting="220 x \x9b2J\u202e\r\n".encode(), ehlo=b"250 x\r\n")) as server:
        done = run([find_command(), "probe", "localhost", f"--port=smtp={server.port}", "--json"])
    assert b"\\u202e" in done.stdout and "\u202e".encode() not in done.stdout and "\x9b".encode() not in done.stdout
