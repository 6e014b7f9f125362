"""The command `posthouse`: its global options, its verbs, and how it ends when something is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

import click

from posthouse import __version__
from posthouse.cli.exits import Exit, Problem, complain
from posthouse.cli.invocation import Invocation
from posthouse.cli.roles import play, role_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "demo": ("posthouse.cli.demo:demo", "The whole system on this machine in one go."),
        "quickstart": ("posthouse.cli.quickstart:quickstart", "Set up a server for a domain on this machine."),
        "serve": ("posthouse.cli.serve:serve", "Run the server."),
        "send": ("posthouse.cli.send:send", "Compose a message and send it."),
        "read": ("posthouse.cli.read:read", "Collect and read mail."),
        "outbox": ("posthouse.cli.outbox:outbox", "The letters that wait on this machine."),
        "trace": ("posthouse.cli.trace:trace", "The path of a message: where it was, how long each leg took."),
        "setup": ("posthouse.cli.setup:setup", "Set up an account of yours: find its servers, test the login."),
        "probe": ("posthouse.cli.probe:probe", "What a mail server offers, its certificate, its weaknesses."),
        "domain": ("posthouse.cli.admin:domain", "The domains whose mail lies here."),
        "account": ("posthouse.cli.admin:account", "The people who have a mailbox here."),
        "alias": ("posthouse.cli.alias:alias", "Addresses that stand for others."),
        "cert": ("posthouse.cli.certs:cert", "The certificates of the server."),
        "network": ("posthouse.cli.network:network", "What the programs of a network may do."),
        "queue": ("posthouse.cli.queue:queue", "Letters that wait to be carried on."),
        "route": ("posthouse.cli.route:route", "Where letters for other servers go."),
        "ban": ("posthouse.cli.ban:ban", "Who is not let in because of failed logins, or by your word."),
        "backup": ("posthouse.cli.backup:backup", "Copies of all mail: make, verify, bring back."),
        "lab": ("posthouse.cli.lab:lab", "Mail systems in a box, to see what mail does."),
        "doctor": ("posthouse.cli.doctor:doctor", "Find out what is wrong."),
        "completion": ("posthouse.cli.completion:completion", "What a shell needs to complete commands with Tab."),
    }
)


class Verbs(click.Group):
    """Commands that are loaded only when they are called: a client must start at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the help text."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads one verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments name; the nearest one is offered for a typo."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = get_close_matches(args[0], VERBS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(VERBS)}."
            raise click.UsageError(f'There is no command "{args[0]}". {hint}', ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the verb, and tells in its name what stopped it."""
        try:
            return super().invoke(ctx)
        except Problem as problem:
            complain(ctx.invoked_subcommand or "", problem)
            raise click.exceptions.Exit(int(problem.code)) from problem

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs and options that begin so, without loading a verb."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, (_, text) in VERBS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs in the help text, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="posthouse COMMAND --help tells more about a command.",
)
@click.version_option(__version__, prog_name="posthouse", message="%(prog)s %(version)s")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="POSTHOUSE_DATA",
    metavar="DIR",
    help="The directory with all mail and accounts, also from POSTHOUSE_DATA.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="POSTHOUSE_CONFIG",
    metavar="FILE",
    help="The configuration, also from POSTHOUSE_CONFIG; else posthouse.toml in the data directory.",
)
@click.pass_context
def cli(ctx: click.Context, data: Path | None, config_file: Path | None) -> None:
    """Posthouse takes letters in by SMTP and hands them out by POP3.

    \b
    Try it:          posthouse demo
    Set it up:       posthouse domain add example.org
                     posthouse account add anna@example.org
                     posthouse serve
    Use it:          posthouse send, posthouse read
    In its place:    posthouse --as sendmail (or mailq, mail; also by a link of that name)
    """
    ctx.obj = Invocation(data, config_file)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process with its exit code (sysexits)."""
    hold_standard_streams()
    role, rest = role_of(sys.argv[0] if arguments is None else "", sys.argv[1:] if arguments is None else arguments)
    try:
        if role:
            play(role, rest)
        code = cli.main(
            arguments if arguments is None else list(arguments), prog_name="posthouse", standalone_mode=False
        )
    except click.UsageError as error:
        code = _usage(error)
    except click.Abort:
        code = Exit.INTERRUPTED
    except click.ClickException as error:
        click.echo(f"posthouse: {error.format_message()}", err=True)
        code = Exit.NO_INPUT if isinstance(error, click.FileError) else Exit.USAGE
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except Exception:  # noqa: BLE001 - the top of the program: whatever comes here is a bug of ours, and is told as one
        code = _bug()
    sys.exit(int(code or 0))


def hold_standard_streams() -> None:
    """Puts the null device where standard input, output or error is closed. Else the next file opened, which may be the
    database, would get that number, and what is meant for the log would be written into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken: this one, for those below are in use by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _usage(error: click.UsageError) -> int:
    """One line that says what is wrong and where the help is; a verb without arguments shows its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    path = error.ctx.command_path if error.ctx is not None else "posthouse"
    text = error.format_message().rstrip()
    text = text if text.endswith((".", "?")) else text + "."
    click.echo(f"{path}: {text} {path} --help tells what is possible.", err=True)
    return Exit.USAGE


def _bug() -> int:
    import traceback

    traceback.print_exc()
    click.echo(
        "posthouse: This is a bug in Posthouse, not in what you did. Nothing was half done: what was not confirmed did "
        "not happen. Please report the lines above.",
        err=True,
    )
    return Exit.SOFTWARE


if __name__ == "__main__":
    main()
