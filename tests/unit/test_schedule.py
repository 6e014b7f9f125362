"""The timetable of attempts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.schedule import CLASSIC, DAY, HOUR, MINUTE, USUAL, Schedule, parse_schedule, write_schedule

ACCEPTED = 1_000_000.0


def ages(schedule: Schedule) -> list[float]:
    """When a letter is tried after its first attempt, which fails at once like all others."""
    return [at - ACCEPTED for at in schedule.upcoming(ACCEPTED, schedule.next(ACCEPTED, ACCEPTED), 1000)]


def test_the_default_is_dense_at_first_and_then_every_three_hours_up_to_four_days() -> None:
    found = ages(USUAL)
    assert found[:9] == [60, 300, 900, 1800, HOUR, 2 * HOUR, 4 * HOUR, 7 * HOUR, 10 * HOUR]
    assert found[-1] == 4 * DAY
    assert {b - a for a, b in pairwise(found[6:-1])} == {3 * HOUR}


def test_classic_is_the_labs() -> None:
    assert ages(CLASSIC) == [HOUR, 4 * HOUR, DAY, 2 * DAY, 3 * DAY, 4 * DAY]
    assert CLASSIC.notice == 0


def test_a_server_that_was_off_goes_on_where_the_timetable_stands() -> None:
    assert USUAL.next(ACCEPTED, ACCEPTED + 5 * HOUR) == ACCEPTED + 7 * HOUR


def test_one_fresh_attempt_after_the_lifetime_is_the_last() -> None:
    assert USUAL.next(ACCEPTED, ACCEPTED + 5 * DAY) is None
    assert USUAL.next(ACCEPTED, ACCEPTED + 4 * DAY) is None


def test_attempts_never_follow_each_other_at_once() -> None:
    assert USUAL.next(ACCEPTED, ACCEPTED + 59.9) >= ACCEPTED + 59.9 + 30  # type: ignore[operator]


def test_jitter_moves_later_by_at_most_a_tenth() -> None:
    assert USUAL.next(ACCEPTED, ACCEPTED, 1.0) == pytest.approx(ACCEPTED + 66)
    assert CLASSIC.next(ACCEPTED, ACCEPTED + DAY, 1.0) == pytest.approx(ACCEPTED + 2 * DAY + 300)
    assert USUAL.next(ACCEPTED, ACCEPTED + 4 * DAY - HOUR, 1.0) == ACCEPTED + 4 * DAY


def test_a_timetable_can_be_written_out() -> None:
    schedule = parse_schedule("1m 5m 1h, every 3h, until 2d, notice 30m")
    assert schedule == Schedule((MINUTE, 5 * MINUTE, HOUR), 3 * HOUR, 2 * DAY, 30 * MINUTE)
    assert parse_schedule(write_schedule(schedule)) == schedule
    assert parse_schedule("Classic") is CLASSIC
    assert write_schedule(USUAL) == "default"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "5m 1m",
        "1m, every 1s",
        "1m, until 90d",
        "2h, until 1h",
        "1m, sometimes 2h",
        "1m, every 1h, every 2h",
        "0m",
    ],
)
def test_what_is_no_timetable_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|begins"):
        parse_schedule(text)


@given(
    st.lists(st.integers(1, 500_000), min_size=1, max_size=10, unique=True).map(sorted),
    st.sampled_from([0.0, 60.0, 5000.0]),
    st.integers(0, 100_000),
    st.floats(0, 1),
)
def test_every_timetable_ends(points: list[int], every: float, more: int, jitter: float) -> None:
    """A letter is never kept for ever, never tried twice at once, and always tried at the very end."""
    schedule = Schedule(tuple(map(float, points)), every, float(points[-1] + more), 0)
    now, last, count = ACCEPTED, ACCEPTED, 0
    while (due := schedule.next(ACCEPTED, now, jitter)) is not None:
        assert due > now
        assert due <= schedule.expires(ACCEPTED) or due - now <= 33
        now, last, count = due, due, count + 1
        assert count < 20_000
    assert last >= schedule.expires(ACCEPTED)
