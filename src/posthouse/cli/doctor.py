"""`posthouse doctor`: finds out what is wrong."""

from __future__ import annotations

import functools

import click

from posthouse.cli.exits import Verb, finish
from posthouse.cli.invocation import Invocation


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", is_flag=True, help="Check that every letter is there and whole. The only check so far.")
@click.option("--quick", is_flag=True, help="Only what takes seconds: do not read every letter.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.pass_obj
def doctor(invocation: Invocation, store: bool, quick: bool, as_json: bool) -> None:
    """Find out what is wrong.

    It may run beside a server and changes nothing. The exit code is 0 when all is well and 1 when damage was found.

    \b
    posthouse doctor --store
    """
    from posthouse.cli import doctorstore

    finish("doctor", as_json, functools.partial(doctorstore.examine, invocation, full=not quick, as_json=as_json))
