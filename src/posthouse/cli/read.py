"""`posthouse read`: the reader, as a shell and as one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.options import server_options
from posthouse.cli.security import security_of

if TYPE_CHECKING:
    from posthouse.cli.reading import Job
    from posthouse.cli.rules import Rules
    from posthouse.config.profiles import Account
    from posthouse.net.dial import Server

SCHEMES = ("pop3", "pop", "pop3s", "pops")
WORDS = ("list", "latest", "new", "top", "save", "delete")


class ReadVerb(Verb):
    """`--delete after 7d` needs no quotation marks."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Reads the arguments."""
        from posthouse.cli.rules import join_words

        return super().make_context(info_name, join_words(args), parent, **extra)


@click.command(cls=ReadVerb, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", nargs=-1)
@click.option("--to", "target", default="", metavar="WHERE", help="Whole messages: maildir:DIR, mbox:FILE or - .")
@click.option(
    "--delete",
    "delete",
    multiple=True,
    metavar="now|after 7d|bigger 5M|never",
    help="With new: which messages leave the server once they are safe here; never is the default.",
)
@click.option("--limit", type=click.IntRange(min=1), default=None, metavar="N", help="With new: at most N messages.")
@click.option(
    "--max-size", default="", metavar="SIZE", help="With new: larger messages stay where they are (5M, 500K)."
)
@click.option("--watch", type=click.IntRange(min=1), default=None, metavar="S", help="With new: again every S seconds.")
@click.option("--dry-run", is_flag=True, help="With new and delete: only say what would be done.")
@click.option("--server", default="", metavar="HOST:PORT", help="What the shell offers as the server.")
@server_options("pop3://user@host:port, pop3s:// with TLS")
def read(**options: Any) -> None:
    """Collect and read messages by POP3.

    \b
    posthouse read             a shell: Auth, List, Read, Delete, Quit and more
    posthouse read list        number, size, sender and subject of each message
    posthouse read latest      the newest message
    posthouse read N           message number N
    posthouse read top N       its header and first lines (top N LINES)
    posthouse read save N      its attachments into this folder; the whole message with --to
    posthouse read delete N    remove it from the server (several numbers are taken)
    posthouse read new         what was not collected before; with --to it is kept there

    \b
    posthouse read new --to maildir:~/Mail                         leave mail on the server
    posthouse read new --to mbox:inbox --delete after 7d           for a week
    posthouse read new --to maildir:~/Mail --delete now --watch 60
    posthouse read new --to maildir:~/Mail --delete now --dry-run  only say what would be done

    The account is that of posthouse setup. Passwords come from where it says, from --password-stdin, from the
    environment variable POSTHOUSE_PASSWORD, or they are asked for; never from the command line. Messages stay on the
    server unless you delete them.
    """
    finish("read", options["as_json"], lambda: _once(options) if options["what"] else _shell(options))


def _shell(options: dict[str, Any]) -> int:
    import asyncio

    from posthouse.cli.account import fill_in, find_account, needs_person, stored_password
    from posthouse.cli.dialogue import Terminal
    from posthouse.cli.helpers import observer
    from posthouse.cli.shell import Own, converse

    if options["as_json"] or options["dry_run"] or not sys.stdin.isatty():
        raise Problem(Exit.USAGE, f"Say what to read: {', '.join(WORDS)} or a number. The shell needs a terminal.")
    account = None if options["server"] else find_account(options)
    fill_in(options, account, "read")
    server, login = _server(options)
    own = None
    if account is not None:
        own = Own(login, None if needs_person(account) else lambda: stored_password(account))
    return asyncio.run(
        converse(
            Terminal(),
            server=str(server) if server is not None else options["server"],
            directory=Path(),
            timeout=options["timeout"],
            observer=observer(options["verbose"]),
            insecure=options["insecure_auth"],
            fixed=server is not None,
            security=security_of(options, options["url"]),
            own=own,
        )
    )


def _server(options: dict[str, Any]) -> tuple[Server | None, str]:
    from posthouse.cli.helpers import parse_url

    server, login = parse_url(options["url"], SCHEMES) if options["url"] else (None, "")
    return server, options["user"] or login


def _once(options: dict[str, Any]) -> int:
    import asyncio

    from posthouse.cli.account import fill_in, find_account
    from posthouse.cli.reading import access_of, collect

    account = find_account(options)
    fill_in(options, account, "read")
    if account is not None and options["what"][0].lower() == "new":
        _collect_as(options, account)
    job = _job(options)
    server, login = _server(options)
    if server is None:
        text = "There is no server to read from: give --url pop3://user@host:port, or run posthouse setup ADDRESS once."
        raise Problem(Exit.USAGE, text)
    access = access_of(options, server, login)
    if options["watch"]:
        from posthouse.cli.revisiting import watch

        return asyncio.run(watch(access, job, options["watch"]))
    return asyncio.run(collect(access, job))


def _collect_as(options: dict[str, Any], account: Account) -> None:
    """Where new messages go and whether they leave the server, as the account says, unless options say so."""
    from posthouse.cli.account import is_given

    if is_given("target") or not account.store:
        return
    options["target"] = account.store
    if not is_given("delete") and account.keep is not None:
        options["delete"] = (f"after {account.keep:.0f}",)


def _job(options: dict[str, Any]) -> Job:
    from posthouse.cli.reading import Job

    word, *rest = options["what"]
    word = word.lower()
    if word.isascii() and word.isdigit():
        word, rest = "show", [word, *rest]
    if word not in ("show", *WORDS):
        raise Problem(Exit.USAGE, f"{word!r} is nothing to read: say {', '.join(WORDS)} or a number.")
    numbers = [_number(text) for text in rest]
    most = {"list": 0, "latest": 0, "new": 0, "show": 1, "top": 2, "save": 1}.get(word, 10_000)
    least = 1 if word in ("top", "save", "delete") else 0
    if not least <= len(numbers) <= most:
        raise Problem(Exit.USAGE, f"`posthouse read {word}` needs {'a message number' if least else 'no numbers'}.")
    job = Job(word, numbers, options["target"], _rules(options), options["as_json"], options["quiet"])
    job.dry = options["dry_run"]
    if job.dry and (word not in ("new", "delete") or options["watch"]):
        raise Problem(Exit.USAGE, "--dry-run goes with `new` and `delete`, and not with --watch.")
    if job.target and word not in ("show", "latest", "save", "new"):
        raise Problem(Exit.USAGE, f"--to has no meaning with {word}.")
    if job.target == "-" and job.as_json:
        raise Problem(Exit.USAGE, "--to - and --json both want standard output.")
    if job.rules.deletes and (word != "new" or job.target in ("", "-")):
        raise Problem(Exit.USAGE, "--delete goes with `new` and --to maildir:DIR or mbox:FILE.")
    if word != "new" and (options["limit"] or options["max_size"] or options["watch"]):
        raise Problem(Exit.USAGE, "--limit, --max-size and --watch go with `new`.")
    return job


def _rules(options: dict[str, Any]) -> Rules:
    from posthouse.cli.rules import Rules, read_deletion, read_size

    try:
        size = read_size(options["max_size"]) if options["max_size"] else None
        return read_deletion(Rules(limit=options["limit"], max_size=size), options["delete"])
    except ValueError as error:
        raise Problem(Exit.USAGE, f"{error}.") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Problem(Exit.USAGE, f"{text!r} is no message number.")
    return int(text)


if __name__ == "__main__":
    read()
