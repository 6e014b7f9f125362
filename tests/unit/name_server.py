"""A name server on loopback that answers as a test wants: truly, late, falsely, truncated or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

Answerer = Callable[[dns.message.Message], bytes | None]


class NameServer(asyncio.DatagramProtocol):
    """Answers from `records`: (name, type) -> texts, with a TTL of an hour. `answer` may be replaced."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.answer: Answerer = self.truly
        self.truncate = False
        self.port = 0
        self.last: tuple[str, int] = ("", 0)
        self._transport: asyncio.DatagramTransport | None = None

    def add(self, address: str, name: str, *, back: str | None = None) -> None:
        """A name for an address, and the address (or `back`) for the name."""
        self.records[_reverse(address), "PTR"] = [name]
        kind = "AAAA" if ":" in (back or address) else "A"
        self.records[name.lower(), kind] = [back or address]

    def truly(self, query: dns.message.Message) -> bytes:
        """What the records say, NXDOMAIN for names that have none."""
        response = dns.message.make_response(query)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        for _ in range(5):
            if (name, kind) in self.records:
                response.answer.append(dns.rrset.from_text(name, 3600, "IN", kind, *self.records[name, kind]))
                return response.to_wire(max_size=65_535)
            if (name, "CNAME") not in self.records:
                break
            response.answer.append(dns.rrset.from_text(name, 3600, "IN", "CNAME", *self.records[name, "CNAME"]))
            name = self.records[name, "CNAME"][0]
        if question.name != dns.name.root and all(known != name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.last = addr
        query = dns.message.from_wire(data)
        self.asked.append((query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)))
        wire = self.answer(query)
        if self.truncate and wire is not None:
            response = dns.message.make_response(query)
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        if wire is not None and self._transport is not None:
            self._transport.sendto(wire, addr)

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question over TCP."""
        query = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
        wire = self.truly(query)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()
        writer.close()


def _reverse(address: str) -> str:
    return dns.reversename.from_address(address).to_text()


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A running name server, on UDP and TCP with the same port."""
    loop = asyncio.get_running_loop()
    made = NameServer()
    tcp = await asyncio.start_server(made.over_tcp, "127.0.0.1", 0)
    made.port = tcp.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: made, local_addr=("127.0.0.1", made.port))
    try:
        yield made
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()
