"""Letters to carry on, and a relay to carry them, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.limits import RelayLimits
from posthouse.mta.plan import Hop, Plan
from posthouse.mta.relay import Relay
from posthouse.net.system import SystemClock
from posthouse.ports.queue import Item, Parcel, State
from posthouse.ports.store import Letter

LETTER = (
    b"From: anna@here.example\r\nDate: Mon, 2 Mar 2026 06:15:04 +0000\r\nMessage-ID: <1@here.example>\r\n\r\n"
    b".\r\nText with a dot at its beginning\r\n..\r\n"
)


class MemoryLetter:
    """A stored letter: at hand, or in pieces that are waited for."""

    def __init__(self, octets: bytes, *, piece: int = 0, broken: Exception | None = None) -> None:
        self.prefix = b""
        self.size = len(octets)
        self.octets = octets if not piece else None
        self._octets = octets
        self._piece = piece or len(octets) or 1
        self._broken = broken

    async def chunks(self) -> AsyncIterator[bytes]:
        for place in range(0, len(self._octets), self._piece):
            yield self._octets[place : place + self._piece]
        if self._broken is not None:
            raise self._broken


def parcel(
    *recipients: str | Recipient,
    letter: Letter | bytes = LETTER,
    sender: str | None = "anna@here.example",
    **asked: Any,
) -> Parcel:
    """A letter for these recipients; `asked` are further values of its envelope."""
    everybody = [
        one if isinstance(one, Recipient) else Recipient(Address.parse(one))
        for one in recipients or ("b@next.example",)
    ]
    content: Letter = MemoryLetter(letter) if isinstance(letter, bytes) else letter
    items = [
        Item(number, "letter-1", sender or "", str(one.address), "next.example", content.size, State.DUE, 0, 0.0, 0.0)
        for number, one in enumerate(everybody, 1)
    ]
    envelope = Envelope(None if sender is None else Address.parse(sender), everybody, **asked)
    return Parcel("next.example", envelope, items, content)


@dataclass
class Lines:
    """A log that can be read."""

    lines: list[dict[str, object]] = field(default_factory=list)

    def add(self, event: str, fields: dict[str, object]) -> None:
        self.lines.append({"event": event, **fields})

    def debug(self, event: str, /, **fields: object) -> None:
        self.add(event, fields)

    info = warning = error = exception = debug

    def bind(self, **fields: object) -> Lines:
        return self

    def of(self, event: str) -> list[dict[str, object]]:
        """The lines about this."""
        return [line for line in self.lines if line["event"] == event]


SHORT = {
    "connect": 2.0,
    "greeting": 0.4,
    "hello": 0.4,
    "mail": 0.4,
    "rcpt": 0.4,
    "data": 0.4,
    "content": 0.4,
    "end_of_data": 0.4,
}


@contextlib.asynccontextmanager
async def relay(
    ports: Sequence[int], *, log: Lines | None = None, plan: dict[str, Any] | None = None, **limits: Any
) -> AsyncIterator[Relay]:
    """A relay whose every destination has these ports of this machine as its hosts, with short times."""
    hops = tuple(Hop(f"mx{number}.next.example", port, ("127.0.0.1",)) for number, port in enumerate(ports, 1))
    the_plan = Plan(hops, **(plan or {}))

    async def planned(destination: str) -> Plan:
        return the_plan

    one = Relay(
        planned,
        log or Lines(),
        SystemClock(),
        name="here.example",
        limits=RelayLimits(**(SHORT | limits)),
    )
    try:
        yield one
    finally:
        await one.close()


__all__ = ["LETTER", "Lines", "MemoryLetter", "parcel", "relay"]
