"""The network that counts for an address is the one that `ipaddress` finds by trying them all."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from posthouse.policy.access import Access
from posthouse.ports.store import Network
from tests.unit.test_access import Source, Ticking


def near(version: int) -> st.SearchStrategy[int]:
    """Numbers that share long beginnings, so that networks lie in one another."""
    bits = 32 if version == 4 else 128
    return st.builds(
        lambda base, low, shift: (base ^ low << shift) & ((1 << bits) - 1),
        st.sampled_from([10 << bits - 8, 127 << bits - 8, 0]),
        st.integers(0, 3),
        st.integers(0, bits - 2),
    )


def addresses(version: int) -> Any:
    return near(version).map(lambda number: ip_address(number.to_bytes(4 if version == 4 else 16, "big")))


networks = st.one_of(
    st.builds(lambda a, n: ip_network(f"{a}/{n}", strict=False), addresses(4), st.integers(0, 32)),
    st.builds(lambda a, n: ip_network(f"{a}/{n}", strict=False), addresses(6), st.integers(0, 128)),
)


@given(st.lists(networks, max_size=12, unique=True), st.one_of(addresses(4), addresses(6)))
def test_the_longest_prefix_is_found(named: list[Any], address: Any) -> None:
    access = Access(Source(*(Network(str(one), ()) for one in named)), Ticking())
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    built_in = {ip_network(text): "this machine" for text in ("127.0.0.0/8", "::1/128")}
    built_in |= {ip_network(text): "everybody" for text in ("0.0.0.0/0", "::/0")}
    rules = built_in | {one: str(one) for one in named}
    holding = [one for one in rules if one.version == address.version and address in one]
    best = max(holding, key=lambda one: one.prefixlen)
    assert access.rights(str(address)).rule == rules[best]
