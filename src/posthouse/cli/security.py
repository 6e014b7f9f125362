"""The options of the client commands that say how TLS is used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.exits import Exit, Problem

if TYPE_CHECKING:
    from posthouse.clients.security import Security

IMPLICIT: Final = ("smtps", "submissions", "pop3s", "pops")  # schemes of URLs that begin with TLS

Command = Callable[..., Any]


def tls_options(command: Command) -> Command:
    """Adds the options to a command."""
    options = (
        click.option("--tls", "tls", is_flag=True, help="No session without encryption."),
        click.option(
            "--cacert",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Believe the authorities in this PEM file instead of the system's. Implies --tls.",
        ),
        click.option(
            "--pin",
            metavar="SHA256",
            help="Believe only the certificate, or the public key, with this SHA-256. Implies --tls.",
        ),
        click.option("-k", "--insecure", "blind", is_flag=True, help="Believe any certificate. Warns every time."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def security_of(options: dict[str, Any], url: str = "") -> Security:
    """What the options and the scheme of the URL want. Warns of -k. Raises Problem."""
    from posthouse.clients.security import Security, When
    from posthouse.net.tls import Trust, read_pin

    scheme, separator, _ = url.partition("://")
    try:
        pin = read_pin(options["pin"]) if options["pin"] else ""
    except ValueError as error:
        raise Problem(Exit.USAGE, f"--pin: {error}.") from error
    if options["cacert"] is not None and not options["cacert"].exists():
        raise Problem(Exit.NO_INPUT, f"{options['cacert']} is not there.")
    asked = options["tls"] or options["cacert"] is not None or pin
    when = When.ALWAYS if asked else When.OFFERED
    if separator and scheme.lower() in IMPLICIT:
        when = When.AT_ONCE
    blind = bool(options["blind"])
    if blind:
        print("Warning: the server's certificate is not checked (-k). Anybody may be listening.", file=sys.stderr)
    return Security(when, Trust(options["cacert"], pin, blind), here=blind, detail=options["verbose"] > 1)
