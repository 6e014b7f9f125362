"""The journeys of letters as a picture (SVG): time across, a row for each host, shaded where it is down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final

from posthouse.mail.charsets import harmless_line

if TYPE_CHECKING:
    from posthouse.lab.internet import Run
    from posthouse.lab.journeys import Journey
    from posthouse.lab.record import Attempt

WIDTH, LEFT, RIGHT, TOP, ROW = 1100, 210, 30, 96, 64  # pixels
LEGEND: Final = 24  # pixels of a line below
MOST_LETTERS: Final = 24  # that are drawn
MOST_HOSTS: Final = 40
INK, FAINT, GRID, DOWN, FAILED = "#1b2430", "#5b6675", "#e3e7ee", "#f3d9cf", "#c2570c"
SYMBOLS: Final = (
    "shaded: out of order · cross: an attempt that failed · dot: taken, large: in a mailbox · letter: a notice"
)
COLOURS: Final = ("#1f5fa8", "#1f7a4d", "#8a3ffc", "#b0266b", "#7a5a00", "#00707a")
STEPS: Final = (
    1,
    5,
    15,
    60,
    300,
    900,
    1800,
    3600,
    7200,
    14_400,
    21_600,
    43_200,
    86_400,
    172_800,
    604_800,
)  # seconds of the grid


def draw(run: Run, found: Sequence[Journey]) -> str:
    """The picture."""
    return _Picture(run, found[:MOST_LETTERS]).text()


class _Picture:
    def __init__(self, run: Run, found: Sequence[Journey]) -> None:
        self._run = run
        self._found = found
        self._hosts = [name for name in run.scenario.hosts if name in _seen(found)][:MOST_HOSTS]
        self._hosts = self._hosts or list(run.scenario.hosts)[:MOST_HOSTS]
        self._span = max(run.ended * 1.03, 1.0)
        self._bottom = TOP + ROW * len(self._hosts)

    def text(self) -> str:
        height = self._bottom + 50 + LEGEND * (len(self._found) + 1)
        title = self._run.scenario.spec.title or self._run.scenario.source
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
            f"<title>{_safe(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
            '<g font-family="system-ui, sans-serif" font-size="13">',
            _text(24, 34, title, INK, 'font-size="18" font-weight="600"'),
            *self._outages(),
            *self._grid(),
            *self._rows(),
            _text(24, height - 16, SYMBOLS, FAINT, 'font-size="11"'),
        ]
        for number, journey in enumerate(self._found):
            parts += self._journey(journey, number)
            parts += self._legend(journey, number)
        return "\n".join([*parts, "</g>", "</svg>", ""])

    # Where things stand

    def _x(self, seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(seconds / self._span, 0.0), 1.0), 1)

    def _y(self, host: str, number: int = 0) -> float:
        """The middle of a host's row, a little lower for each letter."""
        shift = 0 if len(self._found) < 2 else (number / (len(self._found) - 1) - 0.5) * 26
        return round(TOP + ROW * (self._hosts.index(host) + 0.5) + shift, 1)

    # What stands behind

    def _grid(self) -> Iterator[str]:
        step = next((one for one in STEPS if self._span / one <= 10), STEPS[-1])
        start = self._run.scenario.start
        for turn in range(int(self._span // step) + 1):
            x = self._x(turn * step)
            yield f'<path d="M{x} {TOP - 8}V{self._bottom}" stroke="{GRID}"/>'
            moment = datetime.fromtimestamp(start + turn * step, UTC)
            label = (
                f"{moment:%a %d}" if step >= 86_400 else f"{moment:%a %H:%M}" if step >= 60 else f"{moment:%H:%M:%S}"
            )
            yield _text(x, TOP - 16, label, FAINT, 'text-anchor="middle" font-size="11"')

    def _rows(self) -> Iterator[str]:
        for host in self._hosts:
            y = self._y(host) if len(self._found) < 2 else TOP + ROW * (self._hosts.index(host) + 0.5)
            yield f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{FAINT}" stroke-width="1" opacity="0.5"/>'
            yield _text(24, y + 4, _cut(host, 26), INK, 'font-weight="600"')

    def _outages(self) -> Iterator[str]:
        scenario = self._run.scenario
        for spec in scenario.outages:
            for outage in scenario.outages_of(spec):
                if outage.host not in self._hosts or outage.begin > self._run.ended:
                    continue
                x, end = self._x(outage.begin), self._x(outage.end)
                y = TOP + ROW * self._hosts.index(outage.host)
                says = f"{outage.host}: {outage.how}" + (f" to {outage.peer}" if outage.peer else "")
                yield (
                    f'<rect x="{x}" y="{y + 8}" width="{max(1.0, round(end - x, 1))}" height="{ROW - 16}" rx="4" '
                    f'fill="{DOWN}"><title>{_safe(says)}</title></rect>'
                )

    # Letters

    def _journey(self, journey: Journey, number: int) -> Iterator[str]:
        colour = COLOURS[number % len(COLOURS)]
        for attempt in journey.attempts:
            yield from self._attempt(attempt, number, colour)
        for accepted in journey.accepted:
            if accepted.host in self._hosts:
                x, y = self._x(accepted.at), self._y(accepted.host, number)
                radius = 6 if accepted.here else 4
                yield _hint(
                    f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}" stroke="#ffffff"/>',
                    f"{accepted.host}: {'in the mailbox' if accepted.here else 'taken, goes on'}",
                )
        for notice in journey.notices:
            yield from self._notice(notice, number, colour)

    def _attempt(self, attempt: Attempt, number: int, colour: str) -> Iterator[str]:
        if attempt.host not in self._hosts:
            return
        x, y = self._x(attempt.end), self._y(attempt.host, number)
        for outcome in attempt.outcomes:
            if outcome.ended == "relayed":
                if outcome.host in self._hosts:
                    yield f'<path d="M{x} {y}V{self._y(outcome.host, number)}" stroke="{colour}" stroke-width="2"/>'
            else:
                weight = 3 if outcome.ended else 1.6
                cross = f"M{x - 4} {y - 4}L{x + 4} {y + 4}M{x - 4} {y + 4}L{x + 4} {y - 4}"
                yield _hint(f'<path d="{cross}" stroke="{FAILED}" stroke-width="{weight}"/>', outcome.reply)
            if attempt.made:
                yield f'<path d="M{self._x(attempt.begin)} {y}H{x}" stroke="{colour}" stroke-width="2" opacity="0.6"/>'

    def _notice(self, notice: Journey, number: int, colour: str) -> Iterator[str]:
        told = notice.told
        assert told is not None
        if told.host not in self._hosts:
            return
        x, y = self._x(told.at), self._y(told.host, number)
        yield _hint(
            f'<path d="M{x - 8} {y - 20}h16v11h-16zl8 6l8 -6" fill="#ffffff" stroke="{colour}" stroke-width="1.5"/>',
            f"notice: {told.action}",
        )
        yield from self._journey(notice, number)

    def _legend(self, journey: Journey, number: int) -> Iterator[str]:
        y = self._bottom + 40 + LEGEND * number
        colour = COLOURS[number % len(COLOURS)]
        yield f'<circle cx="34" cy="{y - 4}" r="6" fill="{colour}"/>'
        fates = ", ".join(f"{address}: {fate.state}" for address, fate in journey.fates.items())
        yield _text(50, y, _cut(f"{journey.subject} ({journey.sender}): {fates}", 150), INK)


def _seen(found: Sequence[Journey]) -> set[str]:
    from posthouse.lab.journeys import every

    hosts: set[str] = set()
    for journey in every(found):
        hosts.update(one.host for one in journey.accepted)
        hosts.update(one.host for one in journey.attempts)
        for attempt in journey.attempts:
            hosts.update(one.host for one in attempt.outcomes if one.host)
    return hosts


def _hint(shape: str, text: str) -> str:
    """A shape that says something when the mouse is over it."""
    return f"<g>{shape}<title>{_safe(text)}</title></g>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" {more}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape("".join(c for c in harmless_line(text) if c not in "\ufffe\uffff"))
