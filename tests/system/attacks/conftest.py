"""A server that takes only 127.0.0.1 and ::1 for itself: other addresses of the loopback network are strangers to it,
as an attacker's are in the world. `limits.local` is an ordinary setting, for machines with more than one tenant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.system.server import Server, serving

STRANGERS = '[limits]\nlocal = ["127.0.0.1/32", "::1/128"]\n'

Start = Callable[[str], AbstractContextManager[Server]]


@pytest.fixture
def start(data: Path) -> Start:
    """Starts a server with these further lines in its configuration, the first of them in [limits]."""

    @contextlib.contextmanager
    def begin(limits: str = "") -> Iterator[Server]:
        (data / "posthouse.toml").write_text(f'{STRANGERS}{limits}\n[accounts]\nhash_memory = "64K"\nhash_passes = 1\n')
        listeners = ("smtp=0.0.0.0:0", "submission=0.0.0.0:0", "pop3=0.0.0.0:0")
        with serving(data, *listeners) as server:
            yield server

    return begin
