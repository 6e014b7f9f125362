"""The workloads R1 and Q1: letters that are carried on to another server, and a queue with a hundred thousand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench import generator
from bench.machine import BenchError, cpu_seconds, free_port, usage
from bench.peers import POSTFIX_DAEMONS, Postfix, Server
from bench.posthouse import Posthouse, call
from bench.sink import Sink
from bench.workloads import KIB, MAILBOXES, Peer, Sample, Workload, sample_of

ELSEWHERE = "sink.example"
DOMAINS = 20  # those for which letters wait in Q1
SETTLED = '[relay]\nschedule = "6h, every 6h, until 4d"\n'  # a queue that is some days old: nothing of it is due now
RATE = 3000  # letters for mailboxes here, beside the queue


class PostfixRelay(Postfix):
    """Postfix that hands everything for another domain to a sink."""

    name = Peer.POSTFIX_RELAY.value
    transport = ""

    def before_master(self, mailboxes: int) -> None:
        del mailboxes
        self.sink = Sink()
        file = self.folder / "postfix" / "main.cf"
        file.write_text(file.read_text() + f"relay_transport = smtp:[127.0.0.1]:{self.sink.port}\n")

    def _main_cf(self) -> str:
        return f"""
compatibility_level = 3.6
queue_directory = {self.folder}/spool
data_directory = {self.folder}/data
daemon_directory = {POSTFIX_DAEMONS}
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.bench.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
alias_database =
relay_domains = {ELSEWHERE}
in_flow_delay = 0
initial_destination_concurrency = 20
default_process_limit = 150
"""


def begin_relaying(server: Server) -> None:
    """Gives Posthouse a sink, a route to it and a network that may send; Postfix has them from the start."""
    if isinstance(server, Posthouse) and server.sink is None:
        server.sink = Sink()
        call(server.command, server.data, "network", "add", "127.0.0.1", "--allow", "relay")
        target = f"127.0.0.1:{server.sink.port}"
        call(server.command, server.data, "route", "add", ELSEWHERE, "--to", target, "--tls", "none")


def relay(**options: int) -> Callable[[Server, int], Sample]:
    """Letters in by SMTP for another domain; the time runs until the sink has them all, each once."""

    def measure(server: Server, count: int) -> Sample:
        sink = server.sink
        assert sink is not None
        before, cpu, began = sink.taken, cpu_seconds(server.roots()), time.monotonic()
        words = {"messages": count, "mailboxes": MAILBOXES, **options}
        load = generator.run("smtp", server.smtp_port, domain=ELSEWHERE, options=words)
        sink.wait(before + count)
        seconds = time.monotonic() - began
        cpu = cpu_seconds(server.roots()) - cpu
        return sample_of(load, count / seconds, cpu / count)

    return measure


# A large queue


def fill_queue(letters: int) -> Callable[[Server], None]:
    """Puts so many letters for hosts where nobody listens into the queue of a server; each was tried once."""

    def prepare(server: Server) -> None:
        assert isinstance(server, Posthouse)
        if (server.data / "filled").exists():
            return
        server.restart(SETTLED)
        call(server.command, server.data, "network", "add", "127.0.0.1", "--allow", "relay")
        nobody = f"127.0.0.1:{free_port()}"
        for number in range(DOMAINS):
            domain = f"dead{number:02}.example"
            call(server.command, server.data, "route", "add", domain, "--to", nobody, "--tls", "none")
        for number in range(DOMAINS):
            words = {"messages": letters // DOMAINS, "sessions": 8, "per_connection": 100, "mailboxes": MAILBOXES}
            generator.run("smtp", server.smtp_port, domain=f"dead{number:02}.example", options=words)
        deadline = time.monotonic() + 300
        while waiting := call(server.command, server.data, "queue", "list", "--limit", "1", "--json"):
            if f'"count": {letters // DOMAINS * DOMAINS}' in waiting and '"state": "due"' in waiting:
                break
            if time.monotonic() > deadline:
                raise BenchError(f"the queue did not come to rest: {waiting[:500]}")
            time.sleep(0.2)
        (server.data / "filled").touch()

    return prepare


def start_up(server: Server, count: int) -> Sample:
    """Seconds from the command to `ready`; the median of `count` starts."""
    assert isinstance(server, Posthouse)
    times = [server.restart() for _ in range(count)]
    return Sample(statistics.median(times), 0.0, rss_kib=usage(server.roots()).rss_kib)


def listing(server: Server, count: int) -> Sample:
    """Seconds that `posthouse queue list` takes, the start of the program included."""
    assert isinstance(server, Posthouse)
    times = []
    for _ in range(count):
        began = time.monotonic()
        call(server.command, server.data, "queue", "list")
        times.append(time.monotonic() - began)
    return Sample(statistics.median(times), 0.0)


def memory(server: Server, count: int) -> Sample:
    """MiB resident, after letters have come for mailboxes here."""
    generator.run("smtp", server.smtp_port, options={"messages": RATE * count, "mailboxes": MAILBOXES})
    here = usage(server.roots()).rss_kib
    return Sample(here / 1024, 0.0, rss_kib=here)


def beside(server: Server, count: int) -> Sample:
    """How many times slower letters for mailboxes here are taken than by the same server with an empty queue; the
    median of `count` turns, A B A B."""
    assert isinstance(server, Posthouse)
    folder = server.folder / "twin"
    folder.mkdir()
    twin = Posthouse(folder, server.command, server.templates)
    twin.start(MAILBOXES)
    try:
        ratios = []
        for _ in range(count):
            words = {"messages": RATE, "mailboxes": MAILBOXES, "sessions": 20}
            without = generator.run("smtp", twin.smtp_port, options=words).per_second
            with_queue = generator.run("smtp", server.smtp_port, options=words).per_second
            ratios.append(without / with_queue)
    finally:
        twin.stop()
    return Sample(statistics.median(ratios), 0.0)


def workloads(queue: int = 100_000) -> list[Workload]:
    """Every workload of letters that are carried on, in the order of the table."""
    peers = (Peer.POSTFIX_RELAY,)
    rows = [
        Workload(
            key,
            f"4 KiB to a sink, {what}, 20 sessions in",
            "messages/s",
            peers,
            relay(sessions=20, per_connection=each),
            10_000,
            2000,
            peers,
            gate=3,
            reach=6,
            reach_cpu=0.25,
            prepare=begin_relaying,
        )
        for key, what, each in (("R1", "a connection each", 1), ("R2", "100 messages on a connection", 100))
    ]
    large = [
        ("Q1-start", f"start with {queue:,} letters that wait", "s", start_up, 5, 2.0),
        ("Q1-list", "posthouse queue list", "s", listing, 5, 1.0),
        ("Q1-memory", "resident with all that", "MiB", memory, 1, 200.0),
        ("Q1-beside", "W1 beside it, times slower", "x", beside, 5, 1.25),
    ]
    rows += [
        Workload(
            key,
            title,
            unit,
            (),
            measure,
            times,
            times,
            reach_at_most=most,
            lower_is_better=True,
            once=True,
            prepare=fill_queue(queue),
            size=4 * KIB,
        )
        for key, title, unit, measure, times, most in large
    ]
    return rows
