"""Letters carried on to servers that nobody here wrote: Postfix with TLS, Dovecot by LMTP, OpenSMTPD."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.generator import user

from posthouse.mail.address import Address
from posthouse.mail.envelope import Recipient
from posthouse.mail.limits import RelayLimits
from posthouse.mta.plan import Hop, Plan
from posthouse.mta.relay import Relay
from posthouse.net.system import SystemClock
from posthouse.net.tls import Trust
from posthouse.ports.queue import Status
from tests.carrying import LETTER, Lines, MemoryLetter, parcel
from tests.certificates import make
from tests.system.dovecot import USER, dovecot_lmtp
from tests.system.relays import opensmtpd, postfix_next
from tests.system.scripted import ScriptedServer, host
from tests.system.server import Endpoint, wait_for

LARGE = LETTER + b".line of a large letter\r\n" * 20_000
D, F, R = Status.DEFERRED, Status.FAILED, Status.RELAYED


def to(
    port: int, log: Lines, *, trust: Trust | None = None, tls: str = "opportunistic", protocol: str = "smtp"
) -> Relay:
    async def plan(destination: str) -> Plan:
        return Plan((Hop("localhost", port, ("127.0.0.1",)),), tls, protocol)

    return Relay(plan, log, SystemClock(), name="here.example", limits=RelayLimits(tls_here=True), trust=trust)


def letters(maildir: Path) -> list[bytes]:
    """What lies in a Maildir, bodies and our own header fields only, with CRLF."""
    found = [path.read_bytes().replace(b"\n", b"\r\n") for path in sorted(maildir.glob("new/*"))]
    return [b"From: anna@" + octets.partition(b"From: anna@")[2] for octets in found]


@pytest.mark.parametrize("tls", ["none", "verified"])
async def test_postfix(tmp_path: Path, tls: str) -> None:
    """Pipelined, small and large, more recipients than it takes at once, one of them unknown."""
    made = make(tmp_path)
    log = Lines()
    with postfix_next(made.pem, 8) as hop:
        relay = to(hop.smtp_port, log, tls=tls, trust=Trust(made.authority))
        asked = Recipient(Address.parse(user(0)), ("NEVER",), f"rfc822;{user(0)}")
        (first,) = await relay.deliver(parcel(asked, ret="HDRS", envid="id1"))
        assert (first.state, first.status, first.dsn) == (R, "2.0.0", True) and "queued as" in first.reply
        (large,) = await relay.deliver(parcel(user(1), letter=MemoryLetter(LARGE, piece=100_000)))
        assert large.state is R, large
        many = await relay.deliver(parcel(*map(user, range(8)), "nobody@x.mail"))
        assert [result.state for result in many] == [R] * 8 + [F], many
        assert (many[-1].status, many[-1].stage) == ("5.1.1", "rcpt")
        (utf8,) = await relay.deliver(parcel("д@x.mail", smtputf8=True))
        assert utf8.state is F and utf8.said
        await relay.close()
        wait_for(lambda: sum(len(letters(hop.maildir(number))) for number in range(8)) == 10, lambda: "")
        assert sorted(letters(hop.maildir(0))) == [LETTER, LETTER]
        assert sorted(letters(hop.maildir(1))) == sorted([LARGE, LETTER])
        assert all(letters(hop.maildir(number)) == [LETTER] for number in range(2, 8))
    lines = log.of("relay")
    assert [line["reused"] for line in lines] == [False, True, True, True]
    assert all(str(line["tls"]).startswith("TLSv1.3") for line in lines) is (tls == "verified")


async def test_dovecot_by_lmtp() -> None:
    log = Lines()
    with dovecot_lmtp() as (port, maildir):
        relay = to(port, log, protocol="lmtp")
        known, unknown = await relay.deliver(parcel(USER, "nobody@x.mail"))
        (large,) = await relay.deliver(parcel(USER, letter=MemoryLetter(LARGE, piece=100_000)))
        await relay.close()
        assert (known.state, large.state, unknown.state) == (R, R, F) and unknown.status == "5.1.1"
        assert sorted(letters(maildir)) == sorted([LARGE, LETTER])


async def test_opensmtpd() -> None:
    """As the next hop, and what it carries on in turn is what we gave it."""
    with ScriptedServer(host()) as end, opensmtpd(_end(end), "mx.next.example") as hop:
        relay = to(hop.port, Lines())
        (result,) = await relay.deliver(parcel("b@next.example"))
        assert result.state is R and result.said, result
        (large,) = await relay.deliver(parcel("b@next.example", letter=LARGE))
        assert large.state is R
        await relay.close()

        def arrived() -> int:
            return sum(heard.endswith((LETTER, LARGE)) for heard in end.heard)

        wait_for(lambda: arrived() == 2, lambda: repr(end.heard)[:2000])


def _end(server: ScriptedServer) -> Endpoint:
    return Endpoint("127.0.0.1", server.port)
