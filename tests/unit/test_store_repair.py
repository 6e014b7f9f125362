"""A damaged store is repaired: what is whole is served as it was, the rest is put aside and named."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posthouse.ports.store import Damage, Delivered, Repair, Route
from posthouse.store import StoreError, StoreInUse, StoreTooNew, examine_store, open_store, repair_store
from posthouse.store.repairing import Repairing
from posthouse.store.sqlite.pages import Image, Tree, record
from posthouse.store.sqlite.pool import PAGE
from tests.contract.conftest import PREFIX, House, StillClock
from tests.unit.test_store_damage import Lines

LARGE = b"Subject: large\r\n\r\n" + b"y" * 600_000 + b"\r\n"


def small(number: int) -> bytes:
    """A letter that no other is like."""
    return b"Subject: %d\r\n\r\n" % number + b"%d line\r\n" % number * (number * 7 % 3000 + 1)


class Ledger:
    """A store of two accounts, closed, and what is in it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.letters: dict[str, dict[str, bytes]] = {}  # address: unique-id: octets

    def page(self, name: str) -> int:
        """The first page of a table or an index."""
        with sqlite3.connect(self.data / "posthouse.db") as db:
            (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        db.close()
        return int(root)

    def overwrite(self, page: int, octets: bytes, at: int = 0) -> None:
        """Puts other octets into a page."""
        with (self.data / "posthouse.db").open("r+b") as file:
            file.seek((page - 1) * PAGE + at)
            file.write(octets)

    def sql(self, *statements: str) -> None:
        """Changes the database behind the store's back."""
        with sqlite3.connect(self.data / "posthouse.db", isolation_level=None) as db:
            db.execute("PRAGMA ignore_check_constraints=ON")
            for statement in statements:
                db.execute(statement)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()

    def damages(self) -> list[Damage]:
        """What the check finds."""
        return [damage for portion in examine_store(self.data) for damage in portion]

    def repair(self) -> Repair:
        """Repairs, and expects that the check is satisfied then."""
        done = repair_store(self.data)
        assert done.remains == []
        assert self.damages() == []
        return done

    async def served(self) -> dict[str, dict[str, bytes]]:
        """What a server hands out now."""
        store = open_store(self.data, serve=True)
        try:
            found: dict[str, dict[str, bytes]] = {}
            for account in await store.accounts():
                rows = (await store.maildrop(account.inbox)).rows
                letters = [letter for row in rows for letter in await store.fetch(account.inbox, [row[0]])]
                octets = [b"".join([chunk async for chunk in one.chunks()]) for one in letters if one is not None]
                found[account.address] = dict(zip([row[1] for row in rows], octets, strict=True))
            return found
        finally:
            await store.close()


async def fill(data: Path) -> dict[str, dict[str, bytes]]:
    """Sixty small letters and a large one in the boxes of one and two, some deleted."""
    house = House(data, StillClock(time.time()))
    house.open()
    accounts = [await house.account("one@x.mail", 10_000_000), await house.account("two@x.mail")]
    for number in range(60):
        await house.deliver(small(number), *[one.id for one in accounts[: 1 + number % 2]])
    await house.deliver(LARGE, *[one.id for one in accounts])
    await house.store.update(accounts[0].inbox, [3, 4, 5], [])
    await house.store.put_route(Route("far.example", ("mx.far.example",)))
    await house.store.close()
    letters = await Ledger(data).served()
    assert [len(box) for box in letters.values()] == [58, 31]
    return letters


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The store that each test damages a copy of."""
    ledger = Ledger(tmp_path_factory.mktemp("repair") / "data")
    ledger.letters = asyncio.run(fill(ledger.data))
    (ledger.data / "reserve").unlink()
    return ledger


@pytest.fixture
def ledger(filled: Ledger, tmp_path: Path) -> Ledger:
    """A copy of it."""
    copy = Ledger(Path(shutil.copytree(filled.data, tmp_path / "data")))
    copy.letters = filled.letters
    return copy


async def crashed(ledger: Ledger, numbers: range) -> list[Delivered]:
    """Letters more, and then what a crash leaves: all of them in the WAL."""
    house = House(ledger.data, StillClock(time.time()))
    house.open()
    given = [(await house.deliver(small(number), 2))[0] for number in numbers]
    left = Path(shutil.copytree(ledger.data, ledger.data.with_name("left"), copy_function=shutil.copyfile))
    os.chmod(left, 0o700)  # noqa: PTH101 (copyfile took no modes along)
    await house.store.close()
    ledger.data = left
    return given


def test_pages_are_read_as_sqlite_reads_them(ledger: Ledger) -> None:
    """Every table of a store with a WAL, row by row. Would catch a row that a repair loses or makes up."""
    with contextlib.closing(sqlite3.connect(ledger.data / "posthouse.db", isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("UPDATE account SET created = -1.25, quota = 1 << 40 WHERE id = 1")
        db.execute("INSERT INTO sender VALUES (1, ?, 2.0), (2, 'x', 3.5)", ("long" * 2000,))
        image = Image(ledger.data / "posthouse.db")
        assert image.newer
        trees = {1: Tree(1)}
        list(image.rows(trees[1]))
        for name, root, kind in db.execute("SELECT name, rootpage, type FROM sqlite_schema WHERE rootpage").fetchall():
            columns = db.execute(f"PRAGMA table_info({name})").fetchall()
            keys = [column[0] for column in columns if column[5] and column[2] == "INTEGER"]
            indexed = kind == "index" or name in ("sender", "alias_target")
            trees[root] = Tree(root)
            found = []
            for cell in image.rows(trees[root], index=indexed):
                found.append(record(cell.payload))
                if keys and not indexed:
                    found[-1][keys[0]] = cell.key
            if kind == "table":
                assert [tuple(row) for row in found] == db.execute(f"SELECT * FROM {name}").fetchall(), name
            assert not trees[root].bad
        assert list(image.strays(trees)) == []


async def test_a_sound_store_stays_what_it_is(ledger: Ledger) -> None:
    done = ledger.repair()
    assert done.told == []
    assert (done.letters, done.accounts) == (89, 2)
    assert await ledger.served() == ledger.letters


@pytest.mark.parametrize("name", ["message", "content", "account_local", "content_file", "domain", "route"])
async def test_no_letter_is_lost_with_the_top_of_a_tree(ledger: Ledger, name: str) -> None:
    """The page from which all others are found; the letters lie in others, or can be named by them."""
    ledger.overwrite(ledger.page(name), os.urandom(PAGE))
    done = ledger.repair()
    assert name in " ".join(damage.where for damage in done.told)
    served = await ledger.served()
    assert served == ledger.letters


async def test_the_first_page(ledger: Ledger) -> None:
    """Without it SQLite knows neither that it is a database nor where its tables are."""
    ledger.overwrite(1, bytes(PAGE))
    with pytest.raises(StoreError, match="doctor --store --repair"):
        open_store(ledger.data, serve=True)
    ledger.repair()
    assert await ledger.served() == ledger.letters


async def test_a_schema_that_is_no_text(ledger: Ledger) -> None:
    """Python cannot read what SQLite says about it. Would catch a UnicodeDecodeError in the place of an explanation."""
    octets = (ledger.data / "posthouse.db").read_bytes()
    at = octets.index(b"CREATE INDEX account_local") + 15
    ledger.overwrite(1, b"\xa8\xff", at)
    for serve in (True, False):
        with pytest.raises(StoreError, match="doctor --store --repair"):
            open_store(ledger.data, serve=serve)
    with pytest.raises(StoreError, match="doctor --store --repair"):
        ledger.damages()
    ledger.repair()
    assert await ledger.served() == ledger.letters


async def test_accounts_that_were_lost_keep_their_letters(ledger: Ledger) -> None:
    ledger.overwrite(ledger.page("account"), bytes(PAGE))
    done = ledger.repair()
    assert await ledger.served() == ledger.letters
    assert [damage.whose for damage in done.told if damage.what == "lost"] == [["one@x.mail"], ["two@x.mail"]]


async def test_letters_of_nobody_are_put_aside_once(ledger: Ledger) -> None:
    """Their account, its indexes and who they were for are gone. Would catch a letter given to a stranger."""
    ledger.sql("UPDATE message SET recipient = 'who@else.example'", "DELETE FROM account WHERE id = 2")
    done = ledger.repair()
    assert list(await ledger.served()) == ["one@x.mail"]
    assert len(list((ledger.data / "lost+found").glob("message-2-*.eml"))) == 31
    assert len([damage for damage in done.told if damage.what == "set aside"]) == 31
    assert len(list((ledger.data / "lost+found").glob("*.eml"))) == 31


async def test_mailboxes_that_were_lost_give_no_uid_twice(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.data / "posthouse.db") as db:
        before = db.execute("SELECT id, uidvalidity, uidnext FROM mailbox").fetchall()
    db.close()
    ledger.overwrite(ledger.page("mailbox"), bytes(PAGE))
    ledger.repair()
    assert await ledger.served() == ledger.letters
    with sqlite3.connect(ledger.data / "posthouse.db") as db:
        after = db.execute("SELECT id, uidvalidity, uidnext FROM mailbox").fetchall()
    db.close()
    for (old, validity, following), (new, fresh, next_one) in zip(before, after, strict=True):
        assert old == new
        assert fresh > validity
        assert next_one > following


async def test_a_damaged_letter_is_put_aside_and_named(ledger: Ledger) -> None:
    ledger.sql("UPDATE content SET data = CAST(replace(data, 'line', 'LINE') AS BLOB) WHERE id = 2")
    done = ledger.repair()
    (aside,) = [damage for damage in done.told if damage.what == "set aside"]
    assert aside.whose == ["one@x.mail", "two@x.mail"]
    assert "UID 2 of one@x.mail, UID 1 of two@x.mail" in aside.text
    served = await ledger.served()
    for address, box in ledger.letters.items():
        lost = box.keys() - served[address].keys()
        assert len(lost) == 1
        assert served[address] == {key: octets for key, octets in box.items() if key not in lost}
    (eml,) = (ledger.data / "lost+found").glob("*.eml")
    assert eml.read_bytes() == small(1).replace(b"line", b"LINE")
    facts = json.loads(eml.with_suffix(".json").read_text())
    assert [one["account"] for one in facts["deliveries"]] == ["one@x.mail", "two@x.mail"]
    assert facts["deliveries"][0]["prefix"] == PREFIX.decode()


@pytest.mark.parametrize("how", ["missing", "altered"])
async def test_a_content_file(ledger: Ledger, how: str) -> None:
    (file,) = (ledger.data / "content").glob("*/*")
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(LARGE.replace(b"yy", b"yz", 1))
    done = ledger.repair()
    assert [(damage.what, damage.whose) for damage in done.told if damage.what != "mended"] == [
        ("set aside", ["one@x.mail", "two@x.mail"])
    ]
    assert [len(box) for box in (await ledger.served()).values()] == [57, 30]
    assert [len(list((ledger.data / "lost+found").glob(f"*.{kind}"))) for kind in ("eml", "json")] == [
        how == "altered",
        1,
    ]
    assert not list((ledger.data / "content").glob("*/*"))


async def test_a_file_that_nobody_names_is_put_aside(ledger: Ledger) -> None:
    (file,) = (ledger.data / "content").glob("*/*")
    ledger.sql("DELETE FROM message WHERE content = 61", "DELETE FROM content WHERE id = 61")
    ledger.repair()
    (eml,) = (ledger.data / "lost+found").glob("file-*.eml")
    assert eml.read_bytes() == LARGE
    assert not file.exists()


async def test_the_index_knows_the_file_of_a_lost_row(ledger: Ledger) -> None:
    """Would catch a large letter that is put aside though it is whole."""
    image = Image(ledger.data / "posthouse.db")
    (cell,) = [cell for cell in image.rows(Tree(ledger.page("content"))) if cell.key == 61]
    octets = image.page(cell.page)
    at = octets.index(cell.payload[:40])
    ledger.overwrite(cell.page, b"\xff" * 9, at - 3)  # its length and its key
    done = ledger.repair()
    assert any("served again" in damage.text for damage in done.told)
    served = await ledger.served()
    assert [octets for box in served.values() for octets in box.values() if octets.endswith(LARGE)] == [
        PREFIX + LARGE
    ] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX account_local",
        "UPDATE mailbox SET messages = 7, octets = 9",
        "UPDATE mailbox SET uidnext = 2",
        "UPDATE content SET refs = 9",
        "UPDATE message SET unique_id = 'same'",
        "UPDATE account SET local = 'three' WHERE id = 1",
        "DELETE FROM domain",
        "DELETE FROM state",
        "UPDATE state SET content = 1, uidvalidity = 1",
        "DELETE FROM secret",
        "CREATE TABLE foreign_thing (x)",
    ],
)
async def test_what_is_derived_is_made_anew(ledger: Ledger, statement: str) -> None:
    ledger.sql(statement)
    if "secret" not in statement:
        assert ledger.damages()
    ledger.repair()
    served = await ledger.served()
    assert [sorted(box.values()) for box in served.values()] == [
        sorted(box.values()) for box in ledger.letters.values()
    ]


async def test_letters_behind_a_damaged_page_of_the_wal(ledger: Ledger) -> None:
    """SQLite stops at the first frame that does not fit; what is whole behind it is found all the same."""
    await crashed(ledger, range(100, 140))
    with (ledger.data / "posthouse.db-wal").open("r+b") as file:
        file.seek(32 + 24 + 2000)  # in the first frame
        file.write(b"damage")
    (lost,) = [damage for damage in ledger.damages() if damage.what == "commits lost"]
    assert "Up to 40 commits since" in lost.text
    ledger.repair()
    box = (await ledger.served())["two@x.mail"]
    assert len(box) >= 31 + 35
    assert all(octets[len(PREFIX) :] in [LARGE, *map(small, range(140))] for octets in box.values())


async def test_a_server_puts_letters_behind_a_damaged_page_of_the_wal_aside(ledger: Ledger) -> None:
    """It comes back by itself, and SQLite removes what stands there. Would catch a letter answered 250 of which nothing
    is left anywhere."""
    await crashed(ledger, range(100, 140))
    with (ledger.data / "posthouse.db-wal").open("r+b") as file:
        file.seek(32 + 24 + 2000)  # in the first frame
        file.write(b"damage")
    log = Lines()
    store = open_store(ledger.data, serve=True, log=log)
    try:
        assert log.of("store_commits_lost")[0]["up_to"] == 40
        there = len((await store.maildrop(2)).rows) - 31
    finally:
        await store.close()
    aside = {path.read_bytes(): path for path in (ledger.data / "lost+found").glob("*.eml")}
    assert there + len(aside) >= 38
    assert aside.keys() <= {small(number) for number in range(100, 140)}
    facts = [json.loads(path.with_suffix(".json").read_text()) for path in aside.values()]
    assert {one["deliveries"][0]["recipient"] for one in facts} == {"test@x.mail"}
    assert len(log.of("store_letter_put_aside")) == len(aside)


async def test_a_cut_wal_costs_what_was_in_it_and_no_number_comes_again(ledger: Ledger) -> None:
    given = await crashed(ledger, range(100, 110))
    os.truncate(ledger.data / "posthouse.db-wal", 5000)
    done = ledger.repair()
    assert any("Up to 10 commits since" in damage.text for damage in done.told)
    again = House(ledger.data, StillClock(time.time()))
    again.open()
    (new,) = await again.deliver(small(200), 2)
    assert new.uid > max(one.uid for one in given)
    await again.store.close()


@pytest.mark.parametrize("gone", [True, False])
async def test_a_database_that_is_gone_is_never_begun_anew(ledger: Ledger, gone: bool) -> None:
    """Would catch an empty store that says +OK 0 messages to everybody, and a WAL that SQLite removes."""
    (ledger.data / "posthouse.db-wal").write_bytes(b"x" * 5000)
    if gone:
        (ledger.data / "posthouse.db").unlink()
    else:
        os.truncate(ledger.data / "posthouse.db", 0)
    for serve in (True, False):
        with pytest.raises(StoreError, match="Nothing was begun anew"):
            open_store(ledger.data, serve=serve)
    assert (ledger.data / "posthouse.db-wal").stat().st_size == 5000
    done = ledger.repair()
    assert any("nothing is left" in damage.text for damage in done.told)
    (eml,) = (ledger.data / "lost+found").glob("file-*.eml")
    assert eml.read_bytes() == LARGE


async def test_a_dry_run_changes_nothing(ledger: Ledger) -> None:
    ledger.sql("UPDATE content SET checksum = 1")
    before = {path: path.read_bytes() for path in ledger.data.rglob("*") if path.is_file()}
    done = repair_store(ledger.data, dry=True)
    assert len([damage for damage in done.told if damage.what == "set aside"]) == 61
    assert {path: path.read_bytes() for path in ledger.data.rglob("*") if path.is_file()} == before


async def test_nobody_else_works_on_it_meanwhile(ledger: Ledger) -> None:
    for serve in (True, False):
        store = open_store(ledger.data, serve=serve)
        with pytest.raises(StoreInUse):
            repair_store(ledger.data)
        await store.close()
    ledger.repair()


async def test_nobody_begins_while_it_is_repaired(ledger: Ledger) -> None:
    """A command would change the old database, and be told that it did."""
    with Repairing(ledger.data):
        for serve in (True, False):
            with pytest.raises(StoreInUse, match="is being repaired"):
                open_store(ledger.data, serve=serve)
    assert await ledger.served() == ledger.letters


async def test_a_newer_store_is_left_alone(ledger: Ledger) -> None:
    ledger.sql("PRAGMA user_version=99", "CREATE TABLE new_thing (x)")
    with pytest.raises(StoreTooNew):
        repair_store(ledger.data)


async def test_without_room_nothing_is_begun(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.store.sqlite.repair.free_octets", lambda path: 1_000_000)
    with pytest.raises(StoreError, match="MiB are missing"):
        repair_store(ledger.data)
    assert await ledger.served() == ledger.letters


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_killed_at_any_point(ledger: Ledger) -> None:
    """At each fifth thing it does to a file: the store is the old one or the new one, and the next repair works."""
    (file,) = (ledger.data / "content").glob("*/*")
    file.write_bytes(b"altered")
    ledger.overwrite(ledger.page("message"), bytes(PAGE))
    template = ledger.data
    whole = sorted(octets for box in ledger.letters.values() for octets in box.values() if len(octets) < 500_000)
    at = 1
    while True:
        ledger.data = Path(shutil.copytree(template, template.with_name(f"killed-{at}")))
        if not killed_at(at, lambda: repair_store(ledger.data), ledger.data):
            break
        ledger.repair()
        served = await ledger.served()
        assert sorted(octets for box in served.values() for octets in box.values()) == whole, at
        shutil.rmtree(ledger.data)
        at += 5
    assert at > 20  # it came past all of them


def killed_at(number: int, action: Callable[[], object], folder: Path) -> bool:
    """Whether a process that does this was killed before its end: at the n-th change of a name in this folder."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod", "os.rmdir") and str(
            arguments[0]
        ).startswith(str(folder)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        action()
    finally:
        os._exit(0)
