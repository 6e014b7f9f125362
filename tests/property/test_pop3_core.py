"""The POP3 server core gives the same events however the octets are cut, and its commands print what they parse."""

from __future__ import annotations

import itertools
import re
import string

from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.limits import Pop3Limits
from posthouse.mail.reply import PeerError
from posthouse.pop3.commands import (
    AnyCommand,
    Apop,
    Auth,
    Capa,
    Dele,
    Last,
    List,
    Noop,
    Pass,
    Quit,
    Retr,
    Rset,
    SaslResponse,
    Stat,
    Stls,
    Top,
    Uidl,
    User,
    Utf8,
    parse,
    parse_response,
)
from posthouse.pop3.grammar import Stuffer, TopCut, stuff
from posthouse.pop3.server import Event, Pop3ServerCore, Refused, State

LIMITS = Pop3Limits(command_line=40, auth_line=90, errors=5)

fragments = st.one_of(
    st.sampled_from(
        [b"USER u", b"PASS a b", b"AUTH PLAIN", b"AUTH PLAIN AGEAYg==", b"STAT", b"retr 1", b"DELE 2", b"QUIT", b"*"]
    ),
    st.sampled_from(
        [
            b"\x16",
            b"\x03",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\0",
            b"\r\n",
            b"\r\n",
            b"GET / HTTP/1.1",
            b"x" * 39,
            b"A" * 95,
        ]
    ),
    st.binary(max_size=6),
)
streams = st.lists(fragments, max_size=30).map(b"".join)


def events(octets: bytes, cuts: list[int]) -> list[Event]:
    """What a session sees that lets everything happen which it can let happen."""
    core = Pop3ServerCore(LIMITS)
    seen: list[Event] = []
    borders = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    for start, end in zip(borders, [*borders[1:], len(octets)], strict=True):
        core.feed(octets[start:end])
        while (event := core.next_event()) is not None:
            seen.append(event)
            if isinstance(event, User):
                core.state = State.NAMED
            elif isinstance(event, Auth) and event.mechanism and event.initial is None:
                core.state = State.CHALLENGED
            elif isinstance(event, Pass | Auth | SaslResponse):
                core.state = State.TRANSACTION
    return seen


@given(streams, st.lists(st.integers(0, 400), max_size=20))
def test_any_cutting_gives_the_same_events(octets: bytes, cuts: list[int]) -> None:
    assert events(octets, cuts) == events(octets, [])


@given(streams)
def test_octet_by_octet_gives_the_same_events(octets: bytes) -> None:
    assert events(octets, list(range(len(octets)))) == events(octets, [])


@given(st.binary(max_size=300))
def test_any_line_is_a_command_or_a_refusal(line: bytes) -> None:
    core = Pop3ServerCore(Pop3Limits())
    core.feed(line.replace(b"\n", b"") + b"\r\n")
    event = core.next_event()
    assert event is not None
    assert core.next_event() is None or isinstance(event, Refused)


words = st.text(st.characters(min_codepoint=0x21, exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
ascii_words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
passwords = st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
numbers = st.integers(0, 2**31 - 1)
commands: st.SearchStrategy[AnyCommand] = st.one_of(
    words.map(User),
    passwords.map(Pass),
    st.builds(Apop, ascii_words, ascii_words),
    st.builds(Auth, st.none() | ascii_words.map(str.upper)),
    st.builds(Auth, ascii_words.map(str.upper), st.binary(max_size=80)),
    st.builds(List, st.none() | numbers),
    st.builds(Uidl, st.none() | numbers),
    numbers.map(Retr),
    numbers.map(Dele),
    st.builds(Top, numbers, numbers),
    st.sampled_from([Stat(), Noop(), Last(), Rset(), Capa(), Stls(), Utf8(), Quit()]),
)


@given(commands)
def test_a_printed_command_is_parsed_as_itself(command: AnyCommand) -> None:
    octets = command.encode()
    assert octets.endswith(b"\r\n") and octets.count(b"\n") == 1
    assert parse(octets[:-2]) == command


@given(st.none() | st.binary(max_size=200))
def test_a_printed_answer_is_parsed_as_itself(octets: bytes | None) -> None:
    assert parse_response(SaslResponse(octets).encode()[:-2]) == SaslResponse(octets)


@given(st.text(max_size=30))
def test_no_argument_becomes_a_second_command(text: str) -> None:
    for command in (User(text), Pass(text), Apop(text, text), Auth(text)):
        try:
            octets = command.encode()
        except ValueError:  # UnicodeEncodeError is one
            continue
        assert octets.count(b"\n") == 1 and octets.count(b"\r") == 1 and b"\0" not in octets


@given(st.binary(max_size=60))
def test_what_is_parsed_prints_the_same_again(line: bytes) -> None:
    try:
        command = parse(line)
    except PeerError:
        return
    assert parse(command.encode()[:-2]) == command


messages = st.lists(st.sampled_from([b".", b"\r\n", b"a", b"\n", b"\r", b"..", b"x.y", b"\r\n.\r\n"]), max_size=30).map(
    b"".join
)


def pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    return [octets[a:b] for a, b in itertools.pairwise(borders)]


@given(messages, st.lists(st.integers(0, 60), max_size=10))
def test_stuffing_in_pieces_is_stuffing_at_once(message: bytes, cuts: list[int]) -> None:
    stuffer = Stuffer()
    assert b"".join(map(stuffer.add, pieces(message, cuts))) + stuffer.end() == b"".join(stuff(message))


@given(messages)
def test_a_reply_ends_once_and_gives_the_message_back(message: bytes) -> None:
    whole = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    reply = b"".join(stuff(message, b"+OK\r\n"))
    assert reply.endswith(b"\r\n.\r\n")
    # A reader of lines, whatever it takes for the end of a line, finds no lone dot before the last.
    assert b"\n.\r\n" not in reply[:-5] + b"\r\n" and b"\n.\n" not in reply
    body = reply[5:-3]
    assert (b"\n" + body).replace(b"\n..", b"\n.")[1:] == whole


@given(messages, st.integers(0, 5), st.lists(st.integers(0, 60), max_size=10))
def test_the_top_is_the_header_and_so_many_lines(body: bytes, count: int, cuts: list[int]) -> None:
    message = b"A: b\r\n c\r\n\r\n" + body
    cut = TopCut(count)
    out = b""
    for piece in pieces(message, cuts):
        if not cut.done:
            out += cut.add(piece)
    lines = body.split(b"\n")
    expected = b"A: b\r\n c\r\n\r\n" + (b"\n".join(lines[:count]) + b"\n" if count < len(lines) else body)
    if count == 0:
        expected = b"A: b\r\n c\r\n\r\n"
    assert out == expected
    assert message.startswith(out)


@given(st.text("\r\n.x", max_size=40).map(str.encode))
def test_a_dot_is_added_wherever_one_begins_a_line(message: bytes) -> None:
    message = b"x" + message + b"\r\n"
    assert b"".join(stuff(message)) == re.sub(rb"\n\.", b"\n..", message) + b".\r\n"
