"""Where letters go: the table of cases of RFC 5321 §5.1, and the routes that go before DNS."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from posthouse.mail.address import Address
from posthouse.mail.reply import Fault, Unavailable
from posthouse.mail.schedule import CLASSIC
from posthouse.mta import hops
from posthouse.mta.hops import MOST_ADDRESSES, MOST_HOSTS
from posthouse.mta.plan import NoRoute, Plan
from posthouse.mta.routing import Router
from posthouse.net.system import SystemRandom
from posthouse.ports.dns import DnsFailed, DnsProblem, MailHost, NoRecords, NoSuchDomain
from posthouse.ports.queue import Status
from posthouse.ports.store import Account, Route

Records = Mapping[str, Sequence[tuple[int, str]] | DnsProblem]
Hosts = Mapping[str, Sequence[str] | DnsProblem]


class Zone:
    """DNS as a test wants it (`ports.dns.MailResolver`): MX records, and addresses of hosts."""

    def __init__(self, records: Records | None = None, hosts: Hosts | None = None) -> None:
        self.records = records or {}
        self.hosts = hosts or {}
        self.asked: list[str] = []

    async def mail_hosts(self, domain: str) -> Sequence[MailHost]:
        self.asked.append(domain)
        found = self.records.get(domain)
        if found is None:
            raise NoRecords(domain) if domain in self.hosts else NoSuchDomain(f"{domain} does not exist")
        if isinstance(found, DnsProblem):
            raise found
        return [MailHost(preference, host) for preference, host in found]

    async def addresses(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        found = self.hosts.get(host)
        if found is None:
            raise NoSuchDomain(f"{host} does not exist")
        if isinstance(found, DnsProblem):
            raise found
        return found


class Here:
    """Our own addresses (`mta.hops.Own`)."""

    def __init__(self, *addresses: str, port: int = 25) -> None:
        self.addresses = addresses
        self.port = port

    def holds(self, address: str) -> bool:
        return address in self.addresses

    def listens(self, address: str, port: int) -> bool:
        return address in self.addresses and port == self.port


class Table:
    """The route table of a store."""

    def __init__(self, *routes: Route) -> None:
        self.routes: tuple[Route, ...] = routes

    def __call__(self) -> tuple[Route, ...]:
        return self.routes


class People:
    """The one account and the one domain that are here."""

    async def find(self, address: Address) -> Account | None:
        return Account(1, "anna@here.example", "", 1) if address.key == "anna@here.example" else None

    async def is_local(self, domain: str) -> bool:
        return domain == "here.example"


def opened(sealed: bytes, whose: str) -> bytes | None:
    return sealed.removeprefix(whose.encode()) if sealed.startswith(whose.encode()) else None


def make(zone: Zone | None = None, *routes: Route, own: Here | None = None) -> Router:
    return Router(
        Table(*routes),
        zone or Zone(),
        SystemRandom(),
        names=["Mail.Here.example."],
        own=own or Here("198.51.100.1"),
        open_secret=opened,
        directory=People(),  # type: ignore[arg-type] # the two questions that a router asks
    )


def hosts(plan: Plan) -> list[str]:
    return [hop.host for hop in plan.hops]


async def refused(router: Router, destination: str) -> tuple[Status, str]:
    with pytest.raises(NoRoute) as problem:
        await router.plan(destination)
    result = problem.value.result
    assert result.reply == str(problem.value) and result.stage == "dns" and not result.said
    assert result.dead == (result.state is Status.DEFERRED)
    return result.state, result.status


# The name under which a letter waits


@pytest.mark.parametrize(
    ("address", "destination"),
    [
        ("a@example.org", "example.org"),  # a route without targets: by DNS, under the domain's own name
        ("a@Partner.EXAMPLE", "partner.example"),
        ("a@sub.partner.example", "*.partner.example"),
        ("a@x.sub.partner.example", "*.partner.example"),
        ("a@deep.partner.example", "deep.partner.example"),
        ("a@x.deep.partner.example", "*.deep.partner.example"),
        ("a@пример.рф", "xn--e1afmkfd.xn--p1ai"),
        ("a@else.example", "*"),
        ("a@[192.0.2.1]", "*"),
        ("a@[IPv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_the_best_route_names_the_destination(address: str, destination: str) -> None:
    """An exact domain goes before the longest wildcard, and that before the smarthost."""
    router = make(
        None,
        Route("*", ("smart.example:25",)),
        Route("*.partner.example", ("a.example:25",)),
        Route("*.deep.partner.example", ("b.example:25",)),
        Route("deep.partner.example", ("c.example:25",)),
        Route("partner.example", ("d.example:25",)),
        Route("example.org"),
        Route("xn--e1afmkfd.xn--p1ai", ("e.example:25",)),
        Route("[IPv6:2001:db8::1]", ("f.example:25",)),
    )
    assert router.destination(Address.parse(address)) == destination


def test_without_routes_the_domain_is_the_destination() -> None:
    router = make()
    assert router.destination(Address.parse("A@Example.ORG")) == "example.org"
    assert router.destination(Address.parse("A@[IPv6:2001:DB8::1]")) == "[IPv6:2001:db8::1]"
    assert router.destination(Address.parse("a@пример.рф")) == "xn--e1afmkfd.xn--p1ai"
    assert router.schedule("example.org") is None


def test_a_route_may_have_a_timetable_of_its_own() -> None:
    router = make(
        None,
        Route("example.org", schedule="classic"),
        Route("*.example.org", ("a.example:25",), schedule="1m 2m"),
        Route("new.example", schedule="every full moon"),
    )
    assert router.schedule("example.org") == CLASSIC
    for destination in ("*.example.org", "www.example.org"):
        schedule = router.schedule(destination)
        assert schedule is not None and schedule.ages == (60.0, 120.0)
    assert router.schedule("new.example") is None, "what a newer version wrote is passed over"
    assert router.schedule("*.gone.example") is None


def test_ours_by_a_route() -> None:
    router = make(
        None,
        Route("inside.example", local=True),
        Route("gate.example", ("10.0.0.1:25",), local=True),
        Route("*", ("smart.example:25",)),
    )
    asked = {name: Address.parse(f"a@{name}.example") for name in ("inside", "gate", "other")}
    assert {name: router.is_ours(one) for name, one in asked.items()} == {"inside": True, "gate": True, "other": False}
    assert {name: router.is_refused(one) for name, one in asked.items()} == {
        "inside": True,
        "gate": False,
        "other": False,
    }


def test_a_changed_table_counts_at_once() -> None:
    table = Table()
    router = make()
    router._routes = table
    address = Address.parse("a@example.org")
    assert router.destination(address) == "example.org"
    table.routes = (Route("*", ("smart.example:25",)),)
    assert router.destination(address) == "*"


async def test_a_store_that_cannot_be_read_leaves_the_table_known_last() -> None:
    """Catches letters that go straight to their domains, past the smarthost, because of a fault of the disk."""
    table = Table(Route("*", ("192.0.2.1:25",)))
    router = make()
    router._routes = table

    def fail() -> tuple[Route, ...]:
        raise Unavailable(Fault.STORAGE)

    router._routes = fail
    with pytest.raises(Unavailable):
        router.destination(Address.parse("a@example.org"))
    assert await refused(router, "example.org") == (Status.DEFERRED, "4.3.0")
    router._routes = table
    assert router.destination(Address.parse("a@example.org")) == "*"
    router._routes = fail
    assert router.destination(Address.parse("a@example.org")) == "*"
    assert hosts(await router.plan("example.org")) == ["192.0.2.1"]


def test_the_question_at_every_recipient_takes_microseconds() -> None:
    """With a thousand routes, for a name of many labels that fits none of them."""
    router = make(None, *(Route(f"*.d{number}.example", ("a.example:25",)) for number in range(1000)))
    address = Address.parse("somebody@" + "a." * 60 + "example.com")
    router.destination(address)
    begin = time.thread_time()
    for _ in range(1000):
        router.destination(address)
    assert time.thread_time() - begin < 0.5, "under 500 us each, 60 labels; a usual name has three"


# By DNS


async def test_by_preference_and_equals_by_chance() -> None:
    """RFC 5321 §5.1: lower numbers first; those of the same number in turn."""
    zone = Zone(
        {"example.org": [(20, "d"), (10, "a"), (10, "b"), (5, "first"), (10, "c")]},
        {name: [f"192.0.2.{number}"] for number, name in enumerate(("a", "b", "c", "d", "first"), 1)},
    )
    router = make(zone)
    seen = Counter([tuple(hosts(await router.plan("example.org"))) for _ in range(300)])
    assert {(order[0], order[4]) for order in seen} == {("first", "d")}
    assert len(seen) == 6, "every order of three"
    assert min(seen.values()) > 15, "each about fifty times"


async def test_a_host_named_twice_counts_once() -> None:
    zone = Zone({"example.org": [(20, "a"), (10, "a"), (15, "b")]}, {"a": ["192.0.2.1"], "b": ["192.0.2.2"]})
    assert hosts(await make(zone).plan("example.org")) == ["a", "b"]


async def test_the_domain_itself_where_there_is_no_mx() -> None:
    """RFC 5321 §5.1, the implicit MX."""
    [hop] = (await make(Zone(hosts={"example.org": ["192.0.2.1", "2001:db8::1"]})).plan("example.org")).hops
    assert (hop.host, hop.port, hop.addresses) == ("example.org", 25, ("2001:db8::1", "192.0.2.1"))


async def test_never_the_domain_itself_where_there_is_an_mx() -> None:
    """RFC 5321 §5.1: MUST NOT use the address of the domain when its MX records do not help."""
    zone = Zone({"example.org": [(10, "gone")]}, {"example.org": ["192.0.2.1"]})
    assert await refused(make(zone), "example.org") == (Status.FAILED, "5.4.4")


@pytest.mark.parametrize(
    ("records", "addresses", "expected"),
    [
        ({}, {}, (Status.FAILED, "5.1.2")),  # no such domain
        ({"d": DnsFailed("x")}, {}, (Status.DEFERRED, "4.4.3")),
        ({"d": [(0, "")]}, {"d": ["192.0.2.1"]}, (Status.FAILED, "5.1.10")),  # RFC 7505 §3
        ({"d": [(0, ""), (5, "")]}, {}, (Status.FAILED, "5.1.10")),
        ({"d": NoRecords("x")}, {}, (Status.FAILED, "5.4.4")),
        ({"d": NoRecords("x")}, {"d": NoRecords("x")}, (Status.FAILED, "5.4.4")),
        ({"d": NoRecords("x")}, {"d": DnsFailed("x")}, (Status.DEFERRED, "4.4.3")),
        ({"d": [(1, "a"), (2, "b")]}, {}, (Status.FAILED, "5.4.4")),
        ({"d": [(1, "a"), (2, "b")]}, {"b": DnsFailed("x")}, (Status.DEFERRED, "4.4.3")),
        ({"d": [(1, "192.0.2.9")]}, {}, (Status.FAILED, "5.4.4")),  # a host has a name
        ({"d": [(1, "mail.here.example")]}, {"mail.here.example": ["192.0.2.9"]}, (Status.FAILED, "5.4.6")),
        ({"d": [(1, "alias")]}, {"alias": ["198.51.100.1"]}, (Status.FAILED, "5.4.6")),  # ours, by its address
        ({"d": NoRecords("x")}, {"d": ["198.51.100.1"]}, (Status.FAILED, "5.4.6")),
        # Better hosts than ours which cannot be looked up now: they may be there later.
        ({"d": [(1, "a"), (2, "mail.here.example")]}, {"a": DnsFailed("x")}, (Status.DEFERRED, "4.4.3")),
        ({"d": [(1, "a"), (2, "mail.here.example"), (3, "b")]}, {"b": ["192.0.2.1"]}, (Status.FAILED, "5.4.6")),
    ],
)
async def test_no_way(records: Records, addresses: Hosts, expected: tuple[Status, str]) -> None:
    """What DNS says for certain ends a letter; what fails only delays it."""
    assert await refused(make(Zone(records, addresses)), "d") == expected


async def test_a_null_record_among_others_is_passed_over() -> None:
    """RFC 7505 §3 forbids it; the others say that mail is wanted."""
    zone = Zone({"d": [(0, ""), (10, "a")]}, {"a": ["192.0.2.1"]})
    assert hosts(await make(zone).plan("d")) == ["a"]


@pytest.mark.parametrize("ours", ["name", "address"])
async def test_only_hosts_that_dns_likes_better_than_us(ours: str) -> None:
    """RFC 5321 §5.1: ours and all of the same or a higher number are discarded. Catches letters going in a circle
    between two backup servers."""
    own = "Mail.here.example".lower() if ours == "name" else "us"
    records = [(5, "best"), (10, "good"), (20, "equal"), (20, own), (30, "worse")]
    addresses = {"best": ["192.0.2.1"], "good": ["192.0.2.2"], "equal": ["192.0.2.3"], "worse": ["192.0.2.4"]}
    zone = Zone({"d": records}, {**addresses, "us": ["192.0.2.5", "198.51.100.1"]})
    for _ in range(20):  # the equal one stands before and after ours
        assert hosts(await make(zone).plan("d")) == ["best", "good"]


async def test_hosts_and_addresses_are_bounded() -> None:
    zone = Zone(
        {"d": [(number, f"h{number:02}") for number in range(40)]},
        {f"h{number:02}": [f"192.0.{number}.{low}" for low in range(1, 200)] for number in range(40)},
    )
    plan = await make(zone).plan("d")
    assert hosts(plan) == [f"h{number:02}" for number in range(MOST_HOSTS)]
    assert {len(hop.addresses) for hop in plan.hops} == {MOST_ADDRESSES}
    assert len(zone.asked) == 1 + MOST_HOSTS, "the rest is not even looked up"


async def test_one_host_without_name_servers_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a domain whose every letter waits for the look-up of a host that nobody needs."""
    monkeypatch.setattr(hops, "STRAGGLER", 0.05)

    class Slow(Zone):
        async def addresses(self, host: str) -> Sequence[str]:
            if host == "never":
                await asyncio.Event().wait()
            return await super().addresses(host)

    zone = Slow({"d": [(1, "never"), (2, "a"), (3, "gone")]}, {"a": ["192.0.2.1"]})
    router = make(zone, Route("r", ("never:25", "a:25")))
    for destination in ("d", "r"):
        async with asyncio.timeout(10):
            assert hosts(await router.plan(destination)) == ["a"]
    steps = await router.explain(Address.parse("x@d"))
    assert "never: left out, the addresses of never take too long." in [step.text for step in steps]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "nobody goes on waiting"


async def test_a_plan_that_is_cancelled_leaves_nothing_behind() -> None:
    class Silent(Zone):
        async def addresses(self, host: str) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

    planning = asyncio.create_task(make(Silent({"d": [(1, "a"), (2, "b")]})).plan("d"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 4
    planning.cancel()
    await asyncio.wait([planning])
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_ipv6_and_ipv4_in_turn() -> None:
    """RFC 8305 §4. A host with many addresses of a kind that does not work here is reached all the same."""
    six = [f"2001:db8::{number}" for number in range(1, 10)]
    zone = Zone(hosts={"d": [*six, "192.0.2.1", "192.0.2.2", "192.0.2.1"]})
    [hop] = (await make(zone).plan("d")).hops
    assert hop.addresses == (six[0], "192.0.2.1", six[1], "192.0.2.2", *six[2:6])


INWARD = ["127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "169.254.1.1", "fe80::1"]
INWARD += ["224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"]


@pytest.mark.parametrize("address", INWARD)
async def test_public_dns_never_leads_into_this_machine(address: str) -> None:
    """Catches a stranger's MX record by which our server talks to what trusts 127.0.0.1."""
    zone = Zone({"d": [(1, "evil")]}, {"evil": [address]})
    assert await refused(make(zone, own=Here("127.0.0.1")), "d") == (Status.FAILED, "5.4.4")
    both = Zone({"d": [(1, "odd"), (2, "good")]}, {"odd": [address, "192.0.2.1"], "good": ["192.0.2.2"]})
    plan = await make(both).plan("d")
    assert [hop.addresses for hop in plan.hops] == [("192.0.2.1",), ("192.0.2.2",)]


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.1.1", "fd00::1", "64:ff9b::c000:201", "100.64.0.1"])
async def test_private_addresses_are_hosts_of_a_local_network(address: str) -> None:
    assert (await make(Zone({"d": [(1, "a")]}, {"a": [address]})).plan("d")).hops[0].addresses == (address,)


# By the address literal


async def test_address_literals() -> None:
    router = make()
    for literal, address in (("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1")):
        [hop] = (await router.plan(literal)).hops
        assert (hop.host, hop.port, hop.addresses) == (literal, 25, (address,))
    assert await refused(router, "[198.51.100.1]") == (Status.FAILED, "5.4.6")
    assert await refused(router, "[x400:c=us]") == (Status.FAILED, "5.1.2")
    for literal in ("[127.0.0.1]", "[IPv6:::1]", "[IPv6:::ffff:127.0.0.1]", "[0.0.0.0]"):
        assert await refused(router, literal) == (Status.FAILED, "5.4.4")


async def test_a_route_leads_where_dns_may_not() -> None:
    router = make(None, Route("[127.0.0.1]", ("127.0.0.1:2525",)), Route("x.example", ("localhost:26",)))
    assert (await router.plan("[127.0.0.1]")).hops[0].addresses == ("127.0.0.1",)
    zone = Zone(hosts={"localhost": ["127.0.0.1", "::1"]})
    assert (await make(zone, Route("d", ("localhost:26",))).plan("d")).hops[0].addresses == ("::1", "127.0.0.1")


# By the route table

SMART = Route("*", ("b.example:587", "a.example:25", "[2001:db8::9]:465"), tls="verified", login="anna")
SMART = replace(SMART, secret=b"route *secret")


async def test_the_targets_of_a_route_in_its_own_order() -> None:
    zone = Zone(hosts={"a.example": ["192.0.2.1"], "b.example": ["192.0.2.2"]})
    router = make(zone, SMART)
    for destination in ("*", "queued-before.example"):
        plan = await router.plan(destination)
        assert [(hop.host, hop.port) for hop in plan.hops] == [
            ("b.example", 587),
            ("a.example", 25),
            ("2001:db8::9", 465),
        ]
        assert (plan.tls, plan.protocol, plan.login) == ("verified", "smtp", ("anna", "secret"))
        assert "secret" not in repr(plan)
    assert zone.asked == ["b.example", "a.example"] * 2, "and no MX record"


async def test_a_host_of_a_route_that_is_not_found_is_passed_over() -> None:
    zone = Zone(hosts={"a.example": ["192.0.2.1"], "b.example": DnsFailed("x")})
    assert hosts(await make(zone, SMART).plan("*")) == ["a.example", "2001:db8::9"]


async def test_a_route_without_targets_goes_by_dns_in_its_own_way() -> None:
    zone = Zone({"d.example": [(1, "a")]}, {"a": ["192.0.2.1"]})
    plan = await make(zone, Route("*.example", tls="required"), replace(SMART, login="")).plan("d.example")
    assert (hosts(plan), plan.tls, plan.login) == (["a"], "required", None)


@pytest.mark.parametrize(
    ("route", "zone", "destination", "expected"),
    [
        # A mistake of the administrator loses no mail.
        (Route("*", ("typo.example:25",)), Zone(), "*", (Status.DEFERRED, "4.3.5")),
        (Route("*", ("a:25",)), Zone(hosts={"a": DnsFailed("x")}), "*", (Status.DEFERRED, "4.4.3")),
        (Route("d", ("198.51.100.1:25",)), Zone(), "d", (Status.DEFERRED, "4.3.5")),
        (Route("d", ("a:25",)), Zone(hosts={"a": ["198.51.100.1"]}), "d", (Status.DEFERRED, "4.3.5")),
        (Route("other", ("a:25",)), Zone(), "*", (Status.DEFERRED, "4.3.5")),  # was removed
        (Route("d", ("a:port",)), Zone(hosts={"a": ["192.0.2.1"]}), "d", (Status.DEFERRED, "4.3.5")),
        (replace(SMART, secret=b"of another row"), Zone(), "*", (Status.DEFERRED, "4.3.5")),
        (Route("d", local=True), Zone({"d": [(1, "a")]}, {"a": ["192.0.2.1"]}), "d", (Status.FAILED, "5.1.1")),
    ],
)
async def test_a_route_that_leads_nowhere(
    route: Route, zone: Zone, destination: str, expected: tuple[Status, str]
) -> None:
    assert await refused(make(zone, route), destination) == expected


async def test_another_port_of_this_machine_is_somebody_else() -> None:
    router = make(None, Route("d", ("198.51.100.1:26",)))
    assert (await router.plan("d")).hops[0].port == 26


async def test_a_failure_tells_senders_no_inner_names() -> None:
    with pytest.raises(NoRoute) as problem:
        await make(None, Route("d", ("exchange.inner.lan:25",))).plan("d")
    assert "inner" not in problem.value.result.reply


# Every step in words


async def test_every_step_is_told() -> None:
    zone = Zone(
        {"d.example": [(10, "a"), (10, "gone"), (20, "Mail.Here.example".lower()), (30, "z")]},
        {"a": ["192.0.2.1", "127.0.0.1", "2001:db8::1"], "z": ["192.0.2.3"]},
    )
    router = make(zone, Route("d.example", tls="verified", schedule="classic"))
    steps = await router.explain(Address.parse("x@d.example"))
    assert [step.kind for step in steps if step.kind not in ("host", "address dropped")] == [
        "address",
        "local",
        "route",
        "mx",
        "plan",
    ]
    text = "\n".join(step.text for step in steps)
    for part in (
        'The route "d.example" fits: by DNS.',
        "The mail hosts of d.example: a (10), gone (10), mail.here.example (20), z (30).",
        "mail.here.example is this server: left out, with all of preference 20 and above.",
        "gone: left out, gone does not exist.",
        "a: 127.0.0.1 left out, it is an address that no other machine has.",
        "a:25: 2001:db8::1, 192.0.2.1.",
        "Tried in this order: a:25. Protocol smtp, TLS verified, no login. Timetable: classic.",
    ):
        assert part in text
    assert steps[-1].values["hops"] == [{"host": "a", "port": 25, "addresses": ["2001:db8::1", "192.0.2.1"]}]


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("anna@here.example", "delivered here", "anna@here.example is a mailbox here."),
        ("nobody@here.example", "refused", "has no such mailbox"),
        ("a@gone.example", "no way", "The letter comes back: gone.example does not exist (5.1.2)."),
        ("a@slow.example", "no way", "The letter waits and is tried again: x (4.4.3)."),
        ("a@inside.example", "no way", "The letter comes back: inside.example is a domain of ours"),
        ("a@[192.0.2.1]", "plan", "Tried in this order: [192.0.2.1]:25."),
        ("a@[IPv6:2001:db8::1]", "plan", "Tried in this order: [IPv6:2001:db8::1]:25."),
    ],
)
async def test_how_a_decision_ends(address: str, kind: str, said: str) -> None:
    router = make(Zone({"slow.example": DnsFailed("x")}), Route("inside.example", local=True))
    steps = await router.explain(Address.parse(address))
    assert steps[-1].kind == kind
    assert said in steps[-1].text


async def test_no_step_tells_a_password() -> None:
    zone = Zone(hosts={"a.example": ["192.0.2.1"]})
    steps = await make(zone, SMART).explain(Address.parse("a@example.org"))
    assert steps[-1].values["login"] == "anna"
    assert "secret" not in repr(steps)
