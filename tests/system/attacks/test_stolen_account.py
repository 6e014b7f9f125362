"""A stolen password does little harm: what one account may send is bounded (reliability A6)."""

from __future__ import annotations

import base64

from tests.system.attacks.conftest import Start
from tests.system.letters import letter
from tests.system.raw import Raw, greeted, stuffed
from tests.system.server import PASSWORD, READER, SENDER, Endpoint, Server, wait_for


def logged_in(server: Server) -> Raw:
    session = greeted(Endpoint("127.0.0.1", server.submission.port))
    session.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{SENDER}\0{PASSWORD}".encode()), b"235")
    return session


def send(session: Raw, recipient: str) -> bytes:
    reply = session.ask(b"MAIL FROM:<" + SENDER.encode() + b">")
    if reply.startswith(b"250"):
        reply = session.ask(b"RCPT TO:<" + recipient.encode() + b">")
    if reply.startswith(b"250"):
        session.ask(b"DATA", b"354")
        session.send(stuffed(letter("1 KiB")))
        return session.reply()
    session.ask(b"RSET", b"250")
    return reply


def test_letters_an_hour_also_after_a_restart(start: Start) -> None:
    for most, refused in ((3, True), (3, True), (4, False)):
        with start(f"[sending]\nletters_hour = {most}\n") as server, logged_in(server) as session:
            answers = [send(session, READER) for _ in range(4)]
            assert answers[-1].startswith(b"450 4.7.1 This account may send %d letters a hour" % most), answers
            wait_for(lambda: "sending_refused" in server.log, lambda: server.log)
            sent = sum(answer.startswith(b"250") for answer in answers)
            assert sent <= 3
            assert refused or sent == 1, "three were remembered, one more is allowed now"


def test_new_recipients_a_day(start: Start) -> None:
    with start("[sending]\nnew_recipients_day = 1\n") as server, logged_in(server) as session:
        assert send(session, READER).startswith(b"250")
        assert send(session, READER).startswith(b"250"), "he is known now"
        assert send(session, SENDER).startswith(b"450 4.7.1 This account may write to 1 new recipients a day")


def test_strangers_are_not_counted(start: Start) -> None:
    """The limits are those of accounts: mail from other servers comes in as before."""
    limits = "[sending]\nletters_hour = 1\nnew_recipients_day = 1\n"
    with start(limits) as server, greeted(Endpoint("127.0.0.1", server.smtp.port)) as session:
        for _ in range(5):
            assert send(session, READER).startswith(b"250")
