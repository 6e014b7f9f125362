"""What holds for every route table and every answer of DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.address import Address
from posthouse.mta.hops import MOST_ADDRESSES, MOST_HOSTS
from posthouse.mta.plan import NoRoute
from posthouse.mta.routes import BadRoute, read_pattern
from posthouse.mta.routetable import RouteTable, read_target
from posthouse.ports.dns import DnsFailed, DnsProblem, NoRecords, NoSuchDomain
from posthouse.ports.queue import Status
from posthouse.ports.store import Route
from tests.unit.test_routing import Here, Zone, make

LABELS = st.sampled_from(["a", "b", "xn--e1afmkfd"])
DOMAINS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.one_of(st.just("*"), DOMAINS, DOMAINS.map(lambda name: f"*.{name}"))


def slow_match(patterns: set[str], domain: str) -> str | None:
    """The rule as the documentation has it, without any index."""
    if domain in patterns:
        return domain
    fits = [one for one in patterns if one.startswith("*.") and domain.endswith(one[1:])]
    if fits:
        return max(fits, key=len)
    return "*" if "*" in patterns else None


@given(st.sets(PATTERNS, max_size=12), DOMAINS)
def test_the_index_finds_what_the_rule_says(patterns: set[str], domain: str) -> None:
    table = RouteTable([Route(pattern) for pattern in patterns])
    found = table.match(domain)
    assert (None if found is None else found.pattern) == slow_match(patterns, domain)


@given(st.sets(PATTERNS, max_size=8), DOMAINS)
def test_a_letter_that_waits_goes_the_way_it_was_meant_to(patterns: set[str], domain: str) -> None:
    """The destination's way is the address's route: nothing is lost between RCPT and the attempt."""
    routes = [Route(pattern, ("h:25",) if len(pattern) % 2 else ()) for pattern in patterns]
    router = make(None, *routes)
    address = Address.parse(f"x@{domain}")
    assert RouteTable(routes).way(router.destination(address)) == router.route(address)


NAMES = [f"h{number}" for number in range(6)]
ADDRESSES = st.lists(
    st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1", "198.51.100.1", "::", "10.0.0.1"]),
    min_size=1,
    max_size=12,
)
PROBLEMS = st.sampled_from([DnsFailed("x"), NoRecords("x"), NoSuchDomain("x")])
RECORDS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([*NAMES, "mail.here.example", ""])), min_size=1)


@given(
    st.one_of(RECORDS, PROBLEMS),
    st.dictionaries(st.sampled_from([*NAMES, "d"]), st.one_of(ADDRESSES, PROBLEMS)),
)
def test_whatever_dns_says_there_is_a_sound_plan_or_a_reason(
    records: Sequence[tuple[int, str]] | DnsProblem, addresses: dict[str, Sequence[str] | DnsProblem]
) -> None:
    """Never a host of ours, none that DNS likes no better than us, no address of no other machine; and what is final
    is only what DNS said for certain."""
    zone = Zone({"d": records}, addresses)
    router = make(zone, own=Here("198.51.100.1"))
    try:
        plan = asyncio.run(router.plan("d"))
    except NoRoute as problem:
        result = problem.result
        assert result.status.startswith("5." if result.state is Status.FAILED else "4.")
        if isinstance(records, DnsFailed):
            assert result.state is Status.DEFERRED
        return
    assert 0 < len(plan.hops) <= MOST_HOSTS
    listed = [] if isinstance(records, DnsProblem) else records
    best = {host: min(number for number, name in listed if name == host) for _, host in listed}
    ours = [
        number
        for host, number in best.items()
        if host == "mail.here.example"
        or (not isinstance(found := addresses.get(host, ()), DnsProblem) and "198.51.100.1" in found)
    ]
    order = [best.get(hop.host, 0) for hop in plan.hops]
    assert order == sorted(order)
    for hop in plan.hops:
        assert best.get(hop.host, 0) < min(ours, default=5)
        assert 0 < len(hop.addresses) <= MOST_ADDRESSES
        assert not {"127.0.0.1", "::", "198.51.100.1"} & set(hop.addresses)
        assert len(set(hop.addresses)) == len(hop.addresses)


@given(st.text(max_size=40))
def test_a_pattern_has_one_form_or_is_refused_with_words(text: str) -> None:
    try:
        pattern = read_pattern(text)
    except BadRoute as problem:
        assert str(problem).endswith(".")
        return
    assert read_pattern(pattern) == pattern
    assert pattern.isascii() and " " not in pattern


@given(st.sampled_from(["a.example", "192.0.2.1", "2001:db8::1"]), st.integers(1, 65_535))
def test_a_target_reads_what_it_writes(host: str, port: int) -> None:
    target = read_target(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    assert (target.host, target.port) == (host, port)
    assert read_target(str(target)) == target
