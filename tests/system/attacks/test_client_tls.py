"""Our clients against servers, and people on the way, who want the password or the letter in the clear (F5)."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from posthouse.net.localca import key_fingerprint
from tests.certificates import Made, make
from tests.system.scripted import READ, SEND, ScriptedServer, Talk, pop3, run, smtp

LETTER = ["test2@x.mail", "-f", "test@x.mail", "-s", "Subject", "-m", "text", "-u", "test", "--timeout", "5", "--json"]
OFFER = b"250-x.mail\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A good certificate for localhost."""
    return make(tmp_path_factory.mktemp("certificates"))


def send(script: Callable[[Talk], None], *options: str, scheme: str = "smtp") -> tuple[int, dict[str, object], bytes]:
    """Exit code, the JSON answer, and all that the server heard in the clear or decrypted."""
    with ScriptedServer(script) as server:
        done = run([*SEND, "--wait", "--url", f"{scheme}://localhost:{server.port}", *LETTER, *options])
    return done.returncode, json.loads(done.stdout), b"\n".join(server.heard)


def read(script: Callable[[Talk], None], *options: str, scheme: str = "pop3") -> tuple[int, dict[str, object], bytes]:
    with ScriptedServer(script) as server:
        url = f"{scheme}://test@localhost:{server.port}"
        done = run([*READ, "list", "--url", url, "--timeout", "5", "--json", *options])
    return done.returncode, json.loads(done.stdout), b"\n".join(server.heard)


def starttls(made: Made, behind: bytes = b"", *, slowly: bool = False) -> Callable[[Talk], None]:
    """A server with STARTTLS whose go-ahead has something behind it."""

    def script(talk: Talk) -> None:
        talk.say(b"220 x.mail\r\n")
        talk.line()
        talk.say(OFFER)
        talk.line()
        (talk.say_slowly if slowly else talk.say)(b"220 go\r\n" + behind)
        if talk.start_tls(made.pem):
            inner = smtp(greeting=b"", ehlo=b"250-x.mail\r\n250 AUTH PLAIN\r\n")
            inner(talk)

    return script


def stls(made: Made, behind: bytes = b"") -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        talk.say(b"+OK\r\n")
        talk.line()
        talk.say(b"+OK\r\nUSER\r\nSTLS\r\n.\r\n")
        talk.line()
        talk.say(b"+OK go\r\n" + behind)
        if talk.start_tls(made.pem):
            pop3(greeting=b"")(talk)

    return script


def test_starttls_works_when_nobody_interferes(made: Made) -> None:
    """The control: the same server without an attack gets the letter, encrypted, and EHLO a second time."""
    code, answer, heard = send(starttls(made), "--cacert", str(made.authority))
    assert (code, answer["ok"]) == (0, True)
    assert heard.count(b"EHLO") == 2 and heard.index(b"STARTTLS") < heard.index(b"AUTH PLAIN")


def test_stls_works_when_nobody_interferes(made: Made) -> None:
    code, _, heard = read(stls(made), "--cacert", str(made.authority))
    assert code == 0
    assert heard.startswith(b"CAPA\nSTLS\nCAPA\nUSER test\nPASS secret word")


@pytest.mark.parametrize("behind", [b"250-x.mail\r\n250 AUTH PLAIN\r\n", b"2", b"250-x.mail\r\n250"])
def test_words_behind_the_220_abort(made: Made, behind: bytes) -> None:
    """Would catch a client that takes an injected reply for one that came encrypted."""
    code, answer, heard = send(starttls(made, behind), "--cacert", str(made.authority))
    assert (code, answer["stage"]) == (76, "tls")
    assert b"AUTH" not in heard and b"MAIL" not in heard


def test_words_behind_the_220_in_packets_of_their_own_abort(made: Made) -> None:
    """Octet by octet: what came after the go-ahead meets the handshake and breaks it."""
    code, answer, heard = send(starttls(made, b"250 AUTH PLAIN\r\n", slowly=True), "--cacert", str(made.authority))
    assert (code, answer["stage"]) == (76, "tls")
    assert b"AUTH" not in heard and b"MAIL" not in heard


def test_a_reply_put_in_before_starttls_aborts(made: Made) -> None:
    """A second reply to EHLO, kept back until it is taken for the one to STARTTLS: the real one then breaks it."""

    def script(talk: Talk) -> None:
        talk.say(b"220 x.mail\r\n")
        talk.line()
        talk.say(OFFER + b"220 go\r\n")
        talk.line()
        talk.say(b"220 go\r\n")
        talk.start_tls(made.pem)

    code, answer, heard = send(script, "--cacert", str(made.authority))
    assert code == 76 and b"AUTH" not in heard and b"MAIL" not in heard, answer


@pytest.mark.parametrize("behind", [b"+OK\r\n", b"+", b"+OK\r\n+OK\r\n"])
def test_words_behind_the_ok_of_stls_abort(made: Made, behind: bytes) -> None:
    code, answer, heard = read(stls(made, behind), "--cacert", str(made.authority))
    assert (code, answer["stage"]) == (76, "tls")
    assert b"USER" not in heard and b"PASS" not in heard


@pytest.mark.parametrize("option", ["--tls", "--cacert", "--pin"])
def test_a_stripped_offer_aborts_where_tls_was_asked_for(made: Made, option: str) -> None:
    """No password and no letter in the clear, with exit code 77."""
    value = {"--tls": [], "--cacert": [str(made.authority)], "--pin": ["0" * 64]}[option]
    code, answer, heard = send(smtp(), option, *value)
    assert (code, answer["stage"]) == (77, "tls")
    assert b"AUTH" not in heard and b"MAIL" not in heard
    code, answer, heard = read(pop3(capa=b"+OK\r\nUSER\r\n.\r\n"), option, *value)
    assert (code, answer["stage"]) == (77, "tls")
    assert b"USER" not in heard


def test_a_refused_starttls_is_no_leave_to_go_on_in_the_clear(made: Made) -> None:
    def script(talk: Talk) -> None:
        talk.say(b"220 x.mail\r\n")
        while line := talk.line():
            talk.say({b"EHLO": OFFER, b"STAR": b"454 4.7.0 not now\r\n"}.get(line[:4], b"250 OK\r\n"))

    code, answer, heard = send(script, "--tls")
    assert (code, answer["stage"]) == (75, "tls")
    assert b"AUTH" not in heard and b"MAIL" not in heard


def bad(kind: str, folder: Path) -> tuple[Made, list[str]]:
    """A certificate that must be refused, and the options with which a careful person calls."""
    good = make(folder, name="good")
    if kind == "expired":
        old = make(folder, name="old", days_ago=500)
        return old, ["--cacert", str(old.authority)]
    if kind == "wrong host":
        other = make(folder, "other.example")
        return other, ["--cacert", str(other.authority)]
    if kind == "unknown authority":
        return make(folder, name="unknown"), ["--cacert", str(good.authority)]
    return good, {"not pinned": ["--pin", "ab" * 32], "not the system's": []}[kind]


@pytest.mark.parametrize("kind", ["expired", "wrong host", "unknown authority", "not pinned", "not the system's"])
@pytest.mark.parametrize("scheme", ["smtps", "pop3s"])
def test_a_bad_certificate_is_refused_with_77(kind: str, scheme: str, tmp_path: Path) -> None:
    """And nothing is said within the session; -k goes on and warns."""
    made, options = bad(kind, tmp_path)

    def script(talk: Talk) -> None:
        if talk.start_tls(made.pem):
            (smtp() if scheme == "smtps" else pop3(capa=b"+OK\r\n.\r\n"))(talk)

    run_one = send if scheme == "smtps" else read
    code, answer, heard = run_one(script, *options, scheme=scheme)
    assert (code, answer["stage"], heard) == (77, "tls", b"")
    if "--pin" in options:
        return
    with ScriptedServer(script) as server:
        url = f"{scheme}://test@localhost:{server.port}"
        command = [*SEND, *LETTER] if scheme == "smtps" else [*READ, "list"]
        done = run([*command, "--url", url, "-k"])
    assert done.returncode == 0, done
    assert b"Warning: the server's certificate is not checked" in done.stderr


@pytest.mark.parametrize("of", ["certificate", "key"])
def test_a_pin_of_the_certificate_or_its_key_is_believed(made: Made, of: str) -> None:
    """As people copy it from openssl, with colons; no authority is needed."""
    der = ssl.PEM_cert_to_DER_cert(_certificate(made.pem))
    printed = subprocess.run(
        ["openssl", "x509", "-in", str(made.pem), "-noout", "-fingerprint", "-sha256"], capture_output=True, text=True
    ).stdout
    pin = printed.partition("=")[2].strip() if of == "certificate" else key_fingerprint(der)
    code, answer, _ = send(starttls(made), "--pin", pin)
    assert code == 0, answer


def _certificate(pem: Path) -> str:
    text = pem.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def test_very_verbose_shows_the_version_and_the_certificate(made: Made) -> None:
    with ScriptedServer(starttls(made)) as server:
        url = f"smtp://localhost:{server.port}"
        done = run([*SEND, "--url", url, *LETTER, "--cacert", str(made.authority), "-vv"])
    said = done.stderr.decode()
    assert "=== TLSv1.3 TLS_" in said and "=== certificate localhost" in said and "valid to 20" in said
    assert " ~> AUTH PLAIN ********" in said and "secret word" not in said
