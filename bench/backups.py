"""How much a backup delays the letters that come in beside it: `python -m bench.backups`.

A server with 10,000 letters of 4 KiB takes W1's letters (20 sessions, a connection each), in turn alone and while first
backups of the whole store are made one after the other beside it, with `nice -n 15` as the how-to has it. The figures
are medians over the rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import generator
from bench.generator import Load
from bench.posthouse import Posthouse

MAILBOXES = 100
LETTERS = 100  # in each


class Backups:
    """Makes backups of a data directory beside its server until it is stopped."""

    def __init__(self, command: list[str], data: Path, folder: Path) -> None:
        self._command = ["nice", "-n", "15", *command, "--data", str(data), "backup", "create"]
        self._folder = folder
        self._stop = threading.Event()
        self.seconds: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            subprocess.run([*self._command, str(self._folder)], check=True, capture_output=True)
            self.seconds.append(time.monotonic() - began)
            shutil.rmtree(self._folder)  # each one is a first one, which writes everything

    def stop(self) -> None:
        """Waits for the end of the one under way."""
        self._stop.set()
        self._thread.join()


def measure(server: Posthouse, count: int) -> Load:
    """W1."""
    options = {"messages": count, "mailboxes": MAILBOXES, "sessions": 20, "per_connection": 1}
    return generator.run("smtp", server.smtp_port, options=options)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=3000)
    options = parser.parse_args()
    command = [str(Path(sys.executable).with_name("posthouse"))]
    alone: list[Load] = []
    beside: list[Load] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as name:
        folder = Path(name)
        server = Posthouse(folder, command, folder)
        server.start(MAILBOXES, letters=LETTERS)
        try:
            for _ in range(options.rounds):
                alone.append(measure(server, options.messages))
                backups = Backups(command, server.data, folder / "backups")
                beside.append(measure(server, options.messages))
                backups.stop()
                seconds += backups.seconds
        finally:
            server.stop()
    for title, loads in (("alone", alone), ("beside backups", beside)):
        figures = [
            statistics.median(getattr(load, name) for load in loads) for name in ("per_second", "p50_ms", "p99_ms")
        ]
        worst = max(load.max_ms for load in loads)
        print(
            f"{title:15} {figures[0]:6.0f}/s  p50 {figures[1]:5.1f} ms  p99 {figures[2]:6.1f} ms  max {worst:6.1f} ms"
        )
    print(f"a backup took {statistics.median(seconds):.2f} s (median of {len(seconds)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
