"""A connection in memory: two transports, and octets that need their time from one to the other.

What a program sees is what TCP shows it (RFC 9293): octets in order, pressure when the other side does not read, an
end of each direction, a reset when somebody writes to an end that is closed. What the network does to a connection is
asked of its `Road` at every arrival.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from contextvars import Context
from enum import Enum
from typing import Any, Final, Protocol, cast

from posthouse.ports.system import Endpoint

WINDOW: Final = 65_536  # octets on their way or unread that the systems keep, before the program's own buffer grows
HIGH: Final = 65_536  # octets of that buffer above which a program is asked to stop writing; asyncio's own mark
LOW: Final = 16_384
FIRST_RETRY: Final = 1.0  # seconds until lost octets are sent again; then twice as long each time (RFC 6298 §2, §5.5)
LAST_RETRY: Final = 120.0
GIVEN_UP: Final = 924.6  # seconds; tcp(7) tcp_retries2


class Condition(Enum):
    """What becomes of octets that arrive."""

    OPEN = "open"
    LOST = "lost"  # they come again later
    RESET = "reset"


class Road(Protocol):
    """What lies between the two ends of a connection."""

    def latency(self) -> float:
        """Seconds from one end to the other."""
        ...

    def duration(self, octets: int) -> float:
        """Seconds that sending so many octets takes beside that."""
        ...

    def condition(self) -> Condition:
        """What happens to what arrives now."""
        ...

    def passed(self, octets: bytes, *, caller: bool) -> None:
        """Hears what arrived; `caller`: from the end that opened the connection."""
        ...


class MemoryTransport(asyncio.Transport):
    """One end of a connection. Made in pairs by `join`."""

    _start_tls_compatible = True  # what asyncio's own start_tls asks of a transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        road: Road,
        context: Context,
        local: Endpoint,
        peer: Endpoint,
        *,
        caller: bool,
    ) -> None:
        super().__init__({"sockname": _name(local), "peername": _name(peer)})
        self._loop = loop
        self._road = road
        self._context = context
        self._caller = caller
        self._other: MemoryTransport = _NOWHERE
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._travelling: deque[tuple[float, bytes | None]] = deque()  # None is the end of the direction
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0  # when the last of it arrives
        self._lost_since: float | None = None
        self._retry = FIRST_RETRY
        self._unread: deque[bytes | None] = deque()  # what arrived and was not read yet
        self._pending = 0  # octets written here that the other program has not read
        self._high, self._low = HIGH, LOW
        self._begun = False
        self._paused = False  # reading
        self._held = False  # the program was asked to stop writing
        self._ended = False  # no more is written
        self._closing = False
        self._gone: bool = False

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Tells the program of its connection."""
        self._protocol = protocol
        self._begun = True
        protocol.connection_made(self)
        self._read()

    # What a program calls

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._unread:
                self._loop.call_soon(self._read, context=self._context)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended:
            if self._gone or self._closing:
                return  # as asyncio does: what is written to a lost connection is lost
            raise RuntimeError("the direction was ended with write_eof")
        octets = bytes(data)
        if not octets:
            return
        self._pending += len(octets)
        self._send(octets)
        if not self._held and self.get_write_buffer_size() > self._high:
            self._held = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._ended:
            self._ended = True
            self._send(None)

    def get_write_buffer_size(self) -> int:
        return max(0, self._pending - WINDOW)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.get_write_buffer_size():
                self._finish()

    def abort(self) -> None:
        if self._gone:
            return
        if self.get_write_buffer_size():
            self._travelling.clear()
        self._closing = True
        self._finish()

    # On the way

    def _send(self, octets: bytes | None) -> None:
        # What was sent before arrives before, and while it is being sent nothing else is.
        first = max(self._last, self._loop.time() + self._road.latency())
        self._last = first + self._road.duration(len(octets or b""))
        self._travelling.append((self._last, octets))
        if self._timer is None:
            self._set_out(self._last)

    def _set_out(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._arrive, context=self._other._context)

    def _arrive(self) -> None:
        """What is due has arrived at the other end, if the network lets it."""
        self._timer = None
        condition = self._road.condition()
        if condition is Condition.RESET:
            self._other._drop(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
            self._drop(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
            return
        now = self._loop.time()
        if condition is Condition.LOST:
            self._send_again(now)
            return
        self._lost_since, self._retry = None, FIRST_RETRY
        while self._travelling and self._travelling[0][0] <= now:
            self._hand_over(self._travelling.popleft()[1])
        if self._travelling and self._timer is None:
            self._set_out(self._travelling[0][0])
        self._part()

    def _send_again(self, now: float) -> None:
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since >= GIVEN_UP:
            self._travelling.clear()
            self._drop(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
            return
        self._set_out(now + self._retry)
        self._retry = min(2 * self._retry, LAST_RETRY)

    def _hand_over(self, octets: bytes | None) -> None:
        other = self._other
        if octets is not None:
            self._road.passed(octets, caller=self._caller)
        if other._gone:
            if octets is not None:  # nobody is there to read it (RFC 9293 §3.5.2)
                back = self._loop.time() + self._road.latency()
                error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
                self._loop.call_at(back, self._drop, error, context=self._context)
            return
        other._unread.append(octets)
        other._read()

    def _read(self) -> None:
        """Gives the program what arrived, while it takes any."""
        while self._unread and self._begun and not self._paused and not self._closing:
            octets = self._unread.popleft()
            if octets is None:
                if not self._protocol_end():
                    self.close()
                return
            rest = self._feed(octets)
            if rest:
                self._unread.appendleft(rest)
            self._other._taken(len(octets) - len(rest))

    def _protocol_end(self) -> bool | None:
        return cast(asyncio.Protocol, self._protocol).eof_received()

    def _feed(self, octets: bytes) -> bytes:
        """Gives octets to the program; returns those for which its buffer had no room."""
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(octets)
            return b""
        room = memoryview(cast(memoryview, protocol.get_buffer(len(octets))))
        count = min(len(room), len(octets))
        room[:count] = octets[:count]
        protocol.buffer_updated(count)
        return octets[count:]

    def _taken(self, count: int) -> None:
        """The other program has read octets of ours."""
        self._pending -= count
        if self._gone:
            return
        size = self.get_write_buffer_size()
        if self._held and size <= self._low:
            self._held = False
            self._loop.call_soon(self._resume, context=self._context)
        if self._closing and not size:
            self._finish()

    def _resume(self) -> None:
        if not self._gone and not self._held:
            self._protocol.resume_writing()

    # The end

    def _finish(self) -> None:
        """Closes: what is on its way still arrives, then the end; or a reset, when octets were left unread."""
        if any(octets is not None for octets in self._unread):
            self._travelling.clear()
            back = self._loop.time() + self._road.latency()
            error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            self._loop.call_at(back, self._other._drop, error, context=self._other._context)
        elif not self._ended:
            self._send(None)
        self._drop(None)

    def lose_power(self) -> None:
        """The machine of this end is off: the program hears nothing more, and nobody is told."""
        other = self._other
        self._gone = self._closing = self._ended = True
        self._travelling.clear()
        self._unread.clear()
        self._timer, self._protocol = None, _NOBODY
        other._timer = None  # what was on its way arrived at nobody, and is sent again
        if other._travelling:
            other._set_out(self._loop.time() + FIRST_RETRY)

    def _drop(self, error: Exception | None) -> None:
        """The connection is over at this end."""
        if self._gone:
            return
        self._gone = self._closing = self._ended = True
        self._unread.clear()
        self._loop.call_soon(self._tell_lost, error, context=self._context)

    def _tell_lost(self, error: Exception | None) -> None:
        if self._begun:
            self._protocol.connection_lost(error)
        self._protocol = _NOBODY
        self._part()

    def _part(self) -> None:
        """Once nothing can happen to the connection any more, its ends forget each other: no circle of references is
        left for the garbage collector."""
        other = self._other
        if self._gone and other._gone and not self._travelling and not other._travelling:
            self._other = other._other = _NOWHERE


_NOBODY: Final = asyncio.Protocol()

_NOWHERE: Final[MemoryTransport] = MemoryTransport.__new__(MemoryTransport)
"""The other end of a connection that is over."""
_NOWHERE._gone = True
_NOWHERE._travelling = deque()


def join(near: MemoryTransport, far: MemoryTransport) -> None:
    """Makes two transports the ends of one connection."""
    near._other, far._other = far, near


def _name(endpoint: Endpoint) -> tuple[Any, ...]:
    """The name of an end as sockets give it."""
    return (endpoint.host, endpoint.port, 0, 0) if ":" in endpoint.host else (endpoint.host, endpoint.port)
