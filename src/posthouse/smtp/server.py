"""The server's side of SMTP, submission and LMTP: octets in, events out, and which command may come when.

The core reads; it decides nothing about mail. For every event that `next_event` gives, the session answers with
`send(reply)`, which moves the state on as the reply says and gives the octets to write; `ContentArrived` alone
needs no answer. What the grammar, the order of commands (RFC 5321 §4.1.4) or the limits forbid comes as `Settled`,
with the reply ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from posthouse.mail.limits import SmtpLimits
from posthouse.mail.reply import PeerError, Reply, Smtp, Style
from posthouse.sasl.mechanisms import SaslError, decode_initial, decode_line
from posthouse.smtp.announce import extensions_of, greeting_of, hello_of, help_on
from posthouse.smtp.commands import (
    AnyCommand,
    Auth,
    Bdat,
    Data,
    Ehlo,
    Expn,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Obsolete,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from posthouse.smtp.data import ChunkReader, Content, DataReader
from posthouse.smtp.events import ChunkEnded, ContentArrived, DataEnded, Event, LoginStep, Settled
from posthouse.smtp.grammar import decode
from posthouse.smtp.rules import (
    BEYOND_ASCII,
    COMMANDS,
    HTTP,
    LIMITS,
    OUT_OF_ORDER,
    Mode,
    Offence,
    Rule,
    State,
)

MAX_SKIPPED: Final = 65_536
"""Octets of an overlong line that are read to its end for the sake of one reply; after them the peer is dropped."""

Tap = Callable[[bytes, bool], None]
"""Sees what came, and whether it is a secret."""


class SmtpServerCore:
    """One session's protocol. `feed` octets, take events with `next_event`, answer each with `send`.

    `secure` tells that logins may happen on this line, by the `mechanisms`; `tls` that STARTTLS is offered, `encrypted`
    that TLS protects the line. `trusted` peers may pipeline against the rules, and `normalize` mends bare LF, also
    behind commands; both may be changed while the session runs.
    """

    __slots__ = (
        "_buffer",
        "_chunk",
        "_chunks",
        "_content",
        "_counts",
        "_data",
        "_limits",
        "_pending",
        "_pos",
        "_read",
        "_refusal",
        "_refused_recipients",
        "_secret",
        "_skipped",
        "_smtputf8",
        "_tainted",
        "authenticated",
        "challenged",
        "closed",
        "encrypted",
        "excess",
        "extended",
        "helo",
        "host",
        "login",
        "mechanisms",
        "mode",
        "normalize",
        "received",
        "secure",
        "state",
        "style",
        "tap",
        "tls",
        "trusted",
    )

    def __init__(
        self,
        mode: Mode,
        limits: SmtpLimits,
        *,
        host: str,
        style: Style = Style.POSTHOUSE,
        login: bool = True,
        mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN"),
        secure: bool = False,
        trusted: bool = False,
        normalize: bool = False,
        tls: bool = False,
        encrypted: bool = False,
        tap: Tap | None = None,
    ) -> None:
        self.mode = mode
        self.host = host
        self.style = style
        self.login = login and mode is not Mode.LMTP
        self.mechanisms = mechanisms
        self.secure = secure
        self.trusted = trusted
        self.normalize = normalize
        self.tls = tls and not encrypted
        self.encrypted = encrypted
        self.tap = tap
        self.state = State.START
        self.helo = ""
        self.extended = False
        self.authenticated = False
        self.closed = False
        self.excess: Reply | None = None  # what the peer is told when it did too much of something
        self.received = 0  # octets of the present message, with all that came around its content
        self._limits = limits
        self._buffer = b""
        self._pos = 0
        # Unbound, so that no circle of references keeps an ended session for the garbage collector.
        self._read: Callable[[SmtpServerCore], Event | None] = SmtpServerCore._read_command
        self._pending: Event | None = None
        self._skipped = 0
        self._secret = False  # the line being skipped is one of a login
        self._tainted = False
        self._smtputf8 = False
        self._refused_recipients = 0
        self._counts = dict.fromkeys(Offence, 0)
        self.challenged = False  # the next line is an answer to a challenge, and no command
        self._content: Content | None = None
        self._data: DataReader | None = None
        self._chunks: ChunkReader | None = None
        self._chunk: Bdat | None = None
        self._refusal: Reply | None = None

    # Octets in, events out

    def feed(self, octets: bytes) -> None:
        """Takes octets as they came, cut anywhere. Those of a closed session are forgotten."""
        if self.closed:
            return
        rest = self._buffer[self._pos :]
        self._buffer = rest + octets if rest else octets
        self._pos = 0

    def next_event(self) -> Event | None:
        """The next event, or None when more octets are needed. The event before must have been answered."""
        assert self._pending is None, "every event is answered before the next"
        if self.closed:
            return None
        event = self._read(self)
        if event is not None and type(event) is not ContentArrived:
            self._pending = event
        return event

    @property
    def left_over(self) -> bool:
        """Whether octets came that were not used."""
        return self._pos < len(self._buffer)

    def greeting(self) -> bytes:
        """The first words, before anything was read (RFC 5321 §4.2, RFC 2033 §4)."""
        return greeting_of(self.mode, self.host).encode(self.style)

    def hello(self, command: Ehlo | Helo | Lhlo) -> Reply:
        """The positive reply to EHLO, HELO or LHLO, with the extensions (RFC 5321 §4.1.1.1)."""
        if isinstance(command, Helo):
            return Smtp.HELO.fill(host=self.host, peer=command.name)
        return hello_of(self.host, command.name, self.extensions())

    def extensions(self) -> tuple[str, ...]:
        """The lines of EHLO after the first."""
        mechanisms = self.mechanisms if self.login and self.secure else ()
        return extensions_of(self.mode, self.style, self._limits.message, self.tls, mechanisms)

    # Replies out

    def send(self, reply: Reply, *more: Reply) -> bytes:
        """Answers the last event: moves the state on and gives the octets to write. LMTP gives several replies to
        the end of a message, one for each recipient (RFC 2033 §4.2). Afterwards `closed` may be true."""
        event, self._pending = self._pending, None
        assert event is not None, "there is something to answer"
        after = _AFTER.get(type(event))
        if after is not None:
            after(self, event, reply)
        octets = reply.encode(self.style)
        if more:
            octets += b"".join(other.encode(self.style) for other in more)
        if self.excess is not None and not self.closed:
            self.closed = True
            octets += self.excess.encode(self.style)
        return octets

    def _count(self, offence: Offence) -> None:
        """Counts what a peer did; past the limit the next reply is its last but one."""
        count = self._counts[offence] = self._counts[offence] + 1
        if count >= getattr(self._limits, LIMITS[offence]):
            self.excess = Smtp.TOO_MANY_IDLE if offence is Offence.IDLE else Smtp.TOO_MANY_ERRORS

    # Commands

    def _read_command(self) -> Event | None:
        line = self._line(self._limits.command_line)
        if not isinstance(line, bytes):
            return line
        try:
            return self._command(decode(line))
        except PeerError as error:
            # A list with some malformed addresses is no attack on the grammar: they count as refused recipients.
            recipient = line[:5].upper() == b"RCPT "
            return Settled(error.reply, error.fatal, Offence.RECIPIENT if recipient else Offence.ERROR)

    def _line(self, limit: int) -> bytes | Settled | None:
        """The next line without its end, or what is wrong with it, or None when it is not complete."""
        buffer, start = self._buffer, self._pos
        if start == len(buffer):
            return None
        if self.state is State.START and buffer.startswith(b"\x16", start):
            return self._drop(Settled(Smtp.BAD_OCTETS, fatal=True))  # TLS where plain text is spoken
        end = buffer.find(b"\n", start) + 1
        if buffer[start : start + 5].upper() == b"AUTH ":
            limit = self._limits.auth_line
        if not end:
            return self._unfinished(limit)
        self._pos = end
        if self.tap is not None:
            self.tap(buffer[start:end], self._is_secret(buffer, start))
            self._secret = False
        if self._skipped or end - start > limit:
            skipped, self._skipped = self._skipped + end - start, 0
            return Settled(Smtp.LINE_TOO_LONG, fatal=skipped > MAX_SKIPPED)
        if buffer.endswith(b"\r\n", start, end):
            tainted, self._tainted = self._tainted, False
            return Settled(Smtp.BARE_LF_IN_COMMAND) if tainted else buffer[start : end - 2]
        # What a bare LF parted was one line for a sender that checks nothing: all of it is refused.
        self._tainted = not self.normalize
        return Settled(Smtp.BARE_LF_IN_COMMAND) if self._tainted else buffer[start : end - 1]

    def _unfinished(self, limit: int) -> Settled | None:
        size = len(self._buffer) - self._pos
        if not size or (not self._skipped and size <= limit):
            return None
        if self.tap is not None:
            self._secret = self._is_secret(self._buffer, self._pos)
            self.tap(self._buffer[self._pos :], self._secret)
        self._skipped += size
        self._buffer, self._pos = b"", 0
        return Settled(Smtp.LINE_TOO_LONG, fatal=True) if self._skipped > MAX_SKIPPED else None

    def _drop(self, event: Settled) -> Settled:
        self._buffer, self._pos = b"", 0
        return event

    def _is_secret(self, buffer: bytes, start: int) -> bool:
        """Whether the line that begins here, or whose skipped beginning was seen before, must not be shown."""
        if self.challenged or self._secret:
            return True
        verb = buffer[start : start + 16].split(None, 1)[:1]
        rule = COMMANDS.get(verb[0].upper().decode("latin-1")) if verb and not self._skipped else None
        return rule is not None and rule.secret

    def _command(self, text: str) -> Event | None:
        word, _, argument = text.partition(" ")
        verb = word.upper()
        rule = COMMANDS.get(verb)
        if rule is None:
            return Settled(Smtp.NOT_MAIL, fatal=True) if verb in HTTP else Settled(Smtp.UNKNOWN_COMMAND)
        # Behind an offered STARTTLS it is an attack, whoever the peer is: that is for the session to say.
        strict = rule.ends_pipeline and not self.trusted and not (self.tls and rule.event is StartTls)
        if strict and self.left_over:
            return Settled(Smtp.PIPELINE_BROKEN, fatal=True)
        if rule.event is Bdat:
            return self._begin_chunk(argument.strip(" "))
        refusal = self._refusal_of(verb, rule)
        if refusal is None and verb not in BEYOND_ASCII and not argument.isascii():
            refusal = Smtp.BAD_OCTETS
        if refusal is not None:
            return Settled(refusal)
        command = rule.parse(argument.strip(" "))
        answer = _ANSWERS.get(rule.event)
        return command if answer is None else answer(self, command)

    def _refusal_of(self, verb: str, rule: Rule) -> Reply | None:
        """Why a command may not come here or now."""
        if self.mode not in rule.modes:
            return _NOT_HERE.get(verb, Smtp.NOT_IN_LMTP if self.mode is Mode.LMTP else Smtp.NOT_IN_SMTP)
        if rule.event is Auth and (refusal := self._no_login()) is not None:
            return refusal
        if rule.event is StartTls and (refusal := self._no_tls()) is not None:
            return refusal
        if self.state not in rule.states:
            return self._out_of_order(rule)
        if rule.event is Mail and self.mode is Mode.SUBMISSION and not self.authenticated:
            return Smtp.AUTH_REQUIRED
        return None

    def _out_of_order(self, rule: Rule) -> Reply:
        if rule.event is Auth and self.state is not State.START:
            return Smtp.AUTH_IN_TRANSACTION
        if rule.event is Mail and self.state is State.MAIL:
            return Smtp.NESTED_MAIL
        if self.state is State.MAIL and self._refused_recipients and self.mode is not Mode.LMTP:
            return Smtp.NEED_RCPT  # RFC 5321 §3.3: 554; RFC 2033 §4.2 wants 503
        return OUT_OF_ORDER[self.state]

    def _no_login(self) -> Reply | None:
        if not self.login:
            return Smtp.AUTH_NOT_OFFERED
        if not COMMANDS["AUTH"].before_tls and not self.secure:
            return Smtp.AUTH_NEEDS_TLS
        return Smtp.AUTH_DONE if self.authenticated else None

    def _no_tls(self) -> Reply | None:
        if self.encrypted:
            return Smtp.TLS_DONE  # RFC 3207 §4.2
        if not self.tls:
            return Smtp.NO_TLS
        return Smtp.TLS_IN_TRANSACTION if self.state not in (State.START, State.GREETED) else None

    # Commands that are answered here

    def _answer_rcpt(self, command: AnyCommand) -> Event:
        assert isinstance(command, Rcpt)
        if not self._smtputf8 and not command.address.is_ascii:
            return Settled(Smtp.NEED_SMTPUTF8, offence=Offence.RECIPIENT)  # RFC 6531 §3.5
        return command

    def _answer_noop(self, command: AnyCommand) -> Event:
        return Settled(Smtp.NOOP, offence=Offence.IDLE)

    def _answer_vrfy(self, command: AnyCommand) -> Event:
        assert isinstance(command, Vrfy)
        if not command.name.isascii() and not command.name.upper().endswith(" SMTPUTF8"):
            return Settled(Smtp.NEED_SMTPUTF8)
        return Settled(Smtp.VRFY, offence=Offence.IDLE)

    def _answer_expn(self, command: AnyCommand) -> Event:
        return Settled(Smtp.NO_EXPN)

    def _answer_obsolete(self, command: AnyCommand) -> Event:
        assert isinstance(command, Obsolete)
        return Settled(Smtp.OBSOLETE_TURN if command.verb == "TURN" else Smtp.OBSOLETE_SEND.fill(verb=command.verb))

    def _answer_help(self, command: AnyCommand) -> Event:
        assert isinstance(command, Help)
        return Settled(help_on(command.topic, self.mode, tls=self.tls), offence=Offence.IDLE)

    # Login

    def _answer_auth(self, command: AnyCommand) -> Event:
        assert isinstance(command, Auth)
        if command.mechanism not in self.mechanisms:
            return Settled(Smtp.AUTH_UNKNOWN)
        try:
            initial = None if command.initial is None else decode_initial(command.initial.encode("ascii"))
        except SaslError:
            return Settled(Smtp.AUTH_MALFORMED)
        return LoginStep(command.mechanism, initial)

    def _read_response(self) -> Event | None:
        line = self._line(self._limits.auth_line)
        if line is None:
            return None
        if isinstance(line, Settled):
            return self._end_login(line)
        if line == b"*":
            return self._end_login(Settled(Smtp.AUTH_CANCELLED))
        try:
            return LoginStep("", decode_line(line))
        except SaslError:
            return self._end_login(Settled(Smtp.AUTH_MALFORMED))

    def _end_login(self, event: Settled) -> Settled:
        self.challenged = False
        self._read = SmtpServerCore._read_command
        return event

    # The message

    def _read_data(self) -> Event | None:
        if not self.left_over:
            return None
        assert self._data is not None
        octets = self._buffer[self._pos :] if self._pos else self._buffer
        kept, used = self._data.feed(octets)
        self.received = self._data.received
        if self.tap is not None:
            self.tap(octets if used < 0 else octets[:used], False)
        if used < 0:
            self._buffer, self._pos = b"", 0
            return self._end_data(fatal=True) if self._data.overrun else ContentArrived(kept)
        self._pos += used
        if not kept:
            return self._end_data(fatal=False)
        self._read = SmtpServerCore._read_end
        return ContentArrived(kept)

    def _read_end(self) -> Event:
        return self._end_data(fatal=False)

    def _end_data(self, *, fatal: bool) -> DataEnded:
        """After a message with octets that no message may have, the peer is not believed any more (reliability F1)."""
        assert self._data is not None
        failure = self._data.content.failure
        self._read = SmtpServerCore._read_command
        return DataEnded(failure, fatal or (failure is not None and failure.code == "554"))

    def _begin_chunk(self, argument: str) -> Event | None:
        """Whatever the answer will be, the octets of a chunk follow and are used up first (RFC 3030 §2)."""
        chunk = Bdat.parse(argument)
        if chunk.size > self._limits.message:
            return Settled(Smtp.TOO_BIG.fill(limit=self._limits.message), fatal=True)
        self._refusal = self._refusal_of("BDAT", COMMANDS["BDAT"])
        if self._content is None or self._chunks is None:
            self._content = Content(self._limits.message, self.normalize)
            self._chunks = ChunkReader(self._content)
        self._chunk = chunk
        self._chunks.begin(chunk.size)
        self._read = SmtpServerCore._read_chunk
        return self._read_chunk()

    def _read_chunk(self) -> Event | None:
        assert self._chunks is not None
        if self._chunks.left:
            if not self.left_over:
                return None
            octets = self._buffer[self._pos :] if self._pos else self._buffer
            kept, used = self._chunks.feed(octets)
            if self.tap is not None:
                self.tap(octets[:used], False)
            self._pos += used
            self.received += used
            if self._chunks.left or kept:
                return ContentArrived(b"" if self._refusal is not None else kept)
        return self._end_chunk()

    def _end_chunk(self) -> Event:
        assert self._chunks is not None and self._chunk is not None and self._content is not None
        chunk, self._chunk = self._chunk, None
        self._read = SmtpServerCore._read_command
        if self._refusal is not None:
            return Settled(self._refusal)
        if chunk.last:
            self._chunks.end()
        return ChunkEnded(chunk.size, chunk.last, self._content.failure)

    # What a reply changes

    def _after_hello(self, event: Event, reply: Reply) -> None:
        assert isinstance(event, (Ehlo, Helo, Lhlo))
        self._count(Offence.IDLE)
        if reply.positive:
            self.helo = event.name
            self.extended = not isinstance(event, Helo)
            self._forget()
            self.state = State.GREETED

    def _after_rset(self, event: Event, reply: Reply) -> None:
        self._count(Offence.IDLE)
        self._forget()

    def _forget(self) -> None:
        """No message is under way any more (RFC 5321 §4.1.1.5)."""
        self._content = self._data = self._chunks = self._refusal = None
        self._smtputf8 = False
        self._refused_recipients = self.received = 0
        if self.state is not State.START:
            self.state = State.GREETED

    def _after_mail(self, event: Event, reply: Reply) -> None:
        assert isinstance(event, Mail)
        self._count(Offence.IDLE)
        if reply.positive:
            self._smtputf8 = event.smtputf8
            self.state = State.MAIL

    def _after_rcpt(self, event: Event, reply: Reply) -> None:
        if reply.positive:
            self.state = State.RCPT
            return
        self._refused_recipients += 1
        if reply.code[0] == "5":
            self._count(Offence.RECIPIENT)

    def _after_data(self, event: Event, reply: Reply) -> None:
        if reply.positive:
            self._data = DataReader(Content(self._limits.message, self.normalize))
            self._read = SmtpServerCore._read_data
        else:
            self._count(Offence.IDLE)

    def _after_message(self, event: Event, reply: Reply) -> None:
        assert isinstance(event, DataEnded)
        if reply.positive:
            self._counts[Offence.IDLE] = 0
        self._forget()
        self.closed = event.fatal

    def _after_chunk(self, event: Event, reply: Reply) -> None:
        assert isinstance(event, ChunkEnded)
        if event.last:
            if reply.positive:
                self._counts[Offence.IDLE] = 0
            self._forget()
        else:
            self.state = State.CHUNKS if reply.positive else State.FAILED
            if not event.size:
                self._count(Offence.IDLE)

    def _after_settled(self, event: Event, reply: Reply) -> None:
        assert isinstance(event, Settled)
        self.closed = event.fatal
        if event.offence is not None:
            self._count(event.offence)
        if event.offence is Offence.RECIPIENT:
            self._refused_recipients += 1

    def _after_login(self, event: Event, reply: Reply) -> None:
        self.challenged = reply.code == Smtp.AUTH_PROMPT.code
        self._read = SmtpServerCore._read_response if self.challenged else SmtpServerCore._read_command
        if self.challenged:
            return
        if reply.positive:
            self.authenticated = True
            self._counts[Offence.IDLE] = 0
        else:
            self._count(_LOGIN_OFFENCES.get(reply.code, Offence.IDLE))

    def _after_starttls(self, event: Event, reply: Reply) -> None:
        """Whatever was said before TLS does not count after it (RFC 3207 §4.2); only offences are not forgotten."""
        if not reply.positive:
            self.closed = True
            return
        self._count(Offence.IDLE)
        self._forget()
        self._buffer, self._pos = b"", 0
        self.state = State.START
        self.helo = ""
        self.extended = self.authenticated = self.tls = self._tainted = False
        self.encrypted = self.secure = True

    def _after_quit(self, event: Event, reply: Reply) -> None:
        self.closed = True


_LOGIN_OFFENCES: Final = {Smtp.AUTH_FAILED.code: Offence.LOGIN, Smtp.AUTH_MALFORMED.code: Offence.ERROR}
_NOT_HERE: Final = {"AUTH": Smtp.AUTH_NOT_OFFERED}

_Answer = Callable[[SmtpServerCore, AnyCommand], Event]
_ANSWERS: Final[dict[type[AnyCommand], _Answer]] = {
    Rcpt: SmtpServerCore._answer_rcpt,
    Noop: SmtpServerCore._answer_noop,
    Help: SmtpServerCore._answer_help,
    Vrfy: SmtpServerCore._answer_vrfy,
    Expn: SmtpServerCore._answer_expn,
    Auth: SmtpServerCore._answer_auth,
    Obsolete: SmtpServerCore._answer_obsolete,
}

_After = Callable[[SmtpServerCore, Event, Reply], None]
_AFTER: Final[dict[type, _After]] = {
    Ehlo: SmtpServerCore._after_hello,
    Helo: SmtpServerCore._after_hello,
    Lhlo: SmtpServerCore._after_hello,
    Mail: SmtpServerCore._after_mail,
    Rcpt: SmtpServerCore._after_rcpt,
    Data: SmtpServerCore._after_data,
    Rset: SmtpServerCore._after_rset,
    Quit: SmtpServerCore._after_quit,
    Settled: SmtpServerCore._after_settled,
    DataEnded: SmtpServerCore._after_message,
    ChunkEnded: SmtpServerCore._after_chunk,
    LoginStep: SmtpServerCore._after_login,
    StartTls: SmtpServerCore._after_starttls,
}
