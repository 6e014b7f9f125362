"""The books of the kill test must notice what they are kept for: each kind of loss is made up here once."""

from __future__ import annotations

import random

import pytest

from tests.torture.ledger import Ledger, Letter, State

A, B = "a@x.mail", "b@x.mail"
PREFIX = b"Return-Path: <x@y>\r\nReceived: from z\r\n"


def begin(recipients: tuple[str, ...] = (A,), state: State = State.UNSENT) -> tuple[Ledger, Letter]:
    """Books with one letter in them."""
    ledger = Ledger([A, B])
    letter = ledger.new(random.Random(1))
    letter.recipients, letter.state = recipients, state
    return ledger, letter


def found(ledger: Ledger, counts: dict[str, int]) -> list[str]:
    """The failures the books have counted, checked against what they should be."""
    tally = ledger.tally
    names = ("lost", "torn", "doubled", "ghosts", "returned", "half_updates", "repeated_ids", "odd_replies")
    assert {name: getattr(tally, name) for name in names if getattr(tally, name)} == counts, ledger.complaints
    return ledger.complaints


def test_whole_letter_is_no_complaint() -> None:
    ledger, letter = begin(state=State.SENT)
    ledger.acknowledge(letter)
    ledger.read(A, "u1", PREFIX + letter.content())
    ledger.judge({A: ["u1"], B: []})
    found(ledger, {})


def test_lost() -> None:
    ledger, letter = begin(state=State.SENT)
    ledger.acknowledge(letter)
    ledger.judge({A: [], B: []})
    found(ledger, {"lost": 1})


def test_lost_later() -> None:
    ledger, letter = begin(state=State.SENT)
    ledger.read(A, "u1", PREFIX + letter.content())
    ledger.judge({A: ["u1"], B: []})
    ledger.judge({A: [], B: []})
    found(ledger, {"lost": 1})


def test_doubled() -> None:
    ledger, letter = begin(state=State.SENT)
    for unique_id in ("u1", "u2"):
        ledger.read(A, unique_id, PREFIX + letter.content())
    ledger.judge({A: ["u1", "u2"], B: []})
    found(ledger, {"doubled": 1})


@pytest.mark.parametrize("cut", [1, 2, 78])
def test_torn(cut: int) -> None:
    ledger, letter = begin(state=State.SENT)
    ledger.read(A, "u1", PREFIX + letter.content()[:-cut])
    found(ledger, {"torn": 1})


def test_torn_between_recipients() -> None:
    ledger, letter = begin((A, B), State.SENT)
    ledger.read(A, "u1", PREFIX + letter.content())
    ledger.judge({A: ["u1"], B: []})
    found(ledger, {"torn": 1})


def test_unanswered_may_be_nowhere_but_never_comes_later() -> None:
    ledger, letter = begin((A, B), State.SENT)
    ledger.judge({A: [], B: []})
    found(ledger, {})
    ledger.read(A, "u1", PREFIX + letter.content())
    found(ledger, {"ghosts": 1})


def test_unsent_is_there() -> None:
    ledger, letter = begin(state=State.UNSENT)
    ledger.read(A, "u1", PREFIX + letter.content())
    found(ledger, {"ghosts": 1})


def test_deletions() -> None:
    ledger, letter = begin(state=State.SENT)
    ledger.read(A, "u1", PREFIX + letter.content())
    box = ledger.boxes[A]
    box.marked({"u1": letter.number})
    ledger.judge({A: ["u1"], B: []})  # no answer came: all of it stays ...
    box.marked({"u1": letter.number})
    ledger.judge({A: [], B: []})  # ... or all of it is gone
    found(ledger, {})
    ledger.read(A, "u1", PREFIX + letter.content())
    found(ledger, {"repeated_ids": 1, "returned": 1})


def test_half_an_update() -> None:
    ledger, first = begin(state=State.SENT)
    second = ledger.new(random.Random(2))
    second.recipients, second.state = (A,), State.SENT
    for unique_id, letter in (("u1", first), ("u2", second)):
        ledger.read(A, unique_id, PREFIX + letter.content())
    ledger.boxes[A].marked({"u1": first.number, "u2": second.number})
    ledger.judge({A: ["u2"], B: []})
    found(ledger, {"half_updates": 1})


def test_a_lie_after_the_power_cut() -> None:
    ledger, letter = begin()
    ledger.cut = True
    ledger.sent(letter)
    ledger.acknowledge(letter)
    ledger.cut = False
    ledger.judge({A: [], B: []})
    found(ledger, {"lost": 1})


def test_an_answer_that_the_power_cut_overtook() -> None:
    ledger, letter = begin()
    ledger.sent(letter)
    ledger.cut = True
    ledger.acknowledge(letter)
    assert ledger.read(A, "u1", PREFIX + letter.content()) is None
    ledger.cut = False
    ledger.judge({A: [], B: []})
    found(ledger, {})
