"""The how-to about backups is true: its commands print what it shows, beside a running server."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.system.raw import collect, deliver, logged_in
from tests.system.server import READER, SENDER, run_posthouse, serving
from tests.system.test_tutorial import BLOCK, commands, matches

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "back-up-and-bring-back.md"


def delete(endpoint: object, *numbers: int) -> None:
    with logged_in(endpoint, READER) as session:  # type: ignore[arg-type]
        for number in numbers:
            session.pop(b"DELE %d" % number)
        session.pop(b"QUIT")


@pytest.mark.timeout(120)
def test_every_command_of_the_page_prints_what_it_shows(data: Path, tmp_path: Path) -> None:
    """Would catch a page that no longer says what happens, and letters that a server does not see at once."""
    seen = 0
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("/backup/posthouse", str(tmp_path / "backups")).replace("/srv/drill", str(tmp_path / "drill"))
    with serving(data, "smtp", "pop3") as server:
        letters = [b"Subject: The %s\r\n\r\nText\r\n" % name for name in (b"first", b"second", b"third", b"fourth")]
        for letter in letters:
            assert deliver(server.smtp, [READER], letter, sender=SENDER).startswith(b"250")
        for _, block in BLOCK.findall(text):
            for command, shown in commands(block):
                if "--dry-run" in command:
                    delete(server.pop3, 1, 2)
                printed = run_posthouse(data, *shlex.split(command)[1:], code=None)
                said = printed.stdout + printed.stderr
                assert matches(shown, "\n".join(line.rstrip() for line in said.splitlines())), (command, said)
                seen += 1
        found = [letter.partition(b"Subject")[2] for letter in collect(server.pop3, READER)]
        assert found == [letters[number].partition(b"Subject")[2] for number in (2, 3, 0, 1)]
    assert seen == 9
