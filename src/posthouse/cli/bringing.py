"""`posthouse backup restore`: everything, one mailbox, or one letter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.backuptools import bar, count_of, place_of, told
from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json
from posthouse.cli.invocation import Invocation
from posthouse.cli.output import about, hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.observe.audit import Record
    from posthouse.store.backup.letters import Candidate, Drawn, Returned, Wish
    from posthouse.store.backup.repository import Progress
    from posthouse.store.backup.whole import Restored

MOST_SHOWN: Final = 1000  # letters listed by --dry-run


@click.command("restore", cls=Verb)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("name", default="", metavar="[BACKUP]")
@click.option("--account", "address", default="", metavar="ADDRESS", help="Only what this account lacks.")
@click.option("--letter", default="", metavar="ID", help="Of these, the one with this id, as the log names it.")
@click.option(
    "--message", type=click.IntRange(1), default=None, metavar="N", help="Of these, the one that POP3 gave this number."
)
@click.option("--replace", is_flag=True, help="Replace the mail that is there, and keep it beside.")
@click.option("--dry-run", is_flag=True, help="Only show what would come back.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.pass_obj
def restore(
    invocation: Invocation,
    folder: Path,
    name: str,
    address: str,
    letter: str,
    message: int | None,
    replace: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Bring back everything, one mailbox or one letter from a BACKUP, without one from the newest.

    Everything: the server must be stopped. Letters that waited to be carried on are held, since they may have left
    after the backup was made: `posthouse queue list` shows them, `posthouse queue release` lets them go. Mail programs
    see the mailboxes as new ones and keep nothing wrong.

    With --account, also beside a running server: letters that the account has no more come back as new ones at the end
    of its mailbox; those that it still has are left alone, so it may be repeated. An account that is gone is made
    again, with its password. --dry-run lists them with their ids and numbers.

    \b
    posthouse backup restore /backup/posthouse --account anna@x.mail --dry-run
    posthouse backup restore /backup/posthouse --account anna@x.mail
    posthouse backup restore /backup/posthouse --account anna@x.mail --letter 0635d1b2c3f00a7be49c12
    posthouse --data /srv/drill backup restore /backup/posthouse
    posthouse --data /var/lib/posthouse backup restore /backup/posthouse 2026-11-25T031500Z --replace
    """

    def action() -> int:
        if (letter or message) and not address:
            raise Problem(Exit.USAGE, "Whose letter is to come back? Add --account ADDRESS.", stage="usage")
        if letter and message:
            raise Problem(Exit.USAGE, "Give either --letter or --message, not both.", stage="usage")
        if address and replace:
            raise Problem(Exit.USAGE, "--replace is for everything; with --account nothing is replaced.", stage="usage")
        with told(), bar("restore", quiet or as_json) as progress:
            data = place_of(invocation)
            if not address:
                return _all(data, folder, name, replace, dry_run, quiet, as_json, progress)
            wish = _wish(address, letter, message or 0)
            return _some(data, folder, name, wish, dry_run, quiet, as_json, progress)

    finish("backup restore", as_json, action)


# Everything


def _all(
    data: Path, folder: Path, name: str, replace: bool, dry_run: bool, quiet: bool, as_json: bool, progress: Progress
) -> int:
    from posthouse.net.system import SystemClock
    from posthouse.store import become_owner
    from posthouse.store.backup.whole import restore_all

    done = restore_all(data, folder, name, replace=replace, dry_run=dry_run, clock=SystemClock(), progress=progress)
    if not dry_run:
        record = _record(done.data)
        become_owner(done.data)
        record("backup_restored", backup=done.manifest.name, letters=done.held.letters, held=done.held.queued)
    if as_json:
        return succeed(True, "", **_values(done, dry_run))
    return succeed(False, "" if quiet else _text(done, dry_run))


def _values(done: Restored, dry_run: bool) -> dict[str, Any]:
    return {
        "backup": done.manifest.name,
        "data": str(done.data),
        "kept": None if done.kept is None else str(done.kept),
        "letters": done.held.letters,
        "accounts": done.held.accounts,
        "held": done.held.queued,
        "dry_run": dry_run,
    }


def _text(done: Restored, dry_run: bool) -> str:
    what = f"{count_of(done.held.letters, 'letter')} of {count_of(done.held.accounts, 'account')}"
    when = f"as of {moment(done.manifest.begun)}"
    if dry_run:
        where = f"in the place of what lies in {done.data}" if done.kept else f"in {done.data}"
        return f"Would restore {what} {when} {where}; {count_of(done.held.queued, 'letter')} that waited would be held."
    lines = [f"Restored {what} in {done.data}, {when}."]
    if done.owner:
        lines.append(f"It belongs to {done.owner}.")
    if done.stranger:
        lines.append(f"There is no user {done.stranger} here, whose it was: chown -R USER {done.data}")
    if done.configuration is not None:
        lines.append(f"The configuration it was served with, which lay elsewhere: {done.configuration}")
    if done.kept is not None:
        lines.append(f"What lay there before is kept in {done.kept}; remove it when you need it no more.")
    if done.held.queued:
        lines.append(
            f"Held in the queue: {count_of(done.held.queued, 'recipient')}, whose letters may have left after the "
            "backup was made. `posthouse queue list --state held` shows them, `posthouse queue release --all` lets "
            "them go, `posthouse queue drop ID...` forgets some."
        )
    lines.append("Start the server now: posthouse serve, or systemctl start posthouse.")
    return "\n".join(lines)


# One mailbox, one letter


def _wish(address: str, letter: str, message: int) -> Wish:
    from posthouse.accounts.directory import account_name
    from posthouse.store.backup.letters import Wish

    return Wish(account_name(address), letter, message)


def _some(
    data: Path, folder: Path, name: str, wish: Wish, dry_run: bool, quiet: bool, as_json: bool, progress: Progress
) -> int:
    from posthouse.net.system import SystemClock, SystemRandom
    from posthouse.store import become_owner
    from posthouse.store.backup.letters import draw

    record = _record(data)
    with draw(
        data,
        folder,
        name,
        wish,
        clock=SystemClock(),
        random=SystemRandom(),
        contents=not dry_run,
        progress=progress,
    ) as drawn:
        if dry_run:
            return _tell_drawn(drawn, wish, quiet, as_json)
        become_owner(data)
        returned = asyncio.run(_put_back(data, drawn, progress))
        if returned.letters:
            record("letters_restored", account=wish.address, backup=drawn.manifest.name, letters=returned.letters)
        return _tell_returned(drawn, returned, wish, quiet, as_json)


async def _put_back(data: Path, drawn: Drawn, progress: Progress) -> Returned:
    from posthouse.store import open_store
    from posthouse.store.backup.letters import put_back

    store = open_store(data, serve=False)
    try:
        return await put_back(store, drawn, progress)
    finally:
        await store.close()


def _record(data: Path) -> Record:
    """What writes the restore down in the name of the one who runs this."""
    from posthouse.cli.mailstore import not_recorded
    from posthouse.observe.audit import Trail, system_user

    return Trail(data, who=system_user(), origin="cli", failed=not_recorded).record


def _tell_drawn(drawn: Drawn, wish: Wish, quiet: bool, as_json: bool) -> int:
    shown = drawn.missing[:MOST_SHOWN]
    if as_json:
        letters = [_letter(drawn, one) for one in shown]
        fields = {"account": wish.address, "count": len(drawn.missing), "there": drawn.there, "letters": letters}
        return succeed(True, "", backup=drawn.manifest.name, dry_run=True, **fields)
    if quiet:
        return Exit.OK
    if drawn.missing:
        from posthouse.mail.charsets import harmless_line

        rows = [
            (
                str(one.number),
                one.letter,
                moment(one.received),
                about(one.size),
                one.sender or "<>",
                harmless_line(drawn.archive.subject(one.message))[:60],
            )
            for one in shown
        ]
        print(table(("N", "LETTER", "RECEIVED", "SIZE", "FROM", "SUBJECT"), rows, right=(0, 3)))
    if len(drawn.missing) > len(shown):
        hint(f"{len(drawn.missing) - len(shown)} more.")
    there = f"; it has {drawn.there} others of the backup {drawn.manifest.name} still" if drawn.there else ""
    print(f"{count_of(len(drawn.missing), 'letter')} would come back to {wish.address}{there}.")
    return Exit.OK


def _letter(drawn: Drawn, one: Candidate) -> dict[str, Any]:
    return {
        "message": one.number,
        "letter": one.letter,
        "received": moment(one.received),
        "size": one.size,
        "sender": one.sender,
        "recipient": one.recipient,
        "subject": drawn.archive.subject(one.message),
    }


def _tell_returned(drawn: Drawn, returned: Returned, wish: Wish, quiet: bool, as_json: bool) -> int:
    code = Exit.NOT_ALL if returned.damaged else Exit.OK
    if as_json:
        fields = {"backup": drawn.manifest.name, "account": wish.address, "letters": returned.letters}
        more = {"there": drawn.there, "damaged": returned.damaged, "account_made": returned.made_account}
        print_json({"ok": not returned.damaged, "code": int(code), **fields, **more})
        return code
    if returned.made_account and not quiet:
        print(f"Made the account {wish.address} again, with the password it had; app passwords must be made anew.")
    if not quiet:
        there = f" {drawn.there} were there already." if drawn.there else ""
        print(f"Brought {count_of(returned.letters, 'letter')} back to {wish.address}.{there}")
    for name in returned.damaged[:20]:
        print(f"The letter {name} is damaged in this backup and did not come back. Try an older one.")
    return code
