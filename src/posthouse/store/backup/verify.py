"""Whether backups can be restored: all objects are read, and the store in a backup is opened and examined whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import posthouse.store.sqlite.engine  # noqa: F401 - loaded before another identity is taken on
from posthouse.ports.store import Damage
from posthouse.store import Options, open_store
from posthouse.store.backup.assemble import assemble
from posthouse.store.backup.faults import Damaged, writing
from posthouse.store.backup.manifest import Manifest
from posthouse.store.backup.repository import Progress, Repository, reading
from posthouse.store.backup.rights import acting_as, keeper_of
from posthouse.store.model import StoreError

MOST: Final = 1000  # damages told one by one


@dataclass(slots=True)
class Wrong:
    """Something that is wrong with a backup directory; `backups` are those it concerns."""

    what: str
    where: str
    text: str
    backups: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Verified:
    """What a verification found."""

    backups: list[str]  # that were looked at
    restored: list[str]  # of these, those whose store was opened and examined
    objects: int = 0
    octets: int = 0
    wrong: list[Wrong] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # contents that were lost before the newest backup was made


def verify(folder: Path, names: Sequence[str] = (), *, progress: Progress = lambda done, total: None) -> Verified:
    """Reads the objects of these backups, without names of all, and examines the store in each that was named, without
    names in the newest. Raises BackupError."""
    with acting_as(keeper_of(folder)), reading(folder) as repository:
        sound, broken = repository.manifests()
        chosen = [repository.find(name) for name in names] or sound
        found = Verified([manifest.name for manifest in chosen], [])
        if not names:
            found.wrong += [_unusable(name) for name in broken]
            if not chosen:
                repository.find()  # says that there is none
        usable = [manifest for manifest in chosen if _listed(repository, manifest, found)]
        total = sum(manifest.size for manifest in usable)
        _read_objects(repository, usable, found, lambda done: progress(done, total))
        hurt = {name for wrong in found.wrong for name in wrong.backups}
        for manifest in usable if names else usable[-1:]:
            if manifest.name not in hurt:
                _restore(repository, manifest, found)
            found.missing = manifest.missing
        return found


def _unusable(name: str) -> Wrong:
    return Wrong("manifest", f"backups/{name}.json", "The manifest is damaged: this backup cannot be used.", [name])


def _listed(repository: Repository, manifest: Manifest, found: Verified) -> bool:
    """Whether the listing of a backup can be read."""
    try:
        for _ in repository.entries(manifest):
            pass
    except Damaged as problem:
        _note(repository, problem, found, [manifest.name])
        return False
    return True


def _read_objects(
    repository: Repository, manifests: Sequence[Manifest], found: Verified, told: Callable[[int], None]
) -> None:
    for share in repository.shares(manifests):
        for name, size in share.items():
            try:
                found.octets += repository.pool.check(name, size)
            except Damaged as problem:
                _note(repository, problem, found, repository.concerned(name))
            found.objects += 1
            told(found.octets)


def _note(repository: Repository, problem: Damaged, found: Verified, backups: list[str]) -> None:
    if problem.gone:
        repository.pool.set_aside(problem.name)
    if len(found.wrong) < MOST:
        text = (
            f"The object {problem.why}: what it held is lost in these backups. The next backup writes it anew if the "
        )
        text += "mail still holds it."
        found.wrong.append(Wrong("object", f"objects/{problem.name[:2]}/{problem.name}", text, backups))


def _restore(repository: Repository, manifest: Manifest, found: Verified) -> None:
    """Opens the store of a backup in a folder of its own and examines all of it."""
    lost = set(manifest.missing)
    room = "The test restore needs room for the database. Make some, there or where temporary files go."
    with writing(repository.folder, room), repository.scratch() as folder:
        try:
            assemble(repository, manifest, folder, link=True)
            damages = asyncio.run(_examine(folder))
        except (Damaged, StoreError) as problem:
            found.wrong.append(Wrong("store", manifest.name, str(problem), [manifest.name]))
            return
    found.restored.append(manifest.name)
    for damage in damages[:MOST]:
        if not (damage.what == "missing file" and any(name in damage.text for name in lost)):
            found.wrong.append(Wrong(damage.what, damage.where, damage.text, [manifest.name]))


async def _examine(folder: Path) -> list[Damage]:
    """The store brought to its newest form, as a server would do, and examined."""
    store = open_store(folder, serve=True, options=Options(reserve=0))
    try:
        return [damage async for damage in store.check()]
    finally:
        await store.close()
