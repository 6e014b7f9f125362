"""Answers of name servers are strangers' octets: whatever they are, they are read or refused, and nothing else."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.limits import DOMAIN
from posthouse.net import dnswire
from posthouse.net.maildns import _best, _mail_host

QUERY = dns.message.make_query("example.org.", "MX", id=4711)


def answer(code: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """A rich one: an alias, MX records, addresses, an authority."""
    message = dns.message.make_response(QUERY)
    message.set_rcode(code)
    message.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "CNAME", "alias.example."))
    message.answer.append(dns.rrset.from_text("alias.example.", 60, "IN", "MX", "10 mx1.example.", "20 mx2.example."))
    message.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "ns.example. h.example. 1 2 3 4 5"))
    message.additional.append(dns.rrset.from_text("mx1.example.", 60, "IN", "A", "192.0.2.1"))
    return message.to_wire()


def read(octets: bytes) -> dnswire.Answer | None:
    """What a look-up makes of a datagram, None when it goes on waiting."""

    async def receive() -> dns.message.QueryMessage | None:
        waiting = dnswire._Datagrams(QUERY)
        waiting.datagram_received(octets, ("192.0.2.53", 53))
        return waiting.answer.result() if waiting.answer.done() else None

    message = asyncio.run(receive())
    return None if message is None else dnswire._records(message)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.integers(0, 30))
def test_a_spoilt_answer_is_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    """Catches a task that dies of an answer and a letter that waits for ever, and a record that is no record."""
    octets = bytearray(answer())
    for place, value in changes:
        octets[place % len(octets)] = value
    try:
        found = read(bytes(octets[: len(octets) - cut]))
    except dnswire.BadAnswer:
        return
    if found is None:
        return
    assert found.ttl >= 0
    for record in _best("MX", found.records):
        host = _mail_host(record)
        assert 0 <= host.preference < 65_536
        assert host.host.isascii() and host.host.isprintable() and len(host.host) <= 4 * DOMAIN


@given(st.binary(max_size=300))
def test_noise_is_passed_over(noise: bytes) -> None:
    assert read(noise) is None


def test_the_sound_answer_is_read() -> None:
    found = read(answer())
    assert found is not None and sorted(found.records) == ["10 mx1.example.", "20 mx2.example."]
    assert read(answer()[2:]) is None, "another id"
