"""A session with an SMTP server, as the client (RFC 5321 §3)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from posthouse.clients.failure import Failure, Kind, dial, next_of
from posthouse.clients.login import KNOWN, Exchange, choose
from posthouse.clients.security import SUBMISSIONS, Security, injected, protect
from posthouse.mail.address import Address
from posthouse.mail.reply import PeerError
from posthouse.net.dial import is_loopback
from posthouse.net.wire import Wire
from posthouse.ports.system import SessionObserver
from posthouse.sasl.mechanisms import encode_line
from posthouse.smtp.client import Answer, Answered, Command, Event, Extensions, Response, SmtpClientCore, Stuffer
from posthouse.smtp.commands import Auth, Data, Ehlo, Helo, Mail, Quit, Rcpt, Rset, StartTls

PATIENCE: Final = {  # RFC 5321 §4.5.3.2, seconds
    "greeting": 300.0,
    "data": 120.0,
    "content": 180.0,
    "end of data": 600.0,
}
USUAL_PATIENCE: Final = 300.0
QUIT_PATIENCE: Final = 10.0  # the message is safe already; nobody waits long for a farewell
PIPELINE: Final = 100  # RCPT commands sent before their replies are read
PIECE: Final = 65_536  # octets of content written before we look whether the server keeps up
NO_EXTENSIONS: Final = (500, 501, 502, 504, 550)  # what servers without EHLO answer to it (RFC 5321 §3.2)


@dataclass(slots=True)
class Result:
    """What became of one recipient: `status` is "sent", "failed" (for good), "deferred" (not now), "uncertain" or
    "not sent" (the session ended before it was its turn); `answer` what the server said about it."""

    address: Address
    status: str = "not sent"
    answer: Answer | None = None


@dataclass(slots=True)
class Letter:
    """A message that is ready to leave. `size` counts its octets before dots are stuffed; `content` gives them in
    pieces, anew with each call."""

    sender: Address | None
    recipients: Sequence[Address]
    size: int
    content: Callable[[], Iterable[bytes]]
    eight_bit: bool = False
    utf8: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a letter. `answer` is the reply that decided for all, `stage` where it came; `failure` is what
    ended the session meanwhile."""

    results: list[Result]
    stage: str = ""
    answer: Answer | None = None
    failure: Failure | None = None

    @property
    def sent(self) -> int:
        """How many recipients the server took."""
        return sum(result.status == "sent" for result in self.results)


class SmtpClient:
    """One session. `on_answer` is told every reply as it comes. Methods raise Failure when the session cannot go on."""

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
    ) -> None:
        self._host = host  # whose certificate it must be
        self._security = security or Security()
        self.wire = wire
        self.core = SmtpClientCore(observer.received if observer is not None else None)
        self.extensions = Extensions()
        self.on_answer = on_answer
        self.on_progress = on_progress
        self._observer = observer
        self._timeout = timeout
        self._events: AsyncIterator[Event] = wire.events(self.core)
        wire.tap = observer
        wire.stall_timeout = timeout or PATIENCE["content"]

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
        """Drops the connection."""
        self.wire.abort()
        if self._observer is not None:
            self._observer.closed()
            self._observer = None

    # The session

    async def greet(self) -> Answer:
        """Reads the greeting; 220 is the only one that lets us go on (RFC 5321 §3.1)."""
        answer = await self._answer("greeting")
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
        answer = await self._say(StartTls(), "tls")
        if answer.code != 220:
            raise refusal(answer, "tls", "the server offers STARTTLS and does not begin with it")
        self.wire.pause()
        if self.core.left_over or self.wire.unread:
            raise injected(self.wire, "STARTTLS")
        await self._protect()
        return True

    async def _protect(self) -> None:
        await protect(self.wire, self._host, self._security, self._observer, self._timeout)

    async def _hello(self, name: str) -> Answer:
        answer = await self._say(Ehlo(name), "ehlo")
        if answer.positive:
            self.extensions = Extensions.read(answer)
        elif answer.code in NO_EXTENSIONS:
            self.extensions = Extensions()
            answer = await self._say(Helo(name), "ehlo")
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
        answer = await self._say(Auth(mechanism, text), "auth", secret=True)
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
            await self._say(Quit(), "quit")
        except Failure:
            pass
        finally:
            self.close()

    # A letter

    async def send(self, letter: Letter, stop_after: str = "") -> Outcome:
        """One transaction. Refused recipients never stop the others. `stop_after` "mail", "rcpt" or "data" breaks off
        there, and nothing is sent; after "data" the connection is of no more use. Raises nothing: what ends the
        session stands in the outcome."""
        outcome = Outcome([Result(address) for address in letter.recipients])
        try:
            await self._transaction(letter, outcome, stop_after)
        except Failure as failure:
            outcome.failure, outcome.stage = failure, failure.stage
            for result in _accepted(outcome):
                result.status = "uncertain" if failure.stage == "end of data" else "not sent"
        return outcome

    async def _transaction(self, letter: Letter, outcome: Outcome, stop_after: str) -> None:
        mail = self._mail(letter)
        if "PIPELINING" in self.extensions and not stop_after:
            go_on = await self._envelope_at_once(mail, outcome)
        else:
            go_on = await self._envelope_in_steps(mail, outcome, stop_after)
        if go_on and stop_after != "data":
            await self._content(letter, outcome)

    async def reset(self) -> Answer:
        """Forgets a transaction."""
        return await self._say(Rset(), "rset")

    def _mail(self, letter: Letter) -> Mail:
        """MAIL with what the server offers. Raises Failure when it cannot take this letter at all."""
        limit = self.extensions.size
        if limit is not None and letter.size > limit:
            raise Failure(
                Kind.REFUSED, "mail", f"the message has {letter.size} octets, the server takes at most {limit}"
            )
        if letter.utf8 and "SMTPUTF8" not in self.extensions:
            raise Failure(Kind.REFUSED, "mail", "an address is not ASCII, and the server does not offer SMTPUTF8")
        # Without 8BITMIME octets over 127 go as they are, as all mailers send them today; RFC 6152 §3 would have the
        # letter rewritten or returned. What we compose ourselves never holds any.
        return Mail(
            letter.sender,
            size=letter.size if "SIZE" in self.extensions else None,
            body="8BITMIME" if letter.eight_bit and "8BITMIME" in self.extensions else None,
            smtputf8=letter.utf8,
        )

    async def _envelope_in_steps(self, mail: Mail, outcome: Outcome, stop_after: str) -> bool:
        """MAIL, RCPT and DATA, each after the reply to the one before. True when content may follow."""
        if not self._take_mail(await self._say(mail, "mail"), outcome) or stop_after == "mail":
            return False
        for result in outcome.results:
            _take_rcpt(await self._say(Rcpt(result.address), "rcpt"), result)
        if stop_after == "rcpt":
            return False
        if not _accepted(outcome):
            await self.reset()
            return False
        return self._take_data(await self._say(Data(), "data"), outcome)

    async def _envelope_at_once(self, mail: Mail, outcome: Outcome) -> bool:
        """The same with the commands sent in groups (RFC 2920 §3.1)."""
        results = outcome.results
        self.wire.write(self.core.send(mail))
        groups = [results[place : place + PIPELINE] for place in range(0, len(results), PIPELINE)]
        welcome = False
        for number, group in enumerate(groups):
            for result in group:
                self.wire.write(self.core.send(Rcpt(result.address)))
            # With one group everything leaves at once, DATA too.
            if len(groups) == 1:
                self.wire.write(self.core.send(Data()))
            if number == 0:
                welcome = self._take_mail(await self._answer("mail"), outcome)
            for result in group:
                answer = await self._answer("rcpt")
                if welcome:
                    _take_rcpt(answer, result)
            if not welcome and len(groups) > 1:
                return False
        if len(groups) > 1:
            if not _accepted(outcome):
                await self.reset()
                return False
            self.wire.write(self.core.send(Data()))
        answer = await self._answer("data")
        if answer.intermediate and not _accepted(outcome):
            # The server waits for a message that has no recipient: an empty one, which it must refuse (RFC 2920 §3.1).
            self.wire.write(b".\r\n")
            self.core.expect(None)
            await self._answer("data")
            return False
        return bool(_accepted(outcome)) and self._take_data(answer, outcome)

    def _take_mail(self, answer: Answer, outcome: Outcome) -> bool:
        if not answer.positive:
            outcome.stage, outcome.answer = "mail", answer
            for result in outcome.results:
                result.status, result.answer = _status(answer), answer
        return answer.positive

    def _take_data(self, answer: Answer, outcome: Outcome) -> bool:
        if answer.code == 354:
            return True
        outcome.stage, outcome.answer = "data", answer
        if answer.positive or answer.intermediate:
            raise Failure(Kind.PROTOCOL, "data", "the server answered DATA with neither 354 nor a refusal", answer.said)
        for result in _accepted(outcome):
            result.status, result.answer = _status(answer), answer
        return False

    async def _content(self, letter: Letter, outcome: Outcome) -> None:
        """The message itself, dots stuffed, the lone dot, and the reply that decides."""
        self._note(f"the message, {letter.size} octets")
        self.wire.tap = None  # a transcript holds what was said; the message is there anyway
        stuffer = Stuffer()
        try:
            done = await self._pieces(letter, stuffer)
        except (OSError, ValueError) as error:
            self.close()
            raise Failure(Kind.LOCAL, "content", f"a file could not be read to its end: {error}") from error
        if done != letter.size and not self.wire.lost:
            # Better no message than a torn one: without the final dot the server forgets it (RFC 5321 §4.1.1.4).
            self.close()
            raise Failure(Kind.LOCAL, "content", "a file changed while it was sent")
        whole = not self.wire.lost
        self.wire.write(stuffer.end())
        self.wire.tap = self._observer
        if self._observer is not None:
            self._observer.sent(b".\r\n")
        self._progress(letter.size, letter.size)
        self.core.expect(None)
        await self._end_of_data(outcome, whole)

    async def _pieces(self, letter: Letter, stuffer: Stuffer) -> int:
        """Writes the content as fast as the server takes it; returns how many octets of the message that were."""
        done = waiting = 0
        for piece in letter.content():
            self.wire.write(stuffer.add(piece))
            done += len(piece)
            waiting += len(piece)
            if waiting >= PIECE:
                waiting = 0
                await self._drain("content")
                self._progress(done, letter.size)
                if self.wire.lost:
                    break
        return done

    async def _end_of_data(self, outcome: Outcome, whole: bool) -> None:
        """The reply to the message. `whole`: as far as we know the final dot has left, so without a reply nobody knows
        whether the server took the message (RFC 1047)."""
        stage = "end of data" if whole else "content"
        try:
            answer = await self._next(stage)
        except Failure as failure:
            kind = Kind.UNCERTAIN if whole and failure.kind is Kind.UNREACHABLE else failure.kind
            raise Failure(kind, stage, str(failure), failure.reply) from failure
        if answer.intermediate or (answer.positive and not whole):
            raise Failure(Kind.PROTOCOL, stage, "the server's answer to the message makes no sense", answer.said)
        outcome.stage, outcome.answer = stage, answer
        for result in _accepted(outcome):
            result.status, result.answer = _status(answer), answer

    # Within

    async def _say(self, command: Command, stage: str, *, secret: bool = False) -> Answer:
        self._check_silence(stage)
        self.wire.write(self.core.send(command), secret=secret)
        return await self._answer(stage)

    def _check_silence(self, stage: str) -> None:
        """What came before the command cannot be its reply."""
        try:
            event = None if self.core.waiting else self.core.next_event()
        except PeerError as error:
            raise Failure(Kind.PROTOCOL, stage, error.reply.text) from error
        if event is not None:
            raise self._unasked(event.answer, stage)

    async def _respond(self, octets: bytes) -> Answer:
        return await self._say(Response(octets), "auth", secret=True)

    async def _drain(self, stage: str) -> None:
        try:
            await self.wire.drain()
        except TimeoutError:
            raise await self._stalled(stage) from None

    async def _stalled(self, stage: str) -> Failure:
        """Why the server takes no more octets: it may have said so before it stopped to read."""
        text = "the server does not take the message any more"
        self.wire.abort()
        self.core.expect(None)
        try:
            return refusal(await self._next(stage), stage, text)
        except Failure:
            return Failure(Kind.UNREACHABLE, stage, text)

    async def _answer(self, stage: str) -> Answer:
        """The next reply; 421 ends the session wherever it comes (RFC 5321 §3.8)."""
        answer = await self._next(stage)
        if answer.code == 421 and stage != "quit":
            raise refusal(answer, stage, "the server is closing the connection")
        return answer

    async def _next(self, stage: str) -> Answer:
        seconds = self._timeout or PATIENCE.get(stage, USUAL_PATIENCE)
        self.wire.patience = min(seconds, QUIT_PATIENCE) if stage == "quit" else seconds
        event = await next_of(self._events, stage, self.wire.patience)
        if self.on_answer is not None:
            self.on_answer(event.answer)
        if not isinstance(event, Answered):
            raise self._unasked(event.answer, stage)
        return event.answer

    def _unasked(self, answer: Answer, stage: str) -> Failure:
        if answer.code == 421:
            return refusal(answer, stage, "the server is closing the connection")
        return Failure(Kind.PROTOCOL, stage, "the server said something that nobody asked for", answer.said)

    def _progress(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, total)

    def _note(self, text: str) -> None:
        if self._observer is not None:
            self._observer.note(text)


def _accepted(outcome: Outcome) -> list[Result]:
    """The recipients that the server took, so far."""
    return [result for result in outcome.results if result.status == "accepted"]


def _take_rcpt(answer: Answer, result: Result) -> None:
    result.answer = answer
    result.status = "accepted" if answer.positive else _status(answer)


def _status(answer: Answer) -> str:
    if answer.positive:
        return "sent"
    return "deferred" if answer.temporary else "failed"


def refusal(answer: Answer, stage: str, text: str) -> Failure:
    """The failure that a negative reply means."""
    return Failure(Kind.TEMPORARY if answer.temporary else Kind.REFUSED, stage, text, answer.said)


def login_refusal(answer: Answer) -> Failure:
    """The failure that a refused login means: 4xx may be tried again (RFC 4954 §6)."""
    if answer.temporary:
        return Failure(Kind.TEMPORARY, "auth", "the server cannot check the login now", answer.said)
    return Failure(Kind.LOGIN, "auth", "the server refused the login", answer.said)
