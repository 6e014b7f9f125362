"""Names of addresses: from the hosts file, from DNS, confirmed, and never waited for longer than a second."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.name
import dns.rcode
import pytest

from posthouse.config.schema import DnsSettings
from posthouse.net import dns as module
from posthouse.net import nameservers
from posthouse.net.dns import DnsResolver
from posthouse.net.sysfiles import machine_name, read_hosts, read_name_servers
from posthouse.ports.dns import Resolver
from tests.unit.name_server import NameServer, name_server

ADDRESS = "192.0.2.7"  # for documentation: private to us, so it is asked only of a configured server
PUBLIC = "8.8.4.4"


class MovedClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as made:
        yield made


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost loop # x\n::1 ip6-localhost\n10.0.0.5 printer.lan printer\n")
    (tmp_path / "resolv.conf").write_text("")
    return tmp_path


def make(folder: Path, clock: MovedClock, *servers: str, **settings: float) -> DnsResolver:
    return DnsResolver(
        DnsSettings(servers=servers, **{"timeout": 0.5, **settings}),  # type: ignore[arg-type] # a mixed dict
        hosts=folder / "hosts",
        resolv_conf=folder / "resolv.conf",
        clock=clock,
    )


@pytest.fixture
def resolver(server: NameServer, folder: Path, clock: MovedClock) -> DnsResolver:
    return make(folder, clock, f"127.0.0.1:{server.port}")


def test_it_is_the_port(folder: Path, clock: MovedClock) -> None:
    port: Resolver = make(folder, clock)
    assert port


async def test_the_hosts_file_comes_first_and_starts_nothing(
    server: NameServer, resolver: DnsResolver, folder: Path
) -> None:
    for address, name in {
        "127.0.0.1": "localhost",
        "::1": "ip6-localhost",
        "10.0.0.5": "printer.lan",
        "::ffff:10.0.0.5": "printer.lan",
    }.items():
        assert await resolver.reverse(address).name() == name
    assert not server.asked
    assert not resolver.servers.tasks


async def test_a_changed_hosts_file_is_read_again(resolver: DnsResolver, folder: Path, clock: MovedClock) -> None:
    assert await resolver.reverse("10.0.0.5").name() == "printer.lan"
    (folder / "hosts").write_text("10.0.0.5 scanner.lan\n")
    clock.time += 6
    assert await resolver.reverse("10.0.0.5").name() == "scanner.lan"
    (folder / "hosts").unlink()
    clock.time += 6
    assert await resolver.reverse("10.0.0.5").name() == "scanner.lan"


async def test_private_addresses_are_not_asked_of_the_systems_servers(
    server: NameServer, folder: Path, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch names of the local network leaking to a name server elsewhere."""
    monkeypatch.setattr(nameservers, "read_name_servers", lambda text: ("127.0.0.1:" + str(server.port),))
    resolver = make(folder, clock)
    server.add(PUBLIC, "dns.example.")
    for address in ("127.0.0.2", "10.0.0.6", "192.168.1.1", "fe80::1%eth0", "fd00::1", ADDRESS, "169.254.1.1"):
        assert await resolver.reverse(address).name() is None
    assert not server.asked
    assert await resolver.reverse(PUBLIC).name() == "dns.example"


async def test_what_is_no_address_has_no_name(resolver: DnsResolver) -> None:
    for text in ("", "localhost", "1.2.3", "x" * 10_000):
        assert await resolver.reverse(text).name() is None
    assert not resolver._known


async def test_a_name_that_leads_back(server: NameServer, resolver: DnsResolver) -> None:
    server.add(ADDRESS, "Mail.Example.ORG.")
    server.add("2001:db8::7", "six.example.org.")
    assert await resolver.reverse(ADDRESS).name() == "mail.example.org"
    assert await resolver.reverse("2001:db8::7").name() == "six.example.org"
    assert not resolver._running


async def test_a_name_that_does_not_lead_back_is_none(server: NameServer, resolver: DnsResolver) -> None:
    """Would catch a sender who names his address after a bank."""
    server.add(ADDRESS, "mail.bank.example.", back="192.0.2.99")
    assert await resolver.reverse(ADDRESS).name() is None


@pytest.mark.parametrize(
    "name", ["a\\032b.example.", "x\\013\\010y.example.", "[192.0.2.7].", "a_b.example.", "*.example."]
)
async def test_names_that_are_no_host_names(server: NameServer, resolver: DnsResolver, name: str) -> None:
    """Would catch a line break in a Received field."""
    server.add(ADDRESS, name)
    assert await resolver.reverse(ADDRESS).name() is None


async def test_the_one_of_three_names_that_leads_back(server: NameServer, resolver: DnsResolver) -> None:
    """The name server shuffles its answers, as name servers do: at most three names are tried, in any order."""
    server.add(ADDRESS, "c.example.")
    server.records["7.2.0.192.in-addr.arpa.", "PTR"] = ["a.example.", "b.example.", "c.example."]
    assert await resolver.reverse(ADDRESS).name() == "c.example"
    server.records["7.2.0.192.in-addr.arpa.", "PTR"] = [f"{n}.example." for n in range(50)]
    resolver._known.clear()
    server.asked.clear()
    assert await resolver.reverse(ADDRESS).name() is None
    assert len(server.asked) == 4


async def test_a_delegated_reverse_zone(server: NameServer, resolver: DnsResolver) -> None:
    """RFC 2317 §4: the PTR lies behind a CNAME."""
    server.add(ADDRESS, "mail.example.")
    server.records["7.0-63.2.0.192.in-addr.arpa.", "PTR"] = server.records.pop(("7.2.0.192.in-addr.arpa.", "PTR"))
    server.records["7.2.0.192.in-addr.arpa.", "CNAME"] = ["7.0-63.2.0.192.in-addr.arpa."]
    assert await resolver.reverse(ADDRESS).name() == "mail.example"


async def test_a_circle_of_names_ends(server: NameServer, resolver: DnsResolver) -> None:
    server.records["7.2.0.192.in-addr.arpa.", "CNAME"] = ["x.example."]
    server.records["x.example.", "CNAME"] = ["7.2.0.192.in-addr.arpa."]
    assert await resolver.reverse(ADDRESS).name() is None


async def test_answers_are_remembered_for_their_time(
    server: NameServer, resolver: DnsResolver, clock: MovedClock
) -> None:
    server.add(ADDRESS, "mail.example.")
    for _ in range(3):
        assert await resolver.reverse(ADDRESS).name() == "mail.example"
        assert await resolver.reverse("192.0.2.8").name() is None
    assert len(server.asked) == 3
    clock.time += 301
    assert await resolver.reverse("192.0.2.8").name() is None
    assert await resolver.reverse(ADDRESS).name() == "mail.example"
    assert len(server.asked) == 4
    clock.time += 3600
    assert await resolver.reverse(ADDRESS).name() == "mail.example"
    assert len(server.asked) == 6


async def test_what_is_remembered_is_bounded(server: NameServer, folder: Path, clock: MovedClock) -> None:
    resolver = make(folder, clock, f"127.0.0.1:{server.port}", cache=10)
    for number in range(30):
        await resolver.reverse(f"192.0.2.{number}").name()
    assert len(resolver._known) == 10


async def test_one_look_up_for_many_connections(server: NameServer, resolver: DnsResolver) -> None:
    server.add(ADDRESS, "mail.example.")
    reverses = [resolver.reverse(ADDRESS) for _ in range(20)]
    assert [await reverse.name() for reverse in reverses] == ["mail.example"] * 20
    assert len(server.asked) == 2


async def test_a_session_that_ends_takes_no_look_up_along(server: NameServer, resolver: DnsResolver) -> None:
    server.add(ADDRESS, "mail.example.")
    reverse = resolver.reverse(ADDRESS)
    waiting = asyncio.create_task(reverse.name())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await reverse.name() == "mail.example"


async def test_look_ups_under_way_are_bounded(server: NameServer, resolver: DnsResolver) -> None:
    server.answer = lambda query: None
    for number in range(module.MOST_AT_ONCE + 50):
        resolver.reverse(f"198.51.{100 + number // 250}.{number % 250}")
    assert len(resolver._running) == module.MOST_AT_ONCE
    resolver.close()
    await asyncio.gather(*resolver.servers.tasks, return_exceptions=True)


async def test_an_answer_over_tcp(server: NameServer, resolver: DnsResolver) -> None:
    server.add(ADDRESS, "mail.example.")
    server.truncate = True
    assert await resolver.reverse(ADDRESS).name() == "mail.example"


async def test_a_silent_server_costs_the_time_out_once(server: NameServer, folder: Path, clock: MovedClock) -> None:
    """Catalogue X10: would catch letters that wait for a dead name server again and again."""
    resolver = make(folder, clock, f"127.0.0.1:{server.port}", timeout=0.2)
    server.answer = lambda query: None
    begin = time.monotonic()
    assert await resolver.reverse(ADDRESS).name() is None
    assert 0.15 < time.monotonic() - begin < 5
    await asyncio.gather(*resolver.servers.tasks)  # the question whether it lives at all
    before = len(server.asked)
    assert await resolver.reverse("192.0.2.8").name() is None
    assert len(server.asked) == before
    server.answer = server.truly
    server.add("192.0.2.9", "mail.example.")
    clock.time += 59
    assert await resolver.reverse("192.0.2.9").name() is None
    clock.time += 2
    assert await resolver.reverse("192.0.2.9").name() == "mail.example"


async def test_a_slow_zone_does_not_make_its_server_dead(server: NameServer, folder: Path, clock: MovedClock) -> None:
    """Would catch that one stranger's dead zone takes the names from everybody for a minute."""
    resolver = make(folder, clock, f"127.0.0.1:{server.port}", timeout=0.5)
    server.answer = lambda query: None if "7.2.0.192" in query.question[0].to_text() else server.truly(query)
    server.add("192.0.2.8", "mail.example.")
    assert await resolver.reverse(ADDRESS).name() is None
    await asyncio.gather(*resolver.servers.tasks)
    assert await resolver.reverse("192.0.2.8").name() == "mail.example"


async def test_a_slow_second_answer_ends_with_the_whole_time(
    server: NameServer, folder: Path, clock: MovedClock
) -> None:
    resolver = make(folder, clock, f"127.0.0.1:{server.port}", timeout=0.2)
    server.add(ADDRESS, "mail.example.")
    server.answer = lambda query: None if query.question[0].name.to_text() == "mail.example." else server.truly(query)
    begin = time.monotonic()
    assert await resolver.reverse(ADDRESS).name() is None
    assert time.monotonic() - begin < 5
    resolver.close()
    await asyncio.gather(*resolver.servers.tasks, return_exceptions=True)


async def test_the_next_server_is_asked(server: NameServer, folder: Path, clock: MovedClock) -> None:
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.bind(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    resolver = make(folder, clock, f"127.0.0.1:{port}", f"127.0.0.1:{server.port}")
    server.add(ADDRESS, "mail.example.")
    assert await resolver.reverse(ADDRESS).name() == "mail.example"
    assert [known.dead_until > clock.time for known in resolver.servers._servers.values()] == [True, False]


async def test_a_server_that_refuses_or_fails(server: NameServer, resolver: DnsResolver) -> None:
    def refuse(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response.to_wire()

    server.answer = refuse
    assert await resolver.reverse(ADDRESS).name() is None
    assert not resolver.servers.tasks  # it is no dead server, and nobody asks whether it is


async def test_garbage_and_answers_to_other_questions(server: NameServer, resolver: DnsResolver) -> None:
    """Would catch a forged answer, and one that ends the wait for the true one."""
    server.add(ADDRESS, "mail.example.")

    def lie(query: dns.message.Message) -> bytes:
        assert server._transport is not None
        forged = dns.message.make_query("evil.example.", "PTR")
        forged.id = query.id
        for wire in (b"", b"\xff" * 600, dns.message.make_response(forged).to_wire()):
            server._transport.sendto(wire, server.last)
        wrong = dns.message.from_wire(server.truly(query))
        wrong.id = query.id ^ 1
        server._transport.sendto(wrong.to_wire(), server.last)
        return server.truly(query)

    server.answer = lie
    assert await resolver.reverse(ADDRESS).name() == "mail.example"


async def test_closing_ends_what_is_under_way(server: NameServer, resolver: DnsResolver) -> None:
    server.answer = lambda query: None
    reverse = resolver.reverse(ADDRESS)
    waiting = asyncio.create_task(reverse.name())
    await asyncio.sleep(0.05)
    resolver.close()
    assert await waiting is None
    assert await resolver.reverse("192.0.2.8").name() is None
    await asyncio.gather(*resolver.servers.tasks, return_exceptions=True)
    assert not resolver.servers.tasks


async def test_a_known_name_costs_next_to_nothing(resolver: DnsResolver) -> None:
    """Every accepted letter asks; the bound is 20 times what it takes here."""
    await resolver.reverse("127.0.0.1").name()
    begin = time.thread_time()
    for _ in range(10_000):
        await resolver.reverse("127.0.0.1").name()
    assert (time.thread_time() - begin) / 10_000 < 20e-6


def test_reading_hosts() -> None:
    text = "127.0.0.1 localhost\n127.0.0.1 other\n# c\n\nnonsense\n10.0.0.1\n10.0.0.2 bad_name good.name\n"
    text += "fe80::1%lo0 link\n"
    assert {str(ip): name for ip, name in read_hosts(text).items()} == {
        "127.0.0.1": "localhost",
        "10.0.0.2": "good.name",
        "fe80::1": "link",
    }


def test_reading_resolv_conf() -> None:
    text = "# x\ndomain lan\nnameserver 192.0.2.53\nnameserver  2001:db8::53 # y\nnameserver here\nnameserver\n"
    assert read_name_servers(text) == ("192.0.2.53", "2001:db8::53")


@pytest.mark.parametrize(
    ("name", "hosts", "found"),
    [
        ("pc", "127.0.1.1 pc.example.org pc\n", "pc.example.org"),
        ("pc", "127.0.0.1 localhost pc\n", "pc"),
        ("PC.example.org", "", "pc.example.org"),
        ("my_pc", "", "localhost"),
    ],
)
def test_the_name_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hosts: str, found: str
) -> None:
    (tmp_path / "hosts").write_text(hosts)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert machine_name(tmp_path / "hosts") == found
    assert machine_name(tmp_path / "none") == (found if "." in name or "_" in name else "pc")
