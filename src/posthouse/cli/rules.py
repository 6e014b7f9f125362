"""Which messages `posthouse read new` collects, and which leave the server afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

FORM: Final = 'now, never, "after 7d" or "bigger 5M"'
JOINED: Final = ("after", "bigger")  # words of --delete that another word follows


@dataclass(slots=True, frozen=True)
class Rules:
    """What the person wants. `after`: seconds after which a collected message leaves the server, `bigger`: octets above
    which it leaves at once; None: it stays. `limit`: messages that are collected at most, `max_size`: octets of the
    largest one."""

    after: float | None = None
    bigger: int | None = None
    limit: int | None = None
    max_size: int | None = None

    @property
    def deletes(self) -> bool:
        """Whether anything leaves the server at all."""
        return self.after is not None or self.bigger is not None

    def is_due(self, size: int, age: float) -> bool:
        """Whether a message of this size, collected so many seconds ago, leaves the server."""
        return (self.after is not None and age >= self.after) or (self.bigger is not None and size > self.bigger)

    def takes(self, size: int) -> bool:
        """Whether a message of this size is collected."""
        return self.max_size is None or size <= self.max_size


def read_deletion(rules: Rules, words: Iterable[str]) -> Rules:
    """The rules with what `--delete` says, once for each time it was given. Raises ValueError."""
    for text in words:
        word, _, rest = " ".join(text.split()).partition(" ")
        if word == "never" and not rest:
            rules = replace(rules, after=None, bigger=None)
        elif word == "now" and not rest:
            rules = replace(rules, after=0.0)
        elif word == "after" and rest:
            rules = replace(rules, after=read_seconds(rest))
        elif word == "bigger" and rest:
            rules = replace(rules, bigger=read_size(rest))
        else:
            raise ValueError(f"{text!r} is no rule for --delete: say {FORM}")
    return rules


def read_seconds(text: str) -> float:
    """`7d`, `36h`, `90` (seconds). Raises ValueError."""
    from posthouse.config.values import Kind, Setting

    seconds = Setting(Kind.SECONDS, "", low=0, high=3650 * 86_400).read(text)
    assert isinstance(seconds, float)
    return seconds


def read_size(text: str) -> int:
    """`5M`, `100K`, `4096` (octets). Raises ValueError."""
    from posthouse.config.values import read_octets

    return read_octets(text)


def join_words(args: list[str]) -> list[str]:
    """The arguments with `--delete after 7d` as two instead of three, so that nobody needs quotation marks."""
    joined: list[str] = []
    rest = iter(args)
    for word in rest:
        before = joined[-1] if joined else ""
        half = (before == "--delete" and word in JOINED) or word in [f"--delete={name}" for name in JOINED]
        joined.append(f"{word} {next(rest, '')}".rstrip() if half else word)
    return joined
