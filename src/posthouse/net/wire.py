"""One connection, for servers and clients alike: octets in as events, octets out in batches, bounded waits.

Reading is batched: what one read brought is fed to the protocol core, all its events are handled, and what was
written meanwhile leaves in one write. All connections of a loop share one buffer for reading, so an idle
connection costs no buffer at all.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Protocol, TypeVar, cast

from posthouse.mail.budget import FREE
from posthouse.net.buffers import Buffers
from posthouse.net.encryption import Encryption, TlsFailed, why_failed
from posthouse.ports.system import Endpoint, SessionObserver

STALL_TIMEOUT: Final = 300.0  # seconds a peer may leave our octets unread; RFC 5321 §4.5.3.2.7
REST_EXACT: Final = 0.002  # seconds at the end of a rest that pass in turns of the loop: timers are a millisecond late
CLOSE_TIMEOUT: Final = 10.0  # seconds the last octets have to leave after close
TLS_CLOSE_TIMEOUT: Final = 2.0  # seconds for the peer's own word of farewell, which nobody needs (RFC 8446 §6.1)
OUT_HIGH: Final = 16_384  # octets that the system does not take, above which a session waits for its peer
TLS_HIGH: Final = 65_536  # octets that came by TLS and wait to be decrypted, above which its connection is not read
NARROW: Final = 16_384  # octets that the system keeps (twice that, Linux says) for TLS when memory is short
TLS_BURST: Final = 524_288  # octets at most that TLS keeps of a large read: in the loop's buffer and in OpenSSL's

E_co = TypeVar("E_co", covariant=True)
E = TypeVar("E")


class Core(Protocol[E_co]):
    """A protocol core, as a wire sees it: octets in, events out."""

    def feed(self, octets: bytes) -> None:
        """Takes octets as they came, cut anywhere."""
        ...

    def next_event(self) -> E_co | None:
        """The next event, or None when more octets are needed."""
        ...


class Stopping(Exception):
    """The server is being stopped and this session was waiting for its peer."""


class Wire(asyncio.BufferedProtocol):
    """One connection. Only its own session task awaits it."""

    __slots__ = (
        "_buffers",
        "_burst",
        "_closed",
        "_deadline",
        "_ended",
        "_fed",
        "_handshaking",
        "_held",
        "_input",
        "_input_size",
        "_loop",
        "_lost",
        "_on_open",
        "_out",
        "_reading_paused",
        "_shared",
        "_stop_asked",
        "_timer",
        "_timer_due",
        "_transport",
        "_wait_due",
        "_waiter",
        "_writing_paused",
        "busy",
        "encryption",
        "patience",
        "peer",
        "stall_timeout",
        "tap",
    )

    def __init__(self, buffers: Buffers, on_open: Callable[[Wire], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffers = buffers
        self._shared = buffers.take()
        self._fed = 0  # octets that the core was given last: it may not have used them all
        self._burst = 0  # octets that TLS took hold of
        self._held = 0  # octets of all that are counted
        self._on_open = on_open
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._input: list[bytes] = []
        self._input_size = 0
        self._out: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._wait_due = 0.0
        self._deadline: float | None = None
        self._ended = False
        self._lost = False
        self._reading_paused = False
        self._writing_paused = False
        self._stop_asked = False
        self._handshaking = False
        self._closed = False
        self.busy = False
        self.encryption: Encryption | None = None
        self.patience = 300.0
        self.stall_timeout = STALL_TIMEOUT
        self.tap: SessionObserver | None = None
        self.peer = Endpoint("", 0)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._bound(self._transport)
        self.peer = _endpoint(transport.get_extra_info("peername"))
        if self._on_open is not None:
            self._on_open(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared if self._buffers.ample else self._shared[:FREE]

    def buffer_updated(self, nbytes: int) -> None:
        self._input.append(bytes(self._shared[:nbytes]))
        self._input_size += nbytes
        if self._input_size > FREE:
            self._fill()
        # While we wait for a peer to read, its further commands only fill the bounded input.
        if not self._writing_paused:
            self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        if not self._writing_paused:
            self._wake()
        # Our replies may still leave; but where TLS is spoken, the event loop ends both ways at once.
        return self.encryption is None and not self._handshaking

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._lost = True
        self._writing_paused = False
        self._out.clear()
        if self._closed:
            self._let_go()
        elif self._held:
            self._weigh(progress=True)  # what came may still be used
        if self.encryption is not None:
            # TLS keeps our methods, and we keep TLS: half a megabyte would wait for the garbage collector.
            self._transport = _GONE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.weigh()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._held:
            self._weigh(progress=True)
        self._wake()

    # What the connections share

    @property
    def waiting(self) -> bool:
        """Whether the session waits for its peer."""
        return self._waiter is not None and not self._waiter.done()

    def weigh(self) -> None:
        """Has counted what this connection holds, in and out, if it is more than a little."""
        self._weigh(progress=False)

    def _weigh(self, *, progress: bool) -> None:
        octets = self._input_size + self._fed
        if self.encryption is not None and self._input_size > FREE:
            encrypted = self._undecrypted()
            octets += encrypted
            self._burst = min(TLS_BURST, max(self._burst, 2 * (self._input_size + encrypted)))
        if self._writing_paused:
            octets += self._transport.get_write_buffer_size()
        octets = self._burst + (octets if octets > FREE else 0)
        if octets != self._held or progress:
            self._held = octets
            self._buffers.hold(self, octets, progress=progress)

    def _undecrypted(self) -> int:
        """Octets that TLS keeps because nobody took what they say."""
        tell = getattr(self._transport, "get_read_buffer_size", None)
        return 0 if tell is None else int(tell())

    def _fill(self) -> None:
        self.weigh()
        if self._input_size > self._buffers.high and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _let_go(self) -> None:
        """Nothing is held any more."""
        self._fed = self._burst = 0
        self._input.clear()
        self._input_size = 0
        if self._held:
            self._held = 0
            self._buffers.hold(self, 0, progress=True)

    # What a session calls

    @property
    def local(self) -> Endpoint:
        """Our end of the connection; asking for it costs a system call."""
        return _endpoint(self._transport.get_extra_info("sockname"))

    @property
    def encrypted(self) -> bool:
        """Whether TLS protects this connection."""
        return self.encryption is not None

    @property
    def tls(self) -> Any:
        """The object of Python's `ssl` that protects this connection, None when nothing does."""
        return self._transport.get_extra_info("ssl_object")

    @property
    def lost(self) -> bool:
        """Whether the connection is gone altogether, so that nothing written can arrive."""
        return self._lost

    @property
    def ended(self) -> bool:
        """Whether the peer has ended the connection, or at least its half of it."""
        return self._ended

    @property
    def unread(self) -> int:
        """Octets that came and that no core has seen yet."""
        return self._input_size

    def pause(self) -> None:
        """Reads nothing more until `start_tls`: what comes is left to the handshake."""
        if not self._lost and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    async def start_tls(
        self, context: ssl.SSLContext, *, timeout: float, server_name: str | None = None, at_once: bool = False
    ) -> ssl.SSLObject | None:
        """Goes over to TLS, as the client when a `server_name` is given, within `timeout` seconds and the deadline.

        What was written leaves first, in the clear. Octets that came before are forgotten: whoever put them there,
        they are not of the encrypted session (RFC 3207 §4.2). `pause` beforehand keeps those of the handshake.
        Where TLS begins `at_once`, with the first octet, they are of the handshake, and it gets them. Raises
        TlsFailed; then the connection is gone.
        """
        self.pause()
        await self.drain()
        early = b"".join(self._input) if at_once else b""
        self._input.clear()
        self._input_size = 0
        if self._deadline is not None:
            timeout = min(timeout, self._deadline - self._loop.time())
        if self._lost or (self._ended and not early) or self._stop_asked or timeout <= 0:
            self._break()
            raise TlsFailed("the connection ended before the handshake")
        self._handshaking = True
        if not self._buffers.ample:
            self._narrow()
        if early:
            self._loop.call_soon(self._loop.call_soon, self._hand_over, self._transport, early)
        try:
            transport = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_side=server_name is None,
                server_hostname=server_name,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT,
            )
        except (OSError, RuntimeError) as error:  # SSLError is an OSError; uvloop says RuntimeError of a lost transport
            self._break()
            refused = isinstance(error, ssl.SSLCertVerificationError)
            raise TlsFailed(why_failed(error), certificate=refused) from error
        except BaseException:
            self._break()
            raise
        finally:
            self._handshaking = False
        if transport is None:
            self._break()
            raise TlsFailed("the connection was lost during the handshake")
        self._transport = transport
        self._reading_paused = False
        self._bound(transport)
        return self._secured(transport)

    def _hand_over(self, transport: asyncio.Transport, early: bytes) -> None:
        """Gives the handshake what came before it could read: uvloop does not let a new connection be paused.

        Two rounds of the loop after `start_tls` was called TLS has taken our place, and nothing was read in between.
        """
        protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
        while early and protocol is not self:
            room = memoryview(protocol.get_buffer(len(early)))[: len(early)]
            room[:] = early[: len(room)]
            protocol.buffer_updated(len(room))
            early = early[len(room) :]

    def _bound(self, transport: asyncio.Transport) -> None:
        """What is not counted is little: the event loop's own bounds are 64 KiB out, with TLS 256 in and 512 out."""
        transport.set_write_buffer_limits(high=OUT_HIGH)
        limit = getattr(transport, "set_read_buffer_limits", None)
        if limit is not None:
            limit(high=TLS_HIGH)

    def _narrow(self) -> None:
        """Has the system keep little for this connection: TLS reads all of that at once, up to 256 KiB, and keeps it
        twice until the connection ends."""
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)

    def _secured(self, transport: asyncio.Transport) -> ssl.SSLObject | None:
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        cipher = transport.get_extra_info("cipher") or ("unknown", "unknown", 0)
        version = (tls.version() if tls is not None else None) or str(cipher[1])
        self.encryption = Encryption(version, str(cipher[0]))
        if self.tap is not None:
            self.tap.secured(str(self.encryption))
        return tls

    def _break(self) -> None:
        """The connection is of no more use to anybody."""
        self._transport.abort()
        self._lost = self._ended = True
        self._out.clear()
        self._let_go()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def deadline(self, seconds: float | None) -> None:
        """Caps all waiting for the peer's octets from now on, whatever `patience` allows, but never in the middle of a
        message (`busy`); None lifts the cap."""
        self._deadline = None if seconds is None else self._loop.time() + seconds

    def write(self, octets: bytes, secret: bool = False) -> None:
        """Adds octets to what leaves with the next flush. Who writes much calls `drain` now and then."""
        if octets and not self._lost:
            self._out.append(octets)
            if self.tap is not None:
                self.tap.sent(octets, secret)

    def write_all(self, pieces: list[bytes]) -> None:
        """The same for octets in pieces."""
        if not self._lost:
            self._out += pieces
            if self.tap is not None:
                for octets in filter(None, pieces):
                    self.tap.sent(octets, False)

    async def drain(self) -> None:
        """Lets what was written leave, and waits while the peer does not read. Raises TimeoutError after
        `stall_timeout` seconds without progress."""
        self._flush()
        while self._writing_paused:
            await self._waiting(self._loop.time() + self.stall_timeout)

    async def next_event(self, core: Core[E]) -> E | None:
        """The core's next event, for which octets are read as needed; None when the peer ended the connection.

        What was written leaves before anything is waited for. Raises TimeoutError when `patience` seconds pass
        without an event or the deadline is over, and Stopping when the server is being stopped, no message is under
        way and every octet that came was used. A session asks the core itself first, and calls this when there was
        nothing: what one read brought needs no call of this.
        """
        due = 0.0
        while True:
            if self._out:
                self._flush()
            if self._writing_paused:
                await self.drain()
            while not self._input:
                if self._ended:
                    return None
                if self._stop_asked and not self.busy:
                    raise Stopping
                due = due or self._due()
                await self._waiting(due)
            core.feed(self._take())
            if (event := core.next_event()) is not None:
                return event

    async def events(self, core: Core[E]) -> AsyncGenerator[E, None]:
        """All events of the core, one after the other; raises as `next_event` does."""
        while (event := core.next_event() or await self.next_event(core)) is not None:
            yield event

    async def read(self) -> bytes:
        """The next octets, b"" at the end of the connection. Flushes first. Raises as `events` does."""
        await self.drain()
        due = self._due()
        while not self._input and not self._ended:
            if self._stop_asked and not self.busy:
                raise Stopping
            await self._waiting(due)
        return self._take()

    async def rest(self, seconds: float) -> None:
        """Sends what was written and lets time pass, whatever the peer sends meanwhile; ends at once when the peer is
        gone or the server is being stopped.

        The end is exact: timers count whole milliseconds from where they are set, so what was done before would
        still show in the fractions. The last of it passes in turns of the event loop.
        """
        self._flush()
        due = self._loop.time() + seconds
        while self._resting(due - REST_EXACT):
            try:
                await self._waiting(due - REST_EXACT)
            except TimeoutError:
                break
            except Stopping:
                return
        while self._resting(due):
            before = self._loop.time()
            await asyncio.sleep(0)
            if self._loop.time() == before:
                # The movable clock of the lab stands still while anybody is ready to run; its timers are exact.
                await asyncio.sleep(due - before)

    def _resting(self, due: float) -> bool:
        return not self._lost and not self._stop_asked and self._loop.time() < due

    async def hold(self, seconds: float) -> None:
        """Reads nothing for a while, so that what the peer sends meanwhile stays with it. Ends early when the
        connection is gone; raises Stopping when the server is being stopped."""
        self._flush()
        if not self._reading_paused and not self._lost and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()
        due = self._loop.time() + seconds
        while not self._lost and self._loop.time() < due:
            if self._stop_asked:
                raise Stopping
            try:
                await self._waiting(due)
            except TimeoutError:
                break
        if self._reading_paused and self._input_size <= self._buffers.high and not self._lost:
            self._reading_paused = False
            self._transport.resume_reading()

    async def finish(self, discard: float = 0.0) -> None:
        """Sends what was written, ends our half, reads and forgets the peer's octets for at most `discard` seconds
        (so that a reply is not lost to a reset when the peer is still sending), and closes."""
        self._flush()
        if discard and not self._lost:
            self._stop_asked = False
            self._writing_paused = False
            if self._transport.can_write_eof():
                self._transport.write_eof()
            due = self._loop.time() + discard
            try:
                while not self._ended:
                    self._take()
                    await self._waiting(due)
            except (TimeoutError, Stopping):
                pass
        self.close()

    def close(self) -> None:
        """Closes the connection once what was written has left, or after a while without that."""
        self._flush()
        if self._lost or self._closed:  # a second close of TLS would disturb the first one
            self._let_go()
            return
        self._closed = True
        self._let_go()
        self._transport.close()
        if self._transport.get_write_buffer_size() and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Drops the connection at once, without what was written."""
        self._out.clear()
        if not self._lost:
            self._transport.abort()

    def ask_to_stop(self) -> None:
        """Raises Stopping in the session as soon as it waits for its peer and is not `busy`."""
        self._stop_asked = True
        if self._handshaking:
            self._transport.abort()
        elif self._waiter is not None and not self.busy and not self._writing_paused:
            self._fail(Stopping())

    # Within

    def _flush(self) -> None:
        out = self._out
        if out:
            octets = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if not self._lost:
                self._transport.write(octets)

    def _take(self) -> bytes:
        octets = self._input[0] if len(self._input) == 1 else b"".join(self._input)
        self._input.clear()
        self._fed, self._input_size = self._input_size, 0
        if self._held:
            self._weigh(progress=True)
        if self._reading_paused and not self._lost:
            self._reading_paused = False
            self._transport.resume_reading()
        return octets

    def _due(self) -> float:
        due = self._loop.time() + self.patience
        return due if self._deadline is None or self.busy else min(due, self._deadline)

    def _waiting(self, due: float) -> asyncio.Future[None]:
        """What to await until woken, at most until `due` on the loop's clock."""
        self._wait_due = due
        timer = self._timer
        # One timer serves many waits: it is moved only when it would ring too late, and looks again when it rings.
        if timer is None:
            self._timer = self._loop.call_at(due, self._tick)
            self._timer_due = due
        elif self._timer_due > due:
            timer.cancel()
            self._timer = self._loop.call_at(due, self._tick)
            self._timer_due = due
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _tick(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() >= self._wait_due:
            self._fail(TimeoutError())
        else:
            self._timer = self._loop.call_at(self._wait_due, self._tick)
            self._timer_due = self._wait_due

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class _Gone(asyncio.Transport):
    """Stands for the transport of a connection that is gone: nothing comes, nothing leaves."""

    def is_closing(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is left to close."""

    abort = pause_reading = resume_reading = close

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: object) -> None:
        """Goes nowhere."""

    def get_write_buffer_size(self) -> int:
        return 0


_GONE: Final = _Gone()


def _endpoint(name: Any) -> Endpoint:
    return Endpoint(name[0], name[1]) if isinstance(name, tuple) else Endpoint("", 0)
