"""What the machine tells about processes, memory, disks and ports: the measuring side of the bench."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
UNSYNCED_FILESYSTEMS = frozenset({"tmpfs", "ramfs", "overlay-tmpfs", "devtmpfs"})


class BenchError(Exception):
    """Something without which a figure would be wrong or impossible; the text is for people."""


@dataclass(slots=True)
class Usage:
    """CPU seconds used so far and memory held now by a tree of processes."""

    cpu_seconds: float
    rss_kib: int
    pss_kib: int
    processes: int


def _parents() -> dict[int, tuple[int, float]]:
    """Every process: its parent and the CPU seconds of itself and of its children that have ended."""
    found: dict[int, tuple[int, float]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_bytes()
        except OSError:  # it ended while we looked
            continue
        # The command name may hold anything, so count from its last parenthesis (proc(5)).
        fields = stat[stat.rindex(b")") + 2 :].split()
        found[int(entry.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / TICK)
    return found


def tree(roots: Sequence[int]) -> dict[int, float]:
    """The processes of the trees that begin at `roots`, with their CPU seconds."""
    everything = _parents()
    inside = {pid: everything[pid][1] for pid in roots if pid in everything}
    grown = True
    while grown:
        fresh = {pid: cpu for pid, (parent, cpu) in everything.items() if parent in inside and pid not in inside}
        inside.update(fresh)
        grown = bool(fresh)
    return inside


def cpu_seconds(roots: Sequence[int]) -> float:
    """CPU seconds of whole process trees, children that have ended included.

    A child's time moves to its parent when the parent waits for it, so the sum over the living processes
    loses nothing as long as every process stays below its root.
    """
    return sum(tree(roots).values())


def usage(roots: Sequence[int]) -> Usage:
    """CPU and memory of whole process trees.  PSS counts a page that n processes share as 1/n."""
    inside = tree(roots)
    rss = pss = 0
    for pid in inside:
        try:
            text = Path("/proc", str(pid), "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("Rss:"):
                rss += int(line.split()[1])
            elif line.startswith("Pss:"):
                pss += int(line.split()[1])
    return Usage(sum(inside.values()), rss, pss, len(inside))


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Return when something accepts connections on `port`; raise when `process` ends or time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with status {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port} after {seconds:.0f} seconds")


def start(
    command: Sequence[str], log: Path, *, stdout: int | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server in a session (and process group) of its own, its words in `log`."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out if stdout is None else stdout,
            stderr=out,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
    share_priority(process.pid)
    return process


def share_priority(pid: int) -> None:
    """Give the session of `pid` our own nice value, so that `nice -n -10 make bench` holds for servers as well.

    Where the kernel shares the processor among sessions (sched(7), autogroup), the nice value of a process counts
    within its session only.
    """
    value = os.getpriority(os.PRIO_PROCESS, 0)
    if value:
        with contextlib.suppress(OSError):
            Path("/proc", str(pid), "autogroup").write_text(str(value), encoding="ascii")


def stop(process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """End a server and everything below it: SIGTERM, then SIGKILL to what is left of its tree."""
    below = list(tree([process.pid]))
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    deadline = time.monotonic() + 5
    for pid in below:
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        if _alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # an orphan that became our child is ours to bury
            os.waitpid(pid, os.WNOHANG)


def _alive(pid: int) -> bool:
    try:
        return b") Z " not in Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return False


def filesystem_of(folder: Path) -> str:
    """The type of the filesystem under `folder`: on one in memory, fsync costs nothing."""
    best, kind = "", "?"
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, fstype, *_ = line.split()
        inside = point == "/" or str(folder.resolve()).startswith(point + "/") or str(folder) == point
        if inside and len(point) >= len(best):
            best, kind = point, fstype
    return kind


def require_real_disk(folder: Path) -> None:
    """Refuse a filesystem in memory: a server that syncs would be compared with nothing."""
    kind = filesystem_of(folder)
    if kind in UNSYNCED_FILESYSTEMS:
        raise BenchError(
            f"{folder} lies on {kind}, where fsync does nothing; choose a folder on a disk with --work DIR"
        )


def syncs_per_second(folder: Path, seconds: float = 0.5) -> float:
    """How many appends of 4 KiB with fdatasync the disk does: the yardstick beside which figures stand."""
    block = b"x" * 4096
    count = 0
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            count += 1
    return count / passed


def describe(folder: Path) -> dict[str, object]:
    """The machine in the results: figures of different machines are never compared."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "filesystem": filesystem_of(folder),
        "fdatasync_per_second": round(syncs_per_second(folder)),
        "load_average": os.getloadavg()[0],
    }
