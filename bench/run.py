"""`python -m bench.run`: measures Posthouse beside Postfix and Dovecot, and says what holds.

Servers are started in folders of their own on loopback, measured in turn (A B A B), and stopped again; nothing of
the system's own mail configuration is touched.  README.md in this folder tells what is measured and what is not.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import collecting, generator, machine, onward, peers, report, sink
from bench.machine import BenchError
from bench.posthouse import Posthouse
from bench.workloads import Peer, Workload, workloads

HERE = Path(__file__).resolve().parent
MEMORY_LIMIT_KIB = 80 * 1024


@dataclass(slots=True)
class Options:
    """What the command line asked for."""

    only: list[str]
    rounds: int
    short: bool
    scale: float
    any_disk: bool
    json: bool
    peers: list[Peer]
    posthouse: list[str] | None
    work: Path
    results: Path
    keep: bool


@dataclass(slots=True)
class Bench:
    """One run of the bench: its options, and what it has found so far."""

    options: Options
    folder: Path
    samples: dict[str, report.Samples] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    serial: Iterator[int] = field(default_factory=itertools.count)

    def run(self, chosen: list[Workload]) -> None:
        """Measure workloads; those with the same mailboxes share started servers."""
        for _, group in itertools.groupby(chosen, key=_setup):
            with contextlib.ExitStack() as stack:
                members = list(group)
                servers = self._start(members[0], stack)
                for workload in members:
                    self._measure(workload, servers)
                self._note_memory(servers)

    def _start(self, workload: Workload, stack: contextlib.ExitStack) -> list[peers.Server]:
        servers = []
        for make in self._makers(workload):
            folder = self.folder / f"{next(self.serial)}"
            folder.mkdir()
            if not self.options.keep:
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            server = make(folder)
            stack.callback(server.stop)
            self.say(f"starting {server.name}")
            server.start(workload.mailboxes, letters=workload.letters, size=workload.size, filled=workload.filled)
            if isinstance(server, Posthouse) and not workload.letters:
                self.memory.setdefault("idle_rss", machine.usage(server.roots()).rss_kib)
            servers.append(server)
        return servers

    def _makers(self, workload: Workload) -> Iterator[Callable[[Path], peers.Server]]:
        command = self.options.posthouse
        if workload.maker is not None:
            yield from self._own_makers(workload, workload.maker)
            return
        if command is not None:
            yield lambda folder: Posthouse(folder, command, self.folder)
        idle = workload.ours if workload.key == "P5" else 0
        for peer in workload.peers:
            if peer in self.options.peers:
                yield _maker(peer, workload.scheme, idle)

    def _own_makers(
        self, workload: Workload, maker: Callable[[Peer | None, Path, Sequence[str]], peers.Server]
    ) -> Iterator[Callable[[Path], peers.Server]]:
        command = self.options.posthouse
        wanted = [peer for peer in workload.peers if peer in self.options.peers]
        for peer in ([] if command is None else [None]) + wanted:
            yield lambda folder, peer=peer: maker(peer, folder, command or [])  # type: ignore[misc]

    def _measure(self, workload: Workload, servers: list[peers.Server]) -> None:
        samples = self.samples.setdefault(workload.key, {})
        if workload.prepare is not None:
            for server in servers:
                workload.prepare(server)
        for turn in range(1 if workload.once else self.options.rounds):
            for server in servers:
                count = self._scaled(workload.ours if isinstance(server, Posthouse) else workload.theirs, workload)
                try:
                    sample = workload.measure(server, count)
                except BenchError as error:
                    if isinstance(server, Posthouse):
                        raise BenchError(f"{error}\nThe last words of its log:\n{server.last_words()}") from error
                    raise
                name = _peer_name(server, workload)
                samples.setdefault(name, []).append(sample)
                self.say(
                    f"{workload.key} round {turn + 1}: {name}: {report.number(sample.figure)} {workload.unit},"
                    f" {report.number(sample.cpu_us)} us CPU, p99 {report.number(sample.p99_ms)} ms"
                )

    def _scaled(self, count: int, workload: Workload) -> int:
        """Messages of a run.  Small counts are rounds over whole mailboxes, and P5 is about their number: both stay."""
        return max(1, int(count * self.options.scale)) if count >= 100 and workload.key != "P5" else count

    def _note_memory(self, servers: list[peers.Server]) -> None:
        for server in servers:
            if isinstance(server, Posthouse):
                here = machine.usage(server.roots()).rss_kib
                self.memory["after_load_rss"] = max(here, self.memory.get("after_load_rss", 0))

    def say(self, text: str) -> None:
        """Progress, for people; it stays off standard output, where the results go."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _setup(workload: Workload) -> tuple[object, ...]:
    mailboxes = (workload.mailboxes, workload.letters, workload.filled, workload.size)
    return (*mailboxes, workload.scheme, workload.peers, workload.maker)


def _maker(peer: Peer, scheme: str, idle: int) -> Callable[[Path], peers.Server]:
    if peer is Peer.POSTFIX_DOVECOT:
        return peers.PostfixDovecot
    if peer is Peer.POSTFIX_VIRTUAL:
        return peers.PostfixVirtual
    if peer is Peer.POSTFIX_RELAY:
        return onward.PostfixRelay
    return lambda folder: peers.DovecotPop3(folder, shared=peer is Peer.DOVECOT_SHARED, scheme=scheme, idle=idle)


def _peer_name(server: peers.Server, workload: Workload) -> str:
    """The name of the peer without the password scheme, which the workload tells."""
    return next((peer.value for peer in workload.peers if server.name.startswith(peer.value)), server.name)


def choose(every: list[Workload], only: list[str]) -> list[Workload]:
    """The workloads named by `--only`: W1 stands for W1 and W1-100."""
    if not only:
        return every
    chosen = [w for w in every if any(w.key == word or w.key.startswith(word + "-") for word in only)]
    unknown = [word for word in only if not any(w.key == word or w.key.startswith(word + "-") for w in every)]
    if unknown:
        raise BenchError(f"There is no workload {', '.join(unknown)}; there are {', '.join(w.key for w in every)}.")
    return chosen


def possible(chosen: list[Workload]) -> list[Workload]:
    """Those for which everything is here; what is left out is said."""
    if sink.is_here():
        return chosen
    kept = [workload for workload in chosen if Peer.POSTFIX_RELAY not in workload.peers]
    if left := [workload.key for workload in chosen if workload not in kept]:
        print(f"left out, as smtp-sink is not here (package postfix): {', '.join(left)}", file=sys.stderr)
    return kept


def parse(words: list[str]) -> Options:
    """The command line; errors end the program with a text."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--only", default="", metavar="W1,P2", help="only these workloads")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each workload (default: 3)")
    parser.add_argument("--short", action="store_true", help="a tenth of the messages: rough figures in two minutes")
    parser.add_argument("--scale", type=float, default=None, metavar="X", help="X times the messages of each workload")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    names = ", ".join(peer.name.lower() for peer in Peer)
    parser.add_argument("--peers", default="all", metavar="P,P", help=f"all, none, or some of {names}")
    parser.add_argument("--posthouse", default=None, metavar="CMD", help="how to call posthouse; `none` leaves it out")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR", help="on a disk")
    parser.add_argument("--any-disk", action="store_true", help="accept a work folder in memory (figures mean nothing)")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="where results go")
    parser.add_argument("--keep", action="store_true", help="keep the servers' folders and logs")
    found = parser.parse_args(words)
    wanted = {"all": list(Peer), "none": []}.get(found.peers)
    if wanted is None:
        try:
            wanted = [Peer[word.strip().upper()] for word in found.peers.split(",")]
        except KeyError as error:
            parser.error(f"there is no peer {error}; there are {names}")
    beside = Path(sys.executable).parent / "posthouse"
    command = shlex.split(found.posthouse) if found.posthouse else [str(beside)]
    return Options(
        only=[word for word in found.only.split(",") if word],
        rounds=max(1, found.rounds),
        short=found.short,
        scale=found.scale if found.scale is not None else 0.1 if found.short else 1.0,
        any_disk=found.any_disk,
        json=found.json,
        peers=wanted,
        posthouse=None if command == ["none"] else command,
        work=found.work,
        results=found.results,
        keep=found.keep,
    )


def adopt_orphans() -> None:
    """Become the parent of daemons' children that outlive their master, so that their end is noticed (prctl(2))."""
    set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def revision() -> str:
    """The commit that was measured."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def measure(options: Options) -> int:
    """Run the bench; return the exit status: 1 when a gate does not hold."""
    generator.build()
    if not options.any_disk:
        machine.require_real_disk(options.work)
    if options.peers:
        peers.install()
    every = workloads(500, 10_000) if options.short else workloads()
    every += onward.workloads(10_000 if options.short else 100_000)
    every += collecting.workloads(1000 if options.short else collecting.LETTERS)
    chosen = possible(choose(every, options.only))
    adopt_orphans()
    machine.share_priority(os.getpid())
    folder = Path(tempfile.mkdtemp(prefix="posthouse-bench-", dir=options.work))
    folder.chmod(0o755)  # the peers' own Unix accounts must get through
    about = {**machine.describe(folder), "revision": revision(), "when": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
    about |= {"rounds": options.rounds, "scale": options.scale}
    bench = Bench(options, folder)
    try:
        bench.run(chosen)
    finally:
        if options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return publish(bench, chosen, about)


def publish(bench: Bench, chosen: list[Workload], about: dict[str, object]) -> int:
    """Print and write what was found; return the exit status."""
    found = [row for workload in chosen for row in report.rows(workload, bench.samples.get(workload.key, {}))]
    text = report.as_json(about, found, bench.samples, bench.memory)
    name = time.strftime("%Y-%m-%dT%H%M%S") + f"-{about['revision']}"
    written, page = report.write(bench.options.results, name, text, report.as_page(about, chosen, bench.samples, found))
    if bench.options.json:
        print(json.dumps(json.loads(text)))
    else:
        print(report.table(found))
        idle = bench.memory.get("idle_rss")
        if idle is not None:
            print(
                f"\nPosthouse idle: {idle / 1024:.1f} MiB resident (limit 80), "
                f"after load {bench.memory['after_load_rss'] / 1024:.1f} MiB"
            )
        print(f"written: {written} and {page}")
    below = report.failed(found)
    if bench.memory.get("idle_rss", 0) > MEMORY_LIMIT_KIB:
        below.append("idle memory")
    if below:
        print(f"Below the gate: {', '.join(below)}.", file=sys.stderr)
    return 1 if below else 0


def main() -> int:
    """Entry point; errors of the machine become a text and status 2."""
    try:
        return measure(parse(sys.argv[1:]))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # A server that is still starting when somebody presses Ctrl-C must not outlive us.
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        os._exit(130)
