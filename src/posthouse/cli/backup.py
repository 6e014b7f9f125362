"""`posthouse backup`: copies of the whole data directory, made beside a running server and brought back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from posthouse.cli.backuptools import bar, count_of, looking, place_of, told
from posthouse.cli.bringing import restore
from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import require_store
from posthouse.cli.output import about, hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.store.backup.create import Made
    from posthouse.store.backup.manifest import Manifest
    from posthouse.store.backup.verify import Verified

NICE: Final = 10
"""How far a backup steps back behind a server on the same machine, as nice(1) counts."""

F = TypeVar("F", bound=Callable[..., Any])

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


def _keep(command: F) -> F:
    """The options that say which backups stay."""
    days = click.option(
        "--keep-days", type=click.IntRange(0), metavar="D", help="Keep all that are younger than D days as well."
    )
    newest = click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep the newest N backups.")
    return newest(days(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def backup() -> None:
    """Copies of all mail, accounts and settings, in a directory of their own.

    A backup is made while the server runs and is whole as of one moment. What did not change since the last one is not
    written again. It holds letters, password hashes and keys: the directory is for its owner alone.

    \b
    posthouse backup create /backup/posthouse --keep 7
    posthouse backup list /backup/posthouse
    posthouse backup verify /backup/posthouse
    posthouse backup restore /backup/posthouse --account anna@x.mail --dry-run
    posthouse --data /var/lib/posthouse backup restore /backup/posthouse --replace
    """


@backup.command("create", cls=Verb)
@_folder
@_keep
@_quiet
@_json
@click.pass_obj
def backup_create(
    invocation: Invocation, folder: Path, keep: int | None, keep_days: int | None, quiet: bool, as_json: bool
) -> None:
    """Make a backup in DIR, which is begun when it is not there.

    It runs beside a server, and as root for whoever owns the mail. The file that --config names is taken along. With
    --keep old backups are removed afterwards. The exit code is 1 when the backup was made, but something could not be
    read.

    \b
    posthouse backup create /backup/posthouse
    posthouse backup create /backup/posthouse --keep 7 --keep-days 30 --quiet
    """

    def action() -> int:
        from posthouse import __version__
        from posthouse.net.system import SystemClock, SystemRandom
        from posthouse.store.backup.create import create

        with told(), bar("backup", quiet or as_json) as progress:
            data = place_of(invocation)
            require_store(data)
            _yield_to_others()
            made = create(
                data,
                folder,
                clock=SystemClock(),
                random=SystemRandom(),
                version=__version__,
                configuration=invocation.config_file,
                progress=progress,
            )
            removed, octets = _prune(folder, keep, keep_days) if keep or keep_days is not None else ([], 0)
        return _tell_made(made, removed, octets, quiet, as_json)

    finish("backup create", as_json, action)


def _tell_made(made: Made, removed: Sequence[str], freed: int, quiet: bool, as_json: bool) -> int:
    manifest = made.manifest
    lost = [f"the file of the content {name}" for name in manifest.missing] + made.unread
    code = Exit.NOT_ALL if lost else Exit.OK
    if as_json:
        fields = {
            "backup": _values(manifest),
            "seconds": round(made.seconds, 3),
            "unread": lost,
            "removed": list(removed),
        }
        print_json({"ok": not lost, "code": int(code), **fields})
        return code
    if not quiet:
        print(
            f"Made the backup {manifest.name}: {manifest.letters} letters of {manifest.accounts} accounts, "
            f"{about(manifest.size)}, of which {about(manifest.new)} are new ({made.seconds:.1f} s)."
        )
        if removed:
            print(f"Removed {count_of(len(removed), 'old backup')}, {about(freed)}.")
    for what in lost[:20]:
        print(f"posthouse backup create: {what} could not be read; all else is in the backup.", file=sys.stderr)
    if manifest.missing:
        print("posthouse doctor --store tells whose letters these are.", file=sys.stderr)
    return code


@backup.command("list", cls=Verb)
@_folder
@_json
def backup_list(folder: Path, as_json: bool) -> None:
    """Show the backups in DIR, the oldest first.

    SIZE is all that the backup needs, NEW what it added to the directory.

    \b
    posthouse backup list /backup/posthouse
    """

    def action() -> int:
        with told(), looking(folder) as repository:
            sound, broken = repository.manifests()
        code = Exit.NOT_ALL if broken else Exit.OK
        for name in broken:
            print(f"posthouse backup list: the manifest of {name} is damaged.", file=sys.stderr)
        if as_json:
            values = [_values(manifest) for manifest in sound]
            print_json({"ok": not broken, "code": int(code), "backups": values, "damaged": broken})
            return code
        if not sound:
            hint("There is no backup yet. posthouse backup create DIR makes one.")
            return code
        rows = [
            (
                manifest.name,
                moment(manifest.begun),
                about(manifest.size),
                about(manifest.new),
                str(manifest.letters),
                str(manifest.accounts),
                manifest.posthouse,
            )
            for manifest in sound
        ]
        heads = ("BACKUP", "AS OF", "SIZE", "NEW", "LETTERS", "ACCOUNTS", "POSTHOUSE")
        print(table(heads, rows, right=(2, 3, 4, 5)))
        return code

    finish("backup list", as_json, action)


@backup.command("verify", cls=Verb)
@_folder
@click.argument("names", nargs=-1, metavar="[BACKUP]...")
@_quiet
@_json
def backup_verify(folder: Path, names: Sequence[str], quiet: bool, as_json: bool) -> None:
    """Find out whether backups can be restored.

    Every object is read and compared with its checksum. Then the store in each BACKUP, without one in the newest, is
    put together in a temporary folder, opened as a server does, and examined letter by letter. The exit code is 0 when
    all is well and 1 when damage was found; an object that is damaged is set aside, so that the next backup writes it
    anew if the mail still holds it.

    \b
    posthouse backup verify /backup/posthouse
    posthouse backup verify /backup/posthouse 2026-11-25T031500Z
    """

    def action() -> int:
        from posthouse.store.backup.verify import verify

        with told(), bar("verify", quiet or as_json) as progress:
            found = verify(folder, names, progress=progress)
        return _tell_verified(found, quiet, as_json)

    finish("backup verify", as_json, action)


def _tell_verified(found: Verified, quiet: bool, as_json: bool) -> int:
    code = Exit.NOT_ALL if found.wrong else Exit.OK
    if as_json:
        fields = asdict(found)
        damages = fields.pop("wrong")
        print_json({"ok": not damages, "code": int(code), **fields, "damages": damages})
        return code
    for wrong in found.wrong:
        print(f"{wrong.what}: {wrong.where}\n    {wrong.text}\n    Concerned: {', '.join(wrong.backups)}")
    if found.missing and not quiet:
        count = count_of(len(found.missing), "letter")
        print(f"{count} had lost the file before the backup was made: posthouse doctor --store names them.")
    if not found.wrong and not quiet:
        print(
            f"{count_of(len(found.backups), 'backup')} verified: {found.objects} objects, {about(found.octets)}, "
            f"all sound. Restored as a test: {', '.join(found.restored)}."
        )
    return code


@backup.command("prune", cls=Verb)
@_folder
@_keep
@_quiet
@_json
def backup_prune(folder: Path, keep: int | None, keep_days: int | None, quiet: bool, as_json: bool) -> None:
    """Remove old backups, and what no other backup needs.

    \b
    posthouse backup prune /backup/posthouse --keep 7
    posthouse backup prune /backup/posthouse --keep 1 --keep-days 30
    """

    def action() -> int:
        if keep is None and keep_days is None:
            raise Problem(Exit.USAGE, "Say how many backups stay: --keep N, or --keep-days D.", stage="usage")
        with told():
            removed, octets = _prune(folder, keep, keep_days)
        text = f"Removed {count_of(len(removed), 'backup')}, {about(octets)}."
        return succeed(as_json, "" if quiet else text, removed=removed, octets=octets)

    finish("backup prune", as_json, action)


def _prune(folder: Path, keep: int | None, days: int | None) -> tuple[list[str], int]:
    """Removes what need not stay; the newest always does."""
    from posthouse.net.system import SystemClock
    from posthouse.store.backup.repository import changing
    from posthouse.store.backup.rights import acting_as, keeper_of

    with acting_as(keeper_of(folder)), changing(folder) as repository:
        sound, _ = repository.manifests()
        young = SystemClock().now() - (days or 0) * 86_400
        doomed = [manifest for manifest in sound[: -(keep or 1)] if days is None or manifest.begun < young]
        _, octets = repository.prune(doomed)
        return [manifest.name for manifest in doomed], octets


# What the commands share


def _yield_to_others() -> None:
    """A server on the same machine goes first."""
    if sys.platform != "win32":
        import os

        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def _values(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "begun": moment(manifest.begun),
        "ended": moment(manifest.ended),
        "size": manifest.size,
        "new": manifest.new,
        "objects": manifest.objects,
        "letters": manifest.letters,
        "accounts": manifest.accounts,
        "queued": manifest.queued,
        "posthouse": manifest.posthouse,
    }


backup.add_command(restore)
