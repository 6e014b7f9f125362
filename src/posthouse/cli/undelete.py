"""`posthouse account undelete`: letters that were deleted not long ago come back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run
from posthouse.cli.output import about, hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.accounts.directory import AccountDirectory
    from posthouse.ports.store import Buried


@click.command("undelete", cls=Verb)
@click.argument("address")
@click.option("--since", metavar="TIME", help="Only what was deleted since then: 3h, 2d, or 2026-11-25T08:00.")
@click.option("--until", metavar="TIME", help="Only what was deleted until then.")
@click.option("--from", "sender", metavar="TEXT", help="Only letters whose sender's address has this in it.")
@click.option("--subject", metavar="TEXT", help="Only letters whose subject has this in it.")
@click.option("--letter", "letters", multiple=True, metavar="ID", help="Only this letter; may be given several times.")
@click.option("--list", "only_list", is_flag=True, help="Show what could be brought back, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.pass_obj
def account_undelete(
    invocation: Invocation,
    address: str,
    since: str | None,
    until: str | None,
    sender: str | None,
    subject: str | None,
    letters: Sequence[str],
    only_list: bool,
    as_json: bool,
) -> None:
    """Bring back letters that somebody deleted.

    They come to the end of the mailbox, as new ones: a program that collected them once collects them again. How long
    that is possible is the setting store.undelete. The exit code is 1 when there is nothing to bring back.

    \b
    posthouse account undelete anna@example.org --list
    posthouse account undelete anna@example.org --since 2h --from boris@example.com
    posthouse account undelete anna@example.org --letter 0635d1b2c3f00a7be49c12
    """

    def action() -> int:
        now = time.time()
        begin, end = read_time("--since", since, now, 0.0), read_time("--until", until, now, now + 1)

        async def work(directory: AccountDirectory) -> int:
            key, found = await directory.deleted(address, begin)
            chosen = [one for one in found if one.expunged <= end and _is_meant(one, sender, subject, letters)]
            if not chosen:
                text = f"Nothing that {key} deleted can be brought back."
                if as_json:
                    print_json({"ok": True, "code": int(Exit.NOT_ALL), "address": key, "letters": []})
                else:
                    print(text)
                return Exit.NOT_ALL
            if only_list:
                hint(f"posthouse account undelete {key} brings them back.")
                return succeed(as_json, _table(chosen), address=key, letters=[_values(one) for one in chosen])
            back = await directory.undelete(key, chosen)
            text = f"Brought {len(back)} {'letter' if len(back) == 1 else 'letters'} back for {key}."
            return succeed(as_json, text, address=key, letters=[_values(one) for one in back])

        return run(invocation, work)

    finish("account undelete", as_json, action)


def _is_meant(one: Buried, sender: str | None, subject: str | None, letters: Sequence[str]) -> bool:
    """Whether a letter is one of those asked for; upper and lower case are the same."""
    if letters and one.letter not in letters:
        return False
    if sender and sender.casefold() not in one.sender.casefold():
        return False
    return not subject or subject.casefold() in one.subject.casefold()


def read_time(option: str, text: str | None, now: float, usual: float) -> float:
    """The moment that an option names: a length of time before now, or a date (UTC when no zone is said). Raises
    Problem."""
    if text is None:
        return usual
    from posthouse.config.values import Kind, Setting, Wrong

    try:
        span = Setting(Kind.SECONDS, "", unit="seconds", low=0, high=3650 * 86_400).read(text)
        assert isinstance(span, float)
        return now - span
    except Wrong:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        wrong = f"{option} {text}: write a length of time such as 3h or 2d, or a date such as 2026-11-25T08:00."
        raise Problem(Exit.USAGE, wrong, stage="usage") from error
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _table(found: Sequence[Buried]) -> str:
    rows = [
        (one.letter, one.sender or "<>", about(one.size), moment(one.received), moment(one.expunged), one.subject[:50])
        for one in found
    ]
    return table(("LETTER", "FROM", "SIZE", "RECEIVED", "DELETED", "SUBJECT"), rows, right=(2,))


def _values(one: Buried) -> dict[str, Any]:
    return {
        "letter": one.letter,
        "from": one.sender,
        "subject": one.subject,
        "recipient": one.recipient,
        "size": one.size,
        "received": moment(one.received),
        "deleted": moment(one.expunged),
    }
