"""Plays transcripts against a session: what the client says, what the server must answer, octet for octet.

A transcript is a text file. Its first line names the rule and the RFC. Then:

    # a remark
    !with key=value ...   options for the stage; `peer=192.0.2.9` is the client's address (default 127.0.0.1)
    C: text               the client sends the line and CRLF
    C+ octets             the client sends octets; \\r \\n \\t \\0 \\\\ and \\xNN are escapes, no CRLF is added
    C* count octets       the client sends the octets of `C+`, count times
    S: text               the server answers exactly this line and CRLF
    S~ text               ... a line that begins so
    S* pattern            ... a line that matches the whole regular expression
    S= code               ... a reply with this code, of one line or several, whatever it says
    !close                the server says nothing more and closes
    !eof                  the client ends its half of the connection
    !drop                 the connection is lost, with what the server said and nobody read
    !wait seconds         so much time passes for the connection, at once
    !next                 the client comes again: a new connection, the same stage
    !anything else        goes to the stage, with its argument: `!stored test@x.mail ...`

Client lines that follow each other are sent together (pipelined), or octet by octet when `cut` asks for it.
At the end the client hangs up, and the server must have said nothing more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, cast

from posthouse.net.buffers import Buffers
from posthouse.net.wire import Wire

PATIENCE: Final = 5.0  # seconds a line may take; only a failing test waits so long
CUT_SINGLY: Final = 4000
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)")
_NAMED: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}

Session = Callable[[Wire], Awaitable[None]]


class Stage(Protocol):
    """What a transcript is played on: a server with its stores, made anew for each transcript."""

    async def session(self, options: dict[str, str]) -> Session:
        """The session coroutine function for a new connection."""
        ...

    async def directive(self, name: str, argument: str) -> None:
        """Carries out a directive of its own; raises AssertionError."""
        ...


def transcripts(folder: Path) -> list[Path]:
    """All transcripts of a folder, by name."""
    found = sorted(folder.glob("*.txt"))
    assert found, f"no transcripts in {folder}"
    return found


def unescape(text: str) -> bytes:
    """The octets that `C+` means."""

    def octets(found: re.Match[bytes]) -> bytes:
        word = found[1]
        return bytes([int(word[1:], 16)]) if len(word) == 3 else _NAMED[word]

    return _ESCAPE.sub(octets, text.encode())


class MemoryTransport:
    """The client's end of a connection that exists in memory only; a Wire takes it for a socket."""

    def __init__(self, peer: tuple[str, int], local: tuple[str, int] = ("127.0.0.1", 25)) -> None:
        self._extra = {"peername": peer, "sockname": local}
        self.out = bytearray()
        self.closed = False
        self.changed = asyncio.Event()
        self.protocol: Wire | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def write(self, octets: bytes) -> None:
        self.out += octets
        self.changed.set()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._end()

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self._end()

    def abort(self) -> None:
        self._end()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def _end(self) -> None:
        self.closed = True
        self.changed.set()


class Client:
    """The client of one connection in memory."""

    def __init__(self, session: Session, peer: str) -> None:
        self.transport = MemoryTransport((peer, 40000))
        self.wire = Wire(Buffers())
        self.wire.connection_made(cast(asyncio.Transport, self.transport))
        self.task = asyncio.ensure_future(session(self.wire))
        self.task.add_done_callback(lambda _: self.transport.changed.set())
        self._lost = False

    def send(self, octets: bytes) -> None:
        """Sends octets as the network would bring them, in pieces of at most 64 KiB."""
        for start in range(0, len(octets), 65536):
            piece = octets[start : start + 65536]
            self.wire.get_buffer(-1)[: len(piece)] = piece
            self.wire.buffer_updated(len(piece))

    async def send_cut(self, octets: bytes) -> None:
        """Sends octet by octet (beyond the first 4000 in odd pieces), each seen by the server before the next."""
        pieces = [bytes([octet]) for octet in octets[:CUT_SINGLY]]
        pieces += [octets[start : start + 251] for start in range(CUT_SINGLY, len(octets), 251)]
        for piece in pieces:
            self.send(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def line(self) -> str:
        """The next line of the server, without CRLF; raises AssertionError when none comes."""
        out = self.transport.out
        while (end := out.find(b"\r\n")) < 0:
            if self.transport.closed or self.task.done():
                self._raise()
                raise AssertionError(f"the server closed instead of answering; left over: {bytes(out)!r}")
            await self._change()
        line = out[:end].decode()
        del out[: end + 2]
        return line

    async def closes(self) -> None:
        """Waits until the server closes; raises AssertionError when it says something more."""
        while not self.transport.closed:
            if self.task.done():
                self._raise()
                break
            await self._change()
        assert not self.transport.out, f"more was said: {bytes(self.transport.out)!r}"

    def end(self) -> None:
        """The client ends its half."""
        self.wire.eof_received()

    async def leave(self) -> None:
        """The connection is gone; waits until the session has ended."""
        if not self._lost:
            self._lost = True
            self.wire.connection_lost(None)
        await asyncio.wait_for(self.task, PATIENCE)

    async def _change(self) -> None:
        self.transport.changed.clear()
        try:
            await asyncio.wait_for(self.transport.changed.wait(), PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"nothing came; left over: {bytes(self.transport.out)!r}") from error

    def _raise(self) -> None:
        if self.task.done():
            self.task.result()


async def play(path: Path, stage: Stage, *, cut: bool = False) -> None:
    """Plays one transcript; raises AssertionError with the line that failed."""
    await _Play(stage, cut).run(path)


class _Play:
    def __init__(self, stage: Stage, cut: bool) -> None:
        self._stage = stage
        self._cut = cut
        self._options: dict[str, str] = {}
        self._client: Client | None = None
        self._pending = b""

    async def run(self, path: Path) -> None:
        for number, line in _lines(path):
            try:
                await self._step(line)
            except AssertionError as error:
                raise AssertionError(f"{path.name}:{number}: {line}\n{error}") from error
        await self._hang_up(path.name)

    async def _step(self, line: str) -> None:
        mark, _, text = line.partition(" ")
        if mark == "!with":
            self._options.update({word.partition("=")[0]: word.partition("=")[2] for word in text.split()})
        elif mark == "C:":
            self._pending += text.encode() + b"\r\n"
        elif mark == "C+":
            self._pending += unescape(text)
        elif mark == "C*":
            count, _, octets = text.partition(" ")
            self._pending += unescape(octets) * int(count)
        elif mark == "!next":
            await self._hang_up(line)
        elif mark == "S=":
            await self._reply(await self._talk(), text)
        elif mark in _EXPECT:
            said = await (await self._talk()).line()
            assert _EXPECT[mark](said, text), f"the server said: {said}"
        elif mark.startswith("!"):
            await self._direct(mark[1:], text)
        else:
            raise AssertionError("not a line of a transcript")

    async def _reply(self, client: Client, code: str) -> None:
        said = await client.line()
        while said.startswith(f"{code}-"):
            said = await client.line()
        assert said.startswith(f"{code} "), f"the server said: {said}"

    async def _direct(self, name: str, argument: str) -> None:
        client = await self._talk() if self._client or self._pending or name in _OF_CLIENT else None
        if client is None or name not in _OF_CLIENT:
            await self._stage.directive(name, argument)
        elif name == "close":
            await client.closes()
        elif name == "eof":
            client.end()
        elif name == "wait":
            await pass_time(float(argument))
        else:
            await client.leave()
            client.transport.out.clear()

    async def _talk(self) -> Client:
        """The client, after it said what is pending."""
        if self._client is None:
            peer = self._options.get("peer", "127.0.0.1")
            self._client = Client(await self._stage.session(self._options), peer)
        octets, self._pending = self._pending, b""
        if self._cut:
            await self._client.send_cut(octets)
        else:
            self._client.send(octets)
        return self._client

    async def _hang_up(self, where: str) -> None:
        if self._client is None and not self._pending:
            return
        client = await self._talk()
        await client.leave()
        assert not client.transport.out, f"{where}: more was said: {bytes(client.transport.out)!r}"
        self._client = None


async def pass_time(seconds: float) -> None:
    """Sets the event loop's clock ahead: what was due meanwhile happens now."""
    loop = asyncio.get_running_loop()
    before = loop.time
    cast(Any, loop).time = lambda: before() + seconds
    for _ in range(10):  # a timer that rings may set another, and sessions have their turns
        await asyncio.sleep(0)


_OF_CLIENT: Final = frozenset({"close", "eof", "drop", "wait"})
_EXPECT: Final[dict[str, Callable[[str, str], bool]]] = {
    "S:": lambda said, text: said == text,
    "S~": lambda said, text: said.startswith(text),
    "S*": lambda said, text: re.fullmatch(text, said) is not None,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    assert re.search(r"RFC [0-9]+|our rule|origin|reliability", lines[0]), f"{path.name}: the first line names no rule"
    for number, line in enumerate(lines[1:], 2):
        if line.strip() and not line.startswith("#"):
            yield number, line
