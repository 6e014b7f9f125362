"""The shipped scenarios, and the journeys they lead to: the real reception, queue, relay and notices run here."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from bench import box

from posthouse.lab.internet import Internet, Run
from posthouse.lab.journeys import Journey, journeys
from posthouse.lab.record import Accepted, Attempt
from posthouse.lab.scenario import parse_scenario, shipped
from posthouse.mail.report import read_report
from posthouse.mail.schedule import CLASSIC, USUAL, Schedule, parse_schedule
from tests.lab import power

LATENCY = 2.0  # seconds that the octets of one attempt may take in all, where nobody is slow


def run(text: str) -> tuple[Run, list[Journey]]:
    result = Internet(parse_scenario(text)).run()
    assert result.problems == []
    return result, journeys(result)


def run_shipped(name: str) -> tuple[Run, list[Journey]]:
    return run(shipped()[name])


def follows(run: Run, attempts: list[Attempt], schedule: Schedule, accepted: float) -> None:
    """Each attempt is made when the one before said, and that is what the timetable says, with its jitter."""
    start = run.scenario.start
    assert attempts[0].begin - accepted < 0.1, "the first attempt is made at once"
    for one, following in pairwise(attempts):
        due = one.outcomes[0].due
        assert due is not None
        first = schedule.next(start + accepted, start + one.end, 0.0)
        last = schedule.next(start + accepted, start + one.end, 1.0)
        assert first is not None and last is not None
        assert first - 0.001 <= due <= last + 0.001
        assert start + following.begin == pytest.approx(due, abs=0.001)


def story(journey: Journey) -> list[tuple[str, str]]:
    """Who did what, in order."""
    told = []
    for event in journey.events():
        if isinstance(event, Accepted):
            told.append((event.host, "mailbox" if event.here else "takes"))
        elif isinstance(event, Attempt):
            ended = {one.ended or "waits" for one in event.outcomes}
            told.append((event.host, "/".join(sorted(ended))))
        else:
            assert event.told is not None
            told.append((event.told.host, f"notice: {event.told.action}"))
    return told


A, B, C = "mx.a.example", "mx.b.example", "mx.c.example"


def test_down_for_five_hours() -> None:
    begun = time.thread_time()
    result, (letter,) = run_shipped("down-5h")
    assert time.thread_time() - begun < 10.0
    assert story(letter) == [
        (A, "takes"),
        *[(A, "waits")] * 8,
        (A, "notice: delayed"),
        (A, "relayed"),
        (B, "mailbox"),
    ]
    follows(result, letter.attempts, USUAL, letter.accepted[0].at)
    *failed, relayed = letter.attempts
    assert all("did not answer" in one.outcomes[0].reply for one in failed)
    assert all(one.end - one.begin == pytest.approx(30.0) for one in failed)  # the connection's time-out
    fate = letter.fates["bert@b.example"]
    assert (fate.state, fate.host) == ("delivered", B)
    assert fate.at is not None and 5 * 3600 < fate.at < 7.5 * 3600
    said = [line.split()[1] for line in relayed.lines if line.startswith(" ->")]
    assert said[:3] == ["EHLO", "MAIL", "RCPT"]
    assert said[3] in ("DATA", "BDAT")

    (notice,) = letter.notices
    assert notice.told is not None
    assert notice.fates["anna@a.example"].state == "delivered"
    assert 4 * 3600 <= notice.told.at < 5 * 3600  # told once, after four hours
    report = read_report(notice.told.content)
    assert report is not None
    assert [(one.recipient, one.action, one.status) for one in report.fates] == [("bert@b.example", "delayed", "4.4.1")]
    assert report.fates[0].until == pytest.approx(result.scenario.start + 4 * 86_400, abs=1.0)


def test_down_for_five_days() -> None:
    result, (letter,) = run_shipped("down-5d")
    assert story(letter) == [
        (A, "takes"),
        (A, "waits"),
        (A, "notice: delayed"),
        *[(A, "waits")] * 5,
        (A, "failed"),
        (A, "notice: failed"),
    ]
    follows(result, letter.attempts, CLASSIC, letter.accepted[0].at)
    assert result.hosts_built == 1, "a host that nobody reached was never built"
    assert result.ended == pytest.approx(4 * 86_400, abs=1.0)
    fate = letter.fates["bert@b.example"]
    assert fate.state == "failed"
    assert fate.at == pytest.approx(4 * 86_400, abs=1.0)
    delayed, failed = letter.notices
    assert delayed.subject == "Failed delivery (will be retried)"
    assert failed.subject == "Failed delivery"
    assert delayed.told is not None and delayed.told.at < 1.0


def test_greylisting() -> None:
    result, (first, second) = run_shipped("greylisting")
    assert story(first)[0] == (A, "takes")
    assert story(first)[-2:] == [(A, "relayed"), (B, "mailbox")]
    assert all(one.outcomes[0].reply.startswith("451 4.7.1 Greylisted") for one in first.attempts[:-1])
    follows(result, first.attempts, USUAL, first.accepted[0].at)
    assert first.fates["bert@b.example"].at == pytest.approx(300.0, abs=60.0)
    assert story(second) == [(A, "takes"), (A, "relayed"), (B, "mailbox")]
    assert not first.notices and not second.notices


def test_a_cc_list() -> None:
    result, (letter,) = run_shipped("cc-list")
    states = {address: (fate.state, fate.host) for address, fate in letter.fates.items()}
    assert states == {
        "bert@b.example": ("delivered", B),
        "bea@b.example": ("delivered", B),
        "carl@c.example": ("delivered", C),
        "nobody@c.example": ("failed", C),
        "dora@d.example": ("delivered", "mx.d.example"),
        "alma@a.example": ("delivered", A),
    }
    at = {address: fate.at or 0.0 for address, fate in letter.fates.items()}
    assert max(at[one] for one in ("bert@b.example", "bea@b.example", "carl@c.example", "alma@a.example")) < LATENCY
    assert at["dora@d.example"] > 40 * 60.0
    # One transaction for both people at one server.
    (together,) = [one for one in letter.attempts if one.destination == "b.example"]
    assert [one.recipient for one in together.outcomes] == ["bert@b.example", "bea@b.example"]
    assert sum(line.startswith(" -> RCPT") for line in together.lines) == 2
    assert len([one for one in letter.accepted if one.host == B]) == 1
    follows(result, [one for one in letter.attempts if one.destination == "d.example"], USUAL, letter.accepted[0].at)
    (notice,) = letter.notices
    assert notice.told is not None
    report = read_report(notice.told.content)
    assert report is not None
    assert [(one.recipient, one.status) for one in report.fates] == [("nobody@c.example", "5.1.1")]


def test_bcc() -> None:
    result, (letter,) = run_shipped("bcc")
    assert {address: fate.state for address, fate in letter.fates.items()} == dict.fromkeys(
        ("bert@b.example", "carl@c.example"), "delivered"
    )
    assert [notice.told.to for notice in letter.notices if notice.told] == [["anna@a.example"]]
    waits = [one for one in letter.attempts if one.destination == "c.example"]
    follows(result, waits, USUAL, letter.accepted[0].at)
    assert all(one.outcomes[0].status == "4.4.3" for one in waits[:-1])
    # What the two got: neither has a Bcc field.
    for attempt in letter.attempts:
        assert not any("bcc" in line.lower() for line in attempt.lines)


def test_a_mail_loop() -> None:
    _, (letter,) = run_shipped("loop")
    taken = [event.host for event in letter.accepted]
    assert taken[:4] == [A, B, C, B]
    assert len(taken) == 51, "after fifty Received fields nobody takes it"
    assert letter.fates["dora@loop.example"].state == "failed"
    assert "5.4.6" in letter.fates["dora@loop.example"].reply
    (notice,) = letter.notices
    assert notice.fates["anna@a.example"].state == "delivered"
    assert notice.notices == []


def test_a_dial_up_line() -> None:
    result, letters = run_shipped("dial-up")
    office, smart = "mail.office.example", "smart.isp.example"
    hour = 3600.0
    assert {fate.state for letter in letters for fate in letter.fates.values()} == {"delivered"}
    first, second, third = letters
    own = parse_schedule("10m, every 10m, until 3d, notice 12h")
    made = [one for one in first.attempts if one.host == office]
    follows(result, made, own, first.accepted[0].at)
    for letter, begin in ((first, 10 * hour), (second, 10 * hour), (third, 34 * hour)):
        (left,) = [one for one in letter.attempts if one.host == office and one.outcomes[0].ended == "relayed"]
        assert begin <= left.begin < begin + 20 * 60, "it left while the line was up"
        assert left.outcomes[0].host == smart
    # The first one that got through woke the other one at once.
    away = [
        one for letter in (first, second) for one in letter.attempts if one.host == office and one.outcomes[0].ended
    ]
    assert abs(away[0].begin - away[1].begin) < 30.0
    (notice,) = third.notices
    assert notice.told is not None and notice.told.action == "delayed"


def test_power_cuts() -> None:
    result, (letter,) = run_shipped("power-cut")
    hour = 3600.0
    assert story(letter) == [(A, "takes"), *[(A, "waits")] * 6, (A, "relayed"), (B, "mailbox")]
    torn, *silent, last = letter.attempts
    assert "does not take the message" in torn.outcomes[0].reply
    follows(result, [torn, *silent], USUAL, letter.accepted[0].at)
    assert last.begin == pytest.approx(4 * hour + 600.0, abs=1.0), "when the sender's server is back, at once"
    assert [one.host for one in letter.accepted] == [A, B], "a torn letter is none"


def test_the_same_seed_gives_the_same_run() -> None:
    text = shipped()["down-5h"]
    one, other = run(text)[0], run(text)[0]
    assert one.records.attempts == other.records.attempts
    assert one.records.accepted == other.records.accepted
    assert one.records.notices == other.records.notices
    third = run(text.replace("[scenario]", "[scenario]\nseed = 2"))[0]
    assert third.records.attempts != one.records.attempts


PAIR = """
[[host]]
name = "mx.a.example"
address = "192.0.2.1"
domains = "a.example"
users = "anna"

[[host]]
name = "mx.b.example"
address = "198.51.100.1"
domains = "b.example"
users = "bert"

[[letter]]
from = "anna@a.example"
to = "bert@b.example"
"""


def test_a_reply_that_is_lost_leaves_two_copies_and_one_letter() -> None:
    """RFC 1047: the next host has the letter, its 250 never comes; the letter is sent again with its Message-ID."""
    _, (letter,) = run(PAIR + '\n[[outage]]\nhost = "mx.b.example"\nhow = "dot"\nuntil = "30s"\n')
    assert story(letter) == [(A, "takes"), (B, "mailbox"), (A, "waits"), (A, "relayed"), (B, "mailbox")]
    assert "may have arrived" in letter.attempts[0].outcomes[0].reply
    assert len({one.message_id for one in letter.accepted}) == 1


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize(("code", "state"), [("451 4.3.0", "delivered"), ("554 5.7.1", "failed")])
def test_refusals_at_every_stage(stage: str, code: str, state: str) -> None:
    _, (letter,) = run(
        f'{PAIR}\n[[refusal]]\nhost = "mx.b.example"\nstage = "{stage}"\nreply = "{code} Not so"\nuntil = "30s"\n'
    )
    assert letter.fates["bert@b.example"].state == state
    assert letter.attempts[0].outcomes[0].reply == f"{code} Not so"
    assert len(letter.notices) == (state == "failed")


@pytest.mark.parametrize(
    ("how", "more", "seconds"),
    [("mute", "", 300.0), ("cut", "octets = 60", 1.0), ("slow", 'delay = "10s"', 80.0)],
)
def test_what_goes_wrong_on_the_line(how: str, more: str, seconds: float) -> None:
    """A host that says nothing costs its time-out, one that breaks off nothing, a slow one only time."""
    _, (letter,) = run(f'{PAIR}\n[[outage]]\nhost = "mx.b.example"\nhow = "{how}"\nuntil = "30s"\n{more}\n')
    first = letter.attempts[0]
    assert first.end - first.begin == pytest.approx(seconds, abs=60.0)
    assert letter.fates["bert@b.example"].state == "delivered"


def test_notices_that_were_asked_for() -> None:
    _, (letter,) = run(PAIR + 'notify = ["success"]\n')
    actions = [notice.told.action for notice in letter.notices if notice.told]
    assert actions == ["delivered"], "the next host knows DSN: it tells the sender"
    assert [notice.told.host for notice in letter.notices if notice.told] == [B]


def test_what_still_waits_at_the_end_is_told() -> None:
    head = '[scenario]\nuntil = "1h"\n'
    result, (letter,) = run(head + PAIR + '\n[[outage]]\nhost = "mx.b.example"\n')
    assert result.ended == 3600.0
    assert result.waiting == 1
    fate = letter.fates["bert@b.example"]
    assert fate.state == "waiting"
    assert fate.at is not None and fate.at > result.scenario.start + 3600.0


def test_letters_that_a_host_does_not_take() -> None:
    """The sender's own server refuses: there is no journey, and the reply is told."""
    _, (letter,) = run(PAIR.replace('to = "bert@b.example"', 'to = "nobody@a.example"'))
    assert letter.fates["nobody@a.example"].state == "refused"
    assert "5.1.1" in letter.fates["nobody@a.example"].reply
    assert letter.events() == []


def test_an_alias_stands_for_people_at_two_hosts() -> None:
    _, (letter,) = run(
        PAIR.replace('users = "anna"', 'users = ["anna", "alma"]')
        .replace('to = "bert@b.example"', 'to = "team@a.example"')
        .replace(
            'name = "mx.b.example"',
            'name = "mx.b.example"\nalias = [{ address = "all", to = ["bert@b.example", "bea@b.example"] }]',
        )
        .replace('users = "bert"', 'users = ["bert", "bea"]')
        .replace(
            'name = "mx.a.example"',
            'name = "mx.a.example"\nalias = [{ address = "team", to = ["alma@a.example", "all@b.example"] }]',
        )
    )
    assert {address: fate.state for address, fate in letter.fates.items()} == {
        "team@a.example": "expanded",
        "alma@a.example": "delivered",
        "bert@b.example": "delivered",
        "bea@b.example": "delivered",
    }


def test_aliases_that_stand_for_each_other_at_two_hosts() -> None:
    """No server can see the circle; the Received fields can (RFC 5321 §6.3)."""
    _, (letter,) = run(
        PAIR.replace('to = "bert@b.example"', 'to = "team@a.example"')
        .replace('name = "mx.b.example"', 'name = "mx.b.example"\nalias = [{ address = "all", to = "team@a.example" }]')
        .replace('name = "mx.a.example"', 'name = "mx.a.example"\nalias = [{ address = "team", to = "all@b.example" }]')
    )
    assert len(letter.accepted) == 51
    assert [notice.told.to for notice in letter.notices if notice.told] == [["anna@a.example"]]


def test_a_host_whose_power_is_cut_goes_on_where_it_was() -> None:
    """The attempt that was under way is broken off; its lease is freed at the start, and the letter is tried again."""
    result, (letter,) = run(
        PAIR
        + '\n[[outage]]\nhost = "mx.b.example"\nuntil = "2h"\n'
        + '\n[[outage]]\nhost = "mx.a.example"\nhow = "off"\nfrom = "31m"\nuntil = "61m"\n'
    )
    broken = [one for one in letter.attempts if not one.outcomes]
    assert [one.end for one in broken] == [31 * 60.0]
    following = letter.attempts[letter.attempts.index(broken[0]) + 1]
    assert following.begin == pytest.approx(61 * 60.0, abs=1.0)
    assert letter.fates["bert@b.example"].state == "delivered"
    assert result.hosts_built == 2


@pytest.mark.parametrize("seed", range(6))
def test_power_cuts_lose_no_letter_and_double_no_notice(seed: int) -> None:
    """The promise, under the movable clock: what was accepted is delivered, twice at most where the power went between
    the final dot and the note of it; every sender of a letter that cannot arrive is told once."""
    found, accepted, _ = power.faults(seed)
    assert found == []
    assert accepted > 20


def test_a_crowd_in_small() -> None:
    """The form of the measurement that fits into every run: `make box` has the large one."""
    result = Internet(parse_scenario(box.scenario(30, 300, seed=3))).run()
    assert box.faults(result) == []
    assert len(result.posted) == 300
    assert result.hosts_built <= 30
    assert len(result.records.accepted) == 600, "each was taken twice"
    assert len(result.records.attempts) > 300, "some hosts were down"
