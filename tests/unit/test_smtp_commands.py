"""Commands of SMTP: read and printed by one grammar (RFC 5321 §4.1.1)."""

from __future__ import annotations

import pytest

from posthouse.mail.address import Address
from posthouse.mail.reply import PeerError
from posthouse.smtp.commands import (
    AnyCommand,
    Auth,
    Bdat,
    Data,
    Ehlo,
    Expn,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Obsolete,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
    parse_command,
)
from posthouse.smtp.grammar import decode_xtext, encode_xtext

A = Address("a", "x.mail")
COMMANDS: list[tuple[str, AnyCommand]] = [
    ("EHLO client.example", Ehlo("client.example")),
    ("HELO [192.0.2.7]", Helo("[192.0.2.7]")),
    ("LHLO client", Lhlo("client")),
    ("MAIL FROM:<>", Mail(None)),
    ("MAIL FROM:<a@x.mail>", Mail(A)),
    (
        "MAIL FROM:<a@x.mail> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc AUTH=b@x.mail",
        Mail(A, 10, "8BITMIME", True, "HDRS", "a+b=c", "b@x.mail"),
    ),
    ("MAIL FROM:<a@x.mail> AUTH=<>", Mail(A, auth="")),
    ('MAIL FROM:<"a > b"@x.mail>', Mail(Address("a > b", "x.mail"))),
    ("RCPT TO:<a@x.mail>", Rcpt(A)),
    ("RCPT TO:<postmaster>", Rcpt(Address("postmaster", ""))),
    ("RCPT TO:<a@x.mail> NOTIFY=NEVER", Rcpt(A, ("NEVER",))),
    (
        "RCPT TO:<a@x.mail> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b+2Bc@x.mail",
        Rcpt(A, ("SUCCESS", "FAILURE", "DELAY"), "rfc822;b+c@x.mail"),
    ),
    ("DATA", Data()),
    ("BDAT 0", Bdat(0)),
    ("BDAT 86 LAST", Bdat(86, True)),
    ("RSET", Rset()),
    ("NOOP", Noop()),
    ("NOOP some text", Noop("some text")),
    ("QUIT", Quit()),
    ("HELP", Help()),
    ("HELP MAIL", Help("MAIL")),
    ("VRFY Smith", Vrfy("Smith")),
    ("EXPN staff", Expn("staff")),
    ("AUTH LOGIN", Auth("LOGIN")),
    ("AUTH PLAIN =", Auth("PLAIN", "=")),
    ("AUTH PLAIN AHRlc3QAc2VjcmV0", Auth("PLAIN", "AHRlc3QAc2VjcmV0")),
    ("STARTTLS", StartTls()),
    ("TURN", Obsolete("TURN")),
    ("SEND FROM:<a@x.mail>", Obsolete("SEND", "FROM:<a@x.mail>")),
]


@pytest.mark.parametrize(("line", "command"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_both_ways(line: str, command: AnyCommand) -> None:
    assert parse_command(line.encode()) == command
    assert command.encode() == f"{line}\r\n".encode()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("", "500 5.5.2"),
        ("XYZZY", "500 5.5.2"),
        (" NOOP", "500 5.5.2"),
        ("NOOP\tx", "500 5.5.2"),
        ("NOOP \x7f", "500 5.5.2"),
        ("EHLO", "501 5.5.4"),
        ("EHLO a b", "501 5.5.4"),
        ("EHLO " + "h" * 256, "501 5.5.4"),
        ("MAIL FROM", "501 5.5.4"),
        ("MAIL FROM <a@x.mail>", "501 5.5.4"),
        ("MAIL FROM:", "501 5.5.4"),
        ("MAIL FROM:<a@x.mail>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@x.mail> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@x.mail> =", "501 5.5.4"),
        ("MAIL FROM:<a@x.mail> X-Y_Z=1", "501 5.5.4"),
        ("MAIL FROM:<a@x.mail> UNKNOWN=1", "555 5.5.4"),
        ("MAIL FROM:<a", "501 5.1.3"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<я@x.mail>", "553 5.6.7"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<postmaster@>", "501 5.1.3"),
        ('RCPT TO:<"a@x.mail>', "501 5.1.3"),
        ("RCPT TO:<a@x.mail> ORCPT=rfc 822;a", "501 5.5.4"),
        ("RCPT TO:<a@x.mail> ORCPT=rfc822;" + "a" * 500, "501 5.5.4"),
        ("DATA now", "501 5.5.4"),
        ("BDAT", "501 5.5.4"),
        ("BDAT -1", "501 5.5.4"),
        ("BDAT 1 LAST LAST", "501 5.5.4"),
        ("BDAT 999999999999999999999", "501 5.5.4"),
        ("BDAT \u0661", "501 5.5.4"),
        ("VRFY", "501 5.5.4"),
        ("AUTH", "501 5.5.4"),
        ("AUTH PLAIN a b", "501 5.5.4"),
        ("AUTH <script>", "501 5.5.4"),
    ],
)
def test_refused(line: str, status: str) -> None:
    with pytest.raises(PeerError) as error:
        parse_command(line.encode())
    assert f"{error.value.reply.code} {error.value.reply.status}" == status


def test_octets_that_are_no_utf8() -> None:
    with pytest.raises(PeerError):
        parse_command(b"NOOP \xff")


def test_only_an_unreadable_chunk_is_fatal() -> None:
    """Whatever follows `BDAT x` may be content, and must not be taken for commands."""
    with pytest.raises(PeerError) as error:
        parse_command(b"BDAT x")
    assert error.value.fatal


@pytest.mark.parametrize(
    ("text", "xtext"),
    [("", ""), ("plain", "plain"), ("a+b=c", "a+2Bb+3Dc"), ("a b", "a+20b"), ("я", "+D1+8F"), ("\x7f", "+7F")],
)
def test_xtext(text: str, xtext: str) -> None:
    """RFC 3461 §4."""
    assert encode_xtext(text) == xtext
    assert decode_xtext(xtext) == text


def test_original_recipients_beyond_ascii() -> None:
    """RFC 6533 §3: an address of the type "utf-8" passes as it came, and holds no xtext."""
    for line in ("utf-8;анна@пример.рф", "utf-8;\\x{430}\\x{2B}a@x.mail", "UTF-8;a\\x{5C}b@x.mail"):
        command = parse_command(f"RCPT TO:<a@x.mail> ORCPT={line}".encode())
        assert isinstance(command, Rcpt) and command.orcpt == line
        assert command.encode() == f"RCPT TO:<a@x.mail> ORCPT={line}\r\n".encode()
    assert (
        Rcpt(A, orcpt="utf-8;я+a b=c@x").encode()
        == "RCPT TO:<a@x.mail> ORCPT=utf-8;я\\x{2B}a\\x{20}b\\x{3D}c@x\r\n".encode()
    )
    assert Rcpt(A, orcpt="rfc822;a+b@x").encode() == b"RCPT TO:<a@x.mail> ORCPT=rfc822;a+2Bb@x\r\n"


@pytest.mark.parametrize("xtext", ["+", "+2", "+2b", "a=b", "a b", "+FF", "я"])
def test_bad_xtext(xtext: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode_xtext(xtext)
