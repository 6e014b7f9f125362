"""The small parts that all engines share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.store.model import UniqueIds, encode_envelope, end_line, header_of
from posthouse.store.sqlite.deposits import _COUNTERS, _INBOXES
from posthouse.store.sqlite.pool import _migrations, _statements


class CountingRandom:
    """Octets that are never the same."""

    def __init__(self) -> None:
        self.asked = 0

    def octets(self, count: int) -> bytes:
        """The next numbers."""
        self.asked += 1
        return b"".join((self.asked * 1000 + turn).to_bytes(8, "big") for turn in range(count // 8))


def test_unique_ids_use_every_random_octet_once() -> None:
    random = CountingRandom()
    ids = UniqueIds(random)
    given = [ids.next() for _ in range(1000)]
    assert len(set(given)) == 1000
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in given)
    assert random.asked == 4


def test_an_envelope_is_kept_with_what_was_asked() -> None:
    envelope = Envelope(Address("a b", "x.mail"), smtputf8=True, ret="HDRS", envid="q", body="8BITMIME", size=7)
    assert json.loads(encode_envelope(envelope)) == {
        "sender": str(envelope.sender),
        "size": 7,
        "body": "8BITMIME",
        "ret": "HDRS",
        "envid": "q",
        "smtputf8": True,
    }
    assert json.loads(encode_envelope(Envelope(None))) == {"sender": ""}
    assert json.loads(encode_envelope(None)) == {}


@pytest.mark.parametrize(
    ("tail", "lacking"),
    [(b"", b""), (b"\r\n", b""), (b"x", b"\r\n"), (b"x\n", b"\r\n"), (b"x\r", b"\r\n"), (b"\n", b"\r\n")],
)
def test_the_end_of_the_last_line_is_made_whole(tail: bytes, lacking: bytes) -> None:
    assert end_line(tail) == lacking


@pytest.mark.parametrize(
    ("octets", "header"),
    [
        (b"A: b\r\n\r\nbody", b"A: b\r\n\r\n"),
        (b"\r\nbody\r\n\r\n", b"\r\n"),
        (b"A: b\r\nC: d\r\n", None),
        (b"A: b\n\nbody", None),
        (b"", None),
    ],
)
def test_the_header_ends_with_the_first_empty_line(octets: bytes, header: bytes | None) -> None:
    assert header_of(octets) == header


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    """An empty database of the newest form, in memory."""
    connection = sqlite3.connect(":memory:")
    for migration in _migrations():
        for statement in _statements(migration):
            connection.execute(statement)
    yield connection
    connection.close()


@pytest.mark.parametrize("sql", [_INBOXES, _COUNTERS])
def test_a_delivery_never_scans_a_table(database: sqlite3.Connection, sql: str) -> None:
    """Would catch a planner that walks through all mailboxes at each batch."""
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", ("[]",)).fetchall()]
    scanned = [
        step for step in plan if step.startswith("SCAN") and not step.startswith(("SCAN json_each", "SCAN asked"))
    ]
    assert [step for step in scanned if step not in ("SCAN state", "SCAN new")] == [], plan
