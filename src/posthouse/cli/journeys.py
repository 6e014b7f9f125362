"""The journeys of letters as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from posthouse.lab.internet import Run
    from posthouse.lab.journeys import Fate, Journey
    from posthouse.lab.record import Accepted, Attempt, Outcome


MOST_ALIKE: Final = 10  # attempts in a row that ended the same way and are all told
FIRST_ALIKE: Final = 3  # of more than that, how many are told before the last one


def lines(run: Run, found: Sequence[Journey], *, letters: bool = True, verbose: int = 0) -> Iterator[str]:
    """All of it: every letter with what happened to it, then how many there were."""
    from posthouse.lab.journeys import summary

    start = run.scenario.start
    if run.scenario.spec.title:
        yield run.scenario.spec.title
        yield ""
    for number, journey in enumerate(found if letters else (), 1):
        people = list(journey.fates) if journey.posted is None else journey.posted.recipients
        yield f"{number}. {_quoted(journey.subject)} from {journey.sender} to {_people(people)}"
        if journey.posted is not None and journey.posted.failure:
            yield f"   {_when(start, journey.begun)}  it could not be sent: {journey.posted.failure}"
        yield from _events(start, journey, "   ", verbose)
        for address, fate in journey.fates.items():
            yield f"   = {address}: {_fate(start, journey, fate)}"
        yield ""
    counted = summary(run, found)
    yield (
        f"{_number(counted, 'letters')} to {_number(counted, 'recipients')}: {counted['delivered']} delivered, "
        f"{counted['failed']} failed, {counted['refused']} refused, {counted['waiting']} waiting. "
        f"{_number(counted, 'attempts')}, {_number(counted, 'notices')}, {_number(counted, 'hosts')}."
    )


def _events(start: float, journey: Journey, indent: str, verbose: int) -> Iterator[str]:
    from posthouse.lab.record import Accepted, Attempt

    counts: Counter[tuple[str, str]] = Counter()
    alike = _Alike(indent)
    for event in journey.events():
        if isinstance(event, Attempt):
            counts[event.host, event.destination] += event.made
            told = list(_attempt(start, event, counts[event.host, event.destination], indent))
            if verbose:
                yield from told
                yield from (f"{indent}    {line}" for line in event.lines)
            else:
                yield from alike.add(event, told)
            continue
        yield from alike.end()
        if isinstance(event, Accepted):
            yield f"{indent}{_when(start, event.at)}  {event.host} {_accepted(event)}"
        else:
            assert event.told is not None
            yield (
                f"{indent}{_when(start, event.begun)}  {event.told.host} writes a notice ({event.told.action}) to "
                f"{_people(event.told.to)}: {_quoted(event.subject)}"
            )
            yield from _events(start, event, indent + "   | ", verbose)
            if verbose:
                yield from (f"{indent}   | {line}" for line in _letter(event.told.content))
    yield from alike.end()


class _Alike:
    """Shortens long rows of attempts that all ended the same way: the first and the last ones tell enough."""

    def __init__(self, indent: str) -> None:
        self._indent = indent
        self._held: list[list[str]] = []
        self._kind: object = None

    def add(self, event: Attempt, told: list[str]) -> Iterator[str]:
        """One more attempt; lines that can be told already."""
        kind = (event.host, event.destination, tuple((one.recipient, one.reply) for one in event.outcomes))
        if kind != self._kind:
            yield from self.end()
            self._kind = kind
        self._held.append(told)

    def end(self) -> Iterator[str]:
        """What was held back."""
        held, self._held, self._kind = self._held, [], None
        if len(held) > MOST_ALIKE:
            left = len(held) - FIRST_ALIKE - 1
            note = f"{self._indent}... {left} more attempts that ended the same way ..."
            held = [*held[:FIRST_ALIKE], [note], held[-1]]
        for told in held:
            yield from told


def _accepted(event: Accepted) -> str:
    whence = f"takes it from {event.helo} [{event.peer}]" if event.peer else "takes it"
    if event.mode == "submission":
        whence = "takes it from its sender"
    parts = [whence]
    if event.here:
        parts.append(f"it lies in the mailbox of {_people(event.here)}")
    if event.onward:
        parts.append("it goes on to " + _people(list(dict.fromkeys(_where(where) for _, where in event.onward))))
    return "; ".join(parts)


def _where(destination: str) -> str:
    return f"the hosts of its route {destination}" if destination.startswith("*") else destination


def _attempt(start: float, event: Attempt, count: int, indent: str) -> Iterator[str]:
    what = f"attempt {count}" if event.made else "makes no attempt"
    if not event.outcomes:
        yield f"{indent}{_when(start, event.told_at)}  {event.host} {what}: broken off when the power was cut"
    for one in event.outcomes:
        who = f" for {one.recipient}" if len(event.outcomes) > 1 else ""
        yield f"{indent}{_when(start, event.told_at)}  {event.host} {what}{who}: {_outcome(start, event, one)}"


def _outcome(start: float, event: Attempt, one: Outcome) -> str:
    host = one.host or event.destination
    if one.ended == "relayed":
        return f"{host} took it: {one.reply}"
    text = f"{host}: {one.reply} ({one.status})" if one.status not in one.reply else f"{host}: {one.reply}"
    return f"{text}; given up" if one.due is None else f"{text}; again at {_clock(one.due)}"


def _fate(start: float, journey: Journey, fate: Fate) -> str:
    if fate.at is None:
        return fate.state
    if fate.state == "waiting":
        return f"waiting at {fate.host}, next attempt {_clock(fate.at)}"
    after = _span(fate.at - journey.begun)
    if fate.state == "delivered":
        return f"delivered at {fate.host} after {after}"
    return f"{fate.state} after {after}: {fate.reply}"


def _letter(content: bytes) -> list[str]:
    """The part of a notice that people read."""
    from posthouse.mail.mime import decoded, parse

    root = parse(content)
    part = next((one for one in root.children if one.type == "text/plain"), root)
    text = b"".join(decoded(content, part)).decode("utf-8", "replace")
    return text.replace("\r", "").strip().split("\n")


def _when(start: float, seconds: float) -> str:
    return _clock(start + seconds)


def _clock(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall, UTC):%a %d %b %H:%M:%S}"


def _span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = round(seconds)
    parts = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2]) or "less than a second"


def _people(names: Sequence[str]) -> str:
    shown = list(names[:5])
    if len(names) > 5:
        shown.append("another one" if len(names) == 6 else f"{len(names) - 5} others")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nobody"


def _number(counted: Mapping[str, int], what: str) -> str:
    return f"{counted[what]} {what[:-1] if counted[what] == 1 else what}"


def _quoted(text: str) -> str:
    return f'"{text}"'
