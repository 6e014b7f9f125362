"""The load of the kill test: senders and readers on plain asyncio streams that write down what they know."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType

from tests.system.raw import stuffed
from tests.system.server import PASSWORD, Endpoint
from tests.torture.ledger import Ledger, Letter

PATIENCE = 30.0


class Lost(Exception):
    """The line is gone: the server was killed, or closed."""


class Odd(Exception):
    """A reply that has no place here."""


class Stream:
    """A connection whose every wait is bounded and whose every loss is `Lost`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._input = bytearray()

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Stream:
        try:
            return cls(*await asyncio.open_connection(endpoint.host, endpoint.port))
        except OSError as error:
            raise Lost from error

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()

    async def send(self, octets: bytes) -> None:
        try:
            self._writer.write(octets)
            async with asyncio.timeout(PATIENCE):
                await self._writer.drain()
        except OSError as error:
            raise Lost from error

    async def _more(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                piece = await self._reader.read(262_144)
        except TimeoutError as error:
            raise Odd(f"no answer within {PATIENCE:.0f} s") from error
        except OSError as error:
            raise Lost from error
        if not piece:
            raise Lost
        self._input += piece

    async def _until(self, mark: bytes) -> bytes:
        start = 0
        while (end := self._input.find(mark, start)) < 0:
            start = max(0, len(self._input) - len(mark))
            await self._more()
        found = bytes(self._input[: end + len(mark)])
        del self._input[: end + len(mark)]
        return found

    async def expect(self, *starts: bytes) -> bytes:
        """The next reply, all its lines in SMTP; Odd unless it begins as it should."""
        line = await self._until(b"\r\n")
        first = line
        while first[3:4] == b"-" and first[:1].isdigit() and line[3:4] == b"-":
            line = await self._until(b"\r\n")
        if not line.startswith(starts):
            raise Odd(f"{line[:200]!r} instead of {starts}")
        return line

    async def multiline(self) -> bytes:
        """The rest of a multi-line reply, unstuffed."""
        while len(self._input) < 3:
            await self._more()
        if self._input.startswith(b".\r\n"):
            del self._input[:3]
            return b""
        text = (await self._until(b"\r\n.\r\n"))[:-3]
        text = text[1:] if text.startswith(b"..") else text
        return text.replace(b"\r\n..", b"\r\n.")


async def send_letters(endpoint: Endpoint, ledger: Ledger, chance: random.Random) -> None:
    """Sends letters of every size until the server is gone."""
    try:
        while True:
            async with await Stream.open(endpoint) as stream:
                await stream.expect(b"220")
                await stream.send(b"EHLO torture.x.mail\r\n")
                await stream.expect(b"250")
                for _ in range(chance.randint(1, 8)):
                    if not await _send(stream, ledger.new(chance), ledger, chance):
                        break
    except Lost:
        return
    except Odd as error:
        ledger.odd(f"a sender was told {error}")


async def _send(stream: Stream, letter: Letter, ledger: Ledger, chance: random.Random) -> bool:
    """One letter by DATA or BDAT; False when it was broken off on purpose."""
    content = letter.content()
    envelope = [b"MAIL FROM:<sender@example.org>"] + [b"RCPT TO:<%s>" % to.encode() for to in letter.recipients]
    chunked = chance.random() < 0.3
    if chunked:
        cut = chance.randrange(len(content))
        wire = b"BDAT %d\r\n" % cut + content[:cut] + b"BDAT %d LAST\r\n" % (len(content) - cut) + content[cut:]
        await stream.send(b"\r\n".join([*envelope, b""]))
    else:
        wire = stuffed(content)
        await stream.send(b"\r\n".join([*envelope, b"DATA", b""]))
    for _ in envelope:
        await stream.expect(b"250")
    if not chunked:
        await stream.expect(b"354")
    if chance.random() < 0.04:
        # Hanging up in the middle: such a letter must never arrive.
        await stream.send(wire[: chance.randrange(1, len(wire))] if len(wire) > 1 else b"")
        return False
    # The books say "sent" before the last octet goes to the kernel: later would be too late.
    held = chance.choice((1, 3, 5, 2000))
    await stream.send(wire[:-held])
    ledger.sent(letter)
    await stream.send(wire[-held:])
    if chunked:
        await stream.expect(b"250")
    await stream.expect(b"250")
    ledger.acknowledge(letter)
    return True


async def login(endpoint: Endpoint, address: str) -> Stream | None:
    """A POP3 session after its login; None while another session has the maildrop."""
    stream = await Stream.open(endpoint)
    try:
        await stream.expect(b"+OK")
        await stream.send(b"USER " + address.encode() + b"\r\n")
        await stream.expect(b"+OK")
        await stream.send(b"PASS " + PASSWORD.encode() + b"\r\n")
        if (await stream.expect(b"+OK", b"-ERR [IN-USE]")).startswith(b"+OK"):
            return stream
    except BaseException:
        await stream.__aexit__(None, None, None)
        raise
    await stream.__aexit__(None, None, None)
    return None


async def unique_ids(stream: Stream) -> list[str]:
    """The unique-ids of a maildrop in the order of its numbers."""
    await stream.send(b"UIDL\r\n")
    await stream.expect(b"+OK")
    return [line.split()[1].decode() for line in (await stream.multiline()).splitlines()]


async def retrieve(stream: Stream, numbers: list[int]) -> list[bytes]:
    """Letters by their numbers, sixteen commands at a time."""
    letters = []
    for start in range(0, len(numbers), 16):
        some = numbers[start : start + 16]
        await stream.send(b"".join(b"RETR %d\r\n" % number for number in some))
        for _ in some:
            line = await stream.expect(b"+OK")
            text = await stream.multiline()
            if line.split()[1:2] != [b"%d" % len(text)]:
                raise Odd(f"{line!r} was said of {len(text)} octets")
            letters.append(text)
    return letters


async def delete(stream: Stream, numbers: list[int]) -> None:
    """Marks letters as deleted."""
    for start in range(0, len(numbers), 100):
        some = numbers[start : start + 100]
        await stream.send(b"".join(b"DELE %d\r\n" % number for number in some))
        for _ in some:
            await stream.expect(b"+OK")


async def quit_session(stream: Stream, ledger: Ledger, address: str, marks: dict[str, int]) -> None:
    """QUIT with deletions: the books say "uncertain" before it is sent and settle it with the answer."""
    box = ledger.boxes[address]
    box.marked(marks)
    after_cut = ledger.cut
    await stream.send(b"QUIT\r\n")
    answer = await stream.expect(b"+OK", b"-ERR")
    if ledger.cut and not (after_cut and answer.startswith(b"+OK")):
        raise Odd("the deletions may have failed")  # they are on the disk or not, but all of them or none
    box.settled(deleted=answer.startswith(b"+OK"))
    if not answer.startswith(b"+OK"):
        raise Odd(f"{answer!r} to QUIT")
    ledger.tally.deletions += len(marks)


async def delete_letters(endpoint: Endpoint, address: str, ledger: Ledger, chance: random.Random) -> None:
    """Logs in, reads some letters, deletes them, again and again; sometimes hangs up or takes it back."""
    try:
        while True:
            stream = await login(endpoint, address)
            if stream is None:  # our last session has just been hung up
                await asyncio.sleep(0.005)
                continue
            async with stream:
                await _delete_some(stream, address, ledger, chance)
    except Lost:
        return
    except Odd as error:
        ledger.odd(f"the reader of {address} was told {error}")


async def _delete_some(stream: Stream, address: str, ledger: Ledger, chance: random.Random) -> None:
    ids = await unique_ids(stream)
    chosen = sorted(chance.sample(range(1, len(ids) + 1), min(len(ids), chance.choice((1, 3, 10, 30)))))
    marks: dict[str, int] = {}
    for number, text in zip(chosen, await retrieve(stream, chosen), strict=True):
        letter = ledger.read(address, ids[number - 1], text)
        if letter is not None:
            marks[ids[number - 1]] = letter
    await delete(stream, chosen)
    fate = chance.random()
    if fate < 0.15:
        return  # hangs up: nothing is deleted
    if fate < 0.25:
        await stream.send(b"RSET\r\n")
        await stream.expect(b"+OK")
        marks = {}
    await quit_session(stream, ledger, address, marks)


async def verify(endpoint: Endpoint, address: str, ledger: Ledger, chance: random.Random) -> list[str]:
    """Looks at a whole maildrop after a restart: every letter not seen before and some others are read."""
    stream = await login(endpoint, address)
    if stream is None:
        raise Odd("the maildrop is in use right after a start")
    async with stream:
        ids = await unique_ids(stream)
        if len(set(ids)) != len(ids):
            raise Odd(f"a unique-id stands twice in {address}")
        known = ledger.boxes[address].known
        look = [n for n, unique_id in enumerate(ids, 1) if unique_id not in known or chance.random() < 0.05]
        for number, text in zip(look, await retrieve(stream, look), strict=True):
            ledger.read(address, ids[number - 1], text)
        await stream.send(b"QUIT\r\n")
        await stream.expect(b"+OK")
    return ids


async def empty(endpoint: Endpoint, address: str, ledger: Ledger) -> None:
    """Deletes a whole maildrop, so that it does not grow from round to round, and that large updates happen too."""
    stream = await login(endpoint, address)
    if stream is None:
        raise Odd("the maildrop is in use although nobody is there")
    async with stream:
        ids = await unique_ids(stream)
        known = ledger.boxes[address].known
        await delete(stream, list(range(1, len(ids) + 1)))
        await quit_session(stream, ledger, address, {unique_id: known[unique_id] for unique_id in ids})
