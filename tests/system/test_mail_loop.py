"""Two servers that hand a letter to each other: it stops, and its sender hears of it once (reliability A3)."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.system.outgoing import add_route, queued, submit, wait_notice
from tests.system.raw import collect
from tests.system.server import SENDER, run_posthouse, serving, wait_for

HOPS = 50


def test_a_loop_ends_after_fifty_hops(prepared: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(prepared, tmp_path / "here"))
    there = tmp_path / "there"
    run_posthouse(there, "domain", "add", "far.example")
    for data in (here, there):
        run_posthouse(data, "network", "add", "127.0.0.1", "--allow", "relay")
    with serving(here, "smtp", "submission", "pop3") as ours, serving(there, "smtp") as theirs:
        add_route(here, "loop.example", theirs.smtp.url)
        add_route(there, "loop.example", ours.smtp.url)
        add_route(there, "x.mail", ours.smtp.url)
        submit(ours.submission, SENDER, "boris@loop.example")
        begun = time.monotonic()
        notice = wait_notice(ours, SENDER)
        notice.check("failed", "boris@loop.example", "5.4.6")
        assert time.monotonic() - begun < 15
        assert "goes in a circle" in " ".join(notice.text.split())
        # The letter went to and fro, and no further.
        wait_for(lambda: not queued(here) and not queued(there), lambda: str(queued(here) + queued(there)))
        taken = sum(server.log.count(" accepted ") for server in (ours, theirs))
        assert HOPS - 2 <= taken <= HOPS + 2, taken
        assert collect(ours.pop3, SENDER) == [], "it was told twice"
