"""Carrying letters on to hosts that are wrong, slow, hostile or gone: each ends in the right state, in bounded time,
and the next host is tried just when it may be (RFC 5321 §5.1)."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

import pytest

from posthouse.ports.queue import Status
from tests.carrying import LETTER, Lines, parcel, relay
from tests.system.scripted import Act, ScriptedServer, Talk, babble, drip, endless, half, host, silence

D, F, U, R = Status.DEFERRED, Status.FAILED, Status.UNCERTAIN, Status.RELAYED
ACTS: Final[dict[str, Act]] = {
    "4xx": b"450 4.2.0 not now\r\n",
    "5xx": b"550 5.7.1 not so\r\n",
    "421": b"421 4.3.2 closing\r\n",
    "silence": silence,
    "half": half,
    "drip": drip,
    "close": Talk.hang_up,
    "babble": babble,
    "endless": endless,
}
PLAIN: Final = b"250-next.example\r\n250 8BITMIME\r\n"
PIPELINING: Final = b"250-next.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


def expected(stage: str, act: str) -> tuple[Status, bool]:
    """The state when there is no other host, and whether another one is tried."""
    if stage in ("greeting", "ehlo"):
        return (F if act == "5xx" else D), True
    if act in ("4xx", "5xx"):
        return (F if act == "5xx" else D), False
    if stage == "end":
        return (D if act == "421" else U), False
    return D, True


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("offer", [PLAIN, PIPELINING], ids=["steps", "pipelined"])
async def test_every_fault_at_every_stage(offer: bytes, stage: str) -> None:
    await asyncio.gather(*(fault(offer, stage, act) for act in ACTS))


async def fault(offer: bytes, stage: str, act: str) -> None:
    """One fault, of a host that is alone and of the first of two."""
    state, elsewhere = expected(stage, act)
    begun = time.monotonic()
    acts = dict.fromkeys(["ehlo", "helo"] if stage == "ehlo" else [stage], ACTS[act])
    with ScriptedServer(host(offer, None, **acts)) as bad, ScriptedServer(host(offer)) as good:
        async with relay([bad.port]) as alone:
            (result,) = await alone.deliver(parcel())
        async with relay([bad.port, good.port]) as both:
            (second,) = await both.deliver(parcel())
        assert good.heard.count(LETTER) == (1 if elsewhere else 0), act
    assert result.state is state, (act, result)
    assert second.state is (R if elsewhere else state), (act, second)
    assert result.status[0] == ("5" if state is F else "4") and len(result.reply) <= 1000, (act, result)
    assert result.said is (act in ("4xx", "5xx", "421")) and result.host == "mx1.next.example", (act, result)
    assert result.stage == {"end": "end of data"}.get(stage, stage) and result.address == "127.0.0.1", (act, result)
    assert result.dead is (stage in ("greeting", "ehlo") and state is D), (act, result)
    assert time.monotonic() - begun < 30, act  # a client without limits waits for minutes


async def test_nobody_listens_anywhere() -> None:
    """Catches a host that is gone costing each letter for it an attempt: the queue is told that it is dead."""
    with ScriptedServer(host()) as server:
        port = server.port
    log = Lines()
    async with relay([port, port], log=log) as one:
        (result,) = await one.deliver(parcel())
    assert (result.state, result.status, result.stage, result.dead) == (D, "4.4.1", "connect", True)
    assert not result.said and "nothing listens there" in result.reply
    (line,) = log.of("relay")
    assert line["deferred"] == 1 and line["letter"] == "letter-1" and line["stage"] == "connect"


async def test_a_host_that_keeps_each_time_but_not_the_whole() -> None:
    """A host that answers each recipient just in time would hold a connection for hours."""

    def slowly(talk: Talk) -> None:
        talk.peer_is_there(0.3)
        talk.say(b"250 ok\r\n")

    with ScriptedServer(host(PLAIN, rcpt=slowly)) as server:
        async with relay([server.port], attempt=1.0, data_rate=10**9) as one:
            results = await one.deliver(parcel(*(f"r{n}@next.example" for n in range(100))))
    assert {result.state for result in results} == {D}
    assert sum(line.startswith(b"RCPT ") for line in server.heard) < 20


async def test_a_host_that_does_not_read() -> None:
    """Content that is not taken costs the time of one block, and no memory."""
    letter = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"
    letter += (b"y" * 76 + b"\r\n") * 200_000

    over = threading.Event()
    hung_up: list[bool] = []

    def deaf(talk: Talk) -> None:
        talk.say(b"354 go on\r\n")
        hung_up.append(over.wait(20))
        talk.hang_up()

    with ScriptedServer(host(PLAIN, data=deaf)) as server:
        async with relay([server.port]) as one:
            (result,) = await one.deliver(parcel(letter=letter))
            waited = bool(hung_up)
            over.set()
    assert not waited, "it waited until the host hung up"
    assert (result.state, result.stage) == (D, "content")
