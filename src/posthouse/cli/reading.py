"""The one-shot forms of `posthouse read`: one session, one job, one answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from posthouse.cli.account import find_password
from posthouse.cli.exits import Exit, Problem, print_json, problem_of
from posthouse.cli.fetching import Fetched, save_attachments
from posthouse.cli.helpers import Progress, observer
from posthouse.cli.notices import describe as describe_notice
from posthouse.cli.notices import shown
from posthouse.cli.rules import Rules
from posthouse.cli.security import security_of
from posthouse.cli.targets import Target, open_target
from posthouse.clients.failure import Failure, Kind
from posthouse.clients.pop3 import IN_CLEAR, Pop3Client, refusal
from posthouse.clients.security import Security
from posthouse.mail.charsets import harmless_line
from posthouse.mail.message import Message
from posthouse.mail.report import read_report
from posthouse.net.dial import Server
from posthouse.pop3.client import Answer

LOOKED_INTO: Final = 500  # messages whose headers `list` asks for, the newest ones
JSON_TEXT: Final = 4_194_304  # characters of text in one JSON answer


@dataclass(slots=True)
class Access:
    """Where the maildrop is and how to open it."""

    server: Server
    login: str
    password: str = field(repr=False)
    timeout: float | None = None
    insecure: bool = False
    verbose: int = 0
    security: Security = field(default_factory=Security)
    may_ask: bool = False


def access_of(options: dict[str, Any], server: Server, login: str) -> Access:
    """How to get into a mailbox, as the options of a command say; asks for the password. Raises Problem."""
    if not login:
        raise Problem(Exit.USAGE, "There is no login name: give -u USER or --url pop3://user@host:port.")
    return Access(
        server,
        login,
        find_password(options, login),
        timeout=options["timeout"],
        insecure=options["insecure_auth"],
        verbose=options["verbose"],
        security=security_of(options, options["url"]),
        may_ask=not options["as_json"] and sys.stdin.isatty(),
    )


@dataclass(slots=True)
class Job:
    """What to do: `word` is list, latest, show, top, save, delete or new."""

    word: str
    numbers: list[int]
    target: str = ""
    rules: Rules = field(default_factory=Rules)
    as_json: bool = False
    quiet: bool = False
    watched: bool = False  # it is one of many runs
    dry: bool = False  # nothing is done, but said what would be


async def collect(access: Access, job: Job) -> int:
    """Does the job and says goodbye. Returns the exit code; raises Problem."""
    begun = time.monotonic()
    target = open_target(job.target) if job.target and not job.dry else None
    session = Session(access, job, target)
    try:
        await session.open()
        code = await session.work()
        await session.leave()
    except Failure as failure:
        raise problem_of(failure, session.became) from failure
    except BrokenPipeError:
        raise  # who reads our output has left; that is no fault of the disk
    except OSError as error:
        raise Problem(Exit.IO, f"A file cannot be written: {error}. {session.became}", stage="save") from error
    finally:
        session.close()
        if target is not None:
            target.close()
    if job.as_json:
        answer = {"ok": code == Exit.OK, "code": int(code)} | session.answer
        print_json(answer | {"ms": round((time.monotonic() - begun) * 1000)})
    return int(code)


async def fetch_header(access: Access, number: int, most: int) -> bytes:
    """The header of one message, at most so many octets: by TOP, or where a server has none by RETR. Raises Problem."""
    session = Session(access, Job("trace", [number]), None)
    try:
        await session.open()
        octets = await header_of(session.client, number, most)
        await session.leave()
    except Failure as failure:
        raise problem_of(failure, "") from failure
    finally:
        session.close()
    return octets


async def header_of(client: Pop3Client, number: int, most: int) -> bytes:
    """The same in a session that is open. Raises Failure when the server refuses."""
    found = bytearray()

    def keep(octets: bytes) -> None:
        found.extend(octets[: max(0, most - len(found))])

    answer = await client.top(number, 0, keep)
    if not answer.positive:
        found.clear()
        answer = await client.retrieve(number, keep)
    need(answer, "retr")
    return bytes(found)


class Session:
    """One session with the server, and what it found."""

    def __init__(self, access: Access, job: Job, target: Target | None) -> None:
        self.access = access
        self.job = job
        self.target = target
        self.answer: dict[str, Any] = {}
        self.marked = 0
        self.safe = ""  # what is safe here whatever happens now, in a sentence
        self.progress = Progress("Reading", wanted=not (job.quiet or job.as_json or access.verbose))
        self._client: Pop3Client | None = None
        self._sizes: dict[int, int] = {}

    @property
    def client(self) -> Pop3Client:
        """The session with the server."""
        assert self._client is not None
        return self._client

    @property
    def became(self) -> str:
        """What became of messages, when the session breaks off."""
        return " ".join(filter(None, [self.safe, "Nothing was deleted in this session." if self.marked else ""]))

    async def open(self) -> None:
        """Connects and logs in."""
        access = self.access
        self._client = await Pop3Client.connect(
            access.server.host,
            access.server.port,
            timeout=access.timeout,
            observer=observer(access.verbose),
            security=access.security,
        )
        need(await self.client.greet(), "greeting")
        method = await self.client.choose_login()
        if method in IN_CLEAR and not (self.client.private or access.insecure or self._consent()):
            text = "the server offers no encryption that we can use, and the password was not sent in clear"
            raise Failure(Kind.LOGIN, "auth", text)
        try:
            need(*await self.client.login(method, access.login, access.password))
        except ValueError as error:  # a name or a password that POP3 cannot carry
            raise Problem(Exit.DATA, f"{error}. Nothing was read.", stage="auth") from error

    def _consent(self) -> bool:
        if not self.access.may_ask:
            return False
        from posthouse.cli.dialogue import Terminal

        answer = Terminal().ask("No encryption offered. Send the password in clear?", "n")
        return answer.lower() in ("y", "yes", "д", "да")

    async def work(self) -> Exit:
        """The job itself."""
        if self.job.dry:
            from posthouse.cli.foreseeing import foresee_delete, foresee_new

            return await (foresee_new if self.job.word == "new" else foresee_delete)(self)
        action = {
            "list": self._list,
            "latest": self._latest,
            "show": self._show,
            "top": self._top,
            "save": self._save,
            "delete": self._delete,
            "new": self._new,
        }[self.job.word]
        return await action()

    async def leave(self) -> None:
        """QUIT, which alone carries out deletions."""
        answer = await self.client.quit()
        if not answer.positive:
            failure = refusal(answer, "quit")
            unsure = "The deletions may not have been carried out." if self.marked else ""
            raise problem_of(failure, " ".join(filter(None, [self.safe, unsure])))
        self.marked = 0

    def close(self) -> None:
        """Ends the session whatever happened."""
        self.progress.end()
        if self._client is not None:
            self._client.close()

    # Jobs

    async def _list(self) -> Exit:
        sizes = await self.all_sizes()
        ids = await self.ids()
        headers = await self.headers(list(sizes)[-LOOKED_INTO:])
        rows: list[dict[str, Any]] = []
        for number, size in sizes.items():
            row: dict[str, Any] = {"n": number, "size": size}
            row |= {"id": ids[number]} if number in ids else {}
            rows.append(row | headers.get(number, {}))
            if not self.job.as_json:
                print(list_line(rows[-1]))
        self.answer = {"messages": rows, "octets": sum(sizes.values())}
        if not self.job.as_json and not self.job.quiet:
            print(f"{len(rows)} messages, {sum(sizes.values())} octets")
        return Exit.OK

    async def headers(self, numbers: list[int]) -> dict[int, dict[str, str]]:
        """Who wrote what when. Many questions leave together where the server can take them."""
        found: dict[int, dict[str, str]] = {}

        def take(number: int, octets: bytes) -> None:
            if octets:
                message = Message(octets)
                found[number] = {name.lower(): message.get(name) for name in ("From", "Subject", "Date")}

        _, capabilities = await self.client.capabilities()
        await self.client.tops(numbers, 0, take, at_once=50 if "PIPELINING" in capabilities else 1)
        return found

    async def _latest(self) -> Exit:
        sizes = await self.all_sizes()
        if not sizes:
            if not self.job.quiet and not self.job.as_json:
                print("The mailbox is empty.", file=sys.stderr)
            return Exit.NOT_ALL
        self.job.numbers = [max(sizes)]
        return await self._show()

    async def _show(self) -> Exit:
        number = self.job.numbers[0]
        with Fetched(self._count(number)) as fetched:
            need(await self.client.retrieve(number, fetched.add), "retr")
            self.progress.end()
            if self.target is not None:
                self._tell_saved(number, [self.target.add(fetched)])
            else:
                self._tell(number, fetched.message(), fetched.size)
        return Exit.OK

    async def _top(self) -> Exit:
        number, lines = (*self.job.numbers, 10)[:2]
        with Fetched() as fetched:
            need(await self.client.top(number, lines, fetched.add), "top")
            self._tell(number, fetched.message(), fetched.size)
        return Exit.OK

    async def _save(self) -> Exit:
        if self.target is not None:
            return await self._show()
        number = self.job.numbers[0]
        with Fetched(self._count(number)) as fetched:
            need(await self.client.retrieve(number, fetched.add), "retr")
            self.progress.end()
            paths = [str(path) for path in save_attachments(fetched.message(), Path())]
        self._tell_saved(number, paths)
        if not paths and not self.job.as_json:
            print("The message has no attachment.", file=sys.stderr)
        return Exit.OK if paths else Exit.NOT_ALL

    async def _delete(self) -> Exit:
        rows: list[dict[str, Any]] = []
        for number in dict.fromkeys(self.job.numbers):
            answer = await self.client.delete(number)
            self.marked += answer.positive
            rows.append({"n": number, "deleted": answer.positive, "reply": answer.text})
            if not answer.positive:
                print(harmless_line(f"{number}: {answer.text}"), file=sys.stderr)
        self.answer = {"messages": rows}
        if self.marked == len(rows):
            return Exit.OK
        return Exit.NOT_ALL if self.marked else Exit.UNAVAILABLE

    async def _new(self) -> Exit:
        from posthouse.cli.collecting import Collector

        return await Collector(self).run()

    # What jobs share

    async def all_sizes(self) -> dict[int, int]:
        """The size of each message, by number. Raises Failure."""
        answer, self._sizes = await self.client.sizes()
        need(answer, "list")
        return self._sizes

    async def ids(self) -> dict[int, str]:
        """The unique-id of each message, by number; none where the server has no UIDL. Raises Failure."""
        answer, ids = await self.client.unique_ids()
        return ids if answer.positive else {}

    def _count(self, number: int) -> Any:
        total = self._sizes.get(number, 0)
        return lambda done: self.progress(done, total)

    def _tell(self, number: int, message: Message, size: int) -> None:
        if self.job.as_json:
            self.answer = {"message": {"n": number, "size": size} | describe(message, JSON_TEXT)}
        else:
            show(shown(message))

    def _tell_saved(self, number: int, paths: list[str]) -> None:
        self.answer = {"message": {"n": number, "saved": paths}}
        if not (self.job.as_json or self.job.quiet or self.job.target == "-"):
            for path in paths:
                print(f"Saved {harmless_line(path)}")


def need(answer: Answer, stage: str) -> None:
    """Raises Failure for a refusal."""
    if not answer.positive:
        raise refusal(answer, stage)


def list_line(row: dict[str, Any]) -> str:
    """Number, size, and where it is known sender and subject."""
    text = f"{row['n']:>5} {row['size']:>10}"
    return f"{text}  {row['from'][:30]:<30}  {row['subject'][:60]}".rstrip() if "subject" in row else text


def show(pieces: Iterator[str]) -> None:
    """Prints a text in pieces."""
    for piece in pieces:
        sys.stdout.write(piece)
    sys.stdout.flush()


def separated(number: int, message: Message) -> Iterator[str]:
    """A message of several, for people."""
    yield f"--- message {number} ---\n"
    yield from shown(message)
    yield "\n"


def describe(message: Message, room: int) -> dict[str, Any]:
    """A message for programs, with at most so many characters of text."""
    fields = {name.lower(): message.get(name) for name in ("From", "To", "Cc", "Date", "Subject", "Message-ID")}
    text = ""
    for piece in message.body():
        text += piece[: max(0, room - len(text))]
        if len(text) >= room:
            break
    names = message.attachment_names()
    attached = [{"name": name, "type": part.type} for name, part in zip(names, message.attachments, strict=True)]
    report = read_report(message.octets, message.root)
    notice = {} if report is None else {"report": describe_notice(report)}
    return fields | {"text": text, "attachments": attached} | notice
