"""The clock of this machine: against what lies on the disk, and whether anybody keeps it right."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.mail.figures import moment, span

AHEAD: Final = 120.0  # seconds by which a file may be newer than now: its clock may be another machine's
RELEASED: Final = 1_750_000_000  # 2025-06-15: this program is younger than any earlier time
_UNSYNCHRONIZED: Final = 0x40  # STA_UNSYNC of adjtimex(2)


class Clock:
    """The clock"""

    RIGHT = Kind("clock.right", Level.OK, "The clock agrees with what lies on the disk{kept}.")
    BEHIND = Kind(
        "clock.behind",
        Level.ERROR,
        "The clock is {hours} behind {file}, which was written at {then}.",
        "Letters get a wrong date, certificates count as not yet good, and timetables of the queue wait too long.",
        "Set the clock: timedatectl set-ntp true, or chronyc makestep.",
    )
    OLD = Kind(
        "clock.old",
        Level.ERROR,
        "The clock says {now}, which is before this program was made.",
        "TLS fails, letters get a wrong date.",
        "Set the clock: timedatectl set-ntp true, or chronyc makestep. Is the battery of the machine empty?",
    )
    ALONE = Kind(
        "clock.alone",
        Level.NOTE,
        "Nobody keeps the clock right: the kernel says that it is not synchronised.",
        "It drifts by seconds a week; some minutes are enough for letters to look forged and one-time codes to fail.",
        "Turn on systemd-timesyncd or chrony, unless the host of this virtual machine sets its clock.",
    )


def judge(now: float, newest: tuple[Path, float] | None, synchronized: bool | None) -> Iterator[Finding]:
    """`newest` is the file that was written last and when; `synchronized` None where the system does not tell."""
    wrong = False
    if now < RELEASED:
        wrong = True
        yield Clock.OLD(now=moment(now))
    if newest is not None and newest[1] > now + AHEAD:
        wrong = True
        yield Clock.BEHIND(hours=span(newest[1] - now), file=newest[0], then=moment(newest[1]))
    if synchronized is False:
        yield Clock.ALONE()
    if not wrong:
        yield Clock.RIGHT(kept=", and is kept right" if synchronized else "")


def newest_file(data: Path) -> tuple[Path, float] | None:
    """The file of the data directory that was written last, by the clock of that time."""
    found: tuple[Path, float] | None = None
    for name in ("posthouse.db", "posthouse.db-wal", "commits", "queue.changes", "audit.log"):
        try:
            written = (data / name).stat().st_mtime
        except OSError:
            continue
        if found is None or written > found[1]:
            found = data / name, written
    return found


class _Timex(ctypes.Structure):
    """The beginning of struct timex, and room for the rest of it (adjtimex(2))."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("most", ctypes.c_long),
        ("estimated", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def is_synchronized() -> bool | None:
    """Whether something keeps the kernel's clock right; None where that is not to be known."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    values = _Timex()  # modes 0: only asks
    if not hasattr(library, "adjtimex") or library.adjtimex(ctypes.byref(values)) < 0:
        return None
    return not values.status & _UNSYNCHRONIZED
