"""`sendmail -bs`: SMTP on standard input and output, as programs speak it that bring their letters in that way.

The core is the server's; a letter is answered with 250 once it is in the outbox, on the disk. At the end of the
session an attempt is made for each.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final, cast

from posthouse.cli import letters
from posthouse.cli.exits import Exit, Problem, complain
from posthouse.cli.keeping import Desk
from posthouse.cli.origins import Keys, outbox_folder
from posthouse.cli.outboxing import Runner, code_of
from posthouse.clients.outbox import Outbox
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.mailboxes import Mailbox
from posthouse.mail.reply import Fault, Reply, Smtp
from posthouse.smtp.commands import Data, Ehlo, Helo, Mail, Quit, Rcpt, Rset
from posthouse.smtp.events import ChunkEnded, ContentArrived, DataEnded, Event, Settled
from posthouse.smtp.rules import Mode
from posthouse.smtp.server import SmtpServerCore

if TYPE_CHECKING:
    from posthouse.cli.submitting import Station

LARGEST: Final = 1 << 40  # octets of one letter: the disk is the limit here, and the next server's SIZE
PIECE: Final = 65_536


def serve(station: Station, source: IO[bytes], target: IO[bytes], host: str) -> int:
    """One session. Returns the exit code: that of the attempts at its end."""
    session = Session(station, host)
    target.write(session.core.greeting())
    target.flush()
    read = getattr(source, "read1", source.read)
    while not session.core.closed and (octets := read(PIECE)):
        target.write(session.take(octets))
        target.flush()
    session.forget()
    return session.leave()


@dataclass(slots=True)
class _Draft:
    """The letter under way."""

    sender: Mail
    recipients: list[Rcpt] = field(default_factory=list)
    content: IO[bytes] | None = None


class Session:
    """Octets in, octets out, and letters in the outbox."""

    def __init__(self, station: Station, host: str) -> None:
        limits = SmtpLimits(message=LARGEST)
        # Who calls us is a program of this machine, not a stranger: bare LF is mended as on standard input.
        self.core = SmtpServerCore(Mode.SMTP, limits, host=host, login=False, trusted=True, normalize=True)
        self._station = station
        self._host = host
        self._limits = limits
        self._draft: _Draft | None = None
        self._kept: list[str] = []

    def take(self, octets: bytes) -> bytes:
        """What is said to these octets."""
        self.core.feed(octets)
        answers = b""
        while (event := self.core.next_event()) is not None:
            if isinstance(event, ContentArrived):
                self._content().write(event.octets)
            else:
                answers += self.core.send(self._reply(event))
        return answers

    def leave(self) -> int:
        """Attempts for what came, now that the program has had its answers."""
        if not self._kept:
            return Exit.OK
        runner = Runner(Outbox(outbox_folder()), Keys(alone=True), verbose=self._station.verbose)
        trials = runner.run(self._kept)
        # What waits is safe; the rest is told by the outbox.
        failed = [trial for trial in trials if trial.waiting.count("failed")]
        for trial in failed:
            complain("--as sendmail", Problem(Exit.UNAVAILABLE, f"{trial.waiting.id}: {trial.text}"))
        return code_of(failed) if failed else Exit.OK

    def forget(self) -> None:
        """The letter under way is no more."""
        if self._draft is not None and self._draft.content is not None:
            self._draft.content.close()
        self._draft = None

    def _content(self) -> IO[bytes]:
        assert self._draft is not None
        if self._draft.content is None:
            self._draft.content = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115 - closed by forget
        return self._draft.content

    def _reply(self, event: Event) -> Reply:
        if isinstance(event, Settled):
            return event.reply
        if isinstance(event, (Ehlo, Helo)):
            self.forget()
            return self.core.hello(event)
        if isinstance(event, Mail):
            self._draft = _Draft(event)
            return Smtp.SENDER_OK
        if isinstance(event, Rcpt):
            return self._recipient(event)
        if isinstance(event, Data):
            return Smtp.START_DATA
        if isinstance(event, ChunkEnded) and not event.last:
            return event.failure or Smtp.CHUNK_OK.fill(size=event.size)
        if isinstance(event, (DataEnded, ChunkEnded)):
            return self._ended(event.failure)
        return self._other(event)

    def _other(self, event: Event) -> Reply:
        if isinstance(event, Rset):
            self.forget()
            return Smtp.RESET
        return Smtp.GOODBYE.fill(host=self._host) if isinstance(event, Quit) else Smtp.UNKNOWN_COMMAND

    def _recipient(self, event: Rcpt) -> Reply:
        assert self._draft is not None
        if len(self._draft.recipients) >= self._limits.recipients:
            return Smtp.TOO_MANY_RCPTS.fill(limit=self._limits.recipients)
        self._draft.recipients.append(event)
        return Smtp.RCPT_OK

    def _ended(self, failure: Reply | None) -> Reply:
        if failure is None:
            begun = time.monotonic()
            try:
                name = self._keep()
            except Problem as problem:
                complain("--as sendmail", problem)
                failure = Smtp.for_fault(Fault.STORAGE) if problem.code is Exit.CANNOT_CREATE else Smtp.NEED_RCPT
            else:
                failure = Smtp.QUEUED.fill(id=name, seconds=f"{time.monotonic() - begun:.3f}")
        self.forget()
        return failure

    def _keep(self) -> str:
        """Puts the letter into the outbox. Raises Problem."""
        draft = self._draft
        assert draft is not None
        content = self._content()
        content.seek(0)
        more = [Mailbox("", command.address) for command in draft.recipients]
        asked = draft.sender
        author = Mailbox("", asked.sender) if asked.sender is not None else None
        source = letters.spool(content)
        known = author or Mailbox("", letters.read_mailboxes("MAILER-DAEMON", self._host)[0].address)
        whole = letters.whole_message(source, known, more, listed=False, domain=self._host)
        letter = whole.letter
        letter.sender = letter.sender if author is not None else None
        letters.want_notices(letter, draft.recipients[0].notify, asked.ret, asked.envid)
        waiting = Desk(self._station.route()).queue(letter, whole.message_id, time.time())
        self._kept.append(waiting.id)
        return waiting.id
