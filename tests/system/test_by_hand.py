"""What no common program does: BDAT in pieces, LMTP word by word, logins in every form, several letters at once."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from tests.system.letters import check_same, letter
from tests.system.raw import Raw, collect, greeted, logged_in, stuffed
from tests.system.server import PASSWORD, READER, SENDER, Server


@pytest.mark.parametrize("size", [1, 997, 65536])
@pytest.mark.parametrize("kind", ["dots", "raw octets", "attachment"])
def test_bdat(server: Server, mailbox: str, kind: str, size: int) -> None:
    """Would catch a dot unstuffed, a CRLF lost between chunks, or a reply missing for one of them (RFC 3030)."""
    content = letter(kind)[:5000] if size > 1 else letter(kind)[-300:]
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    with greeted(server.smtp) as session:
        session.ask(b"MAIL FROM:<%s> BODY=8BITMIME" % SENDER.encode(), b"250")
        session.ask(b"RCPT TO:<%s>" % mailbox.encode(), b"250")
        for number, chunk in enumerate(chunks, 1):
            last = b" LAST" if number == len(chunks) else b""
            session.send(b"BDAT %d%s\r\n" % (len(chunk), last) + chunk)
        for _ in chunks:
            assert session.reply().startswith(b"250")
        session.ask(b"QUIT", b"221")
    [collected] = collect(server.pop3, mailbox)
    check_same(collected, content)


def test_bdat_last_of_nothing(server: Server, mailbox: str) -> None:
    """RFC 3030 §2 allows the last chunk to be empty."""
    content = letter("1 KiB")
    with greeted(server.smtp) as session:
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<%s>" % mailbox.encode(), b"250")
        session.send(b"BDAT %d\r\n" % len(content) + content)
        assert session.reply().startswith(b"250")
        session.ask(b"BDAT 0 LAST", b"250")
    [collected] = collect(server.pop3, mailbox)
    check_same(collected, content)
    assert collected.startswith(b"Return-Path: <>\r\n")


def test_pipelined(server: Server, mailbox: str) -> None:
    """A whole session in two writes (RFC 2920 §3.1), two letters one after the other."""
    content = letter("dots")
    envelope = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n" % (SENDER.encode(), mailbox.encode())
    with greeted(server.smtp) as session:
        session.send(envelope)
        assert [session.reply()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
        session.send(stuffed(content) + envelope)
        assert [session.reply()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        session.send(stuffed(content) + b"QUIT\r\n")
        assert [session.reply()[:3] for _ in range(2)] == [b"250", b"221"]
        assert session.rest() == b""
    letters = collect(server.pop3, mailbox)
    assert len(letters) == 2
    for collected in letters:
        check_same(collected, content)


def test_lmtp(server: Server, new_mailbox: Callable[[], str]) -> None:
    """LMTP answers DATA once for each recipient that was accepted, in their order (RFC 2033 §4.2)."""
    first, second = new_mailbox(), new_mailbox()
    content = letter("8-bit")
    with greeted(server.lmtp, b"LHLO client.x.mail") as session:
        session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
        session.ask(b"RCPT TO:<%s>" % first.encode(), b"250")
        session.ask(b"RCPT TO:<nobody@x.mail>", b"550")
        session.ask(b"RCPT TO:<%s>" % second.encode(), b"250")
        session.ask(b"DATA", b"354")
        session.send(stuffed(content))
        assert [session.reply()[:3] for _ in range(2)] == [b"250", b"250"]
        session.ask(b"NOOP", b"250")  # no third answer stood in between
        session.ask(b"QUIT", b"221")
    for address in (first, second):
        [collected] = collect(server.pop3, address)
        check_same(collected, content)


def test_lmtp_without_recipients(server: Server) -> None:
    """RFC 2033 §4.2: DATA after no accepted recipient is 503."""
    with greeted(server.lmtp, b"LHLO client.x.mail") as session:
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<nobody@x.mail>", b"550")
        session.ask(b"DATA", b"503")
        session.ask(b"EHLO client.x.mail", b"500")


def _b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


@pytest.mark.parametrize("name", [SENDER, "TEST@X.Mail", "test"])
@pytest.mark.parametrize("way", ["initial", "plain", "login", "login with name"])
def test_smtp_login(server: Server, name: str, way: str) -> None:
    """AUTH in the forms clients use (RFC 4954 §4, §6): the name whole, in other case, and alone."""
    plain, user, password = _b64(f"\0{name}\0{PASSWORD}"), _b64(name), _b64(PASSWORD)
    dialogues: dict[str, list[tuple[bytes, bytes]]] = {
        "initial": [(b"AUTH PLAIN " + plain, b"235")],
        "plain": [(b"AUTH PLAIN", b"334"), (plain, b"235")],
        "login": [(b"AUTH LOGIN", b"334 VXNlcm5hbWU6"), (user, b"334 UGFzc3dvcmQ6"), (password, b"235")],
        "login with name": [(b"AUTH LOGIN " + user, b"334 UGFzc3dvcmQ6"), (password, b"235")],
    }
    with greeted(server.submission) as session:
        for command, code in dialogues[way]:
            session.ask(command, code)
        session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
        session.ask(b"AUTH PLAIN " + plain, b"503")


def test_submission_needs_a_login(server: Server) -> None:
    """RFC 6409 §4.3: without a login nothing is submitted."""
    with greeted(server.submission) as session:
        session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"530")


def test_wrong_logins_look_alike(server: Server) -> None:
    """Would catch an answer that tells whether an account exists."""
    answers = []
    for name in (SENDER, "nobody@x.mail", "someone@example.net"):
        with greeted(server.smtp) as session:
            answers.append(session.ask(b"AUTH PLAIN " + _b64(f"\0{name}\0wrong"), b"535"))
        with Raw(server.pop3) as session:
            session.line()
            answers.append(session.pop(b"USER " + name.encode()))
            answers.append(session.pop(b"PASS wrong", b"-ERR [AUTH]"))
    assert len(set(answers)) == 3, answers


def test_pop3_login_by_sasl(server: Server) -> None:
    """AUTH PLAIN with and without the initial response (RFC 5034 §4)."""
    plain = _b64(f"\0{READER}\0{PASSWORD}")
    for commands in ([b"AUTH PLAIN " + plain], [b"AUTH PLAIN", plain]):
        with Raw(server.pop3) as session:
            assert session.line().startswith(b"+OK")
            for command in commands[:-1]:
                session.send(command + b"\r\n")
                assert session.line() == b"+ \r\n"
            session.pop(commands[-1])
            session.pop(b"STAT")
            session.pop(b"QUIT")


def test_maildrop_is_exclusive(server: Server, mailbox: str) -> None:
    """The second login is told `[IN-USE]`; a lock outlives no session, however it ends (RFC 1939 §8, RFC 2449 §8)."""
    with logged_in(server.pop3, mailbox), Raw(server.pop3) as other:
        other.line()
        other.pop(b"USER " + mailbox.encode())
        other.pop(b"PASS " + PASSWORD.encode(), b"-ERR [IN-USE]")
    assert collect(server.pop3, mailbox) == []


def test_lost_line_rolls_back(server: Server, mailbox: str) -> None:
    """Would catch deletions carried out without QUIT."""
    content = letter("1 KiB")
    with greeted(server.smtp) as session:
        session.send(b"MAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n" % mailbox.encode())
        assert [session.reply()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
        session.send(stuffed(content))
        assert session.reply().startswith(b"250")
    with logged_in(server.pop3, mailbox) as session:
        session.pop(b"DELE 1")
    assert len(collect(server.pop3, mailbox)) == 1


@pytest.mark.parametrize("declared", [True, False], ids=["SIZE", "silent"])
def test_too_big(server: Server, mailbox: str, declared: bool) -> None:
    """One octet over the limit is refused with 552 5.3.4, at MAIL when the client says the size (RFC 1870 §6)."""
    limit = 52_428_800
    with greeted(server.smtp) as session:
        assert b"SIZE %d" % limit in session.ask(b"EHLO client.x.mail", b"250")
        if declared:
            session.ask(b"MAIL FROM:<> SIZE=%d" % (limit + 1), b"552 5.3.4")
            return
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<%s>" % mailbox.encode(), b"250")
        session.ask(b"DATA", b"354")
        session.send(stuffed(letter("50 MiB")[:-2] + b"=\r\n"))
        assert session.reply().startswith(b"552 5.3.4")
        session.ask(b"NOOP", b"250")
    assert collect(server.pop3, mailbox) == []
