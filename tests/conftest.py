"""What all tests share: how hypothesis behaves here, and the list of what had to be left out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.system.programs import left_out

# A shared machine stalls now and then: an example that was slow once is no bug. The time of a test is bounded
# by pytest-timeout.
settings.register_profile("posthouse", deadline=None)
settings.load_profile("posthouse")


@pytest.fixture(scope="session", autouse=True)
def no_profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody's own accounts: whoever runs the tests may have a profile for the clients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("no-profile")))
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names everything that this machine lacked, so that nobody takes its silence for a success."""
    if not left_out:
        return
    terminalreporter.section("left out")
    for what, tests in sorted(left_out.items()):
        terminalreporter.line(f"{what}: {len(tests)} tests could not run")
