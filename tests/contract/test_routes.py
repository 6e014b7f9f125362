"""What every engine owes to the route table (ports.store)."""

from __future__ import annotations

from dataclasses import replace

from posthouse.ports.store import Conflict, Missing, Route
from tests.contract.conftest import House, refused

DIRECT = Route("example.org", created=1.0)
SMARTHOST = Route(
    "*",
    ("smtp.isp.example:587", "[2001:db8::25]:2525"),
    "smtp",
    "verified",
    "anna",
    b"\x00sealed\xff",
    "1m 5m 1h, until 2d, notice 1h",
    False,
    "the provider, за стеной",
    2.0,
)
INSIDE = Route("*.lan.example", local=True, created=3.0)


async def test_routes_are_added_replaced_and_removed(house: House) -> None:
    store = house.store
    assert store.routes() == ()
    await store.put_route(DIRECT)
    await refused(Conflict, lambda: store.put_route(replace(DIRECT, note="again")))
    assert store.routes() == (DIRECT,), "what was refused changed nothing"
    for route in (SMARTHOST, INSIDE):
        await store.put_route(route)
    assert store.routes() == (SMARTHOST, INSIDE, DIRECT)
    assert (await house.reopen()).routes() == (SMARTHOST, INSIDE, DIRECT)
    other = replace(SMARTHOST, targets=("mail.example:25",), login="", secret=b"")
    await house.store.put_route(other, replace=True)
    await house.store.remove_route("*.lan.example")
    await refused(Missing, lambda: house.store.remove_route("*.lan.example"))
    assert house.store.routes() == (other, DIRECT)
    assert await house.damages() == []


async def test_another_process_adds_a_route_and_it_counts_at_once(house: House) -> None:
    """Catches a server that sends on by a route that is no more."""
    beside = house.open(serve=False)
    server = house.opened[0]
    assert server.routes() == ()
    await beside.put_route(SMARTHOST)
    assert server.routes() == (SMARTHOST,)
    assert server.routes() is server.routes(), "unchanged, it is the same tuple"
    await server.put_route(DIRECT)
    assert beside.routes() == (SMARTHOST, DIRECT)
    await beside.remove_route("*")
    assert server.routes() == (DIRECT,)


async def test_what_changes_elsewhere_leaves_the_same_table(house: House) -> None:
    """Catches a router that builds its index anew with every new account."""
    await house.store.put_route(SMARTHOST)
    before = house.store.routes()
    await house.account()
    assert house.store.routes() is before


def test_a_route_shows_no_password() -> None:
    assert "sealed" not in repr(SMARTHOST)
