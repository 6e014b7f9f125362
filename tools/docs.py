"""Writes the generated pages and pictures of docs anew: `make docs`, or `python -m tools.docs --check` to compare."""

from __future__ import annotations

import sys
from pathlib import Path

from posthouse.config import reference
from posthouse.lab import reference as scenarios
from posthouse.mail.reply import Pop3, Reply, Smtp
from tools import doctorpage, durability, manpages, noticepage, rfcmap, timetable

DOCS = Path(__file__).parents[1] / "docs"

_REPLIES = """\
# Replies

This page is generated from the registry `posthouse.mail.reply` (`make docs`); do not edit it. Words in braces are
filled in. The second text is that of the style `classic`, where it differs.
"""


def replies() -> str:
    """Every reply of the servers, by protocol and code."""
    parts = [_REPLIES]
    for title, registry in (("SMTP, submission and LMTP", Smtp), ("POP3", Pop3)):
        parts.append(f"## {title}\n\n| code | status | text | classic |\n|---|---|---|---|")
        found = {value for value in vars(registry).values() if isinstance(value, Reply)}
        for reply in sorted(found, key=lambda reply: (reply.code, reply.status, reply.text, reply.classic or "")):
            classic = "" if reply.classic is None else _cell(reply.classic)
            parts.append(f"| {reply.code} | {reply.status} | {_cell(reply.text)} | {classic} |")
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


PAGES = {
    "settings.md": reference.page,
    "replies.md": replies,
    "rfc.md": rfcmap.page,
    "scenario.md": scenarios.page,
    "notices.md": noticepage.page,
    "../images/timetable.svg": timetable.page,
    "../images/durability.svg": durability.page,
    "profile.md": reference.profile_page,
    "doctor.md": doctorpage.page,
}


def pages() -> dict[str, str]:
    """Every generated page, by its path below docs."""
    made = {f"reference/{name}": page() for name, page in PAGES.items()}
    return made | {f"man/{name}": text for name, text in manpages.pages().items()}


def outdated(made: dict[str, str]) -> list[str]:
    """The pages that no longer say what the program does, and man pages of commands that are no more."""
    gone = [f"man/{path.name}" for path in (DOCS / "man").glob("*.1") if f"man/{path.name}" not in made]
    return gone + [
        name
        for name, text in made.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Writes the pages, or with --check names those that must be written anew."""
    made = pages()
    names = outdated(made)
    if "--check" in sys.argv[1:]:
        for name in names:
            print(f"docs/{name} is not what the program says: run `make docs`")
        return 1 if names else 0
    for name in names:
        if name not in made:
            (DOCS / name).unlink()
            print(f"removed docs/{name}")
            continue
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(made[name], encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
