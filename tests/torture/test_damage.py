"""The short form of damage; `make torture` runs more rounds, and prints the figures."""

from __future__ import annotations

from pathlib import Path

from tests.torture import damage

SHORT = ("octets", "page", "root", "header", "cut", "wal-cut", "file-altered", "index-hidden", "older")


def test_no_damage_is_silent_and_none_is_made_worse(tmp_path: Path) -> None:
    """Catches an empty mailbox that nobody is told of, a repair that alters a letter or gives a number out again."""
    complaints, table = damage.run(tmp_path, len(SHORT), seed=1, letters=40, real=len(SHORT), only=SHORT)
    print(table)
    assert complaints == []
