"""Next hosts that a test tells what to do: at each stage of a session, and connection by connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from tests.system.scripted import ScriptedServer, Talk

Act = bytes | Callable[[Talk], None]
"""What a host does at a stage: it says something, or something else happens, after which nothing is usual."""

OFFER = b"250-next.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 10000000\r\n"
USUAL: dict[str, bytes] = {
    "greeting": b"220 next.example ESMTP\r\n",
    "ehlo": OFFER,
    "data": b"354 go on\r\n",
    "quit": b"221 2.0.0 bye\r\n",
}


def silence(talk: Talk) -> None:
    """Says nothing any more, until the client goes."""
    talk.rest()


def drop(talk: Talk) -> None:
    """Closes."""
    talk.hang_up()


def endless(talk: Talk) -> None:
    """A reply of more lines than anybody reads."""
    for _ in range(1000):
        talk.say(b"250-and so on and on\r\n" * 1000)


def playing(*turns: dict[str, Act], offer: bytes = OFFER) -> Callable[[Talk], None]:
    """A script: a host that does this, turn by turn, and at all other stages what is usual; the last turn stays. A
    turn is a transaction, the first of a connection beginning with the greeting. Stages: greeting, ehlo, helo, mail,
    rcpt, "rcpt NAME" for recipients with that name in them, data, end, rset, quit."""
    number = -1

    def script(talk: Talk) -> None:
        nonlocal number
        number, acts, fresh = number + 1, _acts(number + 1), True

        def act(stage: str, line: bytes = b"") -> bool:
            """Whether it went on as usual: a message may follow 354."""
            named = [key for key in acts if key.startswith(stage + " ") and key.split()[1].encode() in line]
            what = acts.get(named[0] if named else stage, b"250 2.0.0 ok\r\n")
            if callable(what):
                what(talk)
                return False
            talk.say(what)
            return stage != "data" or what.startswith(b"354")

        if not act("greeting"):
            return
        while line := talk.line():
            verb = line.split(b" ")[0].split(b":")[0].lower().decode("ascii", "replace")
            if verb == "mail" and not fresh:
                number, acts = number + 1, _acts(number + 1)
            fresh = fresh and verb != "mail"
            if verb == "data" and act("data"):
                talk.message()
                act("end")
            elif verb != "data":
                act(verb, line)
            if verb == "quit":
                return

    def _acts(turn: int) -> dict[str, Act]:
        return {**USUAL, "ehlo": offer, **turns[min(turn, len(turns) - 1)]}

    return script


@contextlib.contextmanager
def next_host(*turns: dict[str, Act], offer: bytes = OFFER) -> Iterator[ScriptedServer]:
    """A host that does this, for the length of a `with` block."""
    with ScriptedServer(playing(*turns or ({},), offer=offer)) as host:
        yield host


def taken(host: ScriptedServer) -> list[bytes]:
    """The letters that it was handed, whatever it answered to them."""
    return [heard for heard in host.heard if b"\r\n\r\n" in heard]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers as one does whose packets are swallowed: its queue is full, so nobody is let in."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
            fillers.append(filler)
        try:
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()
