"""Aliases in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from posthouse.ports.store import Alias, Conflict, Missing
from posthouse.store.sqlite.jobs import Batch

_ALIAS: Final = """
    SELECT address, note, created,
        (SELECT group_concat(target, char(10)) FROM (SELECT target FROM alias_target WHERE alias = alias.address
            ORDER BY number))
    FROM alias
"""
ONE: Final = _ALIAS + "WHERE address = ?"
ALL: Final = _ALIAS + "ORDER BY address"
OF_DOMAIN: Final = _ALIAS + "WHERE domain = (SELECT id FROM domain WHERE name = ?) ORDER BY address"  # noqa: S608 (fixed texts)


def read(row: Sequence[Any]) -> Alias:
    """A row of these statements as a value."""
    address, note, created, targets = row
    return Alias(address, tuple(targets.split("\n")) if targets else (), note, created)


def put(alias: Alias, replace: bool, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Adds an alias, or gives one other targets."""
    domain = cursor.execute("SELECT id FROM domain WHERE name = ?", (alias.address.rpartition("@")[2],)).fetchall()
    if not domain:
        raise Missing(f"there is no domain for {alias.address}")
    if cursor.execute("SELECT 1 FROM account WHERE address = ?", (alias.address,)).fetchall():
        raise Conflict(f"{alias.address} is an account")
    held = cursor.execute("SELECT 1 FROM alias WHERE address = ?", (alias.address,)).fetchall()
    if held and not replace:
        raise Conflict(f"there is an alias {alias.address} already")
    cursor.execute("DELETE FROM alias_target WHERE alias = ?", (alias.address,))
    cursor.execute(
        "INSERT OR REPLACE INTO alias (address, domain, note, created) VALUES (?, ?, ?, ?)",
        (alias.address, domain[0][0], alias.note, alias.created),
    )
    cursor.executemany(
        "INSERT INTO alias_target (alias, number, target) VALUES (?, ?, ?)",
        [(alias.address, number, target) for number, target in enumerate(alias.targets)],
    )
    batch.changed = True


def remove(address: str, cursor: sqlite3.Cursor, batch: Batch) -> None:
    """Removes an alias."""
    cursor.execute("DELETE FROM alias_target WHERE alias = ?", (address,))
    cursor.execute("DELETE FROM alias WHERE address = ?", (address,))
    if not cursor.rowcount:
        raise Missing(f"there is no alias {address}")
    batch.changed = True
