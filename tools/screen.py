"""Draws text from standard input as a terminal window: `posthouse demo | python tools/screen.py TITLE > demo.svg`.

The picture in the README is made of the real output of the demo, so that it cannot promise anything else.
"""

from __future__ import annotations

import re
import sys
from xml.sax.saxutils import escape

WIDTH, LINE, LEFT, TOP = 8.4, 19, 18, 58  # pixels: a character, a line, the margins
COLOURS = [
    (re.compile(r"^\$ "), "#7ee787"),  # what a person types
    (re.compile(r"^(Input|Select)"), "#d2a8ff"),  # what the program asks
    (re.compile(r"^(\d{3}[ -]|\+OK|-ERR)"), "#79c0ff"),  # what the server says
    (re.compile(r"^(---|===)"), "#8b949e"),
]


def colour(line: str) -> str:
    """The colour of a line by how it begins."""
    return next((shade for pattern, shade in COLOURS if pattern.search(line)), "#e6edf3")


def draw(lines: list[str], title: str) -> str:
    """The picture as SVG."""
    columns = max([60, *map(len, lines)])
    width, height = round(columns * WIDTH + 2 * LEFT), TOP + LINE * len(lines) + 10
    rows = [
        f'<text x="{LEFT}" y="{TOP + LINE * number}" fill="{colour(line)}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    dots = [
        f'<circle cx="{22 + 20 * n}" cy="20" r="6" fill="{shade}"/>'
        for n, shade in enumerate(("#ff5f56", "#ffbd2e", "#27c93f"))
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#0d1117"/>',
            *dots,
            f'<text x="{width / 2}" y="25" fill="#8b949e" text-anchor="middle" font-family="sans-serif" '
            f'font-size="13">{escape(title)}</text>',
            '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">',
            *rows,
            "</g>",
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(draw(sys.stdin.read().rstrip("\n").split("\n"), " ".join(sys.argv[1:]) or "posthouse"))
