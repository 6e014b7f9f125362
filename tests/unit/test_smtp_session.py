"""What a transcript cannot show: octets that come too early, observers, the log, stopping, memory."""

from __future__ import annotations

import asyncio
import gc

import pytest

from posthouse.mail.limits import SmtpLimits
from posthouse.mail.reply import Smtp
from posthouse.net.wire import Wire
from posthouse.ports.system import Endpoint, SessionObserver
from posthouse.smtp.events import Settled
from posthouse.smtp.rules import COMMANDS, Mode
from posthouse.smtp.server import SmtpServerCore
from tests.smtp_stage import MemoryMail, SmtpStage
from tests.transcript_runner import Client

STRANGER = "192.0.2.7"


async def replies(client: Client, octets: bytes, count: int) -> list[str]:
    client.send(octets)
    return [await client.line() for _ in range(count)]


async def begin(stage: SmtpStage, peer: str = STRANGER, **options: str) -> Client:
    client = Client(stage.build(options).session, peer)
    assert await client.line() == "220 x.mail ESMTP Posthouse"
    return client


@pytest.mark.parametrize(
    "group",
    [
        b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n",
        b"HELO client.example\r\nMAIL FROM:<a@client.example>\r\n",
        b"NOOP\r\nNOOP\r\n",
        b"VRFY test\r\nNOOP\r\n",
        b"EXPN test\r\nNOOP\r\n",
        b"TURN\r\nNOOP\r\n",
        b"STARTTLS\r\nNOOP\r\n",
        b"NOOP\r\n\r\n",
    ],
)
async def test_strangers_may_not_pipeline_what_ends_a_group(group: bytes) -> None:
    """RFC 2920 §3.1, reliability F3: told so and dropped, the octets behind unused."""
    client = await begin(SmtpStage())
    assert await replies(client, group, 1) == ["503 5.5.0 Commands were sent before the reply that must be waited for"]
    await client.closes()
    await client.leave()


async def test_strangers_may_not_send_content_before_354() -> None:
    """RFC 2920 §3.1: content sent with DATA would become commands if DATA were refused."""
    stage = SmtpStage()
    client = await begin(stage)
    client.send(b"EHLO client.example\r\n")
    while not (await client.line()).startswith("250 "):
        pass
    said = await replies(
        client,
        b"MAIL FROM:<a@client.example>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\nSubject: x\r\n.\r\n",
        3,
    )
    assert said[2].startswith("503 5.5.0 ")
    await client.closes()
    await client.leave()
    assert not stage.mail.mailboxes[1]


async def test_the_group_of_rfc_2920_is_answered_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 2920 §3.2: replies of a group leave together; catches a write for each."""
    client = await begin(SmtpStage())
    client.send(b"EHLO client.example\r\n")
    while not (await client.line()).startswith("250 "):
        pass
    writes: list[bytes] = []
    write = client.transport.write

    def counted(octets: bytes) -> None:
        writes.append(octets)
        write(octets)

    monkeypatch.setattr(client.transport, "write", counted)
    said = await replies(client, b"MAIL FROM:<>\r\nRCPT TO:<test@x.mail>\r\nRCPT TO:<test2@x.mail>\r\nDATA\r\n", 4)
    assert [line[:3] for line in said] == ["250", "250", "250", "354"]
    assert len(writes) == 1
    await client.leave()


class Recorder:
    """An observer that keeps all, secrets marked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, bool]] = []
        self.ended = 0

    def session(self, protocol: str, local: Endpoint, peer: Endpoint) -> SessionObserver | None:
        return self

    def received(self, octets: bytes, secret: bool = False) -> None:
        self.seen.append(("in", octets, secret))

    def sent(self, octets: bytes, secret: bool = False) -> None:
        self.seen.append(("out", octets, secret))

    def secured(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def closed(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_an_observer_sees_all_and_secrets_are_marked(piece: int) -> None:
    """Every octet in both directions is seen once; those of a login carry the mark, whatever their cut."""
    recorder = Recorder()
    client = await begin(SmtpStage(recorder), "127.0.0.1")
    said = (
        b"EHLO pc\r\nAUTH LOGIN\r\nc2VjcmV0LW5hbWU=\r\nc2VjcmV0LXdvcmQ=\r\nauth plain AHNlY3JldC1uYW1lAHgeheim=\r\n"
        b"AUTH PLAIN\r\nAHNlY3JldC1uYW1lAHg=\r\n"
        b"MAIL FROM:<a@x.mail>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\n"
        b"MAIL FROM:<a@x.mail>\r\nRCPT TO:<test@x.mail>\r\nBDAT 6 LAST\r\nabcd\r\nQUIT\r\n"
    )
    for start in range(0, len(said), piece):
        client.send(said[start : start + piece])
        await asyncio.sleep(0)
    await client.leave()
    assert b"".join(octets for way, octets, _ in recorder.seen if way == "in") == said
    open_octets = b"".join(octets for way, octets, secret in recorder.seen if way == "in" and not secret)
    for secret in (b"c2VjcmV0", b"AHNlY3JldC1uYW1l", b"geheim"):
        assert secret not in open_octets
    assert recorder.ended == 1


async def test_a_login_too_long_to_be_read_is_still_a_secret() -> None:
    """Catches a line that is dropped in pieces, of which only the first was known to be a login."""
    recorder = Recorder()
    client = await begin(SmtpStage(recorder), "127.0.0.1")
    for piece in [b"EHLO pc\r\n", b"auth PLAIN ", *[b"geheim" * 1000] * 4, b"geheim\r\n", b"NOOP\r\n"]:
        client.send(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await client.leave()
    shown = b"".join(octets for way, octets, secret in recorder.seen if way == "in" and not secret)
    assert shown == b"EHLO pc\r\nNOOP\r\n"


async def test_chunks_that_will_be_refused_cannot_trickle_for_ever() -> None:
    """Reliability V3: the least rate counts also where there is no message yet."""
    stage = SmtpStage()
    client = await begin(stage)
    client.send(b"BDAT 1000000\r\nx")
    for _ in range(3):
        await asyncio.sleep(0)
    stage.clock.seconds += 700
    client.send(b"x")
    assert await client.line() == "421 4.4.2 x.mail waited too long, closing the connection"
    await client.leave()


class Noted:
    """A log that keeps all lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, /, **fields: object) -> None:
        self.lines.append((event, fields))

    debug = warning = error = exception = info

    def bind(self, **fields: object) -> Noted:
        return self


async def test_the_log_has_a_line_for_each_decision_and_no_secret() -> None:
    log = Noted()
    client = await begin(SmtpStage(log=log), "127.0.0.1")
    client.send(b"EHLO pc\r\n")
    while not (await client.line()).startswith("250 "):
        pass
    await replies(client, b"AUTH PLAIN AHRlc3QAd3Jvbmc=\r\n", 1)
    await replies(client, b"AUTH PLAIN AHRlc3QAc2VjcmV0\r\n", 1)
    await replies(client, b"MAIL FROM:<test@x.mail>\r\nRCPT TO:<nobody@x.mail>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\n", 4)
    await replies(client, b"Subject: x\r\n.\r\n", 1)
    await client.leave()
    assert [event for event, _ in log.lines] == ["login_failed", "login", "refused", "accepted"]
    assert log.lines[2][1]["recipient"] == "nobody@x.mail"
    assert log.lines[3][1]["sender"] == "test@x.mail"
    assert "secret" not in str(log.lines)
    assert "wrong" not in str(log.lines[0])


async def test_the_log_tells_of_a_letter_that_stopped_on_its_way() -> None:
    log = Noted()
    client = await begin(SmtpStage(log=log))
    client.send(b"HELO pc\r\n")
    await client.line()
    await replies(client, b"MAIL FROM:<a@x.mail>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\n", 3)
    client.send(b"Subject: half a let")
    await client.leave()
    assert [(event, fields["octets"]) for event, fields in log.lines] == [("interrupted", 19)]


async def test_stopping_lets_a_message_end() -> None:
    """Reliability X16: who waits is told 421; who is sending a message may finish it."""
    stage = SmtpStage()
    idle = await begin(stage)
    sending = await begin(stage)
    sending.send(b"HELO pc\r\n")
    await sending.line()
    await replies(sending, b"MAIL FROM:<>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\n", 3)
    for client in (idle, sending):
        client.wire.ask_to_stop()
    assert await idle.line() == "421 4.3.2 x.mail is being stopped, try again in a minute"
    await idle.closes()
    assert (await replies(sending, b"Subject: x\r\n.\r\n", 1))[0].startswith("250 2.0.0 Queued")
    assert (await sending.line()).startswith("421 4.3.2 ")
    await sending.closes()
    for client in (idle, sending):
        await client.leave()


async def test_a_bug_of_ours_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer hears 451 and keeps its letter; the listener closes and logs the traceback."""
    stage = SmtpStage()
    session = stage.build({}).session

    async def find(self: MemoryMail, address: object) -> None:
        raise ZeroDivisionError

    async def closing(wire: Wire) -> None:
        with pytest.raises(ZeroDivisionError):
            await session(wire)
        wire.close()

    monkeypatch.setattr(MemoryMail, "find", find)
    client = Client(closing, STRANGER)
    said = await replies(client, b"HELO pc\r\n", 2)
    said += await replies(client, b"MAIL FROM:<>\r\nRCPT TO:<test@x.mail>\r\n", 2)
    assert [line[:9] for line in said[2:]] == ["250 2.1.0", "451 4.3.0"]
    await client.closes()
    await client.leave()


async def test_a_message_without_end_is_given_up() -> None:
    """Reliability F1: discarding is bounded by size; catches a peer that sends for ever after a bad octet."""
    stage = SmtpStage()
    client = await begin(stage, message="100000")
    client.send(b"HELO pc\r\n")
    await client.line()
    await replies(client, b"MAIL FROM:<>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\n", 3)
    for _ in range(200):
        if client.transport.closed:
            break
        client.send(b"a\0" * 10_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert await client.line() == "554 5.6.0 The message holds a NUL octet"
    await client.closes()
    await client.leave()
    assert sum(len(draft.content) for draft in stage.mail.drafts) == 0


def test_the_core_keeps_little() -> None:
    """Reliability F8: a line without end is not collected."""
    core = SmtpServerCore(Mode.SMTP, SmtpLimits(), host="x.mail")
    for _ in range(10):
        core.feed(b"x" * 5000)
        assert core.next_event() is None
        assert len(core._buffer) <= 5000


def test_help_and_ehlo_come_from_the_table() -> None:
    core = SmtpServerCore(Mode.SMTP, SmtpLimits(), host="x.mail", secure=True)
    core.feed(b"HELP\r\n")
    event = core.next_event()
    core.send(Smtp.NOOP)
    assert isinstance(event, Settled)
    told = event.reply.text
    for verb in ("EHLO", "MAIL", "AUTH", "BDAT"):
        assert verb in told.split()
    assert {rule.extension for rule in COMMANDS.values()} - {""} <= set(core.extensions())


async def test_stopping_while_listening_on_after_the_last_reply() -> None:
    """Catches a stop that ends such a session with an error instead of a close."""
    client = await begin(SmtpStage())
    assert (await replies(client, b"GET / HTTP/1.1\r\n", 1))[0].startswith("421 ")
    await asyncio.sleep(0)
    client.wire.ask_to_stop()
    await client.leave()


async def test_an_ended_session_leaves_nothing_for_the_garbage_collector() -> None:
    """Thousands of sessions a second: catches a circle of references, which costs pauses and memory."""
    stage = SmtpStage()
    client = await begin(stage)
    await replies(client, b"HELO pc\r\n", 1)
    await replies(client, b"MAIL FROM:<>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\n", 3)
    await replies(client, b"Subject: x\r\n.\r\n", 1)
    client.send(b"QUIT\r\n")
    await client.leave()
    gc.collect()
    gc.disable()
    try:
        again = await begin(stage)
        await replies(again, b"QUIT\r\n", 1)
        await again.leave()
        del again, client
        for _ in range(3):  # Python 3.13 closes the generator of the events in a task of its own
            await asyncio.sleep(0)
        assert not [item for item in gc.get_objects() if isinstance(item, SmtpServerCore)]
    finally:
        gc.enable()
