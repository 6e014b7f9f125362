"""A maildrop as one POP3 session sees it: numbers, sizes, deletion marks and the highest number retrieved.

A value without input or output. What is on the disk changes only when the session carries `changes` out at QUIT
(RFC 1939 §6); thrown away, everything is as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from posthouse.mail.reply import Pop3, Rejected

Row: TypeAlias = tuple[int, str, int, int]  # UID, unique-id, octets, flags: the same as in ports.store
RETRIEVED: Final = 1  # flag: POP3 retrieved it in an earlier session
EIGHT_BIT: Final = 2  # flag: its header may hold octets beyond ASCII


class Snapshot:
    """The messages of a maildrop, numbered from 1 in the order of `rows`. Memory grows with the marks only."""

    __slots__ = ("_highest", "_last", "count", "deleted", "octets", "retrieved", "rows", "sizes")

    def __init__(self, rows: Sequence[Row], octets: int) -> None:
        self.rows = rows
        self.count = len(rows)  # messages that are not marked as deleted
        self.octets = octets  # and what they hold
        self.deleted: set[int] = set()
        self.retrieved: set[int] = set()  # numbers retrieved in this session
        self.sizes: dict[int, int] = {}  # sizes that differ from what the store says
        self._highest = 0  # of `retrieved`
        self._last = -1  # the value at login; -1: not looked up yet

    def row(self, number: int) -> Row:
        """The message with this number. Raises Rejected when there is none, or when it is marked as deleted."""
        if not 0 < number <= len(self.rows):
            raise Rejected(Pop3.NO_SUCH_MESSAGE)
        if number in self.deleted:
            raise Rejected(Pop3.ALREADY_DELETED)
        return self.rows[number - 1]

    def size(self, number: int) -> int:
        """The octets of a message as this client gets it."""
        return self.sizes.get(number) or self.rows[number - 1][2]

    def resize(self, number: int, octets: int) -> None:
        """The message has another size for this client than for the store."""
        if number not in self.deleted:
            self.octets += octets - self.size(number)
        self.sizes[number] = octets

    def retrieve(self, number: int) -> None:
        """The message was retrieved."""
        self.retrieved.add(number)
        if number > self._highest:
            self._highest = number

    def delete(self, number: int) -> None:
        """Marks a message as deleted. Raises Rejected as `row` does."""
        self.row(number)
        self.deleted.add(number)
        self.count -= 1
        self.octets -= self.size(number)

    def reset(self) -> None:
        """Takes back all marks of this session: deletions (RFC 1939 §5) and what LAST counts (RFC 1460 §5)."""
        self.count = len(self.rows)
        self.octets += sum(self.size(number) for number in self.deleted)
        self.deleted.clear()
        self.retrieved.clear()
        self._highest = 0

    @property
    def last(self) -> int:
        """The highest number that was retrieved, in earlier sessions or in this one; 0 for none. RFC 1460 §5."""
        if self._last < 0:
            rows = self.rows
            self._last = next((n for n in range(len(rows), 0, -1) if rows[n - 1][3] & RETRIEVED), 0)
        return max(self._last, self._highest)

    def changes(self) -> tuple[list[int], list[int]]:
        """What QUIT has to carry out: the UIDs to delete, and those to mark as retrieved."""
        rows, deleted = self.rows, self.deleted
        return (
            [rows[number - 1][0] for number in sorted(deleted)],
            [
                rows[number - 1][0]
                for number in sorted(self.retrieved)
                if number not in deleted and not rows[number - 1][3] & RETRIEVED
            ],
        )

    def listing(self, start: int, stop: int, column: int) -> bytes:
        """Lines "number value" for the messages from index `start` to `stop`, those marked as deleted left out.
        `column` is that of a row: 1 for unique-ids, 2 for sizes."""
        numbered = enumerate(self.rows[start:stop], start + 1)
        deleted = self.deleted
        if column == 2 and self.sizes:
            lines = [f"{n} {self.size(n)}\r\n" for n, _ in numbered if n not in deleted]
        elif deleted:
            lines = [f"{n} {row[column]}\r\n" for n, row in numbered if n not in deleted]
        else:
            lines = [f"{n} {row[column]}\r\n" for n, row in numbered]
        return "".join(lines).encode("ascii")
