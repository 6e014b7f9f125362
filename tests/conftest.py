"""What all tests share: how hypothesis behaves here, and the list of what had to be left out."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.system.programs import left_out

# A shared machine stalls now and then: an example that was slow once is no bug. The time of a test is bounded
# by pytest-timeout.
settings.register_profile("posthouse", deadline=None)
settings.load_profile("posthouse")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names everything that this machine lacked, so that nobody takes its silence for a success."""
    if not left_out:
        return
    terminalreporter.section("left out")
    for what, tests in sorted(left_out.items()):
        terminalreporter.line(f"{what}: {len(tests)} tests could not run")
