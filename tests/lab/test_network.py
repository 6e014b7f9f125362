"""The network in memory behaves as TCP does, and its outages as outages do."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from posthouse.lab.box import Box
from posthouse.lab.network import CALLED, SYN_END, How, Machine, Outage
from posthouse.net.dial import Unreachable, connect
from posthouse.net.listener import Listener, ListenError, Service, Sessions
from posthouse.net.wire import Wire
from posthouse.observe.log import QuietLog
from tests.certificates import make

HOME, AWAY = "192.0.2.1", "198.51.100.1"
Session = Callable[[Wire], Awaitable[None]]


class Town:
    """Two machines, and something that listens on one of them."""

    def __init__(self, *, latency: float = 0.1, bandwidth: float = 0.0) -> None:
        self.box = Box()
        self.home = self.box.desk("home.example", (HOME,), latency=latency, bandwidth=bandwidth)
        self.away = self.box.desk("away.example", (AWAY, "2001:db8::1"), latency=latency)

    @property
    def now(self) -> float:
        return self.box.loop.time()

    async def listen(self, session: Session, address: str = "*", port: int = 25) -> Sessions:
        sessions = Sessions(10, QuietLog())

        async def open_one() -> None:
            await Listener("smtp", sessions, Service(session, b"421 no\r\n", b"421 no\r\n")).open(address, port)

        await self.box.on(self.away, open_one())
        return sessions

    def run(self, work: Callable[[Town], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await self.box.on(self.home, _inner(work, self))

        return self.box.run(main())


async def _inner(work: Callable[[Town], Awaitable[Any]], town: Town) -> Any:
    return await work(town)


async def echo(wire: Wire) -> None:
    while octets := await wire.read():
        wire.write(octets)
        await wire.drain()


async def greet(wire: Wire) -> None:
    wire.write(b"220 hello\r\n")
    await echo(wire)


def test_octets_need_their_time() -> None:
    async def work(town: Town) -> None:
        await town.listen(greet)
        wire = await connect(AWAY, 25)
        assert town.now == pytest.approx(0.2)  # a call and its answer
        assert (wire.local.host, wire.peer.host, wire.peer.port) == (HOME, AWAY, 25)
        assert await wire.read() == b"220 hello\r\n"
        assert town.now == pytest.approx(0.4)
        wire.write(b"ping")
        assert await wire.read() == b"ping"
        assert town.now == pytest.approx(0.6)
        wire.close()

    Town().run(work)


def test_a_narrow_line_takes_longer_for_more() -> None:
    async def work(town: Town) -> None:
        await town.listen(echo)
        wire = await connect(AWAY, 25)
        begun = town.now
        wire.write(bytes(10_000))
        got = b""
        while len(got) < 10_000:
            got += await wire.read()
        assert town.now - begun == pytest.approx(2 * (0.1 + 10.0))  # there and back
        wire.close()

    Town(bandwidth=1000.0).run(work)


def test_who_does_not_read_is_not_flooded() -> None:
    """A writer is asked to stop, and goes on when the other side reads: nothing is lost."""
    total = 3_000_000
    most = 0

    async def slow(wire: Wire) -> None:
        nonlocal most
        got = 0
        await wire.hold(60.0)
        while octets := await wire.read():
            got += len(octets)
        wire.write(b"%d" % got)

    async def work(town: Town) -> None:
        nonlocal most
        await town.listen(slow)
        wire = await connect(AWAY, 25)
        for _ in range(total // 30_000):
            wire.write(bytes(30_000))
            await wire.drain()
            most = max(most, wire._transport.get_write_buffer_size())
        assert town.now > 60.0
        wire._transport.write_eof()
        assert await wire.read() == b"%d" % total
        wire.close()

    Town().run(work)
    assert most < 200_000


def test_the_end_of_one_direction_leaves_the_other_open() -> None:
    async def answer_at_the_end(wire: Wire) -> None:
        got = b""
        while octets := await wire.read():
            got += octets
        wire.write(b"all of " + got)

    async def work(town: Town) -> None:
        await town.listen(answer_at_the_end)
        wire = await connect(AWAY, 25)
        wire.write(b"this")
        await wire.drain()
        wire._transport.write_eof()
        assert await wire.read() == b"all of this"
        assert await wire.read() == b""
        wire.close()

    Town().run(work)


def test_writing_to_a_closed_end_resets() -> None:
    async def leave(wire: Wire) -> None:
        wire.write(b"421 bye\r\n")

    async def work(town: Town) -> None:
        await town.listen(leave)
        wire = await connect(AWAY, 25)
        assert await wire.read() == b"421 bye\r\n"
        assert await wire.read() == b""
        wire.write(b"still there?")
        await wire.drain()
        await asyncio.sleep(1.0)
        assert wire.lost

    Town().run(work)


def test_nobody_listens() -> None:
    async def work(town: Town) -> float:
        with pytest.raises(Unreachable, match="nothing listens") as caught:
            await connect(AWAY, 25)
        assert caught.value.refused
        return town.now

    assert Town().run(work) == pytest.approx(0.2)


def test_no_such_address_and_no_such_family() -> None:
    async def work(town: Town) -> None:
        with pytest.raises(TimeoutError):
            await town.box.loop.create_connection(asyncio.Protocol, "203.0.113.9", 25)
        assert town.now == SYN_END
        with pytest.raises(OSError) as caught:
            await town.box.loop.create_connection(asyncio.Protocol, "2001:db8::1", 25)
        assert caught.value.errno == errno.ENETUNREACH  # home has no IPv6

    Town().run(work)


def test_a_machine_has_a_loopback_of_its_own() -> None:
    async def work(town: Town) -> None:
        await town.listen(greet, "127.0.0.1", 2525)
        with pytest.raises(OSError):
            await town.box.loop.create_connection(asyncio.Protocol, "127.0.0.1", 2525)

        async def at_away() -> bytes:
            wire = await connect("127.0.0.1", 2525)
            octets = await wire.read()
            wire.close()
            return octets

        assert await town.box.on(town.away, at_away()) == b"220 hello\r\n"

    Town().run(work)


def test_listeners_say_what_they_cannot() -> None:
    async def work(town: Town) -> None:
        await town.listen(echo)
        with pytest.raises(ListenError, match="in use"):
            await town.listen(echo)
        with pytest.raises(ListenError, match="no such address"):
            await town.listen(echo, HOME, 26)

    Town().run(work)


def test_an_address_has_one_machine() -> None:
    town = Town()
    with pytest.raises(ValueError, match=r"home\.example"):
        town.box.desk("third.example", (HOME,))
    town.box.loop.close()


# Outages


def outage(how: How, begin: float = 0.0, end: float = 1e9, **more: Any) -> Outage:
    return Outage("away.example", how, begin, end, **more)


def test_a_silent_machine_answers_a_later_call() -> None:
    """The system repeats the call, and the connection comes when the machine is back."""

    async def work(town: Town) -> float:
        await town.listen(greet)
        town.box.network.spoil([outage(How.SILENT, end=5.0)])
        wire = await connect(AWAY, 25, 60.0)
        wire.close()
        return town.now

    assert Town().run(work) == pytest.approx(7.2)  # calls after 0, 1, 3 and 7 seconds


def test_a_silent_machine_is_given_up_by_the_caller() -> None:
    async def work(town: Town) -> float:
        await town.listen(greet)
        town.box.network.spoil([outage(How.SILENT)])
        with pytest.raises(Unreachable, match="did not answer"):
            await connect(AWAY, 25, 30.0)
        return town.now

    assert Town().run(work) == 30.0


def test_what_is_lost_on_the_way_is_sent_again() -> None:
    async def work(town: Town) -> float:
        await town.listen(echo)
        wire = await connect(AWAY, 25)
        town.box.network.spoil([outage(How.SILENT, 1.0, 20.0)])
        await asyncio.sleep(2.0)
        wire.write(b"ping")
        assert await wire.read() == b"ping"
        wire.close()
        return town.now

    assert 20.0 < Town().run(work) < 60.0


def test_a_connection_over_a_dead_line_ends_some_time() -> None:
    async def work(town: Town) -> float:
        await town.listen(echo)
        wire = await connect(AWAY, 25)
        town.box.network.spoil([outage(How.SILENT, 1.0)])
        await asyncio.sleep(2.0)
        wire.patience = 10_000.0
        wire.write(b"ping")
        assert await wire.read() == b""
        assert wire.lost
        return town.now

    assert 900.0 < Town().run(work) < 1200.0


def test_refused_and_reset() -> None:
    async def work(town: Town) -> None:
        await town.listen(echo)
        wire = await connect(AWAY, 25)
        town.box.network.spoil([outage(How.REFUSED, 1.0)])
        await asyncio.sleep(2.0)
        with pytest.raises(Unreachable, match="nothing listens"):
            await connect(AWAY, 25)
        wire.write(b"ping")
        assert await wire.read() == b""
        assert wire.lost

    Town().run(work)


def test_a_mute_machine_accepts_and_says_nothing() -> None:
    async def work(town: Town) -> float:
        await town.listen(greet)
        town.box.network.spoil([outage(How.MUTE)])
        wire = await connect(AWAY, 25)
        wire.patience = 300.0
        with pytest.raises(TimeoutError):
            await wire.read()
        wire.close()
        return town.now

    assert Town().run(work) == pytest.approx(300.2)


def test_a_machine_that_is_switched_off_says_nothing_and_has_forgotten_all() -> None:
    """Its peers hear nothing while it is off, and a reset when it is back and they write."""
    ended: list[str] = []

    async def stay(wire: Wire) -> None:
        try:
            await echo(wire)
        finally:
            ended.append("session")

    async def work(town: Town) -> None:
        await town.listen(stay)
        wire = await connect(AWAY, 25)
        wire.patience = 1e6
        wire.write(b"ping")
        assert await wire.read() == b"ping"
        network = town.box.network
        network.spoil([outage(How.OFF, town.now, town.now + 100.0)])
        network.switch_off(town.away)
        with pytest.raises(Unreachable, match="did not answer"):
            await connect(AWAY, 25, 30.0)
        assert not wire.lost
        wire.write(b"still there?")
        await wire.drain()
        town.away.off = False
        await asyncio.sleep(10.0)
        assert not wire.lost, "it is off"
        assert await wire.read() == b""
        assert wire.lost and 100.0 < town.now < 300.0
        await town.listen(echo)  # nothing is left of what listened
        (await connect(AWAY, 25)).close()

    Town().run(work)
    assert ended == ["session"]


def test_a_connection_is_cut_after_so_many_octets() -> None:
    heard: list[int] = []

    async def count(wire: Wire) -> None:
        while octets := await wire.read():
            heard.append(len(octets))

    async def work(town: Town) -> None:
        await town.listen(count)
        town.box.network.spoil([outage(How.CUT, octets=1000)])
        wire = await connect(AWAY, 25)
        for _ in range(30):
            wire.write(bytes(100))
            await wire.drain()
            await asyncio.sleep(1.0)
        assert wire.lost

    Town().run(work)
    assert sum(heard) == 1000


def test_the_reply_to_a_letter_can_be_lost() -> None:
    """The server has the whole letter, and its answer never comes (RFC 1047)."""
    heard: list[bytes] = []

    async def take(wire: Wire) -> None:
        heard.append(await wire.read())
        call = CALLED.get()
        assert call is not None
        call.taken()
        wire.write(b"250 taken\r\n")

    async def work(town: Town) -> None:
        await town.listen(take)
        town.box.network.spoil([outage(How.DOT)])
        wire = await connect(AWAY, 25)
        wire.write(b"text\r\n.\r\n")
        assert await wire.read() == b""
        assert wire.lost

    Town().run(work)
    assert heard == [b"text\r\n.\r\n"]


def test_a_share_of_connections_meets_an_outage_the_same_in_every_run() -> None:
    async def work(town: Town) -> list[bool]:
        await town.listen(echo)
        town.box.network.spoil([outage(How.REFUSED, share=0.5)])
        came = []
        for _ in range(40):
            try:
                wire = await connect(AWAY, 25)
            except Unreachable:
                came.append(False)
            else:
                came.append(True)
                wire.close()
        return came

    first = Town().run(work)
    assert 10 < sum(first) < 30
    assert Town().run(work) == first


def test_only_one_line_is_down_when_a_peer_is_named() -> None:
    async def work(town: Town) -> None:
        third = town.box.desk("third.example", ("203.0.113.1",))
        await town.listen(greet)
        town.box.network.spoil([outage(How.REFUSED, peer="third.example"), outage(How.SLOW, delay=2.0)])
        begun = town.now
        (await connect(AWAY, 25)).close()
        assert town.now - begun == pytest.approx(4.2)
        with pytest.raises(Unreachable):
            await town.box.on(third, connect(AWAY, 25))

    Town().run(work)


def test_a_machine_is_woken_once_by_its_first_connection() -> None:
    woken: list[float] = []

    async def work(town: Town) -> None:
        async def wake() -> None:
            woken.append(town.now)
            await town.listen(greet)

        town.away.wake = wake
        first, second = await asyncio.gather(connect(AWAY, 25), connect(AWAY, 25))
        assert await first.read() == await second.read() == b"220 hello\r\n"
        first.close()
        second.close()

    Town().run(work)
    assert len(woken) == 1


def test_tls_passes_over_memory(tmp_path: Path) -> None:
    """asyncio's own TLS runs over these transports, handshake, records and farewell."""

    made = make(tmp_path, "away.example")

    async def secret(wire: Wire) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.pem)
        await wire.start_tls(context, timeout=30.0, at_once=True)
        await greet(wire)

    async def work(town: Town) -> None:
        await town.listen(secret)
        wire = await connect(AWAY, 25)
        context = ssl.create_default_context(cafile=str(made.authority))
        await wire.start_tls(context, timeout=30.0, server_name="away.example")
        assert await wire.read() == b"220 hello\r\n"
        wire.write(bytes(200_000))
        await wire.drain()
        got = 0
        while got < 200_000:
            got += len(await wire.read())
        wire.close()
        await asyncio.sleep(10.0)

    Town().run(work)


def test_machine_names_ports_that_differ() -> None:
    machine = Machine("a.example", ("192.0.2.1",))
    ports = {machine.next_port() for _ in range(20_000)}
    assert len(ports) == 20_000
    assert min(ports) >= 1024
