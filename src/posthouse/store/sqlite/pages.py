"""The pages of a database, read without SQLite: what is damaged is stepped over, and everything beside it is found.

SQLite refuses a table from the first page that does not fit. Here a tree is walked as far as it goes; what hangs below
a destroyed page is found by the pointer map, which names every page's parent (a store has auto_vacuum=INCREMENTAL).
Nothing read here is believed because it could be read: salvage.py and mending.py check every row and every letter.

The form is that of https://www.sqlite.org/fileformat2.html, the sections are named beside the code.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from posthouse.store.sqlite.pool import PAGE

Value = int | float | bytes | str | None

LARGEST: Final = 1_073_741_824  # octets of one row; SQLite's own limit is less
DEEPEST: Final = 40  # levels of a tree; a real one has at most 20
LOCK_PAGE: Final = 1_073_741_824 // PAGE + 1  # never used (§1.4)
_MAPPED: Final = PAGE // 5  # pages that one page of the pointer map speaks of (§1.8)
_LEAST_LOCAL: Final = (PAGE - 12) * 32 // 255 - 23  # §1.6

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1  # keys
TABLE_INTERIOR, TABLE_LEAF, INDEX_INTERIOR, INDEX_LEAF = 0x05, 0x0D, 0x02, 0x0A
_WAL_MAGIC: Final = 0x377F0682
_FRAME: Final = 24


class Unreadable(Exception):
    """These octets are not what they should be."""


@dataclass(slots=True)
class Cell:
    """One row as it lies in its page. `whole` is False when the chain of its overflow pages broke off."""

    key: int
    payload: bytes
    whole: bool
    page: int


@dataclass(slots=True)
class Tree:
    """What became of one tree."""

    root: int
    seen: set[int] = field(default_factory=set)
    bad: set[int] = field(default_factory=set)  # pages that could not be read, or not in full


class Image:
    """The pages as the last COMMIT left them: the newest that the WAL has, else the file's.

    SQLite ends the reading of a WAL at the first frame that does not fit. Each frame's checksum begins with that of
    the one before, as it is written there; so those behind a damaged frame can still be proved whole, and are taken.
    `gaps` counts the frames that were stepped over.
    """

    def __init__(self, database: Path) -> None:
        """Raises OSError."""
        self._file = _map(database)
        self._wal = _map(database.with_name(database.name + "-wal"))
        self.newer: dict[int, int] = {}
        self.gaps = 0
        self._pages_in_wal = 0
        self._read_wal()
        self.count = max((len(self._file) + PAGE - 1) // PAGE, self._pages_in_wal, max(self.newer, default=0))

    def page(self, number: int) -> bytes:
        """The octets of a page; none where there is no such page."""
        if (at := self.newer.get(number)) is not None:
            return self._wal[at : at + PAGE]
        octets = self._file[(number - 1) * PAGE : number * PAGE] if number > 0 else b""
        return octets.ljust(PAGE, b"\0") if octets else b""

    def _read_wal(self) -> None:
        """§4.3: the frames that were committed."""
        wal = self._wal
        if len(wal) < 32:
            return
        magic, _, page_size, _, salts = struct.unpack(">IIII8s", wal[:24])
        if magic | 1 != _WAL_MAGIC | 1 or page_size != PAGE:
            return
        order = ">" if magic & 1 else "<"
        before = _sum(order, (0, 0), wal[:24])
        known = before == struct.unpack(">II", wal[24:32])
        pending: dict[int, int] = {}
        skipped = 0
        for at in range(32, len(wal) - _FRAME - PAGE + 1, _FRAME + PAGE):
            number, size, salt, stored = struct.unpack(">II8s8s", wal[at : at + _FRAME])
            if salt != salts:
                known, skipped = False, skipped + 1
                continue
            written = struct.unpack(">II", stored)
            sound = known and written == _sum(order, before, wal[at : at + 8] + wal[at + _FRAME : at + _FRAME + PAGE])
            before, known = written, True
            if not sound:
                skipped += 1
                continue
            self.gaps, skipped = self.gaps + skipped, 0
            pending[number] = at + _FRAME
            if size:
                self.newer.update(pending)
                self._pages_in_wal = size
                pending.clear()

    # The pointer map, §1.8

    def parent(self, number: int) -> tuple[int, int]:
        """The kind of a page and its parent, as the pointer map has them; (0, 0) when it has none."""
        chart = (number - 2) // (_MAPPED + 1) * (_MAPPED + 1) + 2
        chart += chart == LOCK_PAGE
        entry = self.page(chart)[5 * (number - chart - 1) : 5 * (number - chart)] if number > chart else b""
        return (entry[0], int.from_bytes(entry[1:], "big")) if len(entry) == 5 else (0, 0)

    # Trees, §1.6

    def rows(self, tree: Tree, *, index: bool = False) -> Iterator[Cell]:
        """The rows of a tree as far as it can be walked, in their order. `index` is for an index, and for a table
        WITHOUT ROWID: their keys are rows too."""
        path = [(tree.root, LOWEST, HIGHEST, 0)]
        while path:
            number, low, high, depth = path.pop()
            if number in tree.seen or depth > DEEPEST:
                tree.bad.add(number)
                continue
            tree.seen.add(number)
            try:
                kind, cells, children, sound = self._node(number, index)
            except Unreadable:
                tree.bad.add(number)
                continue
            if not sound:
                tree.bad.add(number)
            if kind in (TABLE_LEAF, INDEX_LEAF):
                kept = cells if index else _in_place(cells, low, high)
                if len(kept) < len(cells):
                    tree.bad.add(number)
                yield from kept
                continue
            bounds = [low] * (len(children) + 1) if index else _bounds(children, low, high)
            for place, (child, key) in reversed(list(enumerate(children))):
                if not self._is_child(child, number):
                    tree.bad.add(number)
                elif index:
                    path.append((child, low, high, depth + 1))
                else:
                    path.append((child, bounds[place], min(key, high), depth + 1))
            if index:
                yield from cells

    def strays(self, trees: dict[int, Tree], *, index: frozenset[int] = frozenset()) -> Iterator[tuple[int, Cell]]:
        """The rows of pages that no walk came to, with the root of the tree to which the pointer map counts them."""
        seen: set[int] = set().union(*(tree.seen for tree in trees.values()))
        for number in range(3, self.count + 1):
            if number in seen or self.parent(number)[0] != 5:
                continue
            root = self._root_of(number, trees)
            if root is not None:
                trees[root].bad.add(root)  # that there is one says that the tree is damaged
                for cell in self._leaf(number, root in index):
                    yield root, cell

    def newest(self, roots: set[int]) -> Iterator[tuple[int, Cell]]:
        """The rows in those pages of the WAL that belong to the tables with these roots, with the root."""
        for number in sorted(self.newer):
            root = number if number in roots else self._root_of(number, roots)
            if root is not None:
                for cell in self._leaf(number, index=False):
                    yield root, cell

    def _leaf(self, number: int, index: bool) -> list[Cell]:
        try:
            kind, cells, _, _ = self._node(number, index)
        except Unreadable:
            return []
        if kind not in (TABLE_LEAF, INDEX_LEAF):
            return []
        return cells if index else _in_order(cells)

    def _root_of(self, number: int, trees: Container[int]) -> int | None:
        for _ in range(DEEPEST):
            kind, above = self.parent(number)
            if kind != 5 or above == number:
                return None
            if above in trees:
                return above
            number = above
        return None

    def _is_child(self, child: int, above: int) -> bool:
        """Whether a page may be below another: the pointer map must not say that it is free or somebody else's, unless
        it says so of nothing there."""
        kind, parent = self.parent(child)
        return 2 <= child <= self.count and (kind not in (1, 2, 3, 4, 5) or (kind == 5 and parent == above))

    def _node(self, number: int, index: bool) -> tuple[int, list[Cell], list[tuple[int, int]], bool]:
        """The kind of a page, its rows, its children with the greatest key of each, and whether all of it was sound."""
        octets = self.page(number)
        start = 100 if number == 1 else 0
        if len(octets) < PAGE:
            raise Unreadable
        kind = octets[start]
        if kind not in ((INDEX_INTERIOR, INDEX_LEAF) if index else (TABLE_INTERIOR, TABLE_LEAF)):
            raise Unreadable
        interior = kind in (TABLE_INTERIOR, INDEX_INTERIOR)
        first = start + (12 if interior else 8)
        count = int.from_bytes(octets[start + 3 : start + 5], "big")
        if first + 2 * count > PAGE:
            raise Unreadable
        cells: list[Cell] = []
        children: list[tuple[int, int]] = []
        sound = True
        for place in range(count):
            at = int.from_bytes(octets[first + 2 * place : first + 2 * place + 2], "big")
            try:
                if at < first + 2 * count:
                    raise Unreadable
                child = 0
                if interior:
                    child, at = int.from_bytes(octets[at : at + 4], "big"), at + 4
                if kind == TABLE_INTERIOR:
                    children.append((child, _varint(octets, at)[0]))
                    continue
                if interior:
                    children.append((child, 0))
                cells.append(self._cell(octets, at, number, index))
            except Unreadable:
                sound = False
        if interior:
            children.append((int.from_bytes(octets[start + 8 : start + 12], "big"), HIGHEST))
        return kind, cells, children, sound

    def _cell(self, octets: bytes, at: int, number: int, index: bool) -> Cell:
        length, at = _varint(octets, at)
        key = 0
        if not index:
            key, at = _varint(octets, at)
        if not 0 <= length <= LARGEST:
            raise Unreadable
        most = (PAGE - 12) * 64 // 255 - 23 if index else PAGE - 35
        if length <= most:
            local = length
        else:
            local = _LEAST_LOCAL + (length - _LEAST_LOCAL) % (PAGE - 4)
            local = local if local <= most else _LEAST_LOCAL
        if at + local + (4 if local < length else 0) > PAGE:
            raise Unreadable
        if local == length:
            return Cell(key, octets[at : at + local], True, number)
        pieces = [octets[at : at + local]]
        whole = self._overflow(int.from_bytes(octets[at + local : at + local + 4], "big"), length - local, pieces)
        return Cell(key, b"".join(pieces), whole, number)

    def _overflow(self, number: int, missing: int, pieces: list[bytes]) -> bool:
        """§1.7: the chain of pages that have the rest of a row; False when it breaks off."""
        seen: set[int] = set()
        while missing > 0:
            octets = self.page(number)
            if number in seen or len(octets) < PAGE or not 2 <= number <= self.count:
                return False
            seen.add(number)
            pieces.append(octets[4 : 4 + missing])
            missing -= PAGE - 4
            number = int.from_bytes(octets[:4], "big")
        return True


def record(payload: bytes, *, whole: bool = True) -> list[Value]:
    """The values of a row, §2.1. Texts that are no UTF-8 are bytes. The last value of a row that broke off is what
    there is of it. Raises Unreadable."""
    size, at = _varint(payload, 0)
    if not 1 <= size <= len(payload):
        raise Unreadable
    types: list[int] = []
    while at < size:
        kind, at = _varint(payload, at)
        types.append(kind)
    if at != size:
        raise Unreadable
    lengths = [_length(kind) for kind in types]
    total = size + sum(lengths)
    if total != len(payload) and (whole or total < len(payload)):
        raise Unreadable
    values: list[Value] = []
    for kind, length in zip(types, lengths, strict=True):
        piece = payload[at : at + length]
        if len(piece) < length and kind < 12:
            raise Unreadable
        values.append(_value(kind, piece))
        at += length
    return values


_LENGTHS: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


def _length(kind: int) -> int:
    if kind in (10, 11) or kind < 0:
        raise Unreadable
    return _LENGTHS[kind] if kind < 10 else (kind - 12) // 2


def _value(kind: int, piece: bytes) -> Value:
    if kind == 0:
        return None
    if kind == 7:
        number: float = struct.unpack(">d", piece)[0]
        return number
    if kind < 7:
        return int.from_bytes(piece, "big", signed=True)
    if kind < 10:
        return kind - 8
    if kind % 2 == 0:
        return piece
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return piece


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    """§1.6: a number of one to nine octets, and where it ends."""
    value = 0
    for count in range(9):
        if at >= len(octets):
            raise Unreadable
        octet = octets[at]
        at += 1
        if count == 8:
            value = value << 8 | octet
            return (value - (1 << 64) if value >= 1 << 63 else value), at
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            break
    return value, at


def _in_place(cells: Sequence[Cell], low: int, high: int) -> list[Cell]:
    """The rows whose keys ascend and fit between the bounds that the page above gives. Where most do not fit, it is the
    bounds that are wrong: the pointer map has confirmed the page."""
    ordered = _in_order(cells)
    within = [cell for cell in ordered if low < cell.key <= high]
    return within if 2 * len(within) > len(ordered) else ordered


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The rows whose keys ascend; of two that do not agree, the one that stands alone is left out."""
    kept: list[Cell] = []
    for place, cell in enumerate(cells):
        if kept and cell.key <= kept[-1].key:
            rest = cells[place + 1].key if place + 1 < len(cells) else None
            if (rest is not None and rest > kept[-1].key) or (len(kept) > 1 and kept[-2].key >= cell.key):
                continue
            kept.pop()
        kept.append(cell)
    return kept


def _bounds(children: Sequence[tuple[int, int]], low: int, high: int) -> list[int]:
    """What the keys of each child must be greater than. A key out of order bounds nothing."""
    bounds = [low]
    for _, key in children:
        bounds.append(key if bounds[-1] < key <= high else bounds[-1])
    return bounds


def _sum(order: str, before: tuple[int, int], octets: bytes) -> tuple[int, int]:
    """§4.2: the checksum of a WAL."""
    first, second = before
    words = struct.unpack(f"{order}{len(octets) // 4}I", octets)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def _map(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # there is none, or nothing is in it
        return b""
