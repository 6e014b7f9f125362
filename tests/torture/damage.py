"""Damage: a store is damaged at random in each way there is, and books of our own judge what becomes of it.

For every round: `doctor --store` finds the damage, or every letter is still served whole; a server serves what it can
or refuses with a text that says what to do, shows nobody an empty mailbox without a line in its log, and dies of
nothing; a repair (killed once on its way, now and then) ends with a clean check, every letter that is served
afterwards has exactly the octets that went in, and every other one is in its report; no UID and no unique-id comes
again.

`python -m tests.torture.damage --rounds 200 --seed 7`, `--only octets,wal-cut`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Damage, Delivery, Store
from posthouse.store import StoreError, examine_store, open_store, repair_store
from tests.system.raw import deliver, logged_in
from tests.system.server import ServerFailed, add_account, find_command, prepare_data, start_server
from tests.unit.test_store_damage import Lines

PAGE = 4096
PEOPLE = ("test@x.mail", "test2@x.mail", "third@x.mail", "fourth@x.mail")
PREFIX = b"Return-Path: <someone@example.org>\r\nReceived: from there by x.mail with ESMTP id %s;\r\n\tMon, 1 Jan\r\n"


def content(number: int) -> bytes:
    """A letter that no other is like; each fortieth is large."""
    lines = 14_000 if number % 40 == 39 else (3, 30, 300, 1500)[number % 4]
    return b"Subject: %d\r\n\r\n" % number + b"".join(b"%d of %d\r\n" % (line, number) for line in range(lines))


@dataclass(slots=True)
class Given:
    """What one account was given, ever."""

    letters: dict[int, bytes] = field(default_factory=dict)  # by number, those that must be there
    deleted: dict[int, bytes] = field(default_factory=dict)  # they may be there again when commits are lost
    unique_ids: set[str] = field(default_factory=set)
    last_uid: int = 0
    uidvalidity: int = 0

    def copy(self) -> Given:
        """One that can be changed."""
        return replace(self, letters=dict(self.letters), deleted=dict(self.deleted), unique_ids=set(self.unique_ids))


@dataclass(slots=True)
class Round:
    """One damaged store and what was said about it."""

    kind: str
    data: Path
    given: dict[str, Given]
    complaints: list[str] = field(default_factory=list)
    found: list[Damage] = field(default_factory=list)
    whole: bool = False  # every letter was served by the damaged store
    lost: int = 0
    aside: int = 0
    refused: bool = False  # the server did not start

    @property
    def commits_lost(self) -> bool:
        """Whether the doctor said so."""
        return any(damage.what in ("commits lost", "cannot be opened") for damage in self.found)

    def complain(self, text: str) -> None:
        """Notes a broken promise."""
        self.complaints.append(f"{self.kind}: {text}")


class Templates:
    """The stores of which each round damages a copy: closed, as a crash leaves it, and from an earlier time."""

    def __init__(self, folder: Path, letters: int) -> None:
        self.closed, self.crashed, self.earlier = (folder / name for name in ("closed", "crashed", "earlier"))
        prepare_data(self.closed)
        for address in PEOPLE[2:]:
            add_account(self.closed, address)
        self.books = {name: {address: Given() for address in PEOPLE} for name in ("closed", "crashed")}
        asyncio.run(self._fill(letters))

    async def _fill(self, letters: int) -> None:
        chance = random.Random(5)
        for stage in ("closed", "crashed"):
            given = self.books[stage]
            if stage == "crashed":
                shutil.copytree(self.closed, self.earlier)
                for address, box in self.books["closed"].items():
                    given[address] = box.copy()
            store = open_store(self.closed if stage == "closed" else self.earlier, serve=True)
            first = 0 if stage == "closed" else letters
            for number in range(first, first + (letters if stage == "closed" else 20)):
                await give(store, given, number, chance.sample(PEOPLE, chance.choice((1, 1, 2))))
                if number % 9 == 8:
                    await remove(store, given, chance.choice(PEOPLE))
            if stage == "crashed":
                shutil.copytree(self.earlier, self.crashed, copy_function=shutil.copyfile)
                os.chmod(self.crashed, 0o700)  # noqa: PTH101 (copyfile took no modes along)
            await store.close()
        shutil.rmtree(self.earlier)
        for template in (self.closed, self.crashed):
            (template / "reserve").unlink()  # 16 MiB to copy for nothing
        shutil.copytree(self.closed, self.earlier)
        with contextlib.closing(sqlite3.connect(self.earlier / "posthouse.db")) as db:
            for address, uidvalidity in db.execute(
                "SELECT address, uidvalidity FROM mailbox JOIN account ON account.id = account"
            ).fetchall():
                for given in self.books.values():
                    given[address].uidvalidity = uidvalidity


async def give(store: Store, given: dict[str, Given], number: int, addresses: list[str]) -> None:
    """Delivers a letter and writes it down."""
    accounts = [await store.find_account(address) for address in addresses]
    letter = f"L{number:06}"
    draft = store.draft()
    await draft.write(content(number))
    deliveries = [Delivery(one.id, PREFIX % letter.encode(), one.address) for one in accounts if one is not None]
    for address, done in zip(addresses, await store.deliver(draft, deliveries, letter=letter), strict=True):
        box = given[address]
        box.letters[number] = content(number)
        box.unique_ids.add(done.unique_id)
        box.last_uid = done.uid


async def remove(store: Store, given: dict[str, Given], address: str) -> None:
    """Deletes the oldest letter of a mailbox."""
    account = await store.find_account(address)
    assert account is not None
    rows = (await store.maildrop(account.inbox)).rows
    if len(rows) > 5:
        await store.update(account.inbox, [rows[0][0]], [])
        box = given[address]
        number = min(box.letters)
        box.deleted[number] = box.letters.pop(number)


# Ways to damage

Way = Callable[[Path, random.Random], None]


def _overwrite(path: Path, pieces: list[tuple[int, bytes]]) -> None:
    with path.open("r+b") as file:
        for at, octets in pieces:
            file.seek(at)
            file.write(octets)


def _octets(name: str) -> Way:
    def damage(data: Path, chance: random.Random) -> None:
        path = data / name
        size = path.stat().st_size
        pieces = []
        for _ in range(chance.choice((1, 1, 3, 10))):
            length = chance.choice((1, 1, 4, 30))
            pieces.append((chance.randrange(max(size - length, 1)), chance.randbytes(length)))
        _overwrite(path, pieces)

    return damage


def _pages(fill: Callable[[random.Random], bytes], first: int = 0) -> Way:
    def damage(data: Path, chance: random.Random) -> None:
        path = data / "posthouse.db"
        pages = path.stat().st_size // PAGE
        numbers = [chance.randrange(first, pages) for _ in range(chance.choice((1, 1, 2, 5)))]
        _overwrite(path, [(number * PAGE, fill(chance)) for number in numbers])

    return damage


def _low_pages(data: Path, chance: random.Random) -> None:
    """The roots of all trees lie in front: they are hit rarely by chance, and it matters most there."""
    numbers = [chance.randrange(0, 45) for _ in range(chance.choice((1, 2)))]
    _overwrite(data / "posthouse.db", [(number * PAGE, chance.randbytes(PAGE)) for number in numbers])


def _in_low_pages(data: Path, chance: random.Random) -> None:
    """A few octets in the head of such a page."""
    pieces = [(chance.randrange(45) * PAGE + chance.randrange(40), chance.randbytes(2)) for _ in range(3)]
    _overwrite(data / "posthouse.db", pieces)


def _many(data: Path, chance: random.Random) -> None:
    """A third of all pages."""
    path = data / "posthouse.db"
    pages = [number for number in range(path.stat().st_size // PAGE) if chance.random() < 0.3]
    _overwrite(path, [(number * PAGE, chance.randbytes(PAGE)) for number in pages])


def _noise(data: Path, chance: random.Random) -> None:
    """Some octets in every page."""
    path = data / "posthouse.db"
    places = [number * PAGE + chance.randrange(PAGE) for number in range(path.stat().st_size // PAGE)]
    _overwrite(path, [(place, chance.randbytes(1)) for place in places])


def _header(data: Path, chance: random.Random) -> None:
    _overwrite(data / "posthouse.db", [(chance.randrange(100), chance.randbytes(chance.choice((1, 4, 20))))])


def _cut(name: str) -> Way:
    def damage(data: Path, chance: random.Random) -> None:
        path = data / name
        os.truncate(path, chance.randrange(path.stat().st_size))

    return damage


def _content_file(work: Callable[[Path, random.Random], None]) -> Way:
    def damage(data: Path, chance: random.Random) -> None:
        work(chance.choice(sorted((data / "content").glob("*/*"))), chance)

    return damage


def _alter(path: Path, chance: random.Random) -> None:
    _overwrite(path, [(chance.randrange(path.stat().st_size), chance.randbytes(5))])


def _sql(data: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(data / "posthouse.db", isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute(statement)


def _drop_index(data: Path, chance: random.Random) -> None:
    names = ["account_local", "account_domain", "content_file", "queue_due", "alias_domain", "alias_target_target"]
    _sql(data, f"DROP INDEX {chance.choice(names)}")


def _hide_index(data: Path, chance: random.Random) -> None:
    name = chance.choice(["account_local", "content_file", "sqlite_autoindex_account_1", "sqlite_autoindex_mailbox_1"])
    _sql(data, f"DELETE FROM sqlite_schema WHERE name = '{name}'")


def _older(data: Path, chance: random.Random) -> None:
    """What an administrator does who restores the database alone."""
    for name in ("posthouse.db", "posthouse.db-wal", "posthouse.db-shm"):
        (data / name).unlink(missing_ok=True)
    shutil.copyfile(data.parent / "templates" / "earlier" / "posthouse.db", data / "posthouse.db")


WAYS: dict[str, tuple[Way, str]] = {
    "octets": (_octets("posthouse.db"), "closed"),
    "octets-crashed": (_octets("posthouse.db"), "crashed"),
    "page": (_pages(lambda chance: chance.randbytes(PAGE)), "closed"),
    "zeros": (_pages(lambda _: bytes(PAGE)), "closed"),
    "root": (_low_pages, "closed"),
    "root-octets": (_in_low_pages, "closed"),
    "many": (_many, "closed"),
    "noise": (_noise, "closed"),
    "header": (_header, "closed"),
    "cut": (_cut("posthouse.db"), "closed"),
    "empty": (lambda data, _: os.truncate(data / "posthouse.db", 0), "crashed"),
    "missing": (lambda data, _: (data / "posthouse.db").unlink(), "closed"),
    "wal-octets": (_octets("posthouse.db-wal"), "crashed"),
    "wal-cut": (_cut("posthouse.db-wal"), "crashed"),
    "wal-missing": (lambda data, _: (data / "posthouse.db-wal").unlink(), "crashed"),
    "file-missing": (_content_file(lambda path, _: path.unlink()), "closed"),
    "file-altered": (_content_file(_alter), "closed"),
    "file-empty": (_content_file(lambda path, _: os.truncate(path, 0)), "crashed"),
    "index": (_drop_index, "closed"),
    "index-hidden": (_hide_index, "closed"),
    "older": (_older, "crashed"),
}


# Judging


async def look(store: Store, one: Round, *, repaired: bool) -> dict[str, set[int]]:
    """Which letters each account has, all of them whole. What is refused is no complaint, unless it was repaired."""
    found: dict[str, set[int]] = {}
    for address, box in one.given.items():
        try:
            account = await store.find_account(address)
            if account is None:
                continue
            rows = (await store.maildrop(account.inbox)).rows
        except Unavailable as problem:
            if repaired:
                one.complain(f"{address} cannot be read after the repair: {problem}")
            continue
        served: Counter[int] = Counter()
        for row in rows:
            try:
                (letter,) = await store.fetch(account.inbox, [row[0]])
                octets = b"" if letter is None else b"".join([piece async for piece in letter.chunks()])
            except Unavailable as problem:
                if repaired:
                    one.complain(f"a letter of {address} cannot be read after the repair: {problem}")
                continue
            known = box.letters | box.deleted if one.commits_lost else box.letters
            number = next((number for number, text in known.items() if octets.endswith(text)), None)
            if number is None:
                one.complain(f"{address} is handed out what was never given to it: {octets[:300]!r}")
            else:
                served[number] += 1
        if twice := [number for number, times in served.items() if times > 1]:
            one.complain(f"{address} has letters twice: {twice}")
        found[address] = set(served)
    return found


async def serve(one: Round) -> None:
    """A server on the damaged store, without its listeners."""
    log = Lines()
    try:
        store = open_store(one.data, serve=True, log=log)
    except StoreError as error:
        one.refused = True
        if not str(error).endswith(".") or ("doctor --store" not in str(error) and "newer Posthouse" not in str(error)):
            one.complain(f"a refusal that says nothing: {error}")
        return
    try:
        found = await look(store, one, repaired=False)
    finally:
        await store.close()
    told = any(name.startswith("store_") and name != "store_after_unclean_stop" for name, _ in log.lines)
    one.whole = all(box.letters.keys() == found.get(address) for address, box in one.given.items())
    for address, numbers in found.items():
        if one.given[address].letters and not numbers and not told and not one.found:
            one.complain(f"{address} is shown an empty mailbox, and nobody is told")


def serve_really(one: Round) -> None:
    """The real server on the damaged store, over SMTP and POP3."""
    try:
        server = start_server(one.data, "smtp", "pop3", logs=one.data.parent)
    except ServerFailed as error:
        one.refused = True
        if "doctor --store" not in str(error) and "newer Posthouse" not in str(error):
            one.complain(f"a start that fails and says nothing: {str(error)[-1500:]}")
        return
    try:
        for number, address in enumerate(PEOPLE, 900_000):
            _send(server.smtp, one, address, number)
            _count(server.pop3, one, address)
        server.stop()
    except (AssertionError, OSError) as error:
        server.kill()
        one.complain(f"the server: {error!r:.2000}")
    if "Traceback" in server.log:
        one.complain(f"the log has a traceback: {server.log[server.log.index('Traceback') :][:3000]}")


def _send(endpoint: object, one: Round, address: str, number: int) -> None:
    try:
        reply = deliver(endpoint, [address], content(number))  # type: ignore[arg-type]
    except AssertionError as error:  # refused before DATA, perhaps in the place of the greeting
        reply = str(error).rpartition("b'")[2].encode()
    if reply.startswith(b"250"):
        one.given[address].letters[number] = content(number)
    elif not reply.startswith(b"4"):
        one.complain(f"a letter to {address} was answered {reply!r}")


def _count(endpoint: object, one: Round, address: str) -> None:
    try:
        with logged_in(endpoint, address) as session:  # type: ignore[arg-type]
            count = int(session.pop(b"STAT").split()[1])
            session.pop(b"QUIT")
    except AssertionError as error:
        if "[SYS/" not in str(error) and not one.found:
            one.complain(f"the login of {address}: {error}")
        return
    if count == 0 and not one.found:
        one.complain(f"{address} has +OK 0")


def kill_repair(data: Path, chance: random.Random) -> None:
    """A repair that is killed somewhere."""
    command = [find_command(), "--data", str(data), "doctor", "--store", "--repair", "--yes"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(chance.uniform(0.2, 1.2))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def mend(one: Round, *, really: bool) -> list[Damage]:
    """Repairs; returns what the report tells."""
    if really:
        command = [find_command(), "--data", str(one.data), "doctor", "--store", "--repair", "--yes", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if "Traceback" in done.stderr or not done.stdout.startswith("{"):
            one.complain(f"the repair: {done.stdout[-500:]}{done.stderr[-3000:]}")
            return []
        answer = json.loads(done.stdout)
        if not answer["ok"]:
            one.complain(f"the repair ends with {done.stdout[-2000:]}")
        return [Damage(**damage) for damage in answer.get("done", ())]
    try:
        return repair_store(one.data).told
    except StoreError as error:
        one.complain(f"the repair: {error}")
        return []


async def judge(one: Round, told: list[Damage]) -> None:
    """What the repaired store holds, and what it gives out next."""
    if left := [damage for portion in examine_store(one.data) for damage in portion]:
        one.complain(f"after the repair remains {left[:3]}")
        return
    store = open_store(one.data, serve=True, log=Lines())
    try:
        found = await look(store, one, repaired=True)
        named = {address for damage in told for address in damage.whose if damage.what in ("set aside", "lost")}
        general = one.commits_lost or any(damage.what == "lost" and not damage.whose for damage in told)
        one.aside = sum(damage.what == "set aside" for damage in told)
        for address, box in one.given.items():
            missing = box.letters.keys() - found.get(address, set())
            one.lost += len(missing)
            if missing and not general and address not in named:
                one.complain(f"{address} misses {sorted(missing)[:10]}, and the report says nothing: {told[:5]}")
            if address in found:
                await _new_letter(store, one, address)
    finally:
        await store.close()
    with contextlib.closing(sqlite3.connect(one.data / "posthouse.db")) as db:
        for address, uidvalidity, last in db.execute(
            "SELECT address, uidvalidity, uidnext - 1 FROM mailbox JOIN account ON account.id = account"
        ):
            if address not in one.given:
                continue
            before = one.given[address]
            if uidvalidity <= before.uidvalidity and last <= before.last_uid:
                one.complain(f"{address} gets UID {last} again under UIDVALIDITY {uidvalidity}")


async def _new_letter(store: Store, one: Round, address: str) -> None:
    account = await store.find_account(address)
    assert account is not None
    draft = store.draft()
    await draft.write(b"Subject: new\r\n\r\n")
    (done,) = await store.deliver(draft, [Delivery(account.id, b"")], letter="new")
    if done.failure or done.unique_id in one.given[address].unique_ids:
        one.complain(f"a new letter of {address}: {done}")


def run_round(templates: Templates, folder: Path, kind: str, chance: random.Random, *, really: bool) -> Round:
    """One round. `really`: with the program itself, and a repair that is killed once."""
    way, stage = WAYS[kind]
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(templates.crashed if stage == "crashed" else templates.closed, data)
    one = Round(kind, data, {address: box.copy() for address, box in templates.books[stage].items()})
    way(data, chance)
    shutil.rmtree(folder / "damaged", ignore_errors=True)
    shutil.copytree(data, folder / "damaged")  # to look at when it fails
    try:
        try:
            one.found = [damage for portion in examine_store(data) for damage in portion]
        except StoreError as error:
            one.found = [Damage("cannot be opened", "", str(error))]
        if really:
            serve_really(one)
        else:
            asyncio.run(serve(one))
        if not one.found and not one.whole and not really:
            one.complain("the doctor finds nothing, and not every letter is served")
        if really and chance.random() < 0.7:
            kill_repair(data, chance)
            told = [*mend(one, really=True), Damage("lost", "", "the report of the repair that was killed")]
        else:
            told = mend(one, really=really)
        asyncio.run(judge(one, told))
    except Exception:  # noqa: BLE001 (whatever it is, it is a crash of the product)
        one.complain(traceback.format_exc())
    return one


def run(
    folder: Path, rounds: int, seed: int, *, letters: int = 120, real: int = 4, only: tuple[str, ...] = ()
) -> tuple[list[str], str]:
    """So many rounds, each `real`-th with the program itself; the complaints and the table."""
    templates = Templates(folder / "templates", letters)
    kinds = only or tuple(WAYS)
    table: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    complaints: list[str] = []
    for number in range(rounds):
        kind = kinds[number % len(kinds)]
        chance = random.Random(f"{seed}:{number}")
        one = run_round(templates, folder, kind, chance, really=bool(real) and number % real == real - 1)
        row = table[kind]
        row["rounds"] += 1
        row["found"] += bool(one.found)
        row["refused"] += one.refused
        row["set aside"] += one.aside
        row["lost"] += one.lost
        row["failed"] += bool(one.complaints)
        complaints += [f"round {number}: {text}" for text in one.complaints]
        if one.complaints:
            kept = folder / f"round-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            (folder / "damaged").replace(kept)
    return complaints, format_table(table)


def format_table(table: dict[str, Counter[str]]) -> str:
    """The table at the end."""
    columns = ("rounds", "found", "refused", "set aside", "lost", "failed")
    lines = [f"{'damage':16}" + "".join(f"{column:>11}" for column in columns)]
    lines += [f"{kind:16}" + "".join(f"{row[column]:>11,}" for column in columns) for kind, row in table.items()]
    return "\n".join(lines)


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--real", type=int, default=4, help="each n-th round with the program itself, 0 for none")
    parser.add_argument("--only", default="", help=f"of {', '.join(WAYS)}, parted by commas")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-damage-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    began = time.monotonic()
    only = tuple(options.only.split(",")) if options.only else ()
    complaints, table = run(folder, options.rounds, seed, real=options.real, only=only)
    print(table)
    print(f"{options.rounds} rounds in {time.monotonic() - began:.0f} s")
    if complaints:
        print("\n".join(complaints[:20]))
        print(f"FAILED with seed {seed}; the stores stay in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
