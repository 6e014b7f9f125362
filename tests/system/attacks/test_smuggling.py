"""A letter within a letter: whatever is taken for an end of data elsewhere, one transaction never becomes two
(reliability F1, RFC 5321 §2.3.8, §4.1.1.4). The mailbox is looked into over POP3 after each attempt."""

from __future__ import annotations

import pytest

from tests.system.attacks.conftest import Start
from tests.system.attacks.strangers import connect
from tests.system.raw import Raw, collect
from tests.system.server import READER, Endpoint, Server

ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CR.CR": b"\r.\r",
    "CR.LF": b"\r.\n",
    "CR.CRLF": b"\r.\r\n",
    "LF.CR": b"\n.\r",
    "CRLF.CR": b"\r\n.\r",
    "CRLF.LF": b"\r\n.\n",
    "CRLF.NUL.CRLF": b"\r\n.\0\r\n",
    "CRLF.NUL.LF": b"\r\n\0.\n",
    "CR.NUL.LF": b"\r\0\n.\r\0\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRCRLF.LF": b"\r\r\n.\n",
    "LFLF.LF": b"\n\n.\n\n",
}
INNER = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<" + READER.encode() + b">\r\nDATA\r\nSubject: smuggled\r\n\r\nevil"
FIRST = b"Subject: first\r\n\r\nbody"


def attempt(false_end: bytes) -> bytes:
    """What is sent after DATA: a letter, a false end, a second transaction, the true end."""
    return FIRST + false_end + INNER + b"\r\n.\r\n"


def looked_into(server: Server) -> list[bytes]:
    return collect(Endpoint("127.0.0.1", server.pop3.port), READER)


def begin(server: Server, source: str) -> Raw:
    session = Raw.__new__(Raw)
    session._socket = connect(server.smtp, source)
    session._socket.setsockopt(6, 1, 1)  # TCP_NODELAY: each piece is a packet
    session._input = bytearray()
    assert session.reply().startswith(b"220")
    session.ask(b"EHLO stranger.example.org", b"250")
    session.ask(b"MAIL FROM:<a@example.org>", b"250")
    session.ask(b"RCPT TO:<" + READER.encode() + b">", b"250")
    return session


def check(server: Server, said: bytes) -> int:
    """At most one letter; a stranger's is refused, and the second sender appears nowhere but within the first.
    Returns how many letters there were."""
    letters = looked_into(server)
    assert len(letters) <= 1, letters
    assert all(b"<evil@example.net>" not in letter.partition(b"Subject: first")[0] for letter in letters)
    replies = [line for line in said.split(b"\r\n") if line]
    assert sum(line.startswith(b"250 2.0.0 Queued") for line in replies) == len(letters), replies
    assert not any(line.startswith(b"354") for line in replies), replies
    return len(letters)


def _as_one(false_end: bytes) -> int:
    """Letters that come of an attempt from this machine, whose bare LF is mended: one, or none where a bare CR or a NUL
    is in it (reliability F1)."""
    rest = false_end.replace(b"\r\n", b"")
    return int(b"\r" not in rest and b"\0" not in rest)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bare_lf", ["reject", "normalize"])
def test_data(start: Start, bare_lf: str) -> None:
    """From a stranger, whose bare LF is refused by default, and mended where the administrator wants it so."""
    lines = f'[smtp]\nbare_lf = "{bare_lf}"\ndiscard_timeout = 0.2\n'
    with start(lines) as server:
        taken = 0
        for false_end in ENDS.values():
            with begin(server, "127.7.0.1") as session:
                session.ask(b"DATA", b"354")
                session.send(attempt(false_end))
                said = session.reply()
                session.end_sending()
                taken += check(server, said + session.rest())
        assert bool(taken) == (bare_lf == "normalize"), "one letter, or none at all"


@pytest.mark.timeout(300)
def test_data_split_between_packets_at_every_octet(start: Start) -> None:
    """Would catch a state that is lost where a read ends."""
    with start("[smtp]\ndiscard_timeout = 0.2\nbad_recipients = 1000\n") as server:
        for false_end in ENDS.values():
            text, taken = attempt(false_end), set[int]()
            first = len(FIRST)
            for cut in range(first - 1, first + len(false_end) + 2):
                with begin(server, "127.0.0.1") as session:
                    session.ask(b"DATA", b"354")
                    session.send(text[:cut])
                    session.send(text[cut:])
                    said = session.reply()
                    session.end_sending()
                    taken.add(check(server, said + session.rest()))
            assert taken == {_as_one(false_end)}, f"{false_end!r}: one letter or none, wherever it is cut"


@pytest.mark.timeout(300)
def test_octet_by_octet(start: Start) -> None:
    with start("[smtp]\ndiscard_timeout = 0.2\n") as server:
        for false_end in ENDS.values():
            with begin(server, "127.0.0.1") as session:
                session.ask(b"DATA", b"354")
                for octet in attempt(false_end):
                    session.send(bytes((octet,)))
                said = session.reply()
                session.end_sending()
                assert check(server, said + session.rest()) == _as_one(false_end), false_end


@pytest.mark.timeout(300)
@pytest.mark.parametrize("source", ["127.7.0.1", "127.0.0.1"], ids=["stranger", "this machine"])
def test_chunks(start: Start, source: str) -> None:
    """The octets of BDAT are counted, never searched: what looks like an end is content (RFC 3030 §2)."""
    with start("[smtp]\ndiscard_timeout = 0.2\n") as server:
        taken = 0
        for false_end in (*ENDS.values(), b"\r\n.\r\n"):
            text = attempt(false_end)
            for cut in (len(text), len(FIRST) + 1, len(FIRST) + len(false_end)):
                with begin(server, source) as session:
                    pieces = [piece for piece in (text[:cut], text[cut:]) if piece]
                    for number, piece in enumerate(pieces, 1):
                        last = b" LAST" if number == len(pieces) else b""
                        session.send(b"BDAT %d%b\r\n%b" % (len(piece), last, piece))
                    session.end_sending()
                    taken += check(server, session.rest())
        assert taken >= 3, "at least what has no bare octet is taken, so that the rest says something"
