"""The octet streams of the two programs the project grew from: they deliver and collect, as they are.

The sender spoke HELO, sent no login although it had asked for one, took one packet for one reply, wrote topic,
message and file name as the first lines of the body, the file behind them, every line ended by a bare LF and only
the lone dot between CRLFs, and hung up right after QUIT. Whether its commands ended with CRLF or LF alone makes no
difference here: both are replayed.
"""

from __future__ import annotations

import pytest

from tests.system.raw import Raw, collect, deliver
from tests.system.server import PASSWORD, SENDER, Server, wait_for

ENDS = pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])

FILE = b"The first line of mail.txt\nRSET\n\nthe last line, with 8-bit: \xcf\xf0\xe8\xe2\xe5\xf2\n"


def send_as_the_lab_did(server: Server, recipient: str, end: bytes, *, space: bytes = b"", wait: bool = True) -> None:
    """One run of the original sender; every reply is read as one piece, its code never looked at."""
    to = recipient.encode()
    commands = [
        b"HELO x.mail" + end,
        b"MAIL FROM:" + space + b"<" + SENDER.encode() + b">" + end,
        b"RCPT TO:" + space + b"<" + to + b">" + end,
        b"DATA" + end,
        b"Topic: Message 1\nMessage: Hello\nFile name: mail.txt\n" + FILE + b"\r\n.\r\n",
    ]
    with Raw(server.smtp) as session:
        replies = [session.line()]
        for command in commands:
            session.send(command)
            replies.append(session.line())
        session.send(b"QUIT" + end)
        if wait:
            replies.append(session.line())
    assert [reply[:3] for reply in replies[:6]] == [b"220", b"250", b"250", b"250", b"354", b"250"], replies


@ENDS
@pytest.mark.parametrize("space", [b"", b" "], ids=["tight", "with a blank"])
def test_sender(server: Server, mailbox: str, end: bytes, space: bytes) -> None:
    """Would catch a server too strict for the lab: bare LF from this machine becomes CRLF, nothing else changes."""
    send_as_the_lab_did(server, mailbox, end, space=space)
    [collected] = collect(server.pop3, mailbox)
    text = (b"Topic: Message 1\nMessage: Hello\nFile name: mail.txt\n" + FILE + b"\n").replace(b"\n", b"\r\n")
    assert collected.endswith(text), collected
    assert b"HELO" not in collected.removesuffix(text)
    assert b"with SMTP" in collected  # RFC 5321 §4.4: HELO is SMTP, EHLO is ESMTP


def test_sender_hangs_up_after_quit(server: Server, mailbox: str) -> None:
    """Would catch a letter lost because nobody waited for the answer to QUIT."""
    send_as_the_lab_did(server, mailbox, b"\n", wait=False)
    assert len(collect(server.pop3, mailbox)) == 1


def test_sender_in_one_packet(server: Server, mailbox: str) -> None:
    """The sender never looked at a reply, so all it says may arrive at once; DATA still waits for nobody."""
    with Raw(server.smtp) as session:
        session.send(b"HELO x.mail\nMAIL FROM:<%s>\nRCPT TO:<%s>\n" % (SENDER.encode(), mailbox.encode()))
        for code in (b"220", b"250", b"250", b"250"):
            assert session.line().startswith(code)
        session.send(b"DATA\n")
        assert session.line().startswith(b"354")
        session.send(b"Topic: x\nMessage: y\nFile name: \n\r\n.\r\nQUIT\n")
        assert session.line().startswith(b"250")
        assert session.line().startswith(b"221")
    assert len(collect(server.pop3, mailbox)) == 1


@ENDS
@pytest.mark.parametrize("wait", [True, False], ids=["waits", "hangs up"])
def test_reader(server: Server, mailbox: str, end: bytes, wait: bool) -> None:
    """Auth, List, Read, Delete, List, Quit: the deletion is carried out though nobody waits for QUIT's answer."""
    assert deliver(server.smtp, [mailbox], b"Subject: x\r\n\r\nHello\r\n").startswith(b"250")
    with Raw(server.pop3) as session:
        assert session.line().startswith(b"+OK")
        for command in (b"USER " + mailbox.encode(), b"PASS " + PASSWORD.encode()):
            session.send(command + end)
            assert session.line().startswith(b"+OK")
        session.send(b"LIST" + end)
        assert session.line().startswith(b"+OK 1 ")
        scan = session.multiline().split()
        session.send(b"RETR 1" + end)
        assert session.line().startswith(b"+OK")
        text = session.multiline()
        assert text.endswith(b"Subject: x\r\n\r\nHello\r\n")
        assert [int(word) for word in scan] == [1, len(text)]
        session.send(b"DELE 1" + end)
        assert session.line().startswith(b"+OK")
        session.send(b"LIST" + end)
        assert session.line().startswith(b"+OK 0 ")
        assert session.multiline() == b""
        session.send(b"QUIT" + end)
        if wait:
            assert session.line().startswith(b"+OK")
    wait_for(lambda: count(server, mailbox) == 0, lambda: "the deletion was not carried out")


def count(server: Server, mailbox: str) -> int:
    """Messages in a maildrop; -1 while another session still has it."""
    with Raw(server.pop3) as session:
        session.line()
        session.pop(b"USER " + mailbox.encode())
        session.send(b"PASS " + PASSWORD.encode() + b"\r\n")
        if not session.line().startswith(b"+OK"):
            return -1
        messages = int(session.pop(b"STAT").split()[1])
        session.pop(b"QUIT")
        return messages
