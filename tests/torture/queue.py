"""The kill test of the queue: the server is killed at random instants while it carries letters on.

A next host that outlives all kills takes some letters, refuses others, puts some off, and loses the line behind the
final dot of a few. In the end every accepted letter must have been taken at least once; a second time only where the
kill came between its final dot and the COMMIT of the result, which the database tells after each kill; and every
sender must have exactly the notices that are due. `python -m tests.torture.queue --rounds 200 --seed 7`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from tests.system.server import Server, add_account, run_posthouse, start_server
from tests.torture.load import Lost, Odd, Stream, login, retrieve, unique_ids

SENDERS = 5
LONGEST = 1.2  # seconds of load before a kill, at most
SENDER = "test@x.mail"
KINDS = ("ok", "ok", "ok", "late", "never", "mute")
"""What the next host does with a recipient: takes it, puts it off until the last phase, refuses it for good, or loses
the line behind the final dot once."""

_NUMBER = re.compile(rb"(ok|late|never|mute)-(\d+)@")


@dataclass(slots=True)
class Books:
    """What was accepted, what the next host has, and what may have come twice."""

    sent: set[str] = field(default_factory=set)  # whole, perhaps without an answer
    accepted: set[str] = field(default_factory=set)  # answered 250
    taken: Counter[str] = field(default_factory=Counter)  # by the next host, with 250
    whole: Counter[str] = field(default_factory=Counter)  # final dots it saw
    allowed: Counter[str] = field(default_factory=Counter)  # further ones that are no fault
    refused: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # the database says that the sender knows of a delay
    beside_mute: set[str] = field(default_factory=set)  # one transaction with a line that is lost
    next: int = 0
    rounds: int = 0
    in_flight: int = 0
    complaints: list[str] = field(default_factory=list)

    def name(self, chance: random.Random) -> str:
        """A recipient that never was before."""
        self.next += 1
        return f"{chance.choice(KINDS)}-{self.next}@sink.example"


class NextHost:
    """The host that outlives all kills."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.calm = False  # the last phase: everything that is not refused for good is taken
        self._lost: set[str] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listens; returns the port."""
        self._server = await asyncio.start_server(self._session, "127.0.0.1", 0, limit=16 * 1024 * 1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Ends."""
        assert self._server is not None
        self._server.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.write(b"220 sink.example\r\n")
            names: list[str] = []
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb in (b"EHLO", b"HELO"):
                    writer.write(b"250-sink.example\r\n250 PIPELINING\r\n")
                elif verb == b"RCPT":
                    writer.write(self._recipient(line, names))
                elif verb == b"DATA":
                    writer.write(b"354 go on\r\n" if names else b"554 nobody\r\n")
                    if names and not await self._content(reader, writer, names):
                        break
                    names = []
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    names = [] if verb in (b"MAIL", b"RSET") else names
                    writer.write(b"250 ok\r\n")
        writer.close()

    def _recipient(self, line: bytes, names: list[str]) -> bytes:
        match = _NUMBER.search(line)
        if match is None:
            self.books.complaints.append(f"a recipient that nobody sent: {line!r}")
            return b"550 5.1.1 who?\r\n"
        name = f"{match[1].decode()}-{match[2].decode()}@sink.example"
        if name.startswith("never"):
            self.books.refused.add(name)
            return b"550 5.1.1 no such user\r\n"
        if name.startswith("late") and not self.calm:
            return b"451 4.2.1 not now\r\n"
        names.append(name)
        return b"250 ok\r\n"

    async def _content(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: list[str]) -> bool:
        octets = await reader.readuntil(b"\r\n.\r\n")
        for name in names:
            self.books.whole[name] += 1
            if f"X-Number: {name}\r\n".encode() not in octets or not octets.endswith(b"the end\r\n.\r\n"):
                self.books.complaints.append(f"{name}: a letter came torn ({len(octets)} octets)")
        lost = [name for name in names if name.startswith("mute") and name not in self._lost]
        if lost and not self.calm:
            self._lost.update(lost)
            self.books.allowed.update(names)  # nobody can know that it was taken
            return False
        self.books.taken.update(names)
        writer.write(b"250 taken\r\n")
        return True


async def send_letters(server: Server, books: Books, chance: random.Random) -> None:
    """Sends letters until the server is gone."""
    try:
        while True:
            async with await Stream.open(server.smtp) as stream:
                await stream.expect(b"220")
                await stream.send(b"EHLO torture.x.mail\r\n")
                await stream.expect(b"250")
                for _ in range(chance.randint(1, 8)):
                    await _send(stream, books, chance)
    except Lost:
        return
    except Odd as error:
        books.complaints.append(f"a sender was told {error}")


async def _send(stream: Stream, books: Books, chance: random.Random) -> None:
    names = [books.name(chance) for _ in range(chance.choice((1, 1, 1, 3)))]
    commands = [b"MAIL FROM:<%s>" % SENDER.encode(), *(b"RCPT TO:<%s>" % name.encode() for name in names), b"DATA", b""]
    await stream.send(b"\r\n".join(commands))
    for _ in commands[:-2]:
        await stream.expect(b"250")
    await stream.expect(b"354")
    fields = b"".join(b"X-Number: %s\r\n" % name.encode() for name in names)
    body = b"line\r\n" * chance.choice((1, 50, 700, 40_000 if chance.random() < 0.2 else 5))
    await stream.send(b"Subject: torture\r\n" + fields + b"\r\n" + body + b"the end\r\n.")
    books.sent.update(names)
    if any(name.startswith("mute") for name in names):
        books.beside_mute.update(names)
    await stream.send(b"\r\n")
    await stream.expect(b"250")
    books.accepted.update(names)


def look(data: Path, books: Books) -> None:
    """After a kill: what the next host has and the queue still holds may come once more; whoever was told of a delay
    must have the notice."""
    with contextlib.closing(sqlite3.connect(data / "posthouse.db")) as database:
        rows = database.execute("SELECT recipient, told FROM queue").fetchall()
    for name, told in rows:
        if told:
            books.told.add(name)
        if books.whole[name] > books.allowed[name]:
            books.allowed[name] = books.whole[name]
            books.in_flight += 1


async def rounds(data: Path, logs: Path, count: int, seed: int) -> Books:
    """Kills the server `count` times, lets the queue run empty and judges."""
    books = Books()
    host = NextHost(books)
    await asyncio.to_thread(prepare, data, await host.start())
    for number in range(1, count + 1):
        chance = random.Random(f"{seed}:{number}")
        books.rounds = number
        server = await asyncio.to_thread(start_server, data, "smtp", "pop3", logs=logs)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SENDERS):
                    group.create_task(send_letters(server, books, random.Random(chance.getrandbits(64))))
                if chance.random() < 0.3:
                    await asyncio.to_thread(run_posthouse, data, "queue", "retry", "--all", code=None)
                await asyncio.sleep(LONGEST * chance.random() ** 2)
                server.kill()
        finally:
            server.kill()
        if "Traceback" in server.log:
            books.complaints.append(f"round {number}: a traceback in {server.log_file}")
        else:
            server.log_file.unlink()
        look(data, books)
        if books.complaints:
            break
    host.calm = True
    server = await asyncio.to_thread(start_server, data, "smtp", "pop3", logs=logs)
    try:
        await _run_empty(data, books)
        judge(books, await _notices(server))
    finally:
        await asyncio.to_thread(server.stop)
        await host.stop()
    return books


async def _run_empty(data: Path, books: Books) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        await asyncio.to_thread(run_posthouse, data, "queue", "retry", "--all", code=None)
        await asyncio.sleep(0.5)  # the server carries on meanwhile; the loop ends with the queue
        done = await asyncio.to_thread(run_posthouse, data, "queue", "list", "--limit", "1", "--json")
        if '"items": []' in done.stdout or '"items":[]' in done.stdout:
            return
    books.complaints.append("the queue did not run empty within two minutes")


async def _notices(server: Server) -> Counter[tuple[str, str]]:
    """The notices that the sender got: how many for each recipient and action."""
    found: Counter[tuple[str, str]] = Counter()
    stream = await login(server.pop3, SENDER)
    assert stream is not None
    async with stream:
        count = len(await unique_ids(stream))
        for text in await retrieve(stream, list(range(1, count + 1))):
            for recipient, action in _told(message_from_bytes(text)):
                found[recipient, action] += 1
    return found


def _told(message: Message) -> list[tuple[str, str]]:
    parts = [part for part in message.walk() if part.get_content_type() == "message/delivery-status"]
    told = []
    for part in parts:
        for block in part.get_payload():
            if isinstance(block, Message) and block["Final-Recipient"]:
                told.append((block["Final-Recipient"].partition(";")[2].strip(), block["Action"].strip()))
    return told


def judge(books: Books, notices: Counter[tuple[str, str]]) -> None:
    """Everything that must hold in the end."""
    for name in sorted(books.sent):
        kind, sure = name.partition("-")[0], name in books.accepted
        taken, failed, delayed = books.taken[name], notices[name, "failed"], notices[name, "delayed"]
        if kind == "never":
            if failed > 1 or (sure and failed != 1):
                books.complaints.append(f"{name}: {failed} notices of failure")
            continue
        if sure and not taken:
            books.complaints.append(f"{name}: LOST")
        if books.whole[name] > 1 + books.allowed[name]:
            books.complaints.append(f"{name}: came {books.whole[name]} times, {1 + books.allowed[name]} are no fault")
        if failed:
            books.complaints.append(f"{name}: a notice of failure though it was taken")
        # The notice of delay comes with the first attempt that was put off, if the kill did not come before its COMMIT.
        if delayed > 1 or (name in books.told and delayed != 1):
            books.complaints.append(f"{name}: {delayed} notices of delay")
        if kind == "ok" and delayed and name not in books.beside_mute:
            books.complaints.append(f"{name}: a notice of delay, and nothing delayed it")
    for name, action in notices:
        if name not in books.sent:
            books.complaints.append(f"a notice ({action}) about {name}, which nobody sent")


def prepare(data: Path, port: int) -> None:
    """A server that carries letters for sink.example to the next host, and tells of a delay at once."""
    run_posthouse(data, "domain", "add", "x.mail")
    add_account(data, SENDER)
    run_posthouse(data, "network", "add", "127.0.0.0/8", "--allow", "relay")
    run_posthouse(
        data, "route", "add", "sink.example", "--to", f"127.0.0.1:{port}", "--tls", "none", "--schedule", "classic"
    )


def format_table(books: Books, seconds: float) -> str:
    """The table at the end."""
    twice = sum(count - 1 for count in books.whole.values() if count > 1)
    rows = [
        ("rounds (kills under load)", books.rounds),
        ("recipients accepted with 250", len(books.accepted)),
        ("  sent whole, no answer", len(books.sent - books.accepted)),
        ("taken by the next host", sum(1 for count in books.taken.values() if count)),
        ("refused by the next host for good", len(books.refused)),
        ("in flight when the kill came", books.in_flight),
        ("came a second time", twice),
        ("COMPLAINTS", len(books.complaints)),
    ]
    lines = [f"{name:36}{value:>10,}" for name, value in rows]
    return "\n".join([*lines, f"{'seconds':36}{seconds:>10,.0f}"])


def run(folder: Path, count: int, seed: int) -> tuple[Books, str]:
    """The whole test in a folder; the books and the table."""
    began = time.monotonic()
    books = asyncio.run(rounds(folder / "data", folder, count, seed))
    return books, format_table(books, time.monotonic() - began)


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="the same seed makes the same plan of kills")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-queue-"))
    print(f"seed {seed}, data in {folder}", flush=True)
    books, table = run(folder, options.rounds, seed)
    print(table)
    for complaint in books.complaints[:30]:
        print(complaint)
    if books.complaints:
        print(f"FAILED with seed {seed}; the data stays in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
