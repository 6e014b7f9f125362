"""`posthouse ban`: who is not let in, also beside a running server, which notices at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.invocation import Invocation, explained
from posthouse.cli.mailstore import not_recorded, refusals, require_store
from posthouse.cli.output import hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.observe.audit import Record
    from posthouse.ports.bans import Ban, BanStore

WIDEST: Final = {4: 8, 6: 16}  # prefix lengths; to shut out more than that is the work of a firewall

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
_account = click.option("--account", metavar="LOGIN", default="", help="Only logins to this account from there.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ban() -> None:
    """Addresses and networks that are not let in.

    \b
    posthouse ban list
    posthouse ban remove 192.0.2.7
    posthouse ban add 198.51.100.0/24 --for 7d
    """


@ban.command("list", cls=Verb)
@_json
@click.pass_obj
def ban_list(invocation: Invocation, as_json: bool) -> None:
    """Show the bans in force.

    Those for failed logins appear about a second after they begin.
    """

    def work(store: BanStore, now: float, _: Record) -> int:
        found = sorted(_in_force(store, now), key=lambda one: one.since)
        rows = [(one.place, one.account or "all", _until(one), one.by, one.reason) for one in found]
        if not rows:
            hint("Nobody is banned.")
        text = table(("PLACE", "ACCOUNT", "UNTIL", "BY", "WHY"), rows) if rows else ""
        return succeed(as_json, text, bans=[_values(one) for one in found])

    finish("ban list", as_json, lambda: _run(invocation, work))


@ban.command("add", cls=Verb)
@click.argument("place", metavar="ADDRESS|NETWORK")
@_account
@click.option("--for", "span", metavar="TIME", help="How long, such as 90m, 12h or 7d; without it, for good.")
@click.option("--why", default="", metavar="TEXT", help="A note for whoever reads the list.")
@_json
@click.pass_obj
def ban_add(invocation: Invocation, place: str, account: str, span: str | None, why: str, as_json: bool) -> None:
    """Let an address or a network in no more, from now on.

    Connections that are open stay. With --account, only logins to that account from there are refused.
    """

    def work(store: BanStore, now: float, record: Record) -> int:
        from posthouse.policy.bans import ADMINISTRATOR
        from posthouse.policy.logins import login_key
        from posthouse.ports.bans import Ban, Changes

        until = None if span is None else now + _seconds(span)
        one = Ban(_place(place), login_key(account) if account else "", now, until, why, ADMINISTRATOR)
        store.merge(Changes(bans=[one]), seen_before=0, ended_before=0)
        store.announce()
        record("banned", place=one.place, account=one.account or "all", until=_until(one), why=one.reason)
        whom = f"{one.place} (only the account {one.account})" if one.account else one.place
        length = "for good" if one.until is None else f"until {_until(one)}"
        return succeed(as_json, f"Banned {whom} {length}.", bans=[_values(one)])

    finish("ban add", as_json, lambda: _run(invocation, work))


@ban.command("remove", cls=Verb)
@click.argument("place", metavar="ADDRESS|NETWORK")
@_account
@_json
@click.pass_obj
def ban_remove(invocation: Invocation, place: str, account: str, as_json: bool) -> None:
    """Let somebody in again, at once.

    All bans of exactly this address or network are lifted, or with --account only that of this account. Failed logins
    are counted anew.
    """

    def work(store: BanStore, now: float, record: Record) -> int:
        from posthouse.policy.logins import login_key
        from posthouse.ports.bans import Changes

        name, whom = _place(place), login_key(account) if account else ""
        found = [one for one in store.bans() if one.place == name and (not whom or one.account == whom)]
        if not any(_counts(one, now) for one in found):
            text = f"{name} is not banned{f' for {whom}' if whom else ''}. posthouse ban list shows who is."
            raise Problem(Exit.NO_USER, text, stage="store")
        store.merge(Changes(lifted=[one.key for one in found]), seen_before=0, ended_before=0)
        store.announce()
        for one in found:
            record("unbanned", place=one.place, account=one.account or "all")
        text = "\n".join(f"Lifted the ban of {one.place} ({one.account or 'all accounts'})." for one in found)
        return succeed(as_json, text, bans=[_values(one) for one in found])

    finish("ban remove", as_json, lambda: _run(invocation, work))


def _run(invocation: Invocation, work: Callable[[BanStore, float, Record], int]) -> int:
    from posthouse.observe.audit import Trail, system_user
    from posthouse.store import become_owner, open_bans

    with explained(), refusals():
        _, data = invocation.load()
        require_store(data)
        who = system_user()
        become_owner(Path(data))
        store = open_bans(data)
        trail = Trail(data, who=who, origin="cli", failed=not_recorded)
        try:
            return work(store, time.time(), trail.record)
        finally:
            store.close()


def _counts(one: Ban, now: float) -> bool:
    return one.until is None or one.until > now


def _in_force(store: BanStore, now: float) -> list[Ban]:
    return [one for one in store.bans() if _counts(one, now)]


def _until(one: Ban) -> str:
    return "for good" if one.until is None else moment(one.until)


def _values(one: Ban) -> dict[str, Any]:
    return {
        "place": one.place,
        "account": one.account,
        "since": moment(one.since),
        "until": None if one.until is None else moment(one.until),
        "by": one.by,
        "why": one.reason,
        "times": one.times,
    }


def _place(text: str) -> str:
    """The address or network in its one form. Raises Problem."""
    from ipaddress import ip_network

    from posthouse.policy.bans import place_name

    try:
        name = place_name(text)
    except ValueError as error:
        advice = "Write one such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64."
        raise Problem(Exit.DATA, f'"{text}" is not an address or a network. {advice}', stage="check") from error
    network = ip_network(name)
    if network.prefixlen < WIDEST[network.version]:
        text = f"{name} is too wide: at least /{WIDEST[network.version]} is allowed. A firewall is for more than that."
        raise Problem(Exit.DATA, text, stage="check")
    return name


def _seconds(text: str) -> float:
    from posthouse.config.values import Kind, Setting, Wrong

    try:
        seconds = Setting(Kind.SECONDS, "", unit="seconds", low=1, high=3650 * 86_400).read(text)
    except Wrong as wrong:
        raise Problem(Exit.USAGE, f"--for {text}: {wrong}.", stage="usage") from wrong
    assert isinstance(seconds, float)
    return seconds
