"""The route table in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from posthouse.ports.store import Conflict, Missing, Route
from posthouse.store.sqlite.jobs import Batch

_COLUMNS: Final = "pattern, targets, protocol, tls, login, secret, schedule, local, note, created"

ALL: Final = f"SELECT {_COLUMNS} FROM route ORDER BY pattern"  # noqa: S608 - a constant


def read(row: Sequence[Any]) -> Route:
    """A row of `ALL` as a value."""
    pattern, targets, protocol, tls, login, secret, schedule, local, note, created = row
    return Route(pattern, tuple(targets.split()), protocol, tls, login, secret, schedule, bool(local), note, created)


def put(route: Route, replace: bool, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Adds a route, or puts another in its place."""
    held = cursor.execute("SELECT 1 FROM route WHERE pattern = ?", (route.pattern,)).fetchall()
    if held and not replace:
        raise Conflict(f"there is a route for {route.pattern} already")
    row = (
        route.pattern,
        " ".join(route.targets),
        route.protocol,
        route.tls,
        route.login,
        route.secret,
        route.schedule,
        int(route.local),
        route.note,
        route.created,
    )
    cursor.execute(f"INSERT OR REPLACE INTO route ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608
    batch.changed = True


def remove(pattern: str, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Removes a route."""
    cursor.execute("DELETE FROM route WHERE pattern = ?", (pattern,))
    if not cursor.rowcount:
        raise Missing(f"there is no route for {pattern}")
    batch.changed = True
