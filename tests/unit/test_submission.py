"""Submission's gate: what becomes of headers, cut anywhere; and whose addresses belong to a login."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.address import Address
from posthouse.mail.budget import Budget
from posthouse.mail.header import Header
from posthouse.mail.reply import Rejected, Smtp
from posthouse.mta.submission import INLINE, LONGEST, TOO_BIG, HeaderGate, Wishes, rewritten
from posthouse.policy.senders import AUTHORS, claimed, owns
from posthouse.ports.store import Account, Draft
from tests.smtp_stage import MemoryDraft, MemoryMail, Seeded, StillClock

TEST = Account(1, "test@x.mail", "", 1)
REFUSE = Wishes("refuse", True, "x.mail")
GRANTED = Account(1, "test@x.mail", "", 1, senders=("info@x.mail", "*@foo.com", "*@xn--bcher-kva.example"))


async def current(account: Account) -> Account:
    return account


async def through(*pieces: bytes, wishes: Wishes = REFUSE) -> bytes:
    """What the draft holds after the gate was given these pieces."""
    draft = MemoryDraft(MemoryMail())
    gate = HeaderGate(cast(Draft, draft), TEST, current, wishes, StillClock(), Seeded(), Budget(LONGEST))
    for piece in pieces:
        await gate.write(piece)
    await gate.end()
    return bytes(draft.content)


@pytest.mark.parametrize(
    ("sender", "own"),
    [
        ("test@x.mail", True),
        ("TEST@X.Mail", True),
        ('"test"@x.mail', True),
        ("info@x.mail", True),
        ("anybody@foo.com", True),
        ("*@foo.com", True),
        ("anybody@FOO.COM", True),
        ("leser@bücher.example", True),
        ("anybody@sub.foo.com", False),
        ("anybody@foo.com.example", False),
        ("test@y.mail", False),
        ("test+tag@x.mail", False),
        ("test@[127.0.0.1]", False),
        ("other@x.mail", False),
    ],
)
def test_whose_sender_it_is(sender: str, own: bool) -> None:
    assert owns(GRANTED, Address.parse(sender)) is own


def test_a_star_that_was_not_granted_is_an_ordinary_character() -> None:
    """Catches a sender named like a pattern that matches itself."""
    assert not owns(TEST, Address.parse("*@x.mail"))


AUTHORED = [
    (b"From: test@x.mail\r\n\r\n", True),
    (b"from : Test <TEST@x.mail>\r\n\r\n", True),
    (b"From: boss@x.mail,\r\n test@x.mail\r\n\r\n", True),
    (b"From: boss@x.mail\r\nResent-From: test@x.mail\r\n\r\n", True),
    (b"From: boss@x.mail\r\nFrom: test@x.mail\r\n\r\n", True),
    (b"Subject: nobody\r\n\r\n", True),
    (b"From: boss@x.mail\r\n\r\n", False),
    (b'From: "test@x.mail" <boss@x.mail>\r\n\r\n', False),
    (b"From: boss@x.mail (test@x.mail)\r\n\r\n", False),
    (b"From: =?utf-8?q?test=40x.mail?= <boss@x.mail>\r\n\r\n", False),
    (b"From: test@x.mail <boss@x.mail\r\n\r\n", False),
    (b"From: test@x.mail, (\r\n\r\n", False),
    (b"From:\r\n\r\n", False),
    (b"From: \xff\xfe\r\n\r\n", False),
    (b"From: undisclosed:;\r\n\r\n", False),
    (b"X-From: test@x.mail\r\nFrom: boss@x.mail\r\n\r\n", False),
    (b"From: boss@x.mail\r\n\r\nFrom: test@x.mail\r\n", False),
    (b"Subject: x\r\nno field\r\nFrom: boss@x.mail\r\n\r\n", False),
    (b"From: " + b"a@b.example, " * 3000 + b"test@x.mail\r\n\r\n", False),
]


@pytest.mark.parametrize(("header", "own"), AUTHORED)
async def test_the_author_belongs_to_the_login(header: bytes, own: bool) -> None:
    if own:
        assert (await through(header)).endswith(header)
        return
    with pytest.raises(Rejected) as error:
        await through(header)
    assert error.value.reply is Smtp.AUTHOR_NOT_YOURS


async def test_any_cutting_gives_the_same_letter() -> None:
    """Catches an end of the header that is overlooked between two reads."""
    letter = b"Bcc: a@x.mail,\r\n b@x.mail\r\nFrom: test@x.mail\r\nDate: now\r\n\r\nBcc: text\r\n\r\nmore\r\n"
    whole = await through(letter)
    assert whole.count(b"Bcc") == 1
    for size in (1, 2, 3, 4, 5, 7, 40):
        assert await through(*(letter[start : start + size] for start in range(0, len(letter), size))) == whole
    for cut in range(len(letter)):
        assert await through(letter[:cut], letter[cut:]) == whole


@given(st.lists(st.sampled_from([b"Bcc", b"bCC", b"Resent-Bcc", b"To", b"X-Bcc", b"Subject"]), max_size=12), st.data())
def test_what_stays_is_in_order_and_unchanged(names: list[bytes], data: st.DataObject) -> None:
    fields = [
        name + data.draw(st.sampled_from([b": ", b":", b" :", b"\t: "])) + b"v%d" % number
        + data.draw(st.sampled_from([b"\r\n", b",\r\n folded\r\n", b"\r\n\t\r\n x\r\n"]))
        for number, name in enumerate(names)
    ]  # fmt: skip
    header = b"Message-ID: <1@x>\r\nDate: now\r\n" + b"".join(fields) + b"\r\n"
    kept = [field for field in fields if field.lower().split(b":")[0].strip() not in (b"bcc", b"resent-bcc")]
    expected = b"Message-ID: <1@x>\r\nDate: now\r\n" + b"".join(kept) + b"\r\n"
    assert rewritten(header, Header(header), TEST, REFUSE, 0.0, "00") == expected


@pytest.mark.parametrize(
    "content", [b"", b"text\r\n", b" folded: x\r\n\r\n", b"From boss\r\nFrom: boss@x.mail\r\n\r\n"]
)
async def test_what_has_no_header_passes_as_it_is(content: bytes) -> None:
    assert await through(content) == content


async def test_headers_of_all_letters_together_are_bounded() -> None:
    """Would catch memory that a stolen account fills from many connections: told 451, nothing reaches the draft."""
    budget, draft = Budget(100_000), MemoryDraft(MemoryMail())
    gates = [HeaderGate(cast(Draft, draft), TEST, current, REFUSE, StillClock(), Seeded(), budget) for _ in range(10)]
    for _ in range(30):
        for gate in gates:
            await gate.write(b"X-Long: " + b"x" * 990 + b"\r\n")
    assert budget.used <= 100_000 + 10 * 8192
    assert draft.content == b""
    with pytest.raises(Rejected) as error:
        for gate in gates:
            await gate.end()
    assert error.value.reply == Smtp.BUSY
    for gate in gates:
        gate.discard()
    assert budget.used == 0


async def test_a_header_is_bounded() -> None:
    """Catches memory that grows with what a sender calls a header."""
    draft = MemoryDraft(MemoryMail())
    gate = HeaderGate(cast(Draft, draft), TEST, current, REFUSE, StillClock(), Seeded(), Budget(2 * LONGEST))
    piece = b"X-Long: " + b"x" * 990 + b"\r\n"
    for _ in range(3 * LONGEST // len(piece)):
        await gate.write(piece)
    assert len(gate._buffer) <= LONGEST + len(piece)
    assert draft.content == b""
    with pytest.raises(Rejected) as error:
        await gate.end()
    assert error.value.reply is TOO_BIG
    with pytest.raises(Rejected):
        await through(b"a:\r\n" * 150_000 + b"\r\n")
    assert await through(b"no header" + b"x" * 2 * LONGEST) == b"no header" + b"x" * 2 * LONGEST


async def test_the_event_loop_is_not_held_up() -> None:
    """Catches 20 ms of parsing during which nobody else is served: long headers are read elsewhere."""
    many = b"a:\r\n" * ((INLINE - 30) // 4) + b"From: test@x.mail\r\n\r\n"
    assert len(many) <= INLINE
    assert await held(lambda number: many) < 0.02
    for form in ("a@[IPv6:::%x:%x]", "ü@ü%d.b%d.example", "a@xn--bcher-kva%d.x%d"):
        assert await held(functools.partial(authors, form)) < 0.02, form


def authors(form: str, number: int) -> bytes:
    """Authors in odd forms that nobody has seen before, so that no cache helps."""
    listed = ", ".join(form % (number + 1, count) for count in range(300))
    return b"From: " + listed.encode() + b"\r\n\r\n"


async def held(make: Callable[[int], bytes]) -> float:
    """The longest time, at best, for which the loop's thread was busy."""
    took = []
    for number in range(5):
        header = make(number)
        begun = time.thread_time()
        with contextlib.suppress(Rejected):
            await through(header)
        took.append(time.thread_time() - begun)
    return min(took)


def test_hostile_authors_are_read_in_bounded_time() -> None:
    for piece in (
        b"(",
        b"<",
        b'"',
        b"\\",
        b"a@",
        b"<<>",
        b",",
        b"=?utf-8?q?",
        b"[",
        b"a@b, ",
        "ü@ü.example, ".encode(),
    ):
        header = b"From: " + piece * (900_000 // len(piece)) + b"\r\n\r\n"
        begun = time.process_time()
        found, addresses = claimed(Header(header), AUTHORS)
        assert found and addresses == []
        header = b"".join(b"From: " + piece * 100 + b"\r\n" for _ in range(1000)) + b"\r\n"
        claimed(Header(header), AUTHORS)
        assert time.process_time() - begun < 2.0


def test_sender_is_added_once() -> None:
    wishes = Wishes("add-sender", False, "x.mail")
    fields = [b"From: boss@x.mail\r\n", b"Sender: test@x.mail\r\n", b"Sender: boss@x.mail\r\n", b"Subject: x\r\n"]
    for order in itertools.permutations(fields):
        header = b"".join(order) + b"\r\n"
        result = rewritten(header, Header(header), TEST, wishes, 0.0, "00")
        assert result.count(b"Sender: test@x.mail\r\n") == 1
        assert b"Sender: boss" not in result
        assert result.endswith(b"\r\n\r\n")


def test_senders_without_end_are_not_read() -> None:
    """Catches a header of which every line is parsed as somebody's address."""
    wishes = Wishes("add-sender", False, "x.mail")
    header = b"From: boss@x.mail\r\n" + b"".join(b"Sender: a@[IPv6:::%x]\r\n" % n for n in range(30_000)) + b"\r\n"
    begun = time.thread_time()
    result = rewritten(header, Header(header), TEST, wishes, 0.0, "00")
    assert result == b"Sender: test@x.mail\r\nFrom: boss@x.mail\r\n\r\n"
    assert time.thread_time() - begun < 1.0
