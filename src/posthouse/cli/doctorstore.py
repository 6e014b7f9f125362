"""`posthouse doctor --store`: whether every letter is there and whole."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from posthouse.cli.exits import Exit, print_json
from posthouse.cli.invocation import Invocation, explained
from posthouse.cli.mailstore import refusals, require_store

if TYPE_CHECKING:
    from posthouse.ports.store import Damage

MOST_SHOWN: Final = 1000  # damages listed one by one; a destroyed disk has millions
MOST_NAMED: Final = 20  # accounts of one damage
SHOW_AFTER: Final = 1.0  # seconds before a person is told that it still goes on


def examine(invocation: Invocation, *, full: bool, as_json: bool) -> int:
    """Checks the store, tells what was found and returns the exit code. Raises Problem."""
    with explained(), refusals():
        _, data = invocation.load()
        require_store(data)
        begin = time.monotonic()
        found, count = asyncio.run(_check(data, full=full))
        return _tell(data, found, count, time.monotonic() - begin, as_json)


async def _check(data: Path, *, full: bool) -> tuple[list[Damage], int]:
    """The damages found, at most MOST_SHOWN of them, and how many there are."""
    from posthouse.ports.store import Damage
    from posthouse.store import StoreError, StoreInUse, StoreTooNew, become_owner, open_store

    become_owner(data)
    try:
        store = open_store(data, serve=False)
    except (StoreInUse, StoreTooNew):
        raise
    except StoreError as error:
        return [Damage("cannot be opened", str(data), str(error))], 1
    found: list[Damage] = []
    count = 0
    progress = asyncio.create_task(_progress())
    try:
        async for damage in store.check(full=full):
            count += 1
            if len(found) < MOST_SHOWN:
                found.append(damage)
    finally:
        progress.cancel()
        await asyncio.wait([progress])
        await store.close()
    return found, count


async def _progress() -> None:
    """Tells a person on a terminal that the check goes on."""
    if not sys.stderr.isatty():
        return
    begin = time.monotonic()
    await asyncio.sleep(SHOW_AFTER)
    try:
        while True:
            sys.stderr.write(f"\rchecking the store, {time.monotonic() - begin:.0f} s ")
            sys.stderr.flush()
            await asyncio.sleep(SHOW_AFTER)
    finally:
        sys.stderr.write("\r" + " " * 40 + "\r")


def _tell(data: Path, found: list[Damage], count: int, seconds: float, as_json: bool) -> int:
    if as_json:
        damages = [
            {"what": damage.what, "where": damage.where, "text": damage.text, "whose": damage.whose} for damage in found
        ]
        fields = {"data": str(data), "damages": damages, "count": count, "seconds": round(seconds, 3)}
        print_json({"ok": not count, "code": int(bool(count)), **fields})
    elif not count:
        print(f"The store in {data} is sound ({seconds:.1f} s).")
    else:
        print(_report(found, count))
    return Exit.NOT_ALL if count else Exit.OK


def _report(found: list[Damage], count: int) -> str:
    lines = [f"{count} damages were found:" if count > 1 else "One damage was found:", ""]
    for damage in found:
        lines.append(f"{damage.what}: {damage.where}")
        lines.append(f"    {damage.text}")
        if damage.whose:
            lines.append(
                f"    Concerned: {', '.join(damage.whose[:20])}{' and others' if len(damage.whose) > 20 else ''}"
            )
    if count > len(found):
        lines.append(f"... and {count - len(found)} more.")
    lines += ["", "Keep a copy of the whole directory before anything in it is repaired."]
    return "\n".join(lines)
