"""`posthouse alias`: addresses that stand for others, also beside a running server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.exits import Verb, finish
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run_aliases
from posthouse.cli.output import hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.accounts.aliases import AliasService
    from posthouse.ports.store import Alias

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def alias() -> None:
    """Addresses here that stand for others.

    A letter to an alias goes to each of the addresses it stands for, here or on other servers. Whoever logs in as one
    of them may also send as the alias.

    \b
    posthouse alias add info@example.org --to anna@example.org --to boris@example.com
    posthouse alias list
    """


@alias.command("add", cls=Verb)
@click.argument("address")
@click.option("--to", "targets", multiple=True, required=True, metavar="ADDRESS", help="For whom it stands.")
@click.option("--note", default="", metavar="TEXT", help="Why, for whoever reads the list.")
@click.option("--replace", is_flag=True, help="Give an alias that exists other addresses.")
@_json
@click.pass_obj
def alias_add(
    invocation: Invocation, address: str, targets: Sequence[str], note: str, replace: bool, as_json: bool
) -> None:
    """Make an address stand for others. It counts at once.

    \b
    posthouse alias add sales@example.org --to anna@example.org --to team@example.com
    """

    async def work(service: AliasService) -> int:
        made = await service.put(address, targets, note=note, replace=replace)
        text = f"{made.address} stands for {', '.join(made.targets)}."
        return succeed(as_json, text, aliases=[_values(made)])

    finish("alias add", as_json, lambda: run_aliases(invocation, work, create=True))


@alias.command("list", cls=Verb)
@click.argument("domain", required=False)
@_json
@click.pass_obj
def alias_list(invocation: Invocation, domain: str | None, as_json: bool) -> None:
    """Show the aliases, or those of a domain.

    \b
    posthouse alias list example.org --json
    """

    async def work(service: AliasService) -> int:
        found = await service.list(domain)
        if not found:
            hint("There is no alias. posthouse alias add ADDRESS --to ADDRESS makes one.")
        rows = [(one.address, ", ".join(one.targets), one.note) for one in found]
        text = table(("ALIAS", "STANDS FOR", "NOTE"), rows) if rows else ""
        return succeed(as_json, text, aliases=[_values(one) for one in found])

    finish("alias list", as_json, lambda: run_aliases(invocation, work))


@alias.command("remove", cls=Verb)
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@_json
@click.pass_obj
def alias_remove(invocation: Invocation, addresses: Sequence[str], as_json: bool) -> None:
    """Take aliases away: letters to them are refused from now on.

    \b
    posthouse alias remove sales@example.org
    """

    async def work(service: AliasService) -> int:
        removed = [await service.remove(address) for address in addresses]
        text = "\n".join(f"Removed the alias {one}." for one in removed)
        return succeed(as_json, text, aliases=[{"alias": one} for one in removed])

    finish("alias remove", as_json, lambda: run_aliases(invocation, work))


def _values(one: Alias) -> dict[str, Any]:
    return {"alias": one.address, "targets": list(one.targets), "note": one.note, "created": moment(one.created)}
