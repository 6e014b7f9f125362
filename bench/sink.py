"""The end of the way of letters that are carried on: Postfix's `smtp-sink`, which takes everything and counts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

from bench.machine import BenchError, free_port, share_priority, stop, wait_for_port

PROGRAM = "/usr/sbin/smtp-sink"
_COUNT = re.compile(rb"mesg=(\d+)")


def is_here() -> bool:
    """Whether the program is installed."""
    return shutil.which(PROGRAM) is not None


class Sink:
    """One running sink; `taken` is how many letters it has answered 250 to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.taken = 0
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [PROGRAM, "-c", *user, f"127.0.0.1:{self.port}", "1000"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # so that it holds no pipe of ours when the bench is killed
            start_new_session=True,
            cwd=Path("/"),
        )
        share_priority(self._process.pid)
        threading.Thread(target=self._read, daemon=True).start()
        wait_for_port(self.port, self._process)

    def _read(self) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        rest = b""
        while piece := os.read(descriptor, 262_144):
            rest = (rest + piece)[-400:]
            if found := _COUNT.findall(rest[: rest.rfind(b"\r") + 1] or rest):
                self.taken = int(found[-1])

    def wait(self, count: int, seconds: float = 300.0) -> None:
        """Returns when it has so many letters; more are an error: something was sent twice."""
        deadline = time.monotonic() + seconds
        while self.taken < count:
            if time.monotonic() > deadline:
                raise BenchError(f"the sink has {self.taken} letters of {count} after {seconds:.0f} seconds")
            time.sleep(0.005)
        if self.taken > count:
            raise BenchError(f"the sink has {self.taken} letters, {count} were sent")

    def stop(self) -> None:
        """Ends it."""
        stop(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()
