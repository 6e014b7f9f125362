"""The how-to about the queue is true: its commands print what it shows, beside a running server."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.system.next_host import Act, next_host
from tests.system.outgoing import add_route, submit, wait_tried
from tests.system.server import add_account, run_posthouse, serving
from tests.system.test_tutorial import BLOCK, commands, matches

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "look-into-the-queue.md"

SHOWN = "0d1098531c8f431336fc37"


def test_every_command_of_the_page_prints_what_it_shows(data: Path) -> None:
    add_account(data, "anna@x.mail")
    later: dict[str, Act] = {"rcpt": b"450 4.2.0 Greylisted, try again later\r\n"}
    seen = 0
    with next_host(later) as host, serving(data, "submission") as server:
        add_route(data, "partner.example", host.address)
        letter = submit(server.submission, "anna@x.mail", "boris@partner.example")
        wait_tried(data, letter)
        for _, block in BLOCK.findall(PAGE.read_text(encoding="utf-8").replace(SHOWN, letter)):
            for command, shown in commands(block):
                printed = run_posthouse(data, *shlex.split(command)[1:], code=None)
                said = printed.stdout + printed.stderr
                assert matches(shown, "\n".join(line.rstrip() for line in said.splitlines())), (command, said)
                seen += 1
                if "retry" in command or "release" in command:  # until the attempt is over
                    wait_tried(data, letter, 2 if "retry" in command else 3)
    assert seen == 7
