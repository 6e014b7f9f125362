"""One document over https: bounded in size, time and redirections, and never in clear.

http.client of the standard library speaks HTTP. It blocks, so it gets a thread that the end of the program does not
wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin, urlsplit

LIMIT: Final = 262_144  # octets of a document
REDIRECTS: Final = 3
PIECE: Final = 16_384
AGENT: Final = "posthouse"


class FetchError(Exception):
    """There is no document. The text says why, for people; it repeats nothing that the server sent."""


async def fetch(url: str, context: ssl.SSLContext, *, seconds: float) -> bytes:
    """The document at an https URL, after at most `seconds`. Raises FetchError."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bytes] = loop.create_future()
    deadline = time.monotonic() + seconds

    def settle(act: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if found.done() else act())

    def work() -> None:
        try:
            octets = _follow(url, context, deadline)
            settle(lambda: found.set_result(octets))
        except FetchError as error:
            reason = error
            settle(lambda: found.set_exception(reason))

    threading.Thread(target=work, name="fetch", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await found
    except TimeoutError:
        raise FetchError("no answer in time") from None


def _follow(url: str, context: ssl.SSLContext, deadline: float) -> bytes:
    for _ in range(REDIRECTS + 1):
        status, target, octets = _get(url, context, deadline)
        if status == 200:
            return octets
        if status not in (301, 302, 303, 307, 308) or not target:
            raise FetchError("there is none" if status in (404, 410) else f"the web server answered {status}")
        url = urljoin(url, target)
    raise FetchError("it leads in a circle of redirections")


def _get(url: str, context: ssl.SSLContext, deadline: float) -> tuple[int, str, bytes]:
    """The status, where it leads to, and the body."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise FetchError("it leads to something that is no URL") from error
    if parts.scheme != "https" or not host:
        raise FetchError("it leads to a place without https")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPSConnection(host, port, timeout=_left(deadline), context=context)
    try:
        connection.request("GET", path, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"})
        with contextlib.closing(connection.getresponse()) as answer:
            body = _read(answer, connection, deadline) if answer.status == 200 else b""
            return answer.status, answer.getheader("Location") or "", body
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"the certificate is refused: {error.verify_message}") from error
    except TimeoutError as error:
        raise FetchError("no answer in time") from error
    except ConnectionRefusedError as error:
        raise FetchError("nothing listens there") from error
    except (OSError, UnicodeError) as error:
        raise FetchError("it cannot be reached") from error
    except (http.client.HTTPException, ValueError) as error:
        raise FetchError("the web server does not speak HTTP as it should") from error
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse, connection: http.client.HTTPSConnection, deadline: float) -> bytes:
    """The body, at most LIMIT octets of it. Each piece has only the time that is left."""
    octets = b""
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
        piece = answer.read1(PIECE)
        if not piece:
            return octets
        octets += piece
        if len(octets) > LIMIT:
            raise FetchError(f"it is larger than {LIMIT} octets")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise FetchError("no answer in time")
    return left
