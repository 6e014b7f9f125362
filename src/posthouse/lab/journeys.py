"""The journey of each letter: who had it when, every attempt, every notice. Made of the records of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from posthouse.lab.internet import Posted, Run
from posthouse.lab.record import Accepted, Attempt, Told

Key = tuple[str, str]  # a host, and its own id of a letter


@dataclass(slots=True)
class Fate:
    """What became of a letter for one recipient: `state` is "delivered", "failed", "refused", "waiting", or "expanded"
    for an alias that stood for others; `at` when it came to that, for a letter that waits when it is tried next."""

    state: str
    at: float | None = None
    host: str = ""
    reply: str = ""


@dataclass(slots=True)
class Journey:
    """One letter, from its sender to everybody. `posted` is None for a notice, `told` for all else."""

    message_id: str
    subject: str
    sender: str
    begun: float
    posted: Posted | None = None
    told: Told | None = None
    accepted: list[Accepted] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    notices: list[Journey] = field(default_factory=list)
    fates: dict[str, Fate] = field(default_factory=dict)

    def events(self) -> list[Accepted | Attempt | Journey]:
        """Everything that happened to it, in order."""
        found: list[tuple[float, int, Accepted | Attempt | Journey]] = []
        found += [(one.at, 0 if one.mode == "submission" else 2, one) for one in self.accepted]
        found += [(one.told_at, 1, one) for one in self.attempts]
        found += [(one.begun, 3, one) for one in self.notices]
        return [event for _, _, event in sorted(found, key=lambda row: row[:2])]

    @property
    def state(self) -> str:
        """The worst that became of it for anybody."""
        states = {fate.state for fate in self.fates.values()}
        return next((one for one in ("waiting", "failed", "refused") if one in states), "delivered")


class _Index:
    """The records, by what they belong to."""

    def __init__(self, run: Run) -> None:
        self.accepted: dict[str, list[Accepted]] = defaultdict(list)
        self.attempts: dict[Key, list[Attempt]] = defaultdict(list)
        self.notices: dict[Key, list[Told]] = defaultdict(list)
        for accepted in run.records.accepted:
            self.accepted[accepted.message_id].append(accepted)
        for attempt in run.records.attempts:
            self.attempts[attempt.host, attempt.letter].append(attempt)
        for told in run.records.notices:
            self.notices[told.host, told.about].append(told)


def journeys(run: Run) -> list[Journey]:
    """The journey of every letter that somebody sent, in the order in which they were sent."""
    index = _Index(run)
    return [_of_letter(index, posted) for posted in run.posted]


def _of_letter(index: _Index, posted: Posted) -> Journey:
    spec = posted.spec
    journey = Journey(posted.message_id, spec.subject, spec.sender, posted.at, posted)
    _follow(index, journey, [])
    for recipient in posted.recipients:
        journey.fates[recipient] = _fate(journey, recipient)
    _expand(journey)
    for recipient, reply in posted.refused:
        journey.fates[recipient] = Fate("refused", posted.at, posted.via, reply)
    if posted.failure and not journey.accepted:
        for recipient in posted.recipients:
            journey.fates.setdefault(recipient, Fate("refused"))
            if journey.fates[recipient].state == "waiting":
                journey.fates[recipient] = Fate("refused", posted.at, posted.via, posted.failure)
    return journey


def _expand(journey: Journey) -> None:
    """Whom aliases stood for are recipients, too, and the aliases are nobody."""
    seen: dict[str, None] = {}
    for accepted in journey.accepted:
        seen.update(dict.fromkeys(accepted.here))
        seen.update(dict.fromkeys(who for who, _ in accepted.onward))
    reached = {who: _fate(journey, who) for who in seen if who not in journey.fates}
    for recipient, fate in list(journey.fates.items()):
        # Nobody has it, and nobody tries: the next host took it for others.
        if reached and fate.state == "waiting" and fate.at is None and journey.accepted:
            journey.fates[recipient] = Fate("expanded", fate.at, fate.host)
    journey.fates |= {who: fate for who, fate in reached.items() if fate.state != "waiting" or fate.at is not None}


def _of_notice(index: _Index, told: Told) -> Journey:
    journey = Journey(told.message_id, told.subject, "", told.at, None, told)
    _follow(index, journey, [(told.host, told.letter)])
    queued = {one.recipient for attempt in journey.attempts for one in attempt.outcomes}
    for recipient in told.to:
        waits = recipient in queued or any(recipient in one.here for one in journey.accepted)
        journey.fates[recipient] = _fate(journey, recipient) if waits else Fate("delivered", told.at, told.host)
    return journey


def _follow(index: _Index, journey: Journey, keys: list[Key]) -> None:
    journey.accepted = index.accepted.get(journey.message_id, [])
    keys = [*keys, *((one.host, one.letter) for one in journey.accepted)]
    for key in keys:
        journey.attempts += index.attempts.get(key, [])
        journey.notices += [_of_notice(index, told) for told in index.notices.get(key, [])]


def _fate(journey: Journey, recipient: str) -> Fate:
    for accepted in journey.accepted:
        if recipient in accepted.here:
            return Fate("delivered", accepted.at, accepted.host)
    last = None
    for attempt in sorted(journey.attempts, key=lambda one: one.end):
        for outcome in attempt.outcomes:
            if outcome.recipient == recipient:
                last = attempt, outcome
    if last is None:
        return Fate("waiting")
    attempt, outcome = last
    if outcome.ended == "failed":
        return Fate("failed", attempt.end, outcome.host or attempt.host, outcome.reply)
    return Fate("waiting", outcome.due, attempt.host, outcome.reply)


# For programs


def to_json(run: Run, found: Sequence[Journey]) -> dict[str, Any]:
    """The whole of it as an answer in JSON."""
    return {
        "scenario": run.scenario.spec.title,
        "start": _moment(run, 0.0),
        "end": _moment(run, run.ended),
        "summary": summary(run, found),
        "hosts": [
            {"name": name, "addresses": list(plan.spec.address), "domains": list(plan.spec.domains)}
            for name, plan in run.scenario.hosts.items()
        ],
        "letters": [_journey_json(run, one) for one in found],
        "problems": run.problems,
    }


def summary(run: Run, found: Sequence[Journey]) -> dict[str, int]:
    """How many of what there were."""
    fates = [fate.state for journey in found for fate in journey.fates.values()]
    counted = {state: fates.count(state) for state in ("delivered", "failed", "refused", "waiting")}
    return {
        "letters": len(found),
        "recipients": len(fates) - fates.count("expanded"),
        **counted,
        "hosts": run.hosts_built,
        "attempts": sum(attempt.made for attempt in run.records.attempts),
        "notices": len(run.records.notices),
    }


def _journey_json(run: Run, journey: Journey) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "message_id": journey.message_id,
        "subject": journey.subject,
        "from": journey.sender,
        "at": _moment(run, journey.begun),
        "state": journey.state,
        "recipients": [
            {
                "address": address,
                "state": fate.state,
                "host": fate.host,
                "reply": fate.reply,
                "at": None if fate.at is None else _moment(run, _seconds(run, fate)),
            }
            for address, fate in journey.fates.items()
        ],
        "events": [_event_json(run, event) for event in journey.events()],
    }
    if journey.told is not None:
        answer["action"] = journey.told.action
        answer["content"] = journey.told.content.decode("utf-8", "replace")
    return answer


def _seconds(run: Run, fate: Fate) -> float:
    """When; the next attempt of a letter that waits is wall time in the records."""
    at = fate.at or 0.0
    return at - run.scenario.start if fate.state == "waiting" else at


def _event_json(run: Run, event: Accepted | Attempt | Journey) -> dict[str, Any]:
    if isinstance(event, Accepted):
        return {
            "what": "accepted",
            "at": _moment(run, event.at),
            "host": event.host,
            "id": event.letter,
            "peer": event.peer,
            "helo": event.helo,
            "protocol": event.mode,
            "here": event.here,
            "onward": [{"recipient": who, "destination": where} for who, where in event.onward],
        }
    if isinstance(event, Journey):
        assert event.told is not None
        return {"what": "notice", "host": event.told.host, "to": event.told.to, **_journey_json(run, event)}
    return {
        "what": "attempt",
        "at": _moment(run, event.begin),
        "until": _moment(run, event.end),
        "host": event.host,
        "id": event.letter,
        "destination": event.destination,
        "made": event.made,
        "results": [
            {
                "recipient": one.recipient,
                "reply": one.reply,
                "status": one.status,
                "host": one.host,
                "ended": one.ended,
                "next": None if one.due is None else _moment(run, one.due - run.scenario.start),
            }
            for one in event.outcomes
        ],
        "transcript": event.lines,
    }


def _moment(run: Run, seconds: float) -> str:
    moment = datetime.fromtimestamp(run.scenario.start + seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def every(found: Sequence[Journey]) -> Iterator[Journey]:
    """All journeys, those of notices too, each after the letter it is about."""
    for journey in found:
        yield journey
        yield from every(journey.notices)
