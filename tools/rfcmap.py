"""Lists which module follows which section of which RFC, from the references that stand in the code."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"

# "RFC 5321 §4.5.2", and further sections of the same document: "RFC 5321 §4.5.3.1.1, §4.5.3.1.2"
_REFERENCE = re.compile(r"RFC (\d+)((?:(?:,| and| to)? ?§[0-9A-Z][0-9A-Za-z.]*)*)")
_SECTION = re.compile(r"§([0-9A-Z](?:[0-9A-Za-z.]*[0-9A-Za-z])?)")

_INTRODUCTION = """\
# Which code follows which RFC

This page is generated from the references in the code (`make docs`); do not edit it.
"""


def find(source: Path = SOURCE) -> dict[int, dict[str, set[str]]]:
    """RFC number -> section ("" for the document as a whole) -> modules that refer to it."""
    found: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file in sorted(source.rglob("*.py")):
        module = ".".join(file.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        # A reference may go on in the next line of a comment or docstring.
        text = re.sub(r"\s*\n\s*#?\s*", " ", file.read_text(encoding="utf-8"))
        for number, sections in _REFERENCE.findall(text):
            for section in _SECTION.findall(sections) or [""]:
                found[int(number)][section].add(module)
    return found


def page() -> str:
    """The page in Markdown."""
    parts = [_INTRODUCTION]
    for number, sections in sorted(find().items()):
        parts.append(f"## RFC {number}\n\n| section | code |\n|---|---|")
        for section, modules in sorted(sections.items(), key=lambda item: _order(item[0])):
            parts.append(
                f"| {f'§{section}' if section else 'as a whole'} | {', '.join(f'`{m}`' for m in sorted(modules))} |"
            )
        parts.append("")
    return "\n".join(parts)


def _order(section: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (10**6, part) for part in section.split(".") if section]
