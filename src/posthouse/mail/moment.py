"""Dates as header fields say them, the impossible ones too (RFC 5322 §3.3 and §4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Minutes east of Greenwich; RFC 5322 §4.3 names no others.
_ZONES: Final = {
    "ut": 0,
    "utc": 0,
    "gmt": 0,
    "z": 0,
    "edt": -240,
    "est": -300,
    "cdt": -300,
    "cst": -360,
    "mdt": -360,
    "mst": -420,
    "pdt": -420,
    "pst": -480,
}
WORDS: Final = 12  # words of a date that are looked at


@dataclass(slots=True)
class Moment:
    """A date that was read. `seconds` since 1970 UTC is None when there is no such time; `zone` is as it was said;
    `notes` tell what was wrong; `used` is how many of the words belong to it."""

    seconds: int | None = None
    zone: str | None = None
    notes: list[str] = field(default_factory=list)
    used: int = 0


def read_moment(words: Sequence[str]) -> Moment | None:
    """The date that the words begin with: `Mon, 2 Mar 2026 06:15:04 +0300`, obsolete forms and C's `Mon Mar 2 06:15:04
    2026` too. None when they are no date at all."""
    parts = [(part, place) for place, word in enumerate(words[:WORDS]) for part in word.split(",") if part]
    weekday = parts.pop(0)[0].lower() if parts and parts[0][0][:3].lower() in _DAYS else ""
    taken = [part for part, _ in parts[:5]]
    if len(taken) < 4:
        return None
    if taken[0][:3].lower() in _MONTHS:  # C's order, in which the year comes last
        month, day, clock, *rest = taken
        year, zone = (rest[0], "") if _is_number(rest[0]) else (rest[-1], rest[0])
        count = 5 if zone and len(rest) > 1 else 4
    else:
        day, month, year, clock, *rest = taken
        zone = rest[0] if rest and not rest[0].lower().startswith("id") else ""
        count = 5 if zone else 4
    if month[:3].lower() not in _MONTHS or not (_is_number(day) and _is_number(year) and ":" in clock):
        return None
    moment = Moment(zone=zone or None, used=parts[min(count, len(parts)) - 1][1] + 1)
    _place(moment, int(year), _MONTHS.index(month[:3].lower()) + 1, int(day), clock, weekday[:3])
    return moment


def _place(moment: Moment, year: int, month: int, day: int, clock: str, weekday: str) -> None:
    if year < 1000:  # RFC 5322 §4.3
        year += 2000 if year < 50 else 1900
    fields = clock.split(":")
    offset = _offset(moment)
    try:
        hour, minute, second = (int(text) for text in (*fields, "0")[:3] if _is_number(text))
        leap = second == 60
        local = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
        moment.seconds = int((local - timedelta(minutes=offset)).timestamp()) + leap
    except (ValueError, OverflowError):
        moment.notes.append("there is no such date")
        return
    if weekday and _DAYS[local.weekday()] != weekday:
        moment.notes.append("the day of the week does not fit the date")


def _offset(moment: Moment) -> int:
    zone = (moment.zone or "").replace(":", "")
    if zone[:1] in ("+", "-") and len(zone) == 5 and _is_number(zone[1:]):
        hours, minutes = int(zone[1:3]), int(zone[3:])
        if hours < 24 and minutes < 60:
            return (hours * 60 + minutes) * (-1 if zone[0] == "-" else 1)
    if zone.lower() in _ZONES:
        return _ZONES[zone.lower()]
    moment.notes.append(f"the zone {zone} is unknown: taken as UTC" if zone else "no zone is said: taken as UTC")
    return 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4
