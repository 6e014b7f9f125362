"""The workloads W1 to W5 and P1 to P5: what is done, how it is measured, what must and what should be reached."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bench import generator, tls_client
from bench.generator import Load
from bench.machine import BenchError, cpu_seconds, usage
from bench.peers import Server

MAILBOXES = 100
KIB = 1024
MIB = 1024 * 1024


class Peer(Enum):
    """The servers beside which Posthouse is measured."""

    POSTFIX_DOVECOT = "Postfix + Dovecot LMTP"
    POSTFIX_VIRTUAL = "Postfix virtual"
    DOVECOT_TUNED = "Dovecot, logins tuned"
    DOVECOT_SHARED = "Dovecot, shared POP3 processes"
    POSTFIX_RELAY = "Postfix relaying"
    MPOP = "mpop"
    GETMAIL = "getmail6"


DELIVERING = (Peer.POSTFIX_DOVECOT, Peer.POSTFIX_VIRTUAL)
DOVECOTS = (Peer.DOVECOT_TUNED, Peer.DOVECOT_SHARED)


@dataclass(slots=True)
class Sample:
    """One run of one workload against one server."""

    figure: float  # in the unit of the workload
    cpu_us: float  # the server's CPU per message or session, microseconds
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    own_cpu: float = 0.0  # cores the generator used: near 1.0 it was the bottleneck
    rss_kib: int = 0


@dataclass(slots=True)
class Workload:
    """One row of the table."""

    key: str
    title: str
    unit: str
    peers: tuple[Peer, ...]
    measure: Callable[[Server, int], Sample]
    ours: int  # messages, sessions or rounds of RETR per run, against Posthouse
    theirs: int  # the same against a peer
    reference: tuple[Peer, ...] = ()  # the gate compares with the best of these
    gate: float | None = None
    reach: float | None = None
    reach_cpu: float | None = None  # our CPU must be at most this part of the reference's
    reach_at_most: float | None = None  # an absolute bound on our figure, where the design gives one
    lower_is_better: bool = False
    mailboxes: int = MAILBOXES
    letters: int = 0  # in each mailbox that is filled
    filled: int | None = None
    size: int = 4 * KIB
    scheme: str = "PLAIN"  # how the peer stores passwords; Posthouse always argon2id
    once: bool = False  # not repeated in rounds
    prepare: Callable[[Server], object] | None = None
    maker: Callable[[Peer | None, Path, Sequence[str]], Server] | None = None  # where a row has servers of its own
    notes: list[str] = field(default_factory=list)


def smtp(**options: int) -> Callable[[Server, int], Sample]:
    """Letters in by SMTP; the time runs until the last lies in its mailbox, and each is looked for there."""
    rcpts = options.get("rcpts", 1)
    size = options.get("size", 4 * KIB)

    def measure(server: Server, count: int) -> Sample:
        before = server.count(MAILBOXES)
        cpu, began = cpu_seconds(server.roots()), time.monotonic()
        load = generator.run("smtp", server.smtp_port, options={"messages": count, "mailboxes": MAILBOXES, **options})
        server.wait_delivered()
        # The generator's own clock where nothing was left to wait for: it does not count its start and end.
        passed = time.monotonic() - began
        seconds = load.seconds if passed - load.seconds < 0.05 else passed
        cpu = cpu_seconds(server.roots()) - cpu
        delivered = server.count(MAILBOXES) - before
        if delivered != count * rcpts:
            raise BenchError(f"{server.name}: {count * rcpts} letters were sent, {delivered} lie in the mailboxes")
        figure = count * size / seconds / 1e6 if size == MIB else count * rcpts / seconds
        return sample_of(load, figure, cpu / count)

    return measure


def poll(server: Server, count: int) -> Sample:
    """POP3 sessions that look whether there is something new: USER PASS STAT UIDL QUIT, 20 at once."""
    cpu = cpu_seconds(server.roots())
    load = generator.run("poll", server.pop3_port, options={"total": count, "sessions": 20, "mailboxes": MAILBOXES})
    cpu = cpu_seconds(server.roots()) - cpu
    return sample_of(load, load.per_second, cpu / count)


def log_in_everywhere(server: Server) -> object:
    """One session per mailbox, so that the measured ones are those of a client that polls."""
    return poll(server, MAILBOXES)


def retrieve(sessions: int, messages: int, *, depth: int = 1, size: int = 4 * KIB) -> Callable[[Server, int], Sample]:
    """RETR of all letters of `sessions` mailboxes; login and QUIT stand outside of what is measured."""

    def measure(server: Server, repeat: int) -> Sample:
        cpu: list[float] = []

        def note() -> None:
            cpu.append(cpu_seconds(server.roots()))

        load = generator.run(
            "retr",
            server.pop3_port,
            at_ready=note,
            at_done=note,
            options={
                "sessions": sessions,
                "mailboxes": sessions,
                "messages": messages,
                "depth": depth,
                "size": size,
                "repeat": repeat,
            },
        )
        figure = load.mb_per_second if size == MIB else load.per_second
        return sample_of(load, figure, (cpu[1] - cpu[0]) / load.count)

    return measure


def handshakes(server: Server, count: int) -> Sample:
    """New TLS connections to POP3S until the greeting was read, by four clients at once; nothing is resumed."""
    return _over_tls(server, [["handshakes", str(server.pop3s_port), str(count // 4)]] * 4, transfer=False)


def handshakes_alone(server: Server, seconds: int) -> Sample:
    """TLS handshakes and nothing else, by four `openssl s_time`."""
    before = cpu_seconds(server.roots())
    done = tls_client.s_time(server.pop3s_port, 4, seconds)
    spent = cpu_seconds(server.roots()) - before
    return Sample(done.count / done.seconds, spent / done.count * 1e6, own_cpu=done.own_cpu_seconds / done.seconds)


def retrieve_over_tls(server: Server, repeat: int) -> Sample:
    """RETR of 100 letters of 1 MiB over POP3S by one client; login and QUIT stand outside."""
    words = ["retrieve", str(server.pop3s_port), generator.user(0), generator.PASSWORD, "100", str(repeat)]
    return _over_tls(server, [words], transfer=True)


def _over_tls(server: Server, commands: list[list[str]], *, transfer: bool) -> Sample:
    cpu: list[float] = []

    def note() -> None:
        cpu.append(cpu_seconds(server.roots()))

    done = tls_client.run(commands, note, note)
    figure = done.octets / done.seconds / 1e6 if transfer else done.count / done.seconds
    own = done.own_cpu_seconds / done.seconds
    return Sample(figure, (cpu[1] - cpu[0]) / done.count * 1e6, own_cpu=own)


def large_maildrop(server: Server, count: int) -> Sample:
    """Milliseconds from connecting until UIDL of one very large maildrop is complete; the median of `count`."""
    samples = []
    cpu = cpu_seconds(server.roots())
    for _ in range(count):
        load = generator.run("poll", server.pop3_port, options={"total": 1, "sessions": 1, "mailboxes": 1})
        samples.append(load.p50_ms)
    cpu = cpu_seconds(server.roots()) - cpu
    return sample_of(load, statistics.median(samples), cpu / count)


def idle(server: Server, sessions: int) -> Sample:
    """KiB per idle connection that has logged in: the growth of the server's PSS, shared pages counted once."""
    before = usage(server.roots())
    seen: list[tuple[int, int]] = []

    def note() -> None:
        here = usage(server.roots())
        seen.append((here.pss_kib, here.rss_kib))

    load = generator.run(
        "idle", server.pop3_port, at_ready=note, options={"sessions": sessions, "mailboxes": sessions, "logins": 10}
    )
    after, rss = seen[0]
    sample = sample_of(load, (after - before.pss_kib) / sessions, 0.0)
    sample.rss_kib = rss
    return sample


def sample_of(load: Load, figure: float, cpu_seconds_each: float) -> Sample:
    """A figure of the server with what the generator tells of its run."""
    own = load.own_cpu_seconds / load.seconds if load.seconds > 1e-6 else math.nan
    return Sample(figure, cpu_seconds_each * 1e6, load.p50_ms, load.p99_ms, own)


def workloads(idle_sessions: int = 5000, large: int = 100_000) -> list[Workload]:
    """Every workload, in the order of the table."""
    pair = (Peer.POSTFIX_DOVECOT,)
    return [
        Workload(
            "W1",
            "4 KiB, a connection each, 20 sessions",
            "messages/s",
            DELIVERING,
            smtp(sessions=20),
            10_000,
            1500,
            pair,
            gate=5,
            reach=10,
            reach_cpu=0.1,
        ),
        Workload(
            "W1-100",
            "4 KiB, a connection each, 100 sessions",
            "messages/s",
            DELIVERING,
            smtp(sessions=100),
            10_000,
            1500,
            pair,
            gate=5,
            reach=12,
        ),
        Workload(
            "W2",
            "4 KiB, 100 messages on a connection",
            "messages/s",
            DELIVERING,
            smtp(sessions=20, per_connection=100),
            20_000,
            2000,
            pair,
            gate=8,
            reach=15,
        ),
        Workload(
            "W3",
            "100 KiB, a connection each",
            "messages/s",
            DELIVERING,
            smtp(sessions=20, size=100 * KIB),
            3000,
            800,
            pair,
            gate=3,
            reach=5,
        ),
        Workload(
            "W4",
            "4 KiB to 50 recipients",
            "mailboxes/s",
            DELIVERING,
            smtp(sessions=20, rcpts=50, pipelining=1),
            1500,
            100,
            pair,
            gate=10,
            reach=20,
        ),
        Workload(
            "W5",
            "200 messages of 1 MiB",
            "MB/s",
            DELIVERING,
            smtp(sessions=20, size=MIB),
            200,
            200,
            pair,
            gate=2,
            reach=2.5,
        ),
        Workload(
            "P1-cold",
            "POP3 poll, first login of 100 accounts",
            "sessions/s",
            DOVECOTS,
            poll,
            100,
            100,
            letters=10,
            scheme="ARGON2ID",
            once=True,
            notes=["every login costs an argon2id hash on both sides"],
        ),
        Workload(
            "P1-argon2id",
            "POP3 poll, 20 at once, argon2id",
            "sessions/s",
            DOVECOTS,
            poll,
            10_000,
            200,
            DOVECOTS,
            gate=20,
            reach=40,
            letters=10,
            scheme="ARGON2ID",
            prepare=log_in_everywhere,
        ),
        Workload(
            "P1",
            "POP3 poll, 20 at once (peer: plain passwords)",
            "sessions/s",
            DOVECOTS,
            poll,
            10_000,
            3000,
            DOVECOTS,
            gate=1.5,
            reach=2.5,
            letters=10,
            prepare=log_in_everywhere,
            notes=["Posthouse: argon2id, verified logins remembered"],
        ),
        Workload(
            "P2",
            "RETR of 1000 x 4 KiB, 1 client",
            "messages/s",
            DOVECOTS,
            retrieve(1, 1000),
            10,
            10,
            DOVECOTS,
            gate=1,
            reach=1,
            mailboxes=20,
            letters=1000,
        ),
        Workload(
            "P2-20",
            "RETR of 1000 x 4 KiB, 20 clients",
            "messages/s",
            DOVECOTS,
            retrieve(20, 1000),
            2,
            2,
            DOVECOTS,
            gate=1,
            reach=1.2,
            mailboxes=20,
            letters=1000,
        ),
        Workload(
            "P2-pipelined",
            "the same, pipelined, 1 client",
            "messages/s",
            DOVECOTS,
            retrieve(1, 1000, depth=100),
            30,
            30,
            DOVECOTS,
            gate=1,
            reach=2.5,
            mailboxes=20,
            letters=1000,
        ),
        Workload(
            "P2-20-pipelined",
            "the same, pipelined, 20 clients",
            "messages/s",
            DOVECOTS,
            retrieve(20, 1000, depth=100),
            5,
            3,
            DOVECOTS,
            gate=1,
            reach=2.5,
            mailboxes=20,
            letters=1000,
        ),
        Workload(
            "P3",
            "RETR of 100 x 1 MiB",
            "MB/s",
            DOVECOTS,
            retrieve(1, 100, size=MIB),
            5,
            5,
            DOVECOTS,
            gate=1.5,
            reach=2,
            mailboxes=1,
            letters=100,
            size=MIB,
        ),
        Workload(
            "T1",
            "TLS handshakes, POP3S, 4 clients",
            "connections/s",
            DOVECOTS,
            handshakes,
            4000,
            4000,
            DOVECOTS,
            gate=0.7,
            reach=1,
            mailboxes=1,
            letters=100,
            size=MIB,
            notes=["both with a P-256 key; nothing resumed"],
        ),
        Workload(
            "T1-s_time",
            "TLS handshakes alone, openssl s_time, 4 processes",
            "connections/s",
            DOVECOTS,
            handshakes_alone,
            5,
            3,
            DOVECOTS,
            gate=0.7,
            reach=1,
            mailboxes=1,
            letters=100,
            size=MIB,
        ),
        Workload(
            "T2",
            "RETR of 100 x 1 MiB over POP3S",
            "MB/s",
            DOVECOTS,
            retrieve_over_tls,
            5,
            5,
            DOVECOTS,
            gate=0.5,
            reach=0.8,
            mailboxes=1,
            letters=100,
            size=MIB,
        ),
        Workload(
            "P4",
            f"login until UIDL of {large:,} letters, first time",
            "ms",
            DOVECOTS,
            large_maildrop,
            1,
            1,
            DOVECOTS,
            reach=2,
            lower_is_better=True,
            mailboxes=1,
            letters=large,
            size=KIB,
            once=True,
        ),
        Workload(
            "P4-warm",
            "the same, warm",
            "ms",
            DOVECOTS,
            large_maildrop,
            3,
            3,
            DOVECOTS,
            reach=2,
            lower_is_better=True,
            mailboxes=1,
            letters=large,
            size=KIB,
        ),
        Workload(
            "P5",
            f"{idle_sessions:,} idle POP3 connections",
            "KiB each",
            (Peer.DOVECOT_SHARED,),
            idle,
            idle_sessions,
            idle_sessions,
            (Peer.DOVECOT_SHARED,),
            reach_at_most=16,
            lower_is_better=True,
            mailboxes=idle_sessions,
            once=True,
            prepare=log_in_everywhere,  # what the first logins cost once is no part of a connection
        ),
    ]
