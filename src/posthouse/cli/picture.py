"""The path of a message as a picture (SVG)."""

from __future__ import annotations

from html import escape
from typing import Final

from posthouse.cli.tracing import duration, host
from posthouse.mail.charsets import harmless_line
from posthouse.mail.path import CLOCKS, Leg, Path

WIDTH, ROW, TOP, LINE_AT = 820, 74, 96, 40  # pixels: the picture, a hop, the title, the line of travel
BAR: Final = 220  # pixels of the bar of the slowest hop
CLAIMED, OURS, SLOW, INK, FAINT = "#8a94a6", "#1f7a4d", "#c2570c", "#1b2430", "#5b6675"


def draw(path: Path) -> str:
    """The picture: hosts from top to bottom, between them how, how long, and where our own servers begin."""
    most = (path.slowest.delay or 0) if path.slowest is not None else 0
    height = TOP + ROW * (len(path.legs) + 1)
    title = f"The path of a letter: {'unknown' if path.total is None else duration(path.total)}, {len(path.legs)} hops"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{_safe(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        '<g font-family="system-ui, sans-serif" font-size="14">',
        _text(24, 34, title, INK, 'font-size="18" font-weight="600"'),
        _text(24, 58, _people(path), FAINT),
    ]
    for place, leg in enumerate(path.legs):
        before = path.legs[place - 1] if place else None
        parts += _hop(leg, TOP + ROW * place, most, first=before is None)
        if leg.trusted and before is not None and not before.trusted:
            y = TOP + ROW * place - 22
            parts.append(f'<path d="M24 {y}H{WIDTH - 24}" stroke="{OURS}" stroke-dasharray="6 5"/>')
            parts.append(_text(WIDTH - 24, y - 5, "above: claimed", CLAIMED, 'text-anchor="end" font-size="12"'))
            parts.append(_text(WIDTH - 24, y + 15, "below: our own servers", OURS, 'text-anchor="end" font-size="12"'))
    if path.legs:
        last = path.legs[-1]
        y = TOP + ROW * len(path.legs)
        parts.append(f'<circle cx="{LINE_AT}" cy="{y}" r="7" fill="{_shade(last)}"/>')
        parts.append(_text(64, y + 5, _cut(last.stamp.by or "(nobody)"), INK, 'font-weight="600"'))
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _hop(leg: Leg, y: int, most: int, *, first: bool) -> list[str]:
    shade = _shade(leg)
    slow = leg.delay is not None and 0 < leg.delay == most
    dashes = "" if leg.trusted else ' stroke-dasharray="3 4"'
    parts = [
        f'<path d="M{LINE_AT} {y}V{y + ROW}" stroke="{shade}" stroke-width="3"{dashes}/>',
        f'<circle cx="{LINE_AT}" cy="{y}" r="7" fill="{shade}"/>',
        _text(64, y + 5, _cut(host(leg.stamp.source, leg.stamp.ip)), INK, 'font-weight="600"'),
    ]
    tls = "" if leg.stamp.tls is None else f" · {leg.stamp.tls[0] or 'TLS'}"
    parts.append(_text(64, y + 40, _cut(f"{leg.n}. {leg.stamp.protocol or 'no protocol said'}{tls}"), FAINT))
    if leg.delay is not None:
        colour = SLOW if slow or leg.delay < 0 else FAINT
        if leg.delay > 0:
            width = max(4, round(leg.delay / most * BAR))
            parts.append(f'<rect x="340" y="{y + 28}" width="{width}" height="14" rx="3" fill="{colour}"/>')
            parts.append(_text(350 + width, y + 40, duration(leg.delay), colour))
        else:
            parts.append(_text(340, y + 40, duration(leg.delay), colour))
    if notes := [note for note in leg.notes if note != CLOCKS]:
        parts.append(_text(64, y + 56, _cut("; ".join(notes), 110), SLOW, 'font-size="11"'))
    return parts


def _people(path: Path) -> str:
    return _cut(f"{path.first('from') or 'somebody'} → {path.first('to') or 'somebody'}", 100)


def _shade(leg: Leg) -> str:
    return OURS if leg.trusted else CLAIMED


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: int, y: int, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" {more}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape("".join(c for c in harmless_line(text) if c not in "\ufffe\uffff"))
