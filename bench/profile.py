"""`python -m bench.profile W1`: where Posthouse spends its time in one workload, with py-spy.

Needs py-spy beside this Python (`pip install py-spy`).  Prints the functions with the most samples, by themselves and
with what they call.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import generator, onward
from bench.machine import BenchError
from bench.posthouse import Posthouse
from bench.workloads import Workload, workloads

SAMPLES_PER_SECOND = 500


def record(workload: Workload, folder: Path, command: list[str], *, native: bool, scale: float) -> Path:
    """Run a workload against Posthouse under py-spy; return its raw samples (one line a stack)."""
    server = Posthouse(folder, command, folder)
    raw = folder / "samples.txt"
    try:
        server.start(workload.mailboxes, letters=workload.letters, size=workload.size, filled=workload.filled)
        if workload.prepare is not None:
            workload.prepare(server)
        words = [str(Path(sys.executable).parent / "py-spy"), "record", "--format", "raw", "--output", str(raw)]
        words += ["--rate", str(SAMPLES_PER_SECOND), "--threads", "--pid", str(server.roots()[0])]
        words += ["--native"] if native else ["--nonblocking"]
        with (folder / "py-spy.log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as spy:
            time.sleep(1.0)  # until it has attached; it says so on no channel
            sample = workload.measure(server, max(1, int(workload.ours * scale)))
            spy.send_signal(signal.SIGINT)
            spy.wait(60)
        print(f"{workload.key}: {sample.figure:,.0f} {workload.unit}, {sample.cpu_us:,.0f} us CPU each, under py-spy")
    finally:
        server.stop()
    if not raw.exists():
        raise BenchError(f"py-spy wrote nothing: {(folder / 'py-spy.log').read_text(errors='replace')}")
    return raw


def hottest(raw: Path, lines: int) -> str:
    """The functions with the most samples: by themselves, and with what they call."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in raw.read_text(encoding="utf-8", errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
        total += int(count)
    text = [f"{total} samples", "", "by itself"]
    text += [f"  {100 * n / total:5.1f} %  {name}" for name, n in alone.most_common(lines)]
    text += ["", "with what it calls"]
    text += [f"  {100 * n / total:5.1f} %  {name}" for name, n in within.most_common(lines)]
    return "\n".join(text)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("workload", choices=[workload.key for workload in [*workloads(), *onward.workloads()]])
    parser.add_argument("--lines", type=int, default=40, metavar="N", help="how many functions to print")
    parser.add_argument("--scale", type=float, default=2.0, metavar="X", help="X times the messages of the workload")
    parser.add_argument("--native", action="store_true", help="C functions too; slows the server down")
    parser.add_argument("--posthouse", default="", metavar="CMD", help="how to call posthouse")
    parser.add_argument("--raw", type=Path, default=None, metavar="FILE", help="keep the raw samples here")
    found = parser.parse_args()
    workload = next(w for w in [*workloads(), *onward.workloads()] if w.key == found.workload)
    try:
        generator.build()
        with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as name:
            command = (
                shlex.split(found.posthouse) if found.posthouse else [str(Path(sys.executable).parent / "posthouse")]
            )
            raw = record(workload, Path(name), command, native=found.native, scale=found.scale)
            print(hottest(raw, found.lines))
            if found.raw is not None:
                found.raw.write_bytes(raw.read_bytes())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
