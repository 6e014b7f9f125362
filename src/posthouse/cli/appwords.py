"""`posthouse account app-password`: passwords for single programs, shown once and taken back one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from posthouse.cli.exits import Verb, finish
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run
from posthouse.cli.output import hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.accounts.directory import AccountDirectory

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
_all = "all"


@click.group("app-password", context_settings={"help_option_names": ["-h", "--help"]})
def app_password() -> None:
    """Passwords for single programs, each of which can be taken back alone.

    \b
    posthouse account app-password add anna@example.org phone
    posthouse account app-password add anna@example.org printer --for smtp
    posthouse account app-password list anna@example.org
    posthouse account app-password revoke anna@example.org phone
    """


@app_password.command("add", cls=Verb)
@click.argument("address")
@click.argument("name")
@click.option(
    "--for",
    "protocols",
    metavar="PROTOCOL",
    multiple=True,
    help="What it opens: smtp, pop3 or imap. Can be given several times; without it all of them.",
)
@_json
@click.pass_obj
def add(invocation: Invocation, address: str, name: str, protocols: Sequence[str], as_json: bool) -> None:
    """Make a password for one program. It is shown once, and nobody can be told it again.

    NAME says which program it is for, such as phone.
    """

    async def work(directory: AccountDirectory) -> int:
        key, password = await directory.add_app_password(address, name, protocols)
        hint("Write it into the program now: it is not shown again.")
        result = {"address": key, "name": name, "protocols": list(protocols) or [_all], "password": password}
        return succeed(as_json, password, app_passwords=[result])

    finish("account app-password add", as_json, lambda: run(invocation, work))


@app_password.command("list", cls=Verb)
@click.argument("address")
@_json
@click.pass_obj
def show(invocation: Invocation, address: str, as_json: bool) -> None:
    """Show which app passwords somebody has, and when they were last used."""

    async def work(directory: AccountDirectory) -> int:
        key, found = await directory.app_passwords(address)
        values = [
            {
                "address": key,
                "name": one.name,
                "protocols": one.protocols.split(",") if one.protocols else [_all],
                "created": moment(one.created),
                "used": moment(one.used) if one.used else None,
            }
            for one in found
        ]
        rows = [
            (
                one.name,
                one.protocols.replace(",", " ") or _all,
                moment(one.created),
                moment(one.used) if one.used else "-",
            )
            for one in found
        ]
        if not rows:
            hint(f"{key} has no app password. posthouse account app-password add {key} NAME makes one.")
        text = table(("NAME", "FOR", "MADE", "LAST USED"), rows) if rows else ""
        return succeed(as_json, text, app_passwords=values)

    finish("account app-password list", as_json, lambda: run(invocation, work))


@app_password.command("revoke", cls=Verb)
@click.argument("address")
@click.argument("name")
@_json
@click.pass_obj
def revoke(invocation: Invocation, address: str, name: str, as_json: bool) -> None:
    """Take an app password back. The next login with it is refused."""

    async def work(directory: AccountDirectory) -> int:
        key = await directory.revoke_app_password(address, name)
        text = f"Revoked the app password {name} of {key}."
        return succeed(as_json, text, app_passwords=[{"address": key, "name": name}])

    finish("account app-password revoke", as_json, lambda: run(invocation, work))
