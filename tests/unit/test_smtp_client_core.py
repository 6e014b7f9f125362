"""The client's reader of SMTP replies: what it takes, what it refuses, and that no cutting of the stream matters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.reply import PeerError
from posthouse.smtp.client import Answered, Extensions, Response, SmtpClientCore, Stuffer, Unasked
from posthouse.smtp.commands import Ehlo, Mail, Quit


def replies(octets: bytes, expected: int) -> list[tuple[int, str, list[bytes]]]:
    core = SmtpClientCore()
    for _ in range(expected - 1):
        core.send(Quit())
    core.feed(octets)
    found = []
    while (event := core.next_event()) is not None:
        found.append((event.answer.code, event.answer.status, event.answer.lines))
    return found


@pytest.mark.parametrize(
    ("octets", "code", "status", "lines"),
    [
        (b"220 x.mail ESMTP\r\n", 220, "", [b"220 x.mail ESMTP"]),
        (b"220-two\r\n220 lines\r\n", 220, "", [b"220-two", b"220 lines"]),
        (b"250\r\n", 250, "", [b"250"]),
        (b"550 5.1.1 No such mailbox\r\n", 550, "5.1.1", [b"550 5.1.1 No such mailbox"]),
        (b"550 4.1.1 the class does not match\r\n", 550, "", [b"550 4.1.1 the class does not match"]),
        (b"250 5.1.1.9 no status\r\n", 250, "", [b"250 5.1.1.9 no status"]),
        (b"250 bare line feed\n", 250, "", [b"250 bare line feed"]),
        (b"250 nul \0 inside\r\n", 250, "", [b"250 nul \0 inside"]),
        (b"250-first\r\n550 last counts\r\n", 550, "", [b"250-first", b"550 last counts"]),
    ],
)
def test_replies_of_every_form(octets: bytes, code: int, status: str, lines: list[bytes]) -> None:
    assert replies(octets, 1) == [(code, status, lines)]


@pytest.mark.parametrize(
    "octets",
    [
        b"+OK POP3\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\r\n",
        b"25\r\n",
        b"250+text\r\n",
        b"150 no such class\r\n",
        b"220 " + b"x" * 9000 + b"\r\n",
        b"x" * 9000,
        b"250-more\r\n" * 20_000,
    ],
)
def test_what_is_no_reply_ends_the_session(octets: bytes) -> None:
    with pytest.raises(PeerError):
        replies(octets, 1)


def test_a_reply_belongs_to_its_command() -> None:
    core = SmtpClientCore()
    core.send(Ehlo("a"))
    core.send(Mail(None))
    core.feed(b"220 hi\r\n250-x\r\n250 SIZE\r\n250 OK\r\n421 bye\r\n")
    events = [core.next_event() for _ in range(4)]
    commands = [event.command for event in events if isinstance(event, Answered)]
    assert commands == [None, Ehlo("a"), Mail(None)]
    assert isinstance(events[3], Unasked)


def test_a_command_is_one_line_whatever_it_holds() -> None:
    with pytest.raises(AssertionError):
        SmtpClientCore().send(Ehlo("a\r\nRSET"))


def test_the_challenge_of_a_login_is_masked_for_observers() -> None:
    seen: list[bytes] = []
    core = SmtpClientCore(lambda octets, secret: seen.append(octets))
    core.send(Response(b"c2VjcmV0"))
    core.feed(b"220 hi\r\n334 c2VjcmV0\r\n")
    while core.next_event():
        pass
    assert seen == [b"220 hi\r\n", b"334 ********\r\n"]
    assert "c2Vj" not in repr(Response(b"c2VjcmV0"))


def test_extensions() -> None:
    core = SmtpClientCore()
    core.feed(b"250-x.mail Hello.\r\n250-SIZE 1000\r\n250-AUTH=LOGIN\r\n250-auth PLAIN\r\n250 PIPELINING\r\n")
    event = core.next_event()
    assert isinstance(event, Answered)
    extensions = Extensions.read(event.answer)
    assert extensions.size == 1000
    assert extensions.mechanisms == ["LOGIN", "PLAIN"]
    assert "PIPELINING" in extensions and "HELLO." not in extensions
    assert Extensions({"SIZE": "0"}).size is None


pieces = st.lists(
    st.sampled_from([b"220 a\r\n", b"250-b\r\n", b"250 5\r\n", b"250 2.0.0 c\n", b"354\r\n", b"junk\r\n"]), max_size=8
)


@given(pieces.map(b"".join), st.lists(st.integers(0, 60), max_size=6))
def test_any_cutting_gives_the_same_replies(octets: bytes, cuts: list[int]) -> None:
    def run(parts: list[bytes]) -> list[object]:
        core = SmtpClientCore()
        seen: list[object] = []
        for part in parts:
            core.feed(part)
            try:
                while (event := core.next_event()) is not None:
                    seen.append(event)
            except PeerError as error:
                return [*seen, str(error)]
        return seen

    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    parts = [octets[a:b] for a, b in itertools.pairwise(places)]
    assert run(parts) == run([octets]) == run([bytes([octet]) for octet in octets])


# Dots and line ends


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b".a\r\n..b\r\n", b"..a\r\n...b\r\n.\r\n"),
        (b"a\n.\nb\r.\r", b"a\r\n..\r\nb\r\n..\r\n.\r\n"),
        (b"\r", b"\r\n.\r\n"),
        (b"RSET\r\n", b"RSET\r\n.\r\n"),
    ],
)
def test_stuffing(message: bytes, wire: bytes) -> None:
    stuffer = Stuffer()
    assert stuffer.add(message) + stuffer.end() == wire


@given(st.binary(max_size=60).map(lambda b: bytes(b"a.\r\n"[octet % 4] for octet in b)), st.lists(st.integers(0, 60)))
def test_any_cutting_is_stuffed_the_same(octets: bytes, cuts: list[int]) -> None:
    def run(parts: list[bytes]) -> bytes:
        stuffer = Stuffer()
        return b"".join([*map(stuffer.add, parts), stuffer.end()])

    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    whole = run([octets])
    assert run([octets[a:b] for a, b in itertools.pairwise(places)]) == whole
    # Nothing but the end looks like an end, and no bare CR or LF leaves.
    assert (b"\r\n" + whole).find(b"\r\n.\r\n") == len(whole) - 3
    assert whole.count(b"\r\n") == whole.count(b"\r") == whole.count(b"\n")
