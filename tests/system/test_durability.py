"""The picture of docs/explanation/durability.md is true: the system calls of a real server, in that order."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.durability import LANES

from tests.system.programs import find_program, leave_out
from tests.system.raw import collect, deliver
from tests.system.server import READER, Server, serving, wait_for

CALLS = "fsync,fdatasync,pwrite64,write,rename,unlink,sendto"
_STEPS = (
    ("write wal", re.compile(r"pwrite64\(\d+<\S+/posthouse\.db-wal>")),
    ("sync wal", re.compile(r"fdatasync\(\d+<\S+/posthouse\.db-wal>")),
    ("write staged", re.compile(r"write\(\d+<\S+/staging/")),
    ("sync staged", re.compile(r"fsync\(\d+<\S+/staging/")),
    ("rename", re.compile(r'rename\("\S+/staging/\S+", "\S+/content/')),
    ("sync folder", re.compile(r"fsync\(\d+<\S+/content/\w\w>")),
    ("unlink", re.compile(r'unlink\("\S+/content/')),
    ("reply 250", re.compile(r'sendto\(\d+<socket:\[\d+\]>, "250 2\.0\.0 Queued')),
    ("reply +OK", re.compile(r'sendto\(\d+<socket:\[\d+\]>, "\+OK POP3 server saying goodbye')),
)


@pytest.fixture
def traced(prepared: Path, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server, and the file into which strace writes what it asks of the kernel. asyncio's own loop, whose replies are
    to be told from its other writes."""
    strace = find_program("strace")
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    (data / "posthouse.toml").write_text("[store]\nundelete = 0\n")  # nobody waits a week here
    with serving(data, "smtp", "pop3", environment={"POSTHOUSE_LOOP": "asyncio"}) as server:
        words = tmp_path / "strace"
        command = [strace, "-f", "-y", "-s", "40", "-e", f"trace={CALLS}", "-o", str(words)]
        process = subprocess.Popen([*command, "-p", str(server.process.pid)], stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            if b"attached" not in process.stderr.readline():
                leave_out("this machine lets nobody trace a process")
            yield server, words
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)


def steps(words: Path, since: int) -> list[str]:
    """What happened, each step once for as long as it goes on."""
    found: list[str] = []
    for line in words.read_text(errors="replace").splitlines()[since:]:
        step = next((name for name, form in _STEPS if form.search(line)), None)
        if step is not None and found[-1:] != [step]:
            found.append(step)
    return found


def expected(lane: int) -> list[str]:
    return [step.call for step in LANES[lane].steps if step.call]


def test_the_picture_shows_what_the_kernel_is_asked(traced: tuple[Server, Path]) -> None:
    """Would catch a reply before its sync, a name in a folder that is not synced, a file unlinked before the COMMIT
    that forgets it - and a picture that says so no more."""
    server, words = traced
    deliver(server.smtp, [READER], b"Subject: the first\r\n\r\nbegins a new log\r\n")
    for lane, content in enumerate((b"small\r\n", b"large, of many lines\r\n" * 20_000)):
        wait_for(lambda: "reply 250" in steps(words, 0), words.read_text)
        since = len(words.read_text(errors="replace").splitlines())
        assert deliver(server.smtp, [READER], b"Subject: x\r\n\r\n" + content).startswith(b"250")
        wait_for(lambda since=since: "reply 250" in steps(words, since), words.read_text)  # type: ignore[misc]
        found = steps(words, since)
        assert found[: found.index("reply 250") + 1] == expected(lane)
    since = len(words.read_text(errors="replace").splitlines())
    assert len(collect(server.pop3, READER)) == 3
    wait_for(lambda: {"unlink", "reply +OK"} <= set(steps(words, since)), words.read_text)
    found = steps(words, since)
    wanted = expected(2)
    # The file goes while the reply is on its way: which of the two is first is not promised.
    assert [step for step in found if step != "unlink"][: len(wanted) - 1] == wanted[:-1]
    assert found.index("sync wal") < found.index("unlink")
