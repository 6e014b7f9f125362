"""`posthouse doctor`: finds out what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.invocation import Invocation

AREAS = (
    *("configuration", "server", "ports", "certificates", "dns", "disk", "clock", "store", "queue", "routes"),
    "accounts",
)


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(AREAS),
    metavar="AREA",
    help=f"Only this area (repeat it): {', '.join(AREAS)}.",
)
@click.option("--offline", is_flag=True, help="Ask neither DNS nor anything else beyond this machine.")
@click.option("-v", "--verbose", is_flag=True, help="Tell what is well, too.")
@click.option("--store", is_flag=True, help="Check that every letter is there and whole, and nothing else.")
@click.option("--quick", is_flag=True, help="With --store: only what takes seconds, do not read every letter.")
@click.option(
    "--repair", is_flag=True, help="With --store: mend what can be mended, put the rest aside (no server may run)."
)
@click.option("--dry-run", is_flag=True, help="With --repair: only say what would be done.")
@click.option("--yes", is_flag=True, help="With --repair: do not ask.")
@click.option("--no-color", is_flag=True, help="No colours on a terminal, as with the variable NO_COLOR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.pass_obj
def doctor(
    invocation: Invocation,
    only: Sequence[str],
    offline: bool,
    verbose: bool,
    store: bool,
    quick: bool,
    repair: bool,
    dry_run: bool,
    yes: bool,
    no_color: bool,
    as_json: bool,
) -> None:
    """Find out what is wrong, what it means and what to do.

    It looks at the configuration, the ports and what answers there, certificates and their dates, the DNS of every
    domain, the disk and the rights of its files, the clock, the queue, accounts and routes, and glances at the store.
    It takes at most some 15 seconds, may run beside a server or before its first start, and changes nothing. Root sees
    most; the server's own user sees nearly all.

    \b
    posthouse doctor
    posthouse doctor --offline -v
    posthouse doctor --only certificates --only dns --json
    posthouse doctor --store
    posthouse doctor --store --repair --dry-run
    posthouse doctor --store --repair

    --repair makes a new database of everything that can be read and keeps the old one. Letters that are not whole any
    more are put into lost+found in the data directory, with what is known of them.

    Exit code 0: all is well, or there are only notes. 1: something is wrong.
    """

    def action() -> int:
        if (quick or repair) and not store:
            raise Problem(Exit.USAGE, f"{'--quick' if quick else '--repair'} is for --store.", stage="usage")
        if (dry_run or yes) and not repair:
            raise Problem(Exit.USAGE, "--dry-run and --yes are for --repair.", stage="usage")
        if store and (only or offline):
            raise Problem(Exit.USAGE, "--store is a check of its own: leave --only and --offline out.", stage="usage")
        if store:
            from posthouse.cli import doctorstore

            if repair:
                return doctorstore.repair(invocation, ask=not (yes or dry_run), dry=dry_run, as_json=as_json)
            return doctorstore.examine(invocation, full=not quick, as_json=as_json)
        from posthouse.cli import doctorwide

        view = doctorwide.View(as_json=as_json, verbose=verbose, plain=no_color)
        return doctorwide.examine(invocation, only or AREAS, offline=offline, view=view)

    finish("doctor", as_json, action)
