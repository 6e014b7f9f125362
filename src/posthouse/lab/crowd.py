"""A crowd: many hosts alike that write to each other, for measuring."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from posthouse.config.load import examine
from posthouse.lab.box import usual_tables
from posthouse.lab.network import How, Outage
from posthouse.lab.scenario import HostPlan
from posthouse.lab.schema import CrowdSpec, HostSpec, LetterSpec


@dataclass(slots=True)
class Crowd:
    """Its hosts, what they send, and when some of them are down."""

    hosts: dict[str, HostPlan] = field(default_factory=dict)
    letters: list[LetterSpec] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)


def crowd(spec: CrowdSpec, seed: int, taken: set[str]) -> Crowd:
    """The same crowd for the same seed. Addresses are of 10.0.0.0/8."""
    chance = random.Random(f"{seed}/crowd")  # noqa: S311 - repeatable
    found = Crowd()
    numbers = [number for number in range(1, spec.hosts + 1) if _name(number) not in taken]
    for number in numbers:
        found.hosts[_name(number)] = _host(number)
    for number in numbers:
        if chance.random() * 100 < spec.down:
            begin = chance.uniform(0.0, spec.spread)
            end = begin + chance.uniform(0.0, spec.longest)
            found.outages.append(Outage(_name(number), chance.choice((How.SILENT, How.REFUSED)), begin, end))
    for turn in range(spec.letters):
        one, other = chance.sample(numbers, 2)
        at = spec.spread * turn / spec.letters
        found.letters.append(
            LetterSpec(_user(one), (_user(other),), size=spec.size, at=at, via=_name(one), subject=f"Letter {turn + 1}")
        )
    return found


def _host(number: int) -> HostPlan:
    name, address = _name(number), f"10.{number // 65_536}.{number // 256 % 256}.{number % 256}"
    tables = usual_tables(name, [address])
    # What bounds a person's letters would only bound the measurement.
    tables["sending"] = {
        "letters_hour": 0,
        "letters_day": 0,
        "recipients_hour": 0,
        "recipients_day": 0,
        "new_recipients_day": 0,
    }
    config, problems = examine(tables)
    assert not problems, problems
    return HostPlan(HostSpec(name, (address,), (f"d{number}.example",)), config, (_user(number),))


def _name(number: int) -> str:
    return f"h{number}.example"


def _user(number: int) -> str:
    return f"user@d{number}.example"
