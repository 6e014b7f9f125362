"""What an examination of a server finds: one line for each thing, what it means and what to do about it.

Each kind of finding stands in the catalogue of its area, beside the checks that find it, with all its words. So the
program and docs/reference/doctor.md, which is made from the same tables, cannot say different things.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad it is. From WARNING on something is wrong."""

    OK = 0  # all is well
    NOTE = 1  # worth knowing; it may well be meant so
    WARNING = 2  # it works, and will not for long, or not for everybody
    ERROR = 3  # something does not work now


@dataclass(slots=True, frozen=True)
class Kind:
    """A kind of finding. `id` is its area and its name; words in braces are filled in."""

    id: str
    level: Level
    what: str
    meaning: str = ""
    todo: str = ""

    @property
    def area(self) -> str:
        """Where it belongs."""
        return self.id.partition(".")[0]

    def __call__(self, **words: object) -> Finding:
        """Such a finding, with these words."""
        return Finding(
            self.id, self.level, self.what.format(**words), self.meaning.format(**words), self.todo.format(**words)
        )


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that was found: what is so, what it means, what to do."""

    id: str
    level: Level
    what: str
    meaning: str
    todo: str

    @property
    def area(self) -> str:
        """Where it belongs."""
        return self.id.partition(".")[0]


def kinds_of(catalogue: type) -> list[Kind]:
    """The kinds of an area, in the order in which they stand."""
    return [value for value in vars(catalogue).values() if isinstance(value, Kind)]
