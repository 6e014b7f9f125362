"""How a POP3 session gets at the octets of its messages: read ahead where that pays, streamed where they are large,
and with an ASCII header for a client that did not ask for UTF-8.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from posthouse.mail.downgrade import Downgrade
from posthouse.mail.reply import Pop3, Rejected, Unavailable
from posthouse.pop3.maildrop import EIGHT_BIT, Row, Snapshot
from posthouse.ports.store import Letter, Store

AHEAD: Final = 64  # small messages fetched in one look-up for a client that reads one after the other
AHEAD_OCTETS: Final = 524_288  # and what they hold at most
AHEAD_IN_ALL: Final = 67_108_864  # octets read ahead for all sessions together
SMALL: Final = 65_536  # a larger message is never read ahead
QUICK: Final = 16_384  # octets of header that are downgraded at once, without a thread
SIZES: Final = 10_000  # sizes of downgraded messages kept between sessions

Pieces: TypeAlias = AsyncGenerator[bytes, None]


@dataclass(slots=True)
class Shelf:
    """What all sessions of a server share: the bound on what is read ahead, and sizes that were reckoned once."""

    most: int = AHEAD_IN_ALL
    octets: int = 0
    held: dict[Letters, int] = field(default_factory=dict)
    grown: dict[tuple[int, int], int] = field(default_factory=dict)  # (mailbox, UID): octets that downgrading adds

    def hold(self, letters: Letters, octets: int) -> None:
        """Counts what a session has read ahead; those who did it longest ago lose theirs when it becomes too much."""
        self.release(letters)
        self.held[letters] = octets
        self.octets += octets
        while self.octets > self.most:
            oldest = next(iter(self.held))
            oldest.forget()

    def release(self, letters: Letters) -> None:
        """The session holds nothing any more."""
        self.octets -= self.held.pop(letters, 0)

    def remember(self, mailbox: int, uid: int, grown: int) -> None:
        """Keeps the size of a downgraded message; a UID never means another message, so this never grows stale."""
        if len(self.grown) >= SIZES:
            del self.grown[next(iter(self.grown))]
        self.grown[mailbox, uid] = grown


class Letters:
    """The messages of one session's maildrop. `utf8`: the client takes header fields in UTF-8 (RFC 6856 §2.1)."""

    __slots__ = ("_ahead", "_mailbox", "_next", "_ready", "_shelf", "_sized", "_snapshot", "_store", "_utf8")

    def __init__(self, store: Store, shelf: Shelf, mailbox: int, snapshot: Snapshot, *, utf8: bool) -> None:
        self._store = store
        self._shelf = shelf
        self._mailbox = mailbox
        self._snapshot = snapshot
        self._utf8 = utf8
        self._ready: dict[int, Letter] = {}  # by UID
        self._next = 1  # the number that a client reading one after the other asks for next
        self._ahead = 1  # how many messages the next look-up fetches if it does
        self._sized = utf8  # whether all sizes are known

    def at_hand(self, number: int) -> bytes | None:
        """The whole message if there is one with this number that can be had without waiting."""
        snapshot = self._snapshot
        if not 0 < number <= len(snapshot.rows) or number in snapshot.deleted:
            return None
        uid, _, _, flags = snapshot.rows[number - 1]
        if flags & EIGHT_BIT and not self._utf8:
            return None
        letter = self._ready.pop(uid, None)
        if letter is None:
            return None
        self._next = number + 1
        return letter.octets

    async def open(self, number: int, row: Row) -> bytes | Pieces:
        """The whole message when it is small, else its pieces. Raises Rejected when it is gone, and Unavailable;
        so may the pieces, when octets have been given out already."""
        letter = await self._fetch(number, row)
        plain = self._utf8 or not row[3] & EIGHT_BIT
        octets = letter.octets
        if octets is not None:
            return octets if plain else await _all(octets)
        if plain:
            return cast(Pieces, letter.chunks())
        await self.size(number, row)
        return _downgraded(letter)

    async def size(self, number: int, row: Row) -> int:
        """The size of one message for this client. Raises as `open` does."""
        if not self._utf8 and row[3] & EIGHT_BIT and number not in self._snapshot.sizes:
            await self._reckon([number])
        return self._snapshot.size(number)

    @property
    def sized(self) -> bool:
        """Whether the sizes of all messages are known."""
        if not self._sized:
            self._sized = not any(row[3] & EIGHT_BIT for row in self._snapshot.rows)
        return self._sized

    async def reckon(self) -> None:
        """Finds out the sizes of all messages for this client."""
        if self.sized:
            return
        known = self._snapshot.sizes
        numbers = [n for n, row in enumerate(self._snapshot.rows, 1) if row[3] & EIGHT_BIT and n not in known]
        for start in range(0, len(numbers), AHEAD):
            await self._reckon(numbers[start : start + AHEAD])
            await asyncio.sleep(0)  # a look-up may take place at once: others have their turn between two of them
        self._sized = True

    def forget(self) -> None:
        """Lets go of what was read ahead."""
        self._ready.clear()
        self._shelf.release(self)

    async def _reckon(self, numbers: list[int]) -> None:
        rows, grown, mailbox = self._snapshot.rows, self._shelf.grown, self._mailbox
        unknown = [rows[n - 1][0] for n in numbers if (mailbox, rows[n - 1][0]) not in grown]
        found: dict[int, int] = {}
        if unknown:
            for uid, letter in zip(unknown, await self._store.fetch(mailbox, unknown), strict=True):
                try:
                    found[uid] = 0 if letter is None else await _grown(letter)
                except Unavailable:
                    continue  # it has no size, since it cannot be read; RETR says so
                self._shelf.remember(mailbox, uid, found[uid])
        for number in numbers:
            uid, size = rows[number - 1][0], rows[number - 1][2]
            self._snapshot.resize(number, size + found.get(uid, grown.get((mailbox, uid), 0)))

    async def _fetch(self, number: int, row: Row) -> Letter:
        letter = self._ready.pop(row[0], None)
        if letter is None:
            uids, octets = self._plan(number, row)
            letters = await self._several(uids)
            letter = letters.pop(row[0], None)
            self._ready = letters
            if letters:
                self._shelf.hold(self, octets)
        if letter is None:
            # Another program removed it: the account, or a repair.
            raise Rejected(Pop3.NO_SUCH_MESSAGE)
        self._next = number + 1
        return letter

    async def _several(self, uids: list[int]) -> dict[int, Letter]:
        try:
            letters = await self._store.fetch(self._mailbox, uids)
        except Unavailable:
            if len(uids) == 1:
                raise
            # What was asked for may be sound, though something read ahead is not.
            uids = uids[:1]
            letters = await self._store.fetch(self._mailbox, uids)
        return {uid: letter for uid, letter in zip(uids, letters, strict=True) if letter is not None}

    def _plan(self, number: int, row: Row) -> tuple[list[int], int]:
        """The UIDs to fetch in one look-up, and what those read ahead hold."""
        self._ahead = min(self._ahead * 8, AHEAD) if number == self._next else 1
        uids, octets, rows = [row[0]], 0, self._snapshot.rows
        if row[2] > SMALL:
            return uids, 0
        for index in range(number, min(number + self._ahead - 1, len(rows))):
            uid, _, size, _ = rows[index]
            if size > SMALL or octets + size > AHEAD_OCTETS:
                break
            if index + 1 not in self._snapshot.deleted:
                uids.append(uid)
                octets += size
        return uids, octets


async def _grown(letter: Letter) -> int:
    """How many octets downgrading the header adds; reads no further than the header."""
    converter = Downgrade()
    if (octets := letter.octets) is not None:
        await _add(converter, octets)
    else:
        async with aclosing(cast(Pieces, letter.chunks())) as pieces:
            async for piece in pieces:
                await _add(converter, piece)
                if converter.in_body:
                    break
    converter.end()
    return converter.grown


async def _all(message: bytes) -> bytes:
    converter = Downgrade()
    out = await _add(converter, message)
    return out + converter.end()


async def _add(converter: Downgrade, piece: bytes) -> bytes:
    """A long header leaves the event loop: it may take a tenth of a second."""
    if converter.in_body or len(piece) <= QUICK:
        return converter.add(piece)
    return await asyncio.to_thread(converter.add, piece)


async def _downgraded(letter: Letter) -> Pieces:
    converter = Downgrade()
    async with aclosing(cast(Pieces, letter.chunks())) as pieces:
        async for piece in pieces:
            yield await _add(converter, piece)
    yield converter.end()
