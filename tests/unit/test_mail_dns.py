"""Where mail goes, by DNS: what is told of every kind of answer, and that nothing costs without bound."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from posthouse.config.schema import DnsSettings
from posthouse.net import maildns, nameservers
from posthouse.net.maildns import MailDns
from posthouse.net.nameservers import NameServers
from posthouse.ports.dns import DnsFailed, MailHost, MailResolver, NoRecords, NoSuchDomain
from tests.unit.name_server import NameServer, name_server
from tests.unit.test_dns import MovedClock


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as made:
        made.records["example.org.", "MX"] = ["20 MX2.example.org.", "10 mx1.example.org."]
        made.records["mx1.example.org.", "A"] = ["192.0.2.1", "192.0.2.2"]
        made.records["mx1.example.org.", "AAAA"] = ["2001:db8::1"]
        made.records["mx2.example.org.", "A"] = ["192.0.2.3"]
        yield made


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


def make(folder: Path, clock: MovedClock, *servers: str, **settings: float) -> MailDns:
    values = DnsSettings(servers=servers, **{"mail_timeout": 2.0, **settings})  # type: ignore[arg-type] # a mixed dict
    (folder / "hosts").write_text("127.0.0.1 localhost\n10.0.0.9 relay.lan relay\nfd00::9 relay.lan\n")
    asked = NameServers(values, resolv_conf=folder / "none", clock=clock)
    return MailDns(asked, values, hosts=folder / "hosts", clock=clock)


@pytest.fixture
def resolver(server: NameServer, tmp_path: Path, clock: MovedClock) -> MailDns:
    return make(tmp_path, clock, f"127.0.0.1:{server.port}")


def failing(code: dns.rcode.Rcode) -> object:
    def answer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(code)
        return response.to_wire()

    return answer


async def test_it_is_the_port_and_sorts_by_preference(resolver: MailDns) -> None:
    port: MailResolver = resolver
    assert await port.mail_hosts("Example.ORG") == [MailHost(10, "mx1.example.org"), MailHost(20, "mx2.example.org")]
    first, *others = await port.addresses("mx1.example.org")
    assert first == "2001:db8::1"
    assert sorted(others) == ["192.0.2.1", "192.0.2.2"], "in the order of the answer, which this server shuffles"
    assert await port.addresses("mx2.example.org") == ["192.0.2.3"]


async def test_no_such_domain_and_no_records_are_told_apart(server: NameServer, resolver: MailDns) -> None:
    """Catches a bounce of mail for a domain that has an address and no MX record (RFC 5321 §5.1)."""
    with pytest.raises(NoSuchDomain, match=r"gone\.example does not exist"):
        await resolver.mail_hosts("gone.example")
    with pytest.raises(NoRecords, match="no MX record"):
        await resolver.mail_hosts("mx1.example.org")
    with pytest.raises(NoSuchDomain):
        await resolver.addresses("gone.example")
    with pytest.raises(NoRecords):
        await resolver.addresses("example.org")


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP])
async def test_a_failure_is_no_answer(server: NameServer, resolver: MailDns, code: dns.rcode.Rcode) -> None:
    """Catches mail that comes back because a name server has trouble."""
    server.answer = failing(code)  # type: ignore[assignment]
    for asked in (resolver.mail_hosts, resolver.addresses):
        with pytest.raises(DnsFailed, match=dns.rcode.to_text(code)):
            await asked("example.org")
    assert len(server.asked) == 3, "MX, AAAA and A: a server that failed is not asked again at once"


async def test_a_referral_is_no_answer(server: NameServer, resolver: MailDns) -> None:
    """A name server that only says who would know: taken for "no records", mail would come back."""

    def refer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.authority.append(dns.rrset.from_text("org.", 3600, "IN", "NS", "a.gtld.example."))
        return response.to_wire()

    server.answer = refer
    with pytest.raises(DnsFailed):
        await resolver.mail_hosts("example.org")


async def test_one_kind_of_address_that_fails_does_not_hide_the_other(server: NameServer, resolver: MailDns) -> None:
    fails = failing(dns.rcode.SERVFAIL)
    server.answer = lambda query: (
        fails(query) if query.question[0].rdtype.name == "AAAA" else server.truly(query)  # type: ignore[operator]
    )
    assert await resolver.addresses("mx2.example.org") == ["192.0.2.3"]
    with pytest.raises(DnsFailed):
        await resolver.addresses("example.org")  # no A record, and nobody knows about AAAA


async def test_aliases_are_followed(server: NameServer, resolver: MailDns) -> None:
    server.records["alias.example.", "CNAME"] = ["example.org."]
    server.records["mx.example.", "CNAME"] = ["mx2.example.org."]
    assert [one.host for one in await resolver.mail_hosts("alias.example")] == ["mx1.example.org", "mx2.example.org"]
    assert await resolver.addresses("mx.example") == ["192.0.2.3"]


async def test_an_alias_that_the_server_does_not_follow(server: NameServer, resolver: MailDns) -> None:
    """An authoritative server of another zone tells the alias alone: the rest has to be asked for."""
    server.records["alias.example.", "CNAME"] = ["example.org."]

    def only_the_alias(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        if query.question[0].name.to_text() != "alias.example.":
            return server.truly(query)
        response.answer.append(dns.rrset.from_text("alias.example.", 60, "IN", "CNAME", "example.org."))
        return response.to_wire()

    server.answer = only_the_alias
    assert len(await resolver.mail_hosts("alias.example")) == 2
    server.records["alias.example.", "CNAME"] = ["gone.example."]
    assert [name for name, _ in server.asked] == ["alias.example.", "example.org."]


async def test_an_alias_of_nothing(server: NameServer, resolver: MailDns) -> None:
    server.records["alias.example.", "CNAME"] = ["gone.example."]

    def answer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        if query.question[0].name.to_text() == "alias.example.":
            response.answer.append(dns.rrset.from_text("alias.example.", 60, "IN", "CNAME", "gone.example."))
        response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()

    server.answer = answer
    with pytest.raises(NoSuchDomain):
        await resolver.mail_hosts("alias.example")


async def test_a_circle_of_aliases_ends(server: NameServer, resolver: MailDns) -> None:
    def answer(query: dns.message.Message) -> bytes:
        name = query.question[0].name.to_text()
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", f"x{name}"))
        return response.to_wire()

    server.answer = answer
    with pytest.raises(DnsFailed, match="circle"):
        await resolver.mail_hosts("endless.example")
    assert len(server.asked) == maildns.MOST_ALIASES
    server.answer = server.truly
    server.records["a.example.", "CNAME"] = ["b.example."]
    server.records["b.example.", "CNAME"] = ["a.example."]
    with pytest.raises(DnsFailed, match="circle"):
        await resolver.mail_hosts("a.example")


async def test_the_null_mx(server: NameServer, resolver: MailDns) -> None:
    """RFC 7505 §3."""
    server.records["nomail.example.", "MX"] = ["0 ."]
    assert await resolver.mail_hosts("nomail.example") == [MailHost(0, "")]


async def test_names_that_dns_cannot_hold_are_not_asked_for(server: NameServer, resolver: MailDns) -> None:
    for name in ("x." * 126 + "org", "a" * 64 + ".org", "a..b", "", "a b.org", "x.invalid", "Hidden.ONION", "a.b\n"):
        with pytest.raises(NoSuchDomain):
            await resolver.mail_hosts(name)
    assert not server.asked


async def test_the_hosts_file_comes_first(server: NameServer, resolver: MailDns) -> None:
    assert await resolver.addresses("Relay.LAN") == ("10.0.0.9", "fd00::9")
    assert await resolver.addresses("relay") == ("10.0.0.9",)
    assert await resolver.addresses("sub.localhost") == ["::1", "127.0.0.1"]
    assert not server.asked


async def test_answers_are_remembered_for_their_time(server: NameServer, resolver: MailDns, clock: MovedClock) -> None:
    for _ in range(3):
        await resolver.mail_hosts("example.org")
        with pytest.raises(NoSuchDomain):
            await resolver.mail_hosts("gone.example")
    assert len(server.asked) == 2
    clock.time += 301
    await resolver.mail_hosts("example.org")
    with pytest.raises(NoSuchDomain):
        await resolver.mail_hosts("gone.example")
    assert len(server.asked) == 3
    clock.time += 3600
    await resolver.mail_hosts("example.org")
    assert len(server.asked) == 4


async def test_a_failure_is_remembered_for_a_moment(server: NameServer, resolver: MailDns, clock: MovedClock) -> None:
    """Catches a thousand letters for a broken domain that ask a thousand times, and one that stays broken."""
    server.answer = failing(dns.rcode.SERVFAIL)  # type: ignore[assignment]
    for _ in range(20):
        with pytest.raises(DnsFailed):
            await resolver.mail_hosts("example.org")
    assert len(server.asked) == 1
    server.answer = server.truly
    clock.time += 6
    assert len(await resolver.mail_hosts("example.org")) == 2


async def test_what_is_remembered_is_bounded(server: NameServer, tmp_path: Path, clock: MovedClock) -> None:
    resolver = make(tmp_path, clock, f"127.0.0.1:{server.port}", mail_cache=10)
    server.records["many.example.", "MX"] = [f"{n} mx{n}.example." for n in range(200)]
    hosts = await resolver.mail_hosts("many.example")
    assert [one.preference for one in hosts] == list(range(maildns.MOST_RECORDS)), "the best of them"
    for number in range(30):
        with pytest.raises(NoSuchDomain):
            await resolver.mail_hosts(f"d{number}.example")
    assert len(resolver._known) == 10


async def test_one_question_for_many_letters(server: NameServer, resolver: MailDns) -> None:
    found = await asyncio.gather(*(resolver.mail_hosts("example.org") for _ in range(50)))
    assert {len(one) for one in found} == {2}
    assert len(server.asked) == 1


async def test_a_letter_that_is_cancelled_takes_no_look_up_along(server: NameServer, resolver: MailDns) -> None:
    waiting = asyncio.create_task(resolver.mail_hosts("example.org"))
    other = asyncio.create_task(resolver.mail_hosts("example.org"))
    await asyncio.sleep(0)
    waiting.cancel()
    assert len(await other) == 2


async def test_questions_under_way_are_bounded(server: NameServer, resolver: MailDns) -> None:
    full = asyncio.Event()

    def answer(query: dns.message.Message) -> None:
        if len(server.asked) == maildns.MOST_AT_ONCE:
            full.set()

    server.answer = answer
    asked = [
        asyncio.create_task(resolver.mail_hosts(f"d{number}.example")) for number in range(maildns.MOST_AT_ONCE + 20)
    ]
    async with asyncio.timeout(10):
        await full.wait()
    assert resolver._turns.locked()
    assert len(server.asked) == maildns.MOST_AT_ONCE
    resolver._servers.close()
    assert {type(one) for one in await asyncio.gather(*asked, return_exceptions=True)} == {DnsFailed}


async def test_a_silent_server_costs_the_time_of_the_setting(
    server: NameServer, tmp_path: Path, clock: MovedClock
) -> None:
    """Also for those who wait for their turn."""
    resolver = make(tmp_path, clock, f"127.0.0.1:{server.port}", mail_timeout=0.3)
    server.answer = lambda query: None
    begin = time.monotonic()
    asked = [resolver.mail_hosts(f"d{number}.example") for number in range(2 * maildns.MOST_AT_ONCE)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {str(one).partition(": ")[2] for one in found} == {"no answer within 0.3 s"}
    assert 0.25 < time.monotonic() - begin < 5
    resolver._servers.close()
    await asyncio.gather(*resolver._servers.tasks, return_exceptions=True)


async def test_a_lost_datagram_is_sent_again(
    server: NameServer, resolver: MailDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a letter that waits a minute because one datagram of a busy network was lost."""
    monkeypatch.setattr(nameservers, "FIRST_PATIENCE", 0.1)
    lost = iter([True, True])
    server.answer = lambda query: None if next(lost, False) else server.truly(query)
    assert len(await resolver.mail_hosts("example.org")) == 2


async def test_servers_taken_for_dead_are_asked_all_the_same(server: NameServer, resolver: MailDns) -> None:
    """A letter cannot do without an answer, as a reverse name can."""
    [known] = resolver._servers.alive()
    known.dead_until = 1e9
    assert resolver._servers.alive() == []
    assert len(await resolver.mail_hosts("example.org")) == 2


async def test_an_answer_over_tcp(server: NameServer, resolver: MailDns) -> None:
    server.truncate = True
    assert len(await resolver.mail_hosts("example.org")) == 2


async def test_without_any_name_server(tmp_path: Path, clock: MovedClock) -> None:
    with pytest.raises(DnsFailed, match="no name server is known"):
        await make(tmp_path, clock).mail_hosts("example.org")


async def test_a_server_that_stops_breaks_look_ups_off(server: NameServer, resolver: MailDns) -> None:
    server.answer = lambda query: None
    waiting = asyncio.create_task(resolver.mail_hosts("example.org"))
    await asyncio.sleep(0.05)
    resolver._servers.close()
    with pytest.raises(DnsFailed, match="being stopped"):
        await waiting
    with pytest.raises(DnsFailed, match="being stopped"):
        await resolver.mail_hosts("other.example")


def test_who_asks_nothing_loads_no_library() -> None:
    """Catches a server on loopback that carries the DNS library around."""
    code = "import posthouse.net.maildns, posthouse.app, sys; sys.exit('dns.message' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
