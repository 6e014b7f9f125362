"""Failed logins: who is delayed, who is banned, and who never is."""

from __future__ import annotations

from posthouse.config.limits import LimitSettings
from posthouse.net.system import SystemClock
from posthouse.policy.access import Access
from posthouse.policy.bans import ADMINISTRATOR, Bans, place_name
from posthouse.policy.logins import SLOWEST, LoginGuard, login_key
from posthouse.policy.places import Places
from posthouse.ports.bans import Ban
from posthouse.ports.store import Network


class Office:
    """The one named network of these tests."""

    def networks(self) -> tuple[Network, ...]:
        return (OFFICE,)


OFFICE = Network("10.1.0.0/16", ("pop3", "unlimited"))
PLACES = Places(Access(Office(), SystemClock()).is_unlimited)
HERE, THERE, V6 = PLACES.of("192.0.2.7"), PLACES.of("198.51.100.9"), PLACES.of("2001:db8:1:2::3")
LIMITS = LimitSettings()
WHO = "anna@example.org"


def guard(most: int = 1000) -> LoginGuard:
    return LoginGuard(LIMITS, b"k" * 32, most=most)


def test_different_wrong_passwords_are_delayed_and_then_banned_for_this_account_only() -> None:
    one, delays = guard(), []
    for number in range(LIMITS.pair_failures):
        attempt = one.ask(HERE, WHO, float(number))
        assert attempt.refused is None
        delays.append(attempt.delay)
        ban = one.failed(HERE, WHO, f"wrong{number}", float(number))
        assert (ban is not None) == (number == LIMITS.pair_failures - 1)
    assert delays == [0, 0, 0, 1, 2, 4, 8, 15, 15, 15]
    assert one.ask(HERE, WHO, 20.0).refused is not None
    assert one.ask(HERE, "Anna@EXAMPLE.org", 20.0).refused is not None, "one name, however it is written"
    assert one.ask(HERE, "boris@example.org", 20.0).refused is None
    assert one.ask(THERE, WHO, 20.0).refused is None
    assert one.banned(HERE, 20.0) is None, "connections are still let in"
    assert one.ask(HERE, WHO, 20.0 + LIMITS.ban_time).refused is None, "it ends"


def test_the_same_wrong_password_counts_once() -> None:
    one = guard()
    for number in range(1000):
        assert one.ask(HERE, WHO, float(number)).delay == 0
        assert one.failed(HERE, WHO, "the old one", float(number)) is None


def test_a_whole_address_is_banned_after_five_accounts() -> None:
    one = guard()
    bans = [one.failed(HERE, f"user{number}@example.org", "guess", 1.0) for number in range(5)]
    assert bans[:4] == [None] * 4
    assert bans[4] is not None and bans[4].account == ""
    assert one.banned(HERE, 2.0) is bans[4]
    assert one.banned(PLACES.of("192.0.2.8"), 2.0) is None


def test_a_whole_address_is_banned_after_fifty_failures() -> None:
    one, bans = guard(), []
    for number in range(60):
        ban = one.failed(HERE, f"user{number % 4}@example.org", f"guess{number}", 1.0)
        bans += [ban] if ban is not None else []
    assert bans[-1].account == "" and "50" in bans[-1].reason


def test_an_ipv6_customer_is_one_address() -> None:
    one = guard()
    for number in range(5):
        one.failed(PLACES.of(f"2001:db8:1:2::{number}"), f"user{number}@example.org", "guess", 1.0)
    assert one.banned(V6, 2.0) is not None
    assert one.banned(PLACES.of("2001:db8:1:3::1"), 2.0) is None


def test_this_machine_and_named_networks_are_delayed_and_never_banned() -> None:
    for host in ("127.0.0.1", "::1", "10.1.2.3", "", "::ffff:127.0.0.1"):
        one, place = guard(), PLACES.of(host)
        for number in range(200):
            assert one.failed(place, f"user{number % 20}@example.org", f"guess{number}", 1.0) is None
        attempt = one.ask(place, "user1@example.org", 2.0)
        assert attempt.delay > 0 and attempt.refused is None


def test_the_owner_gets_in_while_the_whole_world_tries_his_account() -> None:
    """Would catch a lock-out by strangers: the owner's own network is neither slowed nor refused."""
    one = guard()
    one.succeeded(HERE, "anna", WHO, 0.0)
    for number in range(500):
        stranger = PLACES.of(f"203.0.{number // 200}.{number % 200}")
        one.failed(stranger, WHO, f"guess{number}", 1.0)
    neighbour = PLACES.of("192.0.2.200")
    assert one.ask(HERE, WHO, 2.0).delay == 0
    assert one.ask(neighbour, WHO, 2.0).delay == 0
    slots = [one.ask(THERE, WHO, 2.0) for _ in range(20)]
    assert slots[1].delay > 0 and slots[-1].busy
    assert max(slot.delay for slot in slots) <= SLOWEST
    assert one.ask(HERE, WHO, LIMITS.known_time + 10).delay == 0
    assert not one.is_known(HERE, WHO, LIMITS.known_time + 10)


def test_the_owner_gets_in_from_an_address_that_is_banned() -> None:
    one = guard()
    one.succeeded(HERE, WHO, WHO, 0.0)
    for number in range(5):
        one.failed(HERE, f"user{number}@example.org", "guess", 1.0)
    assert one.bans.find(HERE, "", 2.0) is not None
    assert one.banned(HERE, 2.0) is None, "the connection is let in"
    assert one.ask(HERE, WHO, 2.0).refused is None
    assert one.ask(HERE, "boris@example.org", 2.0).refused is not None


def test_many_attempts_at_once_spare_nobody() -> None:
    one = guard()
    for number in range(3):
        one.failed(HERE, WHO, f"guess{number}", 1.0)
    assert [one.ask(HERE, WHO, 2.0).delay for _ in range(5)] == [1, 2, 4, 8, 15]
    for _ in range(5):
        one.dropped(HERE, WHO, 2.0)
    assert one.ask(HERE, WHO, 2.0).delay == 1


def test_each_ban_is_twice_as_long_and_the_longest_is_bounded() -> None:
    one, now, lengths = guard(), 0.0, []
    for _ in range(10):
        for number in range(LIMITS.pair_failures):
            ban = one.failed(HERE, WHO, f"guess{number}", now)
        assert ban is not None and ban.until is not None
        lengths.append(ban.until - ban.since)
        now = ban.until + 1
    assert lengths[:3] == [900, 1800, 3600]
    assert lengths[-1] == LIMITS.ban_longest


def test_memory_is_bounded_and_no_password_is_kept() -> None:
    one = guard(most=100)
    for number in range(5000):
        one.failed(PLACES.of(f"2001:db8:{number:x}::1"), f"user{number}@example.org", "hunter2-secret", 1.0)
    assert one.remembered <= 300
    kept = repr([getattr(one, name, None) for name in ("_pairs", "_places", "_accounts", "bans")])
    assert "hunter2" not in kept + repr([vars_of(t) for t in (one._pairs, one._places, one._accounts)])


def vars_of(tallies: object) -> object:
    return getattr(tallies, "_all", None)


def test_an_administrator_is_obeyed_before_everything() -> None:
    one = guard()
    one.succeeded(HERE, WHO, WHO, 0.0)
    one.take_bans([Ban("192.0.2.0/24", "", 0.0, None, "", ADMINISTRATOR)])
    assert one.banned(HERE, 1e9) is not None
    assert one.take_bans([])[1] and one.banned(HERE, 1.0) is None


def test_bans_of_every_size_are_found_and_ended_ones_are_told_once() -> None:
    bans = Bans(memory=100.0)
    bans.add(Ban(place_name("198.51.100.77/25"), "", 0.0, 10.0, "", ADMINISTRATOR))
    bans.add(Ban(place_name("2001:db8::/32"), "", 0.0, None, "", ADMINISTRATOR))
    assert bans.find(THERE, "", 1.0) is not None
    assert bans.find(V6, "", 1.0) is not None
    assert bans.find(HERE, "", 1.0) is None
    assert [ban.place for ban in bans.ended(11.0)] == ["198.51.100.0/25"]
    assert bans.ended(12.0) == [] and len(bans) == 2
    assert bans.ended(200.0) == [] and len(bans) == 1


def test_names_have_one_form() -> None:
    assert place_name("::ffff:192.0.2.7") == "192.0.2.7"
    assert place_name("2001:db8::7") == "2001:db8::/64"
    assert login_key("Anna@Пример.рф") == login_key("anna@xn--e1afmkfd.xn--p1ai")
    assert len(login_key("x" * 100_000)) <= 322
