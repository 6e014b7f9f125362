"""Measures the store alone, in one process, with full durability: `python -m bench.store_micro [PART ...]`.

Parts: deliver, many (50 recipients), read, list, delete, threshold (rows or files), interval (switch interval).
CPU is that of single threads, from /proc (Linux). The data directory is made in DIR (default: the current folder),
which must lie on a real disk: a sync on tmpfs costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from posthouse.ports.store import Account, Delivery, Store
from posthouse.store import Options, open_store

PREFIX = b"Return-Path: <someone@example.org>\r\n" + b"Received: from client.example.org " + b"x" * 200 + b"\r\n"
SENDERS = 20


def cpu(name: str) -> float:
    """CPU seconds used so far by the threads whose name begins like this."""
    total = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            status = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            total += int(status.split()[0]) / 1e9
    return total


def content(size: int) -> bytes:
    """A letter of this size."""
    head = b"Subject: measured\r\n\r\n"
    return head + (b"0123456789abcdef" * 4 + b"\r\n") * ((size - len(head)) // 66 + 1)


async def accounts(store: Store, count: int) -> list[Account]:
    """So many accounts of one domain."""
    await store.add_domain("x.mail")
    return [await store.add_account(f"a{number}@x.mail", "hash") for number in range(count)]


async def fill(
    store: Store, ids: list[int], letters: int, size: int, recipients: int = 1, senders: int = SENDERS
) -> None:
    """Delivers letters from many senders at once, the mailboxes in turn."""
    octets = content(size)
    numbers = iter(range(letters))

    async def sender() -> None:
        for number in numbers:
            draft = store.draft()
            for start in range(0, len(octets), 65_536):
                await draft.write(octets[start : start + 65_536])
            chosen = [ids[(number * recipients + turn) % len(ids)] for turn in range(recipients)]
            await store.deliver(draft, [Delivery(one, PREFIX, "a1@x.mail") for one in chosen], letter=f"L{number:016x}")

    await asyncio.gather(*[sender() for _ in range(senders)])


async def timed(action: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Wall seconds, writer CPU, event loop CPU."""
    start, writer, loop = time.perf_counter(), cpu("posthouse-writer"), time.thread_time()
    await action()
    return time.perf_counter() - start, cpu("posthouse-writer") - writer, time.thread_time() - loop


async def commits(path: Path) -> int:
    """The commit counter."""
    import sqlite3

    connection = sqlite3.connect(path / "posthouse.db")
    (count,) = connection.execute("SELECT commits FROM state").fetchone()
    connection.close()
    return int(count)


async def deliver(path: Path) -> None:
    """W1's share of the store: 4 KiB to one of 100 mailboxes."""
    store = open_store(path, serve=True)
    ids = [account.id for account in await accounts(store, 100)]
    for senders in (1, 20, 100):
        letters = 1000 if senders == 1 else 10_000
        before = await commits(path)
        wall, writer, loop = await timed(functools.partial(fill, store, ids, letters, 4096, senders=senders))
        count = await commits(path) - before
        print(
            f"deliver 4 KiB, {senders:3} senders: {letters / wall:7.0f} letters/s, {letters / count:5.1f} a commit, "
            f"writer {writer / letters * 1e6:5.1f} us, loop {loop / letters * 1e6:5.1f} us a letter"
        )
    await store.close()


async def many(path: Path) -> None:
    """W4's share: one letter to 50 recipients."""
    store = open_store(path, serve=True)
    ids = [account.id for account in await accounts(store, 100)]
    wall, writer, loop = await timed(lambda: fill(store, ids, 2000, 4096, 50))
    print(f"deliver to 50: {100_000 / wall:.0f} mailboxes/s, writer {writer * 10:.1f} us, loop {loop * 10:.1f} us each")
    await store.close()


async def read(path: Path) -> None:
    """P2's share: fetching small letters, 1 and 64 at once; point look-ups."""
    store = open_store(path, serve=True)
    (account,) = await accounts(store, 1)
    await fill(store, [account.id], 1000, 4096)
    for step in (1, 16, 64):
        best = 1e9
        for _ in range(5):
            start = time.perf_counter()
            for first in range(1, 961, step):
                await store.fetch(account.inbox, range(first, first + step))
            best = min(best, (time.perf_counter() - start) / 960)
        print(f"fetch of {step:2} letters of 4 KiB: {best * 1e6:.1f} us each")
    for name, look in (
        ("find_account", lambda: store.find_account("a0@x.mail")),
        ("find_domain", lambda: store.find_domain("x.mail")),
        ("maildrop of 1000", lambda: store.maildrop(account.inbox)),
    ):
        start = time.perf_counter()
        for _ in range(500):
            await look()
        print(f"{name}: {(time.perf_counter() - start) / 500 * 1e6:.1f} us")
    await fill(store, [account.id], 50, 1_048_576, senders=4)
    start = time.perf_counter()
    for letter in await store.fetch(account.inbox, range(1001, 1051)):
        assert letter is not None
        async for _ in letter.chunks():
            pass
    print(f"read of 1 MiB letters: {50 * 1.048576 / (time.perf_counter() - start):.0f} MB/s")
    await store.close()


async def listing(path: Path) -> None:
    """P4's share: a maildrop of 100,000 letters; and what a busy event loop makes of it."""
    store = open_store(path, serve=True)
    (account,) = await accounts(store, 1)
    for _ in range(100):
        await fill(store, [account.id], 1, 1024, 1000)
    for _ in range(3):
        start = time.perf_counter()
        maildrop = await store.maildrop(account.inbox)
        print(f"maildrop of {len(maildrop.rows)}: {(time.perf_counter() - start) * 1e3:.0f} ms")
    await store.close()


async def delete(path: Path) -> None:
    """Deleting, for good and with a week to bring it back, and what of the disk comes back at once."""
    for name, undelete in (("for good", 0.0), ("for a week", 604_800.0)):
        store = open_store(path / name[-4:], serve=True, options=Options(undelete=undelete))
        (account,) = await accounts(store, 1)
        await fill(store, [account.id], 20_000, 4096)
        database = path / name[-4:] / "posthouse.db"
        full = database.stat().st_size
        for first in range(1, 15_001, 5000):
            start = time.perf_counter()
            await store.update(account.inbox, range(first, first + 1000), [])
            middle = time.perf_counter()
            await store.update(account.inbox, range(first + 1000, first + 5000), [])
            print(
                f"delete {name} of 1000: {(middle - start) * 1e3:.1f} ms, "
                f"of 4000: {(time.perf_counter() - middle) * 1e3:.1f} ms"
            )
        for count in (1, 10):
            actions = [
                functools.partial(store.update, account.inbox, range(uid, uid + count), [])
                for uid in range(15_001 + 2000 * (count > 1), 17_001 + 2000 * (count > 1), count)
            ]
            wall, writer, _ = await timed(functools.partial(_in_turn, actions))
            print(
                f"delete {name}, {count:2} letters a session: {len(actions) / wall:.0f} sessions/s, "
                f"writer {writer / len(actions) * 1e6:.0f} us each"
            )
        start = time.perf_counter()
        for _ in range(0 if undelete else 300):
            await asyncio.sleep(0.1)
            if database.stat().st_size <= full // 10:
                break
        size = database.stat().st_size
        print(f"given back {name}: {full} -> {size} octets in {time.perf_counter() - start:.1f} s")
        await store.close()


async def _in_turn(actions: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """20 sessions at once."""
    rest = iter(actions)

    async def session() -> None:
        for action in rest:
            await action()

    await asyncio.gather(*[session() for _ in range(20)])


async def threshold(path: Path) -> None:
    """Rows or files: letters of several sizes both ways."""
    for size in (16_384, 65_536, 102_400, 131_072, 262_144, 524_288, 1_048_576):
        line = f"{size:8} octets:"
        for name, small in (("row", 1 << 30), ("file", 4096)):
            store = open_store(path / f"{name}{size}", serve=True, options=Options(small=small))
            ids = [account.id for account in await accounts(store, 100)]
            letters = min(2000, 100_000_000 // size)
            process = time.process_time()
            wall, _, _ = await timed(functools.partial(fill, store, ids, letters, size))
            process = time.process_time() - process
            rate, each = letters / wall, process / letters * 1e6
            line += f"  {name} {rate:6.0f}/s {rate * size / 1e6:5.0f} MB/s {each:6.0f} us"
            await store.close()
        print(line)


async def burn() -> None:
    """Keeps the event loop busy, with a system call now and then, as a server's is."""
    while True:
        sum(range(3000))
        os.getppid()
        await asyncio.sleep(0)


async def interval(path: Path) -> None:
    """The interpreter's switch interval, with an event loop that is busy half of its time."""
    for seconds in (0.005, 0.001, 0.0002, 0.00005):
        sys.setswitchinterval(seconds)
        store = open_store(path / str(seconds), serve=True)
        ids = [account.id for account in await accounts(store, 100)]
        burner = asyncio.ensure_future(burn())
        wall, writer, _ = await timed(functools.partial(fill, store, ids, 5000, 4096))
        burner.cancel()
        print(
            f"switch interval {seconds * 1e6:5.0f} us: {5000 / wall:.0f} letters/s, writer {writer / 5e3 * 1e6:.1f} us"
        )
        await store.close()


PARTS = {
    "deliver": deliver,
    "many": many,
    "read": read,
    "list": listing,
    "delete": delete,
    "threshold": threshold,
    "interval": interval,
}


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--dir", default=".", help="where the data directories are made")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop instead of plain asyncio")
    arguments = parser.parse_args()
    for name in arguments.part or [part for part in PARTS if part not in ("threshold", "interval")]:
        path = Path(tempfile.mkdtemp(prefix="posthouse-micro-", dir=arguments.dir))
        try:
            if arguments.uvloop:
                import uvloop

                uvloop.run(PARTS[name](path / "data"))
            else:
                asyncio.run(PARTS[name](path / "data"))
        finally:
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
