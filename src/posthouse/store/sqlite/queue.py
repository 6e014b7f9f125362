"""The queue in the embedded engine: `ports.queue.QueueStore`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.ports.queue import Claim, Item, Notice, Parcel, Queued, Settled, State, Taken, Waiting, Wanted
from posthouse.ports.store import Delivered, Delivery, Draft, Letter
from posthouse.ports.system import Clock
from posthouse.store.content import FileLetter, Files, LetterDraft, SmallLetter
from posthouse.store.model import INLINE, UniqueIds, decode_envelope, encode_envelope, end_line, header_of
from posthouse.store.sqlite.deposits import QUEUE_SHIFT, deposit
from posthouse.store.sqlite.jobs import Batch, Deposit, release
from posthouse.store.sqlite.mark import Mark
from posthouse.store.sqlite.pool import Readers, Values

_json: Final = msgspec.json.Encoder()
_numbers: Final = msgspec.json.Decoder(list[int])

_COLUMNS: Final = (
    "queue.id, queue.letter, queue.sender, queue.recipient, queue.destination, queue.size, queue.state,"
    " queue.attempts, queue.accepted, queue.due, queue.notify, queue.orcpt, queue.told, queue.leased IS NOT NULL,"
    " queue.tried, queue.dead, queue.reply, queue.status, queue.host"
)
_ITEMS: Final = f"SELECT {_COLUMNS} FROM queue WHERE "  # noqa: S608 (fixed texts)
_CARRY: Final = f"""
    SELECT {_COLUMNS}, queue.content, queue.prefix FROM queue
    WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id
"""  # noqa: S608 (fixed texts)
_CONTENTS: Final = (
    "SELECT id, envelope, size, checksum, file, data FROM content WHERE id IN (SELECT value FROM json_each(?))"
)
_WAITING: Final = (
    "SELECT destination, count(*), min(due), sum(dead) FROM queue WHERE state = 'due' GROUP BY destination"
)
# The rows of some letters: those that are due first, with all their recipients that are due too.
_DUE: Final = """
    SELECT json_group_array(id), total(size) FROM (
        SELECT queue.id AS id, queue.size AS size FROM
            (SELECT DISTINCT content FROM
                (SELECT content FROM queue WHERE destination = :destination AND state = 'due' AND due <= :now
                    ORDER BY due, id LIMIT :most * 4) LIMIT :most) AS first
            CROSS JOIN queue ON queue.id BETWEEN first.content << 20 AND (first.content << 20) + 1048575
        WHERE destination = :destination AND state = 'due' AND due <= :now)
"""
_SETTLE: Final = """
    UPDATE queue SET due = new.due, leased = NULL, attempts = attempts + 1, tried = :now,
        told = max(queue.told, new.told), dead = new.dead, reply = new.reply, status = new.status, host = new.host,
        destination = coalesce(nullif(new.destination, ''), queue.destination)
    FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS due,
          json_extract(value, '$[2]') AS told, json_extract(value, '$[3]') AS dead,
          json_extract(value, '$[4]') AS reply, json_extract(value, '$[5]') AS status,
          json_extract(value, '$[6]') AS host, json_extract(value, '$[7]') AS destination
        FROM json_each(:settled)) AS new
    WHERE queue.id = new.id
"""
_MOVE: Final = """
    UPDATE queue SET due = due + :by, accepted = accepted + :by, leased = leased + :by, tried = tried + :by
"""
_MEND: Final = """
    UPDATE queue SET due = min(due, :now), accepted = min(accepted, :now), tried = min(tried, :now)
    WHERE leased IS NULL AND (accepted > :last OR tried > :last)
"""

FUTURE: Final = 3600.0
"""Seconds that a time may lie ahead of the clock before the clock is said to have been set back."""


@dataclass(slots=True)
class Parts:
    """What the queue uses of its store. `change` has the writer do work in its transaction, `submit` hands a letter
    to it, `letter` opens a stored one, `forget` is told of mailboxes that were changed."""

    readers: Readers
    files: Files
    unique_ids: UniqueIds
    clock: Clock
    change: Callable[..., Awaitable[Any]]
    submit: Callable[..., Deposit]
    letter: Callable[..., Letter]
    in_thread: Callable[..., Awaitable[Any]]
    forget: Callable[[Sequence[int]], None]


class SqliteQueue:
    """The queue of one store. Its methods belong to the event loop's thread."""

    __slots__ = ("_changes", "_mark", "_parts")

    def __init__(self, parts: Parts, mark: Path | None) -> None:
        """`mark` is the file by which processes tell each other; None where there is only this one."""
        self._parts = parts
        self._changes = 0
        self._mark: Mark | None = None
        if mark is not None:
            with contextlib.suppress(OSError):  # without it, a running server does not see what a command changed
                self._mark = Mark(mark)

    def close(self) -> None:
        """Lets go of the mark."""
        if self._mark is not None:
            self._mark.close()
            self._mark = None

    def mark(self) -> bytes:
        """Octets that are others after a command changed something."""
        return b"%d" % self._changes if self._mark is None else self._mark.read()

    async def accept(
        self,
        draft: Draft,
        deliveries: Sequence[Delivery],
        queued: Sequence[Queued],
        *,
        letter: str,
        envelope: Envelope,
        notices: Sequence[Notice] = (),
        until: float = 0.0,
    ) -> Taken:
        """Copies, queue rows and notices of one letter in one transaction."""
        assert isinstance(draft, LetterDraft), "a draft of this store"
        await draft.written()
        item = self._parts.submit(draft, deliveries, letter, envelope, queued, until, self._deposits(notices))
        return Taken(await item.done, self._parcels_of(item, envelope))

    def _parcels_of(self, item: Deposit, envelope: Envelope) -> list[Parcel]:
        """What is carried on at once, from memory: the letter need not be read again."""
        parcels: dict[str, Parcel] = {}
        for number, queued in enumerate(item.queued):
            if not queued.now:
                continue
            parcel = parcels.get(queued.destination)
            if parcel is None:
                parcel = parcels[queued.destination] = Parcel(
                    queued.destination, _without_recipients(envelope), [], self._letter(queued.prefix, item)
                )
            parcel.items.append(_item_of(item, (item.content << QUEUE_SHIFT) + number, queued))
            parcel.envelope.recipients.append(_recipient(queued.recipient, queued.notify, queued.orcpt))
        return list(parcels.values())

    def _letter(self, prefix: bytes, item: Deposit) -> Letter:
        size = len(prefix) + item.size
        if item.file is not None:
            return FileLetter(self._parts.files, item.file, prefix, size, item.checksum)
        assert item.octets is not None, "a content lies in memory or in a file"
        return SmallLetter(prefix, size, prefix + item.octets)

    def _deposits(self, notices: Sequence[Notice]) -> list[Deposit]:
        now, loop = self._parts.clock.now(), asyncio.get_running_loop()
        return [_deposit_of(notice, loop.create_future(), now) for notice in notices]

    # Carrying on

    async def waiting(self) -> list[Waiting]:
        """Every destination with items that wait for their time."""
        return [Waiting(*row) for row in await self._listing(_WAITING)]

    async def claim(self, destination: str, now: float, until: float, limit: int) -> Claim:
        """Takes and leases what is due for a destination."""
        work = functools.partial(_claim, destination, now, until, limit)
        ids, octets, due = await self._parts.change(work, frees=True)  # what leaves gives room back
        if not ids:
            return Claim([], due)
        text = _json.encode(ids).decode()
        if octets <= INLINE:
            return Claim(self._read(self._parts.readers.inline, text), due)
        return Claim(await self._parts.in_thread(self._read_apart, text), due)

    def _read_apart(self, ids: str) -> list[Parcel]:
        with self._parts.readers.snapshot() as cursor:
            return self._read(lambda sql, parameters: cursor.execute(sql, parameters).fetchall(), ids)

    def _read(self, ask: Callable[[str, Sequence[object]], list[Any]], ids: str) -> list[Parcel]:
        rows = ask(_CARRY, (ids,))
        wanted = _json.encode(sorted({row[-2] for row in rows})).decode()
        contents = {row[0]: row[1:] for row in ask(_CONTENTS, (wanted,))}
        # One letter's rows stand together; those with another prefix or destination are parcels of their own.
        return [
            self._parcel(list(some), contents.get(key[1]))
            for key, some in groupby(rows, lambda row: (row[4], row[-2], row[-1]))
        ]

    def _parcel(self, rows: list[Any], content: Sequence[Any] | None) -> Parcel:
        items = [_item(row[:-2]) for row in rows]
        prefix = rows[0][-1]
        envelope = decode_envelope(content[0] if content else "{}")
        envelope.recipients = [_recipient(item.recipient, item.notify, item.orcpt) for item in items]
        letter: Letter
        if content is None:
            letter = SmallLetter(prefix, items[0].size, None, f"letter {items[0].letter} has no content")
        else:
            _, size, checksum, file, data = content
            letter = self._parts.letter(f"letter {items[0].letter}", prefix, len(prefix) + size, checksum, file, data)
        return Parcel(items[0].destination, envelope, items, letter)

    async def renew(self, items: Sequence[int], until: float) -> None:
        """Makes leases last longer."""
        await self._parts.change(functools.partial(_renew, list(items), until))

    async def settle(self, settled: Sequence[Settled], notices: Sequence[Notice] = ()) -> list[list[Delivered]]:
        """How items go on, and the notices about them, in one transaction."""
        weight = sum(len(notice.content) for notice in notices)
        deposits = self._deposits(notices)
        work = functools.partial(_settle, list(settled), deposits, self._parts.unique_ids, self._parts.clock.now())
        mailboxes = await self._parts.change(work, frees=not notices, weight=weight)
        self._parts.forget(mailboxes)
        return [item.result or [] for item in deposits]

    async def free_leases(self) -> int:
        """Ends all leases."""
        count: int = await self._parts.change(functools.partial(_free, self._parts.clock.now()))
        return count

    async def move_times(self, seconds: float) -> int:
        """Adds this to every time of every item."""
        count: int = await self._parts.change(functools.partial(_execute, _MOVE, {"by": seconds}))
        return count

    async def mend_times(self, now: float) -> int:
        """What lies in the future is brought back to now."""
        count: int = await self._parts.change(functools.partial(_execute, _MEND, {"now": now, "last": now + FUTURE}))
        return count

    # Looking and changing

    async def items(self, wanted: Wanted, limit: int = 1000, after: int = 0) -> list[Item]:
        """The items that are meant, in the order of their ids."""
        where, parameters = _where(wanted)
        rows = await self._listing(f"{_ITEMS}{where} AND id > ? ORDER BY id LIMIT ?", (*parameters, after, limit))
        return [_item(row) for row in rows]

    async def count(self, wanted: Wanted) -> int:
        """How many items are meant."""
        where, parameters = _where(wanted)
        rows = await self._listing(f"SELECT count(*) FROM queue WHERE {where}", parameters)  # noqa: S608 (fixed)
        return int(rows[0][0])

    async def peek(self, item: int) -> Parcel | None:
        """An item with its letter."""
        parcels = await self._parts.in_thread(self._read_apart, _json.encode([item]).decode())
        return parcels[0] if parcels else None

    async def hold(self, wanted: Wanted) -> int:
        """Items wait for somebody's word."""
        return await self._administer("UPDATE queue SET state = 'held' WHERE state = 'due' AND ", wanted)

    async def release(self, wanted: Wanted) -> int:
        """Held items are due now."""
        sql = "UPDATE queue SET state = 'due', due = coalesce(leased, ?) WHERE state = 'held' AND "
        return await self._administer(sql, wanted, self._parts.clock.now())

    async def hasten(self, wanted: Wanted) -> int:
        """Items that wait for their time are due now."""
        sql = "UPDATE queue SET due = min(due, ?) WHERE state = 'due' AND leased IS NULL AND "
        return await self._administer(sql, wanted, self._parts.clock.now())

    async def drop(self, wanted: Wanted) -> int:
        """Items are gone."""
        count: int = await self._parts.change(functools.partial(_end, *_where(wanted)), frees=True)
        self._changed()
        return count

    async def _administer(self, sql: str, wanted: Wanted, *values: object) -> int:
        where, parameters = _where(wanted)
        count: int = await self._parts.change(functools.partial(_execute, sql + where, (*values, *parameters)))
        self._changed()
        return count

    async def _listing(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        rows: list[Any] = await self._parts.in_thread(self._list, sql, parameters)
        return rows

    def _list(self, sql: str, parameters: Sequence[object]) -> list[Any]:
        with self._parts.readers.snapshot() as cursor:
            return cursor.execute(sql, parameters).fetchall()

    def _changed(self) -> None:
        self._changes += 1
        if self._mark is not None:
            self._mark.change()


# Work of the writer


def _claim(
    destination: str, now: float, until: float, limit: int, cursor: sqlite3.Cursor, batch: Batch
) -> tuple[list[int], float, float | None]:
    ids, octets = cursor.execute(_DUE, {"destination": destination, "now": now, "most": limit}).fetchall()[0]
    if ids != "[]":
        cursor.execute(
            "UPDATE queue SET due = ?, leased = ? WHERE id IN (SELECT value FROM json_each(?))", (until, until, ids)
        )
        batch.changed = True
        batch.pages += cursor.rowcount
    due = cursor.execute("SELECT min(due) FROM queue WHERE destination = ? AND state = 'due'", (destination,))
    return _numbers.decode(ids), octets, due.fetchall()[0][0]


def _renew(items: list[int], until: float, cursor: sqlite3.Cursor, batch: Batch) -> None:
    cursor.execute(
        "UPDATE queue SET leased = :until, due = CASE state WHEN 'due' THEN :until ELSE due END"
        " WHERE leased IS NOT NULL AND id IN (SELECT value FROM json_each(:items))",
        {"until": until, "items": _json.encode(items).decode()},
    )
    batch.changed |= cursor.rowcount > 0


def _free(now: float, cursor: sqlite3.Cursor, batch: Batch) -> int:
    cursor.execute("UPDATE queue SET leased = NULL, due = min(due, ?) WHERE leased IS NOT NULL", (now,))
    batch.changed |= cursor.rowcount > 0
    return cursor.rowcount


def _settle(
    settled: list[Settled],
    deposits: list[Deposit],
    unique_ids: UniqueIds,
    now: float,
    cursor: sqlite3.Cursor,
    batch: Batch,
) -> list[int]:
    """Returns the mailboxes that got a notice."""
    ended = [one.item for one in settled if one.due is None]
    going_on = [
        (one.item, one.due, int(one.told), int(one.dead), one.reply, one.status, one.host, one.destination)
        for one in settled
        if one.due is not None
    ]
    if going_on:
        cursor.execute(_SETTLE, {"settled": _json.encode(going_on).decode(), "now": now})
        batch.changed = True
        batch.pages += cursor.rowcount * 2
    if ended:
        _end("id IN (SELECT value FROM json_each(?))", (_json.encode(ended).decode(),), cursor, batch)
    if deposits:
        deposit(deposits, unique_ids, cursor, batch)
    return [mailbox for item in deposits for mailbox in item.mailboxes]


def _end(where: str, parameters: Sequence[object], cursor: sqlite3.Cursor, batch: Batch) -> int:
    """Deletes rows, and the contents that nobody else has; returns how many rows."""
    count, contents = cursor.execute(
        f"SELECT count(*), json_group_array(content) FROM queue WHERE {where}",  # noqa: S608 (fixed texts)
        parameters,
    ).fetchall()[0]
    if count:
        cursor.execute(f"DELETE FROM queue WHERE {where}", parameters)  # noqa: S608 (fixed texts)
        release(_numbers.decode(contents), cursor, batch)
        batch.changed = batch.freed = True
        batch.pages += count * 3
    return int(count)


def _execute(sql: str, parameters: Values, cursor: sqlite3.Cursor, batch: Batch) -> int:
    cursor.execute(sql, parameters)
    batch.changed |= cursor.rowcount > 0
    batch.pages += cursor.rowcount
    return cursor.rowcount


# Values


def _deposit_of(notice: Notice, done: asyncio.Future[Any], now: float) -> Deposit:
    octets = bytearray(notice.content)
    octets += end_line(notice.content[-2:])
    item = Deposit(
        done,
        notice.letter,
        encode_envelope(notice.envelope),
        notice.deliveries,
        now,
        len(octets),
        crc32(octets),
        not (header_of(octets) or octets).isascii(),
        octets,
    )
    item.queued = notice.queued
    return item


def _where(wanted: Wanted) -> tuple[str, list[object]]:
    """The condition that stands for what is meant."""
    terms: list[str] = ["1"]
    values: list[object] = []
    if wanted.ids:
        terms.append("id IN (SELECT value FROM json_each(?))")
        values.append(_json.encode(wanted.ids).decode())
    for column, value in (
        ("letter", wanted.letter),
        ("sender", wanted.sender),
        ("recipient", wanted.recipient),
        ("destination", wanted.destination),
    ):
        if value:
            terms.append(f"{column} = ? COLLATE NOCASE")
            values.append(value)
    if wanted.domain:
        terms.append("substr(recipient, -length(?) - 1) = '@' || ? COLLATE NOCASE")
        values += [wanted.domain, wanted.domain]
    if wanted.state is not None:
        terms.append("state = ?")
        values.append(wanted.state.value)
    if wanted.dead:
        terms.append("dead")
    return " AND ".join(terms), values


def _item(row: Sequence[Any]) -> Item:
    (
        id,
        letter,
        sender,
        recipient,
        destination,
        size,
        state,
        attempts,
        accepted,
        due,
        notify,
        orcpt,
        told,
        busy,
        tried,
        dead,
        reply,
        status,
        host,
    ) = row
    return Item(
        id,
        letter,
        sender,
        recipient,
        destination,
        size,
        State(state),
        attempts,
        accepted,
        due,
        tuple(notify.split(",")) if notify else (),
        orcpt,
        bool(told),
        bool(busy),
        tried,
        bool(dead),
        reply,
        status,
        host,
    )


def _item_of(deposit: Deposit, id: int, queued: Queued) -> Item:
    """The item that was put into the queue just now, and is leased already."""
    return Item(
        id,
        deposit.letter,
        deposit.sender,
        queued.recipient,
        queued.destination,
        deposit.size + len(queued.prefix),
        State.DUE,
        0,
        queued.accepted,
        deposit.until,
        queued.notify,
        queued.orcpt,
        busy=True,
    )


def _without_recipients(envelope: Envelope) -> Envelope:
    return Envelope(
        envelope.sender,
        size=envelope.size,
        body=envelope.body,
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
        auth=envelope.auth,
    )


def _recipient(address: str, notify: tuple[str, ...], orcpt: str | None) -> Recipient:
    return Recipient(Address.parse(address), notify, orcpt)
