"""A backup holds what the store held at one moment, whole, and says so when it does not."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.store.backup import manifest as form
from posthouse.store.backup.create import PART
from posthouse.store.backup.faults import BackupError, Cause
from posthouse.store.backup.manifest import CONTENT, DATABASE, FILE, Entry
from posthouse.store.backup.repository import changing, reading
from tests.unit.backups import ANNA, BORIS, LARGE, Office, small


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """A store with letters, open."""
    office = await Office.open(tmp_path)
    yield office
    await office.store.close()


def flip(path: Path) -> None:
    """Turns one bit of a file around."""
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)


def objects(office: Office) -> dict[str, Path]:
    """All objects of the pool."""
    return {path.name: path for path in (office.backups / "objects").glob("*/*")}


async def test_a_backup_verifies_and_a_second_one_adds_nothing(office: Office) -> None:
    """Would catch a pool that keeps the same octets twice, and a backup that cannot be opened."""
    first = await office.create()
    assert (first.manifest.letters, first.manifest.accounts, first.manifest.queued) == (6, 2, 1)
    second = await office.create()
    assert second.unchanged
    assert second.manifest.new == 0
    found = await office.verify()
    assert found.wrong == []
    assert found.restored == [second.manifest.name]
    assert found.backups == [first.manifest.name, second.manifest.name]


async def test_what_changed_is_all_that_is_written(office: Office) -> None:
    """Would catch a second backup that reads or writes large letters again."""
    await office.create()
    before = set(objects(office))
    await office.deliver(LARGE.replace(b"y", b"z"), "L2", ANNA)
    made = await office.create()
    assert not made.unchanged
    new = objects(office).keys() - before
    with reading(office.backups) as repository:
        kinds = [entry.kind for entry in repository.entries(made.manifest) if entry.object in new]
    assert kinds.count(CONTENT) == 1
    assert kinds.count(DATABASE) >= 1
    assert FILE not in kinds


async def test_a_letter_deleted_while_it_is_copied_is_whole_in_the_backup(office: Office) -> None:
    """Would catch a content file that is gone between the look at the database and its copying."""
    loop = asyncio.get_running_loop()
    emptied = False

    def delete(done: int, total: int) -> None:
        nonlocal emptied
        if not emptied:  # the look at the database has begun, no content was copied yet
            emptied = True
            for address in (ANNA, BORIS):
                asyncio.run_coroutine_threadsafe(office.store.remove_account(address), loop).result(10)
            end = time.monotonic() + 10
            while any((office.data / "content").glob("*/*")):
                assert time.monotonic() < end, "the server has unlinked the large letter"
                time.sleep(0.01)

    made = await office.create(delete)
    assert emptied
    assert made.manifest.missing == []
    assert (await office.verify()).wrong == []
    assert not list((office.data / "staging").glob("backup-*"))


async def test_a_letter_that_was_lost_before_is_told_and_does_not_spoil_the_rest(office: Office) -> None:
    (file,) = (office.data / "content").glob("*/*")
    file.unlink()
    made = await office.create()
    assert made.manifest.missing == [file.name]
    found = await office.verify()
    assert found.wrong == []
    assert found.missing == [file.name]


async def test_one_flipped_bit_is_named_with_the_backups_it_concerns(office: Office) -> None:
    """Would catch a check that does not read everything, and a next backup that relies on the damaged object."""
    first = await office.create()
    await office.deliver(small(3), "A3", ANNA)
    second = await office.create()
    with reading(office.backups) as repository:
        (entry,) = [entry for entry in repository.entries(first.manifest) if entry.kind == CONTENT]
    flip(objects(office)[entry.object])
    found = await office.verify()
    (wrong,) = found.wrong
    assert wrong.where.endswith(entry.object)
    assert wrong.backups == [first.manifest.name, second.manifest.name]
    with pytest.raises(BackupError, match=entry.object):
        await office.restore(office.folder / "drill")
    await office.create()
    assert (await office.verify()).wrong == []


@pytest.mark.parametrize("what", ["listing", "manifest", "missing"])
async def test_every_kind_of_damage_is_found(office: Office, what: str) -> None:
    made = await office.create()
    if what == "listing":
        flip(objects(office)[made.manifest.listing])
    elif what == "manifest":
        flip(office.backups / "backups" / f"{made.manifest.name}.json")
    else:
        max(objects(office).values(), key=lambda path: path.stat().st_size).unlink()
    found = await office.verify() if what != "manifest" else None
    if found is None:
        with reading(office.backups) as repository:
            assert repository.manifests() == ([], [made.manifest.name])
        with pytest.raises(BackupError, match="damaged"):
            await office.verify(made.manifest.name)
    else:
        assert [wrong.backups for wrong in found.wrong] == [[made.manifest.name]]
        assert found.restored == []
    made = await office.create()
    assert (await office.verify(made.manifest.name)).wrong == []


async def test_pruning_keeps_what_others_need(office: Office) -> None:
    """Would catch an object removed that a younger backup shares."""
    await office.create()
    await office.store.remove_account(ANNA)
    await office.store.remove_account(BORIS)
    newest = await office.create()
    with changing(office.backups) as repository:
        sound, _ = repository.manifests()
        count, octets = repository.prune(sound[:-1])
    assert count > 0
    assert octets > len(LARGE)
    found = await office.verify()
    assert found.wrong == []
    assert found.backups == [newest.manifest.name]


async def test_nothing_is_pruned_while_a_manifest_is_damaged(office: Office) -> None:
    """Would catch objects removed that the damaged backup needs."""
    made = await office.create()
    flip(office.backups / "backups" / f"{made.manifest.name}.json")
    await office.deliver(small(3), "A3", ANNA)
    await office.create()
    before = objects(office)
    with changing(office.backups) as repository, pytest.raises(BackupError, match="Nothing was removed"):
        repository.prune([])
    assert objects(office) == before


async def test_what_a_killed_backup_left_is_cleared_away(office: Office) -> None:
    await office.create()
    (office.backups / "staging" / "writing-dead").mkdir()
    (office.backups / "staging" / "writing-dead" / "posthouse.db").write_bytes(b"x")
    (office.data / "staging" / "backup-dead").mkdir()
    (office.data / "staging" / "backup-dead" / "lock").touch()
    await office.create()
    assert list((office.backups / "staging").iterdir()) == []
    assert not (office.data / "staging" / "backup-dead").exists()


async def test_only_the_owner_may_look(office: Office) -> None:
    """Would catch letters and keys that others can read."""
    (office.data / "tls").mkdir(mode=0o700)
    (office.data / "tls" / "server.key").write_bytes(b"secret")
    await office.create()
    for path in [office.backups, *office.backups.rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    office.backups.chmod(0o755)
    with pytest.raises(BackupError, match="chmod 700"):
        await office.create()


async def test_everything_of_the_directory_is_in_it_but_what_is_fleeting(office: Office) -> None:
    """Would catch a new file of the data directory that nobody thought of."""
    (office.data / "tls").mkdir(mode=0o700)
    for path in ("posthouse.toml", "passwords.key", "tls/server.key", "what-comes-later", "a:b \\ c"):
        (office.data / path).write_bytes(path.encode())
        (office.data / path).chmod(0o640)
    configuration = office.folder / "elsewhere.toml"
    configuration.write_text("# elsewhere")
    os.close(os.open(os.fsencode(office.data) + b"/b\xe9d", os.O_CREAT))
    made = await office.create(configuration=configuration)
    assert made.unread == ["'b\\udce9d'"]
    (odd,) = office.data.glob("b*d")
    odd.unlink()
    with reading(office.backups) as repository:
        kept = {entry.path: entry.mode for entry in repository.entries(made.manifest) if entry.kind == FILE}
    assert kept["tls/server.key"] == 0o640
    left = {path.name for path in office.data.iterdir()} - {path.partition("/")[0] for path in kept}
    fleeting = {"commits", "content", "lock", "reserve", "staging", "directory.changes", "queue.changes"}
    assert left <= fleeting | {"posthouse.db", "posthouse.db-wal", "posthouse.db-shm"}
    drill = office.folder / "drill"
    restored = await office.restore(drill)
    assert (drill / "what-comes-later").read_bytes() == b"what-comes-later"
    assert restored.configuration == drill / "outside" / "posthouse.toml"
    assert restored.configuration.read_text() == "# elsewhere"


async def test_of_a_log_that_grows_only_the_end_is_written(office: Office) -> None:
    """Would catch a large file that is written whole each night, and parts that are put together wrongly."""
    log = office.data / "server.log"
    log.write_bytes(random.Random(1).randbytes(2 * PART + 100))
    await office.create()
    with log.open("ab") as file:
        file.write(b"one line more\n")
    made = await office.create()
    assert made.manifest.new < 10_000
    await office.restore(office.folder / "drill")
    assert (office.folder / "drill" / "server.log").read_bytes() == log.read_bytes()


async def test_two_at_once_are_kept_apart(office: Office) -> None:
    await office.create()
    with changing(office.backups):
        with pytest.raises(BackupError, match="Try again") as refused:
            await office.verify()
        assert refused.value.cause is Cause.BUSY
    with reading(office.backups), reading(office.backups), pytest.raises(BackupError, match="Try again"):
        await office.create()


async def test_what_is_no_place_for_backups_is_left_alone(office: Office) -> None:
    with pytest.raises(BackupError, match="not a backup directory"):
        await asyncio.to_thread(reading, office.data)
    with pytest.raises(BackupError, match="no such directory"):
        await asyncio.to_thread(reading, office.folder / "nowhere")
    office.backups.mkdir()
    (office.backups / "holiday.jpg").touch()
    with pytest.raises(BackupError, match="something else"):
        await office.create()
    inside = Office(office.folder, office.store)
    inside.folder = office.folder / "data"
    with pytest.raises(BackupError, match="lies in the data directory"):
        await asyncio.to_thread(_create_inside, office.data)


def _create_inside(data: Path) -> None:
    from posthouse.net.system import SystemClock, SystemRandom
    from posthouse.store.backup.create import create

    create(data, data / "backups", clock=SystemClock(), random=SystemRandom(), version="1")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a//x", "a/./x", "C:\\x", "a\\..\\x"])
def test_a_listing_cannot_lead_elsewhere(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a backup of somebody else's that writes outside the directory that is restored."""
    if "\\" in path:
        monkeypatch.setattr(sys, "platform", "win32")
    name = "0" * 64
    for kind in (FILE, CONTENT, "other"):
        line = form.encode_entry(Entry(kind, name, 1, path))
        assert form.decode_entry(line) is None
    assert form.decode_entry(form.encode_entry(Entry(CONTENT, name, 1, "a" * 32))) is not None
    assert form.decode_entry(form.encode_entry(Entry(FILE, "../" + name, 1, "x"))) is None


async def test_a_full_disk_costs_no_older_backup(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await office.create()
    await office.deliver(small(3), "A3", ANNA)
    real, count = os.write, 0

    def write(descriptor: int, octets: bytes) -> int:
        nonlocal count
        count += 1
        if count > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, octets)

    monkeypatch.setattr("posthouse.store.backup.objects.os.write", write)
    with pytest.raises(BackupError, match="full"):
        await office.create()
    monkeypatch.undo()
    found = await office.verify()
    assert found.backups == [first.manifest.name]
    assert found.wrong == []
    await office.create()
    assert (await office.verify()).wrong == []
