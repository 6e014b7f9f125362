"""`posthouse setup`: finds the servers of an address, tests the login, and writes an account."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish, json_of, print_json, problem_of
from posthouse.cli.options import server_options
from posthouse.cli.security import security_of
from posthouse.cli.words import phrase

if TYPE_CHECKING:
    from posthouse.cli.logintest import Candidate, Working
    from posthouse.cli.reading import Access
    from posthouse.clients.discovery import Clue, Found, Offer
    from posthouse.mail.mailboxes import Mailbox

NONE: Final = "none"
WAYS: Final = ("send", "read")
KEEPS: Final = ("prompt", "keyring", "plain")


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address")
@click.option("--send", "send", default="", metavar="URL", help="The server to send by: smtps://host; none for none.")
@click.option("--read", "read", default="", metavar="URL", help="The server to read from: pop3s://host; none for none.")
@click.option(
    "--keep-password",
    default="prompt",
    metavar="HOW",
    help="prompt (ask each time, the default), keyring, plain, file:PATH or 'command:PROGRAM ARGUMENTS'.",
)
@click.option("--store", default="", metavar="WHERE", help="Where read new keeps messages: maildir:DIR or mbox:FILE.")
@click.option("--yes", is_flag=True, help="Take a server of another domain that DNS names, without asking.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written: no login, no file.")
@click.option("--offline", is_flag=True, help="Use no network: write what --send and --read say, untested.")
@server_options()
def setup(**options: Any) -> None:
    """Set up an account: find its servers, test the login, write it into the profile file.

    \b
    posthouse setup anna@example.org
    posthouse setup "Anna <anna@example.org>" --keep-password keyring
    posthouse setup anna@example.org --dry-run
    posthouse setup test@x.mail --send smtp://localhost:2525 --read pop3://localhost:2110

    It asks DNS (SRV records), the provider's own autoconfig over https, the hosts that take mail for the domain and
    mail.DOMAIN, at most 5 seconds in all, and says what each said. Nothing is written before a login was accepted;
    what stands in the file is never changed. -A names the account.
    """
    finish("setup", options["as_json"], lambda: Setup(options).run())


@dataclass(slots=True)
class Result:
    """What is known so far: for the answer in JSON, on failure too."""

    clues: list[Clue] = field(default_factory=list)
    seconds: float = 0.0
    trials: list[dict[str, str]] = field(default_factory=list)


class Setup:
    """One run."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.result = Result()
        self.speaks = not (options["as_json"] or options["quiet"])
        self.asks = not options["as_json"] and sys.stdin.isatty()

    def run(self) -> int:
        """All of it. Returns the exit code; raises Problem unless the answer is wanted in JSON."""
        begun = time.monotonic()
        answer: dict[str, Any] = {"ok": True, "code": 0}
        try:
            answer |= self._run()
        except EOFError:
            print()
            raise Problem(Exit.USAGE, "The input ended. Nothing was written.", stage="usage") from None
        except Problem as problem:
            if not self.options["as_json"]:
                raise
            answer = json_of(problem)
        if self.options["as_json"]:
            found = {"discovery": [{"source": clue.source, "said": clue.said} for clue in self.result.clues]}
            times = {"discovery_s": round(self.result.seconds, 2), "ms": round((time.monotonic() - begun) * 1000)}
            print_json(answer | found | {"trials": self.result.trials} | times)
        return int(answer["code"])

    def _run(self) -> dict[str, Any]:
        from posthouse.cli import profilefile
        from posthouse.cli.account import profile_path

        options = self.options
        mailbox = _mailbox(options["address"])
        path = profile_path(options)
        existing = profilefile.read_existing(path)
        name = profilefile.free_name(options["account"], str(mailbox.address), existing)
        source = _password_source(options["keep_password"])
        self._check_options()
        offers = self._offers(mailbox)
        if options["dry_run"] or options["offline"]:
            candidates = self._candidates(mailbox, offers)
            urls = {way: _url(found[0], found[0].logins[0], mailbox) for way, found in candidates.items()}
            password = "" if options["dry_run"] else self._password(mailbox, source, name, untested=True)
        else:
            candidates = self._candidates(mailbox, self._confirmed(mailbox, offers))
            password = self._password(mailbox, source, name)
            working = asyncio.run(self._test(candidates, password))
            urls = {way: _url(one.candidate, one.login, mailbox) for way, one in working.items()}
        source = self._keep(source, name, password)
        values = self._values(mailbox, urls, source)
        lines = profilefile.block(name, values)
        if options["dry_run"]:
            self._say("This would stand in {path}:", path=path)
            self._say(f"\n{lines}".rstrip())
        else:
            profilefile.append(path, name, lines, secret="plain" in source)
            self._say("The account {name} stands in {path} now.", name=name, path=path)
            if existing.accounts and not existing.default:
                self._say("There are several now: say -A NAME, or put default = NAME at the top of the file.")
            self._say(
                "Try: {command}", command=f"posthouse {'read list' if 'read' in urls else f'send {mailbox.address}'}"
            )
        return {"account": name, "file": str(path), "written": not options["dry_run"]} | urls

    def _check_options(self) -> None:
        options = self.options
        if options["blind"]:
            text = "An account that believes any certificate is not safe: give --cacert or --pin instead of -k."
            raise Problem(Exit.USAGE, text)
        if options["offline"] and not (options["send"] and options["read"]):
            raise Problem(Exit.USAGE, "--offline needs --send URL and --read URL (or none for one of them).")
        if options["send"] == options["read"] == NONE:
            raise Problem(Exit.USAGE, "An account that can neither send nor read is none.")

    # Where the servers are

    def _offers(self, mailbox: Mailbox) -> dict[str, list[Offer]]:
        """For each way what was found, the best first; none where the person wants none."""
        given = {way: self.options[way] for way in WAYS}
        found: dict[str, list[Offer]] = {
            way: [_given(url, way)] if url and url != NONE else [] for way, url in given.items()
        }
        if all(given.values()):
            return found
        discovered = asyncio.run(self._discover(mailbox))
        for way in WAYS:
            if given[way]:
                continue
            found[way] = discovered.ways(way)
            if not found[way]:
                what, scheme = ("sends", "smtps") if way == "send" else ("holds", "pop3s")
                text = (
                    f"No server was found that {what} the mail of {mailbox.address}. Ask the provider for its name and "
                    f"give --{way} {scheme}://HOST, or --{way} none to go without."
                )
                raise Problem(Exit.NO_HOST, text, stage="discovery")
        return found

    async def _discover(self, mailbox: Mailbox) -> Found:
        from posthouse.clients.discovery import Discovery, load_over
        from posthouse.config.values import is_host_name
        from posthouse.mail.address import domain_key
        from posthouse.net.discovery import NoAnswer, ServiceResolver
        from posthouse.net.tls import BadCertificate, Trust, client_context

        local, domain = mailbox.address.local, domain_key(mailbox.address.domain)
        if not is_host_name(domain):
            text = f"{domain} is no domain that could say where its mail is: give --send URL and --read URL."
            raise Problem(Exit.USAGE, text, stage="discovery")
        try:
            resolver: ServiceResolver | None = ServiceResolver()
        except NoAnswer:
            resolver = None
        try:
            context = client_context(Trust(self.options["cacert"]))
        except BadCertificate as error:
            raise Problem(Exit.NO_INPUT, f"{error}.", stage="discovery") from error
        found = await Discovery(local, domain, resolver, load_over(context)).find()
        self.result.clues, self.result.seconds = found.clues, found.seconds
        width = max(len(clue.source) for clue in found.clues)
        for clue in found.clues:
            self._say(f"{clue.source:<{width}}  {clue.said}")
        for offer in found.ways("imap")[:1]:
            self._say("IMAP is offered at {server}; posthouse reads by POP3.", server=f"{offer.host}:{offer.port}")
        self._say("(looked for {seconds} s)", seconds=f"{found.seconds:.1f}")
        self._say("")
        return found

    def _candidates(self, mailbox: Mailbox, offers: dict[str, list[Offer]]) -> dict[str, list[Candidate]]:
        """The offers as the login test takes them; ways without an offer are left out."""
        from posthouse.cli.logintest import Candidate

        return {
            way: [
                Candidate(way, offer.scheme, self._access(offer), self._logins(mailbox, offer), offer.source)
                for offer in found
            ]
            for way, found in offers.items()
            if found
        }

    def _access(self, offer: Offer) -> Access:
        from posthouse.cli.reading import Access
        from posthouse.net.dial import Server

        options = self.options
        return Access(
            Server(offer.host, offer.port or None),
            login="",
            password="",
            timeout=options["timeout"],
            insecure=options["insecure_auth"],
            verbose=options["verbose"],
            security=self._security(offer),
        )

    def _security(self, offer: Offer) -> Any:
        """What was only found is never spoken to in clear: somebody may have taken out the offer of STARTTLS."""
        from dataclasses import replace

        from posthouse.clients.security import When

        security = security_of(self.options, f"{offer.scheme}://{offer.host}")
        if offer.source and security.when is When.OFFERED:
            security = replace(security, when=When.ALWAYS)
        return security

    def _logins(self, mailbox: Mailbox, offer: Offer) -> list[str]:
        """What we call ourselves: as we were told, else the address and then its local part (RFC 6186 §4)."""
        if self.options["user"] or offer.login:
            return [self.options["user"] or offer.login]
        return [str(mailbox.address), mailbox.address.local]

    def _confirmed(self, mailbox: Mailbox, offers: dict[str, list[Offer]]) -> dict[str, list[Offer]]:
        """The offers that may get the password. A server of another domain that only DNS names, which can be forged,
        gets it when there is no other and the person agrees (RFC 6186 §6)."""
        if self.options["yes"]:
            return offers
        vouched = {way: [offer for offer in found if offer.vouched] or found for way, found in offers.items()}
        strange = dict.fromkeys(offer.host for found in vouched.values() for offer in found if not offer.vouched)
        if not strange:
            return vouched
        hosts, domain = ", ".join(strange), mailbox.address.domain
        if not self.asks:
            text = (
                f"Only DNS names {hosts}, which is not of {domain}, and DNS can be forged. If it is right, say --yes."
            )
            raise Problem(Exit.NO_PERMISSION, text, stage="discovery")
        from posthouse.cli.dialogue import Terminal
        from posthouse.mail.charsets import harmless_line

        person = Terminal()
        text = "DNS names {hosts}, which is not of {domain}, and DNS can be forged."
        person.tell(text, hosts=harmless_line(hosts), domain=domain)
        answer = person.ask("Send the password there?", "n")
        if answer.strip().lower() not in ("y", "yes", "д", "да"):
            raise Problem(Exit.NO_PERMISSION, "Then nothing was sent and nothing was written.", stage="discovery")
        return vouched

    # The login

    def _password(self, mailbox: Mailbox, source: dict[str, Any], name: str, *, untested: bool = False) -> str:
        """The password, from where it will come from, else from the person. `untested`: only if it must be kept."""
        from posthouse.cli import passwords
        from posthouse.cli.account import find_password

        if untested and not ("plain" in source or "keyring" in source):
            return ""
        if "keyring" in source:
            passwords.load_keyring()  # better said before the password is typed
        if "command" in source and not self.options["password_stdin"]:
            return passwords.from_command(source["command"], name)
        if "file" in source and not self.options["password_stdin"]:
            return passwords.from_file(Path(source["file"]))
        return find_password(self.options, str(mailbox.address))

    async def _test(self, candidates: dict[str, list[Candidate]], password: str) -> dict[str, Working]:
        """Which server lets us in, for each way. Raises Problem when one way has none."""
        from posthouse.cli.helpers import observer
        from posthouse.cli.logintest import first_working
        from posthouse.clients.failure import Failure

        working = {}
        for way, found in candidates.items():
            for candidate in found:
                candidate.access.password = password
            try:
                one = await first_working(found, lambda: observer(self.options["verbose"]), self._tried)
            except Failure as failure:
                raise problem_of(failure, "Nothing was written.") from failure
            working[way] = one
            how = one.encryption or "not encrypted"
            server = str(one.candidate.access.server)
            self._tried(server, "{login} is let in ({how})", login=one.login, how=how)
        return working

    def _tried(self, server: str, text: str, **values: str) -> None:
        """Notes how a login went: in English for programs, in the person's language on the screen."""
        from posthouse.mail.charsets import harmless_line

        said = text.format(**values) if values else text
        self.result.trials.append({"server": server, "said": harmless_line(said)})
        self._say(f"{server}: {harmless_line(phrase(text, **values))}")

    # What is written

    def _keep(self, source: dict[str, Any], name: str, password: str) -> dict[str, Any]:
        if self.options["dry_run"]:
            return {"plain": "..."} if "plain" in source else source
        if "keyring" in source:
            from posthouse.cli import passwords

            passwords.to_keyring(name, password)
        return {"plain": password} if "plain" in source else source

    def _values(self, mailbox: Mailbox, urls: dict[str, str], source: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        values: dict[str, Any] = {"address": _written(mailbox)} | urls | {"password": source}
        if options["store"]:
            values["store"] = options["store"]
        if "read" in urls:
            from posthouse.cli.helpers import parse_url
            from posthouse.config.profiles import READ_SCHEMES

            values["trusted"] = [parse_url(urls["read"], READ_SCHEMES)[0].host]
        if options["cacert"] is not None:
            values["cacert"] = str(options["cacert"].absolute())
        if options["pin"]:
            values["pin"] = options["pin"]
        return values

    def _say(self, text: str, **values: object) -> None:
        if self.speaks:
            from posthouse.mail.charsets import harmless

            print(harmless(phrase(text, **values)), flush=True)


def _mailbox(text: str) -> Mailbox:
    from posthouse.mail.address import AddressError
    from posthouse.mail.mailboxes import parse_mailboxes

    try:
        mailboxes = parse_mailboxes(text)
    except AddressError as error:
        raise Problem(Exit.DATA, f"{text!r} is no mail address: {error}.", stage="usage") from error
    if len(mailboxes) != 1 or not mailboxes[0].address.domain:
        raise Problem(Exit.DATA, f"{text!r} is not one mail address, such as anna@example.org.", stage="usage")
    return mailboxes[0]


def _written(mailbox: Mailbox) -> str:
    """The address with its name as people write it; with quotation marks only where they are needed."""
    from posthouse.mail.mailboxes import parse_mailboxes

    plain = str(mailbox)
    try:
        return plain if parse_mailboxes(plain) == [mailbox] else mailbox.encode(utf8=True)
    except ValueError:
        return mailbox.encode(utf8=True)


def _password_source(how: str) -> dict[str, Any]:
    kind, _, rest = how.partition(":")
    if how in KEEPS:
        return {how: True}
    if kind == "file" and rest:
        return {"file": str(Path(rest).expanduser().absolute())}
    if kind == "command":
        try:
            words = shlex.split(rest)
        except ValueError:
            words = []
        if words:
            return {"command": words}
    raise Problem(Exit.USAGE, "--keep-password is prompt, keyring, plain, file:PATH or 'command:PROGRAM ARGUMENTS'.")


def _given(url: str, way: str) -> Offer:
    """What the person said."""
    from posthouse.cli.helpers import parse_url
    from posthouse.clients.discovery import Offer
    from posthouse.config.profiles import READ_SCHEMES, SEND_SCHEMES

    server, login = parse_url(url, SEND_SCHEMES if way == "send" else READ_SCHEMES)
    scheme = url.partition("://")[0].lower() if "://" in url else ("smtp" if way == "send" else "pop3")
    return Offer(way, scheme, server.host, server.port or 0, "", login)


def _url(candidate: Candidate, login: str, mailbox: Mailbox) -> str:
    """The URL that stands in the profile: without a login that is the address, and without a port that is the usual."""
    from urllib.parse import quote

    from posthouse.clients.discovery import PORTS
    from posthouse.net.dial import Server

    server = candidate.access.server
    if candidate.scheme in ("smtps", "pop3s") and server.port == PORTS[candidate.scheme]:
        server = Server(server.host)
    user = "" if login == str(mailbox.address) else f"{quote(login, safe='')}@"
    return f"{candidate.scheme}://{user}{server}"
