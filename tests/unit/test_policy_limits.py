"""Connections and what accounts send: counted exactly, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posthouse.config.limits import LimitSettings, SendingSettings
from posthouse.policy.places import Places
from posthouse.policy.ratelimit import Connections, Rate
from posthouse.policy.sending import DAY, HOUR, MOST_KNOWN, Addressed, Sending
from posthouse.ports.bans import SentRow

PLACES = Places(lambda host: host.startswith("127."))
WHO = "anna@example.org"


def test_connections_at_once_from_an_address_and_from_a_network() -> None:
    few = Connections(LimitSettings(address_connections=2, network_connections=3))
    one, two, other = PLACES.of("192.0.2.1"), PLACES.of("192.0.2.2"), PLACES.of("192.0.3.1")
    assert [few.enter(one, 0.0) for _ in range(3)] == ["", "", "2 connections from this address"]
    assert [few.enter(two, 0.0) for _ in range(2)] == ["", "3 connections from this network"]
    assert few.enter(other, 0.0) == ""
    for place in (one, one, two, other):
        few.leave(place)
    assert few.enter(one, 0.0) == ""
    few.leave(one)
    assert not few.addresses and not few.networks


def test_an_ipv6_customer_has_the_limit_of_one_network() -> None:
    few = Connections(LimitSettings(network_connections=5))
    entered = [few.enter(PLACES.of(f"2001:db8::{number:x}"), 0.0) for number in range(10)]
    assert entered.count("") == 5


def test_new_connections_in_a_minute() -> None:
    few = Connections(LimitSettings(address_rate=60))
    place = PLACES.of("192.0.2.1")

    def come(now: float) -> str:
        reason = few.enter(place, now)
        if not reason:
            few.leave(place)
        return reason

    assert [come(0.0) for _ in range(61)].count("") == 60
    assert come(0.5) and not come(1.0) and come(1.2)
    assert [come(500.0) for _ in range(61)].count("") == 60


def test_this_machine_has_no_limit_of_its_own() -> None:
    few = Connections(LimitSettings())
    assert not any(few.enter(PLACES.of("127.0.0.1"), 0.0) for _ in range(20_000))


def test_memory_is_bounded_however_many_addresses_come() -> None:
    rate = Rate[str](10, most=100)
    for number in range(10_000):
        rate.add(str(number), 0.0)
    assert len(rate) == 100
    few = Connections(LimitSettings())
    for number in range(70_000):
        place = PLACES.of(f"2001:db8:{number >> 8:x}:{number & 255:x}::1")
        assert not few.enter(place, 0.0)
        few.leave(place)
    assert few.remembered <= 2 * 65_536


def sending(**limits: int) -> tuple[Sending, dict[str, SentRow]]:
    kept: dict[str, SentRow] = {}
    return Sending(SendingSettings(**limits), kept.get), kept


def test_letters_an_hour_and_a_day() -> None:
    one, _ = sending(letters_hour=2, letters_day=3)
    assert [one.count(WHO, ["a@x"], 0.0) for _ in range(2)] == [None, None]
    excess = one.refuse_letter(WHO, 10.0)
    assert excess is not None and (excess.what, excess.period, excess.seconds) == ("letters", "hour", HOUR - 10)
    assert one.count(WHO, ["a@x"], HOUR) is None
    excess = one.count(WHO, ["a@x"], HOUR + 1)
    assert excess is not None and excess.period == "day"
    assert one.count(WHO, ["a@x"], DAY) is None
    assert one.count("boris@example.org", ["a@x"], 0.0) is None


def test_new_recipients_are_those_never_written_to() -> None:
    one, kept = sending(new_recipients_day=3)
    assert one.count(WHO, ["a@x", "b@x", "c@x"], 0.0) is None
    assert one.refuse_recipients(WHO, ["a@x", "b@x"], 1.0) is None
    excess = one.refuse_recipients(WHO, ["d@x"], 1.0)
    assert excess is not None and excess.what == "new recipients"
    assert one.count(WHO, ["d@x"], DAY) is None
    kept[WHO] = one.row(WHO)
    again = Sending(SendingSettings(new_recipients_day=3), kept.get)
    assert again.count(WHO, ["a@x", "b@x", "c@x", "d@x", "e@x"], DAY + 1) is None, "remembered from before"


def test_a_letter_addressed_one_by_one_counts_as_one_addressed_at_once() -> None:
    """Would catch a check that forgets who stood before, or counts somebody twice."""
    one, _ = sending(new_recipients_day=3, recipients_hour=5)
    assert one.count(WHO, ["known@x"], 0.0) is None
    letter = Addressed()
    for name in ("a@x", "known@x", "a@x"):
        assert one.refuse_recipients(WHO, [name], 1.0, letter) is None
    assert (letter.recipients, len(letter.strangers)) == (3, 1)
    assert one.refuse_recipients(WHO, ["b@x"], 1.0, letter) is None
    excess = one.refuse_recipients(WHO, ["known@x"], 1.0, letter)
    assert excess is not None and excess.what == "recipients"
    assert (letter.recipients, len(letter.strangers)) == (4, 2), "who is refused is not added"


def test_a_letter_to_a_thousand_looks_at_each_of_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check at every RCPT that begins with the first recipient again: seconds for one letter."""
    one, _ = sending(new_recipients_day=0, recipients_day=0, recipients_hour=0)
    looked: list[int] = []
    real = Sending._strangers

    def counted(self: Sending, row: SentRow, names: Sequence[str]) -> list[bytes]:
        looked.append(len(names))
        return real(self, row, names)

    monkeypatch.setattr(Sending, "_strangers", counted)
    letter = Addressed()
    for number in range(1000):
        assert one.refuse_recipients(WHO, [f"{number}@x"], 0.0, letter) is None
    assert sum(looked) == 1000


def test_a_letter_that_was_not_accepted_is_given_back() -> None:
    one, _ = sending(letters_hour=1)
    assert one.count(WHO, ["a@x"], 0.0) is None
    one.take_back(WHO, 1, 0.0)
    assert one.count(WHO, ["a@x"], 0.0) is None
    assert one.count(WHO, ["a@x"], 0.0) is not None


def test_what_is_known_of_recipients_is_bounded() -> None:
    one, _ = sending(new_recipients_day=0, recipients_day=0, recipients_hour=0, letters_hour=0, letters_day=0)
    for number in range(60):
        one.count(WHO, [f"{number}-{index}@x" for index in range(100)], 0.0)
    assert len(one.row(WHO).written_to) == MOST_KNOWN * 8
    for number in range(3000):
        one.count(f"user{number}@x", ["a@x"], 0.0)
        one.fresh.clear()
    assert len(one._rows) <= 1000
