"""`posthouse network`: what the programs of a network may do, also beside a running server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run_networks
from posthouse.cli.output import hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.policy.networks import NetworkService
    from posthouse.ports.store import Network

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
_SPAN: Final = re.compile(r"(\d{1,6})\s*([mhdw])")
_SPANS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def network() -> None:
    """What the programs of a network may do.

    Of the networks that hold an address, the one with the longest prefix counts. Two are built in: this machine may
    do all but relay without a login, everybody else may connect by smtp, submission and pop3, send to mailboxes here,
    and relay after a login. Relaying is sending letters to other servers' mailboxes: posthouse route says where they
    go, posthouse queue shows those that wait.

    \b
    posthouse network add 192.168.1.0/24 --allow relay,clear --note "the office"
    posthouse network add 203.0.113.0/24 --deny connect --for 7d
    posthouse network test 192.168.1.20
    posthouse network list
    """


@network.command("add", cls=Verb)
@click.argument("name", metavar="NETWORK")
@click.option("--allow", multiple=True, metavar="RIGHTS", help="What it may do beside the usual, parted by commas.")
@click.option("--deny", multiple=True, metavar="RIGHTS", help="What it may not do; connect stands for all protocols.")
@click.option("--for", "span", metavar="TIME", help="How long this holds, such as 90m, 12h, 7d or 4w.")
@click.option("--note", default="", metavar="TEXT", help="Why, for whoever reads the list.")
@click.option("--replace", is_flag=True, help="Give a network that is named already new rights.")
@_json
@click.pass_obj
def network_add(
    invocation: Invocation,
    name: str,
    allow: Sequence[str],
    deny: Sequence[str],
    span: str | None,
    note: str,
    replace: bool,
    as_json: bool,
) -> None:
    """Name a network and say what it may do. It counts at once, for new connections.

    \b
    Rights:
      smtp, submission, pop3, lmtp   connect by that protocol
      local        send letters to mailboxes here without a login
      relay        send letters to other servers' mailboxes without a login
      login-relay  send them after a login
      auth25       log in by smtp
      clear        send passwords without encryption
      trusted      have bare line feeds put right and pipeline against the rules
      unlimited    open connections without limit, and be delayed, never banned,
                   for failed logins

    \b
    posthouse network add 10.0.0.0/8 --allow relay,trusted,unlimited
    posthouse network add 2001:db8:7::/48 --allow clear --for 12h
    posthouse network add 203.0.113.9 --deny connect --note "attacks"
    """

    def action() -> int:
        length = _seconds(span)

        async def work(service: NetworkService) -> int:
            import time

            until = None if length is None else time.time() + length
            row = await service.add(name, allow=allow, deny=deny, until=until, note=note, replace=replace)
            text = f"Named the network {row.network}. It may: {' '.join(row.rights) or 'nothing'}."
            return succeed(as_json, text, networks=[_values(row, expired=False)])

        return run_networks(invocation, work, create=True)

    finish("network add", as_json, action)


@network.command("list", cls=Verb)
@_json
@click.pass_obj
def network_list(invocation: Invocation, as_json: bool) -> None:
    """Show the named networks.

    \b
    posthouse network list --json
    """

    async def work(service: NetworkService) -> int:
        found = service.list()
        rows = [
            (one.network, " ".join(one.rights) or "-", _until(one, expired=service.expired(one)), one.note)
            for one in found
        ]
        if not rows:
            hint("No network is named. posthouse network add NETWORK names one.")
        text = table(("NETWORK", "MAY", "UNTIL", "NOTE"), rows) if rows else ""
        return succeed(as_json, text, networks=[_values(one, expired=service.expired(one)) for one in found])

    finish("network list", as_json, lambda: run_networks(invocation, work))


@network.command("remove", cls=Verb)
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@_json
@click.pass_obj
def network_remove(invocation: Invocation, names: Sequence[str], as_json: bool) -> None:
    """Take a network's name away: what is usual holds for it again.

    \b
    posthouse network remove 10.0.0.0/8
    """

    async def work(service: NetworkService) -> int:
        removed = [await service.remove(name) for name in names]
        text = "\n".join(f"{one} has no name any more." for one in removed)
        return succeed(as_json, text, networks=[{"network": one} for one in removed])

    finish("network remove", as_json, lambda: run_networks(invocation, work))


@network.command("test", cls=Verb)
@click.argument("address")
@_json
@click.pass_obj
def network_test(invocation: Invocation, address: str, as_json: bool) -> None:
    """Show what a program at an address may do, and which network says so.

    \b
    posthouse network test 192.0.2.7
    """

    async def work(service: NetworkService) -> int:
        from posthouse.policy.access import MEANINGS

        host, rights = service.test(address)
        lines = [f"{host}: {rights.rule}{'' if rights.named else ' (built in)'}"]
        lines += [f"  {'may    ' if rights.may(word) else 'may not'}  {text}" for word, text in MEANINGS.items()]
        values = {word: rights.may(word) for word in MEANINGS}
        return succeed(
            as_json, "\n".join(lines), address=host, rule=rights.rule, built_in=not rights.named, rights=values
        )

    finish("network test", as_json, lambda: run_networks(invocation, work))


def _seconds(span: str | None) -> float | None:
    """What `--for` says. Raises Problem."""
    if span is None:
        return None
    match = _SPAN.fullmatch(span.strip())
    if match is None or not int(match[1]):
        raise Problem(Exit.USAGE, f'"{span}" is not a time. Write it like 90m, 12h, 7d or 4w.', stage="usage")
    return float(int(match[1]) * _SPANS[match[2]])


def _until(one: Network, *, expired: bool) -> str:
    if one.until is None:
        return "-"
    return f"{moment(one.until)}{' (over)' if expired else ''}"


def _values(one: Network, *, expired: bool) -> dict[str, Any]:
    return {
        "network": one.network,
        "rights": list(one.rights),
        "until": None if one.until is None else moment(one.until),
        "expired": expired,
        "note": one.note,
        "created": moment(one.created),
    }
