"""The timetable of attempts: when a letter that could not be carried on is tried again, and when it is given up.

RFC 5321 §4.5.4.1 asks for a first retry after half an hour or more and for giving up after four or five days; today
most failures of a first attempt (greylisting, a restart) are over within minutes, so the default begins earlier.
A time of the timetable is an age: it counts from the moment when the letter was accepted, so that a server that was
off for a while goes on where the timetable stands by then and does not begin again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86_400.0

SOONEST: Final = 30.0
"""Seconds that lie between two attempts at least, however the ages fall."""

SPREAD: Final = 300.0
"""Seconds by which chance moves an attempt at most."""

MOST_AGES: Final = 100

_UNITS: Final[Mapping[str, float]] = {"s": 1.0, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY}
_SPAN: Final = re.compile(r"([0-9]{1,7})(s|min|m|h|d)")


@dataclass(slots=True, frozen=True)
class Schedule:
    """When attempts are made. `ages` are the seconds after acceptance, ascending; after the last of them comes one
    every `every` seconds (0: none) up to the age `lifetime`, and with the attempt at that age it is over. `notice` is
    the age at which the sender is told about a delay; 0: at the first failed attempt."""

    ages: tuple[float, ...]
    every: float
    lifetime: float
    notice: float

    def next(self, accepted: float, now: float, jitter: float = 0.0) -> float | None:
        """When the attempt after one that failed at `now` is made; None when the letter is given up.

        `jitter` between 0 and 1 moves it later by up to a tenth of the wait, five minutes at most, so that letters that
        failed together do not all come back together, and yet come when their senders were told; the last attempt is
        never moved beyond the lifetime.
        """
        age = now - accepted
        if age >= self.lifetime:
            return None
        following = max(self._after(age), age + SOONEST)
        following += min((following - age) * 0.1, SPREAD) * min(max(jitter, 0.0), 1.0)
        # An attempt that would stand within SOONEST before the end is made at the end.
        return accepted + (self.lifetime if following > self.lifetime - SOONEST else following)

    def _after(self, age: float) -> float:
        for point in self.ages:
            if point > age:
                return min(point, self.lifetime)
        if not self.every:
            return self.lifetime
        last = self.ages[-1] if self.ages else 0.0
        return min(last + (int((age - last) // self.every) + 1) * self.every, self.lifetime)

    def upcoming(self, accepted: float, due: float | None, count: int) -> list[float]:
        """The times of the next attempts, at most `count`, of which the first is `due`."""
        times: list[float] = []
        while due is not None and len(times) < count:
            times.append(due)
            due = self.next(accepted, due)
        return times

    def expires(self, accepted: float) -> float:
        """When the letter is given up if nothing helps."""
        return accepted + self.lifetime


USUAL: Final = Schedule(
    (MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR), 3 * HOUR, 4 * DAY, 4 * HOUR
)
CLASSIC: Final = Schedule((HOUR, 4 * HOUR, DAY, 2 * DAY, 3 * DAY, 4 * DAY), 0.0, 4 * DAY, 0.0)
NAMED: Final[Mapping[str, Schedule]] = {"default": USUAL, "classic": CLASSIC}


def parse_schedule(text: str) -> Schedule:
    """Reads the name of a timetable, or one written out: `1m 5m 1h, every 3h, until 4d, notice 4h`. Without `every`
    nothing comes after the last age; without `until` that is the end; without `notice` it is 4 hours. Raises
    ValueError whose text says what is wrong."""
    text = text.strip().lower()
    if text in NAMED:
        return NAMED[text]
    first, *rest = [part.split() for part in text.split(",")]
    ages = tuple(_span(word) for word in first)
    if not ages or len(ages) > MOST_AGES or any(b <= a for a, b in pairwise(ages)):
        raise ValueError("a timetable begins with ascending times, such as 1m 5m 1h 4h")
    given: dict[str, float] = {}
    for words in rest:
        if len(words) != 2 or words[0] not in ("every", "until", "notice") or words[0] in given:
            raise ValueError(f'"{" ".join(words)}" is no part of a timetable: write every 3h, until 4d or notice 4h')
        given[words[0]] = 0.0 if words == ["notice", "0"] else _span(words[1])
    every, lifetime = given.get("every", 0.0), given.get("until", ages[-1])
    if every and every < MINUTE:
        raise ValueError("attempts come at most once a minute: write every 1m or more")
    if not ages[-1] <= lifetime <= 30 * DAY:
        raise ValueError("a timetable ends after its last time and within 30 days: write until 4d")
    return Schedule(ages, every, lifetime, given.get("notice", 4 * HOUR))


def _span(word: str) -> float:
    match = _SPAN.fullmatch(word)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds:
        raise ValueError(f'"{word}" is no time: write 30s, 5m, 4h or 2d')
    return seconds


def write_schedule(schedule: Schedule) -> str:
    """The text that `parse_schedule` reads: a name where there is one."""
    for name, known in NAMED.items():
        if known == schedule:
            return name
    parts = [" ".join(_write(age) for age in schedule.ages)]
    if schedule.every:
        parts.append(f"every {_write(schedule.every)}")
    parts.append(f"until {_write(schedule.lifetime)}")
    parts.append(f"notice {_write(schedule.notice) if schedule.notice else 0}")
    return ", ".join(parts)


def _write(seconds: float) -> str:
    for unit, length in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
