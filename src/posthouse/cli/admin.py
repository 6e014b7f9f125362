"""`posthouse domain` and `posthouse account`: administration, also beside a running server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.appwords import app_password
from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json
from posthouse.cli.invocation import Invocation, explained
from posthouse.cli.mailstore import run
from posthouse.cli.output import about, hint, moment, succeed, table
from posthouse.cli.undelete import account_undelete

if TYPE_CHECKING:
    from posthouse.accounts.directory import AccountDirectory, Added
    from posthouse.ports.store import Account

PASSWORDS: Final = 10_000_000  # octets of standard input

_HELP = {"help_option_names": ["-h", "--help"]}
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
_yes = click.option("--yes", is_flag=True, help="Do not ask before anything is removed.")


@click.group(context_settings=_HELP)
def domain() -> None:
    """The domains whose mail lies here.

    \b
    posthouse domain add example.org
    posthouse domain list
    """


@click.group(context_settings=_HELP)
def account() -> None:
    """The people who have a mailbox here.

    \b
    posthouse account add anna@example.org
    posthouse account add anna@example.org boris@example.org --password-stdin < passwords.txt
    posthouse account add anna@example.org boris@example.org --hash-stdin < hashes.txt
    posthouse account passwd anna@example.org
    posthouse account app-password add anna@example.org phone
    posthouse account undelete anna@example.org --list
    posthouse account list example.org
    """


account.add_command(app_password)
account.add_command(account_undelete)


@domain.command("add", cls=Verb)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_json
@click.pass_obj
def domain_add(invocation: Invocation, names: Sequence[str], as_json: bool) -> None:
    """Take in mail for a domain from now on."""

    async def work(directory: AccountDirectory) -> int:
        added = [(await directory.add_domain(name)).name for name in names]
        for name in added:
            hint(f"Next: posthouse account add postmaster@{name} (every domain must take its letters)")
        text = "\n".join(f"Added the domain {_text(name)}." for name in added)
        return succeed(as_json, text, domains=[{"name": name, "text": _text(name)} for name in added])

    finish("domain add", as_json, lambda: run(invocation, work, create=True))


@domain.command("list", cls=Verb)
@_json
@click.pass_obj
def domain_list(invocation: Invocation, as_json: bool) -> None:
    """Show the domains."""

    async def work(directory: AccountDirectory) -> int:
        found = await directory.domains()
        rows = [(_text(one.name), str(one.accounts), moment(one.created)) for one in found]
        text = table(("DOMAIN", "ACCOUNTS", "ADDED"), rows, right=(1,)) if rows else ""
        if not rows:
            hint("There is no domain yet. posthouse domain add NAME adds one.")
        values = [
            {"name": one.name, "text": _text(one.name), "accounts": one.accounts, "created": moment(one.created)}
            for one in found
        ]
        return succeed(as_json, text, domains=values)

    finish("domain list", as_json, lambda: run(invocation, work))


@domain.command("remove", cls=Verb)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_json
@click.pass_obj
def domain_remove(invocation: Invocation, names: Sequence[str], as_json: bool) -> None:
    """Take in no more mail for a domain. Its accounts must be removed before."""

    async def work(directory: AccountDirectory) -> int:
        removed = [await directory.remove_domain(name) for name in names]
        text = "\n".join(f"Removed the domain {_text(name)}." for name in removed)
        return succeed(as_json, text, domains=[{"name": name, "text": _text(name)} for name in removed])

    finish("domain remove", as_json, lambda: run(invocation, work))


@account.command("add", cls=Verb)
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input: one line for all, or one each."
)
@click.option(
    "--hash-stdin", is_flag=True, help="Read from standard input the hashes that another server made, one line each."
)
@click.option("--quota", metavar="SIZE", help="How much mail it may hold, such as 500M; 0 for no limit.")
@_json
@click.pass_obj
def account_add(
    invocation: Invocation,
    addresses: Sequence[str],
    password_stdin: bool,
    hash_stdin: bool,
    quota: str | None,
    as_json: bool,
) -> None:
    """Give somebody a mailbox.

    Several addresses may be given; one that cannot be added does not stop the others. With --password-stdin there is
    either one line, the password of all of them, or one line for each, in their order.

    With --hash-stdin people keep the passwords they had: bcrypt, SHA-crypt, {SCHEME} hashes of Dovecot, those of
    hMailServer, MD5 and SHA. Each is replaced by a better one at the first login.
    """

    def action() -> int:
        limit = _quota(quota)
        passwords = _secrets(addresses, passwords=password_stdin, hashes=hash_stdin)

        async def work(directory: AccountDirectory) -> int:
            wanted = list(zip(addresses, passwords, strict=True))
            added = await directory.add_accounts(wanted, limit, hashed=hash_stdin)
            return _tell_added(added, as_json)

        return run(invocation, work)

    finish("account add", as_json, action)


@account.command("passwd", cls=Verb)
@click.argument("address")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@click.option("--hash-stdin", is_flag=True, help="Read from standard input the hash that another server made.")
@_json
@click.pass_obj
def account_passwd(invocation: Invocation, address: str, password_stdin: bool, hash_stdin: bool, as_json: bool) -> None:
    """Change somebody's password. The new one counts at once; app passwords stay as they are."""

    def action() -> int:
        [password] = _secrets([address], passwords=password_stdin, hashes=hash_stdin)

        async def work(directory: AccountDirectory) -> int:
            change = directory.set_hash if hash_stdin else directory.set_password
            key = await change(address, password)
            return succeed(as_json, f"Changed the password of {key}.", accounts=[{"address": key}])

        return run(invocation, work)

    finish("account passwd", as_json, action)


@account.command("list", cls=Verb)
@click.argument("domain_name", required=False, metavar="[DOMAIN]")
@_json
@click.pass_obj
def account_list(invocation: Invocation, domain_name: str | None, as_json: bool) -> None:
    """Show the accounts, those of one domain or all."""

    async def work(directory: AccountDirectory) -> int:
        found = await directory.accounts(domain_name)
        rows = [
            (one.address, str(one.messages), about(one.used), about(one.quota) if one.quota else "-") for one in found
        ]
        text = table(("ACCOUNT", "LETTERS", "SIZE", "QUOTA"), rows, right=(1, 2, 3)) if rows else ""
        if not rows:
            hint("There is no account yet. posthouse account add ADDRESS adds one.")
        return succeed(as_json, text, accounts=[_values(one) for one in found])

    finish("account list", as_json, lambda: run(invocation, work))


@account.command("show", cls=Verb)
@click.argument("address")
@_json
@click.pass_obj
def account_show(invocation: Invocation, address: str, as_json: bool) -> None:
    """Show one account, and whom it may name as sender.

    \b
    posthouse account show anna@example.org
    """

    async def work(directory: AccountDirectory) -> int:
        one = await directory.account(address)
        lines = [
            f"{one.address}: {one.messages} letters, {about(one.used)}, "
            f"{f'quota {about(one.quota)}' if one.quota else 'no quota'}, added {moment(one.created)}",
            f"May send as: {', '.join([one.address, *one.senders])}",
        ]
        return succeed(as_json, "\n".join(lines), accounts=[_values(one)])

    finish("account show", as_json, lambda: run(invocation, work))


@account.command("grant-sender", cls=Verb)
@click.argument("login")
@click.argument("sender", metavar="ADDRESS")
@_json
@click.pass_obj
def account_grant_sender(invocation: Invocation, login: str, sender: str, as_json: bool) -> None:
    """Let somebody send as another address, or as every address of a domain (*@example.org).

    \b
    posthouse account grant-sender anna@example.org info@example.org
    posthouse account grant-sender robot@example.org "*@example.org"
    """

    async def work(directory: AccountDirectory) -> int:
        key, pattern = await directory.grant_sender(login, sender)
        return succeed(as_json, f"{key} may send as {pattern}.", accounts=[_values(await directory.account(key))])

    finish("account grant-sender", as_json, lambda: run(invocation, work))


@account.command("revoke-sender", cls=Verb)
@click.argument("login")
@click.argument("sender", metavar="ADDRESS")
@_json
@click.pass_obj
def account_revoke_sender(invocation: Invocation, login: str, sender: str, as_json: bool) -> None:
    """Take a grant back. It counts from the next letter on.

    \b
    posthouse account revoke-sender anna@example.org info@example.org
    """

    async def work(directory: AccountDirectory) -> int:
        key, pattern = await directory.revoke_sender(login, sender)
        text = f"{key} may not send as {pattern} any more."
        return succeed(as_json, text, accounts=[_values(await directory.account(key))])

    finish("account revoke-sender", as_json, lambda: run(invocation, work))


@account.command("remove", cls=Verb)
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@_yes
@_json
@click.pass_obj
def account_remove(invocation: Invocation, addresses: Sequence[str], yes: bool, as_json: bool) -> None:
    """Remove somebody's mailbox with all letters in it.

    Letters that were deleted go with it: account undelete brings nothing back. On a terminal it asks first; --yes
    and scripts do not.
    """

    async def work(directory: AccountDirectory) -> int:
        from posthouse.accounts.directory import account_name

        removed = []
        for address in addresses:
            letters = await directory.remove_account(address)
            removed.append({"address": account_name(address), "letters": letters})
        text = "\n".join(f"Removed {one['address']} and its {one['letters']} letters." for one in removed)
        return succeed(as_json, text, accounts=removed)

    def action() -> int:
        if not yes and sys.stdin.isatty() and not _agreed(addresses):
            raise Problem(Exit.USAGE, "Nothing was removed.", stage="question")
        return run(invocation, work)

    finish("account remove", as_json, action)


def _agreed(addresses: Sequence[str]) -> bool:
    print(
        f"Remove {', '.join(addresses)} with all letters? Only a backup can bring them back. [n] ",
        end="",
        file=sys.stderr,
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes", "д", "да")


# What the commands share


def _text(name: str) -> str:
    from posthouse.mail.address import domain_text

    return domain_text(name)


def _values(one: Account) -> dict[str, Any]:
    return {
        "address": one.address,
        "letters": one.messages,
        "used": one.used,
        "quota": one.quota,
        "senders": list(one.senders),
        "created": moment(one.created),
    }


def _quota(text: str | None) -> int | None:
    """What `--quota` says. Raises Problem."""
    if text is None:
        return None
    from posthouse.config.sections import SECTIONS

    setting = SECTIONS["accounts"].settings["quota"]
    with explained():
        limit = setting.read(text)
    assert isinstance(limit, int)
    return limit


def _secrets(addresses: Sequence[str], *, passwords: bool, hashes: bool) -> list[str]:
    """A password for each address, or a hash. Raises Problem."""
    if not hashes:
        return _passwords(addresses, stdin=passwords)
    if passwords:
        raise Problem(Exit.USAGE, "Give either --password-stdin or --hash-stdin, not both.", stage="password")
    lines = _password_lines()
    if len(lines) != len(addresses):
        text = f"Standard input has {len(lines)} lines of hashes; {len(addresses)} must be there, one for each address."
        raise Problem(Exit.USAGE, text, stage="password")
    return lines


def _passwords(addresses: Sequence[str], *, stdin: bool) -> list[str]:
    """A password for each address. Raises Problem."""
    if stdin:
        return _spread(_password_lines(), len(addresses))
    if not sys.stdin.isatty():
        raise Problem(
            Exit.USAGE,
            "There is no password, and nobody to ask. Give --password-stdin and the password on standard input.",
            stage="password",
        )
    return [_asked(addresses)] * len(addresses)


def _spread(lines: list[str], count: int) -> list[str]:
    if len(lines) == count:
        return lines
    if len(lines) == 1:
        return lines * count
    needed = "one line" if count == 1 else f"one line for all, or {count} lines, one each"
    raise Problem(
        Exit.USAGE, f"Standard input has {len(lines)} lines of passwords; {needed} must be there.", stage="password"
    )


def _password_lines() -> list[str]:
    octets = sys.stdin.buffer.read(PASSWORDS)
    lines = octets.removesuffix(b"\n").split(b"\n") if octets else []
    try:
        return [line.removesuffix(b"\r").decode("utf-8") for line in lines]
    except UnicodeDecodeError as error:
        raise Problem(Exit.DATA, "A password on standard input is not UTF-8 text.", stage="password") from error


def _asked(addresses: Sequence[str]) -> str:
    import getpass

    whose = addresses[0] if len(addresses) == 1 else f"these {len(addresses)} accounts"
    for _ in range(3):
        password = getpass.getpass(f"New password for {whose}: ")
        if getpass.getpass("The same again: ") == password:
            return password
        print("These were two different passwords. Once more.", file=sys.stderr)
    raise Problem(Exit.USAGE, "No password was set.", stage="password")


def _tell_added(added: Sequence[Added], as_json: bool) -> int:
    """Tells what came of each account, and returns the exit code."""
    failed = [one for one in added if one.problem is not None]
    if len(added) == 1 and failed and failed[0].problem is not None:
        raise failed[0].problem
    if as_json:
        results = [{"address": one.address, "status": "failed" if one.problem else "added"} for one in added]
        for result, one in zip(results, added, strict=True):
            if one.problem is not None:
                result["error"] = str(one.problem)
        print_json({"ok": not failed, "code": int(bool(failed)), "accounts": results})
    else:
        for one in added:
            if one.problem is None:
                print(f"Added the account {one.address}.")
            else:
                print(f"posthouse account add: {one.problem}", file=sys.stderr)
    return Exit.NOT_ALL if failed else Exit.OK
