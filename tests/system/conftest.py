"""Fixtures of the system tests: one server for those that only use it, and the means to start others."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.raw import collect
from tests.system.server import Server, add_account, prepare_data, run_posthouse, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server with a listener of each kind. At its end: exit code 0, no traceback, no secret in its log."""
    data = prepare_data(tmp_path_factory.mktemp("server") / "data")
    with serving(data, "smtp", "submission", "submissions", "pop3", "pop3s", "lmtp") as running:
        yield running


@pytest.fixture(scope="session")
def spare_mailboxes() -> list[str]:
    """Mailboxes that earlier tests left empty."""
    return []


@pytest.fixture
def new_mailbox(server: Server, spare_mailboxes: list[str]) -> Iterator[Callable[[], str]]:
    """Gives empty mailboxes, adding accounts beside the running server when no test has left one."""
    taken: list[str] = []

    def take() -> str:
        taken.append(
            spare_mailboxes.pop() if spare_mailboxes else add_account(server.data, f"box{next(_numbers)}@x.mail")
        )
        return taken[-1]

    yield take
    for address in taken:
        collect(server.pop3, address)
        spare_mailboxes.append(address)


_numbers = itertools.count(1)


@pytest.fixture
def mailbox(new_mailbox: Callable[[], str]) -> str:
    """The address of an empty mailbox."""
    return new_mailbox()


@pytest.fixture
def sender(server: Server, new_mailbox: Callable[[], str]) -> Iterator[str]:
    """Somebody with an empty mailbox; what is left of their letters in the queue is dropped at the end."""
    address = new_mailbox()
    yield address
    run_posthouse(server.data, "queue", "drop", "--sender", address, code=None)


@pytest.fixture
def domain(request: pytest.FixtureRequest) -> str:
    """A domain of the test's own: no other test has told the server anything about it."""
    name: str = request.node.name
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-") + ".example"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the lab's domain and accounts that nothing is using; tests take copies."""
    return prepare_data(tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own with the lab's domain and accounts, no server on it yet."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))
