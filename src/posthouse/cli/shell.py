"""The reader's shell: a person speaks POP3 word by word (the dialogue of the teaching lab, done right)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from posthouse.cli.exits import Exit, problem_of
from posthouse.cli.fetching import Fetched, save_attachments
from posthouse.clients.failure import Failure
from posthouse.clients.pop3 import APOP, IN_CLEAR, USER, Pop3Client, refusal
from posthouse.clients.security import Security
from posthouse.mail.charsets import harmless_line
from posthouse.net.dial import Server, parse_server
from posthouse.pop3 import commands

if TYPE_CHECKING:
    from posthouse.cli.dialogue import Person
    from posthouse.pop3.client import Answer
    from posthouse.ports.system import SessionObserver

PROMPT: Final = "Select the command (Auth, List, Read, Delete, Quit)"
INDEX: Final = "Select message index"

HELP: Final = {
    "Auth": "log in: address and password",
    "List": "number and size of each message, or of one: List 2",
    "Read": "show a message: Read 2",
    "Delete": "mark a message; it goes when you say Quit: Delete 2",
    "Quit": "carry out the deletions and leave",
    "Stat": "how many messages, how many octets",
    "Top": "the header and the first lines: Top 2 10",
    "Unique": "the unique-ids that never change",
    "Last": "the highest number read so far",
    "Reset": "take all deletion marks back",
    "Noop": "nothing; the server's timer begins anew",
    "Capa": "what the server can do",
    "Trace": "the path of a message: Trace 2",
    "Save": "save the attachments of a message here: Save 2",
    "Raw": "send a command as it is: Raw STAT",
    "Help": "this list",
}


MAIN: Final = ("Auth", "List", "Read", "Delete", "Quit")


def match_word(text: str) -> str:
    """The word that the text begins, in any case; "" when there is none or more than one. The five words of the prompt
    come first: nobody must know the others."""
    wanted = text.lower()
    for words in (MAIN, tuple(HELP)):
        found = [word for word in words if wanted and word.lower().startswith(wanted)]
        exact = [word for word in found if word.lower() == wanted]
        if len(exact or found) == 1:
            return (exact or found)[0]
    return ""


@dataclass(slots=True)
class Raw:
    """A command as a person typed it."""

    text: str

    def encode(self) -> bytes:
        """The octets on the wire. Raises ValueError for what is no line."""
        octets = self.text.encode("utf-8", "surrogateescape")
        if not octets or any(octet < 0x20 or octet == 0x7F for octet in octets):
            raise ValueError("A command is one line of printable characters")
        return octets + b"\r\n"


@dataclass(slots=True)
class Own:
    """What an account knows: the login, "" for none, and how its password is had without asking, if it is."""

    login: str = ""
    password: Callable[[], str] | None = None


async def converse(
    person: Person,
    *,
    server: str = "",
    directory: Path,
    timeout: float | None = None,
    observer: SessionObserver | None = None,
    insecure: bool = False,
    fixed: bool = False,
    security: Security | None = None,
    own: Own | None = None,
) -> int:
    """The whole dialogue, to Quit or the end of input. `server` is the default answer to the first question, or with
    `fixed` the answer; `own` what an account knows of the login. Returns the exit code. Raises Problem when the session
    breaks off."""
    try:
        where = _ask_server(person, server, fixed=fixed)
    except EOFError:
        person.say("\n")
        return int(Exit.USAGE)
    shell = Shell(person, directory, insecure=insecure, own=own or Own())
    try:
        client = await Pop3Client.connect(
            where.host,
            where.port,
            timeout=timeout,
            observer=observer,
            on_line=shell.show_line,
            security=security,
        )
        shell.client = client
        try:
            return await shell.run()
        finally:
            client.close()
    except Failure as failure:
        raise problem_of(failure, "Nothing was deleted." if shell.marked else "") from failure


def _ask_server(person: Person, default: str, *, fixed: bool) -> Server:
    if fixed:
        return parse_server(default)
    while True:
        answer = person.ask("Input server domain", default)
        try:
            return parse_server(answer)
        except ValueError as error:
            person.tell(harmless_line(str(error)))


@dataclass(slots=True)
class Shell:
    """One person's session."""

    person: Person
    directory: Path
    insecure: bool = False
    own: Own = field(default_factory=Own)
    client: Pop3Client = field(init=False)
    marked: int = 0
    user_first: bool = True  # whether USER goes before AUTH

    def show_line(self, line: bytes) -> None:
        """A line of the server, whole and harmless."""
        self.person.say(harmless_line(line.decode("utf-8", "replace")) + "\n")

    async def run(self) -> int:
        """From the greeting to Quit."""
        greeting = await self.client.greet()
        if not greeting.positive:
            raise refusal(greeting, "greeting")
        while True:
            try:
                line = self.person.ask(PROMPT)
                if not line.strip():
                    continue
                done = await self._obey(*_words(line))
            except EOFError:
                # Nobody is there any more to want the deletions: leave without QUIT, and the server forgets them.
                self.person.say("\n")
                if self.marked:
                    self.person.tell("The input ended without Quit: nothing was deleted.")
                return int(Exit.OK)
            if done is not None:
                return done

    async def _obey(self, word: str, rest: str) -> int | None:
        """Does what one line says; the exit code when that ends the session."""
        known = match_word(word)
        if known == "Quit":
            return await self._quit()
        action = self._actions().get(known)
        if action is None:
            self.person.tell("Input error")
            self.person.tell("The words are: {words}", words=", ".join(HELP))
            return None
        try:
            await action(rest)
        except ValueError as error:
            self.person.tell(harmless_line(str(error)))
        except OSError as error:
            self.person.tell("A file cannot be written: {why}", why=harmless_line(str(error)))
        return None

    def _actions(self) -> dict[str, Callable[[str], Awaitable[None]]]:
        return {
            "Auth": self._auth,
            "List": self._list,
            "Read": self._read,
            "Delete": self._delete,
            "Stat": self._plain(commands.Stat(), "stat"),
            "Top": self._top,
            "Unique": self._unique,
            "Last": self._plain(commands.Last(), "last"),
            "Reset": self._reset,
            "Noop": self._plain(commands.Noop(), "noop"),
            "Capa": self._plain(commands.Capa(), "capa"),
            "Trace": self._trace,
            "Save": self._save,
            "Raw": self._raw,
            "Help": self._help,
        }

    def _plain(self, command: commands.Command, stage: str) -> Callable[[str], Awaitable[None]]:
        async def act(rest: str) -> None:
            await self.client.listing(command, stage)

        return act

    async def _quit(self) -> int:
        answer = await self.client.quit()
        if answer.positive:
            return int(Exit.OK)
        failure = refusal(answer, "quit")
        became = "The deletions may not have been carried out: look again." if self.marked else ""
        raise problem_of(failure, became)

    async def _auth(self, rest: str) -> None:
        """The strongest login that the server offers. The words are those of USER and PASS whatever it is: USER says
        whose maildrop it is and has its answer shown, and where there is a mechanism, AUTH takes the place of PASS."""
        method = await self._method()
        if method in IN_CLEAR and not (self.client.private or self.insecure or self._agrees()):
            self.person.tell("The password was not sent.")
            return
        name = rest or self.person.ask("Input address", self.own.login)
        if method == USER or (self.user_first and method != APOP):
            answer = await self.client.user(name)
            if not answer.positive:  # after a refused USER no password may pass
                return
        password = self._password(name)
        if method == USER:
            await self.client.password(password)
        else:
            await self._prove(method, name, password)

    async def _method(self) -> str:
        """How to log in; what the server says about that is not part of the dialogue."""
        shown, self.client.on_line = self.client.on_line, None
        try:
            return await self.client.choose_login()
        finally:
            self.client.on_line = shown

    async def _prove(self, method: str, name: str, password: str) -> None:
        """A login by a mechanism. Its challenges are not shown, only what the server says in the end."""
        asked = False

        def shown(line: bytes) -> None:
            nonlocal asked
            if line.startswith(b"+ ") or line == b"+":
                asked = True
            else:
                self.show_line(line)

        self.client.on_line = shown
        try:
            answer, _ = await self.client.login(method, name, password)
        finally:
            self.client.on_line = self.show_line
        if not answer.positive and not asked:
            # RFC 1939 §7: after USER a strict server takes PASS and QUIT only. The next Auth goes without USER.
            self.user_first = False

    def _password(self, name: str) -> str:
        """The password of the account for its own login; else the person is asked."""
        if self.own.password is not None and name == self.own.login:
            return self.own.password()
        return self.person.ask_secret("Input password")

    def _agrees(self) -> bool:
        answer = self.person.ask("No encryption offered. Send the password in clear?", "n")
        return answer.lower() in ("y", "yes", "д", "да")

    async def _list(self, rest: str) -> None:
        await self.client.listing(commands.List(_number(rest) if rest else None), "list")

    async def _unique(self, rest: str) -> None:
        await self.client.listing(commands.Uidl(_number(rest) if rest else None), "uidl")

    async def _read(self, rest: str) -> None:
        number = self._index(rest)
        with Fetched() as fetched:
            answer = await self.client.retrieve(number, fetched.add)
            if answer.positive:
                self._show(fetched)

    async def _top(self, rest: str) -> None:
        first, _, lines = rest.partition(" ")
        number = self._index(first)
        with Fetched() as fetched:
            answer = await self.client.top(number, _number(lines) if lines.strip() else 10, fetched.add)
            if answer.positive:
                self._show(fetched)

    def _show(self, fetched: Fetched) -> None:
        from posthouse.cli.notices import shown

        for piece in shown(fetched.message()):
            self.person.say(piece)

    async def _trace(self, rest: str) -> None:
        from posthouse.cli.trace import MOST
        from posthouse.cli.tracing import lines
        from posthouse.mail.path import read_path

        number = self._index(rest)
        found = bytearray()

        def keep(octets: bytes) -> None:
            found.extend(octets[: max(0, MOST - len(found))])

        answer = await self.client.top(number, 0, keep)
        if not answer.positive:  # RFC 1939 §7: a server need not have TOP
            found.clear()
            answer = await self.client.retrieve(number, keep)
        if answer.positive:
            for line in lines(read_path(bytes(found)), terminal=True):
                self.person.say(line + "\n")

    async def _delete(self, rest: str) -> None:
        answer = await self.client.delete(self._index(rest))
        self.marked += answer.positive

    async def _reset(self, rest: str) -> None:
        answer = await self.client.reset()
        if answer.positive:
            self.marked = 0

    async def _save(self, rest: str) -> None:
        number = self._index(rest)
        with Fetched() as fetched:
            answer: Answer = await self.client.retrieve(number, fetched.add)
            if not answer.positive:
                return
            paths = save_attachments(fetched.message(), self.directory)
        if not paths:
            self.person.tell("The message has no attachment.")
        for path in paths:
            self.person.tell("Saved {path}", path=harmless_line(str(path)))

    async def _raw(self, rest: str) -> None:
        text = rest or self.person.ask("Input command")
        command = Raw(text)
        verb = command.encode().split()[0].upper()
        if verb in (b"AUTH", b"STLS") and text.strip().upper() != "AUTH":
            raise ValueError("AUTH and STLS change how the session goes on: they cannot be sent as they are")
        if verb == b"QUIT":
            raise ValueError("Say Quit")
        answer = await self.client.listing(command, "raw")
        self.marked += answer.positive and verb == b"DELE"

    async def _help(self, rest: str) -> None:
        for word, text in HELP.items():
            self.person.say(f"{word:<8} ")
            self.person.tell(text)

    def _index(self, rest: str) -> int:
        return _number(rest or self.person.ask(INDEX))


def _words(line: str) -> tuple[str, str]:
    word, _, rest = line.strip().partition(" ")
    return word, rest.strip()


def _number(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("Input error: a message index is a number, such as 1")
    return int(text)
