"""Fixtures of the system tests: one server for those that only use it, and the means to start others."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.server import Server, add_account, prepare_data, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server with a listener of each kind. At its end: exit code 0, no traceback, no secret in its log."""
    data = prepare_data(tmp_path_factory.mktemp("server") / "data")
    with serving(data, "smtp", "submission", "pop3", "lmtp") as running:
        yield running


@pytest.fixture(scope="session")
def new_mailbox(server: Server) -> Callable[[], str]:
    """Adds an account of its own, beside the running server, for whoever wants an empty mailbox."""
    numbers = itertools.count(1)
    return lambda: add_account(server.data, f"box{next(numbers)}@x.mail")


@pytest.fixture
def mailbox(new_mailbox: Callable[[], str]) -> str:
    """The address of a new empty mailbox."""
    return new_mailbox()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the lab's domain and accounts that nothing is using; tests take copies."""
    return prepare_data(tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own with the lab's domain and accounts, no server on it yet."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))
