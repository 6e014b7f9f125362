"""The internet in a box at its full size: a thousand hosts, a hundred thousand letters (`make box`).

Every tenth host is down for some hours. Every letter must come to its mailbox once, no host may log an error, and
the whole must stay within the bounds: 2 GiB of memory and 15 minutes.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence

from posthouse.lab.internet import Internet, Run
from posthouse.lab.scenario import parse_scenario

MOST_MEMORY = 2 * 1024 * 1024  # KiB
MOST_SECONDS = 900.0


def scenario(hosts: int, letters: int, seed: int) -> str:
    """The crowd as a scenario."""
    return f"""
[scenario]
title = "A crowd of {hosts} hosts and {letters} letters"
seed = {seed}

[crowd]
hosts = {hosts}
letters = {letters}
down = 10
"""


def faults(run: Run) -> list[str]:
    """What is wrong with a run."""
    found = list(run.problems)
    copies = Counter(one.message_id for one in run.records.accepted if one.here)
    for posted in run.posted:
        if copies[posted.message_id] != 1:
            found.append(f"{posted.message_id} lies in {copies[posted.message_id]} mailboxes")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it and prints the figures; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    begun, cpu = time.perf_counter(), time.process_time()
    box = Internet(parse_scenario(scenario(options.hosts, options.letters, options.seed)))
    run = box.run()
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = sum(attempt.made for attempt in run.records.attempts)
    print(f"hosts built   {run.hosts_built}")
    print(f"letters       {len(run.posted)}, {made} attempts, {len(run.records.notices)} notices")
    print(f"time          {run.ended / 3600:.1f} hours of the box in {took:.0f} s, {cpu:.0f} s of the processor")
    print(f"              {len(run.posted) / took:.0f} letters a second")
    print(f"memory        {memory / 1024:.0f} MiB at most")
    wrong = faults(run)
    if memory > MOST_MEMORY:
        wrong.append(f"{memory} KiB are more than 2 GiB")
    if took > MOST_SECONDS:
        wrong.append(f"{took:.0f} s are more than 15 minutes")
    for text in wrong[:20]:
        print(f"WRONG: {text}")
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
