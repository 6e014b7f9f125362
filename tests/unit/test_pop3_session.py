"""What a POP3 session does that a dialogue does not show: its memory, its locks, its secrets, its look-ups."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import cast

import pytest

from posthouse.mail.limits import Pop3Limits
from posthouse.mail.reply import Fault
from posthouse.net.buffers import Buffers
from posthouse.pop3.maildrop import Snapshot
from posthouse.pop3.server import Pop3ServerCore, State
from posthouse.ports.store import Store
from posthouse.ports.system import Endpoint, SessionObserver
from posthouse.servers.letters import AHEAD, AHEAD_OCTETS, SMALL, Letters, Shelf
from tests.pop3_stage import INBOX, Pop3Stage
from tests.transcript_runner import Client

LETTER = b"Subject: a\r\n\r\nbody\r\n"


async def logged_in(stage: Pop3Stage) -> Client:
    client = Client(await stage.session({}), "127.0.0.1")
    client.send(b"USER test\r\nPASS secret\r\n")
    for _ in range(3):
        assert (await client.line()).startswith("+OK")
    return client


async def retrieve(client: Client, number: int) -> None:
    client.send(b"RETR %d\r\n" % number)
    while await client.line() != ".":
        pass


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_who_reads_one_after_the_other_costs_few_look_ups() -> None:
    stage = Pop3Stage()
    for _ in range(200):
        stage.store.add(LETTER)
    client = await logged_in(stage)
    for number in range(1, 201):
        await retrieve(client, number)
    await client.leave()
    assert [len(uids) for uids in stage.store.fetched] == [8, 64, 64, 64]
    assert [uid for uids in stage.store.fetched for uid in uids] == list(range(1, 201)), "each was fetched once"


async def test_who_reads_here_and_there_reads_nothing_ahead() -> None:
    stage = Pop3Stage()
    for _ in range(100):
        stage.store.add(LETTER)
    client = await logged_in(stage)
    for number in (90, 50, 70, 10):
        await retrieve(client, number)
    await client.leave()
    assert [len(uids) for uids in stage.store.fetched] == [1, 1, 1, 1]


async def test_deleted_messages_are_not_read_ahead() -> None:
    stage = Pop3Stage()
    for _ in range(10):
        stage.store.add(LETTER)
    client = await logged_in(stage)
    client.send(b"DELE 2\r\nDELE 4\r\n")
    await client.line()
    await client.line()
    await retrieve(client, 1)
    await client.leave()
    assert stage.store.fetched == [[1, 3, 5, 6, 7, 8]]


async def test_what_is_read_ahead_is_bounded() -> None:
    stage = Pop3Stage()
    stage.store.add(LETTER)
    for _ in range(2 * AHEAD):
        stage.store.add(b"Subject: b\r\n\r\n" + b"x" * (SMALL // 2) + b"\r\n")
    stage.store.add(b"Subject: c\r\n\r\n" + b"x" * SMALL + b"\r\n")
    client = await logged_in(stage)
    for number in range(1, 2 * AHEAD + 3):
        await retrieve(client, number)
    await client.leave()
    most = AHEAD_OCTETS // (SMALL // 2) + 1
    assert max(len(uids) for uids in stage.store.fetched) <= most
    assert [2 * AHEAD + 2] in stage.store.fetched, "a large one is fetched alone"


async def test_all_sessions_together_read_ahead_within_a_bound() -> None:
    stage = Pop3Stage()
    for _ in range(20):
        stage.store.add(LETTER)
    shelf = Shelf(most=10 * len(LETTER))
    drop = await stage.store.maildrop(INBOX)
    sessions = [
        Letters(cast(Store, stage.store), shelf, INBOX, Snapshot(drop.rows, drop.octets), utf8=True) for _ in range(5)
    ]
    for letters in sessions:
        await letters.open(1, drop.rows[0])
        assert 0 < shelf.octets <= shelf.most
    assert sessions[0].at_hand(2) is None, "the oldest gave its place to the newest"
    assert sessions[-1].at_hand(2) == LETTER
    for letters in sessions:
        letters.forget()
    assert shelf.octets == 0 and not shelf.held


async def test_what_is_read_ahead_never_spoils_what_was_asked_for() -> None:
    stage = Pop3Stage()
    for _ in range(5):
        stage.store.add(LETTER)
    stage.store.faults["batch"] = Fault.DAMAGED
    client = await logged_in(stage)
    for number in range(1, 6):
        await retrieve(client, number)
    await client.leave()
    assert stage.store.fetched == [[1], [2], [3], [4], [5]]


@pytest.mark.parametrize("utf8", [False, True])
async def test_list_and_stat_tell_what_retr_sends(utf8: bool) -> None:
    stage = Pop3Stage()
    for large in (False, True):
        for header in ("Subject: a", "Subject: я", "From: я@x\r\nTo: я <a@я.рф>", "no field я", "X: " + "я" * 40_000):
            stage.store.add(f"{header}\r\n\r\nтело\r\n.\r\n".encode(), large=large)
    stage.store.add("Subject: я\r\nno body".encode())
    client = Client(await stage.session({}), "127.0.0.1")
    client.send((b"UTF8\r\n" if utf8 else b"NOOP\r\n") + b"USER test\r\nPASS secret\r\nSTAT\r\nLIST\r\n")
    for _ in range(4):
        await client.line()
    total = int((await client.line()).split()[2])
    await client.line()
    sizes = [int((await client.line()).split()[1]) for _ in stage.store.letters]
    assert await client.line() == "."
    assert sum(sizes) == total
    for number, size in enumerate(sizes, 1):
        client.send(b"LIST %d\r\nRETR %d\r\n" % (number, number))
        assert await client.line() == f"+OK {number} {size}"
        assert await client.line() == f"+OK {size} octets"
        lines = []
        while (line := await client.line()) != ".":
            lines.append(line.removeprefix("."))
        sent = len("\r\n".join(lines).encode())
        assert sent == size or sent + 2 == size
    await client.leave()


class Reader:
    """A transport whose peer does not read: it counts what lies in it and says stop beyond 64 KiB, as sockets do."""

    def __init__(self, client: Client) -> None:
        self.transport = client.transport
        self.wire = client.wire
        self.most = 0
        self.transport.write = self.write  # type: ignore[method-assign]

    def write(self, octets: bytes) -> None:
        self.transport.out += octets
        self.most = max(self.most, len(self.transport.out))
        if len(self.transport.out) > 65_536:
            self.wire.pause_writing()

    def take(self) -> int:
        size = len(self.transport.out)
        self.transport.out.clear()
        self.wire.resume_writing()
        return size


@pytest.mark.parametrize("command", [b"RETR 1", b"TOP 1 99999999"])
async def test_a_client_that_does_not_read_does_not_grow_our_memory(command: bytes) -> None:
    stage = Pop3Stage()
    size = 3_000_000
    stage.store.add(b"Subject: large\r\n\r\n" + b"x" * size + b"\r\n", large=True)
    client = await logged_in(stage)
    reader = Reader(client)
    client.send(command + b"\r\n")
    total = 0
    while total < size:
        await settle()
        total += reader.take()
    assert reader.most < 100_000
    await client.leave()


async def test_pipelined_listings_do_not_grow_our_memory() -> None:
    stage = Pop3Stage()
    for _ in range(4_000):
        stage.store.add(b"")
    client = await logged_in(stage)
    reader = Reader(client)
    client.send(b"UIDL\r\nLIST\r\n" * 1000)
    for _ in range(20):
        await settle()
        assert reader.take() < 1_000_000
    await client.leave()


async def test_nothing_is_read_for_a_client_that_is_gone() -> None:
    stage = Pop3Stage()
    for _ in range(20_000):
        stage.store.add(b"")
    client = await logged_in(stage)
    reader = Reader(client)
    client.send(b"UIDL\r\nLIST\r\nRETR 1\r\nTOP 1 1\r\n" * 1000 + b"DELE 1\r\nQUIT\r\n")
    await settle()
    assert reader.most
    await client.leave()
    assert not stage.store.fetched
    assert len(stage.store.letters) == 19_999, "QUIT came before the connection was lost"


async def test_pipelined_replies_do_not_grow_our_memory() -> None:
    stage = Pop3Stage()
    client = Client(await stage.session({}), "127.0.0.1")
    await client.line()
    reader = Reader(client)
    client.send(b"CAPA\r\n" * 20_000)
    await settle()
    assert reader.most < 400_000
    await client.leave()


async def test_a_listing_lets_others_have_their_turn() -> None:
    stage = Pop3Stage()
    for _ in range(20_000):
        stage.store.add(b"")
    client = await logged_in(stage)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    client.send(b"UIDL\r\n")
    while await client.line() != ".":
        pass
    task.cancel()
    assert turns > 5
    await client.leave()


async def test_a_cancelled_session_gives_its_lock_back() -> None:
    stage = Pop3Stage()
    client = await logged_in(stage)
    assert stage.store.locked
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert not stage.store.locked


async def test_a_login_cancelled_while_the_maildrop_is_opened_gives_the_lock_back() -> None:
    stage = Pop3Stage()
    stage.store.faults["hang"] = Fault.STORAGE
    client = Client(await stage.session({}), "127.0.0.1")
    client.send(b"USER test\r\nPASS secret\r\n")
    await settle()
    assert stage.store.locked
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert not stage.store.locked


class Watcher:
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, bool]] = []
        self.open = True

    def session(self, protocol: str, local: Endpoint, peer: Endpoint) -> SessionObserver | None:
        assert protocol == "pop3" and peer.host == "127.0.0.1"
        return self

    def received(self, octets: bytes, secret: bool = False) -> None:
        self.seen.append(("C", octets, secret))

    def sent(self, octets: bytes, secret: bool = False) -> None:
        self.seen.append(("S", octets, secret))

    def secured(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.seen.append(("N", text.encode(), False))

    def closed(self) -> None:
        assert self.open
        self.open = False


async def test_an_observer_sees_everything_in_order_and_secrets_marked() -> None:
    watcher = Watcher()
    stage = Pop3Stage(watcher)
    client = Client(await stage.session({}), "127.0.0.1")
    client.send(b"USER test\r\nPASS wrong\r\nAUTH LOGIN\r\ndGVzdA==\r\nc2VjcmV0\r\nNOOP\r\n pass secret\r\nQUIT\r\n")
    await client.task
    assert watcher.seen == [
        ("S", b"+OK x.mail POP3 Posthouse\r\n", False),
        ("C", b"USER test\r\n", False),
        ("S", b"+OK Send your password\r\n", False),
        ("C", b"PASS wrong\r\n", True),
        ("S", b"-ERR [AUTH] Login refused: unknown user name or wrong password\r\n", False),
        ("C", b"AUTH LOGIN\r\n", True),
        ("S", b"+ VXNlcm5hbWU6\r\n", True),
        ("C", b"dGVzdA==\r\n", True),
        ("S", b"+ UGFzc3dvcmQ6\r\n", True),
        ("C", b"c2VjcmV0\r\n", True),
        ("S", b"+OK Mailbox locked and ready\r\n", False),
        ("C", b"NOOP\r\n", False),
        ("S", b"+OK nothing done, as asked\r\n", False),
        ("C", b" pass secret\r\n", True),
        ("S", b"-ERR Unknown command\r\n", False),
        ("C", b"QUIT\r\n", False),
        ("S", b"+OK POP3 server saying goodbye...\r\n", False),
    ]
    assert not watcher.open
    await client.leave()


def test_an_overlong_secret_is_marked_too() -> None:
    seen: list[tuple[bytes, bool]] = []
    core = Pop3ServerCore(Pop3Limits(), lambda octets, secret: seen.append((octets, secret)))
    core.state = State.NAMED
    core.feed(b"PASS " + b"s" * 100_000)
    while core.next_event() is not None:
        pass
    assert seen == [(b"PASS " + b"s" * 507 + b"\r\n", True)]


def test_the_core_holds_no_more_than_a_line() -> None:
    core = Pop3ServerCore(Pop3Limits())
    for _ in range(50):
        core.feed(b"x" * 65_536)
        while core.next_event() is not None:
            pass
    assert len(core._buffer) <= 512
    core = Pop3ServerCore(Pop3Limits(idle_commands=100_000))
    core.feed(b"CAPA\r\n" * 10_000 + b"USER")
    while core.next_event() is not None:
        pass
    assert core._buffer == b"USER"


async def test_update_is_finished_though_the_client_is_gone() -> None:
    stage = Pop3Stage()
    stage.store.add(LETTER)
    client = await logged_in(stage)
    client.send(b"DELE 1\r\nQUIT\r\n")
    client.wire.connection_lost(None)
    await client.task
    assert not stage.store.letters and not stage.store.locked


async def test_a_session_that_waits_costs_little() -> None:
    stage = Pop3Stage()
    stage.store.add(LETTER)
    server = stage.build({})
    buffers = Buffers()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    clients = [Client(server.session, "127.0.0.1") for _ in range(50)]
    for client in clients:
        client.send(b"USER test\r\nPASS secret\r\n")
        await settle()
        stage.store.locked = False
        client.transport.out.clear()
        # The stage's client has a buffer of its own; real wires share one.
        client.wire._buffers = buffers
        client.wire._shared = memoryview(b"")
    cost = (tracemalloc.get_traced_memory()[0] - before) / len(clients)
    tracemalloc.stop()
    stage.store.locked = True
    for client in clients:
        client.task.cancel()
    await asyncio.wait([client.task for client in clients])
    assert cost < 12_000, f"{cost:.0f} octets a session"
