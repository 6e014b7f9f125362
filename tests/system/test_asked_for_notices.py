"""Notices that senders ask for (RFC 3461): passed on to hosts that know them, written by us where they do not."""

from __future__ import annotations

import email
import email.policy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Made, make
from tests.system.destinations import Destination, postfix_destination
from tests.system.next_host import OFFER, next_host, taken
from tests.system.outgoing import add_route, is_empty, submit, wait_gone, wait_letters, wait_notice
from tests.system.raw import collect, greeted, stuffed
from tests.system.server import READER, SENDER, Server, run_posthouse, serving, wait_for

DSN = OFFER.replace(b"250-ENH", b"250-DSN\r\n250-ENH")
EIGHT_BIT = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nПривет, мир. Grüße.\r\n"
HEAD = f"From: <{SENDER}>\r\nTo: boris@next.example\r\nSubject: Hello\r\nMessage-ID: <hello@x.mail>\r\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Server]:
    data = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("ours") / "data"))
    with serving(data, "smtp", "submission", "pop3") as server:
        yield server


@pytest.fixture(scope="module")
def postfix(ours: Server, made: Made) -> Iterator[Destination]:
    with postfix_destination(made.pem, ours.smtp) as destination:
        add_route(ours.data, "next.example", destination.endpoint.url, tls="required")
        yield destination


# Mailboxes here


def test_success_for_a_mailbox_here(ours: Server) -> None:
    submit(ours.submission, SENDER, READER, mail="RET=HDRS ENVID=QQ+2B314159", rcpt="NOTIFY=SUCCESS")
    collect(ours.pop3, READER)
    notice = wait_notice(ours, SENDER)
    notice.check("delivered", READER, "2.0.0")
    assert notice.subject == "Successful delivery"
    assert notice.fields[0]["Original-Envelope-Id"] == "QQ+314159"
    assert "QQ+314159" not in notice.fields[1].values()


@pytest.mark.parametrize("notify", ["", "NOTIFY=NEVER", "NOTIFY=FAILURE", "NOTIFY=DELAY,FAILURE"])
def test_nothing_for_a_mailbox_here(ours: Server, notify: str) -> None:
    submit(ours.submission, SENDER, READER, rcpt=notify)
    assert len(wait_letters(ours.pop3, READER)) == 1
    assert is_empty(ours, SENDER)


def test_a_notice_to_itself_is_never_written(ours: Server) -> None:
    """From the null reverse-path, whatever it asks for (RFC 5321 §4.5.5)."""
    run_posthouse(ours.data, "network", "add", "127.0.0.1", "--allow", "relay")
    with next_host({"rcpt": b"550 5.1.1 unknown\r\n"}) as host, greeted(ours.smtp) as session:
        add_route(ours.data, "wrong.example", host.address)
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<boris@wrong.example> NOTIFY=SUCCESS,FAILURE", b"250")
        session.ask(b"DATA", b"354")
        session.send(stuffed(HEAD.encode() + b"\r\nHi\r\n"))
        number = session.reply().split()[4].decode()
        wait_gone(ours.data, number)
    run_posthouse(ours.data, "network", "remove", "127.0.0.1")
    [line] = [line for line in ours.log.splitlines() if "given_up" in line and number in line]
    assert "told=false" in line
    assert is_empty(ours, SENDER)


# Mailboxes elsewhere


def test_success_is_passed_on_to_postfix(ours: Server, postfix: Destination) -> None:
    """Postfix knows DSN: it writes the notice and hands it to us; we write none."""
    number = submit(
        ours.submission,
        SENDER,
        "boris@next.example",
        mail="ENVID=from-our-program",
        rcpt="NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old+2Bboris@next.example",
    )
    wait_gone(ours.data, number)
    [notice] = wait_letters(ours.pop3, SENDER)
    assert b"Reporting-MTA: dns; mx.next.example" in notice
    assert b"Action: delivered" in notice
    assert b"Original-Envelope-Id: from-our-program" in notice
    assert b"Original-Recipient: rfc822;old+boris@next.example" in notice
    assert is_empty(ours, SENDER)


def test_postfix_reads_what_was_asked(ours: Server, postfix: Destination) -> None:
    """NOTIFY=NEVER: not even the failure."""
    number = submit(ours.submission, SENDER, "nobody@next.example", "boris@next.example", rcpt="NOTIFY=NEVER")
    wait_gone(ours.data, number)
    postfix.wait_letters(len(postfix.letters()))
    assert is_empty(ours, SENDER)


def test_success_where_the_host_knows_no_notices(ours: Server, made: Made) -> None:
    """Postfix without DSN: the last that can be said is said by us: relayed."""
    with postfix_destination(made.pem, ours.smtp, "smtpd_discard_ehlo_keywords = dsn") as postfix:
        add_route(ours.data, "next.example", postfix.endpoint.url, tls="required", more=["--note", "no DSN"])
        orcpt = "ORCPT=rfc822;old+2Bboris@next.example"
        submit(ours.submission, SENDER, "boris@next.example", rcpt=f"NOTIFY=SUCCESS {orcpt}")
        postfix.wait_letters()
        notice = wait_notice(ours, SENDER)
    notice.check("relayed", "boris@next.example", "2.0.0")
    assert notice.subject == "Handed on to another server"
    assert notice.fields[1]["Original-Recipient"] == "rfc822;old+boris@next.example"
    assert notice.fields[1]["Remote-MTA"] == "dns; 127.0.0.1"


@pytest.mark.parametrize(("ret", "whole"), [("RET=FULL", True), ("RET=HDRS", False), ("", False)])
def test_what_comes_back_of_a_letter(ours: Server, domain: str, ret: str, whole: bool) -> None:
    content = f"{HEAD}\r\nThe text of the letter\r\n".encode()
    with next_host({"end": b"554 5.6.0 no\r\n"}) as host:
        add_route(ours.data, domain, host.address)
        submit(ours.submission, SENDER, f"boris@{domain}", content=content, mail=ret)
        notice = wait_notice(ours, SENDER)
    *_, returned = notice.message.iter_parts()
    kind = returned.get_content_type()
    assert kind == ("message/rfc822" if whole else "text/rfc822-headers")
    assert (b"The text of the letter" in notice.octets) is whole
    assert b"Subject: Hello" in notice.octets.partition(b"Content-Type: " + kind.encode())[2]


def test_what_is_passed_on_to_a_host_that_knows_notices(ours: Server, domain: str) -> None:
    with next_host({}, offer=DSN) as host:
        add_route(ours.data, domain, host.address)
        submit(
            ours.submission,
            SENDER,
            f"boris@{domain}",
            mail="RET=HDRS ENVID=a+2Bb",
            rcpt="NOTIFY=FAILURE,DELAY ORCPT=rfc822;b+2Bc@old.example",
        )
        wait_for(lambda: bool(taken(host)), lambda: ours.log[-2000:])
        [mail] = [line for line in host.heard if line.startswith(b"MAIL")]
        [rcpt] = [line for line in host.heard if line.startswith(b"RCPT")]
    assert b" RET=HDRS" in mail and b" ENVID=a+2Bb" in mail
    assert (
        b" NOTIFY=" in rcpt and b"FAILURE" in rcpt and b"DELAY" in rcpt and b" ORCPT=rfc822;b+2Bc@old.example" in rcpt
    )
    assert is_empty(ours, SENDER)


# Letters that a host cannot take as they are


def test_eight_bit_to_a_host_without_it(ours: Server, domain: str) -> None:
    """It arrives, rewritten, and reads the same (RFC 6152 §3)."""
    content = f"{HEAD}MIME-Version: 1.0\r\n{EIGHT_BIT}".encode()
    with next_host(offer=b"250-old.example\r\n250 SIZE 100000\r\n") as host:
        add_route(ours.data, domain, host.address)
        wait_gone(ours.data, submit(ours.submission, SENDER, f"boris@{domain}", content=content))
        [octets] = taken(host)
    assert octets.isascii()
    message = email.message_from_bytes(octets, policy=email.policy.SMTP)
    assert message.get_content() == "Привет, мир. Grüße.\r\n"
    assert message["Content-Transfer-Encoding"] in ("quoted-printable", "base64")


def test_utf8_to_a_host_without_it(ours: Server, domain: str) -> None:
    """An address that the host cannot be told: the letter comes back (RFC 6531 §3.5), the notice names the address in
    the form that any program reads (RFC 6533 §3)."""
    with next_host() as host:
        add_route(ours.data, domain, host.address)
        submit(ours.submission, SENDER, f"борис@{domain}", mail="SMTPUTF8")
        notice = wait_notice(ours, SENDER)
        assert taken(host) == []
    notice.check("failed", f"борис@{domain}", "5.6.7")
    assert notice.octets.partition(b"\r\n\r\n")[2].isascii() or b"message/global" in notice.octets
    assert notice.fields[1]["Final-Recipient"].startswith("utf-8;")
    assert f"борис@{domain}" in notice.text


def test_utf8_to_postfix_which_has_it(ours: Server, made: Made) -> None:
    with postfix_destination(made.pem, ours.smtp, "recipient_delimiter = +") as postfix:
        (postfix.folder / "postfix" / "recipients").write_text("борис@next.example boris/\n")
        add_route(ours.data, "next.example", postfix.endpoint.url, tls="required", more=["--note", "UTF-8"])
        content = f"{HEAD.replace('Hello', 'Привет')}\r\nHi\r\n".encode()
        submit(ours.submission, SENDER, "борис@next.example", content=content, mail="SMTPUTF8")
        [arrived] = postfix.wait_letters()
        assert "Subject: Привет".encode() in arrived
