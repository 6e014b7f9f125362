"""What the writer thread is asked to do, one class or function for each kind of change.

A job's work may run twice (together with others, then alone), so it changes nothing but the database and the
`Batch` it is given; what must happen on the disk beside the database happens after the COMMIT.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from posthouse.ports.queue import Queued
from posthouse.ports.store import Account, Conflict, Credential, Delivered, Delivery, Domain, Kept, Missing, Network
from posthouse.store.sqlite.pool import PAGE

INBOX: Final = "INBOX"
LAST_UID: Final = 4_294_967_295  # RFC 9051 §2.3.1.1

_KEPT: Final = "id, unique_id, content, size, flags, retrieved, eight_bit, received, saved, keywords, recipient, notify"

_json: Final = msgspec.json.Encoder()


@dataclass(slots=True)
class Batch:
    """What one transaction does beside the database, and what it cost."""

    content: int = 0  # the last content id given in it, 0 for none
    files: list[str] = field(default_factory=list)  # content files that no row names once this is committed
    changed: bool = False
    pages: int = 0  # pages written, reckoned from above
    freed: bool = False  # something is gone for good


@dataclass(slots=True, eq=False)
class Job:
    """Work for the writer: `work` runs in its transaction, the future gets what it returns or raises."""

    done: asyncio.Future[Any]
    work: Callable[[sqlite3.Cursor, Batch], Any]
    weight: int = 0  # octets it keeps in memory
    frees: bool = False  # gives room back: a full disk's reserve is spent for it
    mailboxes: Sequence[int] = ()  # that are changed
    thorough: bool = False  # what it frees is overwritten on the disk
    lazy: bool = False  # a note that may be lost in a crash: alone it costs no sync
    result: Any = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Deposit:
    """A letter for the writer: one content and its deliveries."""

    done: asyncio.Future[Any]  # of list[Delivered]
    letter: str
    envelope: str
    deliveries: Sequence[Delivery]
    received: float
    size: int
    checksum: int
    eight_bit: bool  # in the content's header
    octets: bytearray | None = None  # either these
    file: str | None = None  # or a file that is in its place
    queued: Sequence[Queued] = ()  # who waits for it
    until: float = 0.0  # when the leases of those end that are carried on at once
    sender: str = ""  # of the queue's rows
    content: int = 0  # its id, once it was written
    also: Sequence[Deposit] = ()  # notices about it, in the same transaction
    weight: int = 0
    mailboxes: Sequence[int] = ()  # that got a copy
    result: list[Delivered] | None = None
    error: Exception | None = None


def ids_of(mailbox: int, uids: Iterable[int]) -> list[int]:
    """The message ids behind UIDs; numbers that no UID can be are left out."""
    base = mailbox << 32
    return [base + uid for uid in uids if 0 < uid <= LAST_UID]


def update(
    mailbox: int,
    deleted: Sequence[int],
    retrieved: Sequence[int],
    now: float | None,
    cursor: sqlite3.Cursor,
    batch: Batch,
) -> None:
    """Removes and marks messages of one mailbox; of one that is gone meanwhile nothing is left to do. What is removed
    leaves tombstones of this time, with None it is gone for good."""
    if retrieved:
        ids = _json.encode(ids_of(mailbox, retrieved)).decode()
        cursor.execute(
            "UPDATE message SET retrieved = 1 WHERE id IN (SELECT value FROM json_each(?)) AND NOT retrieved", (ids,)
        )
        batch.changed |= cursor.rowcount > 0
        batch.pages += cursor.rowcount
    if deleted:
        ids = _json.encode(ids_of(mailbox, deleted)).decode()
        _delete(mailbox, "id IN (SELECT value FROM json_each(?))", (ids,), now, cursor, batch)


def _delete(
    mailbox: int,
    which: str,
    parameters: tuple[object, ...],
    now: float | None,
    cursor: sqlite3.Cursor,
    batch: Batch,
) -> int:
    """Deletes messages of one mailbox, without a time for tombstones their contents too when nobody else has them;
    returns how many there were."""
    # One step each: every row given to Python costs a turn of the interpreter lock.
    count, octets, contents = cursor.execute(
        f"SELECT count(*), sum(size), json_group_array(content) FROM message WHERE {which}",  # noqa: S608 (fixed texts)
        parameters,
    ).fetchall()[0]
    if not count:
        return 0
    if now is None:
        cursor.execute(f"DELETE FROM message WHERE {which}", parameters)  # noqa: S608 (fixed texts)
        release(msgspec.json.decode(contents, type=list[int]), cursor, batch)
    else:
        bury(mailbox, which, parameters, now, cursor)
    cursor.execute(
        "UPDATE mailbox SET messages = messages - ?, octets = octets - ?, highestmodseq = highestmodseq + 1"
        " WHERE id = ?",
        (count, octets, mailbox),
    )
    batch.changed = True
    batch.freed |= now is None
    batch.pages += count * 3
    return int(count)


def bury(mailbox: int, which: str, parameters: Sequence[object], now: float, cursor: sqlite3.Cursor) -> None:
    """Moves messages to the tombstones; the caller counts them out of their mailbox."""
    cursor.execute(
        f"INSERT INTO tombstone ({_KEPT}, orcpt, prefix, modseq, expunged) SELECT {_KEPT}, orcpt, prefix,"  # noqa: S608 (fixed texts)
        f" (SELECT highestmodseq + 1 FROM mailbox WHERE id = ?), ? FROM message WHERE {which}",
        (mailbox, now, *parameters),
    )
    cursor.execute(f"DELETE FROM message WHERE {which}", parameters)  # noqa: S608 (fixed texts)


def forget(which: str, parameters: Sequence[object], cursor: sqlite3.Cursor, batch: Batch) -> int:
    """Ends tombstones for good, with the contents that nobody else has; returns the octets."""
    count, octets, ids, contents = cursor.execute(
        "SELECT count(*), sum(size), json_group_array(id), json_group_array(content) FROM"  # noqa: S608 (fixed texts)
        f" (SELECT id, size, content FROM tombstone WHERE {which})",
        parameters,
    ).fetchall()[0]
    if not count:
        return 0
    cursor.execute("DELETE FROM tombstone WHERE id IN (SELECT value FROM json_each(?))", (ids,))
    release([one for one in msgspec.json.decode(contents) if one is not None], cursor, batch)
    batch.changed = batch.freed = True
    batch.pages += 2 * count + octets // PAGE
    return int(octets)


def release(contents: list[int], cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Takes back one reference for each content named, and forgets those that nothing refers to any more."""
    groups: dict[int, list[int]] = {}
    for content, times in Counter(contents).items():
        groups.setdefault(times, []).append(content)
    for times, members in groups.items():
        ids = _json.encode(members).decode()
        gone = "id IN (SELECT value FROM json_each(?)) AND refs <= ?"
        files = cursor.execute(
            f"SELECT json_group_array(file) FROM content WHERE {gone} AND file IS NOT NULL",  # noqa: S608 (fixed texts)
            (ids, times),
        ).fetchall()[0][0]
        batch.files += msgspec.json.decode(files, type=list[str])
        cursor.execute(f"DELETE FROM content WHERE {gone}", (ids, times))  # noqa: S608 (fixed texts)
        if cursor.rowcount < len(members):
            cursor.execute(
                "UPDATE content SET refs = refs - ? WHERE id IN (SELECT value FROM json_each(?))", (times, ids)
            )


def add_domain(name: str, now: float, cursor: sqlite3.Cursor, batch: Batch) -> Domain:
    """Adds a domain."""
    if cursor.execute("SELECT 1 FROM domain WHERE name = ?", (name,)).fetchall():
        raise Conflict(f"the domain {name} exists already")
    cursor.execute("INSERT INTO domain (name, created) VALUES (?, ?)", (name, now))
    batch.changed = True
    return Domain(cursor.lastrowid or 0, name, 0, now)


def remove_domain(name: str, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Removes a domain without accounts."""
    rows = cursor.execute(
        "SELECT id, (SELECT count(*) FROM account WHERE domain = domain.id) FROM domain WHERE name = ?", (name,)
    ).fetchall()
    if not rows:
        raise Missing(f"there is no domain {name}")
    if rows[0][1]:
        raise Conflict(f"the domain {name} still has {rows[0][1]} accounts")
    if cursor.execute("SELECT 1 FROM alias WHERE domain = ?", (rows[0][0],)).fetchall():
        raise Conflict(f"the domain {name} still has aliases")
    cursor.execute("DELETE FROM domain WHERE id = ?", (rows[0][0],))
    batch.changed = True


def add_account(
    address: str, password: str, quota: int, now: float, kept: Kept | None, cursor: sqlite3.Cursor, batch: Batch
) -> Account:
    """Adds an account with an empty INBOX."""
    local, _, domain = address.rpartition("@")
    rows = cursor.execute("SELECT id FROM domain WHERE name = ?", (domain,)).fetchall()
    if not rows:
        raise Missing(f"there is no domain {domain}")
    if cursor.execute("SELECT 1 FROM account WHERE address = ?", (address,)).fetchall():
        raise Conflict(f"the account {address} exists already")
    if cursor.execute("SELECT 1 FROM alias WHERE address = ?", (address,)).fetchall():
        raise Conflict(f"{address} is an alias")
    cursor.execute(
        "INSERT INTO account (domain, local, address, password, quota, created) VALUES (?, ?, ?, ?, ?, ?)",
        (rows[0][0], local, address, password, quota, now),
    )
    account = cursor.lastrowid or 0
    # A mailbox made again under the same name must not have the UIDVALIDITY it had (RFC 9051 §2.3.1.1).
    cursor.execute("UPDATE state SET uidvalidity = max(uidvalidity + 1, min(?, 4294967295))", (int(now),))
    cursor.execute(
        "INSERT INTO mailbox (account, name, uidvalidity, uidnext, highestmodseq, messages, octets)"
        " VALUES (?, ?, (SELECT uidvalidity FROM state), 1, 1, 0, 0)",
        (account, INBOX),
    )
    inbox = cursor.lastrowid or 0
    _keep(account, kept, now, cursor)
    batch.changed = True
    return Account(account, address, password, inbox, quota, 0, 0, now)


def set_password(
    address: str,
    password: str,
    expected: str | None,
    kept: Kept | None,
    now: float,
    cursor: sqlite3.Cursor,
    batch: Batch,
) -> bool:
    """Replaces an account's hash, when `expected` is given only if that is the hash it has; returns whether."""
    rows = cursor.execute("SELECT password, id FROM account WHERE address = ?", (address,)).fetchall()
    if not rows:
        raise Missing(f"there is no account {address}")
    if expected is not None and rows[0][0] != expected:
        return False
    cursor.execute("UPDATE account SET password = ? WHERE address = ?", (password, address))
    cursor.execute("DELETE FROM credential WHERE account = ? AND name = ''", (rows[0][1],))
    _keep(rows[0][1], kept, now, cursor)
    batch.changed = True
    return True


def _keep(account: int, kept: Kept | None, now: float, cursor: sqlite3.Cursor) -> None:
    """What is kept of the account's own password beside the hash."""
    if kept is not None:
        cursor.execute(
            "INSERT INTO credential (account, name, protocols, digest, scram, shared, created, used)"
            " VALUES (?, '', '', x'', ?, ?, ?, 0)",
            (account, kept.scram, kept.shared, now),
        )


def add_credential(address: str, credential: Credential, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Adds an app password."""
    account = _account(address, cursor)
    if cursor.execute("SELECT 1 FROM credential WHERE account = ? AND name = ?", (account, credential.name)).fetchall():
        raise Conflict(f"{address} has an app password {credential.name} already")
    cursor.execute(
        "INSERT INTO credential (account, name, protocols, digest, scram, shared, created, used)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
        (
            account,
            credential.name,
            credential.protocols,
            credential.digest,
            credential.scram,
            credential.shared,
            credential.created,
        ),
    )
    batch.changed = True


def remove_credential(address: str, name: str, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Removes an app password."""
    account = _account(address, cursor)
    cursor.execute("DELETE FROM credential WHERE account = ? AND name = ?", (account, name))
    if not cursor.rowcount:
        raise Missing(f"{address} has no app password {name}")
    batch.changed = True


def touch(used: Mapping[int, float], cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Notes when credentials were last used."""
    cursor.executemany("UPDATE credential SET used = max(used, ?) WHERE id = ?", [(at, id) for id, at in used.items()])
    batch.changed = True


def _account(address: str, cursor: sqlite3.Cursor) -> int:
    rows = cursor.execute("SELECT id FROM account WHERE address = ?", (address,)).fetchall()
    if not rows:
        raise Missing(f"there is no account {address}")
    return int(rows[0][0])


def remove_account(address: str, cursor: sqlite3.Cursor, batch: Batch) -> int:
    """Removes an account with its mailboxes and messages; returns how many messages."""
    account = _account(address, cursor)
    count = 0
    for (mailbox,) in cursor.execute("SELECT id FROM mailbox WHERE account = ?", (account,)).fetchall():
        base = mailbox << 32
        count += _delete(mailbox, "id BETWEEN ? AND ?", (base, base + LAST_UID), None, cursor, batch)
        forget("id BETWEEN ? AND ?", (base, base + LAST_UID), cursor, batch)
    cursor.execute("DELETE FROM mailbox WHERE account = ?", (account,))
    cursor.execute("DELETE FROM sender WHERE account = ?", (account,))
    cursor.execute("DELETE FROM credential WHERE account = ?", (account,))
    cursor.execute("DELETE FROM account WHERE id = ?", (account,))
    batch.changed = True
    return count


def grant_sender(address: str, pattern: str, now: float, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Lets an account name one more sender."""
    account = _account(address, cursor)
    if cursor.execute("SELECT 1 FROM sender WHERE account = ? AND pattern = ?", (account, pattern)).fetchall():
        raise Conflict(f"{address} may name {pattern} already")
    cursor.execute("INSERT INTO sender (account, pattern, created) VALUES (?, ?, ?)", (account, pattern, now))
    batch.changed = True


def revoke_sender(address: str, pattern: str, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Takes that back."""
    account = _account(address, cursor)
    cursor.execute("DELETE FROM sender WHERE account = ? AND pattern = ?", (account, pattern))
    if not cursor.rowcount:
        raise Missing(f"{address} has no grant for {pattern}")
    batch.changed = True


def put_network(network: Network, replace: bool, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Names a network, or names it anew."""
    held = cursor.execute("SELECT 1 FROM network WHERE network = ?", (network.network,)).fetchall()
    if held and not replace:
        raise Conflict(f"the network {network.network} is named already")
    cursor.execute(
        "INSERT OR REPLACE INTO network (network, rights, until, note, created) VALUES (?, ?, ?, ?, ?)",
        (network.network, " ".join(network.rights), network.until, network.note, network.created),
    )
    batch.changed = True


def remove_network(network: str, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Takes a network's name away."""
    cursor.execute("DELETE FROM network WHERE network = ?", (network,))
    if not cursor.rowcount:
        raise Missing(f"the network {network} is not named")
    batch.changed = True


def pages_of(octets: int) -> int:
    """Pages that a row of this size dirties, reckoned from above."""
    return octets // PAGE + 2
