"""Everything that can be read of a damaged database, copied row by row into a new one.

Every row must be what its table demands (STRICT types, constraints); every content must match its checksum before it is
a letter again. What is no row and no letter any more is told to the caller, who puts it aside.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from posthouse.store.model import CHUNK
from posthouse.store.sqlite.pages import Cell, Image, Tree, Unreadable, Value, record

FILE_NAME: Final = re.compile(r"[0-9a-f]{32}")
_KEEPING: Final = {
    "content_file": "content",
    "sqlite_autoindex_domain_1": "domain",
    "sqlite_autoindex_account_1": "account",
    "sqlite_autoindex_mailbox_1": "mailbox",
    "sqlite_autoindex_alias_1": "alias",
    "sqlite_autoindex_route_1": "route",
    "sqlite_autoindex_network_1": "network",
}
"""Indexes that say what a row was when the row is lost, and of which table."""


@dataclass(slots=True)
class Broken:
    """A content that is no letter any more: what remains of it."""

    content: int
    letter: str
    envelope: str
    reason: str
    octets: bytes | Path | None


@dataclass(slots=True)
class Table:
    """One table of the form, and its tree in the damaged database."""

    name: str
    columns: list[str]
    types: list[str]
    defaults: list[str | None]
    key: int  # the column that is the rowid, -1 for none
    indexed: bool  # WITHOUT ROWID
    tree: Tree


@dataclass(slots=True)
class Found:
    """What the copying came to."""

    rows: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # rows that were found and are none
    altered: Counter[str] = field(default_factory=Counter)  # rows with octets in a text that are no text
    bad: dict[str, int] = field(default_factory=dict)  # pages that could not be read, by table or index
    broken: list[Broken] = field(default_factory=list)
    sizes: int = 0  # contents whose size was written wrongly
    missing: list[str] = field(default_factory=list)  # tables and indexes that the schema does not name
    # What the indexes have kept: rows by their ids, as far as an index has their values.
    kept: dict[str, dict[int, list[Value]]] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)


class Salvage:
    """One run: `image` into `target`, an empty database of the same form."""

    def __init__(
        self, image: Image, target: sqlite3.Connection, path_of: Callable[[str], Path], aside: Callable[[Broken], None]
    ) -> None:
        self._image = image
        self._target = target
        self._path_of = path_of
        self._aside = aside
        self.found = Found()
        named = dict(schema(image))
        self._roots = _roots(target, named)
        self.found.missing = sorted(self._roots.keys() - named.keys()) if named else []
        self._tables = [
            self._table(name)
            for (name,) in target.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid")
        ]

    def _table(self, name: str) -> Table:
        columns = self._target.execute(f"PRAGMA table_info({name})").fetchall()
        sql = self._target.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
        indexed = "WITHOUT ROWID" in sql
        keys = [column for column in columns if column[5]]
        if indexed:  # its rows begin with the key
            columns.sort(key=lambda column: column[5] or len(columns) + column[0])
        alone = not indexed and len(keys) == 1 and keys[0][2] == "INTEGER"
        return Table(
            name,
            [column[1] for column in columns],
            [column[2] for column in columns],
            [column[4] for column in columns],
            keys[0][0] if alone else -1,
            indexed,
            Tree(self._roots.get(name, 0)),
        )

    def run(self) -> Found:
        """Copies. Raises sqlite3.Error when the new database cannot be written."""
        trees = {table.tree.root: table for table in self._tables}
        others = self._indexes(set(trees))
        for table in self._tables:
            for cell in self._image.rows(table.tree, index=table.indexed):
                self._put(table, cell)
        forest = {table.tree.root: table.tree for table in self._tables} | {tree.root: tree for _, tree in others}
        forest[1] = Tree(1)
        list(self._image.rows(forest[1]))
        keyed = frozenset([root for root in forest if root != 1 and (root not in trees or trees[root].indexed)])
        for root, cell in self._image.strays(forest, index=keyed):
            if root in trees and not self._has(trees[root], cell):
                self._put(trees[root], cell)
        named = [(table.name, table.tree) for table in self._tables] + others + [("sqlite_schema", forest[1])]
        self.found.bad = {name: len(tree.bad) for name, tree in named if tree.bad}
        return self.found

    def _indexes(self, tables: set[int]) -> list[tuple[str, Tree]]:
        """Walks all indexes: so their pages are known for theirs, and the one of the files has what may be lost."""
        walked: list[tuple[str, Tree]] = []
        for name, root in self._roots.items():
            if root in tables:
                continue
            tree = Tree(root)
            for cell in self._image.rows(tree, index=True):
                if (table := _KEEPING.get(name)) is not None:
                    self._keep(table, cell)
            walked.append((name, tree))
        return walked

    def _keep(self, table: str, cell: Cell) -> None:
        with contextlib.suppress(Unreadable):
            *values, row = record(cell.payload)
            if isinstance(row, int) and row > 0 and not any(isinstance(value, bytes) for value in values):
                self.found.kept.setdefault(table, {})[row] = values

    # Rows

    def _has(self, table: Table, cell: Cell) -> bool:
        if table.indexed:
            return False  # its rows are their own keys: one that is there already is refused
        sql = f"SELECT 1 FROM {table.name} WHERE rowid = ?"  # noqa: S608 (a name of the form's)
        return bool(self._target.execute(sql, (cell.key,)).fetchall())

    def _put(self, table: Table, cell: Cell) -> None:
        try:
            values = record(cell.payload, whole=cell.whole)
        except Unreadable:
            values = []
        if not values or len(values) > len(table.columns) or not (cell.whole or table.name == "content"):
            self.found.refused[table.name] += 1
            return
        if table.key >= 0:
            values[table.key] = cell.key
        values = self._texts(table, values)
        if table.name == "sqlite_sequence":
            self._note_sequence(values)
        elif table.name == "content" and len(values) == len(table.columns):
            self._put_content(table, values, cell.whole)
        else:
            self._insert(table, values)

    def _texts(self, table: Table, values: list[Value]) -> list[Value]:
        """Texts with octets that are none get marks in their place."""
        for place, value in enumerate(values):
            if isinstance(value, bytes) and table.types[place] == "TEXT":
                values[place] = value.decode("utf-8", "replace")
                self.found.altered[table.name] += 1
        return values

    def _note_sequence(self, values: list[Value]) -> None:
        name, last = (*values, None, None)[:2]
        if isinstance(name, str) and isinstance(last, int) and last > 0:
            self.found.sequences[name] = last

    def _insert(self, table: Table, values: list[Value]) -> bool:
        columns = ", ".join(table.columns[: len(values)])  # a row from before a column was added has less of them
        sql = f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608 (names)
        try:
            self._target.execute(sql, values)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError):
            self.found.refused[table.name] += 1
            return False
        self.found.rows[table.name] += 1
        return True

    # Contents

    def _put_content(self, table: Table, values: list[Value], whole: bool) -> None:
        row: dict[str, Value] = dict(zip(table.columns, values, strict=True))
        broken, size = self._judge(row, whole)
        (other,) = self.found.kept.get("content", {}).get(int(str(row["id"])), [None])
        if broken and row["data"] is None and other not in (None, row["file"]):
            row["file"] = other  # the index has kept another name
            broken, size = self._judge(row, whole)
        if not broken:
            if row["size"] != size:
                row["size"] = size
                self.found.sizes += 1
            if self._insert(table, list(row.values())):
                return
            broken = "its row is damaged"
        data, file = row["data"], row["file"]
        octets = data if isinstance(data, bytes) else None
        path = self._path_of(file) if isinstance(file, str) and FILE_NAME.fullmatch(file) else None
        self._broken(row, broken, path if octets is None and path is not None and path.is_file() else octets)

    def _broken(self, row: dict[str, Value], reason: str, octets: bytes | Path | None) -> None:
        content = row["id"]
        assert isinstance(content, int), "the key of its row"
        broken = Broken(content, str(row["letter"]), str(row["envelope"]), reason, octets)
        self._aside(broken)
        broken.octets = None if octets is None else b""  # not kept in memory
        self.found.broken.append(broken)

    def _judge(self, row: dict[str, Value], whole: bool) -> tuple[str, int]:
        """Why a content is no letter any more, empty when it is one, and how many octets it has."""
        data, file, checksum = row["data"], row["file"], row["checksum"]
        if isinstance(data, bytes):
            if not whole:
                return f"only {len(data)} of its octets are left", 0
            return ("" if zlib.crc32(data) == checksum else "its octets do not match its checksum"), len(data)
        if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
            return "it has neither octets nor a file", 0
        try:
            found, size = checksum_of(self._path_of(file))
        except FileNotFoundError:
            return "its file is missing", 0
        except OSError as problem:
            return f"its file cannot be read ({problem.strerror})", 0
        return ("" if found == checksum else "its file does not match its checksum"), size


def checksum_of(path: Path) -> tuple[int, int]:
    """The CRC-32 of a file and its size. Raises OSError."""
    running = size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            running, size = zlib.crc32(chunk, running), size + len(chunk)
    return running, size


def _roots(target: sqlite3.Connection, named: dict[str, int]) -> dict[str, int]:
    """Where the trees of the damaged database begin. SQLite puts them into the same pages whenever the same statements
    make a database of this kind, so where the schema cannot be read its copy in the new one says it."""
    roots: dict[str, int] = dict(target.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage"))
    said = {name: root for name, root in named.items() if name in roots}
    others = {root for name, root in roots.items() if name not in said}
    if len(set(said.values())) == len(said) and not set(said.values()) & others:
        roots.update(said)
    return roots


def schema(image: Image) -> Iterator[tuple[str, int]]:
    """The tables and indexes that the schema names, with their roots, as far as it can be read."""
    for cell in image.rows(Tree(1)):
        with contextlib.suppress(Unreadable):
            values = record(cell.payload)
            if len(values) == 5 and isinstance(values[1], str) and isinstance(values[3], int) and values[3] > 1:
                yield values[1], values[3]
