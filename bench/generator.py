"""Builds and drives the load generator (load.c)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.machine import BenchError

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "load.c"
BUILD = HERE / "build"

DOMAIN = "x.mail"
PASSWORD = "bench-password"


def user(number: int) -> str:
    """The address of mailbox `number`, as load.c writes it."""
    return f"u{number:05d}@{DOMAIN}"


@dataclass(slots=True)
class Load:
    """What the generator says about one run."""

    count: int
    seconds: float
    per_second: float
    octets: int
    mb_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    connections: int
    own_cpu_seconds: float


def build() -> Path:
    """Compile load.c unless that is done already; return the program."""
    program = BUILD / "load"
    if program.exists() and program.stat().st_mtime >= SOURCE.stat().st_mtime:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("The bench needs a C compiler: on Debian, `apt-get install gcc libc6-dev`.")
    BUILD.mkdir(exist_ok=True)
    command = [compiler, "-O2", "-Wall", "-Wextra", "-std=gnu11", "-o", str(program), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr}")
    return program


def run(
    mode: str,
    port: int,
    *,
    at_ready: Callable[[], None] | None = None,
    at_done: Callable[[], None] | None = None,
    domain: str = DOMAIN,
    options: Mapping[str, int],
) -> Load:
    """Run the generator to its end; `at_ready` and `at_done` are called while every session waits."""
    words = [str(build()), mode, f"port={port}", f"domain={domain}", f"password={PASSWORD}"]
    words += [f"{name}={value}" for name, value in options.items()]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        report = ""
        for line in process.stdout:
            calls = {"ready\n": at_ready, "done\n": at_done}
            if line not in calls:
                report = line
                continue
            call = calls[line]
            if call is not None:
                call()
            process.stdin.write("\n")
            process.stdin.flush()
        words_of_woe = process.stderr.read()
    if process.returncode != 0:
        raise BenchError(f"The load generator stopped: {words_of_woe.strip()}")
    figures = json.loads(report)
    del figures["mode"]
    return Load(**figures)
