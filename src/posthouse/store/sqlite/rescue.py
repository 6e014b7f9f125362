"""Letters behind a damaged page of the WAL, before anybody opens the database.

SQLite ends the reading of a WAL at the first page that does not fit, and whoever opens the database for writing has the
rest overwritten. Those letters were answered 250. A repair would put them into their mailboxes; a server that comes
back by itself after a crash puts them into `lost+found/`, with whom they were for.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from posthouse.store.model import TALLY
from posthouse.store.sqlite.jobs import LAST_UID
from posthouse.store.sqlite.lostfound import LostAndFound, name_of
from posthouse.store.sqlite.pages import Image, Unreadable, Value, record
from posthouse.store.sqlite.pool import connect
from posthouse.store.sqlite.salvage import FILE_NAME, checksum_of
from posthouse.store.sqlite.tally import read_tally

_CONTENT: Final = ("id", "letter", "envelope", "size", "checksum", "refs", "file", "data")
_MESSAGE: Final = {"unique_id": 1, "content": 2, "received": 8, "recipient": 11, "prefix": 14}  # columns of the form


@dataclass(slots=True)
class Rescued:
    """One letter that was put aside."""

    letter: str
    place: str
    recipients: list[str] = field(default_factory=list)


def rescue(data: Path, path_of: Callable[[str], Path]) -> list[Rescued]:
    """Puts aside what the next opening of the database would cost; it stays as it is. Raises OSError, sqlite3.Error.

    It costs a look when there is a WAL, which is read only when commits are lost: never beside a server, whose database
    counts at least as many as the tally that was read before.
    """
    database = data / "posthouse.db"
    wal = database.with_name("posthouse.db-wal")
    counted = read_tally(data / TALLY)
    if counted is None or not wal.exists() or not wal.stat().st_size:
        return []
    with contextlib.closing(connect(database, mode="ro")) as connection:
        ((commits, last),) = connection.execute("SELECT commits, content FROM state").fetchall() or [(0, 0)]
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema").fetchall())
    image = Image(database) if commits < counted[0] else None
    if image is None or not image.gaps or not {"content", "message"} <= roots.keys():
        return []
    return _put_aside(image, roots["content"], roots["message"], last, path_of, LostAndFound(data))


def _put_aside(
    image: Image, contents: int, messages: int, last: int, path_of: Callable[[str], Path], lost_found: LostAndFound
) -> list[Rescued]:
    """The letters with ids behind the last one that SQLite knows, if they match their checksums."""
    found: dict[int, tuple[str, str]] = {}  # content: letter, name
    facts: dict[int, dict[str, object]] = {}
    deliveries: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    for root, cell in image.newest({contents, messages}):
        with contextlib.suppress(Unreadable):
            values = record(cell.payload)
            if root == messages:
                _note(cell.key, values, deliveries)
            elif cell.key > last and len(values) == len(_CONTENT):
                row: dict[str, Value] = dict(zip(_CONTENT, values, strict=True))
                name = name_of("letter", cell.key, row["letter"])
                if _keep(row, name, path_of, lost_found):
                    found[cell.key] = str(row["letter"]), name
                    facts[cell.key] = {"letter": row["letter"], "content": cell.key, "envelope": row["envelope"]}
    rescued: list[Rescued] = []
    for content, (letter, name) in sorted(found.items()):
        known = facts[content] | {"reason": "its commit was lost", "deliveries": deliveries[content]}
        place = lost_found.tell(name, known, octets=True)
        rescued.append(Rescued(letter, place, [str(one["recipient"]) for one in deliveries[content]]))
    return rescued


def _note(key: int, values: list[Value], deliveries: defaultdict[int, list[dict[str, object]]]) -> None:
    if len(values) > max(_MESSAGE.values()):
        known: dict[str, object] = {name: values[column] for name, column in _MESSAGE.items()}
        content = known.pop("content")
        if isinstance(content, int):
            deliveries[content].append({"mailbox": key >> 32, "uid": key & LAST_UID, **known})


def _keep(row: dict[str, Value], name: str, path_of: Callable[[str], Path], lost_found: LostAndFound) -> bool:
    """Puts the octets of a content aside if they are whole."""
    data, file = row["data"], row["file"]
    if isinstance(data, bytes) and zlib.crc32(data) == row["checksum"]:
        lost_found.keep(name, data)
        return True
    if isinstance(file, str) and FILE_NAME.fullmatch(file) and path_of(file).is_file():
        path = path_of(file)
        if checksum_of(path)[0] == row["checksum"]:
            lost_found.keep(name, path)
            path.unlink()
            return True
    return False
