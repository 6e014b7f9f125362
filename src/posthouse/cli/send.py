"""`posthouse send`: the sender, as a dialogue and as one command."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from posthouse.cli.exits import Exit, Problem, Verb, complain, finish, print_json
from posthouse.cli.options import server_options
from posthouse.cli.security import security_of
from posthouse.cli.sendoptions import composing_options, queue_options

if TYPE_CHECKING:
    from posthouse.cli.dialogue import Person
    from posthouse.cli.keeping import Keeper
    from posthouse.cli.sending import Plan, Report
    from posthouse.clients.security import Security
    from posthouse.clients.smtp import Letter
    from posthouse.config.profiles import Account
    from posthouse.mail.compose import Attachment
    from posthouse.mail.mailboxes import Mailbox
    from posthouse.net.dial import Server
    from posthouse.smtp.client import Answer

T = TypeVar("T")


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("to", nargs=-1)
@click.option("-s", "--subject", default="", metavar="TEXT", help="The subject.")
@click.option("-c", "--cc", multiple=True, metavar="ADDRESS", help="A copy to these; they are seen by all.")
@click.option("-b", "--bcc", multiple=True, metavar="ADDRESS", help="A copy to these; nobody sees them.")
@click.option("-a", "--attach", multiple=True, type=click.Path(), metavar="FILE", help="Attach a file of any size.")
@click.option("-f", "--from", "sender", default="", metavar="ADDRESS", help="Your address, with a name if you like.")
@click.option("-H", "--header", multiple=True, metavar="'NAME: VALUE'", help="One more header field.")
@click.option("-m", "--message", default=None, metavar="TEXT", help="The text; else it comes from standard input.")
@click.option("-t", "from_header", is_flag=True, help="Standard input is a whole message: recipients from its header.")
@click.option("-i", "dots", is_flag=True, help="A lone dot on standard input is text. It always is; for old scripts.")
@click.option(
    "--stop-after",
    type=click.Choice(["EHLO", "AUTH", "MAIL", "RCPT", "DATA"], case_sensitive=False),
    default=None,
    help="Break off there, and send nothing.",
)
@composing_options
@queue_options
@click.option("--dry-run", is_flag=True, help="Print the exact octets of the message, and send nothing.")
@click.option("--server", default="", metavar="HOST:PORT", help="What the dialogue offers as the server.")
@server_options("smtp://user@host:port, smtps:// with TLS")
def send(**options: Any) -> None:
    """Compose a message and send it.

    Without arguments, on a terminal, it asks for everything that the account does not know.

    \b
    posthouse send anna@example.org -s Hello -m "How are you?"
    posthouse send anna@example.org -a report.pdf < letter.txt
    posthouse send anna@example.org -m Hello --url smtp://localhost:2525 -f me@x.mail

    The account is that of posthouse setup. Passwords come from where it says, from --password-stdin, from the
    environment variable POSTHOUSE_PASSWORD, or they are asked for; never from the command line.
    """
    finish("send", options["as_json"], lambda: _dialogue(options) if _asks(options) else _once(options))


def _asks(options: dict[str, Any]) -> bool:
    """Whether the dialogue is wanted: nothing was given that says what to send."""
    given = ("to", "cc", "bcc", "attach", "sender", "header", "from_header", "dry_run", "url", "user", "stop_after")
    more = ("html", "markdown", "reply", "forward", "merge")
    return not any(options[name] for name in given + more) and options["message"] is None and sys.stdin.isatty()


# The dialogue


def _dialogue(options: dict[str, Any]) -> int:
    import asyncio

    from posthouse.cli.account import fill_in, find_account
    from posthouse.cli.dialogue import Terminal
    from posthouse.cli.keeping import Keeper, check

    if check(options) or options["queue"]:
        raise Problem(Exit.USAGE, "The dialogue sends at once: --queue and --hold need the letter on the command line.")
    account = None if options["server"] else find_account(options)
    fill_in(options, account, "send")
    try:
        return asyncio.run(
            converse(
                Terminal(),
                server=options["server"],
                account=account,
                directory=Path(),
                timeout=options["timeout"],
                verbose=options["verbose"],
                security=security_of(options, options["url"]),
                keeper=None if options["no_queue"] else Keeper(options),
            )
        )
    except EOFError:
        print()
        raise Problem(Exit.USAGE, "The input ended before everything was said. Nothing was sent.") from None


async def converse(
    person: Person,
    *,
    server: str,
    directory: Path,
    timeout: float | None,
    verbose: int = 0,
    security: Security | None = None,
    account: Account | None = None,
    keeper: Keeper | None = None,
) -> int:
    """The whole dialogue. Everything is asked before the server is spoken to; what the `account` knows is not. What
    cannot be sent now goes to the `keeper`, if there is one."""
    from posthouse.cli import sending
    from posthouse.cli.helpers import observer
    from posthouse.cli.sending import SUMMARY
    from posthouse.mail.charsets import harmless, harmless_line

    plan = _ask_plan(person, server, directory, account)
    plan.timeout = timeout
    plan.security = security or plan.security
    plan.observer = observer(verbose) if keeper is None else keeper.recorder.transcript
    plan.on_answer = lambda answer: person.say("".join(f"{harmless_line(line)}\n" for line in shown_lines(answer)))
    plan.consent = lambda: _agrees(person) if keeper is None else keeper.agree(_agrees(person))
    report = await sending.deliver(plan)
    if keeper is not None:
        report = keeper.keep(plan, report)
    if report.text:
        person.say(f"{harmless(report.text)}\n")
    person.tell(SUMMARY, **report.counts)
    return int(report.code)


def shown_lines(answer: Answer) -> list[str]:
    """The lines of a reply as they are shown: whole, but for what belongs to a login."""
    return ["334 ********"] if answer.code == 334 else answer.text.split("\n")


def _agrees(person: Person) -> bool:
    answer = person.ask("No encryption offered. Send the password in clear?", "n")
    return answer.strip().lower() in ("y", "yes", "j", "д", "да")


def _ask_plan(person: Person, default_server: str, directory: Path, account: Account | None) -> Plan:
    from posthouse.cli.letters import Draft, text_part
    from posthouse.cli.sending import Plan

    if account is not None:
        server, sender, login, password = _known(person, account)
    else:
        server = _ask_until(person, "Input server domain", _read_server, default_server)
        sender = _ask_until(person, "Input your address", _read_one)
        login = person.ask("Input your login", str(sender.address))
        password = person.ask_secret("Input your password")
    to, cc, bcc = _ask_until(person, "Input destination address", read_destinations)
    subject = person.ask("Input topic")
    text = person.ask_text("Input message")
    attachments = _ask_until(person, "Input file name", lambda names: _read_files(names, directory))
    letter, message_id = Draft(sender, subject, text_part(text), to, cc, bcc, attachments=attachments).compose()
    # Without a password there is nothing to log in with: some servers on a local network want none.
    return Plan(server, letter, message_id, login=login if password else "", password=password)


def _known(person: Person, account: Account) -> tuple[Server, Mailbox, str, str]:
    """What an account says of server, sender, login and password."""
    from posthouse.cli.account import needs_person, stored_password
    from posthouse.cli.helpers import parse_url

    server, login = parse_url(account.send, SCHEMES)
    password = person.ask_secret("Input your password") if needs_person(account) else stored_password(account)
    return server, account.address, login or str(account.address.address), password


def _ask_until(person: Person, prompt: str, read: Callable[[str], T], default: str = "") -> T:
    """Asks until the answer can be used; says what is wrong with one that cannot."""
    from posthouse.mail.charsets import harmless

    while True:
        answer = person.ask(prompt, default)
        try:
            return read(answer)
        except (Problem, ValueError) as error:
            person.tell(harmless(str(error).removesuffix(" Nothing was sent.")))


def _read_server(text: str) -> Server:
    from posthouse.net.dial import parse_server

    return parse_server(text)


def _read_one(text: str) -> Mailbox:
    from posthouse.mail.mailboxes import parse_mailboxes

    mailboxes = parse_mailboxes(text)
    if len(mailboxes) != 1:
        raise ValueError("One address is needed here, such as test@x.mail")
    return mailboxes[0]


def read_destinations(text: str) -> tuple[list[Mailbox], list[Mailbox], list[Mailbox]]:
    """To, Cc and Bcc of `a@x.mail, cc: b@x.mail, bcc: c@x.mail`; a prefix holds until the next one."""
    from posthouse.mail.mailboxes import parse_mailboxes

    pieces = re.split(r"(?:^|(?<=[,;\s]))(to|cc|bcc):", f"to: {text}", flags=re.IGNORECASE)[1:]
    found: dict[str, list[Mailbox]] = {"to": [], "cc": [], "bcc": []}
    for kind, addresses in zip(pieces[::2], pieces[1::2], strict=True):
        found[kind.lower()] += parse_mailboxes(addresses)
    if not any(found.values()):
        raise ValueError("At least one address is needed here, such as test2@x.mail")
    return found["to"], found["cc"], found["bcc"]


def _read_files(text: str, directory: Path) -> list[Attachment]:
    """One file whose name is the whole text, or a list with commas."""
    from posthouse.cli.letters import attachment

    if not text:
        return []
    whole = directory / Path(text).expanduser()
    if whole.exists():
        return [attachment(whole)]
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [attachment(directory / Path(name).expanduser()) for name in names]


# One command


def _once(options: dict[str, Any]) -> int:
    from posthouse.cli import keeping, sending
    from posthouse.cli.account import fill_in, find_account, find_password
    from posthouse.cli.composing import Recipe
    from posthouse.cli.helpers import Progress, parse_url
    from posthouse.cli.origins import route_of

    hold = keeping.check(options)
    account = find_account(options, needed=not options["dry_run"])
    if account is not None and (account.send or not options["dry_run"]):
        fill_in(options, account, "send")
    if account is not None and not options["from_header"]:
        options["sender"] = options["sender"] or account.address.encode(utf8=True)
    server, login = (None, "") if not options["url"] else parse_url(options["url"], SCHEMES)
    login = options["user"] or login
    if server is None and not options["dry_run"]:
        text = "There is no server to send to: give --url smtp://user@host:port, or run posthouse setup ADDRESS once."
        raise Problem(Exit.USAGE, text)
    offline = options["dry_run"] or options["queue"]
    password = find_password(options, login) if login and not offline else ""
    recipe = Recipe.read(options, login)
    if options["merge"]:
        from posthouse.cli.merging import merge

        return merge(recipe, options, server, login, password, lambda: _consent(options))
    letter, message_id = recipe.compose()
    if options["dry_run"]:
        return dry_run(letter, options)
    assert server is not None
    desk = keeping.Desk(route_of(options, login), keeps=not options["no_queue"])
    if options["queue"]:
        return _tell(keeping.queued(desk.queue(letter, message_id, time.time() + hold), letter), options)
    progress = Progress("Sending", wanted=not (options["quiet"] or options["as_json"] or options["verbose"]))
    recorder = keeping.Recorder(options["verbose"])
    plan = sending.Plan(
        server,
        letter,
        message_id,
        login,
        password,
        stop_after=sending.STAGES.get((options["stop_after"] or "").upper(), ""),
        timeout=options["timeout"],
        security=security_of(options, options["url"]),
        consent=lambda: desk.agree(_consent(options)),
        observer=recorder.transcript,
        on_progress=progress,
    )
    try:
        report = keeping.sit_out(desk, plan, hold) if hold else keeping.hand_over(desk, plan, recorder)
    finally:
        progress.end()
    return _tell(report, options)


SCHEMES = ("smtp", "submission", "smtps", "submissions")


def _consent(options: dict[str, Any]) -> bool:
    """Whether the password may pass in clear."""
    if options["insecure_auth"]:
        return True
    if options["as_json"] or not sys.stdin.isatty():
        return False
    from posthouse.cli.dialogue import Terminal

    return _agrees(Terminal())


def dry_run(letter: Letter, options: dict[str, Any]) -> int:
    """Prints the exact octets of a letter; on a terminal, harmless ones."""
    if not options["quiet"]:
        who = " ".join(f"<{recipient.address}>" for recipient in letter.recipients)
        sender = f"<{'' if letter.sender is None else letter.sender}>"
        from posthouse.mail.charsets import harmless_line  # of a reply, the addresses are a stranger's words

        print(harmless_line(f"{letter.size} octets would go from {sender} to {who}"), file=sys.stderr)
    from posthouse.cli.output import write_octets

    sys.stderr.flush()
    write_octets(letter.content())
    return int(Exit.OK)


def _tell(report: Report, options: dict[str, Any]) -> int:
    from posthouse.cli.sending import refusals

    if options["as_json"]:
        print_json(report.as_json())
        return int(report.code)
    if report.text:
        rows = refusals(report)
        reply = "" if rows else report.reply
        problem = Problem(report.code, "\n".join([report.text, *rows]), stage=report.stage, reply=reply)
        complain("send", problem)
    if report.outbox and report.stage == "outbox" and not report.text:
        text = f"Waits in the outbox as {report.outbox}; id {report.message_id}"
        print(text, end="" if options["quiet"] else "\n")
    elif not options["quiet"] and (report.sent or not report.text):
        stopped = options["stop_after"]
        print(f"Stopped after {stopped}; nothing was sent" if stopped else report.summary)
    return int(report.code)


if __name__ == "__main__":
    send()
