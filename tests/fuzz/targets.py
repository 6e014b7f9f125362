"""What is fuzzed. A target takes octets cut in pieces, checks what must hold, and returns what it saw: new sights are
kept in the corpus, so that later inputs grow from them.

What must hold: no exception but the typed ones of the room; memory bounded by what was fed last and one line; an event
or an answer for each turn, so that nothing loops; and whatever state came about, QUIT (or the end of the message and
QUIT) leads out of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from posthouse.cli.notices import describe, table
from posthouse.mail.address import Address, AddressError
from posthouse.mail.downgrade import downgrade
from posthouse.mail.encoded import decode_words, parse_parameters
from posthouse.mail.header import Header, body_offset
from posthouse.mail.limits import Pop3Limits, SmtpLimits
from posthouse.mail.lines import whole_lines
from posthouse.mail.mailboxes import parse_mailboxes
from posthouse.mail.message import Message
from posthouse.mail.recode import Unconvertible, recode
from posthouse.mail.reply import PeerError, Reply, Smtp
from posthouse.mail.report import ACTIONS, read_report
from posthouse.mail.traits import Traits
from posthouse.mta.causes import cause_of
from posthouse.policy.bans import place_name
from posthouse.policy.logins import LONGEST_LOGIN, login_key
from posthouse.pop3 import commands as pop3
from posthouse.pop3.client import Pop3ClientCore
from posthouse.pop3.server import Pop3ServerCore, Refused, State
from posthouse.sasl.mechanisms import Credentials, SaslError, Secrets, Wanted, decode_initial, decode_line
from posthouse.sasl.registry import client_mechanism, offered, server_mechanism
from posthouse.smtp import commands as smtp
from posthouse.smtp.client import Extensions, SmtpClientCore
from posthouse.smtp.events import ChunkEnded, ContentArrived, DataEnded, LoginStep, Settled
from posthouse.smtp.rules import Mode
from posthouse.smtp.server import SmtpServerCore

MECHANISMS: Final = offered(scram=True, shared=True, binding=None)
Pieces = Sequence[bytes]
Sight = frozenset[Any]
Target = Callable[[Pieces], Sight]
LINE: Final = 12_400  # octets: the longest line that any server waits for
REPLY_KEPT: Final = 9_000  # octets of a reply's line that a client waits for
MANY: Final = SmtpLimits(errors=10**6, bad_recipients=10**6, idle_commands=10**6, login_failures=10**6, message=100_000)


def pairs(sights: Sequence[object]) -> Sight:
    """What followed on what."""
    return frozenset(zip(["", *sights], [*sights, ""], strict=True))


def smtp_reply(core: SmtpServerCore, event: object) -> list[Reply]:
    """The reply of a session that accepts all."""
    if isinstance(event, Settled):
        return [event.reply]
    if isinstance(event, (smtp.Ehlo, smtp.Helo, smtp.Lhlo)):
        return [core.hello(event)]
    if isinstance(event, (DataEnded, ChunkEnded)) and event.failure is not None:
        return [event.failure]
    if isinstance(event, LoginStep):
        verdicts = (Smtp.AUTH_OK, Smtp.AUTH_FAILED, Reply(Smtp.AUTH_PROMPT.code, "", "dGVzdA=="))
        return [verdicts[len(event.response or b"") % 3]]
    if isinstance(event, smtp.Data):
        return [Smtp.START_DATA]
    return [Smtp.GOODBYE.fill(host="x") if isinstance(event, smtp.Quit) else Smtp.RESET]


def smtp_server(mode: Mode, limits: SmtpLimits, *, trusted: bool) -> Target:
    """The server's core of SMTP."""

    def turn(core: SmtpServerCore, octets: bytes, seen: list[object]) -> None:
        core.feed(octets)
        turns = 0
        while not core.closed and (event := core.next_event()) is not None:
            turns += 1
            assert turns <= 4 * len(octets) + 200, "a loop without input"
            if isinstance(event, ContentArrived):
                seen.append("content")
                continue
            replies = smtp_reply(core, event)
            assert core.send(*replies).endswith(b"\r\n")
            seen.append((type(event).__name__, replies[0].code, replies[0].text[:20], core.state))
        assert core.closed or len(core._buffer) - core._pos <= LINE, "it keeps more than a line"

    def target(pieces: Pieces) -> Sight:
        core = SmtpServerCore(mode, limits, host="x.mail", secure=True, trusted=trusted, normalize=trusted)
        seen: list[object] = []
        for piece in pieces:
            turn(core, piece, seen)
        seen.append((core.state, core.closed))
        sight = pairs(seen)
        # A line, a login or a message may be under way, and a chunk, whose rest is eaten first.
        for way_out in (b"\r\n", b"*\r\n", b"\r\n.\r\n", b"QUIT\r\n"):
            if (chunks := core._chunks) is not None and chunks.left:
                turn(core, b"x" * chunks.left, seen)
            turn(core, way_out, seen)
        assert core.closed, f"QUIT does not lead out of {core.state}"
        return sight

    return target


def pop3_server(pieces: Pieces) -> Sight:
    """The server's core of POP3, as a session that accepts every login moves it."""
    core, seen = Pop3ServerCore(Pop3Limits(errors=10**6, idle_commands=10**6)), list[object]()
    ended = False

    def turn(octets: bytes) -> bool:
        core.feed(octets)
        turns = 0
        while (event := core.next_event()) is not None:
            turns += 1
            assert turns <= len(octets) + LINE, "a loop without input"
            seen.append((type(event).__name__, event.reply.text[:20] if isinstance(event, Refused) else "", core.state))
            if isinstance(event, pop3.Quit) or (isinstance(event, Refused) and event.fatal):
                return True
            if isinstance(event, pop3.User):
                core.state = State.NAMED
            elif isinstance(event, pop3.Pass):
                core.state = State.TRANSACTION
            elif isinstance(event, pop3.Auth) and event.mechanism is not None and event.initial is None:
                core.state = State.CHALLENGED
        assert len(core._buffer) - core._position <= LINE, "it keeps more than a line"
        return False

    for piece in pieces:
        ended = ended or turn(piece)
    sight = pairs([*seen, core.state])
    for way_out in (b"\r\n", b"*\r\n", b"QUIT\r\n"):
        ended = ended or turn(way_out)
    assert ended, f"QUIT does not lead out of {core.state}"
    return sight


@dataclass(slots=True)
class Said:
    """A command of a client, as it is."""

    line: bytes

    def encode(self) -> bytes:
        """The command with its line end."""
        return self.line + b"\r\n"


def client(make: Callable[[], SmtpClientCore | Pop3ClientCore], said: Sequence[bytes]) -> Target:
    """A client's core: whatever a server says is an event or a PeerError."""

    def target(pieces: Pieces) -> Sight:
        core, seen = make(), list[object]()
        for line in said:
            core.send(Said(line))
        try:
            for piece in pieces:
                core.feed(piece)
                while (event := core.next_event()) is not None:
                    seen.append((type(event).__name__, getattr(getattr(event, "answer", None), "positive", "")))
                    answer = getattr(event, "answer", None)
                    if isinstance(core, SmtpClientCore) and answer is not None:
                        offered = Extensions.read(answer)
                        seen.append((bool(offered.mechanisms), offered.size is None))
                kept = core._buffer if isinstance(core, SmtpClientCore) else core._input
                assert len(kept) <= REPLY_KEPT, "it keeps more than a line"
        except PeerError as error:
            seen.append(str(error)[:30])
        return pairs(seen)

    return target


def sasl(pieces: Pieces) -> Sight:
    """Every mechanism, both roles, raw and in base64."""
    seen: list[object] = []
    for name in MECHANISMS:
        server: Any = server_mechanism(name, nonce="nonce", word="<word@x.mail>")
        try:
            step: Any = server.step(None)
            for piece in pieces:
                step = server.step(decode_initial(piece[:16_000]) if piece[:1] == b"=" else piece)
                seen.append((name, type(step).__name__))
                if isinstance(step, Wanted):
                    step = server.know(Secrets(b"salt", 4096))
                if isinstance(step, Credentials):
                    names = repr((step.login, step.authzid))
                    assert repr(step.password)[1:-1] in names or repr(step.password) not in repr(step), "it is shown"
                if not isinstance(step, bytes):
                    break
        except SaslError as error:
            seen.append((name, str(error)))
    for name in MECHANISMS:
        client = client_mechanism(name, "login", "password", nonce="nonce")
        try:
            for piece in pieces:
                assert isinstance(client.step(piece), bytes)
        except SaslError as error:
            seen.append((name, str(error)))
    try:
        decode_line(b"".join(pieces))
    except SaslError as error:
        seen.append(str(error))
    return frozenset(seen)


def addresses(pieces: Pieces) -> Sight:
    """Addresses, lists of mailboxes, login names, networks, parameters and encoded words."""
    text = b"".join(pieces)[:20_000].decode("utf-8", "surrogateescape")
    seen: list[object] = []
    try:
        seen.append(("address", Address.parse(text).key == text))
    except AddressError as error:
        seen.append(str(error)[:12])
    try:
        seen.append(("mailboxes", len(parse_mailboxes(text)) > 1))
    except AddressError as error:
        seen.append(str(error)[:12])
    try:
        place_name(text[:100])
    except ValueError:
        seen.append("no place")
    assert len(login_key(text)) <= 2 * LONGEST_LOGIN + 2
    decode_words(text)
    kind, parameters = parse_parameters(b"".join(pieces)[:20_000])
    seen.append((bool(kind), min(3, len(parameters))))
    return frozenset(seen)


def message(pieces: Pieces) -> Sight:
    """A whole letter: header, parts, text for people, and the form in ASCII."""
    octets = b"".join(pieces)[:60_000]
    read = Message(octets)
    shown = "".join(read.render())
    assert not any(c in shown for c in "\0\x1b\x9b"), "what a terminal obeys"
    assert len(shown) <= 40 * len(octets) + 10_000
    header = Header(octets)
    ascii_form = downgrade(octets)
    assert ascii_form[: body_offset(ascii_form)].isascii()
    types = frozenset(part.type[:20] for part in _parts(read.root))
    return frozenset({types, min(9, sum(1 for _ in _parts(read.root))), repr(type(header))})


def report(pieces: Pieces) -> Sight:
    """A notice of somebody else: read and shown within bounds, whatever its report holds."""
    octets = b"".join(pieces)[:60_000]
    if b"delivery-status" not in octets:
        octets = _NOTICE + octets + b"\r\n--b--\r\n"
    read, seen = read_report(octets), list[object]()
    if read is None:
        return frozenset({"none"})
    lines = list(table(read))
    assert not any(c in line for line in lines for c in "\0\x1b\x9b\n\r\u202e"), "what a terminal obeys"
    assert len(lines) <= 1000
    assert len(json.dumps(describe(read))) <= 60 * len(octets) + 10_000
    for fate in read.fates:
        assert fate.action in ("", *ACTIONS)
        seen.append((fate.action, fate.status[:1], bool(fate.diagnostic), fate.transport[:4], fate.until is None))
        cause_of(fate.status, fate.diagnostic, "", said=bool(fate.remote))
    return frozenset([*seen, min(9, len(read.fates)), bool(read.envid), read.arrived is None])


_NOTICE: Final = (
    b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n"
    b"Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@x\r\n"
)


def rewritten(pieces: Pieces) -> Sight:
    """A letter for an old host: what comes out is fit for it, or the letter is not to be rewritten."""
    letter = whole_lines(b"".join(pieces))
    seen: set[object] = set()
    for seven_bit in (True, False):
        try:
            done = b"".join(recode(letter, seven_bit=seven_bit))
        except Unconvertible as reason:
            seen.add(str(reason))
            continue
        traits = Traits.of(done)
        assert not traits.long_lines and not (seven_bit and traits.eight_bit), (letter, done)
        assert whole_lines(done) == done, (letter, done)
        seen.add((done == letter, b"base64" in done, b"quoted-printable" in done))
    return frozenset(seen)


def _parts(root: Any) -> Iterator[Any]:
    pending = [root]
    while pending:
        part = pending.pop()
        yield part
        pending += part.children


TARGETS: Final[dict[str, Target]] = {
    "smtp-server": smtp_server(Mode.SMTP, MANY, trusted=True),
    "smtp-stranger": smtp_server(Mode.SMTP, SmtpLimits(), trusted=False),
    "submission": smtp_server(Mode.SUBMISSION, MANY, trusted=True),
    "lmtp": smtp_server(Mode.LMTP, MANY, trusted=True),
    "pop3-server": pop3_server,
    "smtp-client": client(SmtpClientCore, [b"EHLO x", b"MAIL FROM:<>", b"DATA", b"QUIT"]),
    "pop3-client": client(Pop3ClientCore, [b"CAPA", b"UIDL", b"RETR 1", b"TOP 1 0", b"STAT", b"QUIT"]),
    "sasl": sasl,
    "addresses": addresses,
    "message": message,
    "report": report,
    "rewritten": rewritten,
}
