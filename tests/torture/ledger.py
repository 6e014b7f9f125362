"""The books of the kill test: what was sent, what was answered, what must therefore be there.

Nothing here knows the product. A letter says its own number, and everything else about it follows from that
number, so a letter that comes out is compared with what it must be, octet by octet.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

_LINE = 78
_LINES = 40_000
_MARK = re.compile(rb"^X-Torture: (\d+)\r$", re.MULTILINE)


def _block() -> bytes:
    """Numbered lines, some beginning with a dot: any two pieces of it differ, and so do a piece and its beginning."""
    chance = random.Random(821)
    lines = []
    for number in range(_LINES):
        start = b"." * chance.choice((0, 0, 0, 1, 2)) + b"%d " % number
        lines.append(start + b"%x" % chance.getrandbits(4 * (_LINE - len(start) - 2) - 3))
    return b"".join(line[: _LINE - 2].ljust(_LINE - 2, b"=") + b"\r\n" for line in lines)


_BLOCK = _block()


class State(Enum):
    """How far a letter came."""

    UNSENT = "not all of it was sent"  # must never be there
    SENT = "all of it was sent, no answer came"  # may be there, for all recipients or none
    KEPT = "answered 250, or seen in a maildrop"  # must be there until it is deleted
    GONE = "was not there after a crash"  # must never appear later


@dataclass(slots=True)
class Letter:
    """One letter on its way."""

    number: int
    recipients: tuple[str, ...]
    lines: int
    state: State = State.UNSENT
    acknowledged: bool = False
    after_cut: bool = False  # its last octet went out when the power was off already

    def content(self) -> bytes:
        """Its octets, whole lines."""
        return _content(self.number, self.lines)


def _content(number: int, lines: int) -> bytes:
    first = (number * 7919) % (_LINES - lines)
    body = _BLOCK[first * _LINE : (first + lines) * _LINE]
    return b"Subject: torture\r\nX-Torture: %d\r\nX-Lines: %d\r\n\r\n" % (number, lines) + body


@dataclass(slots=True)
class Box:
    """What the books say about one maildrop."""

    expected: set[int] = field(default_factory=set)  # letters that must be there
    deleted: set[int] = field(default_factory=set)  # letters whose deletion was answered +OK
    uncertain: set[int] = field(default_factory=set)  # marked in the session whose QUIT got no answer
    dead_ids: set[str] = field(default_factory=set)  # unique-ids of deleted letters: never to come again
    uncertain_ids: set[str] = field(default_factory=set)
    known: dict[str, int] = field(default_factory=dict)  # unique-id -> letter, as last seen

    def marked(self, marks: dict[str, int]) -> None:
        """QUIT is about to be sent: from now on these may be gone."""
        self.uncertain = set(marks.values())
        self.uncertain_ids = set(marks)

    def settled(self, deleted: bool) -> None:
        """QUIT was answered."""
        if deleted:
            self.expected -= self.uncertain
            self.deleted |= self.uncertain
            self.dead_ids |= self.uncertain_ids
            for unique_id in self.uncertain_ids:
                self.known.pop(unique_id, None)
        self.uncertain, self.uncertain_ids = set(), set()


@dataclass(slots=True)
class Tally:
    """What the table shows."""

    rounds: int = 0
    early: int = 0  # kills while the server was still starting
    sent: int = 0
    acknowledged: int = 0
    large: int = 0  # of these, letters over 256 KiB
    unanswered: int = 0  # sent whole, no answer
    kept: int = 0  # of these, found
    unsent: int = 0  # broken off on purpose or by the kill
    refused: int = 0  # sessions that were told of a fault after the power was cut
    deletions: int = 0
    checked: int = 0  # letters compared octet by octet
    lost: int = 0
    torn: int = 0
    doubled: int = 0
    ghosts: int = 0  # there although never sent whole, or at the wrong recipient
    returned: int = 0  # there again although their deletion was answered +OK
    half_updates: int = 0
    repeated_ids: int = 0
    odd_replies: int = 0

    @property
    def failures(self) -> int:
        """Everything that must be zero."""
        return (
            self.lost
            + self.torn
            + self.doubled
            + self.ghosts
            + self.returned
            + self.half_updates
            + self.repeated_ids
            + self.odd_replies
        )


class Ledger:
    """All letters and maildrops of a run, and the judgement over what is found after each crash."""

    def __init__(self, addresses: list[str]) -> None:
        self.boxes = {address: Box() for address in addresses}
        self.tally = Tally()
        self.complaints: list[str] = []
        # The power is off. Refusals are right now, and 250 or +OK to what began after the cut would be a lie. What
        # was on its way at that moment may be there or not, whatever the answer: a sync that the cut overtakes is
        # told "done" by ext4's shutdown now and then (measured: 8 of 150 with nothing but pwrite and fdatasync).
        self.cut = False
        self._letters: dict[int, Letter] = {}
        self._open: list[Letter] = []  # letters of this round

    def new(self, chance: random.Random) -> Letter:
        """A letter that nobody has sent yet: mostly small, some larger than a page, some kept in files of their own."""
        lines = chance.choice((1, 5, 20, 50, 50, 200, 1500, 3600 + chance.randrange(8000)))
        most = min(4, len(self.boxes))
        count = chance.choice((1, 1, 1, 2, most))
        letter = Letter(len(self._letters) + 1, tuple(chance.sample(sorted(self.boxes), count)), lines)
        self._letters[letter.number] = letter
        self._open.append(letter)
        return letter

    def sent(self, letter: Letter) -> None:
        """Its last octets are about to go out: from now on it may be there."""
        letter.state = State.SENT
        letter.after_cut = self.cut

    def acknowledge(self, letter: Letter) -> None:
        """It was answered 250."""
        if self.cut and not letter.after_cut:
            return
        letter.state = State.KEPT
        letter.acknowledged = True
        self.tally.acknowledged += 1
        self.tally.large += letter.lines * _LINE > 256 * 1024
        for address in letter.recipients:
            box = self.boxes[address]
            if letter.number not in box.deleted and letter.number not in box.uncertain:
                box.expected.add(letter.number)

    def read(self, address: str, unique_id: str, text: bytes) -> int | None:
        """Judges one letter as it came out and returns its number."""
        self.tally.checked += 1
        mark = _MARK.search(text)
        letter = self._letters.get(int(mark[1])) if mark else None
        if letter is None:
            self._complain("ghosts", f"{address} holds a letter that nobody sent ({len(text)} octets): {text[:300]!r}")
            return None
        content = letter.content()
        if not text.endswith(content) or b"Subject: torture\r\n" in text[: -len(content)]:
            self._complain("torn", f"letter {letter.number} at {address} came out as {len(text)} octets, not whole")
        if letter.state in (State.UNSENT, State.GONE):
            self._complain("ghosts", f"letter {letter.number} is at {address} although {letter.state.value}")
        if address not in letter.recipients:
            self._complain("ghosts", f"letter {letter.number} is at {address}, not one of {letter.recipients}")
        box = self.boxes[address]
        if self.cut and letter.number not in box.expected:
            return None  # it may have come with the sync that the cut overtook
        if unique_id in box.dead_ids:
            self._complain("repeated_ids", f"{address}: the unique-id {unique_id} was used before")
        if letter.number in box.deleted:
            self._complain("returned", f"letter {letter.number} is at {address} again after its deletion")
        box.known[unique_id] = letter.number
        box.expected.add(letter.number)
        return letter.number

    def judge(self, listings: dict[str, list[str]]) -> None:
        """Compares the books with the unique-ids of every maildrop after a restart (each new one was `read`)."""
        for address, unique_ids in listings.items():
            self._judge_box(address, self.boxes[address], unique_ids)
        self._judge_unanswered()
        for letter in self._open:
            self.tally.sent += 1
            self.tally.unsent += letter.state is State.UNSENT
            if letter.state is State.UNSENT:
                letter.state = State.GONE
        self._open = []

    def _judge_box(self, address: str, box: Box, unique_ids: list[str]) -> None:
        numbers = Counter(box.known[unique_id] for unique_id in unique_ids if unique_id in box.known)
        for number, count in numbers.items():
            if count > 1:
                self._complain("doubled", f"letter {number} is {count} times at {address}")
        there = set(numbers)
        for number in sorted(box.expected - box.uncertain - there):
            self._complain("lost", f"letter {number} ({self._letters[number].state.value}) is not at {address}")
        for number in sorted(there & box.deleted):
            self._complain("returned", f"letter {number} is at {address} again after its deletion")
        remaining = box.uncertain & there
        if remaining and remaining != box.uncertain:
            self._complain("half_updates", f"{address}: {len(remaining)} of {len(box.uncertain)} deletions undone")
        box.settled(deleted=not remaining)
        box.expected = there
        box.known = {unique_id: box.known[unique_id] for unique_id in unique_ids if unique_id in box.known}

    def _judge_unanswered(self) -> None:
        for letter in self._open:
            if letter.acknowledged or letter.state not in (State.SENT, State.KEPT):
                continue
            self.tally.unanswered += 1
            where = [
                address
                for address in letter.recipients
                if letter.number in self.boxes[address].expected or letter.number in self.boxes[address].deleted
            ]
            if where and len(where) != len(letter.recipients):
                self._complain("torn", f"letter {letter.number} reached {where} but not all of {letter.recipients}")
            self.tally.kept += bool(where)
            letter.state = State.KEPT if where else State.GONE

    def odd(self, text: str) -> None:
        """Something was answered that has no place under an ordinary load."""
        if self.cut:
            self.tally.refused += 1
        else:
            self._complain("odd_replies", text)

    def _complain(self, what: str, text: str) -> None:
        setattr(self.tally, what, getattr(self.tally, what) + 1)
        self.complaints.append(f"round {self.tally.rounds}: {what}: {text}")
