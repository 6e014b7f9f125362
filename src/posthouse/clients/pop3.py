"""A session with a POP3 server, as the client (RFC 1939)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

from posthouse.clients.failure import Failure, Kind, dial, next_of
from posthouse.clients.login import Exchange, choose
from posthouse.clients.plainwords import meaning
from posthouse.clients.security import POP3S, Security, injected, protect
from posthouse.mail.reply import PeerError
from posthouse.net.dial import is_loopback
from posthouse.net.wire import Wire
from posthouse.pop3.client import Answer, Answered, Command, Ended, Event, Piece, Pop3ClientCore, Unasked
from posthouse.pop3.commands import (
    Apop,
    Auth,
    Capa,
    Dele,
    Last,
    List,
    Noop,
    Pass,
    Quit,
    Retr,
    Rset,
    SaslResponse,
    Stat,
    Stls,
    Top,
    Uidl,
    User,
)
from posthouse.ports.system import SessionObserver
from posthouse.sasl.digests import apop_digest, find_timestamp
from posthouse.sasl.registry import CLEAR, CRAM_MD5
from posthouse.sasl.scram import NAME as SCRAM

PORT: Final = 110  # RFC 1939 §3
PATIENCE: Final = 120.0  # seconds until the next part of a reply; a large maildrop may take a while to open
LISTING_LINE: Final = 4_096  # octets of one line of a listing; RFC 1939 §3 says 512
LISTING: Final = 1_000_000  # lines of one listing
MESSAGE: Final = 4_294_967_296  # octets of one message, so that no server fills a disk
TOP_OCTETS: Final = 65_536  # octets of each of many tops
INITIAL: Final = 150  # octets of an initial response, so that AUTH stays within 255 (RFC 5034 §4)
USER: Final = "USER"  # logins that are no SASL mechanism
APOP: Final = "APOP"
IN_CLEAR: Final = CLEAR | {USER}
QUIT_PATIENCE: Final = 60.0  # a server that removes many letters needs its time

LOGIN_TEXTS: Final = {
    Kind.IN_USE: "the mailbox is in use by another session",
    Kind.TEMPORARY: "the server cannot do it now",
    Kind.LOGIN: "the server refused the login",
}

Sink = Callable[[bytes], None]
Row = TypeVar("Row")


class Pop3Client:
    """One session. Each method sends one command and returns the server's answer, positive or not; it raises Failure
    when there is no answer, and the session is over then.

    `on_line` is told each status line and, of listings, each further line, as they came.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        patience: float = PATIENCE,
        observer: SessionObserver | None = None,
        on_line: Callable[[bytes], None] | None = None,
        host: str = "",
        security: Security | None = None,
    ) -> None:
        self._host = host  # whose certificate it must be
        self._security = security or Security()
        self.wire = wire
        self.core = Pop3ClientCore(observer.received if observer is not None else None)
        self.on_line = on_line
        self._observer = observer
        self._patience = patience
        self.offered: dict[str, str] = {}
        """What the server said last that it can do, by keyword."""
        self._word: str | None = None  # of APOP, in the greeting
        self._events: AsyncIterator[Event] = wire.events(self.core)
        wire.tap = observer
        wire.patience = wire.stall_timeout = patience

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int | None = None,
        *,
        timeout: float | None = None,
        observer: SessionObserver | None = None,
        on_line: Callable[[bytes], None] | None = None,
        security: Security | None = None,
    ) -> Pop3Client:
        """Connects, and begins with TLS where that is wanted; the greeting is still to be read. Raises Failure."""
        security = security or Security()
        at_once = security.at_once(port, POP3S)
        wire = await dial(host, port or (POP3S if at_once else PORT), min(timeout or 30.0, 30.0))
        if observer is not None:
            observer.note(f"connect {host} [{wire.peer.host}]:{wire.peer.port}")
        client = cls(
            wire, patience=timeout or PATIENCE, observer=observer, on_line=on_line, host=host, security=security
        )
        if at_once:
            try:
                await client._protect()
            except Failure:
                client.close()
                raise
        return client

    @property
    def private(self) -> bool:
        """Whether a password may pass: nobody else hears this connection."""
        return self.wire.encrypted or is_loopback(self.wire.peer.host)

    def close(self) -> None:
        """Ends the session without QUIT: the server forgets all deletion marks (RFC 1939 §6)."""
        self.wire.abort()
        if self._observer is not None:
            self._observer.closed()
            self._observer = None

    # The session

    async def greet(self) -> Answer:
        """The server's first line; after it STLS where that is wanted (RFC 2595 §4)."""
        answer = await self._answer("greeting")
        self._word = find_timestamp(answer.text)
        if answer.positive and self._security.wanted(self.wire):
            await self._start_tls()
        return answer

    async def _start_tls(self) -> None:
        """Goes over to TLS, if it is to be had or somebody insists."""
        shown, self.on_line = self.on_line, None
        answer, offered = await self.capabilities()
        self.on_line = shown
        insists = self._security.stripped("STLS")
        # A server without CAPA does not say what it can do (RFC 2449 §3): where somebody insists it is asked.
        if "STLS" not in offered and (answer.positive or insists is None):
            if insists is not None:
                raise insists
            return
        answer = await self._say(Stls(), "tls")
        if not answer.positive:
            raise insists or refusal(answer, "tls")
        self.wire.pause()
        if self.core.left_over or self.wire.unread:
            raise injected(self.wire, "STLS")
        await self._protect()

    async def _protect(self) -> None:
        await protect(self.wire, self._host, self._security, self._observer, self._patience)

    async def choose_login(self) -> str:
        """How `login` logs in: a SASL mechanism, "APOP" or "USER". Asks the server what it offers (RFC 5034 §3)."""
        answer, offered = await self.capabilities()
        mechanisms = offered.get("SASL", "").upper().split() if answer.positive else []
        if SCRAM in mechanisms:
            return SCRAM
        if not self.private:
            if CRAM_MD5 in mechanisms:
                return CRAM_MD5
            if self._word is not None:
                return APOP
        if answer.positive and "USER" not in offered and (name := choose(mechanisms, private=self.private)) is not None:
            return name
        return USER

    async def login(self, method: str, name: str, password: str) -> tuple[Answer, str]:
        """Opens the maildrop; the last answer, and the stage it came at. Where the method sends the password, the
        caller has made sure that it may pass. Raises Failure, also when the server cannot prove what it must."""
        if method == USER:
            answer = await self.user(name)
            if not answer.positive:
                return answer, "user"
            return await self.password(password), "pass"
        if method == APOP:
            assert self._word is not None, "APOP was chosen"
            return await self._say(Apop(name, apop_digest(self._word, password.encode("utf-8"))), "pass"), "pass"
        return await self._exchange(Exchange(method, name, password)), "pass"

    async def _exchange(self, exchange: Exchange) -> Answer:
        initial = await exchange.initial()
        if initial is not None and len(initial) > INITIAL:
            initial = None
        answer = await self._say(Auth(exchange.name, initial), "auth")
        while answer.status == "+":
            try:
                response = await exchange.answer(answer.line[2:])
            except Failure:
                await self._say(SaslResponse(None), "auth")  # RFC 5034 §4: the exchange is cancelled
                raise
            answer = await self._say(SaslResponse(response), "auth")
        if answer.positive:
            exchange.check()
        return answer

    async def user(self, name: str) -> Answer:
        """Names the maildrop. After a refusal no password may be sent."""
        return await self._say(User(name), "user")

    async def password(self, password: str) -> Answer:
        """Opens the maildrop."""
        return await self._say(Pass(password), "pass")

    async def stat(self) -> tuple[Answer, int, int]:
        """How many messages and octets there are."""
        answer = await self._say(Stat(), "stat")
        return answer, *(_numbers(answer, 2, "stat") if answer.positive else (0, 0))

    async def sizes(self) -> tuple[Answer, dict[int, int]]:
        """The size of each message, by number."""
        return await self._listing(List(), "list", _two_numbers)

    async def unique_ids(self) -> tuple[Answer, dict[int, str]]:
        """The unique-id of each message, by number. Servers without UIDL answer -ERR."""
        return await self._listing(Uidl(), "uidl", _number_and_word)

    async def capabilities(self) -> tuple[Answer, dict[str, str]]:
        """What the server can do, by keyword in capitals. Old servers answer -ERR (RFC 2449 §5)."""
        rows: dict[str, str] = {}

        def take(line: bytes) -> None:
            keyword, _, rest = line.decode("ascii", "replace").partition(" ")
            rows[keyword.upper()] = rest

        answer = await self._lines(Capa(), "capa", take)
        self.offered = rows
        return answer, rows

    async def retrieve(self, number: int, sink: Sink) -> Answer:
        """Gives the message to `sink` in pieces as they come, unstuffed."""
        return await self._say(Retr(number), "retr", sink)

    async def top(self, number: int, lines: int, sink: Sink) -> Answer:
        """Gives the header and the first lines of the body to `sink`."""
        return await self._say(Top(number, lines), "top", sink)

    async def tops(
        self, numbers: Sequence[int], lines: int, take: Callable[[int, bytes], None], *, at_once: int
    ) -> dict[int, Answer]:
        """The tops of many messages, whole, asked for in groups of `at_once`: more than one needs PIPELINING
        (RFC 2449 §6.6). Each is cut after 64 KiB."""
        answers: dict[int, Answer] = {}
        for place in range(0, len(numbers), at_once):
            group = numbers[place : place + at_once]
            await self.check_silence()
            for number in group:
                self.wire.write(self.core.send(Top(number, lines)))
            for number in group:
                pieces = _Beginning()
                answers[number] = await self._answer("top", pieces.add)
                take(number, pieces.octets)
        return answers

    async def retrieve_each(
        self, numbers: Sequence[int], sink: Sink, *, at_once: int
    ) -> AsyncIterator[tuple[int, Answer]]:
        """Messages one after the other: each goes to `sink` as `retrieve` gives it and is told with its answer when it
        is whole. So many RETR are under way at once: more than one needs PIPELINING (RFC 2449 §6.6). Nothing else may
        be asked before the last one is told."""
        async for number, answer in self._each([Retr(number) for number in numbers], "retr", sink, at_once):
            yield number, answer

    async def delete_each(self, numbers: Sequence[int], *, at_once: int) -> AsyncIterator[tuple[int, Answer]]:
        """Marks messages, many at once where there is PIPELINING; they go when QUIT is answered +OK."""
        async for number, answer in self._each([Dele(number) for number in numbers], "dele", None, at_once):
            yield number, answer

    async def _each(
        self, commands: Sequence[Retr | Dele], stage: str, sink: Sink | None, at_once: int
    ) -> AsyncIterator[tuple[int, Answer]]:
        if not commands:
            return
        await self.check_silence()
        asked = 0
        for done, command in enumerate(commands):
            # Half of them leave together, so that a write, and a read of the server, serves many.
            if asked - done <= at_once // 2:
                for further in commands[asked : done + at_once]:
                    self.wire.write(self.core.send(further))
                asked = min(done + at_once, len(commands))
            yield command.number, await self._answer(stage, sink)

    async def delete(self, number: int) -> Answer:
        """Marks a message; it goes when QUIT is answered +OK."""
        return await self._say(Dele(number), "dele")

    async def last(self) -> Answer:
        """The highest number retrieved (RFC 1460)."""
        return await self._say(Last(), "last")

    async def reset(self) -> Answer:
        """Takes all marks back."""
        return await self._say(Rset(), "rset")

    async def noop(self) -> Answer:
        """Nothing, and the server's timer begins anew."""
        return await self._say(Noop(), "noop")

    async def quit(self) -> Answer:
        """Has the marked messages removed and ends the session. When it is refused or not answered, the caller does
        not know that anything was deleted."""
        self._patience = self.wire.patience = max(self._patience, QUIT_PATIENCE)
        answer = await self._say(Quit(), "quit")
        self.close()
        return answer

    async def listing(self, command: Command, stage: str) -> Answer:
        """Sends any command and shows all of its reply to `on_line`."""
        return await self._lines(command, stage, lambda line: None)

    async def check_silence(self) -> None:
        """Looks whether the server said something unasked meanwhile, or left. Raises Failure then."""
        self.wire.patience = 0.0
        try:
            event = await anext(self._events)
        except TimeoutError:
            self._events = self.wire.events(self.core)  # a generator that raised is used up
            return
        except StopAsyncIteration:
            raise Failure(Kind.UNREACHABLE, "idle", "the server closed the connection meanwhile") from None
        except PeerError as error:
            raise Failure(Kind.PROTOCOL, "idle", error.reply.text) from error
        finally:
            self.wire.patience = self._patience
        raise self._unasked(event)

    # Within

    async def _say(self, command: Command, stage: str, sink: Sink | None = None) -> Answer:
        await self.check_silence()
        self.wire.write(self.core.send(command), secret=isinstance(command, Apop | Auth | Pass | SaslResponse))
        return await self._answer(stage, sink)

    async def _answer(self, stage: str, sink: Sink | None = None) -> Answer:
        event = await next_of(self._events, stage, self._patience)
        if not isinstance(event, Answered):
            raise self._unasked(event)
        if self.on_line is not None:
            self.on_line(event.answer.line)
        if event.more:
            await self._body(stage, sink)
        return event.answer

    async def _body(self, stage: str, sink: Sink | None) -> None:
        octets = 0
        while not isinstance(event := await next_of(self._events, stage, self._patience), Ended):
            if isinstance(event, Piece):
                octets += len(event.octets)
                if octets > MESSAGE:
                    raise Failure(Kind.PROTOCOL, stage, f"the server sent more than {MESSAGE} octets without an end")
                if sink is not None:
                    sink(event.octets)

    def _unasked(self, event: Event) -> Failure:
        if not isinstance(event, Unasked):
            return Failure(Kind.PROTOCOL, "idle", "the server's replies do not match the commands")
        said = event.line.decode("utf-8", "replace")
        if self.on_line is not None:
            self.on_line(event.line)
        if said.upper().startswith("-ERR"):
            return Failure(Kind.TEMPORARY, "idle", "the server ended the session by itself", said)
        return Failure(Kind.PROTOCOL, "idle", "the server said something that nobody asked for", said)

    async def _listing(
        self, command: Command, stage: str, read: Callable[[bytes], tuple[int, Row] | None]
    ) -> tuple[Answer, dict[int, Row]]:
        rows: dict[int, Row] = {}

        def take(line: bytes) -> None:
            row = read(line)
            if row is None:
                shown = line[:100].decode("utf-8", "backslashreplace")
                raise Failure(Kind.PROTOCOL, stage, f"the server's list holds a line that is none of a list: {shown}")
            rows[row[0]] = row[1]

        return await self._lines(command, stage, take), rows

    async def _lines(self, command: Command, stage: str, take: Callable[[bytes], None]) -> Answer:
        """Sends a command and hands out each line of its reply, however many and however cut."""
        rest = b""
        count = 0

        def sink(octets: bytes) -> None:
            nonlocal rest, count
            *lines, rest = (rest + octets).split(b"\n")
            count += len(lines)
            if count > LISTING or len(rest) > LISTING_LINE:
                raise Failure(Kind.PROTOCOL, stage, "the server sent a list that is too long to be one")
            for line in lines:
                whole = line.removesuffix(b"\r")[:LISTING_LINE]
                if self.on_line is not None:
                    self.on_line(whole)
                take(whole)

        return await self._say(command, stage, sink)


class _Beginning:
    """The first octets of a stream."""

    def __init__(self) -> None:
        self.octets = b""

    def add(self, octets: bytes) -> None:
        if len(self.octets) < TOP_OCTETS:
            self.octets += octets[: TOP_OCTETS - len(self.octets)]


def refusal(answer: Answer, stage: str) -> Failure:
    """The failure that a negative answer means. "In use" and "not now" are told apart from "wrong password"
    (RFC 2449 §8.1.1, RFC 3206), by the words where the server has no codes."""
    said = answer.text
    if answer.code == "IN-USE":
        return Failure(Kind.IN_USE, stage, LOGIN_TEXTS[Kind.IN_USE], said)
    if answer.code in ("SYS/TEMP", "LOGIN-DELAY"):
        return Failure(Kind.TEMPORARY, stage, LOGIN_TEXTS[Kind.TEMPORARY], said)
    if stage in ("user", "pass") and answer.code != "SYS/PERM":
        kind = Kind.LOGIN if answer.code else meaning(said)
        return Failure(kind, stage, LOGIN_TEXTS[kind], said)
    return Failure(Kind.REFUSED, stage, "the server refused", said)


def _numbers(answer: Answer, count: int, stage: str) -> list[int]:
    words = answer.line.split()[1 : 1 + count]
    if len(words) < count or not all(_is_number(word) for word in words):
        raise Failure(Kind.PROTOCOL, stage, "the server's answer holds no numbers", answer.text)
    return [int(word) for word in words]


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) < 20


def _two_numbers(line: bytes) -> tuple[int, int] | None:
    words = line.split()
    if len(words) < 2 or not _is_number(words[0]) or not _is_number(words[1]):
        return None
    return int(words[0]), int(words[1])


def _number_and_word(line: bytes) -> tuple[int, str] | None:
    words = line.split(None, 1)
    # RFC 1939 §7: a unique-id has 1 to 70 printable characters; longer ones exist.
    if len(words) < 2 or not _is_number(words[0]) or len(words[1]) > 512:
        return None
    return int(words[0]), words[1].strip().decode("ascii", "backslashreplace")
