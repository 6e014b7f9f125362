"""The audit trail: who changed what, and every refusal by policy, in one structured line each.

Refusals come by the thousand and go into the log: `refusal`. Changes that an administrator makes are few and must not
be lost: `Trail` appends them to `audit.log` in the data directory, one JSON object on a line, and syncs the file.
Callers pass no secrets.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from posthouse.observe.log import Log, render_json

FILE: Final = "audit.log"


class Record(Protocol):
    """Writes down one change. Never raises."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def no_record(event: str, /, **fields: object) -> None:
    """Where nobody wants to know."""


def audit(log: Log, event: str, /, **fields: object) -> None:
    """Tells the log of something that belongs into an audit; the field `audit` makes such lines easy to find."""
    log.info(event, audit=True, **fields)


def refusal(log: Log, *, what: str, why: str, peer: str, who: str = "", rule: str = "", **fields: object) -> None:
    """A refusal by policy: what was asked, why it is refused, from where, by which login and by which rule."""
    audit(log, "policy_refused", what=what, why=why, peer=peer, login=who, rule=rule, **fields)


class Trail:
    """The file of changes. `who` made them, `origin` says by which way ("cli")."""

    __slots__ = ("_clock", "_failed", "_origin", "_path", "_who")

    def __init__(
        self,
        directory: Path,
        *,
        who: str,
        origin: str,
        failed: Callable[[OSError], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = directory / FILE
        self._who = who
        self._origin = origin
        self._failed = failed
        self._clock = clock

    def record(self, event: str, /, **fields: object) -> None:
        """Writes one line, on the disk on return. A fault is told to `failed`: the change itself was made."""
        now = self._clock()
        second = int(now)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{int((now - second) * 1000):03}Z"
        line = render_json(stamp, "info", event, {"audit": True, "who": self._who, "from": self._origin}, fields, "")
        try:
            _append(self._path, line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            self._failed(error)


def _append(path: Path, octets: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, octets)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def system_user() -> str:
    """Who runs this program: the system's name of the user, and who that was before sudo."""
    if sys.platform == "win32":
        return os.environ.get("USERNAME", "unknown")
    import pwd

    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = str(number)
    before = os.environ.get("SUDO_USER", "") if number == 0 else ""
    return f"{name} (sudo by {before[:64]})" if before else name
