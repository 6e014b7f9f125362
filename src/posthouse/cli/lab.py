"""`posthouse lab`: mail to look at. `lab internet` runs whole mail systems in a box."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json

if TYPE_CHECKING:
    from posthouse.lab.internet import Run
    from posthouse.lab.journeys import Journey
    from posthouse.lab.scenario import Scenario


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """Mail to look at, without any mail being sent.

    \b
    posthouse lab internet --list
    posthouse lab internet down-5h
    """


@lab.command("internet", cls=Verb)
@click.argument("scenario", required=False, metavar="SCENARIO.toml|NAME")
@click.option("--list", "listing", is_flag=True, help="Show the scenarios that come with Posthouse.")
@click.option("--show", is_flag=True, help="Print the scenario instead of running it.")
@click.option("--svg", default="", metavar="FILE", help="Draw the journeys as a picture.")
@click.option("--letters/--no-letters", default=True, help="Tell of every letter, or only how many there were.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.option("-v", "--verbose", count=True, help="Print the transcript of every attempt, and the notices.")
def internet(
    scenario: str | None, listing: bool, show: bool, svg: str, letters: bool, as_json: bool, verbose: int
) -> None:
    """Whole mail systems in one process, under a clock that is moved.

    \b
    posthouse lab internet --list                  the scenarios that come with Posthouse
    posthouse lab internet down-5h                 one of them: a next server that is down for five hours
    posthouse lab internet down-5h --show > my.toml
    posthouse lab internet my.toml -v --svg my.svg

    The real servers run, joined by a network in memory; what happens in days passes in a second. Told is the journey
    of each letter: who had it when, every attempt, every notice. Nothing leaves the process.

    Exit code 1: at the end a letter still waits. 78: the scenario has errors.
    """
    finish(
        "lab internet",
        as_json,
        lambda: _run(scenario, listing=listing, show=show, svg=svg, letters=letters, as_json=as_json, verbose=verbose),
    )


def _run(name: str | None, *, listing: bool, show: bool, svg: str, letters: bool, as_json: bool, verbose: int) -> int:
    if listing:
        return _list(as_json)
    if name is None:
        raise Problem(Exit.USAGE, "Say which scenario: a file, or one of those that --list shows.")
    if show:
        print(_text(name), end="")
        return Exit.OK
    from posthouse.lab.internet import Internet
    from posthouse.lab.journeys import journeys
    from posthouse.lab.loop import Stuck

    box = Internet(_load(name))
    try:
        run = box.run()
    except Stuck as stuck:
        raise Problem(Exit.SOFTWARE, f"The box came to a standstill: {stuck}.", stage="run") from stuck
    found = journeys(run)
    if svg:
        _draw(run, found, Path(svg))
    code = Exit.NOT_ALL if run.waiting else Exit.OK
    if as_json:
        _print_json(run, found, code, letters=letters)
    else:
        _print_text(run, found, letters=letters, verbose=verbose)
    return code


def _list(as_json: bool) -> int:
    from posthouse.lab.scenario import parse_scenario, shipped

    titles = {name: parse_scenario(text, name).spec.title for name, text in shipped().items()}
    if as_json:
        print_json({"ok": True, "code": 0, "scenarios": [{"name": k, "title": v} for k, v in titles.items()]})
    else:
        width = max(map(len, titles))
        for name, title in titles.items():
            print(f"{name.ljust(width)}  {title}")
    return Exit.OK


def _text(name: str) -> str:
    """A scenario as it stands in its file. Raises Problem."""
    from posthouse.lab.scenario import shipped

    if not Path(name).exists() and name in (known := shipped()):
        return known[name]
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(Exit.NO_INPUT, f"{name} cannot be read: {error}.", stage="open") from error


def _load(name: str) -> Scenario:
    """Reads a file, or a scenario that comes with the program. Raises Problem."""
    from posthouse.config.load import ConfigError
    from posthouse.lab.scenario import load_scenario, parse_scenario, shipped

    try:
        if Path(name).exists():
            return load_scenario(Path(name))
        if name in (known := shipped()):
            return parse_scenario(known[name], name)
    except ConfigError as error:
        count = len(error.problems)
        head = "The scenario has an error" if count == 1 else f"The scenario has {count} errors"
        raise Problem(Exit.CONFIG, f"{head}:\n{error}", stage="scenario") from error
    raise Problem(
        Exit.NO_INPUT,
        f"There is no file {name}, and no scenario of that name. --list shows those there are.",
        stage="open",
    )


def _print_json(run: Run, found: list[Journey], code: Exit, *, letters: bool) -> None:
    import json

    from posthouse.lab.journeys import to_json
    from posthouse.mail.charsets import escape_json

    answer: dict[str, Any] = {"ok": code == Exit.OK, "code": int(code)} | to_json(run, found if letters else [])
    print(escape_json(json.dumps(answer, ensure_ascii=False)))


def _print_text(run: Run, found: list[Journey], *, letters: bool, verbose: int) -> None:
    from posthouse.cli.journeys import lines
    from posthouse.mail.charsets import harmless_line

    terminal = sys.stdout.isatty()
    for line in lines(run, found, letters=letters, verbose=verbose):
        print(harmless_line(line) if terminal else line)
    for problem in run.problems:
        print(f"A host logged an error: {harmless_line(problem)}", file=sys.stderr)
    if terminal:
        print(f"{run.ended / 86_400:.2f} days of the box took {run.took:.2f} seconds.")


def _draw(run: Run, found: list[Journey], file: Path) -> None:
    from posthouse.cli.timeline import draw

    try:
        file.write_text(draw(run, found), encoding="utf-8")
    except OSError as error:
        raise Problem(Exit.CANNOT_CREATE, f"{file} cannot be written: {error.strerror}.", stage="save") from error
