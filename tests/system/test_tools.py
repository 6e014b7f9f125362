"""What `make run` and `make test` say on machines that lack something; the lacks are made up with a PATH of stubs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.programs import find_program

ROOT = Path(__file__).parents[2]
SH = shutil.which("sh") or "/bin/sh"


def stub(folder: Path, name: str, script: str) -> None:
    """A program of this name that runs a few lines of shell."""
    file = folder / name
    file.write_text(f"#!{SH}\n{script}\n")
    file.chmod(0o755)


def python_stub(folder: Path, name: str, version: str, *, venv: bool) -> None:
    """A Python of this version as far as tools/python.sh looks at it."""
    stub(folder, name, f'case "$2" in *ensurepip*) exit {0 if venv else 1} ;; *) echo {version} ;; esac')


def run_tool(
    name: str, *arguments: str, path: Path | str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script of tools/ with this PATH and nothing else of ours."""
    return subprocess.run(
        [SH, str(ROOT / "tools" / name), *arguments],
        env={"PATH": str(path), "HOME": os.environ.get("HOME", "/"), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=50,
        stdin=subprocess.DEVNULL,
    )


def test_newest_python_is_taken(tmp_path: Path) -> None:
    """3.9 sorts after 3.13 as a text, and a version manager's stub is no Python."""
    stub(tmp_path, "python3.13", "exit 127")
    python_stub(tmp_path, "python3.12", "3.12", venv=True)
    python_stub(tmp_path, "python3.11", "3.11", venv=True)
    python_stub(tmp_path, "python3", "3.9", venv=True)
    assert run_tool("python.sh", path=tmp_path).stdout == "python3.12\n"


def test_named_python_is_taken(tmp_path: Path) -> None:
    """`make run PYTHON=...` has the first word."""
    python_stub(tmp_path, "python3.12", "3.12", venv=True)
    python_stub(tmp_path, "mine", "3.11", venv=True)
    assert run_tool("python.sh", path=tmp_path, environment={"PYTHON": "mine"}).stdout == "mine\n"


def test_python_is_too_old(tmp_path: Path) -> None:
    """It says which version is there and which is needed."""
    python_stub(tmp_path, "python3", "3.9", venv=True)
    done = run_tool("python.sh", path=tmp_path)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "python3 is 3.9" in done.stderr


def test_venv_is_missing(tmp_path: Path) -> None:
    """Debian parts the venv module from Python: the package is named."""
    python_stub(tmp_path, "python3", "3.11", venv=False)
    done = run_tool("python.sh", path=tmp_path)
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert "python3.11-venv" in done.stderr


def test_python_is_missing(tmp_path: Path) -> None:
    """No Python at all."""
    done = run_tool("python.sh", path=tmp_path)
    assert done.returncode == 1
    assert "no Python was found" in done.stderr


def test_network_is_missing(tmp_path: Path) -> None:
    """pip that reaches no index: what to do is said, and the next call tries again."""
    lost = {
        "VENV": str(tmp_path / "venv"),
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "2",
        "PIP_NO_CACHE_DIR": "1",
    }
    for _ in range(2):
        done = run_tool("prepare.sh", "run", path=os.environ["PATH"], environment=lost)
        assert done.returncode != 0
        assert "could not be fetched" in done.stderr
        assert "PIP_FIND_LINKS" in done.stderr
        assert "Traceback" not in done.stderr


def test_missing_programs_are_named(tmp_path: Path) -> None:
    """Without root or without being asked, nothing is installed and the packages are named."""
    packages = tmp_path / "packages.txt"
    packages.write_text("# a comment\nsh sh\nno-such-program its-package\nno-such-other other-package\n")
    stub(tmp_path, "apt-get", f"touch {tmp_path}/called")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run_tool("packages.sh", path=path, environment={"PACKAGES": str(packages)})
    assert done.returncode == 0
    assert "its-package other-package" in done.stdout
    assert "make test APT=1" in done.stdout
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 0\n"], ids=["none", "its own"])
@pytest.mark.parametrize("asked", ["CI", "APT"])
def test_programs_are_installed_without_starting_services(tmp_path: Path, before: str | None, asked: str) -> None:
    """While apt-get runs, the policy forbids every start; afterwards the machine's own policy is back."""
    packages = tmp_path / "packages.txt"
    packages.write_text("no-such-program its-package\n")
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)
    stub(tmp_path, "id", "echo 0")
    stub(tmp_path, "apt-get", f'echo "$@" >>{tmp_path}/calls; sh {policy} x start; echo "policy $?" >>{tmp_path}/calls')
    environment = {"PACKAGES": str(packages), "POLICY": str(policy), asked: "1"}
    done = run_tool("packages.sh", path=f"{tmp_path}:{os.environ['PATH']}", environment=environment)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert re.findall(r"policy (\d+)", calls) == ["101", "101"]
    assert "update" in calls
    assert "install -y --no-install-recommends its-package" in calls
    assert (policy.read_text() if policy.exists() else None) == before
    assert not policy.with_name("policy-rc.d.before-posthouse").exists()


def test_scripts_are_clean() -> None:
    """shellcheck finds nothing in the scripts."""
    scripts = [str(file) for file in [*(ROOT / "tools").glob("*.sh"), ROOT / ".ci" / "run"]]
    done = subprocess.run([find_program("shellcheck"), *scripts], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout


def test_every_program_has_its_package() -> None:
    """A program that a test asks for stands in tools/packages.txt, so that CI installs it."""
    listed = {line.split()[0] for line in (ROOT / "tools/packages.txt").read_text().splitlines() if line[:1] != "#"}
    asked: set[str] = set()
    for file in (ROOT / "tests").rglob("*.py"):
        asked |= set(re.findall(r'find_program\("([^"]+)"\)', file.read_text()))
    assert asked - listed == set()


def test_pins_are_exact() -> None:
    """constraints.txt names one version of everything, no address and no editable project."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
