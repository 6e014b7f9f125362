"""Where mail goes, asked of a name server nobody here wrote: every kind of zone, sound and broken."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from posthouse.config.schema import DnsSettings
from posthouse.mta.plan import NoRoute
from posthouse.mta.routing import Router
from posthouse.net import nameservers
from posthouse.net.maildns import MailDns
from posthouse.net.nameservers import NameServers
from posthouse.net.own import OwnAddresses
from posthouse.net.system import SystemRandom
from posthouse.ports.dns import DnsFailed, DnsProblem, MailHost, NoRecords, NoSuchDomain
from posthouse.ports.queue import Status
from tests.system.nsd import nsd
from tests.system.server import prepare_data, run_posthouse

ZONES = {
    "example.org": """
@        MX 20 mx2
@        MX 10 mx1
@        MX 10 mx3
mx1      A 192.0.2.1
mx1      AAAA 2001:db8::1
mx2      A 192.0.2.2
mx3      A 192.0.2.3
implicit A 192.0.2.4
implicit AAAA 2001:db8::4
nomail   MX 0 .
nomail   A 192.0.2.5
empty    TXT "neither MX nor address"
badmx    MX 10 gone
badmx    MX 20 empty
halfmx   MX 5 mx.broken.example.
halfmx   MX 20 mx2
slowmx   MX 5 mx.broken.example.
loopback MX 5 inward
loopback MX 10 mx2
inward   A 127.0.0.1
onlyin   MX 5 inward
ourmx    MX 5 mx1
ourmx    MX 10 mail.us.example.
ourmx    MX 20 mx2
oursonly MX 10 mail.us.example.
aliasmx  MX 10 aliasedhost
aliasedhost CNAME mx2
alias    CNAME @
alias2   CNAME alias
alias3   CNAME alias2
far      CNAME example.net.
lost     CNAME gone
circle   CNAME circle2
circle2  CNAME circle
self     CNAME self
*.wild   MX 10 mx1
under    MX 10 _host._x
_host._x A 192.0.2.6
ipmx     MX 10 192.0.2.1.
""",
    "example.net": "@ MX 10 mail\nmail A 192.0.2.20\n",
    "us.example": "mail A 198.51.100.1\n",
    # 60 records with long names: over 1232 octets, so the answer is truncated and asked for again over TCP
    "big.example": "".join(f"@ MX {n} mail-exchanger-with-a-long-name-{n:02}\n" for n in range(60))
    + "".join(f"mail-exchanger-with-a-long-name-{n:02} A 192.0.2.{n + 1}\n" for n in range(60)),
    "broken.example": None,
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with nsd(ZONES) as port:
        yield port


@pytest.fixture
def resolver(port: int, tmp_path: Path) -> MailDns:
    return make(tmp_path, f"127.0.0.1:{port}")


def make(folder: Path, *servers: str, timeout: float = 10.0) -> MailDns:
    settings = DnsSettings(servers=servers, mail_timeout=timeout)
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    return MailDns(NameServers(settings), settings, hosts=folder / "hosts")


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.org", [(10, "mx1.example.org"), (10, "mx3.example.org"), (20, "mx2.example.org")]),
        ("EXAMPLE.org", [(10, "mx1.example.org"), (10, "mx3.example.org"), (20, "mx2.example.org")]),
        ("nomail.example.org", [(0, "")]),
        ("x.y.wild.example.org", [(10, "mx1.example.org")]),
        ("alias3.example.org", [(10, "mx1.example.org"), (10, "mx3.example.org"), (20, "mx2.example.org")]),
        ("far.example.org", [(10, "mail.example.net")]),  # into another zone
        ("under.example.org", [(10, "_host._x.example.org")]),
        ("implicit.example.org", NoRecords),
        ("empty.example.org", NoRecords),
        ("gone.example.org", NoSuchDomain),
        ("lost.example.org", NoSuchDomain),
        ("circle.example.org", DnsFailed),
        ("self.example.org", DnsFailed),
        ("www.broken.example", DnsFailed),  # SERVFAIL
        ("elsewhere.example", DnsFailed),  # REFUSED: a lame server
    ],
)
async def test_mail_hosts(resolver: MailDns, domain: str, expected: list[tuple[int, str]] | type[DnsProblem]) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected):
            await resolver.mail_hosts(domain)
        return
    found = await resolver.mail_hosts(domain)
    assert sorted((one.preference, one.host) for one in found) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("mx1.example.org", ["192.0.2.1", "2001:db8::1"]),
        ("aliasedhost.example.org", ["192.0.2.2"]),
        ("empty.example.org", NoRecords),
        ("gone.example.org", NoSuchDomain),
        ("circle.example.org", DnsFailed),
        ("mx.broken.example", DnsFailed),
        ("localhost", ["127.0.0.1"]),
    ],
)
async def test_addresses(resolver: MailDns, host: str, expected: list[str] | type[DnsProblem]) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected):
            await resolver.addresses(host)
        return
    assert sorted(await resolver.addresses(host)) == expected


async def test_a_truncated_answer_comes_over_tcp(resolver: MailDns) -> None:
    found = await resolver.mail_hosts("big.example")
    assert [one.preference for one in found] == list(range(50)), "the best fifty of sixty"
    assert found[0] == MailHost(0, "mail-exchanger-with-a-long-name-00.big.example")


async def test_a_silent_name_server_is_passed_over(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches letters that wait for the first of two name servers."""
    monkeypatch.setattr(nameservers, "FIRST_PATIENCE", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        both = make(tmp_path, address, f"127.0.0.1:{port}")
        assert len(await both.mail_hosts("example.org")) == 3
        alone = make(tmp_path, address, timeout=0.5)
        with pytest.raises(DnsFailed, match=r"no answer within 0\.5 s"):
            await alone.mail_hosts("example.org")
        for resolver in (both, alone):
            resolver._servers.close()


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.org", ["mx1.example.org", "mx2.example.org", "mx3.example.org"]),
        ("implicit.example.org", ["implicit.example.org"]),
        ("far.example.org", ["mail.example.net"]),
        ("aliasmx.example.org", ["aliasedhost.example.org"]),  # RFC 2181 §10.3 forbids it, and it is everywhere
        ("loopback.example.org", ["mx2.example.org"]),
        ("ourmx.example.org", ["mx1.example.org"]),
        ("halfmx.example.org", ["mx2.example.org"]),
        ("under.example.org", ["_host._x.example.org"]),
        ("nomail.example.org", (Status.FAILED, "5.1.10")),
        ("gone.example.org", (Status.FAILED, "5.1.2")),
        ("lost.example.org", (Status.FAILED, "5.1.2")),
        ("empty.example.org", (Status.FAILED, "5.4.4")),
        ("badmx.example.org", (Status.FAILED, "5.4.4")),
        ("onlyin.example.org", (Status.FAILED, "5.4.4")),
        ("oursonly.example.org", (Status.FAILED, "5.4.6")),
        ("ipmx.example.org", (Status.DEFERRED, "4.4.3")),  # this server knows nothing of a zone named 1
        ("slowmx.example.org", (Status.DEFERRED, "4.4.3")),
        ("circle.example.org", (Status.DEFERRED, "4.4.3")),
        ("www.broken.example", (Status.DEFERRED, "4.4.3")),
        ("elsewhere.example", (Status.DEFERRED, "4.4.3")),
    ],
)
async def test_the_whole_way(resolver: MailDns, domain: str, expected: list[str] | tuple[Status, str]) -> None:
    router = Router(
        tuple,
        resolver,
        SystemRandom(),
        names=["us.example"],
        own=OwnAddresses([("198.51.100.1", 25)], ["198.51.100.1"]),
        open_secret=lambda sealed, whose: None,
    )
    if isinstance(expected, tuple):
        with pytest.raises(NoRoute) as problem:
            await router.plan(domain)
        assert (problem.value.result.state, problem.value.result.status) == expected
        return
    plan = await router.plan(domain)
    assert sorted(hop.host for hop in plan.hops) == expected
    assert all(hop.addresses for hop in plan.hops)


def test_the_command_asks_the_name_servers_of_the_configuration(port: int, tmp_path: Path) -> None:
    """From a cold start, where several questions load the library at the same time."""
    data = prepare_data(tmp_path / "data")
    (data / "posthouse.toml").write_text(
        f'[server]\nhostname = "mail.us.example"\n\n[dns]\nservers = ["127.0.0.1:{port}"]\n'
    )
    done = run_posthouse(data, "route", "test", "a@ourmx.example.org")
    assert done.stdout.splitlines() == [
        "The domain of a@ourmx.example.org is ourmx.example.org.",
        "ourmx.example.org is none of the domains whose mail lies here.",
        "No route fits: DNS decides.",
        "The mail hosts of ourmx.example.org: mx1.example.org (5), mail.us.example (10), mx2.example.org (20).",
        "mail.us.example is this server: left out, with all of preference 10 and above.",
        "mx1.example.org:25: 2001:db8::1, 192.0.2.1.",
        "Tried in this order: mx1.example.org:25. Protocol smtp, TLS opportunistic, no login. Timetable: the server's.",
    ]
    told = json.loads(run_posthouse(data, "route", "test", "a@nomail.example.org", "--json", code=1).stdout)
    assert (told["ok"], told["steps"][-1]["status"]) == (False, "5.1.10")
    assert told["steps"][3]["records"] == [{"preference": 0, "host": "."}]
    run_posthouse(data, "route", "add", "*", "--to", "mx1.example.org", "--to", "gone.example.org")
    told = json.loads(run_posthouse(data, "route", "test", "a@nomail.example.org", "--json").stdout)
    assert told["steps"][-1]["hops"] == [
        {"host": "mx1.example.org", "port": 25, "addresses": ["2001:db8::1", "192.0.2.1"]}
    ]
