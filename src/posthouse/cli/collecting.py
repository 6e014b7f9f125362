"""`posthouse read new`: what was not collected before, in batches that no crash can lose or double.

The order of every batch: the messages are on the disk, then their unique-ids are remembered on the disk, then the
messages that are to leave the server are marked (DELE), and QUIT carries that out. A session marks few, so that a
broken line takes little back; the next one lists the maildrop anew, for numbers hold in one session only.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.collected import HEADER_ID, Collected
from posthouse.cli.exits import Exit
from posthouse.cli.fetching import Fetched
from posthouse.cli.reading import JSON_TEXT, describe, need, separated, show
from posthouse.clients.failure import Failure, Kind
from posthouse.clients.pop3 import refusal
from posthouse.mail.charsets import harmless_line

if TYPE_CHECKING:
    from posthouse.cli.reading import Session
    from posthouse.pop3.client import Answer

BATCH: Final = 50  # messages that are made safe together, at most
BATCH_OCTETS: Final = 1_048_576  # and their octets, unless one alone has more
DELETIONS: Final = 50  # marks of one session; in a large maildrop more, for each session costs its whole list
SESSIONS: Final = 200  # so many sessions empty a maildrop at most
PIPELINE: Final = 64  # commands under way where the server offers PIPELINING
MARK: Final = "H"  # begins the tokens of files in a Maildir
AGAIN: Final = (0.2, 0.5, 1, 2, 4, 8)  # seconds to wait while the server still holds the maildrop of our last session
HEADER: Final = 65_536  # octets of a header that make a unique-id where the server has none
CHANGING: Final = (b"status:", b"x-status:", b"x-uid:", b"x-uidl:", b"x-imap:", b"x-keywords:")  # written by servers


@dataclass(slots=True)
class Letter:
    """A message of the maildrop in this session."""

    number: int
    identity: str
    size: int


@dataclass(slots=True)
class Kept:
    """A message that was fetched whole and is not remembered yet."""

    letter: Letter
    size: int
    row: dict[str, Any]


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    deleted: int = 0
    large: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    refusal: Answer | None = None


class Collector:
    """One run: as many sessions as it takes. Raises Failure, Problem and OSError; what is safe by then stays safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._job = session.job
        self._rules = session.job.rules
        self._target = session.target
        self._moment = 0
        self._tally = Tally()
        self._pending: list[Kept] = []
        self._current: Letter | None = None
        self._count = 0  # octets of the current message
        self._done = self._total = 0  # octets of all, for the progress bar
        self._shown: Fetched | None = None
        self._room = JSON_TEXT
        self._bad: set[str] = set()  # what the server could not give

    async def run(self) -> Exit:
        """Everything new is collected, and everything due has left the server."""
        place = self._target.name if self._target is not None else ""
        access = self._session.access
        with Collected.open(access.login, str(access.server), place) as state:
            letters = await self.letters(state)
            present = {letter.identity for letter in letters}
            self._recover(state, letters)
            while await self._session_part(state, letters):
                await self._again()
                letters = await self.letters(state)
            if self._moment:
                state.end()
            state.keep_only(present)
        return self._finish()

    def _finish(self) -> Exit:
        tally = self._tally
        self._session.progress.end()
        self._session.answer = {"messages": tally.rows, "deleted": tally.deleted, "left": tally.large}
        if tally.refused:
            self._session.answer["refused"] = tally.refused
        if not (self._job.quiet or self._job.as_json):
            if tally.large:
                print(f"Left on the server, larger than --max-size: {tally.large}", file=sys.stderr)
            if not tally.rows and not self._job.watched:
                print("No new mail.", file=sys.stderr)
        if tally.refusal is not None and not tally.rows:
            raise refusal(tally.refusal, "retr")
        return Exit.OK if tally.rows and not tally.refused else Exit.NOT_ALL

    # What there is

    async def letters(self, state: Collected) -> list[Letter]:
        """The messages of this session, with what each is remembered by. Raises Failure."""
        client = self._session.client
        answer, ids = await client.unique_ids()
        sizes = await self._session.all_sizes()
        if state.by_header or not answer.positive:
            if not state.by_header and (len(state) or "UIDL" in client.offered):
                need(answer, "uidl")  # it had unique-ids before: without them everything would seem new
            ids = await self._header_ids(list(sizes))
        counts: dict[str, int] = {}
        letters = []
        for number, identity in ids.items():
            # RFC 1939 §7: copies may have the same unique-id. Each is a message of its own.
            count = counts[identity] = counts.get(identity, 0) + 1
            letters.append(Letter(number, identity if count == 1 else f"{identity} #{count}", sizes.get(number, 0)))
        return letters

    async def _header_ids(self, numbers: list[int]) -> dict[int, str]:
        """Unique-ids for a server that has none: from each header, as it never changes."""
        ids: dict[int, str] = {}

        def take(number: int, octets: bytes) -> None:
            if octets:
                ids[number] = header_id(octets)

        await self._session.client.tops(numbers, 0, take, at_once=self._at_once)
        for number in numbers:
            if number not in ids:  # RFC 1939 §7: a server need not have TOP
                header = bytearray()
                answer = await self._session.client.retrieve(number, lambda o, h=header: _begin(h, o))  # type: ignore[misc]
                need(answer, "retr")
                ids[number] = header_id(bytes(header))
        return {number: ids[number] for number in numbers}

    @property
    def _at_once(self) -> int:
        return PIPELINE if "PIPELINING" in self._session.client.offered else 1

    def _recover(self, state: Collected, letters: list[Letter]) -> None:
        """Puts right what a run left that broke off: what is whole in the folder is remembered now."""
        mark = state.interrupted
        if mark is None:
            return
        if self._target is None:
            state.end()
            return
        found = self._target.recover(mark.moment, mark.length, self._mark)
        safe = [letter.identity for letter in letters if self._token(letter) in found]
        state.add(safe, now=int(time.time()), moment=mark.moment, length=self._target.length)
        state.end()

    @property
    def _mark(self) -> str:
        access = self._session.access
        return MARK + _digest(f"{access.login}\0{access.server}", 8)

    def _token(self, letter: Letter) -> str:
        return self._mark + _digest(letter.identity, 24)

    # One session

    async def _session_part(self, state: Collected, letters: list[Letter]) -> bool:
        """What one session may do; whether another one is needed."""
        rules, now = self._rules, time.time()
        most = self._most_deletions(len(letters))
        new = [letter for letter in letters if letter.identity not in state]
        fitting = [letter for letter in new if rules.takes(letter.size) and letter.identity not in self._bad]
        self._tally.large = len([letter for letter in new if not rules.takes(letter.size)])
        room = len(fitting) if rules.limit is None else max(0, rules.limit - len(self._tally.rows))
        due = [
            letter
            for letter in letters
            if letter.identity in state and rules.is_due(letter.size, max(0.0, now - state.since(letter.identity)))
        ]
        await self._delete(due[:most])
        if len(due) >= most:
            return len(due) > most or bool(fitting[:room])
        group, leaving = self._group(fitting[:room], most - len(due))
        self._total = self._done + sum(letter.size for letter in fitting[:room])
        await self._collect(state, group)
        await self._delete([letter for letter in leaving if letter.identity in state])
        return len(group) < len(fitting[:room])

    def _most_deletions(self, count: int) -> int:
        if "LOGIN-DELAY" in self._session.client.offered:
            return max(count, 1)  # RFC 2449 §6.5: it lets nobody in again so soon
        return max(DELETIONS, count // SESSIONS)

    def _group(self, new: list[Letter], most: int) -> tuple[list[Letter], list[Letter]]:
        """The new messages that this session collects, and those of them that leave the server then."""
        leaving: list[Letter] = []
        for count, letter in enumerate(new):
            if self._rules.is_due(letter.size, 0):
                if len(leaving) == most:
                    return new[:count], leaving
                leaving.append(letter)
        return new, leaving

    async def _delete(self, letters: list[Letter]) -> None:
        numbers = [letter.number for letter in letters]
        async for _, answer in self._session.client.delete_each(numbers, at_once=self._at_once):
            need(answer, "dele")
            self._session.marked += 1
            self._tally.deleted += 1

    async def _again(self) -> None:
        """QUIT, which carries out the deletions, and a new session."""
        await self._session.leave()
        for seconds in (*AGAIN, None):
            try:
                await self._session.open()
            except Failure as failure:
                if seconds is None or failure.kind not in (Kind.IN_USE, Kind.TEMPORARY):
                    raise
                self._session.close()
                await asyncio.sleep(seconds)
            else:
                return

    # Messages

    async def _collect(self, state: Collected, letters: list[Letter]) -> None:
        if not letters:
            return
        if not self._moment:
            self._moment = int(time.time())
            if self._target is not None:
                self._target.start(self._moment)
                state.begin(self._moment, self._target.length)
        try:
            await self._fetch(state, letters)
        except (Failure, asyncio.CancelledError):
            self._tell_break()
            self._drop()
            self._commit(state)
            state.end()
            raise
        finally:
            self._drop()
        self._commit(state)

    async def _fetch(self, state: Collected, letters: list[Letter]) -> None:
        each = self._session.client.retrieve_each([n.number for n in letters], self._take, at_once=self._at_once)
        coming = iter(letters)
        self._current = next(coming)
        octets = 0
        async for _, answer in each:
            letter = self._current
            assert letter is not None, "each answer is to one of them"
            if answer.positive:
                kept = self._keep(letter)
                octets += kept.size
                if self._alone or len(self._pending) >= BATCH or octets >= BATCH_OCTETS:
                    self._commit(state)
                    octets = 0
            else:
                self._refuse(letter, answer)
            self._count = 0
            self._current = next(coming, None)

    @property
    def _alone(self) -> bool:
        """Whether nothing would tell after a crash that a message was written: then each is remembered at once."""
        return self._target is None or self._target.name == "-"

    def _begin(self, letter: Letter) -> None:
        if self._target is None:
            self._shown = Fetched()
        else:
            self._target.begin(self._token(letter))

    def _take(self, octets: bytes) -> None:
        """A piece of the current message."""
        letter = self._current
        assert letter is not None, "a message comes only when one was asked for"
        if not self._count:
            self._begin(letter)
        self._count += len(octets)
        self._done += len(octets)
        self._session.progress(self._done, self._total)
        if self._target is not None:
            self._target.write(octets)
        elif self._shown is not None:
            self._shown.add(octets)

    def _keep(self, letter: Letter) -> Kept:
        """The current message is whole."""
        if not self._count:
            self._begin(letter)
        row: dict[str, Any] = {"n": letter.number, "id": letter.identity, "size": self._count}
        if self._target is not None:
            row["saved"] = self._target.end()
        elif self._shown is not None:
            self._session.progress.end()
            with self._shown as shown:
                if self._job.as_json:
                    row |= describe(shown.message(), self._room)
                    self._room -= len(row["text"])
                else:
                    show(separated(letter.number, shown.message()))
            self._shown = None
        kept = Kept(letter, self._count, row)
        self._pending.append(kept)
        return kept

    def _refuse(self, letter: Letter, answer: Answer) -> None:
        """One message that the server cannot give never stops the others."""
        self._bad.add(letter.identity)
        self._tally.refusal = self._tally.refusal or answer
        self._tally.refused.append({"n": letter.number, "id": letter.identity, "reply": answer.text})
        if not self._job.as_json:
            print(harmless_line(f"Message {letter.number} was not given: {answer.text}"), file=sys.stderr)

    def _commit(self, state: Collected) -> None:
        """Makes safe what is pending, and remembers it; only then it is told."""
        if not self._pending:
            return
        length = 0
        if self._target is not None:
            self._target.sync()
            length = self._target.length
        identities = [kept.letter.identity for kept in self._pending]
        state.add(identities, now=int(time.time()), moment=self._moment, length=length)
        pending, self._pending = self._pending, []
        for kept in pending:
            self._tally.rows.append(kept.row)
            if "saved" in kept.row and not (self._job.as_json or self._job.quiet or self._job.target == "-"):
                self._session.progress.end()
                print(f"{kept.letter.number}: {kept.row['saved']}")
        count = len(self._tally.rows)
        self._session.safe = f"Collected and safe: {count}."

    def _drop(self) -> None:
        """Takes back a message that did not come whole."""
        if self._target is not None:
            self._target.drop()
        elif self._shown is not None:
            self._shown.close()
            self._shown = None

    def _tell_break(self) -> None:
        """POP3 has no way to go on in the middle of a message."""
        letter = self._current
        self._session.progress.end()
        if letter is None or not self._count or self._job.as_json or self._job.quiet:
            return
        part = f"{self._count / 1e6:.1f} of {letter.size / 1e6:.1f} MB" if letter.size else f"{self._count} octets"
        text = f"Message {letter.number} broke off after {part}; POP3 cannot go on in the middle of a message."
        print(f"{text} The next run fetches it from its beginning.", file=sys.stderr)


def header_id(octets: bytes) -> str:
    """What a message is known by where the server has no unique-ids: a hash of its header, but for the fields that
    servers change."""
    header = octets[:HEADER].replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    lines = [line for line in header.split(b"\n") if not line.lower().startswith(CHANGING)]
    return HEADER_ID + hashlib.sha256(b"\n".join(lines).rstrip()).hexdigest()[:40]


def _begin(header: bytearray, octets: bytes) -> None:
    header.extend(octets[: max(0, HEADER - len(header))])


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


__all__ = ["Collector", "header_id"]
