"""How administration commands tell their results: a table for people, one JSON object for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from posthouse.cli.exits import Exit, print_json
from posthouse.mail.figures import about as about
from posthouse.mail.figures import moment as moment


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns side by side, those numbered in `right` flush right."""
    columns = [[head, *(row[number] for row in rows)] for number, head in enumerate(heads)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in [heads, *rows]:
        cells = [c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_octets(pieces: Iterable[bytes]) -> None:
    """Writes octets to standard output as they are; on a terminal they are made harmless, as everything is there."""
    if not sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    from posthouse.mail.charsets import decoder, harmless

    characters = decoder("utf-8")
    held = ""
    for piece in pieces:
        text = held + characters.decode(piece)
        held = "\r" if text.endswith("\r") else ""
        sys.stdout.write(harmless(text.removesuffix("\r").replace("\r\n", "\n")))
    sys.stdout.write(harmless(held + characters.decode(b"", True)))
    sys.stdout.flush()


def succeed(as_json: bool, text: str, **fields: Any) -> int:
    """Tells that all was done."""
    if as_json:
        print_json({"ok": True, "code": 0, **fields})
    elif text:
        print(text)
    return Exit.OK


def hint(text: str) -> None:
    """Advice for a person who is there to read it."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
