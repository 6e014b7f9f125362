"""A server that takes only 127.0.0.1 and ::1 for itself: other addresses of the loopback network are strangers to it,
as an attacker's are in the world. That is done with `posthouse network`, as an administrator would."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.system.server import Server, run_posthouse, serving

DENIED = "unlimited,trusted,auth25,lmtp"
"""What this machine may do and strangers may not. `clear` stays: most attacks are easier to read without TLS."""

Start = Callable[[str], AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def mistrusting(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which the loopback network, but for 127.0.0.1, was named; tests take copies."""
    data = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("mistrusting") / "data"))
    run_posthouse(data, "network", "add", "127.0.0.0/8", "--deny", DENIED)
    run_posthouse(data, "network", "add", "127.0.0.1")
    return data


@pytest.fixture
def start(mistrusting: Path, tmp_path: Path) -> Start:
    """Starts a server with these further lines in its configuration, the first of them in [limits]."""
    data = Path(shutil.copytree(mistrusting, tmp_path / "data"))

    @contextlib.contextmanager
    def begin(limits: str = "") -> Iterator[Server]:
        (data / "posthouse.toml").write_text(f'[limits]\n{limits}\n[accounts]\nhash_memory = "64K"\nhash_passes = 1\n')
        listeners = ("smtp=0.0.0.0:0", "submission=0.0.0.0:0", "pop3=0.0.0.0:0")
        with serving(data, *listeners) as server:
            yield server

    return begin
