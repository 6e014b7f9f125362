"""Letters carried on by us to servers nobody here wrote, and back: what arrives is what was sent."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Made, make
from tests.system.destinations import Destination, dovecot_lmtp, postfix_destination
from tests.system.letters import letter
from tests.system.outgoing import add_route, is_empty, queued, submit, wait_gone, wait_letters, wait_notice
from tests.system.relays import opensmtpd
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, prepared: Path, made: Made) -> Iterator[Server]:
    """A server that believes the authority of the tests."""
    data = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("ours") / "data"))
    trust = {"SSL_CERT_FILE": str(made.authority)}
    with serving(data, "smtp", "submission", "pop3", environment=trust) as server:
        yield server


@pytest.fixture(scope="module")
def postfix(ours: Server, made: Made) -> Iterator[Destination]:
    with postfix_destination(made.pem, ours.smtp) as destination:
        add_route(ours.data, "next.example", f"localhost:{destination.smtp_port}", tls="verified")
        yield destination


def hops(content: bytes) -> list[str]:
    """The Received fields of a letter, unfolded, the newest first."""
    header = re.sub(rb"\r\n[ \t]+", b" ", content.partition(b"\r\n\r\n")[0]).decode()
    return [line for line in header.split("\r\n") if line.startswith("Received:")]


def test_postfix_next_and_before(ours: Server, postfix: Destination) -> None:
    """With a login to us, over verified TLS to Postfix, which forwards it over TLS back to us, for another mailbox:
    would catch octets that change on the way, and a Received field that lacks."""
    content = letter("dots")
    number = submit(ours.submission, SENDER, "back@next.example", content=content)
    [arrived] = wait_letters(ours.pop3, READER)
    assert arrived.endswith(content.partition(b"\r\n\r\n")[2]), "the body is another one"
    assert content in arrived, "the letter is another one"
    first, second, third = hops(arrived)  # by us from Postfix, by Postfix from us, by us from the program
    assert "from mx.next.example" in first and "ESMTPS" in first
    assert "by mx.next.example (Postfix)" in second and "TLSv1.3" in second
    assert "with ESMTPA id " + number in third
    wait_gone(ours.data, number)
    [line] = [line for line in ours.log.splitlines() if " relay " in line and number in line]
    assert "relayed=1" in line and "tls=" in line and "TLSv1.3" in line, line
    assert is_empty(ours, SENDER)


@pytest.mark.parametrize("kind", ["0 B", "dots", "attachment", "998 octets"])
def test_every_kind_of_letter_arrives_as_it_is(ours: Server, postfix: Destination, kind: str) -> None:
    before = postfix.letters("anna")
    content = letter(kind)
    submit(ours.submission, SENDER, "anna@next.example", content=content)
    [arrived] = [one for one in postfix.wait_letters(len(before) + 1, "anna") if one not in before]
    assert content.partition(b"\r\n\r\n")[2] in arrived


def test_many_recipients_take_one_transaction(ours: Server, postfix: Destination) -> None:
    """One letter to three there and one here: Postfix gets it once."""
    before = len(postfix.letters())
    number = submit(ours.submission, SENDER, "boris@next.example", "nobody@next.example", READER)
    wait_gone(ours.data, number)
    postfix.wait_letters(before + 1)
    wait_letters(ours.pop3, READER)
    notice = wait_notice(ours, SENDER)
    notice.check("failed", "nobody@next.example", "5.1.1")
    assert "User unknown in virtual mailbox table" in notice.report.fates[0].diagnostic
    assert ours.log.count(f"relay letter={number}") == 1


def test_opensmtpd_next_and_before(ours: Server, tmp_path: Path) -> None:
    """From us to OpenSMTPD, and from there to another server of ours."""
    data = tmp_path / "theirs"
    run_posthouse(data, "domain", "add", "far.example")
    add_account(data, "boris@far.example")
    content = letter("8-bit")
    with serving(data, "smtp", "pop3") as theirs, opensmtpd(theirs.smtp, "mx.far.example") as between:
        add_route(ours.data, "far.example", between.url)
        submit(ours.submission, SENDER, "boris@far.example", content=content)
        [arrived] = wait_letters(theirs.pop3, "boris@far.example")
    assert content in arrived
    assert len(hops(arrived)) == 3 and "OpenSMTPD" in hops(arrived)[1]


def test_dovecot_by_lmtp(ours: Server) -> None:
    """LMTP answers for each recipient by itself (RFC 2033 §4.2)."""
    with dovecot_lmtp("boris@lists.example", "anna@lists.example") as (dovecot, mail):
        add_route(ours.data, "lists.example", f"127.0.0.1:{dovecot.lmtp_port}", more=["--lmtp"])
        content = letter("dots")
        people = [f"{name}@lists.example" for name in ("boris", "nobody", "anna")]
        number = submit(ours.submission, SENDER, *people, content=content)
        wait_notice(ours, SENDER).check("failed", "nobody@lists.example", "5.1.1")
        assert queued(ours.data, number) == []
        for name in ("boris", "anna"):
            [file] = (mail / name / "new").glob("*")
            assert content in file.read_bytes().replace(b"\n", b"\r\n")


def test_a_smarthost_of_ours(tmp_path: Path, prepared: Path) -> None:
    """Everything goes to another Posthouse, with a login, over TLS that its own authority vouches for; its submission
    takes it, and sends it on to the end."""
    smarthost = prepare_data(tmp_path / "smarthost")
    add_account(smarthost, "office@x.mail")
    run_posthouse(smarthost, "account", "grant-sender", "office@x.mail", SENDER)
    run_posthouse(smarthost, "domain", "add", "far.example")
    add_account(smarthost, "boris@far.example")
    office = Path(shutil.copytree(prepared, tmp_path / "office"))
    with serving(smarthost, "submission", "submissions", "pop3") as theirs:
        trust = {"SSL_CERT_FILE": str(theirs.authority)}
        with serving(office, "submission", "pop3", environment=trust) as server:
            for port, tls in ((theirs.submission.port, "verified"), (theirs.submissions.port, "implicit")):
                add_route(office, "*", f"localhost:{port}", tls=tls, more=["--login", "office@x.mail"])
                submit(server.submission, SENDER, "boris@far.example")
                [arrived] = wait_letters(theirs.pop3, "boris@far.example")
                assert arrived.startswith(f"Return-Path: <{SENDER}>".encode())
                assert "ESMTPSA" in hops(arrived)[0]
            assert "login=office@x.mail" in theirs.log
        # Whoever does not believe the authority keeps the letter.
        with serving(office, "submission", "pop3") as server:
            number = submit(server.submission, SENDER, "boris@far.example")
            wait_for(lambda: f"relay letter={number}" in server.log, lambda: server.log[-2000:])
            [item] = queued(office, number)
            assert item["status"] == "4.7.5" and "certificate" in item["reply"], item
            assert PASSWORD not in server.log


def test_a_smarthost_with_a_login_of_dovecot(ours: Server, made: Made) -> None:
    """Postfix with SASL; without the right login it takes nothing."""
    with dovecot_lmtp("office@next.example") as (dovecot, _):
        sasl = f"""
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {dovecot.auth_socket}
smtpd_tls_auth_only = yes
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""
        with postfix_destination(made.pem, ours.smtp, sasl) as postfix:
            target = f"localhost:{postfix.smtp_port}"
            add_route(ours.data, "next.example", target, tls="verified", more=["--login", "office@next.example"])
            submit(ours.submission, SENDER, "boris@next.example")
            [arrived] = postfix.wait_letters()
            assert b"(Authenticated sender" in arrived or b"ESMTPSA" in arrived
            # Without the login it is refused, and the sender is told why: the session that had one is not used again.
            add_route(ours.data, "next.example", target, tls="verified")
            submit(ours.submission, SENDER, "boris@next.example")
            wait_notice(ours, SENDER).check("failed", "boris@next.example", "5.7.1")
    run_posthouse(ours.data, "route", "remove", "next.example")
