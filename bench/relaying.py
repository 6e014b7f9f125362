"""How fast letters are carried on: `Relay.deliver` from many tasks to Postfix's `smtp-sink` on loopback.

    python -m bench.relaying --tasks 20 --letters 20000

Prints letters a second and the CPU time of each. The queue and the disk are not part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from bench.machine import free_port, start, stop, wait_for_port
from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mta.plan import Hop, Plan
from posthouse.mta.relay import Relay
from posthouse.net.system import SystemClock
from posthouse.observe.log import QuietLog
from posthouse.ports.queue import Item, Parcel, State, Status
from posthouse.store.content import SmallLetter

SENDER = Address.parse("anna@here.example")
RECIPIENT = Address.parse("boris@next.example")


def letter(size: int) -> bytes:
    """A letter of so many octets."""
    header = b"From: anna@here.example\r\nTo: boris@next.example\r\nSubject: bench\r\n\r\n"
    line = b"The quick brown fox jumps over the lazy dog and goes on its way.\r\n"
    return header + (line * (size // len(line) + 1))[: size - len(header) - 2] + b"\r\n"


async def carry(port: int, tasks: int, letters: int, size: int) -> str:
    """Carries them on, after as many to warm up; the figures as one line."""

    async def plan(destination: str) -> Plan:
        return Plan((Hop("sink", port, ("127.0.0.1",)),))

    relay = Relay(plan, QuietLog(), SystemClock(), name="here.example")
    content = letter(size)
    done = 0

    async def worker() -> None:
        nonlocal done
        while done < letters:
            done += 1
            item = Item(done, str(done), str(SENDER), str(RECIPIENT), "next.example", size, State.DUE, 0, 0.0, 0.0)
            envelope = Envelope(SENDER, [Recipient(RECIPIENT)])
            parcel = Parcel("next.example", envelope, [item], SmallLetter(b"", len(content), content))
            (result,) = await relay.deliver(parcel)
            if result.state is not Status.RELAYED:
                raise SystemExit(f"the sink did not take a letter: {result}")

    for _ in ("warm", "measured"):
        done = 0
        begun, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(tasks)))
        seconds, used = time.perf_counter() - begun, time.process_time() - used
    await relay.close()
    return f"{tasks} tasks: {letters / seconds:.0f} letters/s, {used / letters * 1e6:.0f} us of CPU each"


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(prog="python -m bench.relaying", description="Letters to smtp-sink, a second.")
    options.add_argument("--tasks", type=int, default=20, help="deliveries at once (default: %(default)s)")
    options.add_argument("--letters", type=int, default=20_000, help="how many (default: %(default)s)")
    options.add_argument("--size", type=int, default=4096, help="octets of each (default: %(default)s)")
    given = options.parse_args()
    sink = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")
    if sink is None:
        raise SystemExit("smtp-sink is not here: install the package postfix")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = start([sink, "-u", "nobody", f"127.0.0.1:{port}", "1000"], Path(folder) / "sink.log")
        try:
            wait_for_port(port, process)
            print(asyncio.run(carry(port, given.tasks, given.letters, given.size)))
        finally:
            stop(process)


if __name__ == "__main__":
    main()
