"""`posthouse doctor --store`: whether every letter is there and whole; with `--repair` what is not is mended."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.exits import Exit, Problem, print_json
from posthouse.cli.invocation import Invocation, explained
from posthouse.cli.mailstore import refusals, require_store

if TYPE_CHECKING:
    from posthouse.ports.store import Damage, Repair

MOST_SHOWN: Final = 1000  # damages listed one by one; a destroyed disk has millions
MOST_NAMED: Final = 20  # accounts of one damage
SHOW_AFTER: Final = 1.0  # seconds before a person is told that it still goes on

_DONE: Final = {
    "mended": ("Mended:", "To be mended:"),
    "set aside": ("Put aside:", "To be put aside:"),
    "lost": ("Lost:", "Lost:"),
}


def examine(invocation: Invocation, *, full: bool, as_json: bool) -> int:
    """Checks the store, tells what was found and returns the exit code. Raises Problem."""
    with explained(), refusals():
        data = _directory(invocation)
        begin = time.monotonic()
        found, count = _check(data, full=full)
        if as_json:
            fields = {"data": str(data), "damages": _values(found), "count": count, "seconds": _since(begin)}
            print_json({"ok": not count, "code": int(bool(count)), **fields})
        elif not count:
            print(f"The store in {data} is sound ({_since(begin):.1f} s).")
        else:
            print(_report(found, count))
            print("\nKeep a copy of the whole directory; posthouse doctor --store --repair mends what can be mended.")
        return Exit.NOT_ALL if count else Exit.OK


def repair(invocation: Invocation, *, ask: bool, dry: bool, as_json: bool) -> int:
    """Repairs the store, tells what was done and returns the exit code. Raises Problem."""
    with explained(), refusals():
        from posthouse.store import repair_store, require_idle

        data = _directory(invocation)
        require_idle(data)
        if ask and not sys.stdin.isatty():
            raise Problem(Exit.USAGE, "Nobody is there to be asked. Repeat it with --yes, or with --dry-run.")
        begin = time.monotonic()
        found, count = _check(data, full=True)
        if not count:
            return _tell_sound(data, begin, as_json)
        if ask:
            print(_report(found, count))
            _ask(data)
        with _progress("repairing the store"):
            done = repair_store(data, dry=dry)
        if not dry:
            done.remains = _check(data, full=True)[0]
        if as_json:
            print_json(_result(data, found, count, done, begin))
        else:
            print(_told(data, done))
        return Exit.NOT_ALL if dry or done.remains else Exit.OK


def _directory(invocation: Invocation) -> Path:
    """The data directory, in the name of its owner from now on."""
    from posthouse.store import become_owner

    _, data = invocation.load()
    require_store(data)
    become_owner(data, examines=True)
    return data


def _check(data: Path, *, full: bool) -> tuple[list[Damage], int]:
    """The damages found, at most MOST_SHOWN of them, and how many there are."""
    from posthouse.ports.store import Damage
    from posthouse.store import StoreError, StoreInUse, StoreTooNew, examine_store

    found: list[Damage] = []
    count = 0
    with _progress("checking the store"):
        try:
            for portion in examine_store(data, full=full):
                count += len(portion)
                found += portion[: MOST_SHOWN - len(found)]
        except (StoreInUse, StoreTooNew):
            raise
        except StoreError as error:
            return [Damage("cannot be opened", str(data), str(error))], 1
    return found, count


@contextmanager
def _progress(doing: str) -> Iterator[None]:
    """Tells a person on a terminal that it goes on."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()

    def show() -> None:
        begin = time.monotonic()
        while not over.wait(SHOW_AFTER):
            sys.stderr.write(f"\r{doing}, {time.monotonic() - begin:.0f} s ")
            sys.stderr.flush()
        sys.stderr.write("\r" + " " * 40 + "\r")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _ask(data: Path) -> None:
    print(
        f"\nA new database is made of everything that can be read; the old one is kept beside it in {data}. Letters "
        "that are not whole are put into lost+found there. If you have a backup that is newer than every letter you "
        "would miss, bring that back instead."
    )
    if input("Repair it now? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Problem(Exit.NOT_ALL, "Nothing was changed.")


def _tell_sound(data: Path, begin: float, as_json: bool) -> int:
    if as_json:
        fields = {"data": str(data), "damages": [], "count": 0, "done": [], "remains": [], "seconds": _since(begin)}
        print_json({"ok": True, "code": 0, **fields})
    else:
        print(f"The store in {data} is sound: there is nothing to repair.")
    return Exit.OK


def _result(data: Path, found: list[Damage], count: int, done: Repair, begin: float) -> dict[str, Any]:
    code = int(bool(done.dry or done.remains))
    return {
        "ok": not code,
        "code": code,
        "data": str(data),
        "dry_run": done.dry,
        "damages": _values(found),
        "count": count,
        "done": _values(done.told),
        "remains": _values(done.remains),
        "kept": done.kept,
        "letters": done.letters,
        "accounts": done.accounts,
        "seconds": _since(begin),
    }


def _told(data: Path, done: Repair) -> str:
    """The report of a repair."""
    lines: list[str] = []
    for what, titles in _DONE.items():
        chosen = [damage for damage in done.told if damage.what == what]
        if chosen:
            lines += [titles[done.dry], *_items(chosen[:MOST_SHOWN]), ""]
            if len(chosen) > MOST_SHOWN:
                lines += [f"... and {len(chosen) - MOST_SHOWN} more; --json has them all.", ""]
    holds = f"{_counted(done.letters, 'letter')} of {_counted(done.accounts, 'account')}"
    if done.dry:
        lines.append(f"Nothing was changed. A repair would keep {holds}.")
        return "\n".join(lines)
    lines.append(f"The store in {data} is repaired and holds {holds}.")
    if done.kept:
        lines.append(f"The old database is {done.kept} there; remove it when nobody misses anything.")
    if done.remains:
        lines += ["", "This remains:", *_items(done.remains)]
    return "\n".join(lines)


def _report(found: list[Damage], count: int) -> str:
    lines = [f"{count} damages were found:" if count > 1 else "One damage was found:", "", *_items(found)]
    if count > len(found):
        lines.append(f"... and {count - len(found)} more.")
    return "\n".join(lines)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _items(damages: Iterable[Damage]) -> list[str]:
    lines: list[str] = []
    for damage in damages:
        lines += [f"{damage.what}: {damage.where}", f"    {damage.text}"]
        if damage.whose:
            more = " and others" if len(damage.whose) > MOST_NAMED else ""
            lines.append(f"    Concerned: {', '.join(damage.whose[:MOST_NAMED])}{more}")
    return lines


def _values(damages: Iterable[Damage]) -> list[dict[str, object]]:
    return [{"what": one.what, "where": one.where, "text": one.text, "whose": one.whose} for one in damages]


def _since(begin: float) -> float:
    return round(time.monotonic() - begin, 3)
