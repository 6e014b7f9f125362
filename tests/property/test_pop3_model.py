"""Any sequence of commands gets the answers of a simple model, and leaves what the model leaves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.pop3.maildrop import RETRIEVED
from tests.pop3_stage import Pop3Stage
from tests.transcript_runner import Client

NONE = "-ERR No such message"
DELETED = "-ERR The message is marked as deleted"


@dataclass(slots=True)
class Model:
    """A maildrop as RFC 1939 tells it, in the plainest way."""

    bodies: list[bytes]
    old: set[int]
    deleted: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def left(self) -> list[int]:
        return [number for number in range(1, len(self.bodies) + 1) if number not in self.deleted]

    def refusal(self, number: int) -> list[str]:
        if not 1 <= number <= len(self.bodies):
            return [NONE]
        return [DELETED] if number in self.deleted else []

    def totals(self) -> str:
        return f"{len(self.left())} messages ({sum(len(self.bodies[n - 1]) for n in self.left())} octets)"

    def lines(self, text: bytes) -> list[str]:
        return ["." + line if line.startswith(".") else line for line in text.decode().split("\r\n")[:-1]]

    def answer(self, verb: str, number: int, count: int) -> list[str]:
        return getattr(self, f"do_{verb.lower()}")(number, count)  # type: ignore[no-any-return]

    def do_stat(self, number: int, count: int) -> list[str]:
        return [f"+OK {len(self.left())} {sum(len(self.bodies[n - 1]) for n in self.left())}"]

    def do_list(self, number: int, count: int) -> list[str]:
        return [f"+OK {self.totals()}", *(f"{n} {len(self.bodies[n - 1])}" for n in self.left()), "."]

    def do_uidl(self, number: int, count: int) -> list[str]:
        return [f"+OK {len(self.left())} messages, unique-ids follow", *(f"{n} id{n}" for n in self.left()), "."]

    def do_list1(self, number: int, count: int) -> list[str]:
        return self.refusal(number) or [f"+OK {number} {len(self.bodies[number - 1])}"]

    def do_uidl1(self, number: int, count: int) -> list[str]:
        return self.refusal(number) or [f"+OK {number} id{number}"]

    def do_retr(self, number: int, count: int) -> list[str]:
        if refusal := self.refusal(number):
            return refusal
        self.seen.add(number)
        body = self.bodies[number - 1]
        return [f"+OK {len(body)} octets", *self.lines(body), "."]

    def do_top(self, number: int, count: int) -> list[str]:
        if refusal := self.refusal(number):
            return refusal
        header, empty, body = self.bodies[number - 1].partition(b"\r\n\r\n")
        top = header + empty + b"".join(line + b"\r\n" for line in body.split(b"\r\n")[:-1][:count])
        return ["+OK the top of the message follows", *self.lines(top), "."]

    def do_dele(self, number: int, count: int) -> list[str]:
        if refusal := self.refusal(number):
            return refusal
        self.deleted.add(number)
        return ["+OK msg deleted"]

    def do_rset(self, number: int, count: int) -> list[str]:
        self.deleted.clear()
        self.seen.clear()
        return [f"+OK {self.totals()}"]

    def do_last(self, number: int, count: int) -> list[str]:
        return [f"+OK {max(self.seen | self.old, default=0)}"]

    def do_noop(self, number: int, count: int) -> list[str]:
        return ["+OK nothing done, as asked"]


def said(verb: str, number: int, count: int) -> str:
    """The command as the client says it."""
    if verb in ("LIST1", "UIDL1"):
        return f"{verb[:4]} {number}"
    if verb in ("RETR", "DELE"):
        return f"{verb} {number}"
    return f"TOP {number} {count}" if verb == "TOP" else verb


bodies = st.lists(st.sampled_from([b"", b".", b"..", b"a", b".a", b"b" * 700]), max_size=4).map(
    lambda lines: b"Subject: x\r\n\r\n" + b"".join(line + b"\r\n" for line in lines)
)
verbs = st.sampled_from(
    ["STAT", "LIST", "UIDL", "LIST1", "UIDL1", "RETR", "RETR", "TOP", "DELE", "DELE", "RSET", "LAST", "NOOP"]
)
steps = st.lists(st.tuples(verbs, st.integers(0, 6), st.integers(0, 4)), max_size=25)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(bodies, st.booleans()), max_size=5),
    st.sets(st.integers(1, 5)),
    steps,
    st.lists(st.integers(0, 300), max_size=8),
    st.booleans(),
)
def test_the_session_answers_as_the_model_does(
    letters: list[tuple[bytes, bool]],
    old: set[int],
    sequence: list[tuple[str, int, int]],
    cuts: list[int],
    quits: bool,
) -> None:
    asyncio.run(play(letters, {number for number in old if number <= len(letters)}, sequence, cuts, quits))


fragments = st.one_of(
    st.sampled_from([b"USER test\r\n", b"PASS secret\r\n", b"DELE 1\r\n", b"RETR 1\r\n", b"LIST\r\n", b"QUIT\r\n"]),
    st.sampled_from(
        [b"AUTH PLAIN\r\n", b"AHRlc3QAc2VjcmV0\r\n", b"*\r\n", b"TOP 2 1\r\n", b"UTF8\r\n", b"\r\n", b"RSET\r\n"]
    ),
    st.binary(max_size=30),
)


@settings(max_examples=150)
@given(st.lists(fragments, max_size=20), st.booleans())
def test_no_octets_break_a_session(octets: list[bytes], lost: bool) -> None:
    asyncio.run(babble(octets, lost))


async def babble(octets: list[bytes], lost: bool) -> None:
    stage = Pop3Stage()
    stage.store.add("Subject: я\r\n\r\n.\r\n".encode())
    stage.store.add(b"Subject: large\r\n\r\n" + b"x" * 3000 + b"\r\n", large=True)
    client = Client(await stage.session({}), "127.0.0.1")
    for piece in octets:
        client.send(piece)
        await asyncio.sleep(0)
    if lost:
        client.wire.connection_lost(None)
    else:
        client.end()
    client.wire.stall_timeout = 0.1
    await client.leave()
    assert not stage.store.locked
    assert len(stage.store.letters) == 2 or b"QUIT\r\n" in b"".join(octets).upper()


async def play(
    letters: list[tuple[bytes, bool]],
    old: set[int],
    sequence: list[tuple[str, int, int]],
    cuts: list[int],
    quits: bool,
) -> None:
    stage = Pop3Stage()
    for body, large in letters:
        stage.store.add(body, large=large)
    for number in old:
        stage.store.flags[number] |= RETRIEVED
    model = Model([body for body, _ in letters], old)
    expected = ["+OK x.mail POP3 Posthouse", "+OK Send your password", "+OK Mailbox locked and ready"]
    lines = ["USER test", "PASS secret"]
    for verb, number, count in sequence:
        lines.append(said(verb, number, count))
        expected += model.answer(verb, number, count)
    if quits:
        lines.append("QUIT")
        expected.append("+OK POP3 server saying goodbye...")
    octets = "".join(f"{line}\r\n" for line in lines).encode()
    client = Client(await stage.session({}), "127.0.0.1")
    borders = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    for start, end in zip(borders, [*borders[1:], len(octets)], strict=True):
        client.send(octets[start:end])
        await asyncio.sleep(0)
    assert [await client.line() for _ in expected] == expected
    await client.leave()
    assert not client.transport.out
    gone = model.deleted if quits else set()
    assert set(stage.store.letters) == set(range(1, len(letters) + 1)) - gone
    marked = {uid for uid in stage.store.letters if stage.store.flags[uid] & RETRIEVED}
    assert marked == ((model.seen if quits else set()) | old) - gone
    assert not stage.store.locked
