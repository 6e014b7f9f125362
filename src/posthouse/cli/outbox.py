"""`posthouse outbox`: the letters that wait on this machine, and what can be done with them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json

if TYPE_CHECKING:
    from posthouse.cli.outboxing import Runner, Trial
    from posthouse.clients.outbox import Outbox, Taken
    from posthouse.clients.waiting import Waiting

T = TypeVar("T")
NO_COLOR = click.option("--no-color", is_flag=True, help="Accepted as everywhere; there are no colours here.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...")
VERBOSE = click.option("-v", "--verbose", count=True, help="Print the dialogue with the server on standard error.")
TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=None, metavar="S", help="Seconds to wait each time."
)
HELP = {"help_option_names": ["-h", "--help"]}


class Words(click.Group):
    """Verbs of the outbox; with none, the list."""

    command_class = Verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`posthouse outbox --json` is `posthouse outbox list --json`."""
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Words, context_settings=HELP)
def outbox() -> None:
    """Letters that wait: what `send` could not hand over, or was told to keep.

    \b
    posthouse outbox                 the list
    posthouse outbox show ID         what is known of one letter
    posthouse outbox run             try those whose time has come
    posthouse outbox run --watch     go on doing that
    posthouse outbox send ID         try one now, an uncertain or failed one too
    posthouse outbox hold ID         leave it until `release`
    posthouse outbox edit ID         change it in your editor
    posthouse outbox drop ID         throw it away

    An ID may be shortened to a beginning that no other letter has; `all` means all letters.

    States: queued (not tried yet), sending, deferred (tried, and again at its time), held, sent, failed, and uncertain:
    the line was lost behind the end of the letter, and the server may have taken it. An uncertain letter is sent again
    only by `posthouse outbox send ID`, under the same Message-ID.
    """


# Looking


@outbox.command("list", context_settings=HELP)
@JSON
@NO_COLOR
@QUIET
def list_(**options: Any) -> None:
    """All letters, the oldest first.

    Letters that were sent stay in the list for a week. Exit code 1: some letter failed or is uncertain.
    """
    finish("outbox list", options["as_json"], lambda: _list(options))


def _list(options: dict[str, Any]) -> int:
    from posthouse.cli.outboxing import row_of

    letters, damaged = _outbox().list(time.time())
    code = Exit.NOT_ALL if damaged or any(w.count("failed") or w.count("uncertain") for w in letters) else Exit.OK
    if options["as_json"]:
        rows = [row_of(waiting) for waiting in letters]
        print_json({"ok": code == Exit.OK, "code": int(code), "letters": rows, "damaged": damaged})
        return code
    if letters and not options["quiet"]:
        _print_list(letters)
    elif not options["quiet"] and not damaged:
        print("The outbox is empty.", file=sys.stderr)
    for name, why in damaged.items():
        print(f"posthouse outbox: the letter {name} is damaged: {why}. See {_outbox().path / name}.", file=sys.stderr)
    return code


def _print_list(letters: list[Waiting]) -> None:
    from posthouse.cli.output import about, table
    from posthouse.mail.charsets import harmless_line

    rows = []
    for waiting in letters:
        first, *others = [recipient.address for recipient in waiting.recipients]
        to = f"{first} and {len(others)} more" if others else first
        row = [waiting.id, waiting.state.value, _when(waiting), about(waiting.size), to, waiting.subject]
        rows.append([harmless_line(cell)[:60] for cell in row])
    print(table(["id", "state", "next", "size", "to", "subject"], rows, right=(3,)))


def _when(waiting: Waiting) -> str:
    """When the next attempt is, in the words of the list."""
    if waiting.held or waiting.due is None:
        return "-"
    seconds = waiting.due - time.time()
    return "now" if seconds <= 0 else time.strftime("%m-%d %H:%M", time.localtime(waiting.due))


@outbox.command("show", context_settings=HELP)
@IDS
@click.option("--raw", is_flag=True, help="Print the message, octet for octet.")
@click.option("--transcript", is_flag=True, help="Print what was said in each attempt.")
@JSON
@NO_COLOR
def show(**options: Any) -> None:
    """What is known of a letter: recipients, attempts, and the times of the next ones."""
    finish("outbox show", options["as_json"], lambda: _show(options))


def _show(options: dict[str, Any]) -> int:
    from dataclasses import asdict

    from posthouse.cli.outboxing import row_of

    box = _outbox()
    names = _names(options)
    letters = [_looked(partial(box.look, name, time.time())) for name in names]
    if options["as_json"]:
        rows = [row_of(w) | {"history": [asdict(a) for a in w.attempts], "why": w.why} for w in letters]
        print_json({"ok": True, "code": 0, "letters": rows})
        return Exit.OK
    for waiting in letters:
        folder = box.path / waiting.id
        if options["raw"]:
            _print_raw(folder / waiting.file)
        elif options["transcript"]:
            for attempt in waiting.attempts:
                print(_read_text(folder / attempt.transcript), end="")
        else:
            print("\n".join(_described(waiting, folder)))
    return Exit.OK


def _print_raw(path: Path) -> None:
    from posthouse.cli.output import write_octets

    try:
        with path.open("rb") as file:
            write_octets(iter(partial(file.read, 262_144), b""))
    except FileNotFoundError:
        raise Problem(Exit.NO_INPUT, "The message was sent, and is not kept.", stage="outbox") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _described(waiting: Waiting, folder: Path) -> list[str]:
    from posthouse.cli.output import moment
    from posthouse.mail.charsets import harmless_line
    from posthouse.mail.message import readable_size
    from posthouse.mail.schedule import USUAL

    lines = [
        f"{waiting.id}  {waiting.state.value}{f': {waiting.why}' if waiting.why else ''}",
        f"From        {waiting.sender or '<>'}",
        f"Subject     {waiting.subject}",
        f"Message-ID  {waiting.message_id}",
        f"Server      {waiting.route.account or waiting.route.url}",
        f"Size        {readable_size(waiting.size)}",
        f"Since       {moment(waiting.accepted)}",
        f"Folder      {folder}",
    ]
    if waiting.due is not None and not waiting.held:
        times = [moment(t) for t in USUAL.upcoming(waiting.accepted, waiting.due, 4)]
        lines.append(f"Next        {', '.join(times)}; given up {moment(USUAL.expires(waiting.accepted))}")
    lines += [f"  {r.status:<10}{r.address}  {r.reply}".rstrip() for r in waiting.recipients]
    for number, attempt in enumerate(waiting.attempts, 1):
        text = attempt.text or "under way"
        lines.append(f"  attempt {number}  {moment(attempt.at)}  {attempt.seconds:.1f} s  {attempt.stage}  {text}")
    return [harmless_line(line) for line in lines]


# Sending


@outbox.command("run", context_settings=HELP)
@click.option("--watch", is_flag=True, help="Go on, and try each letter when its time has come.")
@click.option(
    "--until-eof", is_flag=True, help="With --watch: end when standard input does, for programs that start it."
)
@VERBOSE
@TIMEOUT
@JSON
@NO_COLOR
@QUIET
def run(**options: Any) -> None:
    """Try the letters whose time has come.

    The attempts after the first one come after 1, 5, 15 and 30 minutes, 1, 2 and 4 hours, then every 3 hours; after
    4 days a letter has failed. Passwords come from the profile, from POSTHOUSE_PASSWORD when all letters have one
    login, or are asked for on a terminal; they are never kept in the outbox.

    Exit code 0: all that was due has left, or nothing was. 1: some has. 75: none has, and will be tried again.
    """
    finish("outbox run", options["as_json"], lambda: _watch(options) if options["watch"] else _run(options))


def _run(options: dict[str, Any]) -> int:
    if options["until_eof"]:
        raise Problem(Exit.USAGE, "--until-eof goes with --watch.")
    runner = _runner(options)
    trials = _looked(runner.run_due)
    _looked(lambda: runner.outbox.sweep(time.time()))
    return _told(trials, options)


def _watch(options: dict[str, Any]) -> int:
    from posthouse.cli.watching import end_with_input, refuse_others, watch

    if options["as_json"]:
        raise Problem(Exit.USAGE, "--watch never ends, so there is no one answer for --json.")
    if options["until_eof"]:
        refuse_others(_outbox().path)
        end_with_input()
    tell = (lambda _: None) if options["quiet"] else (lambda trial: print(_line(trial), flush=True))
    return _looked(lambda: watch(_runner(options), tell))


@outbox.command("send", context_settings=HELP)
@IDS
@VERBOSE
@TIMEOUT
@JSON
@NO_COLOR
@QUIET
def send(**options: Any) -> None:
    """Try letters now. Those that failed, are held or uncertain are tried again, under the same Message-ID."""
    finish("outbox send", options["as_json"], lambda: _send(options))


def _send(options: dict[str, Any]) -> int:
    names = _names(options)

    def renew(taken: Taken) -> None:
        taken.waiting.renew(time.time(), ("uncertain", "failed"))

    _change(names, renew)
    runner = _runner(options)
    return _told(_looked(lambda: runner.run(names, asked=True)), options)


def _runner(options: dict[str, Any]) -> Runner:
    from posthouse.cli.helpers import Progress
    from posthouse.cli.origins import Keys
    from posthouse.cli.outboxing import Runner

    box = _outbox()
    letters, _ = box.list(time.time())
    logins = {(waiting.route.url, waiting.route.user) for waiting in letters if waiting.open and waiting.route.user}
    progress = Progress("Sending", wanted=not (options["quiet"] or options["as_json"] or options["verbose"]))
    return Runner(box, Keys(len(logins) == 1), options["timeout"], options["verbose"], on_progress=progress)


def _told(trials: list[Trial], options: dict[str, Any]) -> int:
    from posthouse.cli.outboxing import code_of

    code = code_of(trials)
    if options["as_json"]:
        rows = [trial.as_json() for trial in trials]
        print_json({"ok": code == Exit.OK, "code": int(code), "letters": rows})
        return code
    for trial in trials:
        if not options["quiet"] or trial.text:
            print(_line(trial), file=sys.stderr if trial.text else sys.stdout)
    if not trials and not options["quiet"]:
        print("Nothing is due.", file=sys.stderr)
    return code


def _line(trial: Trial) -> str:
    from posthouse.mail.charsets import harmless_line

    waiting = trial.waiting
    counts = [f"{waiting.count(s)} {s}" for s in ("sent", "failed", "uncertain", "deferred") if waiting.count(s)]
    again = f"; again {_when(waiting)}" if waiting.due is not None and not waiting.held else ""
    text = f". {trial.text}" if trial.text else ""
    if waiting.count("uncertain"):
        again += f"; posthouse outbox send {waiting.id} sends it again, drop forgets it"
    return harmless_line(f"{waiting.id}: {waiting.state.value} ({', '.join(counts) or 'not tried'}){again}{text}")


# Changing


@outbox.command("hold", context_settings=HELP)
@IDS
@JSON
@NO_COLOR
def hold(**options: Any) -> None:
    """Leave letters alone until `release` or `send`."""

    def work(taken: Taken) -> None:
        if not taken.waiting.open:
            raise Problem(Exit.DATA, f"Nothing of {taken.waiting.id} is to be sent any more.", stage="outbox")
        taken.waiting.held, taken.waiting.why = True, "held by hand"

    finish("outbox hold", options["as_json"], lambda: _changed(options, work, "Held"))


@outbox.command("release", context_settings=HELP)
@IDS
@JSON
@NO_COLOR
def release(**options: Any) -> None:
    """Let held letters go: they are due at once."""

    def work(taken: Taken) -> None:
        if taken.waiting.held:
            taken.waiting.renew(time.time(), ())

    finish("outbox release", options["as_json"], lambda: _changed(options, work, "Released"))


@outbox.command("drop", context_settings=HELP)
@IDS
@JSON
@NO_COLOR
def drop(**options: Any) -> None:
    """Throw letters away. What was sent of them stays sent."""
    finish("outbox drop", options["as_json"], lambda: _drop(options))


def _drop(options: dict[str, Any]) -> int:
    from posthouse.cli.output import succeed

    box = _outbox()
    names = _names(options, damaged=True)
    for name in names:
        _looked(partial(_drop_one, box, name))
    return succeed(options["as_json"], "\n".join(f"Dropped {name}" for name in names), ids=names)


def _drop_one(box: Outbox, name: str) -> None:
    from posthouse.clients.waiting import Damaged

    try:
        with box.take(name, time.time()) as taken:
            taken.drop()
    except Damaged:
        box.drop_damaged(name)


@outbox.command("edit", context_settings=HELP)
@click.argument("name", metavar="ID")
@JSON
@NO_COLOR
def edit(**options: Any) -> None:
    """Change a letter in $VISUAL or $EDITOR: its text, its header, its recipients. It is not sent meanwhile.

    The fields To, Cc and Bcc say who gets it from now on; Bcc does not leave this machine.
    """
    finish("outbox edit", options["as_json"], lambda: _edit(options))


def _edit(options: dict[str, Any]) -> int:
    from posthouse.cli.editing import edit as edit_letter
    from posthouse.cli.output import succeed

    box = _outbox()
    name = _find(box, options["name"])
    changed = _looked(lambda: edit_letter(box, name))
    text = f"Changed {name}" if changed else f"Nothing was changed in {name}"
    return succeed(options["as_json"], text, id=name, changed=changed)


@outbox.command("unit", context_settings=HELP)
def unit() -> None:
    """Print a systemd user unit that sends what is due while you are logged in.

    \b
    mkdir -p ~/.config/systemd/user
    posthouse outbox unit > ~/.config/systemd/user/posthouse-outbox.service
    systemctl --user enable --now posthouse-outbox

    With `loginctl enable-linger` it runs without a login too. It can ask nobody for a password: the accounts of the
    letters need one from the keyring, a command or a file.
    """
    from posthouse.cli.watching import unit_text

    print(unit_text(), end="")


# What commands share


def _outbox() -> Outbox:
    from posthouse.cli.origins import outbox_folder
    from posthouse.clients.outbox import Outbox

    return Outbox(outbox_folder())


def _names(options: dict[str, Any], *, damaged: bool = False) -> list[str]:
    """The ids of the letters that are meant."""
    box = _outbox()
    if options["ids"] == ("all",):
        letters, broken = box.list(time.time())
        return [waiting.id for waiting in letters] + (list(broken) if damaged else [])
    return list(dict.fromkeys(_find(box, text) for text in options["ids"]))


def _find(box: Outbox, text: str) -> str:
    return _looked(lambda: box.find(text))


def _changed(options: dict[str, Any], work: Callable[[Taken], None], did: str) -> int:
    from posthouse.cli.output import succeed

    names = _names(options)
    _change(names, work)
    return succeed(options["as_json"], "\n".join(f"{did} {name}" for name in names), ids=names)


def _change(names: Sequence[str], work: Callable[[Taken], None]) -> None:
    """Takes each letter, does the work and writes it down. Raises Problem."""
    box = _outbox()

    def change(name: str) -> None:
        with box.take(name, time.time()) as taken:
            work(taken)
            taken.save()

    for name in names:
        _looked(partial(change, name))


def _looked(work: Callable[[], T]) -> T:
    """What the outbox gives, its errors as Problems."""
    from posthouse.clients.outbox import Busy, Missing
    from posthouse.clients.waiting import Damaged

    try:
        return work()
    except Missing as error:
        raise Problem(Exit.NO_INPUT, f"{str(error)[:1].upper()}{str(error)[1:]}.", stage="outbox") from error
    except Busy as error:
        text = f"{str(error)[:1].upper()}{str(error)[1:]}. Repeat it later."
        raise Problem(Exit.TEMPORARY, text, stage="outbox") from error
    except Damaged as error:
        raise Problem(Exit.IO, f"The letter is damaged: {error}.", stage="outbox") from error
    except OSError as error:
        text = f"The outbox cannot be read or written: {error.strerror or error}. Check the disk and its rights."
        raise Problem(Exit.IO, text, stage="outbox") from error


if __name__ == "__main__":
    outbox()
