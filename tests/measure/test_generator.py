"""The load generator against peers that answer by a script: it must count right and stop at the first wrong reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from bench import generator
from bench.machine import BenchError

from tests.system.programs import find_program

Answer = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def compiler() -> str:
    """The generator is C; a machine without a compiler names these tests as left out."""
    return find_program("cc")


class SmtpPeer:
    """Says yes to everything, reads content to its end, and remembers what it was given."""

    def __init__(self, refuse: bytes = b"") -> None:
        self.refuse = refuse
        self.letters: list[bytes] = []
        self.recipients: list[bytes] = []

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220-peer\r\n220 ready\r\n")
        while line := await reader.readline():
            verb = line[:4].upper().strip()
            if verb == self.refuse:
                writer.write(b"451 4.3.0 not today\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                self.letters.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 stored\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                self.recipients += [line.strip()] if verb == b"RCPT" else []
                writer.write(b"250-one\r\n250 two\r\n")
        writer.close()


class Pop3Peer:
    """A maildrop of three letters, the second of which can be cut short."""

    def __init__(self, short: bool = False) -> None:
        self.short = short
        self.users: list[bytes] = []

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK ready\r\n")
        while line := await reader.readline():
            verb, _, argument = line.strip().partition(b" ")
            if verb == b"USER":
                self.users.append(argument)
            if verb == b"RETR":
                size = 100 if self.short and argument == b"2" else 500
                writer.write(b"+OK\r\n" + b"x" * (size - 4) + b"\r\n" + b"..\r\n.\r\n")
            elif verb == b"UIDL":
                writer.write(b"+OK\r\n.\r\n")
            else:
                writer.write(b"+OK 3 1500\r\n")
            if verb == b"QUIT":
                break
        writer.close()


@asynccontextmanager
async def listening(peer: SmtpPeer | Pop3Peer) -> AsyncIterator[int]:
    """A peer on a free port of loopback."""
    server = await asyncio.start_server(peer.session, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def load(mode: str, port: int, **options: int) -> generator.Load:
    return await asyncio.to_thread(generator.run, mode, port, options={"timeout": 20, **options})


@pytest.mark.parametrize("pipelining", [0, 1])
async def test_letters_have_the_size_that_was_asked_for(pipelining: int) -> None:
    peer = SmtpPeer()
    async with listening(peer) as port:
        found = await load(
            "smtp", port, messages=7, sessions=3, per_connection=2, rcpts=2, size=4096, pipelining=pipelining
        )
    assert found.count == 7
    assert len(peer.letters) == 7
    assert {len(letter.replace(b"\r\n..", b"\r\n.")) - len(b".\r\n") for letter in peer.letters} == {4096}
    assert any(b"\r\n.." in letter for letter in peer.letters), "no dot was stuffed, so stuffing is never measured"
    assert len(peer.recipients) == 14
    assert len(set(peer.recipients)) == 14, "seven letters to two recipients each cycle through the mailboxes"


@pytest.mark.parametrize("verb", [b"EHLO", b"MAIL", b"RCPT", b"DATA"])
async def test_a_refusal_stops_the_run(verb: bytes) -> None:
    async with listening(SmtpPeer(refuse=verb)) as port:
        with pytest.raises(BenchError, match="451 4\\.3\\.0 not today"):
            await load("smtp", port, messages=5, sessions=2)


@pytest.mark.parametrize("depth", [1, 10])
async def test_every_letter_of_every_maildrop_is_read(depth: int) -> None:
    peer = Pop3Peer()
    async with listening(peer) as port:
        found = await load("retr", port, sessions=2, mailboxes=2, messages=3, repeat=4, size=500, depth=depth)
    assert found.count == 24
    assert found.octets == 24 * 502, "the dot that was stuffed counts, the end does not"
    assert set(peer.users) == {b"u00000@x.mail", b"u00001@x.mail"}


async def test_a_short_letter_stops_the_run() -> None:
    async with listening(Pop3Peer(short=True)) as port:
        with pytest.raises(BenchError, match=r"letter 2 has 102 octets"):
            await load("retr", port, sessions=1, mailboxes=1, messages=3, size=500)


async def test_polls_share_no_mailbox_between_sessions() -> None:
    peer = Pop3Peer()
    async with listening(peer) as port:
        found = await load("poll", port, total=20, sessions=3, mailboxes=10)
    assert found.count == 20
    assert len(set(peer.users)) >= 9


async def test_nobody_listens() -> None:
    async with listening(SmtpPeer()) as port:
        pass
    with pytest.raises(BenchError, match="refused"):
        await load("smtp", port, messages=1)
