"""The programs of C1 and C2 in their smallest form: would catch a setting that one of them no longer takes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from bench.collecting import PROGRAMS, Collecting
from bench.workloads import Peer

from tests.system.programs import find_program, leave_out
from tests.system.server import find_command


@pytest.mark.parametrize("peer", [None, Peer.MPOP, Peer.GETMAIL])
def test_each_collects_all(peer: Peer | None) -> None:
    if os.geteuid() != 0:
        leave_out("Dovecot needs root to start its login processes")
    for program in ("dovecot", *(Path(path).name for path in PROGRAMS.values())):
        find_program(program)
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-test-") as name:
        Path(name).chmod(0o755)  # the servers' own Unix accounts must get through
        server = Collecting(Path(name), peer, [find_command()])
        server.start(1, letters=7)
        try:
            for tls in (False, True):
                assert server.collect(tls=tls)[2] == 7
        finally:
            server.stop()
