"""Whatever is written, however it is cut and whenever the other side reads: the octets arrive once and in order."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.lab.box import Box
from posthouse.net.dial import connect
from posthouse.net.listener import Listener, Service, Sessions
from posthouse.net.wire import Wire
from posthouse.observe.log import QuietLog

PIECES = st.lists(st.integers(1, 90_000), min_size=1, max_size=12)
PAUSES = st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.5, 40.0]), min_size=1, max_size=6)


@settings(max_examples=60)
@given(PIECES, PAUSES, PAUSES, st.sampled_from([0.0, 2_000.0, 1_000_000.0]))
def test_octets_arrive_once_and_in_order(
    pieces: list[int], writing: list[float], reading: list[float], bandwidth: float
) -> None:
    box = Box()
    home = box.desk("home.example", ("192.0.2.1",), bandwidth=bandwidth)
    away = box.desk("away.example", ("192.0.2.2",))
    sent = b"".join(bytes([number % 251]) * size for number, size in enumerate(pieces))
    got = bytearray()

    async def read_all(wire: Wire) -> None:
        turn = 0
        while octets := await wire.read():
            got.extend(octets)
            await wire.hold(reading[turn % len(reading)])
            turn += 1
        wire.write(b"%d" % len(got))

    async def listen() -> None:
        service = Service(read_all, b"", b"")
        await Listener("smtp", Sessions(10, QuietLog()), service).open("192.0.2.2", 25)

    async def send() -> bytes:
        wire = await connect("192.0.2.2", 25)
        wire.patience = wire.stall_timeout = 1e7
        for number, size in enumerate(pieces):
            wire.write(bytes([number % 251]) * size)
            await wire.drain()
            await asyncio.sleep(writing[number % len(writing)])
        wire._transport.write_eof()
        answer = await wire.read()
        wire.close()
        return answer

    async def main() -> bytes:
        await box.on(away, listen())
        return await box.on(home, send())

    assert box.run(main()) == b"%d" % len(sent)
    assert bytes(got) == sent
