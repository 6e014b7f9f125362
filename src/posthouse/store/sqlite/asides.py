"""Letters that cannot be served any more are taken out of a salvaged database; what remains of them is put aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from posthouse.ports.store import Damage
from posthouse.store.sqlite.jobs import LAST_UID
from posthouse.store.sqlite.lostfound import LostAndFound, name_of
from posthouse.store.sqlite.salvage import Broken, Found, checksum_of

NAMED: Final = 10  # deliveries that a sentence names

_DELIVERIES: Final = """
    SELECT copy.id, unique_id, size, received, recipient, prefix, account.address, deleted FROM (
        SELECT id, unique_id, size, received, recipient, prefix, 0 AS deleted FROM message WHERE content = :content
        UNION ALL
        SELECT id, unique_id, size, received, recipient, prefix, 1 FROM tombstone WHERE content = :content) AS copy
    LEFT JOIN mailbox ON mailbox.id = copy.id >> 32 LEFT JOIN account ON account.id = mailbox.account ORDER BY copy.id
"""
_ELSEWHERE: Final = ("message", "queue", "tombstone")  # tables whose rows name a content


class Asides:
    """One run. `told` is the report, `unlink` has the files whose octets were put aside."""

    _db: sqlite3.Connection

    def __init__(self, path_of: Callable[[str], Path], lost_found: LostAndFound, told: list[Damage]) -> None:
        self._path_of = path_of
        self._lost_found = lost_found
        self.told = told
        self.unlink: list[Path] = []
        self._kept: set[int] = set()  # contents that are there under other names

    def use(self, db: sqlite3.Connection) -> None:
        """The salvaged database; before it is known octets can be kept, and nothing else."""
        self._db = db

    def _rows(self, sql: str, *parameters: object) -> list[Any]:
        return self._db.execute(sql, parameters).fetchall()

    def _deliveries(self, content: int) -> list[Any]:
        return self._db.execute(_DELIVERIES, {"content": content}).fetchall()

    def keep(self, broken: Broken) -> None:
        """Puts the octets of a broken content aside while they are at hand."""
        if broken.octets is not None:
            self._lost_found.keep(_name(broken), broken.octets)
        if isinstance(broken.octets, Path):
            self.unlink.append(broken.octets)

    def broken(self, found: Found) -> None:
        """Contents that were found and are no letters: now it can be said whose they were."""
        for broken in found.broken:
            self._tell(broken)
            self._forget(broken.content)

    def adopt(self, found: Found) -> None:
        """A large content whose row was lost gets one again when its file is there: the index has kept its name."""
        for content, (file, *_) in found.kept.get("content", {}).items():
            sizes = self._rows("SELECT DISTINCT size - length(prefix) FROM message WHERE content = ?", content)
            if len(sizes) != 1 or self._rows("SELECT 1 FROM content WHERE id = ? OR file = ?", content, file):
                continue
            try:
                checksum, size = checksum_of(self._path_of(str(file)))
            except OSError:
                continue
            if size != sizes[0][0]:
                continue
            self._db.execute(
                "INSERT INTO content VALUES (?, '', '{}', ?, ?, 1, ?, NULL)", (content, size, checksum, file)
            )
            text = "The row of a large letter was lost. Its file is there and has the right size: it is served again."
            self.told.append(Damage("mended", f"content {content}", text, self._whose(content)))

    def missing(self) -> None:
        """Letters whose content was lost: what we put before it is all that there is."""
        for (content,) in self._rows(
            "SELECT content FROM message UNION SELECT content FROM queue EXCEPT SELECT id FROM content"
        ):
            prefixes = self._rows("SELECT prefix FROM message WHERE content = ? LIMIT 1", content)
            broken = Broken(content, "", "{}", "its content was lost", prefixes[0][0] if prefixes else None)
            self.keep(broken)
            self._tell(broken)
            self._forget(content)

    def wrong_sizes(self) -> None:
        """A letter's size is reckoned anew, unless it seems to name another's content."""
        for message, content, prefix, letter in self._rows(
            "SELECT message.id, content.id, prefix, letter FROM message JOIN content ON content.id = message.content"
            " WHERE message.size <> length(prefix) + content.size"
        ):
            if letter and letter.encode() in prefix:  # Received names it, RFC 5321 §4.4
                self._db.execute(
                    "UPDATE message SET size = length(prefix) + (SELECT size FROM content WHERE id = message.content)"
                    " WHERE id = ?",
                    (message,),
                )
                where = f"message {message >> 32}/{message & LAST_UID}"
                self.told.append(Damage("mended", where, "The size of a letter was wrong and is reckoned anew."))
            else:
                self.letter(message, content, "its size is not that of the content it names")

    def letter(self, message: int, content: int, reason: str) -> None:
        """Puts one delivery of a content aside."""
        rows = self._rows("SELECT letter, envelope, file, data FROM content WHERE id = ?", content)
        letter, envelope, file, data = rows[0] if rows else ("", "{}", None, None)
        broken = Broken(content, letter, envelope, reason, data if file is None else self._path_of(file))
        name = name_of("message", message >> 32, message & LAST_UID)
        if broken.octets is not None:
            self._lost_found.keep(name, broken.octets)
            self._kept.add(content)
        self._tell(broken, name, message)
        self._db.execute("DELETE FROM message WHERE id = ?", (message,))

    def unused(self) -> None:
        """Contents that nothing names: letters whose rows were lost."""
        for content, letter, envelope, file, data in self._rows(
            "SELECT id, letter, envelope, file, data FROM content WHERE refs = 0"
        ):
            octets = data if file is None else self._path_of(file)
            if content not in self._kept:
                broken = Broken(content, letter, envelope, "nothing says whose it is", octets)
                self.keep(broken)
                self._tell(broken)
            elif isinstance(octets, Path):
                self.unlink.append(octets)
            self._db.execute("DELETE FROM content WHERE id = ?", (content,))

    def files(self, folders: Sequence[tuple[str, list[str]]]) -> None:
        """Content files that no row names."""
        for folder, names in folders:
            rows = self._rows("SELECT file FROM content WHERE file >= ? AND file < ?", folder, folder + "~")
            for name in sorted(set(names) - {file for (file,) in rows}):
                path = self._path_of(name)
                if path in self.unlink or not path.is_file():
                    continue
                shown = name_of("file", name)
                self._lost_found.keep(shown, path)
                facts = {"file": name, "reason": "no letter names this file", "size": path.stat().st_size}
                place = self._lost_found.tell(shown, facts, octets=True)
                self.unlink.append(path)
                text = f"No letter names the file content/{folder}/{name}. It lies in {place} now."
                self.told.append(Damage("set aside", f"content/{folder}/{name}", text))

    def _forget(self, content: int) -> None:
        for table in _ELSEWHERE:
            self._db.execute(f"DELETE FROM {table} WHERE content = ?", (content,))  # noqa: S608 (names of ours)

    def _whose(self, content: int) -> list[str]:
        return sorted({row[6] for row in self._deliveries(content) if row[6]})

    def _tell(self, broken: Broken, name: str = "", message: int = 0) -> None:
        """Writes down what is known, and says in a sentence which letter of whom it was."""
        rows = [row for row in self._deliveries(broken.content) if message in (0, row[0])]
        waiting = [] if message else self._rows("SELECT recipient FROM queue WHERE content = ?", broken.content)
        facts = {
            "letter": broken.letter,
            "content": broken.content,
            "reason": broken.reason,
            "envelope": broken.envelope,
            "deliveries": [_delivery(row) for row in rows],
            "waits_for": [recipient for (recipient,) in waiting],
        }
        place = self._lost_found.tell(name or _name(broken), facts, octets=broken.octets is not None)
        text = (
            f"{_sentence(broken, rows)} cannot be served: {broken.reason}. "
            f"{'What remains of it' if broken.octets is not None else 'What is known of it'} lies in {place}."
        )
        whose = sorted({row[6] for row in rows if row[6]} | {recipient for (recipient,) in waiting})
        self.told.append(Damage("set aside", f"content {broken.content}", text, whose))


def _sentence(broken: Broken, rows: Sequence[Any]) -> str:
    uids = ", ".join(f"UID {row[0] & LAST_UID} of {row[6] or f'mailbox {row[0] >> 32}'}" for row in rows[:NAMED])
    sender = _sender(broken.envelope)
    name = f"The letter {broken.letter}" if broken.letter else "A letter"
    return f"{name}{f' from {sender}' if sender else ''}{f' ({uids})' if uids else ''}"


def _delivery(row: Sequence[Any]) -> dict[str, object]:
    names = ("id", "unique_id", "size", "received", "recipient", "prefix", "account", "deleted")
    facts = dict(zip(names, row, strict=True))
    return facts | {"mailbox": row[0] >> 32, "uid": row[0] & LAST_UID}


def _sender(envelope: str) -> str:
    try:
        return str(msgspec.json.decode(envelope, type=dict[str, Any]).get("sender", ""))
    except msgspec.DecodeError:
        return ""


def _name(broken: Broken) -> str:
    return name_of("letter", broken.content, broken.letter)
