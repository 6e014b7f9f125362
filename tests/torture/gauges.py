"""What a server takes while it runs: memory, descriptors, threads and its store on the disk; and whether it grows."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.system.server import Server

MIB: Final = 1_048_576
MOST_SAMPLES: Final = 300  # for a slope: each pair of them is looked at


@dataclass(slots=True, frozen=True)
class Sample:
    """One look."""

    at: float
    memory: int  # octets resident
    descriptors: int
    threads: int
    database: int  # octets
    wal: int
    contents: int  # files of large letters
    content_octets: int
    staging: int  # files that are being written


@dataclass(slots=True, frozen=True)
class Gauge:
    """One figure, and by how much it may be more at the end: a share of what it was, and something besides."""

    name: str
    read: Callable[[Sample], int]
    share: float
    besides: int
    unit: int = 1  # what the table divides it by

    def bound(self, first: int) -> int:
        """The most that it may be at the end."""
        return int(first * (1 + self.share)) + self.besides


GAUGES: Final = (
    Gauge("memory, MiB", lambda one: one.memory, 0.05, 8 * MIB, MIB),
    # The readers open connections to the database when they need them, and keep four: three descriptors each.
    Gauge("descriptors", lambda one: one.descriptors, 0, 8),
    Gauge("threads", lambda one: one.threads, 0, 1),
    Gauge("database, MiB", lambda one: one.database, 0.05, 2 * MIB, MIB),
    Gauge("WAL, MiB", lambda one: one.wal, 0, 33 * MIB, MIB),  # journal_size_limit of store/sqlite/pool.py
    Gauge("files of large letters", lambda one: one.contents, 0, 0),
    Gauge("these, MiB", lambda one: one.content_octets, 0, 0, MIB),
    Gauge("files in staging", lambda one: one.staging, 0, 0),
)


def look(server: Server) -> Sample:
    """The figures now."""
    process = Path(f"/proc/{server.process.pid}")
    sizes = [octets for path in (server.data / "content").rglob("*") if (octets := _size(path)) is not None]
    staged = [path for path in (server.data / "staging").rglob("*") if path.name != "lock" and _size(path) is not None]
    return Sample(
        time.monotonic(),
        server.memory(),
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        _size(server.data / "posthouse.db") or 0,
        _size(server.data / "posthouse.db-wal") or 0,
        len(sizes),
        sum(sizes),
        len(staged),
    )


def _size(path: Path) -> int | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return None if path.is_dir() else status.st_size


@contextmanager
def watched(server: Server, every: float) -> Iterator[list[Sample]]:
    """Samples taken again and again for the length of the block."""
    samples: list[Sample] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every):
            samples.append(look(server))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def slope(samples: Sequence[Sample], read: Callable[[Sample], int]) -> float:
    """By how much a figure grows in a second: the median over all pairs (Theil and Sen), so that no single peak and no
    single dip decides."""
    some = samples[:: len(samples) // MOST_SAMPLES + 1]
    pairs = [(read(later) - read(one)) / (later.at - one.at) for n, one in enumerate(some) for later in some[n + 1 :]]
    return statistics.median(pairs) if pairs else 0.0


def growth(first: Sample, last: Sample) -> list[str]:
    """What is more at the end than it may be."""
    return [
        f"{gauge.name}: {gauge.read(first)} after the warm-up, {gauge.read(last)} at the end"
        for gauge in GAUGES
        if gauge.read(last) > gauge.bound(gauge.read(first))
    ]


def steepness(samples: Sequence[Sample], seconds: float) -> list[str]:
    """What grew under load, reckoned over this time, by more than it may."""
    complaints = []
    for gauge in GAUGES[:4]:
        rise = slope(samples, gauge.read) * seconds
        usual = int(statistics.median(gauge.read(one) for one in samples))
        if usual + rise > gauge.bound(usual):
            complaints.append(f"{gauge.name} grows under load, by {rise:.0f} in {seconds:.0f} s from {usual}")
    return complaints


def format_gauges(first: Sample, last: Sample, samples: Sequence[Sample]) -> str:
    """The table at the end."""
    lines = [f"{'':24}{'after warm-up':>14}{'at the end':>12}{'at most':>10}{'under load':>12}{'an hour':>10}"]
    for gauge in GAUGES:
        before, after = gauge.read(first), gauge.read(last)
        usual = statistics.median(gauge.read(one) for one in samples) if samples else 0
        an_hour = slope(samples, gauge.read) * 3600
        figures = [_in(one, gauge.unit) for one in (before, after, gauge.bound(before), usual)]
        widths = (14, 12, 10, 12)
        row = "".join(f"{figure:>{width}}" for figure, width in zip(figures, widths, strict=True))
        lines.append(f"{gauge.name:24}{row}{_in(an_hour, gauge.unit, '+'):>10}")
    return "\n".join(lines)


def _in(figure: float, unit: int, sign: str = "") -> str:
    return f"{figure / unit:{sign}.1f}" if unit > 1 or sign else f"{figure:.0f}"
