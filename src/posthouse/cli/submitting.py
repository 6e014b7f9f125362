"""What the roles sendmail and mail share: which server letters go to, who writes them, and handing them over."""

from __future__ import annotations

import os
import shlex
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.account import fill_in, find_account
from posthouse.cli.exits import Exit, Problem, complain
from posthouse.cli.keeping import Desk, Recorder, hand_over
from posthouse.cli.origins import Keys, route_of, way_of
from posthouse.cli.sending import Plan, refusals

if TYPE_CHECKING:
    from posthouse.clients.smtp import Letter
    from posthouse.clients.waiting import Route
    from posthouse.mail.mailboxes import Mailbox

VARIABLE: Final = "POSTHOUSE_SENDMAIL"  # options that stand before all others, as in a shell
USUAL: Final = "smtp://localhost:25"
MAILNAME: Final = Path("/etc/mailname")  # Debian's name of the mail domain of a machine


@dataclass(slots=True)
class Station:
    """How letters leave this machine. `chosen`: somebody said so; else it is the server of this machine, if any."""

    options: dict[str, Any] = field(default_factory=lambda: dict(BLANK))
    verbose: int = 0

    @property
    def chosen(self) -> bool:
        """Whether a server was named."""
        return bool(self.options["url"])

    def find_account(self) -> None:
        """Takes what an account of the profile file says, unless a server was named. Raises Problem."""
        if not self.options["url"]:
            account = find_account(self.options, needed=False)
            self.options["sender"] = account.address if account is not None else None
            fill_in(self.options, account, "send")

    def author(self, name: str, domain: str) -> Mailbox:
        """Whom letters are from when nobody says it: the account, else the user of the system. Raises Problem."""
        own: Mailbox | None = self.options["sender"]
        if own is None:
            return own_mailbox(name, domain)
        return replace(own, name=name) if name else own

    def route(self) -> Route:
        """Where letters go. Raises Problem."""
        from posthouse.cli.helpers import parse_url
        from posthouse.cli.send import SCHEMES

        options = self.options | {"url": self.options["url"] or USUAL}
        _, login = parse_url(options["url"], SCHEMES)
        return route_of(options, options["user"] or login)

    def hand(self, letter: Letter, message_id: str, *, only_queue: bool = False) -> int:
        """Hands one letter over, or keeps it; tells what went wrong. Returns the exit code of a sendmail."""
        import time

        route = self.route()
        desk = Desk(route, keeps=self.chosen)
        if only_queue:
            desk.queue(letter, message_id, time.time())
            return Exit.OK
        way = way_of(route, self.verbose)
        password = Keys(alone=True).password(route)
        if password is None:
            raise Problem(Exit.NO_PERMISSION, f"There is no password for {route.user}, and nobody to ask.")
        recorder = Recorder(self.verbose)
        plan = Plan(
            way.server,
            letter,
            message_id,
            way.login,
            password,
            security=way.security,
            consent=lambda: way.insecure_auth,
            observer=recorder.transcript,
        )
        report = hand_over(desk, plan, recorder)
        if report.code is Exit.OK:
            return Exit.OK
        text = report.text
        if not self.chosen and report.stage == "connect":
            text = f"No server is set up for this, and the usual one does not answer. {text} {HOW}"
        problem = Problem(report.code, "\n".join([text, *refusals(report)]), reply=report.reply)
        complain("--as sendmail", problem)
        # sysexits know no "some": who calls a sendmail takes everything but 0 as not sent.
        return Exit.UNAVAILABLE if report.code is Exit.NOT_ALL else report.code


HOW: Final = f"Run posthouse setup ADDRESS once, or name one with --url smtp://user@host:port or in {VARIABLE}."
BLANK: Final[dict[str, Any]] = {
    "url": "",
    "user": "",
    "tls": False,
    "cacert": None,
    "pin": "",
    "blind": False,
    "insecure_auth": False,
    "account": "",
    "config": None,
    "sender": None,
}


def with_variable(arguments: list[str]) -> list[str]:
    """The arguments with those of the environment before them. Raises Problem."""
    try:
        return [*shlex.split(os.environ.get(VARIABLE, "")), *arguments]
    except ValueError as error:
        raise Problem(Exit.CONFIG, f"{VARIABLE} cannot be read: {error}.") from error


LONG: Final = {
    "--account": "account",
    "--config": "config",
    "--url": "url",
    "--user": "user",
    "--cacert": "cacert",
    "--pin": "pin",
}
FLAGS: Final = {"--tls": "tls", "--insecure": "blind", "--insecure-auth": "insecure_auth"}


def take_long(station: Station, arguments: list[str]) -> list[str]:
    """Takes the long options, which are ours, out of the arguments: they are what `posthouse send` knows under the same
    names. Those behind `--` are none. Raises Problem."""
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
            break
        if name in FLAGS and not equals:
            station.options[FLAGS[name]] = True
        elif name in LONG:
            found = value if equals else next(words, "")
            if not found:
                raise Problem(Exit.USAGE, f"{name} needs a value.")
            station.options[LONG[name]] = Path(found) if name in ("--cacert", "--config") else found
        elif word.startswith("--"):
            raise Problem(Exit.USAGE, f"{word} is not known here; there are {', '.join([*LONG, *FLAGS])}.")
        else:
            rest.append(word)
    station.find_account()
    return rest


def own_domain() -> str:
    """The domain of names that have none."""
    try:
        name = MAILNAME.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        name = ""
    return name or socket.gethostname() or "localhost"


def own_mailbox(name: str, domain: str) -> Mailbox:
    """Who calls: the user of the system. Raises Problem."""
    from posthouse.cli.letters import read_mailboxes
    from posthouse.mail.mailboxes import Mailbox

    user = os.environ.get("LOGNAME") or os.environ.get("USER") or ""
    gecos = ""
    try:
        import pwd

        entry = pwd.getpwuid(os.getuid())
        user, gecos = user or entry.pw_name, entry.pw_gecos.split(",")[0]
    except (ImportError, KeyError):
        pass
    return Mailbox(name or gecos, read_mailboxes(user or "nobody", domain)[0].address)
