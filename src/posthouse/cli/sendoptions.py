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


def composing_options(command: Command) -> Command:
    """Adds the options about what a letter is made of."""
    options = (
        click.option("--html", default="", metavar="FILE", help="This HTML as well; without a text one is made of it."),
        click.option("--md", "markdown", is_flag=True, help="The text is Markdown: HTML is made of it as well."),
        click.option("--inline", multiple=True, metavar="FILE", help="A picture that the HTML shows: cid:NAME."),
        click.option("--reply", default="", metavar="N|FILE", help="Answer this letter, in its thread."),
        click.option("--all", "all", is_flag=True, help="With --reply: to all who got the letter."),
        click.option("--quote", is_flag=True, help="With --reply: the letter's text below, line by line."),
        click.option("--forward", default="", metavar="N|FILE", help="Pass this letter on, whole."),
        click.option("--mailbox", default="", metavar="URL", help="Where message N lies: pop3://user@host:port."),
        click.option("--merge", default="", metavar="CSV", help="One letter a row; {{column}} stands for its cells."),
        click.option("--dsn", default="", metavar="WHEN", help="Notices wanted: failure,delay,success or never."),
        click.option(
            "--ret", type=click.Choice(["hdrs", "full"], case_sensitive=False), help="With --dsn: what they bring back."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
