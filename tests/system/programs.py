"""Finding the programs nobody here wrote, and naming those that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

left_out: dict[str, list[str]] = {}
"""What was not to be had on this machine, each with the tests that wanted it; printed at the end of a run."""


def leave_out(what: str) -> NoReturn:
    """Ends a test that this machine cannot carry out, and has it named at the end of the run."""
    left_out.setdefault(what, []).append(os.environ.get("PYTEST_CURRENT_TEST", ""))
    pytest.skip(f"left out: {what}")


def find_program(name: str) -> str:
    """The path of a program. Where it is missing, the test that asks is named as left out; in CI it fails."""
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed: tools/packages.txt lacks it, or its installation failed")
    leave_out(f"{name} is not installed (as root: make test APT=1)")


def run_program(
    command: list[str], *, folder: Path, stdin: bytes = b"", timeout: float = 150, codes: tuple[int, ...] = (0,)
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program with a home of its own, so that no configuration of this machine's users is read."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(folder),
    }
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, env=environment, cwd=folder)
    if done.returncode not in codes:
        said = (done.stdout + b"\n" + done.stderr).decode(errors="replace")[-3000:]
        raise AssertionError(f"{command[0]} ended with {done.returncode}: {said}")
    return done
