"""The server itself: whether it runs, how it ended last time, and whether its store is whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from posthouse.app.health.disk import LAYERS, NETWORK
from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.net.dial import parse_server
from posthouse.net.files import try_lock
from posthouse.net.proc import PROC, file_system_of, lock_holder, name_of
from posthouse.net.sysfiles import parse_ip
from posthouse.ports.dns import DnsProblem, MailResolver
from posthouse.ports.store import Route

MOST_ROUTES: Final = 50


class Server:
    """The server"""

    RUNS = Kind("server.runs", Level.OK, "The server runs (process {pid}).")
    DOWN = Kind(
        "server.down",
        Level.WARNING,
        "No server runs on {data}.",
        "Nobody can send or collect mail.",
        "systemctl start posthouse, or posthouse serve. Its log says why it ended: journalctl -u posthouse",
    )
    ROOT = Kind(
        "server.root",
        Level.WARNING,
        "The server runs as root.",
        "Whoever finds a hole in it has the whole machine.",
        "Set server.user, or run it by the unit of docs/howto/run-as-a-service.md.",
    )
    UNFINISHED = Kind(
        "server.unfinished",
        Level.WARNING,
        "Not finished within {seconds} s: {areas}.",
        "Something that was asked does not answer: the network, the disk, or the server.",
        "Look at one after the other: posthouse doctor --only AREA",
    )
    UNCLEAN = Kind(
        "server.unclean",
        Level.NOTE,
        "The last server on {data} did not end by itself: it was killed, or the machine was.",
        "Nothing that was promised is lost. The next start looks the store over.",
        "Start it, and see its log for store_damaged and store_commits_lost.",
    )


class Store:
    """The store"""

    SOUND = Kind(
        "store.sound", Level.OK, "The database has its structure; posthouse doctor --store reads every letter."
    )
    UNUSABLE = Kind(
        "store.unusable",
        Level.ERROR,
        "The store cannot be opened: {why}",
        "The server does not start, or cannot reach its mail.",
        "Keep a copy of the whole directory first. posthouse doctor --store says more.",
    )
    DAMAGED = Kind(
        "store.damaged",
        Level.ERROR,
        "The database is damaged: {what}.",
        "Some mail may not be readable; the rest is served.",
        "Keep a copy of the whole directory first, then see what is concerned: posthouse doctor --store",
    )
    UNREADABLE = Kind(
        "store.unreadable",
        Level.ERROR,
        "The store cannot be read now: {why}.",
        "The disk fails, or another program holds the database.",
        "See the log of the kernel (dmesg) for errors of the disk, then posthouse doctor --store",
    )


class Routes:
    """Routes"""

    GOOD = Kind("routes.good", Level.OK, "The hosts of all {count} routes are known.")
    UNKNOWN = Kind(
        "routes.unknown",
        Level.ERROR,
        "The route {pattern} leads to {host}, which has no address: {why}.",
        "Letters that take it wait in the queue.",
        "Put the route right: posthouse route add {pattern} --to HOST --replace",
    )


def running_server(data: Path) -> int | None:
    """The process that serves a data directory: its number, 0 where that is not to be known, None for none."""
    lock = data / "lock"
    if not lock.exists():
        return None
    pid = lock_holder(lock)
    if pid is not None or ((PROC / "locks").exists() and file_system_of(data) not in LAYERS | NETWORK):
        return pid
    try:
        with lock.open("rb") as file:  # where the system does not tell truly, only the lock itself does
            return None if try_lock(file) else 0
    except OSError:
        return None


def judge(data: Path, pid: int | None) -> Iterator[Finding]:
    """Whether it runs, and as whom."""
    if pid is None:
        yield Server.DOWN(data=data)
        if left_behind(data):
            yield Server.UNCLEAN(data=data)
        return
    if pid and _is_root(pid):
        yield Server.ROOT()
    yield Server.RUNS(pid=pid or "of an unknown number")


def left_behind(data: Path) -> bool:
    """Whether a process that is no more left a staging folder."""
    if sys.platform == "win32":
        return False
    try:
        numbers = [entry.name.partition("-")[0] for entry in (data / "staging").iterdir()]
    except OSError:
        return False
    return any(number.isdigit() and not _lives(int(number)) for number in numbers)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_root(pid: int) -> bool:
    try:
        return bool(name_of(pid)) and (PROC / str(pid)).stat().st_uid == 0
    except OSError:
        return False


async def check_routes(routes: Sequence[Route], resolver: MailResolver) -> list[Finding]:
    """Whether the hosts that routes name can be found. Asks the hosts file, too, as the server does."""
    found: list[Finding] = []
    for route in routes[:MOST_ROUTES]:
        for target in route.targets:
            host = parse_server(target).host
            if parse_ip(host.strip("[]")) is not None:
                continue
            try:
                await resolver.addresses(host)
            except DnsProblem as error:
                found.append(Routes.UNKNOWN(pattern=route.pattern, host=host, why=error))
    if not found and routes:
        found.append(Routes.GOOD(count=len(routes)))
    return found
