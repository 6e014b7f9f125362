"""Whole mail systems in the box: the real servers and the real clients, under the movable clock."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

import pytest

from posthouse.clients.failure import Failure
from posthouse.clients.pop3 import Pop3Client
from posthouse.clients.smtp import Letter, SmtpClient
from posthouse.lab.box import PASSWORD, START, Box
from posthouse.lab.network import How, Outage
from posthouse.mail.address import Address
from posthouse.mail.envelope import Recipient
from posthouse.net.dial import connect

MX, DESK = "192.0.2.25", "198.51.100.7"
CONTENT = b"From: <eve@far.example>\r\nTo: <anna@a.example>\r\nSubject: hello\r\n\r\nHello, Anna.\r\n.\r\n"


def town(seed: int = 1) -> Box:
    box = Box(seed=seed)
    box.host("mx.a.example", (MX, "2001:db8::25"), domains=("a.example",), users=("anna@a.example",))
    box.desk("far.example", (DESK,))
    return box


async def send(content: bytes = CONTENT) -> str:
    client = await SmtpClient.connect(MX, 25)
    await client.greet()
    await client.hello("far.example")
    letter = Letter(
        Address.parse("eve@far.example"), [Recipient(Address.parse("anna@a.example"))], len(content), lambda: [content]
    )
    outcome = await client.send(letter)
    await client.quit()
    assert outcome.failure is None, outcome.failure
    assert outcome.sent == 1
    assert outcome.answer is not None
    return outcome.answer.said


async def collect() -> list[bytes]:
    """All letters of Anna, who sits at the server itself: her password does not go over the network."""
    client = await Pop3Client.connect("127.0.0.1", 110)
    await client.greet()
    method = await client.choose_login()
    await client.login(method, "anna@a.example", PASSWORD)
    _, count, _ = await client.stat()
    letters = []
    for number in range(1, count + 1):
        sink = bytearray()
        await client.retrieve(number, sink.extend)
        letters.append(bytes(sink))
    await client.quit()
    return letters


def run(box: Box, work: Any) -> Any:
    return box.run(work(box))


def away(box: Box, work: Any) -> Awaitable[Any]:
    return box.on(box.network.machine(DESK), work)


async def _send_and_collect(box: Box) -> tuple[str, list[bytes], float]:
    said = await away(box, send())
    letters = await box.on(box.houses["mx.a.example"].machine, collect())
    return said, letters, box.loop.time()


def test_a_letter_goes_in_by_smtp_and_comes_out_by_pop3() -> None:
    said, (letter,), seconds = run(town(), _send_and_collect)
    assert said.startswith("250 2.0.0 Queued as ")
    assert letter.endswith(CONTENT)
    # The names of the box's zone, and the time of its clock.
    assert b"Received: from far.example (far.example [198.51.100.7])" in letter
    assert b" 2026 08:00:00 +0000" in letter
    assert 0.1 < seconds < 2.0


def test_the_same_seed_gives_the_same_run_octet_for_octet() -> None:
    assert run(town(), _send_and_collect) == run(town(), _send_and_collect)
    assert run(town(), _send_and_collect)[0] != run(town(2), _send_and_collect)[0]


def test_the_store_is_in_memory_and_holds_large_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    def no_thread(self: threading.Thread) -> None:
        raise AssertionError(f"a thread was started in the box: {self.name}")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    large = CONTENT + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 10_000

    async def work(box: Box) -> list[bytes]:
        await away(box, send(large))
        return await box.on(box.houses["mx.a.example"].machine, collect())

    (letter,) = run(town(), work)
    assert letter.endswith(large)


def test_a_session_that_says_nothing_for_minutes_ends_at_once() -> None:
    async def idle() -> bytes:
        wire = await connect(MX, 25)
        wire.patience = 10_000.0
        octets = b""
        while more := await wire.read():
            octets += more
        wire.close()
        return octets

    async def work(box: Box) -> tuple[bytes, float]:
        return await away(box, idle()), box.loop.time()

    begun = time.thread_time()
    said, seconds = run(town(), work)
    assert said.startswith(b"220 mx.a.example")
    assert b"\r\n421 4.4.2 mx.a.example waited too long" in said
    assert seconds == pytest.approx(300.0, abs=1.0)  # RFC 5321 §4.5.3.2.7
    assert time.thread_time() - begun < 2.0


def test_a_failed_login_is_answered_at_its_fixed_time() -> None:
    """The server rests in turns of the event loop, which must not wait for a clock that stands still."""

    async def fail() -> None:
        client = await Pop3Client.connect("127.0.0.1", 110)
        await client.greet()
        method = await client.choose_login()
        answer, _ = await client.login(method, "anna@a.example", "wrong")
        assert not answer.positive
        client.close()

    async def work(box: Box) -> float:
        await box.on(box.houses["mx.a.example"].machine, fail())
        return box.loop.time()

    assert run(town(), work) == pytest.approx(0.5, abs=0.01)


def test_a_server_that_is_down_is_not_reached_and_not_built() -> None:
    async def work(box: Box) -> None:
        box.network.spoil([Outage("mx.a.example", How.SILENT, 0.0, 3600.0)])
        with pytest.raises(Failure, match="did not answer"):
            await away(box, send())
        assert box.houses["mx.a.example"].app is None
        assert box.clock.now() == START + 30.0

    run(town(), work)
