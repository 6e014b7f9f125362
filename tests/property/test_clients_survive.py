"""Whatever a server says, a client ends in time, with an exit code it knows, and without a traceback."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posthouse.cli.dialogue import run_read, run_send
from posthouse.cli.exits import Exit, Problem
from posthouse.clients.failure import Failure
from posthouse.clients.pop3 import Pop3Client

SMTP = (
    *(b"220 x\r\n", b"250 OK\r\n", b"250-x\r\n", b"250-PIPELINING\r\n", b"250 AUTH PLAIN\r\n", b"250 SIZE 9\r\n"),
    *(b"334 \r\n", b"235 ok\r\n", b"354 go\r\n", b"421 bye\r\n", b"550 5.1.1 no\r\n", b"451\r\n", b"221 bye\r\n"),
    *(b"\0\xff", b"\r\n", b"250", b"-", b"junk\r\n", b"999 what\r\n", b"x" * 9000),
)
POP3 = (
    *(b"+OK\r\n", b"+OK 1 2\r\n", b"+OK [X] y\r\n", b"-ERR no\r\n", b"-ERR [IN-USE] no\r\n", b"+ \r\n", b".\r\n"),
    *(
        b"1 5\r\n",
        b"2 id\r\n",
        b"..\r\n",
        b"Subject: x\r\n\r\n",
        b"\0\xff\x1b[2J",
        b"\r\n",
        b"+OK",
        b"junk\r\n",
        b"x" * 9000,
    ),
)


def served(octets: list[bytes], use: Callable[[str], Coroutine[Any, Any, Any]]) -> Any:
    """Runs a client against a server that says this, piece by piece, whatever it hears, and then closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for piece in octets:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            writer.write_eof()
            while await reader.read(65_536):
                pass
        except OSError:
            pass
        finally:
            writer.close()

    async def play() -> Any:
        server = await asyncio.start_server(script, "127.0.0.1", 0)
        try:
            async with asyncio.timeout(20):
                return await use(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finally:
            server.close()
            await asyncio.sleep(0)

    return asyncio.run(play())


whatever = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@whatever
@given(st.lists(st.sampled_from(SMTP), max_size=14))
def test_send(octets: list[bytes]) -> None:
    screen = io.StringIO()
    answers = ["test@x.mail", "test", "secret", "a@x.mail, bad@x.mail", "topic", ".\nRSET", ""]
    code = served(octets, lambda where: run_send([where, *answers], screen, timeout=2))
    assert Exit(code)
    assert "\nSent to " in screen.getvalue() and "\0" not in screen.getvalue()


@whatever
@given(st.lists(st.sampled_from(POP3), max_size=14))
def test_read(octets: list[bytes]) -> None:
    screen = io.StringIO()
    words = ["Auth", "a@x.mail", "secret", "List", "Unique", "Read", "1", "Delete 1", "Top 1", "Capa", "Raw X", "Quit"]
    try:
        Exit(served(octets, lambda where: run_read([where, *words], screen, timeout=2)))
    except Problem as problem:
        assert Exit(problem.code)
    assert not any(c in screen.getvalue() for c in "\0\x1b")


@whatever
@given(st.lists(st.sampled_from(POP3), max_size=14))
def test_the_session_raises_failures_only(octets: list[bytes]) -> None:
    async def use(where: str) -> None:
        client = await Pop3Client.connect("127.0.0.1", int(where.split(":")[1]), timeout=2)
        try:
            await client.greet()
            await client.capabilities()
            await client.sizes()
            await client.unique_ids()
            await client.stat()
            await client.retrieve(1, lambda piece: None)
            await client.quit()
        finally:
            client.close()

    try:
        served(octets, use)
    except Failure as failure:
        assert failure.stage and str(failure)


@pytest.mark.parametrize("octets", [[b"+OK\r\n" * 100_000], [b"220-x\r\n" * 100_000], [b"\r\n" * 100_000]])
def test_babble(octets: list[bytes]) -> None:
    assert (
        served(octets, lambda where: run_send([where, "a@x", "", "", "b@x", "", "", ""], io.StringIO(), timeout=2))
        == 76
    )
