"""Draws the timetables of attempts for the documentation (SVG), from the values that the queue works with."""

from __future__ import annotations

from math import log10
from typing import Final

from posthouse.mail.schedule import CLASSIC, DAY, HOUR, MINUTE, USUAL, Schedule

WIDTH, LEFT, RIGHT, TOP, ROW = 820, 130, 40, 96, 110  # pixels: the picture, its margins, the title, a timetable
INK, FAINT, TRY, TOLD, END = "#1b2430", "#5b6675", "#1f7a4d", "#c2570c", "#a3262a"
TICKS: Final = (
    *((MINUTE, "1 min"), (5 * MINUTE, "5 min"), (15 * MINUTE, "15 min"), (HOUR, "1 h"), (4 * HOUR, "4 h")),
    *((12 * HOUR, "12 h"), (DAY, "1 day"), (2 * DAY, "2 d"), (4 * DAY, "4 d")),
)

LEGEND: Final = (
    (LEFT, TRY, "attempt"),
    (250, TOLD, "attempt; if it fails, the sender is told: delayed"),
    (600, END, "last attempt: failed"),
)


def page() -> str:
    """The picture: time across, in ever greater steps; one line for each timetable that has a name."""
    height = TOP + 2 * ROW + 40
    title = "When a letter that cannot be delivered is tried again"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        '<g font-family="system-ui, sans-serif" font-size="13">',
        _text(24, 34, title, INK, 'font-size="18" font-weight="600"'),
        _text(24, 58, "time since the letter was accepted; the first attempt is made at once", FAINT),
    ]
    bottom = TOP + 2 * ROW
    for age, name in TICKS:
        x = _x(age)
        parts.append(f'<path d="M{x} {TOP - 16}V{bottom - 14}" stroke="#e3e7ec"/>')
        parts.append(_text(x, bottom + 4, name, FAINT, 'text-anchor="middle" font-size="12"'))
    for place, (name, schedule) in enumerate((("default", USUAL), ("classic", CLASSIC))):
        parts += _line(name, schedule, TOP + 30 + place * ROW)
    y = bottom + 28
    for x, colour, text in LEGEND:
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colour}"/>')
        parts.append(_text(x + 12, y, text, INK, 'font-size="12"'))
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _line(name: str, schedule: Schedule, y: int) -> list[str]:
    ages = attempts(schedule)
    told = next(age for age in (0.0, *ages) if age >= schedule.notice)
    parts = [
        _text(24, y + 5, name, INK, 'font-weight="600"'),
        f'<path d="M{LEFT - 16} {y}H{_x(schedule.lifetime)}" stroke="{FAINT}" stroke-width="2"/>',
    ]
    for age in (0.0, *ages):
        colour = END if age == ages[-1] else TOLD if age == told else TRY
        radius = 4 if age in schedule.ages or age in (0.0, told, ages[-1]) else 3
        parts.append(f'<circle cx="{_x(age)}" cy="{y}" r="{radius + 2 * (colour != TRY)}" fill="{colour}"/>')
    return parts


def attempts(schedule: Schedule) -> list[float]:
    """The ages of all attempts after the first, when each fails at once."""
    found: list[float] = []
    due = schedule.next(0.0, 0.0)
    while due is not None:
        found.append(due)
        due = schedule.next(0.0, due)
    return found


def _x(age: float) -> float:
    """Where an age stands: the first attempt at the left edge, a minute a little after it, then logarithmic."""
    if age < MINUTE:
        return LEFT - 16
    share = log10(age / MINUTE) / log10(4 * DAY / MINUTE)
    return round(LEFT + 20 + share * (WIDTH - LEFT - RIGHT - 20), 1)


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" {more}>{text}</text>'
