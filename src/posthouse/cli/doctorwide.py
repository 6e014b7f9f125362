"""`posthouse doctor` without `--store`: the whole examination, and how it is told."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import CONFIG_NAME, Invocation, default_data, explained

if TYPE_CHECKING:
    from pathlib import Path

    from posthouse.app.health.finding import Finding

WIDEST: Final = 100  # columns
_SHADES: Final = {"ok": "32", "note": "36", "warning": "33", "error": "31"}


@dataclass(slots=True, frozen=True)
class View:
    """How it is told."""

    as_json: bool = False
    verbose: bool = False
    plain: bool = False


def examine(invocation: Invocation, areas: Sequence[str], *, offline: bool, view: View) -> int:
    """Examines, tells what was found and returns the exit code. Raises Problem."""
    began = time.monotonic()
    found = _find(invocation, areas, offline=offline)
    return _tell(found, areas, time.monotonic() - began, view)


def _find(invocation: Invocation, areas: Sequence[str], *, offline: bool) -> list[Finding]:
    from posthouse.app.health import configuration
    from posthouse.app.health.examine import Case, examine, look_around, preload
    from posthouse.config.load import ConfigError
    from posthouse.store import become_owner

    try:
        config, data = invocation.load()
    except Problem as problem:
        if isinstance(problem.__cause__, ConfigError):
            return configuration.wrong(problem.__cause__)
        raise
    case = Case(config, data, _source(invocation), offline=offline, only=areas)
    with explained():
        preload()
        look_around(case)
        become_owner(data)
        return asyncio.run(examine(case))


def _source(invocation: Invocation) -> str:
    file: Path = invocation.config_file or (invocation.data or default_data()) / CONFIG_NAME
    return str(file) if file.is_file() else "there is none, so every setting has its default"


def _tell(found: Sequence[Finding], areas: Sequence[str], seconds: float, view: View) -> int:
    from posthouse.app.health.finding import Level

    bad = sum(finding.level >= Level.WARNING for finding in found)
    code = Exit.NOT_ALL if bad else Exit.OK
    if view.as_json:
        print(_json(found, areas, code, seconds))
        return code
    colour = sys.stdout.isatty() and not view.plain and not os.environ.get("NO_COLOR")
    shown = [finding for finding in found if view.verbose or finding.level > Level.OK]
    for finding in shown:
        for line in _lines(finding, colour=colour):
            print(line)
    well = sum(finding.level == Level.OK for finding in found)
    notes = len(found) - bad - well
    wrong = f"{bad} {'things are' if bad > 1 else 'thing is'} wrong" if bad else "Nothing is wrong"
    print(f"{wrong}; {notes} notes, {well} checks are well ({seconds:.1f} s).")
    return code


def _lines(finding: Finding, *, colour: bool) -> Iterator[str]:
    """The finding with a mark, below it what it means and what to do; each line harmless."""
    from posthouse.mail.charsets import harmless_line

    level = finding.level.name.lower()
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns) - 10
    mark = f"{level:<8}"
    for text in (finding.what, finding.meaning, finding.todo):
        pieces = wrap(harmless_line(text), max(20, width), break_long_words=False, break_on_hyphens=False)
        for piece in pieces:
            painted = f"\x1b[{_SHADES[level]}m{mark}\x1b[0m" if colour and mark.strip() else mark
            yield f"{painted}  {piece}".rstrip()
            mark = " " * 8


def _json(found: Sequence[Finding], areas: Sequence[str], code: Exit, seconds: float) -> str:
    from posthouse.mail.charsets import escape_json

    findings = [
        {
            "id": finding.id,
            "level": finding.level.name.lower(),
            "area": finding.area,
            "what": finding.what,
            "meaning": finding.meaning,
            "todo": finding.todo,
        }
        for finding in found
    ]
    answer: dict[str, Any] = {"ok": code is Exit.OK, "code": int(code), "areas": list(areas), "findings": findings}
    return escape_json(json.dumps(answer | {"seconds": round(seconds, 3)}, ensure_ascii=False))
