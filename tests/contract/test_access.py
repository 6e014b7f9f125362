"""What every engine owes to named networks and granted senders (ports.store)."""

from __future__ import annotations

from posthouse.ports.store import Conflict, Missing, Network
from tests.contract.conftest import House, refused

OFFICE = Network("192.0.2.0/24", ("smtp", "relay"), None, "the office", 1.0)


async def test_networks_are_named_replaced_and_removed(house: House) -> None:
    store = house.store
    assert store.networks() == ()
    await store.put_network(OFFICE)
    await refused(Conflict, lambda: store.put_network(OFFICE))
    short = Network("192.0.2.0/24", (), 5.5, "", 2.0)
    await store.put_network(short, replace=True)
    other = Network("2001:db8::/32", ("pop3",), None, "", 3.0)
    await store.put_network(other)
    assert store.networks() == (short, other)
    assert (await house.reopen()).networks() == (short, other)
    await house.store.remove_network("2001:db8::/32")
    await refused(Missing, lambda: house.store.remove_network("2001:db8::/32"))
    assert house.store.networks() == (short,)


async def test_another_process_names_a_network_and_it_counts_at_once(house: House) -> None:
    """Catches a server that goes on serving an address which was shut out."""
    beside = house.open(serve=False)
    server = house.opened[0]
    assert server.networks() == ()
    await beside.put_network(OFFICE)
    assert server.networks() == (OFFICE,)
    assert server.networks() is server.networks(), "unchanged, it is the same tuple"
    await beside.remove_network(OFFICE.network)
    assert server.networks() == ()


async def test_senders_are_granted_and_revoked(house: House) -> None:
    await house.account()
    store = house.store
    await store.grant_sender("test@x.mail", "info@x.mail")
    await store.grant_sender("test@x.mail", "*@x.mail")
    await refused(Conflict, lambda: store.grant_sender("test@x.mail", "info@x.mail"))
    await refused(Missing, lambda: store.grant_sender("nobody@x.mail", "info@x.mail"))
    found = await store.find_account("test@x.mail")
    assert found is not None
    assert sorted(found.senders) == ["*@x.mail", "info@x.mail"]
    [listed] = await store.accounts()
    assert listed == found
    beside = house.open(serve=False)
    await beside.revoke_sender("test@x.mail", "*@x.mail")
    await refused(Missing, lambda: beside.revoke_sender("test@x.mail", "*@x.mail"))
    await refused(Missing, lambda: beside.revoke_sender("nobody@x.mail", "*@x.mail"))
    found = await store.find_account("test@x.mail")
    assert found is not None
    assert found.senders == ("info@x.mail",)


async def test_an_account_made_again_has_no_grants(house: House) -> None:
    """Catches a grant that a removed account leaves to somebody else."""
    await house.account()
    await house.store.grant_sender("test@x.mail", "info@x.mail")
    await house.store.remove_account("test@x.mail")
    account = await house.account()
    assert account.senders == ()
    assert await house.damages() == []
