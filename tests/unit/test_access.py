"""Networks and their rights: which network counts, what is read, when it ends."""

from __future__ import annotations

import pytest

from posthouse.policy.access import (
    ANYBODY,
    AUTH25,
    CLEAR,
    EVERYBODY,
    LOCAL,
    LOGIN_RELAY,
    LOOPBACK,
    RELAY,
    THIS_MACHINE,
    TRUSTED,
    UNLIMITED,
    Access,
    read_network,
    read_rights,
)
from posthouse.ports.store import Network


class Source:
    """Networks that tests change."""

    def __init__(self, *rows: Network) -> None:
        self.rows = rows
        self.asked = 0

    def networks(self) -> tuple[Network, ...]:
        self.asked += 1
        return self.rows


class Ticking:
    """A clock that is moved by hand."""

    time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("host", "rights"),
    [
        ("", THIS_MACHINE),
        ("127.0.0.1", THIS_MACHINE),
        ("127.255.3.4", THIS_MACHINE),
        ("::1", THIS_MACHINE),
        ("::ffff:127.0.0.1", THIS_MACHINE),
        ("192.0.2.7", ANYBODY),
        ("128.0.0.1", ANYBODY),
        ("::2", ANYBODY),
        ("fe80::1%eth0", ANYBODY),
        ("::ffff:192.0.2.7", ANYBODY),
    ],
)
def test_two_networks_are_built_in(host: str, rights: object) -> None:
    assert Access(Source(), Ticking()).rights(host) is rights


def test_nobody_relays_without_a_login_and_strangers_send_no_clear_passwords() -> None:
    """Catches an open relay by default, and a password that anybody on the way can read."""
    assert RELAY not in EVERYBODY | LOOPBACK
    assert {CLEAR, AUTH25, TRUSTED, UNLIMITED, "lmtp"}.isdisjoint(EVERYBODY)
    assert {"smtp", "submission", "pop3", LOCAL, LOGIN_RELAY} == EVERYBODY


def test_the_longest_prefix_counts_alone() -> None:
    access = Access(
        Source(
            Network("10.0.0.0/8", ("smtp", "relay")),
            Network("10.1.0.0/16", ("smtp",)),
            Network("10.1.2.3/32", ()),
            Network("127.0.0.1/32", ("pop3",)),
            Network("0.0.0.0/0", ("submission",)),
        ),
        Ticking(),
    )
    said = {host: access.rights(host).rule for host in ("10.9.9.9", "10.1.9.9", "10.1.2.3", "192.0.2.1", "2001:db8::1")}
    assert said == {
        "10.9.9.9": "10.0.0.0/8",
        "10.1.9.9": "10.1.0.0/16",
        "10.1.2.3": "10.1.2.3/32",
        "192.0.2.1": "0.0.0.0/0",
        "2001:db8::1": "everybody",
    }
    assert access.rights("10.1.2.3").words == frozenset()
    assert access.rights("127.0.0.1").words == {"pop3"}
    assert access.rights("127.0.0.2") is THIS_MACHINE, "what holds for all addresses leaves this machine alone"
    assert access.rights("::ffff:10.1.9.9").rule == "10.1.0.0/16"


def test_a_network_ends_when_its_time_is_over() -> None:
    clock = Ticking()
    access = Access(Source(Network("192.0.2.0/24", (), until=2000.0)), clock)
    assert access.rights("192.0.2.7").rule == "192.0.2.0/24"
    clock.time = 1999.9
    assert access.rights("192.0.2.7").named
    clock.time = 2000.0
    assert access.rights("192.0.2.7") is ANYBODY


def test_a_change_counts_at_once() -> None:
    source = Source()
    access = Access(source, Ticking())
    assert access.rights("192.0.2.7").may("smtp")
    source.rows = (Network("192.0.2.7/32", ()),)
    assert not access.rights("192.0.2.7").may("smtp")


def test_what_is_remembered_is_bounded() -> None:
    access = Access(Source(), Ticking())
    for number in range(20_001):
        access.rights(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(access._known) <= 10_000


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        (" 192.0.2.7 ", "192.0.2.7/32"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_networks_have_one_form(text: str, network: str) -> None:
    assert str(read_network(text)) == network


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.1/8", "Write 10.0.0.0/8 for the whole network"),
        ("2001:db8::1/32", "Write 2001:db8::/32"),
        ("example.org", "is not a network"),
        ("192.0.2.0/33", "is not a network"),
        ("", "is not a network"),
        ("010.0.0.1", "is not a network"),
        ("fe80::1%eth0", "has a zone"),
        ("1" * 101, "too long"),
    ],
)
def test_what_is_no_network_is_explained(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_network(text)


def test_words_name_rights() -> None:
    assert read_rights(["relay,clear", "connect"]) == {"relay", "clear", "smtp", "submission", "pop3", "lmtp"}
    assert read_rights(["all"]) == LOOPBACK | {RELAY}
    with pytest.raises(ValueError, match='"realy" is no right'):
        read_rights(["realy"])
