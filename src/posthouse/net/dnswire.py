"""One question to one name server. The only room that knows the DNS library, loaded when it is first needed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename

PAYLOAD: Final = 1232  # octets of a UDP answer (RFC 9715 §3)
ANSWER_LIMIT: Final = 65_535  # octets of a TCP answer (RFC 1035 §4.2.2)


class BadAnswer(Exception):
    """The name server answered, but it failed, refused, or its answer cannot be read."""


@dataclass(slots=True)
class Answer:
    """The records of a name as texts, none where there are none, and for how many seconds they hold. `exists` tells
    whether there is such a name at all. Where a chain of aliases leads on to a name about which the answer says
    nothing, `alias` is that name; where it leads nowhere, `circle` is set."""

    records: list[str]
    ttl: float
    exists: bool = True
    alias: str = ""
    circle: bool = False


async def pointers(server: tuple[str, int], ip: str) -> Answer:
    """The names of an IP address. Raises OSError when the server cannot be reached, BadAnswer; waits without end."""
    return await _ask(server, dns.reversename.from_address(ip), dns.rdatatype.PTR)


async def addresses(server: tuple[str, int], name: str, version: int) -> Answer:
    """The IP addresses of a host name, of IP version 4 or 6."""
    kind = dns.rdatatype.A if version == 4 else dns.rdatatype.AAAA
    return await _ask(server, dns.name.from_text(name), kind)


async def mail_hosts(server: tuple[str, int], name: str) -> Answer:
    """The MX records of a domain: preference, blank, host name."""
    return await _ask(server, dns.name.from_text(name), dns.rdatatype.MX)


async def records(server: tuple[str, int], name: str, kind: str) -> Answer:
    """The records of a kind, such as TXT; those of an alias itself with CNAME."""
    return await _ask(server, dns.name.from_text(name), dns.rdatatype.from_text(kind))


async def alive(server: tuple[str, int]) -> None:
    """Returns once the server answers what every name server knows: where the root is."""
    await _over_udp(server, dns.message.make_query(dns.name.root, dns.rdatatype.NS))


async def _ask(server: tuple[str, int], name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer:
    query = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
    try:
        message = await _over_udp(server, query)
        if message.flags & dns.flags.TC:
            message = await _over_tcp(server, query)
    except (dns.exception.DNSException, EOFError, ValueError) as error:
        raise BadAnswer(str(error)) from error
    if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise BadAnswer(dns.rcode.to_text(message.rcode()))
    return _records(message)


def _records(message: dns.message.QueryMessage) -> Answer:
    """What an answer holds, at the end of its chain of CNAMEs (RFC 1034 §3.6.2; RFC 2317 §4 makes chains for PTR)."""
    exists = message.rcode() != dns.rcode.NXDOMAIN
    try:
        chain = message.resolve_chaining()
    except dns.exception.DNSException:
        return Answer([], 0.0, circle=True)
    ttl = float(chain.minimum_ttl)
    if chain.answer is not None:
        return Answer([record.to_text() for record in chain.answer], ttl)
    if exists and not chain.cnames and _is_referral(message):
        raise BadAnswer("it does not look up names for us")
    alias = chain.canonical_name.to_text() if exists and chain.cnames and not _tells_nothing(message) else ""
    return Answer([], ttl, exists, alias)


def _is_referral(message: dns.message.QueryMessage) -> bool:
    """Whether the server only names others who would know (RFC 2308 §2.2: no SOA among them)."""
    kinds = {rrset.rdtype for rrset in message.authority}
    return dns.rdatatype.NS in kinds and dns.rdatatype.SOA not in kinds


def _tells_nothing(message: dns.message.QueryMessage) -> bool:
    """Whether the server vouches that the last name of a chain has no such record (RFC 2308 §2.2)."""
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)


class _Datagrams(asyncio.DatagramProtocol):
    """Waits for the one answer that fits the question; others are not looked at twice."""

    def __init__(self, query: dns.message.QueryMessage) -> None:
        self._query = query
        self.answer: asyncio.Future[dns.message.QueryMessage] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """An answer, or something that a stranger would like us to take for one."""
        try:
            message = dns.message.from_wire(data)
        except (dns.exception.DNSException, ValueError):  # the server, or a stranger: the true answer may follow
            return
        if not isinstance(message, dns.message.QueryMessage) or not self._query.is_response(message):
            return
        if not self.answer.done():
            self.answer.set_result(message)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _over_udp(address: tuple[str, int], query: dns.message.QueryMessage) -> dns.message.QueryMessage:
    """Asks over a connected socket of its own, whose port is chosen by chance (RFC 5452 §9.2)."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Datagrams(query), remote_addr=address)
    try:
        transport.sendto(query.to_wire())
        return await protocol.answer
    finally:
        transport.close()


async def _over_tcp(address: tuple[str, int], query: dns.message.QueryMessage) -> dns.message.QueryMessage:
    reader, writer = await asyncio.open_connection(*address, limit=ANSWER_LIMIT)
    try:
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        size = int.from_bytes(await reader.readexactly(2), "big")
        message = dns.message.from_wire(await reader.readexactly(size))
    finally:
        writer.close()
    if not isinstance(message, dns.message.QueryMessage) or not query.is_response(message):
        raise BadAnswer("an answer to another question")
    return message


COMPLETE: Final = True  # the last line: whoever finds it finds all of the above
