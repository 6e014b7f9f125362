"""Draws what is on the disk when (SVG). `LANES` is what the picture shows; tests/system/test_durability.py compares it
with the system calls of a running server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WIDTH, LEFT, TOP, LANE, BOX, GAP = 940, 24, 112, 150, 46, 8  # pixels
INK, FAINT = "#1b2430", "#5b6675"
MEMORY, WRITTEN, SYNCED, PROMISED = "#e3e7ec", "#f5c26b", "#3b82c4", "#1f7a4d"


@dataclass(slots=True, frozen=True)
class Step:
    """A box. `call` is the system call as the test sees it, empty for what is none."""

    text: str
    colour: str
    call: str = ""
    second: str = ""


@dataclass(slots=True, frozen=True)
class Lane:
    """One way onto the disk, and what a power cut leaves before and after its COMMIT."""

    name: str
    steps: tuple[Step, ...]
    before: str
    after: str


_ROWS = Step("rows into the", WRITTEN, "write wal", "database log (WAL)")
_COMMIT = Step("COMMIT: the log", SYNCED, "sync wal", "is synced")

LANES: Final = (
    Lane(
        "A letter up to 128 KiB",
        (
            Step("octets arrive", MEMORY, second="in memory"),
            _ROWS,
            _COMMIT,
            Step("250", PROMISED, "reply 250", "is said"),
        ),
        "cut here: it is not there, and its sender sends it again",
        "cut here: it is there",
    ),
    Lane(
        "A larger letter",
        (
            Step("octets into a", WRITTEN, "write staged", "file in staging"),
            Step("the file", SYNCED, "sync staged", "is synced"),
            Step("moved to", WRITTEN, "rename", "content/"),
            Step("the folder", SYNCED, "sync folder", "is synced"),
            _ROWS,
            _COMMIT,
            Step("250", PROMISED, "reply 250", "is said"),
        ),
        "cut here: at most a file that nothing names; the next start removes it",
        "cut here: it is there",
    ),
    Lane(
        "A deletion by POP3",
        (
            Step("DELE", MEMORY, second="marked in memory"),
            _ROWS,
            _COMMIT,
            Step("+OK to QUIT", PROMISED, "reply +OK", "is said"),
            Step("a week later", WRITTEN, "unlink", "the file goes"),
        ),
        "cut here: all of them are still there",
        "cut here: all of them are gone (and can be brought back)",
    ),
)


def page() -> str:
    """The picture."""
    height = TOP + len(LANES) * LANE - 30
    title = "What is on the disk when"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        '<g font-family="system-ui, sans-serif" font-size="12">',
        _text(LEFT, 36, title, INK, 'font-size="18" font-weight="600"'),
    ]
    legend = ((MEMORY, "in memory"), (WRITTEN, "written, not synced"), (SYNCED, "synced"), (PROMISED, "promised"))
    for place, (colour, text) in enumerate(legend):
        x = LEFT + place * 165
        parts.append(f'<rect x="{x}" y="56" width="14" height="14" rx="3" fill="{colour}"/>')
        parts.append(_text(x + 21, 68, text, FAINT))
    for number, lane in enumerate(LANES):
        parts += _lane(lane, TOP + number * LANE)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _lane(lane: Lane, y: int) -> list[str]:
    parts = [_text(LEFT, y + 4, lane.name, INK, 'font-size="14" font-weight="600"')]
    wide = (WIDTH - 2 * LEFT + GAP) / 7 - GAP
    commit = lane.steps.index(_COMMIT)
    for place, step in enumerate(lane.steps):
        x = round(LEFT + place * (wide + GAP), 1)
        ink = "#ffffff" if step.colour in (SYNCED, PROMISED) else INK
        parts.append(f'<rect x="{x}" y="{y + 16}" width="{wide:.1f}" height="{BOX}" rx="6" fill="{step.colour}"/>')
        middle = round(x + wide / 2, 1)
        anchor = 'text-anchor="middle"'
        parts.append(_text(middle, y + 36, step.text, ink, f'{anchor} font-weight="600"'))
        parts.append(_text(middle, y + 52, step.second, ink, anchor))
    begin, turn = LEFT, round(LEFT + (commit + 1) * (wide + GAP) - GAP / 2, 1)
    end = round(LEFT + len(lane.steps) * (wide + GAP) - GAP, 1)
    parts += _bracket(begin, turn - 3, y + 76, lane.before, FAINT)
    parts += _bracket(turn + 3, end, y + 76, lane.after, PROMISED, below=True)
    return parts


def _bracket(left: float, right: float, y: int, text: str, colour: str, *, below: bool = False) -> list[str]:
    """A line below boxes, and what is said of them; `below` puts the words one line lower."""
    return [
        f'<path d="M{left} {y - 6}V{y}H{right}V{y - 6}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
        _text(left, y + (32 if below else 16), text, colour),
    ]


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" {more}>{text}</text>'.replace(" >", ">")
