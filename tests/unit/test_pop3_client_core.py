"""The client's reader of POP3 replies: status lines, streams of lines, and that no cutting of the stream matters."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.reply import PeerError
from posthouse.pop3.client import (
    Answered,
    Command,
    Ended,
    Event,
    Piece,
    Pop3ClientCore,
    Unasked,
    has_lines,
    read_status,
)
from posthouse.pop3.commands import Dele, List, Quit, Retr, Stat, Uidl, User


def run(parts: list[bytes], *commands: Command) -> list[Event]:
    core = Pop3ClientCore()
    for command in commands:
        core.send(command)
    seen: list[Event] = []
    for part in parts:
        core.feed(part)
        while (event := core.next_event()) is not None:
            seen.append(event)
    return seen


def body(events: list[Event]) -> bytes:
    return b"".join(event.octets for event in events if isinstance(event, Piece))


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"..a\r\n...b\r\n.\r\n", b".a\r\n..b\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b"a\0b\r\n\r\r\n.\r\n", b"a\0b\r\n\r\r\n"),
        (b".\r.\r\n.\r\n", b"\r.\r\n"),
    ],
)
def test_bodies_are_unstuffed(wire: bytes, content: bytes) -> None:
    for parts in (
        [b"+OK\r\n", b"+OK\r\n" + wire + b"+OK bye\r\n"],
        [bytes([o]) for o in b"+OK\r\n+OK\r\n" + wire + b"+OK bye\r\n"],
    ):
        events = run(parts, Retr(1), Quit())
        assert body(events) == content
        assert Ended(len(content)) in events
        last = events[-1]
        assert isinstance(last, Answered) and last.answer.line == b"+OK bye" and last.command == Quit()


def test_a_refusal_has_no_lines() -> None:
    events = run([b"+OK hi\r\n-ERR [IN-USE] busy\r\n+OK 1 5\r\n"], List(), Stat())
    assert [event.more for event in events if isinstance(event, Answered)] == [False, False, False]
    refused = events[1]
    assert isinstance(refused, Answered) and refused.answer.code == "IN-USE" and not refused.answer.positive


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (List(), True),
        (List(1), False),
        (Uidl(), True),
        (Uidl(1), False),
        (Retr(1), True),
        (Dele(1), False),
        (User("a"), False),
    ],
)
def test_which_replies_have_lines(command: Command, lines: bool) -> None:
    assert has_lines(command.encode()) is lines


@pytest.mark.parametrize("line", [b"220 x.mail ESMTP", b"", b"OK", b"+OKAY", b"* OK IMAP4rev1"])
def test_what_is_no_reply_ends_the_session(line: bytes) -> None:
    with pytest.raises(PeerError):
        read_status(line)


def test_a_line_without_an_end_is_bounded() -> None:
    with pytest.raises(PeerError):
        run([b"+OK " + b"x" * 5000, b"x" * 5000])


def test_what_nobody_asked_for_is_told_apart() -> None:
    events = run([b"+OK hi\r\n-ERR idle too long\r\n"])
    assert events[1:] == [Unasked(b"-ERR idle too long")]


def test_a_long_message_costs_constant_memory() -> None:
    core = Pop3ClientCore()
    core.send(Retr(1))
    core.feed(b"+OK\r\n+OK\r\n")
    core.next_event(), core.next_event()
    line = b"x" * 65_534 + b"\r\n"
    tracemalloc.start()
    for _ in range(500):
        core.feed(line)
        while core.next_event() is not None:
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


alphabet = st.sampled_from([b".", b"\r\n", b"a", b"\r", b"\n", b"..", b"\r\n."])


@given(st.lists(alphabet, max_size=20).map(b"".join), st.lists(st.integers(0, 60), max_size=8))
def test_what_was_stuffed_comes_back_however_it_is_cut(message: bytes, cuts: list[int]) -> None:
    message = message + b"\r\n"
    wire = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    octets = b"+OK\r\n+OK x\r\n" + wire + b"+OK next\r\n"
    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    parts = [octets[a:b] for a, b in itertools.pairwise(places)]
    events = run(parts, Retr(1), Quit())
    assert body(events) == message
    assert isinstance(events[-1], Answered) and events[-1].answer.line == b"+OK next"
