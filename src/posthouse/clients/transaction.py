"""One letter through a session with an SMTP or LMTP server (RFC 5321 §3.3, RFC 2033, RFC 2920).

The letter says what is wanted; what of it is said hangs on what the server offers. Refused recipients never stop the
others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from posthouse.clients.failure import Failure, Kind
from posthouse.mail.address import Address
from posthouse.mail.envelope import Recipient
from posthouse.mail.reply import Unavailable
from posthouse.smtp.client import Answer, Stuffer
from posthouse.smtp.commands import Data, Mail, Rcpt

if TYPE_CHECKING:
    from posthouse.clients.smtp import SmtpClient

PIPELINE: Final = 100  # RCPT commands sent before their replies are read
PIECE: Final = 65_536  # octets of content written before we look whether the server keeps up


@dataclass(slots=True)
class Result:
    """What became of one recipient: `status` is "sent", "failed" (for good), "deferred" (not now), "uncertain" or
    "not sent" (the session ended before it was its turn); `answer` what the server said about it, at `stage`."""

    recipient: Recipient
    status: str = "not sent"
    answer: Answer | None = None
    stage: str = ""

    @property
    def address(self) -> Address:
        """Who it is."""
        return self.recipient.address


@dataclass(slots=True)
class Letter:
    """A message that is ready to leave. `size` counts its octets before dots are stuffed; `content` gives them in
    pieces, anew with each call, or `chunks` does, where they are waited for; `octets` are all of them at once, where
    they are at hand. `ret`, `envid` and what recipients
    ask for go to servers that offer DSN, `auth` to those that offer AUTH."""

    sender: Address | None
    recipients: Sequence[Recipient]
    size: int
    content: Callable[[], Iterable[bytes]] = tuple
    eight_bit: bool = False
    utf8: bool = False
    octets: bytes | None = field(default=None, repr=False)
    chunks: Callable[[], AsyncIterator[bytes]] | None = None
    ret: str | None = None
    envid: str | None = None
    auth: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a letter. `answer` is the reply that decided for all, `stage` where it came; `failure` is what
    ended the session meanwhile."""

    results: list[Result]
    stage: str = ""
    answer: Answer | None = None
    failure: Failure | None = None

    @classmethod
    def of(cls, letter: Letter) -> Outcome:
        """Nothing has become of it yet."""
        return cls([Result(recipient) for recipient in letter.recipients])

    @property
    def sent(self) -> int:
        """How many recipients the server took."""
        return sum(result.status == "sent" for result in self.results)

    @property
    def accepted(self) -> list[Result]:
        """The recipients that the server took, so far."""
        return [result for result in self.results if result.status == "accepted"]


class Transaction:
    """One letter on its way through a session that has said EHLO."""

    __slots__ = ("_letter", "_outcome", "_session", "_whole")

    def __init__(self, session: SmtpClient, letter: Letter) -> None:
        self._session = session
        self._letter = letter
        self._outcome = Outcome.of(letter)
        self._whole = False  # everything was sent, as far as we know: a lost line leaves a doubt (RFC 1047)

    async def run(self, stop_after: str = "") -> Outcome:
        """Sends it, up to where `stop_after` says. Raises nothing: what ends the session stands in the outcome."""
        outcome = self._outcome
        try:
            await self._run(stop_after)
        except Failure as failure:
            outcome.failure, outcome.stage = failure, failure.stage
            for result in outcome.accepted:
                result.status = "uncertain" if failure.stage == "end of data" else "not sent"
        return outcome

    async def _run(self, stop_after: str) -> None:
        mail = self._mail()
        if "PIPELINING" in self._session.extensions and not stop_after:
            go_on = await self._envelope_at_once(mail)
        else:
            go_on = await self._envelope_in_steps(mail, stop_after)
        # DATA, not BDAT, where CHUNKING is offered too: it is no slower, and only its end leaves a doubt (ADR 0114).
        if go_on and stop_after != "data":
            await self._content()

    # The envelope

    def _mail(self) -> Mail:
        """MAIL with what the server offers. Raises Failure when it cannot take this letter at all."""
        letter, extensions = self._letter, self._session.extensions
        limit = extensions.size
        if limit is not None and letter.size > limit:
            raise Failure(
                Kind.REFUSED, "mail", f"the message has {letter.size} octets, the server takes at most {limit}"
            )
        if letter.utf8 and "SMTPUTF8" not in extensions:
            raise Failure(Kind.REFUSED, "mail", "an address is not ASCII, and the server does not offer SMTPUTF8")
        dsn = "DSN" in extensions
        # Without 8BITMIME octets over 127 go as they are. What we compose ourselves never holds any, and letters of
        # others are rewritten before they get here (RFC 6152 §3).
        return Mail(
            letter.sender,
            size=letter.size if "SIZE" in extensions else None,
            body="8BITMIME" if letter.eight_bit and "8BITMIME" in extensions else None,
            smtputf8=letter.utf8,
            ret=letter.ret if dsn else None,
            envid=letter.envid if dsn else None,
            auth=letter.auth if "AUTH" in extensions else None,
        )

    def _rcpt(self, recipient: Recipient) -> Rcpt:
        if "DSN" in self._session.extensions:
            return Rcpt(recipient.address, recipient.notify, recipient.orcpt)
        return Rcpt(recipient.address)

    async def _envelope_in_steps(self, mail: Mail, stop_after: str) -> bool:
        """MAIL, RCPT and DATA, each after the reply to the one before. True when content may follow."""
        session, outcome = self._session, self._outcome
        if not self._take_mail(await session.say(mail, "mail")) or stop_after == "mail":
            return False
        for result in outcome.results:
            _take_rcpt(await session.say(self._rcpt(result.recipient), "rcpt"), result)
        if stop_after == "rcpt":
            return False
        if not outcome.accepted:
            await session.reset()
            return False
        return self._take_data(await session.say(Data(), "data"))

    async def _envelope_at_once(self, mail: Mail) -> bool:
        """The same with the commands sent in groups (RFC 2920 §3.1)."""
        session, results = self._session, self._outcome.results
        session.put(mail)
        groups = [results[place : place + PIPELINE] for place in range(0, len(results), PIPELINE)]
        # With one group everything leaves at once, DATA too.
        early = len(groups) == 1
        welcome = False
        for number, group in enumerate(groups):
            for result in group:
                session.put(self._rcpt(result.recipient))
            if early:
                session.put(Data())
            if number == 0:
                welcome = self._take_mail(await session.answer("mail"))
            await self._take_rcpts(group, welcome=welcome)
            if not welcome and len(groups) > 1:
                return False
        if early:
            return await self._early_data()
        if not self._outcome.accepted:
            await session.reset()
            return False
        return self._take_data(await session.say(Data(), "data"))

    async def _take_rcpts(self, group: Sequence[Result], *, welcome: bool) -> None:
        for result in group:
            answer = await self._session.answer("rcpt")
            if welcome:
                _take_rcpt(answer, result)

    async def _early_data(self) -> bool:
        session = self._session
        answer = await session.answer("data")
        accepted = bool(self._outcome.accepted)
        if answer.intermediate and not accepted:
            if session.lmtp:  # a reply for each recipient means none here: nobody could tell where we stand
                raise Failure(Kind.PROTOCOL, "data", "the server waits for a message that nobody shall have")
            # The server waits for a message that has no recipient: an empty one, which it must refuse (RFC 2920 §3.1).
            session.put_content(b".\r\n")
            session.core.expect(None)
            await session.answer("data")
            return False
        return accepted and self._take_data(answer)

    def _take_mail(self, answer: Answer) -> bool:
        if not answer.positive:
            self._decide(self._outcome.results, answer, "mail")
        return answer.positive

    def _take_data(self, answer: Answer) -> bool:
        if answer.code == 354:
            return True
        if answer.positive or answer.intermediate:
            self._outcome.stage, self._outcome.answer = "data", answer
            raise Failure(Kind.PROTOCOL, "data", "the server answered DATA with neither 354 nor a refusal", answer.said)
        self._decide(self._outcome.accepted, answer, "data")
        return False

    def _decide(self, results: Sequence[Result], answer: Answer, stage: str) -> None:
        """A reply that is about all of these."""
        self._outcome.stage, self._outcome.answer = stage, answer
        status = _status(answer)
        for result in results:
            result.status, result.answer, result.stage = status, answer, stage

    # The content

    async def _content(self) -> None:
        """The message itself, dots stuffed, the lone dot, and the reply that decides."""
        session, letter = self._session, self._letter
        session.note(f"the message, {letter.size} octets")
        stuffer = Stuffer()
        try:
            done = await self._pieces(stuffer)
        except (OSError, ValueError, Unavailable) as error:
            session.close()
            raise Failure(Kind.LOCAL, "content", f"a file could not be read to its end: {error}") from error
        if done != letter.size and not session.wire.lost:
            # Better no message than a torn one: without the final dot the server forgets it (RFC 5321 §4.1.1.4).
            session.close()
            raise Failure(Kind.LOCAL, "content", "a file changed while it was sent")
        self._whole = not session.wire.lost
        session.about_to_end(self._outcome)
        session.put_end(stuffer.end())
        session.progress(letter.size, letter.size)
        for _ in self._outcome.accepted if session.lmtp else (None,):
            session.core.expect(None)
        await self._ends_of_data()

    async def _pieces(self, stuffer: Stuffer) -> int:
        """Writes the content as fast as the server takes it; returns how many octets of the message that were."""
        session, letter = self._session, self._letter
        if letter.octets is not None and letter.size <= PIECE:
            session.put_content(stuffer.add(letter.octets))
            return len(letter.octets)
        done = waiting = 0
        async for piece in _each(letter):
            session.put_content(stuffer.add(piece))
            done += len(piece)
            waiting += len(piece)
            if waiting >= PIECE:
                waiting = 0
                await session.drain("content")
                session.progress(done, letter.size)
                if session.wire.lost:
                    break
        return done

    async def _ends_of_data(self) -> None:
        """The reply to the message, or with LMTP one for each recipient that was taken (RFC 2033 §4.2)."""
        stage = "end of data" if self._whole else "content"
        try:
            if not self._session.lmtp:
                await self._end_of_data(await self._session.next(stage))
                return
            for result in self._outcome.accepted:
                answer = await self._session.next(stage)
                self._check_end(answer, stage)
                self._decide([result], answer, stage)
        except Failure as failure:
            kind = Kind.UNCERTAIN if self._whole and failure.kind is Kind.UNREACHABLE else failure.kind
            raise Failure(kind, stage, str(failure), failure.reply, failure.answer) from failure

    async def _end_of_data(self, answer: Answer) -> None:
        """The reply to the message. Without one nobody knows whether the server took the message (RFC 1047)."""
        stage = "end of data" if self._whole else "content"
        self._check_end(answer, stage)
        self._decide(self._outcome.accepted, answer, stage)
        self._outcome.stage, self._outcome.answer = stage, answer

    def _check_end(self, answer: Answer, stage: str) -> None:
        if answer.intermediate or (answer.positive and not self._whole):
            raise Failure(Kind.PROTOCOL, stage, "the server's answer to the message makes no sense", answer.said)


async def _each(letter: Letter) -> AsyncIterator[bytes]:
    if letter.octets is not None:
        for place in range(0, len(letter.octets), PIECE):
            yield letter.octets[place : place + PIECE]
    elif letter.chunks is not None:
        async for piece in letter.chunks():
            yield piece
    else:
        for piece in letter.content():
            yield piece


def _take_rcpt(answer: Answer, result: Result) -> None:
    result.answer, result.stage = answer, "rcpt"
    result.status = "accepted" if answer.positive else _status(answer)


def _status(answer: Answer) -> str:
    if answer.positive:
        return "sent"
    return "deferred" if answer.temporary else "failed"
