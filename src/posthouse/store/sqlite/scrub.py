"""The scrub after an unclean stop: every row, every index and every content is read once in the background, and what is
damaged is named.

It has a thread of its own, reads slices of some 64 letters in short transactions and rests after each for as long as it
took, so at most half a core and half a disk are busy with it, and no letter waits.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Final

from posthouse.observe.log import Log
from posthouse.ports.store import Damage
from posthouse.store.sqlite.check import Examination
from posthouse.store.sqlite.inspection import Inspection

REST: Final = 0.02  # seconds between two slices at least
MOST_TOLD: Final = 100  # damages that are logged one by one


def tell(log: Log, damage: Damage) -> None:
    """Logs what is damaged and whose it is."""
    log.error(
        "store_damaged",
        what=damage.what,
        where=damage.where,
        detail=damage.text,
        whose=", ".join(damage.whose[:20]),
        advice="run posthouse doctor --store",
    )


class Scrub:
    """One run."""

    def __init__(self, inspection: Inspection, examination: Examination, log: Log) -> None:
        self._inspection = inspection
        self._examination = examination
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="posthouse-scrub", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = 0
        began = time.monotonic()
        portions = itertools.chain(self._inspection.registers(), self._inspection.rows(), self._examination.contents())
        while not self._stop.is_set():
            at = time.monotonic()
            portion = next(portions, None)
            if portion is None:
                self._log.info("store_scrubbed", damages=count, seconds=round(time.monotonic() - began, 1))
                return
            for damage in portion:
                count += 1
                if count <= MOST_TOLD:
                    tell(self._log, damage)
            self._stop.wait(max(REST, time.monotonic() - at))

    def close(self) -> None:
        """Breaks off."""
        self._stop.set()
        self._thread.join()
