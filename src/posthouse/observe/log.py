"""The log: one line for each decision that an administrator would ask about; never a secret, never in the way.

A line is made by whoever logs, in a few microseconds, and written by a thread of its own, many lines at once. So
a full disk, a lost file system or a pipe that nobody reads costs log lines and never mail: lines that cannot be
written are counted, and the count is logged as soon as something can be written again.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from posthouse.config.schema import LogSettings

MOST_LINES: Final = 10_000  # lines that wait to be written; at 5,000 letters a second the work of two seconds
PAUSE: Final = 0.02  # seconds between two writes, in which lines are collected
LONGEST: Final = 2_000  # characters of one value
TRACEBACK_LINES: Final = 60
PATIENCE: Final = 1.0  # seconds to wait for a pipe that is full before its lines are given up

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
LEVELS: Final[Mapping[str, int]] = MappingProxyType({"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR})


class Log(Protocol):
    """Where events are told. `event` is a name in small letters with underscores; the fields say the rest.

    Never raises, never waits. Callers pass no secrets.
    """

    def debug(self, event: str, /, **fields: object) -> None:
        """For whoever looks for a fault in the program."""
        ...

    def info(self, event: str, /, **fields: object) -> None:
        """An ordinary decision, such as a letter accepted."""
        ...

    def warning(self, event: str, /, **fields: object) -> None:
        """Something an administrator should know."""
        ...

    def error(self, event: str, /, **fields: object) -> None:
        """Something an administrator should do something about."""
        ...

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        ...

    def bind(self, **fields: object) -> Log:
        """A log whose every line has these fields too."""
        ...


class BoundLog:
    """The log of one part of the program: its own fields and the common sink."""

    __slots__ = ("_fields", "_sink")

    def __init__(self, sink: Sink, fields: Mapping[str, object]) -> None:
        self._sink = sink
        self._fields = fields

    def debug(self, event: str, /, **fields: object) -> None:
        if self._sink.level <= DEBUG:
            self._sink.emit("debug", event, self._fields, fields)

    def info(self, event: str, /, **fields: object) -> None:
        if self._sink.level <= INFO:
            self._sink.emit("info", event, self._fields, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        if self._sink.level <= WARNING:
            self._sink.emit("warning", event, self._fields, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._sink.emit("error", event, self._fields, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        self._sink.emit("error", event, self._fields, fields, _traceback())

    def bind(self, **fields: object) -> BoundLog:
        return BoundLog(self._sink, {**self._fields, **fields})


class QuietLog:
    """A log that keeps nothing."""

    __slots__ = ()

    def debug(self, event: str, /, **fields: object) -> None: ...
    def info(self, event: str, /, **fields: object) -> None: ...
    def warning(self, event: str, /, **fields: object) -> None: ...
    def error(self, event: str, /, **fields: object) -> None: ...
    def exception(self, event: str, /, **fields: object) -> None: ...

    def bind(self, **fields: object) -> QuietLog:
        return self


Render = Callable[[str, str, str, Mapping[str, object], Mapping[str, object], str], str]


class Sink:
    """Makes lines and hands them to the writing thread."""

    __slots__ = ("_clock", "_moment", "_put", "_render", "level")

    def __init__(
        self, put: Callable[[str], None], settings: LogSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._put = put
        self._clock = clock
        self._moment = (0, "")
        self.configure(settings)

    def configure(self, settings: LogSettings) -> None:
        """Takes level and format from new settings; lines from now on follow them."""
        self.level = LEVELS[settings.level]
        self._render: Render = render_json if settings.format == "json" else render_text

    def emit(
        self, level: str, event: str, bound: Mapping[str, object], fields: Mapping[str, object], trace: str = ""
    ) -> None:
        """Logs one line."""
        now = self._clock()
        second = int(now)
        if self._moment[0] != second:
            self._moment = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        stamp = f"{self._moment[1]}.{int((now - second) * 1000):03}Z"
        self._put(self._render(stamp, level, event, bound, fields, trace))


_encode_json: Final = msgspec.json.Encoder(enc_hook=str).encode
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")  # ASCII that is seen, without blank, quote, = and backslash


def render_json(
    stamp: str, level: str, event: str, bound: Mapping[str, object], fields: Mapping[str, object], trace: str
) -> str:
    """One JSON object on a line."""
    line: dict[str, object] = {"time": stamp, "level": level, "event": event, **bound, **fields}
    if trace:
        line["traceback"] = trace
    try:
        return _encode_json(line).decode() + "\n"
    except (ValueError, TypeError, OverflowError, RecursionError):  # a lone surrogate, an int of 100 digits
        return _encode_json({name: _safe(value) for name, value in line.items()}).decode() + "\n"


def render_text(
    stamp: str, level: str, event: str, bound: Mapping[str, object], fields: Mapping[str, object], trace: str
) -> str:
    """Time, level, event and key=value on a line; a traceback follows in lines that begin with a blank."""
    values = {**bound, **fields} if bound else fields
    # Most values are short texts, seen before: they need no further call.
    parts = [
        f"{name}={_shown_text(value) if type(value) is str and len(value) <= 100 else _shown(value)}"
        for name, value in values.items()
    ]
    line = " ".join([f"{stamp} {level:<7} {event}", *parts]) + "\n"
    return line + _indented(trace) if trace else line


def _shown(value: object) -> str:
    if type(value) is int and 0 <= value < 2**63:
        return str(value)
    if isinstance(value, str):
        return _shown_text(value) if len(value) <= 100 else _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):  # one of a million digits costs nothing in this form
        return str(value) if -(2**63) <= value < 2**64 else hex(value)[:LONGEST]
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "-"
    return _text(str(value))


def _text(text: str) -> str:
    if len(text) > LONGEST:
        text = text[: LONGEST - 3] + "..."
    if _PLAIN.fullmatch(text):
        return text
    if text.isprintable():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return encode_basestring_ascii(text)


_shown_text: Final = lru_cache(maxsize=4096)(_text)  # addresses and names come again and again


def _safe(value: object) -> str:
    return _shown(value).encode("ascii", "backslashreplace").decode()


def _indented(trace: str) -> str:
    lines = (line if line.isprintable() else encode_basestring_ascii(line) for line in trace.split("\n"))
    return "".join(f"    {line[:LONGEST]}\n" for line in lines)


def _traceback() -> str:
    lines = traceback.format_exc().rstrip("\n").split("\n")
    return "\n".join(lines if len(lines) <= TRACEBACK_LINES else [lines[0], "...", *lines[-TRACEBACK_LINES + 2 :]])


class Writer:
    """The thread that writes lines to a file descriptor. Its methods are called from any other thread."""

    def __init__(self, path: Path | None = None, *, fd: int | None = None, lost_line: Callable[[int], str]) -> None:
        self._path = path
        self._fd = _open(path) if path is not None else (2 if fd is None else fd)
        self._lost_line = lost_line
        self._lines: deque[str | threading.Event] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._reopen = False
        self._torn = False  # the last line written has no end
        self._overflowed = 0  # lines that found no room: counted by those who log
        self._told = 0  # how many of them were told of
        self._failed = 0  # lines that could not be written: counted by the thread
        self._thread = threading.Thread(target=self._run, name="posthouse-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that could not be written and were not told of yet."""
        return self._overflowed - self._told + self._failed

    def put(self, line: str) -> None:
        """Hands over a line, which ends in a line feed."""
        if len(self._lines) >= MOST_LINES:
            self._overflowed += 1
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Waits until what was logged so far is written, at most `seconds`."""
        done = threading.Event()
        self._lines.append(done)
        self._wake.set()
        return done.wait(seconds)

    def reopen(self) -> None:
        """Opens the file anew before the next line, so that an old one can be moved away (logrotate)."""
        self._reopen = True
        self._wake.set()

    def close(self, seconds: float = PATIENCE) -> None:
        """Writes what is left and ends, after `seconds` at the latest."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            self._drain()
            if not self._closing:
                time.sleep(PAUSE)
        self._drain()
        if self._path is not None:
            os.close(self._fd)

    def _drain(self) -> None:
        if self._reopen:
            self._reopen = False
            self._open_again()
        lines: list[str] = []
        while self._lines:
            item = self._lines.popleft()
            if isinstance(item, str):
                lines.append(item)
            else:
                self._write(lines)
                lines.clear()
                item.set()
        self._write(lines)

    def _open_again(self) -> None:
        if self._path is None:
            return
        try:
            fd = _open(self._path)
        except OSError:  # the old file is better than none
            return
        os.close(self._fd)
        self._fd = fd

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        lost = self._overflowed - self._told + self._failed
        self._told = self._overflowed
        head = ("\n" if self._torn else "") + (self._lost_line(lost) if lost else "")
        pieces = [text.encode("utf-8", "backslashreplace") for text in (head, *lines)]
        size = sum(map(len, pieces))
        written = self._write_octets(b"".join(pieces))
        self._failed = 0
        if written < size:
            whole = _whole(pieces, written)
            self._failed = len(pieces) - max(whole, 1) + (0 if whole else lost)
            self._torn = self._torn if not written else sum(map(len, pieces[:whole])) != written

    def _write_octets(self, octets: bytes) -> int:
        """How many of them could be written."""
        view = memoryview(octets)
        written = 0
        patience = time.monotonic() + PATIENCE
        while written < len(octets):
            try:
                written += os.write(self._fd, view[written:])
            except BlockingIOError:  # a pipe that somebody made non-blocking, and it is full
                if time.monotonic() > patience:
                    return written
                time.sleep(PAUSE)
            except OSError:  # disk full, pipe closed, file system gone: the lines are lost, mail goes on
                return written
        return written


def _whole(pieces: list[bytes], written: int) -> int:
    """How many of the pieces are within the first `written` octets."""
    for count, piece in enumerate(pieces):
        written -= len(piece)
        if written < 0:
            return count
    return len(pieces)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o640)


class LogFile:
    """The log of a running program: `log` for its parts, and what its owner does with it."""

    def __init__(self, settings: LogSettings, *, fd: int | None = None, clock: Callable[[], float] = time.time) -> None:
        """Opens it; `fd` instead of standard error is for tests. Raises OSError when the file cannot be opened."""
        path = Path(settings.file) if settings.file else None
        self._sink = Sink(self._put, settings, clock)
        self._writer = Writer(path, fd=fd, lost_line=self._lost_line)
        self._handler = _StandardHandler(self._sink)
        self.log: Log = BoundLog(self._sink, MappingProxyType({}))

    def _put(self, line: str) -> None:
        self._writer.put(line)

    def _lost_line(self, count: int) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        return self._sink._render(stamp, "warning", "log_lines_lost", {}, {"count": count}, "")

    @property
    def lost(self) -> int:
        """Lines that could not be written and were not told of yet."""
        return self._writer.lost

    def adopt_standard(self) -> None:
        """Takes the warnings of Python's own logging (asyncio, libraries) into this log until `close`."""
        logging.getLogger().addHandler(self._handler)

    def configure(self, settings: LogSettings) -> None:
        """Takes new level and format; the file stays the one it was opened with, but is opened anew."""
        self._sink.configure(settings)
        self._writer.reopen()

    def flush(self) -> bool:
        """Waits, a second at most, until what was logged is written; False when it is not."""
        return self._writer.flush()

    def close(self) -> None:
        """Writes what is left and ends, after a second at the latest."""
        logging.getLogger().removeHandler(self._handler)
        self._writer.close()


class _StandardHandler(logging.Handler):
    """Python's own logging, as lines of ours."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(logging.WARNING)
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a library's format that does not fit its arguments
            text = str(record.msg)
        level = "error" if record.levelno >= logging.ERROR else "warning"
        fields: dict[str, Any] = {"logger": record.name, "text": text}
        trace = ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        self._sink.emit(level, "python", {}, fields, trace)
