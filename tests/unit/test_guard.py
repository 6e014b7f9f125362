"""The guard remembers across a restart, obeys an administrator beside it at once, and never needs its file."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import cast

from posthouse.config.limits import LimitSettings, SendingSettings
from posthouse.mail.reply import Fault, Unavailable
from posthouse.net.buffers import Buffers
from posthouse.net.wire import Wire
from posthouse.observe.log import QuietLog
from posthouse.policy.access import Access
from posthouse.policy.guard import Guard
from posthouse.ports.bans import Ban, BanStore, Changes
from posthouse.ports.gate import Refusal
from posthouse.ports.store import Network
from posthouse.store import open_bans
from posthouse.store.sqlite.bans import NAME
from tests.transcript_runner import MemoryTransport

WHO = "anna@example.org"


class Clock:
    """Wall time and the clock that never jumps, moved apart at will."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_700_000_000.0, 50.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady


class Seeded:
    def octets(self, count: int) -> bytes:
        return random.Random(1).randbytes(count)


class Told(QuietLog):
    """A log that keeps the names of events and all values."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.text = ""

    def info(self, event: str, /, **fields: object) -> None:
        self.events.append(event)
        self.text += repr(fields)

    warning = error = info


class Named:
    """Networks with names, which may be unreadable."""

    def __init__(self, *rows: Network) -> None:
        self.rows = rows
        self.readable = True

    def networks(self) -> tuple[Network, ...]:
        if not self.readable:
            raise Unavailable(Fault.STORAGE)
        return self.rows


def guard(clock: Clock, store: BanStore | None, log: Told | None = None) -> Guard:
    return guard_with(Named(), clock, store, log)


def guard_with(named: Named, clock: Clock, store: BanStore | None = None, log: Told | None = None) -> Guard:
    return Guard(
        LimitSettings(address_connections=1),
        SendingSettings(),
        access=Access(named, clock),
        clock=clock,
        random=Seeded(),
        log=log or Told(),
        store=store,
    )


def attack(one: Guard, host: str = "192.0.2.7", secret: str = "hunter2-secret") -> None:
    for number in range(5):
        one.ask("pop3", host, f"user{number}@example.org")
        one.failed("pop3", host, f"user{number}@example.org", secret)


async def test_a_restart_keeps_bans_owners_and_what_was_sent(tmp_path: Path) -> None:
    clock, log = Clock(), Told()
    one = guard(clock, open_bans(tmp_path), log)
    one.start()
    one.succeeded("198.51.100.1", WHO, WHO)
    attack(one)
    assert one.enter("192.0.2.7") is Refusal.BANNED
    assert one.send(WHO, ["a@x"]) is None
    await one.stop()
    assert log.events == ["banned", "connection_refused"]
    assert "hunter2" not in log.text
    clock.wall, clock.steady = clock.wall + 100, 7.0  # another boot: the steady clock begins anew
    two = guard(clock, open_bans(tmp_path))
    two.start()
    assert two.enter("192.0.2.7") is Refusal.BANNED
    assert two.logins.is_known(two._places.of("198.51.100.9"), WHO, clock.steady)
    assert two.sending._load(WHO) is not None
    clock.steady += 900
    assert two.enter("192.0.2.7") is None
    await two.stop()


async def test_a_clock_that_jumps_neither_ends_a_ban_nor_makes_it_longer(tmp_path: Path) -> None:
    clock = Clock()
    one = guard(clock, open_bans(tmp_path))
    one.start()
    attack(one)
    for jump in (400 * 86_400.0, -800 * 86_400.0):
        clock.wall += jump
        assert one.enter("192.0.2.7") is Refusal.BANNED
    clock.steady += 901
    assert one.enter("192.0.2.7") is None
    await one.stop()


async def test_an_administrator_is_noticed_at_once(tmp_path: Path) -> None:
    clock, log = Clock(), Told()
    one = guard(clock, open_bans(tmp_path), log)
    one.start()
    beside = open_bans(tmp_path)
    beside.merge(
        Changes(bans=[Ban("192.0.2.0/24", "", clock.wall, None, "", "administrator")]), seen_before=0, ended_before=0
    )
    beside.announce()
    assert one.enter("192.0.2.7") is Refusal.BANNED
    beside.merge(Changes(lifted=[("192.0.2.0/24", "")]), seen_before=0, ended_before=0)
    beside.announce()
    assert one.enter("192.0.2.7") is None
    assert log.events == ["banned", "connection_refused", "unbanned"]
    beside.close()
    await one.stop()


async def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database at all" * 1000)
    log = Told()
    store = open_bans(tmp_path, log=log)
    assert log.events == ["bans_begun_anew"]
    assert list(store.bans()) == []
    store.close()


async def test_what_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    log = Told()
    store = open_bans(tmp_path)
    one = guard(Clock(), store, log)
    one.start()
    attack(one)

    def fail(changes: Changes, *, seen_before: float, ended_before: float) -> None:
        raise Unavailable(Fault.FULL)

    class Failing:
        def __getattr__(self, name: str) -> object:
            return fail if name == "merge" else getattr(store, name)

    one._store = Failing()  # type: ignore[assignment]
    await one._write()
    await one._write()
    assert log.events.count("bans_not_written") == 1
    assert one.enter("192.0.2.7") is Refusal.BANNED
    one._store = store
    await one._write()
    assert [ban.place for ban in store.bans()] == ["192.0.2.7"]
    await one.stop()


async def test_a_held_connection_is_not_read() -> None:
    """Would catch a delayed login whose peer fills our memory meanwhile."""
    wire = Wire(Buffers())
    transport = MemoryTransport(("127.0.0.1", 4000))
    wire.connection_made(cast(asyncio.Transport, transport))
    held = asyncio.ensure_future(wire.hold(0.05))
    await asyncio.sleep(0)
    assert wire._reading_paused
    await held
    assert not wire._reading_paused


OFFICE = Network("192.0.2.0/24", ("smtp", "pop3", "unlimited"))


def test_a_network_named_unlimited_is_delayed_and_never_banned_nor_counted() -> None:
    """Would catch a second list of networks: the named ones decide, and a change counts for the next connection."""
    named = Named(OFFICE)
    one = guard_with(named, Clock())
    assert [one.enter("192.0.2.7") for _ in range(3)] == [None] * 3
    attack(one)
    assert one.enter("192.0.2.7") is None, "five accounts failed, and it is let in"
    assert len(one.logins.bans) == 0
    delays = []
    for number in range(8):
        delays.append(one.ask("pop3", "192.0.2.7", WHO).delay)
        one.failed("pop3", "192.0.2.7", WHO, f"wrong{number}")
    assert delays[-1] > 0, "but not at once, when it goes on guessing"
    named.rows = ()
    assert one.enter("192.0.2.7") is Refusal.CROWDED
    attack(one, secret="another")
    assert one.enter("192.0.2.7") is Refusal.BANNED


def test_a_connection_leaves_the_count_whatever_its_rights_became() -> None:
    """Would catch a count that never goes back to nothing, or below it."""
    named = Named(OFFICE)
    one = guard_with(named, Clock())
    for _ in range(3):
        one.enter("192.0.2.7")
    named.rows = ()
    for _ in range(3):
        one.leave("192.0.2.7")
    assert not one.connections.addresses and not one.connections.networks
    assert one.enter("192.0.2.7") is None


def test_this_machine_can_lose_its_right() -> None:
    named = Named(Network("127.0.0.0/8", ("smtp",)))
    one = guard_with(named, Clock())
    assert [one.enter("127.0.0.1") for _ in range(2)] == [None, Refusal.CROWDED]
    assert [one.enter("::1") for _ in range(2)] == [None, None]
    assert [one.enter("") for _ in range(2)] == [None, None], "a local socket always has it"


def test_limits_hold_while_no_network_can_be_read() -> None:
    """Would catch a connection that ends in a traceback, and a stranger who is let in without limit."""
    named = Named(OFFICE)
    named.readable = False
    one = guard_with(named, Clock())
    assert [one.enter("192.0.2.7") for _ in range(2)] == [None, Refusal.CROWDED]
    assert [one.enter("127.0.0.1") for _ in range(2)] == [None, None]
