"""The whole examination, in bounded time: facts that need root's eyes, then all areas, each by its own module."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final

from posthouse.app.certificates import OwnFiles, local_authority
from posthouse.app.health import AREAS, certificates, clock, configuration, disk, dns, people, ports, queue, server
from posthouse.app.health.finding import Finding
from posthouse.app.health.talk import talk_to
from posthouse.config.schema import Config
from posthouse.mail.reply import Unavailable
from posthouse.net.files import owner_of
from posthouse.net.maildns import MailDns
from posthouse.net.nameservers import NameServers
from posthouse.net.proc import file_system_of
from posthouse.net.sysfiles import machine_addresses, machine_name
from posthouse.net.system import SystemClock
from posthouse.ports.store import Store
from posthouse.store import Options, StoreError, is_gone, open_store

WITHIN: Final = 15.0  # seconds for all of it
GLANCE: Final = 5.0  # seconds at the database
BUSY: Final = 2.0  # seconds that another program may hold it
_ALWAYS: Final = {  # why an area that was asked for could not be looked at
    kind.id for kind in (disk.Disk.CLOSED, server.Server.UNFINISHED, server.Store.UNUSABLE, server.Store.UNREADABLE)
}
_NEED_STORE: Final = ("store", "queue", "accounts", "routes", "disk", "dns", "certificates")
_OUTSIDE: Final = ("configuration", "dns", "clock")  # areas that need nothing of the data directory
_KEPT: Final = ("store", "queue", "accounts")  # areas that rest on the store


@dataclass(slots=True)
class Case:
    """What is examined, and what was seen of it with the rights of whoever asked."""

    config: Config
    data: Path
    source: str  # where the configuration comes from, in words
    offline: bool = False
    only: Collection[str] = field(default_factory=lambda: tuple(AREAS))
    server: int | None = None  # its process, 0 for an unknown one
    closed: bool = False  # whoever asks may not look into the data directory
    sockets: ports.Sockets = field(default_factory=lambda: ports.Sockets(None))

    @property
    def host(self) -> str:
        """The name of the server."""
        return self.config.server.hostname or machine_name()

    def wants(self, *areas: str) -> bool:
        """Whether one of these areas is asked for."""
        return any(area in self.only for area in areas)


def preload() -> None:
    """Loads what is otherwise loaded when it is needed: the owner of the data directory, as whom root goes on, need not
    be able to read where Python is installed."""
    for name in ("posthouse.net.dnswire", "posthouse.net.localca", "posthouse.net.tlsprobe", "dns.rdtypes.ANY.CNAME"):
        import_module(name)


def look_around(case: Case) -> None:
    """The facts for which root sees more than others. To be called before root's rights are given up."""
    case.closed = _is_closed(case.data)
    if case.closed:
        case.only = [area for area in case.only if area in (*_OUTSIDE, "disk")]
        return
    case.server = server.running_server(case.data)
    if case.wants("ports"):
        case.sockets = ports.look(case.config)


def _is_closed(data: Path) -> bool:
    """Whether a directory is there, or may be there, and is not ours to look into."""
    try:
        return data.is_dir() and not os.access(data, os.R_OK | os.X_OK)
    except PermissionError:
        return True


async def examine(case: Case) -> list[Finding]:
    """Everything that was found in the areas that are asked for, the worst first. Takes WITHIN seconds and little
    more."""
    found: list[Finding] = []
    began = time.monotonic()
    found += _machine(case)
    async with _opened(case, found) as store:
        await _examine(case, store, found, WITHIN - (time.monotonic() - began))
    order = list(AREAS)
    chosen = [finding for finding in found if finding.area in case.only or finding.id in _ALWAYS]
    return sorted(chosen, key=lambda finding: (-finding.level, order.index(finding.area)))


def _machine(case: Case) -> Iterator[Finding]:
    """What needs neither store nor network."""
    if case.wants("configuration"):
        yield from configuration.check(case.config, case.data, case.source)
    if case.closed:
        yield disk.Disk.CLOSED(data=case.data, why="it belongs to somebody else")
    if case.wants("server") and (case.data / "posthouse.db").exists():
        yield from server.judge(case.data, case.server)
    if case.wants("clock"):
        yield from clock.judge(time.time(), clock.newest_file(case.data), clock.is_synchronized())
    if case.wants("disk") and not case.closed:
        yield from _disk(case)


def _disk(case: Case) -> Iterator[Finding]:
    data, settings = case.data, case.config
    try:
        place = next(path for path in (data, *data.absolute().parents) if path.exists())
        room = disk.room_of(place)
        system = file_system_of(place)
        yield from disk.judge_room(data, room, settings.smtp.limits.message, settings.store.reserve, system)
        yield from disk.judge_system(data, system)
        if not (data / "posthouse.db").exists() and not is_gone(data):
            yield disk.Disk.NONE(data=data)
            return
        yield from disk.judge_reserve(data, settings.store.reserve, running=case.server is not None)
        yield from disk.judge_wal(data)
        yield from disk.judge_rights(data, settings.server.user)
    except OSError as error:
        yield disk.Disk.CLOSED(data=data, why=error.strerror or error)


@asynccontextmanager
async def _opened(case: Case, found: list[Finding]) -> AsyncIterator[Store | None]:
    """The store, None where there is none or it cannot be opened."""
    store: Store | None = None
    try:
        there = (case.data / "posthouse.db").exists() or is_gone(case.data)  # then it is told why not
        if not case.closed and case.wants(*_NEED_STORE) and there:
            store = open_store(case.data, serve=False, options=Options(busy_timeout=BUSY))
    except (StoreError, Unavailable) as error:
        found.append(server.Store.UNUSABLE(why=error))
    except OSError as error:
        found.append(disk.Disk.CLOSED(data=case.data, why=error.strerror or error))
    try:
        yield store
    finally:
        if store is not None:
            await store.close()


async def _examine(case: Case, store: Store | None, found: list[Finding], seconds: float) -> None:
    domains: list[str] = []
    kept: people.People | None = None
    if store is not None:
        with _readable(found):
            kept = await people.look(store)
            domains = [domain.name for domain in kept.domains]
    loaded: list[certificates.Loaded] = []
    if case.wants("certificates", "ports", "dns") and not case.closed:
        found += _certificates(case, domains, loaded)
    works = dict(_works(case, store, kept, domains, loaded))
    tasks = {area: asyncio.create_task(work) for area, work in works.items()}
    if not tasks:
        return
    await asyncio.wait(tasks.values(), timeout=max(0.1, seconds))
    late = [area for area, task in tasks.items() if not task.done()]
    for task in tasks.values():
        task.cancel()
    await asyncio.wait(tasks.values())
    for task in tasks.values():
        if not task.cancelled():
            found += task.result()
    if late:
        found.append(server.Server.UNFINISHED(seconds=f"{WITHIN:.0f}", areas=", ".join(late)))


def _works(
    case: Case,
    store: Store | None,
    kept: people.People | None,
    domains: Sequence[str],
    loaded: Sequence[certificates.Loaded],
) -> Iterator[tuple[str, Coroutine[None, None, list[Finding]]]]:
    """What takes time, by area; all of it goes on at once."""
    if case.wants("ports"):
        yield "ports", _ports(case, loaded)
    if case.wants("dns"):
        yield "dns", _dns(case, domains, loaded)
    if store is None:
        return
    for area in _KEPT:
        if case.wants(area):
            yield area, _kept(case, area, store, kept)
    if case.wants("disk") and kept is not None:
        yield "disk", _quotas(case, kept)
    if case.wants("routes") and not case.offline:
        yield "routes", _routes(case, store)


def _certificates(case: Case, domains: Sequence[str], loaded: list[certificates.Loaded]) -> Iterator[Finding]:
    """What is to be said of them; those that can be used are put into `loaded`."""
    if case.config.tls.offer != "yes":
        return
    own = not case.config.certificates
    authority = local_authority(case.config, case.data, domains, SystemClock())
    try:
        if own and authority.identities() is None:
            yield certificates.Certificates.NOT_YET()
            return
        missing = authority.missing() if own else []
    except (OSError, ValueError) as error:
        yield certificates.Certificates.UNUSABLE(why=error)
        return
    if missing:
        yield certificates.Certificates.AUTHORITY(names=" ".join(missing[:20]))
    for files in authority.files() if own else OwnFiles(case.config.certificates).files():
        one = certificates.load(files, own=own)
        if isinstance(one, Finding):
            yield one
            continue
        loaded.append(one)
        yield from certificates.judge(one, certificates.now_utc(time.time()))
    if not missing:
        yield from certificates.judge_names(loaded, case.host)


async def _ports(case: Case, loaded: Sequence[certificates.Loaded]) -> list[Finding]:
    owner = owner_of(case.data)[0] if case.data.exists() else (os.geteuid() if hasattr(os, "geteuid") else 0)
    listeners = [one for one in dict.fromkeys(case.config.listeners) if one.port]
    found = [ports.judge(listener, case.sockets, case.server, owner) for listener in listeners]
    asked = [listener for listener, finding in zip(listeners, found, strict=True) if finding is None]
    tls = case.config.tls.offer == "yes"
    heard = await asyncio.gather(*(talk_to(listener, case.host, tls=tls) for listener in asked))
    expected = [one.der for one in loaded]
    told = [finding for finding in found if finding is not None]
    for listener, one in zip(asked, heard, strict=True):
        told += ports.judge_talk(listener, one, case.host, tls=tls, expected=expected)
    return told


async def _dns(case: Case, domains: Sequence[str], loaded: Sequence[certificates.Loaded]) -> list[Finding]:
    if case.offline:
        return [dns.Dns.LEFT_OUT()]
    names = [name for one in loaded for name in one.names]
    questions = dns.Questions(case.config.dns)
    try:
        return await dns.check(questions, dns.Place(case.host, machine_addresses(), names), domains)
    finally:
        questions.close()


async def _routes(case: Case, store: Store) -> list[Finding]:
    servers = NameServers(case.config.dns)
    try:
        return await server.check_routes(store.routes(), MailDns(servers, case.config.dns))
    finally:
        servers.close()


async def _kept(case: Case, area: str, store: Store, kept: people.People | None) -> list[Finding]:
    found: list[Finding] = []
    with _readable(found):
        if area == "store":
            what = await store.glance(GLANCE)
            found.append(server.Store.DAMAGED(what=what) if what else server.Store.SOUND())
        elif area == "queue":
            found += queue.judge(await queue.look(store.queue), time.time(), running=case.server is not None)
        elif kept is not None:
            found += people.judge(kept, case.config.accounts.postmaster)
    return found


async def _quotas(case: Case, kept: people.People) -> list[Finding]:
    try:
        return list(disk.judge_quotas([(one.quota, one.used) for one in kept.accounts], disk.room_of(case.data)))
    except OSError:  # told already
        return []


@contextmanager
def _readable(found: list[Finding]) -> Iterator[None]:
    """What the store refuses is a finding."""
    try:
        yield
    except Unavailable as error:
        finding = server.Store.UNREADABLE(why=error.detail or error)
        if finding not in found:
            found.append(finding)
