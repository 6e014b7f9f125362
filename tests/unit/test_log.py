"""The log: what its lines look like, that hostile values stay harmless, and that it never stands in mail's way."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.config.schema import LogSettings
from posthouse.observe.log import MOST_LINES, LogFile, QuietLog, Sink, render_json, render_text

NOW = 1772432104.0625  # 2026-03-02T06:15:04.062Z


class Lines(list[str]):
    """A sink's lines."""

    def sink(self, **settings: str) -> Sink:
        return Sink(self.append, LogSettings(**settings), lambda: NOW)


def test_a_line_for_people() -> None:
    lines = Lines()
    lines.sink().emit("info", "listening", {"protocol": "smtp"}, {"address": "::1", "port": 25, "tls": False}, "")
    assert lines == ["2026-03-02T06:15:04.062Z info    listening protocol=smtp address=::1 port=25 tls=false\n"]


def test_a_line_for_programs() -> None:
    lines = Lines()
    lines.sink(format="json").emit("error", "x", {"a": 1}, {"b": Path("/y"), "c": None})
    assert json.loads(lines[0]) == {
        "time": "2026-03-02T06:15:04.062Z",
        "level": "error",
        "event": "x",
        "a": 1,
        "b": "/y",
        "c": None,
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('a"b\\', '"a\\"b\\\\"'),
        ("a=b", '"a=b"'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\x9b31m", '"\\u009b31m"'),
        ("\u202egnp.exe", '"\\u202egnp.exe"'),
        ("Анна", '"Анна"'),
        ("\udcff", '"\\udcff"'),
        (0.0031234567, "0.00312346"),
        (None, "-"),
        (True, "true"),
        (10**100, "0x"),
    ],
)
def test_values_stay_on_their_line_and_move_no_terminal(value: object, shown: str) -> None:
    line = render_text("t", "info", "e", {}, {"v": value}, "")
    assert line.partition(" v=")[2].startswith(shown)
    assert line.count("\n") == 1


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text() | st.integers() | st.floats() | st.binary()))
def test_whatever_is_logged_is_one_valid_line(fields: dict[str, object]) -> None:
    for line in (render_json("t", "info", "e", {}, fields, ""), render_text("t", "info", "e", {}, fields, "")):
        assert line.endswith("\n")
    json.loads(render_json("t", "info", "e", {}, fields, ""))


def test_long_values_are_cut() -> None:
    assert len(render_text("t", "info", "e", {}, {"v": "x" * 1_000_000}, "")) < 2100


def test_a_lone_surrogate_or_a_huge_number_do_not_break_json() -> None:
    line = render_json("t", "info", "e", {}, {"a": "\udcff", "b": 10**5000}, "")
    assert json.loads(line)["a"] == '"\\udcff"'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def test_levels_and_bound_fields(pipe: tuple[int, int]) -> None:
    read, write = pipe
    file = LogFile(LogSettings(level="warning"), fd=write, clock=lambda: NOW)
    bound = file.log.bind(session=7)
    bound.debug("no")
    bound.info("no")
    bound.warning("yes", a=1)
    bound.bind(b=2).error("yes")
    assert file.flush()
    file.configure(LogSettings(level="debug"))
    bound.debug("now")
    file.close()
    assert [line.split(" ", 1)[1] for line in os.read(read, 9999).decode().splitlines()] == [
        "warning yes session=7 a=1",
        "error   yes session=7 b=2",
        "debug   now session=7",
    ]


def test_a_traceback_follows_its_line(pipe: tuple[int, int]) -> None:
    read, write = pipe
    file = LogFile(LogSettings(), fd=write)
    try:
        raise ValueError("bad\x1b[2J")
    except ValueError:
        file.log.exception("session_failed", peer="192.0.2.1:5")
    file.close()
    head, *trace = os.read(read, 99999).decode().splitlines()
    assert head.endswith("error   session_failed peer=192.0.2.1:5")
    assert all(line.startswith("    ") for line in trace)
    assert trace[-1] == '    "ValueError: bad\\u001b[2J"'


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    """Catalogue X17: would catch a log that raises or blocks when its disk is full."""
    full = os.open("/dev/full", os.O_WRONLY)
    file = LogFile(LogSettings(), fd=full)
    for _ in range(5):
        file.log.info("accepted")
    assert file.flush()
    assert file.lost == 5
    file.close()
    os.close(full)


def test_lost_lines_are_told_of_when_there_is_room_again(tmp_path: Path) -> None:
    file = LogFile(LogSettings(), fd=_full())
    file.log.info("lost")
    file.log.info("lost")
    assert file.flush()
    os.dup2(_new(tmp_path / "log"), file._writer._fd)
    file.log.info("kept")
    file.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["warning log_lines_lost count=2", "info    kept"]
    assert file.lost == 0


def _full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT)


def test_a_reader_that_went_away(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    file = LogFile(LogSettings(), fd=write)
    file.log.info("x")
    assert file.flush()
    assert file.lost == 1
    file.close()


def test_a_pipe_that_nobody_reads_blocks_nobody(pipe: tuple[int, int]) -> None:
    read, write = pipe
    file = LogFile(LogSettings(), fd=write)
    begin = time.thread_time()
    for _ in range(MOST_LINES * 2):
        file.log.info("accepted", text="x" * 100)  # one that waited for the pipe would wait for ever
    assert time.thread_time() - begin < 5
    assert not file._writer.flush(0.05)
    assert len(file._writer._lines) <= MOST_LINES + 1
    assert file.lost > 0
    collected = bytearray()
    reader = threading.Thread(target=_read_all, args=(read, collected))
    reader.start()
    assert _until(file.flush)
    file.log.info("last")
    file.close()
    os.close(write)
    reader.join()
    assert b"log_lines_lost count=" in collected
    assert collected.endswith(b"last\n")


def _read_all(fd: int, into: bytearray) -> None:
    while octets := os.read(fd, 65536):
        into += octets


def _until(done: Callable[[], bool]) -> bool:
    return any(done() for _ in range(20))


def test_a_torn_line_is_ended_before_the_next(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(write, False)
    file = LogFile(LogSettings(), fd=write)
    file.log.info("a", text="x")
    line = "y" * 70_000
    file._writer.put(line + "\n")  # more than a pipe holds
    assert _until(file.flush)
    taken = os.read(read, 100_000)
    file.log.info("after")
    file.close()
    taken += os.read(read, 100_000)
    assert b"y\n20" in taken
    assert taken.rstrip().endswith(b"after")
    assert b"log_lines_lost count=1" in taken


def test_the_file_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(LogSettings(file=str(path)))
    file.log.info("first")
    assert file.flush()
    path.rename(tmp_path / "log.1")
    file.configure(LogSettings())
    file.log.info("second")
    file.close()
    assert "first" in (tmp_path / "log.1").read_text()
    assert path.read_text().endswith("second\n")
    assert "first" not in path.read_text()


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        LogFile(LogSettings(file=str(tmp_path / "no" / "log")))


def test_warnings_of_libraries_come_into_the_log(pipe: tuple[int, int]) -> None:
    read, write = pipe
    file = LogFile(LogSettings(), fd=write)
    file.adopt_standard()
    logging.getLogger("asyncio").error("Task %s\nfailed", 5)
    logging.getLogger("asyncio").info("unimportant")
    file.close()
    logging.getLogger("asyncio").error("after the end")
    text = os.read(read, 9999).decode()
    assert 'error   python logger=asyncio text="Task 5\\nfailed"' in text
    assert text.count("\n") == 1


def test_a_quiet_log_takes_everything() -> None:
    log = QuietLog().bind(a=1)
    for say in (log.debug, log.info, log.warning, log.error, log.exception):
        say("x", y=2)
