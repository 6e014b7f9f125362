"""Domains, accounts and aliases: letters that nobody gets, logins that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.ports.store import Account, Alias, Domain, Store

MOST_NAMED: Final = 10
MOST_ASKED: Final = 1000  # accounts without a password whose app passwords are looked for
NEARLY: Final = 0.95  # of a quota


class Accounts:
    """Domains, accounts and aliases"""

    THERE = Kind("accounts.there", Level.OK, "{domains} domains, {accounts} accounts, {aliases} aliases.")
    NO_DOMAIN = Kind(
        "accounts.no-domain",
        Level.WARNING,
        "There is no domain.",
        "The server takes mail for nobody.",
        "posthouse domain add NAME, then posthouse account add NAME@DOMAIN.",
    )
    NO_ACCOUNT = Kind(
        "accounts.no-account",
        Level.WARNING,
        "There is no account.",
        "The server takes mail for nobody.",
        "posthouse account add NAME@DOMAIN",
    )
    NO_POSTMASTER = Kind(
        "accounts.no-postmaster",
        Level.WARNING,
        "Nobody gets letters to postmaster@{domain}.",
        "Every mail server must take them (RFC 5321 §4.5.1); others write there when something is wrong with yours.",
        "posthouse alias add postmaster@{domain} SOMEBODY, or set accounts.postmaster for all domains.",
    )
    BAD_POSTMASTER = Kind(
        "accounts.bad-postmaster",
        Level.ERROR,
        "accounts.postmaster names {address}, and there is no such account.",
        "Letters to postmaster are refused, and what is answered to notices is lost.",
        "posthouse account add {address}, or name an account that exists.",
    )
    NO_PASSWORD = Kind(
        "accounts.no-password",
        Level.NOTE,
        "Nobody can log in as {accounts}: they have no password.",
        "They receive mail that nobody can collect.",
        "posthouse account passwd ADDRESS",
    )
    NOWHERE = Kind(
        "accounts.alias-nowhere",
        Level.WARNING,
        "The alias {alias} stands for {target}, which does not exist here.",
        "Letters to it are refused for that recipient, or come back to their senders.",
        "posthouse account add {target}, or change the alias: posthouse alias add {alias} SOMEBODY --replace",
    )
    FULL = Kind(
        "accounts.full",
        Level.NOTE,
        "Nearly full, or full: {accounts}.",
        "When a quota is used up, new letters are refused (552 5.2.2).",
        "Have mail collected and deleted: posthouse account show ADDRESS says what is used.",
    )


@dataclass(slots=True)
class People:
    """What the store says. `apps` are the ids of accounts that have an app password."""

    domains: Sequence[Domain]
    accounts: Sequence[Account]
    aliases: Sequence[Alias]
    apps: set[int] = field(default_factory=set)


async def look(store: Store) -> People:
    """Reads it. Raises Unavailable."""
    found = People(await store.domains(), await store.accounts(), await store.aliases())
    closed = [account for account in found.accounts if not account.password]
    for account in closed[:MOST_ASKED]:
        if await store.credentials(account.id):
            found.apps.add(account.id)
    return found


def judge(people: People, postmaster: str) -> Iterator[Finding]:
    """What is to be said of them; `postmaster` is the setting."""
    found = [*_empty(people), *_postmasters(people, postmaster), *_logins(people), *_aliases(people)]
    yield from found
    if not any(finding.level >= Level.WARNING for finding in found):
        yield Accounts.THERE(domains=len(people.domains), accounts=len(people.accounts), aliases=len(people.aliases))


def _empty(people: People) -> Iterator[Finding]:
    if not people.domains:
        yield Accounts.NO_DOMAIN()
    elif not people.accounts and not people.aliases:
        yield Accounts.NO_ACCOUNT()


def _postmasters(people: People, postmaster: str) -> Iterator[Finding]:
    known = _addresses(people)
    if postmaster and postmaster not in known:
        yield Accounts.BAD_POSTMASTER(address=postmaster)
    elif not postmaster and people.accounts:
        lacking = [one.name for one in people.domains if f"postmaster@{one.name}" not in known]
        for domain in lacking[:MOST_NAMED]:
            yield Accounts.NO_POSTMASTER(domain=domain)


def _logins(people: People) -> Iterator[Finding]:
    closed = [one.address for one in people.accounts if not one.password and one.id not in people.apps][:MOST_ASKED]
    if closed:
        yield Accounts.NO_PASSWORD(accounts=_list(closed))
    full = [one.address for one in people.accounts if one.quota and one.used >= NEARLY * one.quota]
    if full:
        yield Accounts.FULL(accounts=_list(full))


def _aliases(people: People) -> Iterator[Finding]:
    """Aliases for addresses of our own domains that nobody has."""
    known = _addresses(people)
    local = {one.name for one in people.domains}
    lost = [
        (alias.address, target)
        for alias in people.aliases
        for target in alias.targets
        if target not in known and target.rpartition("@")[2] in local
    ]
    for alias, target in lost[:MOST_NAMED]:
        yield Accounts.NOWHERE(alias=alias, target=target)


def _addresses(people: People) -> set[str]:
    return {one.address for one in people.accounts} | {one.address for one in people.aliases}


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
