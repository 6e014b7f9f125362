"""Power cuts at random in the box, and what must hold whatever they hit: `make torture` runs many rounds.

Two hosts, one of which sends fifty letters to the other, ten of them to nobody; twelve times the power of one of the
two is cut for some seconds.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from posthouse.lab.internet import Internet
from posthouse.lab.journeys import journeys
from posthouse.lab.scenario import parse_scenario

CUTS = 12

HOSTS = """
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
latency = "200ms"

[[letter]]
from = "anna@a.example"
to = "bert@b.example"
count = 40
every = "2s"

[[letter]]
from = "anna@a.example"
to = "nobody@b.example"
count = 10
every = "7s"
"""


def scenario(seed: int) -> str:
    """The scenario of one round."""
    chance = random.Random(seed)
    text = f"[scenario]\nseed = {seed}\n{HOSTS}"
    for _ in range(CUTS):
        begin = chance.uniform(1.0, 90.0)
        host = chance.choice(["mx.a.example", "mx.b.example"])
        text += f'\n[[outage]]\nhost = "{host}"\nhow = "off"\nfrom = {begin:.3f}\nuntil = {begin + 2.5:.3f}\n'
    return text


def faults(seed: int) -> tuple[list[str], int, int]:
    """One round: what was lost or doubled, how many letters were accepted, how many copies were too many."""
    result = Internet(parse_scenario(scenario(seed))).run()
    found = list(result.problems)
    if result.waiting:
        found.append(f"{result.waiting} recipients still wait")
    accepted = [one for one in journeys(result) if one.posted is not None and one.posted.reply]
    copies = 0
    for letter in accepted:
        (who,) = letter.fates
        actions = [notice.told.action for notice in letter.notices if notice.told is not None]
        if who == "nobody@b.example":
            if actions != ["failed"]:
                found.append(f"{letter.message_id}: the notices were {actions}")
            continue
        if actions:
            found.append(f"{letter.message_id}: the notices were {actions}")
        here = sum(bool(one.here) for one in letter.accepted)
        if not here:
            found.append(f"{letter.message_id}: lost")
        copies += max(here - 1, 0)
    if copies > CUTS:
        found.append(f"{copies} copies too many for {CUTS} power cuts")
    return found, len(accepted), copies


def main(arguments: Sequence[str] | None = None) -> int:
    """Many rounds; 1 when anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    wrong = letters = doubled = 0
    for seed in range(options.seed, options.seed + options.rounds):
        found, accepted, copies = faults(seed)
        letters, doubled, wrong = letters + accepted, doubled + copies, wrong + bool(found)
        for text in found:
            print(f"round {seed}: {text}")
    print(
        f"box: {options.rounds} rounds with {CUTS} power cuts each, {letters} letters accepted, {doubled} came twice, "
        f"{wrong} rounds were wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
