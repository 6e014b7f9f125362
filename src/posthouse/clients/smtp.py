"""A session with an SMTP or LMTP server, as the client (RFC 5321 §3, RFC 2033)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from posthouse.clients.failure import Failure, Kind, broken, closed, dial, refusal, silent
from posthouse.clients.login import KNOWN, Exchange, choose
from posthouse.clients.security import SUBMISSIONS, Security, injected, protect
from posthouse.clients.transaction import Letter, Outcome, Result, Transaction
from posthouse.mail.reply import PeerError
from posthouse.net.dial import is_loopback
from posthouse.net.wire import Wire
from posthouse.ports.system import SessionObserver
from posthouse.sasl.mechanisms import encode_line
from posthouse.smtp.client import Answer, Answered, Command, Event, Extensions, Response, SmtpClientCore
from posthouse.smtp.commands import Auth, Ehlo, Helo, Lhlo, Quit, Rset, StartTls

PATIENCE: Final = {  # RFC 5321 §4.5.3.2, seconds
    "greeting": 300.0,
    "data": 120.0,
    "content": 180.0,
    "end of data": 600.0,
}
USUAL_PATIENCE: Final = 300.0
QUIT_PATIENCE: Final = 10.0  # the message is safe already; nobody waits long for a farewell
NO_EXTENSIONS: Final = (500, 501, 502, 504, 550)  # what servers without EHLO answer to it (RFC 5321 §3.2)

__all__ = ["Letter", "Outcome", "Result", "SmtpClient", "login_refusal"]


class SmtpClient:
    """One session. `on_answer` is told every reply as it comes. Methods raise Failure when the session cannot go on.

    `timeout` is the time for every reply; without it `patience` says how long each stage may take, and what it does
    not name takes the time of RFC 5321 §4.5.3.2. With `lmtp` the server speaks that (RFC 2033).
    """

    def __init__(
        self,
        wire: Wire,
        *,
        timeout: float | None = None,
        observer: SessionObserver | None = None,
        on_answer: Callable[[Answer], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        host: str = "",
        security: Security | None = None,
        patience: Mapping[str, float] | None = None,
        lmtp: bool = False,
    ) -> None:
        self._host = host  # whose certificate it must be
        self._security = security or Security()
        self.wire = wire
        self.core = SmtpClientCore(observer.received if observer is not None else None)
        self.extensions = Extensions()
        self.on_answer = on_answer
        self.on_progress = on_progress
        self.on_end: Callable[[Outcome], None] | None = None
        """Called when the final dot is about to leave, which is the point of no return; an OSError breaks off."""
        self._observer = observer
        self._timeout = timeout
        self._patience: Mapping[str, float] = {**PATIENCE, **(patience or {})}
        self._loop = asyncio.get_running_loop()
        self._until: float | None = None
        self.lmtp = lmtp
        wire.tap = observer
        wire.stall_timeout = timeout or self._patience["content"]

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        timeout: float | None = None,
        observer: SessionObserver | None = None,
        on_answer: Callable[[Answer], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        security: Security | None = None,
    ) -> SmtpClient:
        """Connects, and begins with TLS where that is wanted; the greeting is still to be read. Raises Failure."""
        wire = await dial(host, port, min(timeout or 30.0, 30.0))
        if observer is not None:
            observer.note(f"connect {host} [{wire.peer.host}]:{wire.peer.port}")
        client = cls(
            wire,
            timeout=timeout,
            observer=observer,
            on_answer=on_answer,
            on_progress=on_progress,
            host=host,
            security=security,
        )
        if client._security.at_once(port, SUBMISSIONS):
            try:
                await client.protect()
            except Failure:
                client.close()
                raise
        return client

    @property
    def private(self) -> bool:
        """Whether a password may pass: nobody else hears this connection."""
        return self.wire.encrypted or is_loopback(self.wire.peer.host)

    def limit(self, seconds: float) -> None:
        """From now on the server has so many seconds in all, however often it keeps a single time-out."""
        self._until = self._loop.time() + seconds
        self.wire.deadline(seconds)

    def close(self) -> None:
        """Drops the connection."""
        self.wire.abort()
        if self._observer is not None:
            self._observer.closed()
            self._observer = None

    # The session

    async def greet(self) -> Answer:
        """Reads the greeting; 220 is the only one that lets us go on (RFC 5321 §3.1)."""
        answer = await self.answer("greeting")
        if answer.code != 220:
            raise refusal(answer, "greeting", "the server does not want to talk to us")
        return answer

    async def hello(self, name: str) -> Answer:
        """EHLO, and HELO with servers that do not know it (RFC 5321 §3.2); STARTTLS and EHLO again where that is
        wanted (RFC 3207 §4.2)."""
        answer = await self._hello(name)
        return await self._hello(name) if await self._start_tls() else answer

    async def _start_tls(self) -> bool:
        """Goes over to TLS if that is wanted; False when it is not, or not to be had and nobody insists."""
        if not self._security.wanted(self.wire):
            return False
        if "STARTTLS" not in self.extensions:
            if (failure := self._security.stripped("STARTTLS")) is not None:
                raise failure
            return False
        answer = await self.say(StartTls(), "tls")
        if answer.code != 220:
            raise refusal(answer, "tls", "the server offers STARTTLS and does not begin with it")
        self.wire.pause()
        if self.core.left_over or self.wire.unread:
            raise injected(self.wire, "STARTTLS")
        await self.protect()
        return True

    async def protect(self) -> None:
        """Goes over to TLS. Raises Failure; then the connection is gone."""
        seconds = self._timeout or self._patience.get("tls")
        await protect(self.wire, self._host, self._security, self._observer, seconds)

    async def _hello(self, name: str) -> Answer:
        answer = await self.say(Lhlo(name) if self.lmtp else Ehlo(name), "ehlo")
        if answer.positive:
            self.extensions = Extensions.read(answer)
        elif answer.code in NO_EXTENSIONS and not self.lmtp:
            self.extensions = Extensions()
            answer = await self.say(Helo(name), "ehlo")
        if not answer.positive:
            raise refusal(answer, "ehlo", "the server refused our greeting")
        return answer

    @property
    def mechanism(self) -> str | None:
        """The login mechanism that `login` takes: the strongest that the server offers and we know."""
        return choose(self.extensions.mechanisms, private=self.private)

    async def login(self, name: str, password: str) -> Answer:
        """Logs in by `mechanism`. The caller has made sure that the password may pass where it must. Raises Failure
        when it is refused, or when the server cannot prove what the mechanism asks of it."""
        mechanism = self.mechanism
        if mechanism is None:
            raise Failure(Kind.LOGIN, "auth", f"the server offers no login that we know ({KNOWN})")
        exchange = Exchange(mechanism, name, password)
        initial = await exchange.initial()
        text = None if initial is None else encode_line(initial).decode("ascii") or "="
        answer = await self.say(Auth(mechanism, text), "auth", secret=True)
        while answer.code == 334:
            try:
                response = await exchange.answer(answer.lines[-1][4:])
            except Failure:
                await self._respond(b"*")  # RFC 4954 §4: the exchange is cancelled
                raise
            answer = await self._respond(encode_line(response))
        if answer.code != 235:
            raise login_refusal(answer)
        exchange.check()
        return answer

    async def quit(self) -> None:
        """Says goodbye and closes. What the server answers, and whether it does, changes nothing."""
        try:
            await self.say(Quit(), "quit")
        except Failure:
            pass
        finally:
            self.close()

    # A letter

    def send(self, letter: Letter, stop_after: str = "") -> Awaitable[Outcome]:
        """One transaction. Refused recipients never stop the others. `stop_after` "mail", "rcpt" or "data" breaks off
        there, and nothing is sent; after "data" the connection is of no more use. Raises nothing: what ends the
        session stands in the outcome."""
        return Transaction(self, letter).run(stop_after)

    async def reset(self) -> Answer:
        """Forgets a transaction."""
        return await self.say(Rset(), "rset")

    # What a transaction is made of

    def about_to_end(self, outcome: Outcome) -> None:
        """Tells that the final dot is about to leave. Raises Failure when that cannot be written down."""
        if self.on_end is None:
            return
        try:
            self.on_end(outcome)
        except OSError as error:
            self.close()
            raise Failure(Kind.LOCAL, "content", f"the state of the message cannot be written: {error}") from error

    async def say(self, command: Command, stage: str, *, secret: bool = False) -> Answer:
        """A command and its reply."""
        self._check_silence(stage)
        self.wire.write(self.core.send(command), secret=secret)
        return await self.answer(stage)

    def put(self, command: Command) -> None:
        """A command whose reply is read later."""
        self.wire.write(self.core.send(command))

    def put_content(self, octets: bytes) -> None:
        """Octets of a message, ready for the wire; a transcript holds what was said, the message is there anyway."""
        self.wire.tap = None
        self.wire.write(octets)
        self.wire.tap = self._observer

    def put_end(self, octets: bytes) -> None:
        """The end of a message, of which a transcript shows the lone dot."""
        self.put_content(octets)
        if self._observer is not None:
            self._observer.sent(b".\r\n")

    async def answer(self, stage: str) -> Answer:
        """The next reply; 421 ends the session wherever it comes (RFC 5321 §3.8)."""
        answer = await self.next(stage)
        if answer.code == 421 and stage != "quit":
            raise refusal(answer, stage, "the server is closing the connection")
        return answer

    async def next(self, stage: str) -> Answer:
        """The next reply, whatever it is."""
        event = await self._event(stage)
        if self.on_answer is not None:
            self.on_answer(event.answer)
        if not isinstance(event, Answered):
            raise self._unasked(event.answer, stage)
        return event.answer

    async def drain(self, stage: str) -> None:
        """Waits until the server has taken most of what was written."""
        seconds = self._timeout or self._patience["content"]
        if self._until is not None:
            seconds = min(seconds, self._until - self._loop.time())
        self.wire.stall_timeout = seconds
        try:
            await self.wire.drain()
            if seconds <= 0:
                raise TimeoutError
        except TimeoutError:
            raise await self._stalled(stage) from None

    def progress(self, done: int, total: int) -> None:
        """Tells whoever wants to know how much of a message has left."""
        if self.on_progress is not None:
            self.on_progress(done, total)

    def note(self, text: str) -> None:
        """Something that happened beside the octets, for the transcript."""
        if self._observer is not None:
            self._observer.note(text)

    # Within

    def _check_silence(self, stage: str) -> None:
        """What came before the command cannot be its reply."""
        try:
            event = None if self.core.waiting else self.core.next_event()
        except PeerError as error:
            raise broken(error, stage) from error
        if event is not None:
            raise self._unasked(event.answer, stage)

    async def _respond(self, octets: bytes) -> Answer:
        return await self.say(Response(octets), "auth", secret=True)

    async def _stalled(self, stage: str) -> Failure:
        """Why the server takes no more octets: it may have said so before it stopped to read."""
        text = "the server does not take the message any more"
        self.wire.abort()
        self.core.expect(None)
        try:
            return refusal(await self.next(stage), stage, text)
        except Failure:
            return Failure(Kind.UNREACHABLE, stage, text)

    async def _event(self, stage: str) -> Event:
        try:
            if (event := self.core.next_event()) is not None:
                return event
            seconds = self._timeout or self._patience.get(stage, USUAL_PATIENCE)
            self.wire.patience = min(seconds, QUIT_PATIENCE) if stage == "quit" else seconds
            event = await self.wire.next_event(self.core)
        except TimeoutError:
            if self._until is not None and self._loop.time() >= self._until:
                raise Failure(Kind.UNREACHABLE, stage, "the server took too long over it all") from None
            raise silent(stage, self.wire.patience) from None
        except PeerError as error:
            raise broken(error, stage) from error
        if event is None:
            raise closed(stage)
        return event

    def _unasked(self, answer: Answer, stage: str) -> Failure:
        if answer.code == 421:
            return refusal(answer, stage, "the server is closing the connection")
        return Failure(Kind.PROTOCOL, stage, "the server said something that nobody asked for", answer.said)


def login_refusal(answer: Answer) -> Failure:
    """The failure that a refused login means: 4xx may be tried again (RFC 4954 §6)."""
    if answer.temporary:
        return Failure(Kind.TEMPORARY, "auth", "the server cannot check the login now", answer.said)
    return Failure(Kind.LOGIN, "auth", "the server refused the login", answer.said)
