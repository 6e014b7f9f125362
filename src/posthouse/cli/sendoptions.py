"""Groups of options of `posthouse send`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def queue_options(command: Command) -> Command:
    """Adds the options about the outbox to a command."""
    options = (
        click.option("--queue", is_flag=True, help="Only put it into the outbox; posthouse outbox run sends it."),
        click.option("--wait", "no_queue", is_flag=True, help="Keep nothing: what cannot be sent now is an error."),
        click.option(
            "--hold", default="", metavar="TIME", help="Send it after 10s, 5m or 2h; till then it can be taken back."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
