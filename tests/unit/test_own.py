"""Which addresses are our own."""

from __future__ import annotations

import pytest

from posthouse.net import own
from posthouse.net.own import OwnAddresses
from posthouse.net.sysfiles import machine_addresses

STRANGERS = ["192.0.2.7", "8.8.8.8", "2001:db8::7", "example.org", ""]


def test_a_listener_on_one_address() -> None:
    ours = OwnAddresses([("127.0.0.2", 25), ("::1", 2525)], ["127.0.0.2"])
    assert ours.holds("127.0.0.2") and ours.holds("::ffff:127.0.0.2")
    assert not ours.holds("127.0.0.1"), "another server may listen there"
    assert not ours.holds("::1"), "strangers bring nothing there"
    assert ours.listens("::1", 2525) and not ours.listens("::1", 25)
    assert not any(ours.holds(address) or ours.listens(address, 25) for address in STRANGERS)


@pytest.mark.parametrize("everywhere", ["*", "0.0.0.0", "::"])
def test_a_listener_on_all_addresses(everywhere: str) -> None:
    """Catches a loop through an address that no listener names."""
    ours = OwnAddresses([(everywhere, 25)], [everywhere])
    for address in ["127.0.0.1", "127.9.9.9", "::1", *machine_addresses()]:
        assert ours.holds(address), address
        assert ours.listens(address, 25) and not ours.listens(address, 26)
    assert not any(ours.holds(address) or ours.listens(address, 25) for address in STRANGERS)


def test_nobody_listens() -> None:
    ours = OwnAddresses([], [])
    assert not ours.holds("127.0.0.1") and not ours.listens("127.0.0.1", 25)


def test_where_every_address_can_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that share an address set ip_nonlocal_bind: taken at its word, all mail would go in a circle."""
    monkeypatch.setattr(own, "_can_bind", lambda address, version: True)
    monkeypatch.setattr(own, "machine_addresses", lambda: ["198.51.100.1"])
    ours = OwnAddresses([("*", 25)], ["*"])
    assert [address for address in [*STRANGERS, "198.51.100.1"] if ours.holds(address)] == ["198.51.100.1"]
