"""The options that mean the same in every client command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from posthouse.cli.security import tls_options

Command = Callable[..., Any]

CONFIG: Final = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file with your accounts; else config.toml in the usual place for programs' settings.",
)
TIMEOUT: Final = click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=None, metavar="S", help="Seconds to wait each time."
)
VERBOSE: Final = click.option(
    "-v", "--verbose", count=True, help="Print the dialogue with the server on standard error; -vv its certificate too."
)
OUTPUT: Final = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but what was asked for and errors."),
    click.option("--no-color", is_flag=True, help="No colours on a terminal, as with the variable NO_COLOR."),
)


def _accounts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from posthouse.cli.completion import accounts

    return list(accounts(context, parameter, incomplete))


def output_options(command: Command) -> Command:
    """How the answer is told."""
    for option in reversed(OUTPUT):
        command = option(command)
    return command


def server_options(url: str = "") -> Callable[[Command], Command]:
    """Which account, or which server for once (`url` shows what one looks like), and how it is spoken to."""
    once = click.option("--url", default="", metavar="URL", help=f"The server for once, without an account: {url}.")
    options: tuple[Command, ...] = (
        click.option(
            "-A",
            "--account",
            default="",
            metavar="NAME",
            shell_complete=_accounts,
            help="The account of your profile file.",
        ),
        CONFIG,
        *([once] if url else []),
        click.option("-u", "--user", default="", metavar="USER", help="The login name."),
        click.option("--password-stdin", is_flag=True, help="The first line of standard input is the password."),
        click.option("--insecure-auth", is_flag=True, help="Send the password in clear, outside this machine too."),
        TIMEOUT,
        tls_options,
        VERBOSE,
        *OUTPUT,
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
