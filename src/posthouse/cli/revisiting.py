"""`posthouse read new --watch S`: again and again, whatever happens to the line."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from posthouse.cli.exits import Exit, Problem, complain, json_of, print_json
from posthouse.cli.reading import collect

if TYPE_CHECKING:
    from posthouse.cli.reading import Access, Job

PASSING: Final = (Exit.TEMPORARY, Exit.NO_HOST)  # a laptop without a network finds no names either


async def watch(access: Access, job: Job, seconds: float) -> NoReturn:
    """Collects what is new, waits and begins anew, until somebody ends it. What passes is told and tried again; raises
    Problem for what needs a person, and for a host that was never found."""
    job = replace(job, watched=True)
    met = False
    while True:
        try:
            await collect(access, job)
            met = True
        except Problem as problem:
            if problem.code not in PASSING or not (met or problem.code == Exit.TEMPORARY):
                raise
            _tell(problem, as_json=job.as_json)
        sys.stdout.flush()
        await asyncio.sleep(seconds)


def _tell(problem: Problem, *, as_json: bool) -> None:
    if as_json:
        print_json(json_of(problem))
    else:
        complain("read", problem)
