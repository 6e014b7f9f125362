"""`posthouse outbox run --watch`: attempts when they are due, until somebody ends it; and its systemd unit."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.outboxing import Runner, Trial

LOOK: Final = 5.0  # seconds between two looks into the outbox: so soon a letter of `send --queue` leaves
ASK: Final = 600.0  # seconds between two times that a password that was not there is looked for again
SWEEP: Final = 3600.0  # seconds between two times that old records are removed


def watch(runner: Runner, tell: Callable[[Trial], None]) -> int:
    """Runs until SIGTERM or Ctrl-C; an attempt under way is finished first."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    swept = asked = 0.0
    told: dict[str, str] = {}
    while not over.is_set():
        runner.away.clear()
        now = time.time()
        if now - asked > ASK:
            runner.keys.forget_missing()
            asked = now
        letters, damaged = runner.outbox.list(now)
        for name, why in damaged.items():
            if told.get(name) != why:
                told[name] = why
                print(f"posthouse outbox: the letter {name} is damaged: {why}", file=sys.stderr)
        for waiting in sorted((w for w in letters if w.is_due(now)), key=lambda w: w.due or 0.0):
            if over.is_set():
                break
            for trial in runner.run([waiting.id]):
                # A letter without a password stays due: it is told once, not every few seconds.
                if trial.report is not None or told.get(waiting.id) != trial.text:
                    told[waiting.id] = trial.text
                    tell(trial)
        if now - swept > SWEEP:
            runner.outbox.sweep(now)
            swept = now
        over.wait(LOOK)
    return Exit.OK


def refuse_others(folder: Path) -> None:
    """Raises Problem where a program that was started by another one would run somebody else's outbox: a server that
    root started with a person's HOME would run that person's password commands as root."""
    if os.name != "posix":
        return
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.stat().st_uid != os.geteuid():
        text = f"{folder} belongs to somebody else, whose outbox is theirs to run: posthouse outbox run --watch."
        raise Problem(Exit.NO_PERMISSION, text, stage="outbox")


def end_with_input() -> None:
    """Has this process get SIGTERM when its standard input ends: whoever holds the other end is there no more."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


UNIT: Final = """\
# Made by `posthouse outbox unit`. Put it into ~/.config/systemd/user/posthouse-outbox.service
[Unit]
Description=Posthouse: letters that wait in the outbox

[Service]
Type=exec
ExecStart={command} outbox run --watch
Restart=on-failure
RestartSec=30
# An attempt under way is finished first; a session may take its time at the end of a large letter.
TimeoutStopSec=660
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


def unit_text() -> str:
    """The unit, with the command that this installation is called by."""
    from posthouse.app.unit import word_of

    command = Path(sys.argv[0]).absolute()
    words = [str(command)] if os.access(command, os.X_OK) else [sys.executable, "-m", "posthouse.cli.main"]
    return UNIT.format(command=" ".join(map(word_of, words)))
