"""Writes the reference page of `posthouse doctor` from the catalogue of its findings."""

from __future__ import annotations

import re

from posthouse.app.health import AREAS, Kind, Level, kinds_of

_BEGINNING = """\
# What `posthouse doctor` can find

This page is generated from `posthouse.app.health` (`make docs`); do not edit it. How to use the command tells
[What doctor says](../howto/what-doctor-says.md). Words in capitals stand for what is filled in.

| level | what it says | exit code |
|---|---|---|
| error | something does not work now | 1 |
| warning | it works, and will not for long, or not for everybody | 1 |
| note | worth knowing; it may well be meant so | 0 |
| ok | all is well; told with `-v` | 0 |

`--json` prints one object: `ok` (no error and no warning), `code`, `areas` (those that were looked at), `seconds`, and
`findings`, the worst first, each with `id`, `level`, `area`, `what`, `meaning`, `todo`. The ids do not change from
version to version. What kept an area from being looked at is told whatever was asked for with `--only`. A configuration
that cannot be read gives findings of the area `configuration` alone.
"""


def page() -> str:
    """The page in Markdown."""
    parts = [_BEGINNING]
    for area, catalogue in AREAS.items():
        parts.append(f"## {area}: {catalogue.__doc__}\n")
        kinds = sorted(kinds_of(catalogue), key=lambda kind: -kind.level)
        parts += [_paragraph(kind) for kind in kinds if kind.level > Level.OK]
        well = [f"* `{kind.id}`: {_words(kind.what)}" for kind in kinds if kind.level is Level.OK]
        if well:
            parts.append("When all is well:\n\n" + "\n".join(well) + "\n")
    return "\n".join(parts)


def _paragraph(kind: Kind) -> str:
    return (
        f"### `{kind.id}` ({kind.level.name.lower()})\n\n{_words(kind.what)}\n\n"
        f"**It means:** {_words(kind.meaning)}\n\n**To do:** {_words(kind.todo)}\n"
    )


def _words(text: str) -> str:
    text = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), text)
    return text.replace("*", "\\*").replace("_dmarc", "\\_dmarc").replace("[[", "\\[\\[")
