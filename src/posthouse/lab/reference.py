"""Makes the reference page of scenarios from their schema (`make docs` writes it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from posthouse.config.sections import Section
from posthouse.config.values import Kind, Setting
from posthouse.lab.schema import LONGEST, SECTIONS, show_span

_INTRODUCTION: Final = """\
# Scenarios

This page is generated from the program (`make docs`); do not edit it.

A scenario is a TOML file for `posthouse lab internet`: which mail systems there are, what goes wrong, and who writes to
whom. [The tutorial](../tutorial/internet-in-a-box.md) begins with an example; `posthouse lab internet NAME --show`
prints those that come with the program. All errors in a file are told at once, each with its line.

* Times count from the beginning of the scenario. They are seconds, or texts such as `"90s"`, `"5h 10m"`, `"4d"`.
* Sizes are octets, or texts such as `"64K"`, `"1M"` (powers of 1024).
* Where several texts are allowed, one alone needs no brackets.
* Each host has A, AAAA and PTR records for its name and addresses, each of its domains an MX record; `scenario.zone`
  adds others, and where it has MX records for a domain, those count.
"""

_TITLES: Final = {
    "scenario": "[scenario]",
    "host": "[[host]]",
    "route": "[[host.route]]",
    "alias": "[[host.alias]]",
    "outage": "[[outage]]",
    "refusal": "[[refusal]]",
    "names": "[[names]]",
    "letter": "[[letter]]",
    "crowd": "[crowd]",
}


def page() -> str:
    """The whole page in Markdown."""
    return "\n".join([_INTRODUCTION, *("\n".join(_section(SECTIONS[name], title)) for name, title in _TITLES.items())])


def _section(section: Section, title: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{' '.join(section.help.split())}\n"
    for name, setting in section.settings.items():
        yield f"### {section.name}.{name}\n"
        yield f"{setting.help}\n"
        yield from _facts(section, name, setting)
        yield ""


def _facts(section: Section, name: str, setting: Setting) -> Iterator[str]:
    yield f"* Allowed: {setting.allowed}"
    if name in section.required:
        yield "* Required"
    elif name in section.defaults:
        default = section.defaults[name]
        if setting.empty and not default:
            yield f"* Default: {setting.empty}"
        elif default == LONGEST:
            yield "* Default: the end of the scenario"
        elif default not in ("", ()):
            yield f"* Default: `{_shown(setting, default)}`"
    if setting.rfc:
        yield f"* Standard: {setting.rfc}"


def _shown(setting: Setting, default: object) -> str:
    if setting.kind is Kind.SECONDS and isinstance(default, float):
        return f'"{show_span(default)}"' if default else "0"
    return setting.show(default)
