"""`posthouse read --dry-run`: what `new` would collect and delete, and what `delete` would. Nothing is changed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from posthouse.cli.collected import Collected
from posthouse.cli.collecting import Collector
from posthouse.cli.exits import Exit
from posthouse.cli.reading import LOOKED_INTO, list_line
from posthouse.cli.targets import name_of

if TYPE_CHECKING:
    from posthouse.cli.collecting import Letter
    from posthouse.cli.reading import Session


async def foresee_new(session: Session) -> Exit:
    """What a run would do with the maildrop as it is. Raises Failure and Problem."""
    access, rules = session.access, session.job.rules
    now = time.time()
    with Collected.peek(access.login, str(access.server), name_of(session.job.target)) as state:
        letters = await Collector(session).letters(state)
        new = [letter for letter in letters if letter.identity not in state]
        coming = [letter for letter in new if rules.takes(letter.size)][: rules.limit]
        leaving = [
            letter
            for letter in letters
            if letter.identity in state and rules.is_due(letter.size, max(0.0, now - state.since(letter.identity)))
        ]
    leaving += [letter for letter in coming if rules.is_due(letter.size, 0)]
    large = sum(not rules.takes(letter.size) for letter in new)
    rows = await _rows(session, coming)
    gone = await _rows(session, leaving)
    session.answer = {"dry_run": True, "messages": rows, "would_delete": gone, "left": large}
    _tell(session, {"Would collect": rows, "Would delete": gone})
    if not (session.job.as_json or session.job.quiet):
        octets = sum(letter.size for letter in coming)
        text = f"Would collect {len(rows)} messages, {octets} octets, and delete {len(gone)}. Nothing was done."
        print(text, file=sys.stderr)
    return Exit.OK if rows or gone else Exit.NOT_ALL


async def foresee_delete(session: Session) -> Exit:
    """What would be removed, of the messages that were named. Raises Failure."""
    sizes = await session.all_sizes()
    ids = await session.ids()
    numbers = list(dict.fromkeys(session.job.numbers))
    headers = await session.headers([number for number in numbers if number in sizes])
    rows: list[dict[str, Any]] = []
    for number in numbers:
        row: dict[str, Any] = {"n": number, "would_delete": number in sizes}
        row |= {"size": sizes[number]} if number in sizes else {}
        rows.append(row | ({"id": ids[number]} if number in ids else {}) | headers.get(number, {}))
    session.answer = {"dry_run": True, "messages": rows}
    found = [row for row in rows if row["would_delete"]]
    _tell(session, {"Would delete": found})
    if not session.job.as_json:
        for row in rows:
            if not row["would_delete"]:
                print(f"There is no message {row['n']}.", file=sys.stderr)
    return Exit.OK if len(found) == len(rows) else Exit.NOT_ALL if found else Exit.UNAVAILABLE


async def _rows(session: Session, letters: list[Letter]) -> list[dict[str, Any]]:
    headers = await session.headers([letter.number for letter in letters[-LOOKED_INTO:]])
    rows: list[dict[str, Any]] = [{"n": one.number, "id": one.identity, "size": one.size} for one in letters]
    return [row | headers.get(row["n"], {}) for row in rows]


def _tell(session: Session, rows: dict[str, list[dict[str, Any]]]) -> None:
    if session.job.as_json:
        return
    for what, those in rows.items():
        for row in those:
            print(f"{what} {list_line(row)}")
