"""TLS of servers: the certificate by name, reloading, bounds; on real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from posthouse.net.dial import connect
from posthouse.net.encryption import TlsFailed
from posthouse.net.listener import Listener, Service, Sessions
from posthouse.net.tls import BadCertificate, ServerTls, Trust, protect_client, read_pin, server_context
from posthouse.net.wire import Wire
from posthouse.observe.log import QuietLog
from posthouse.ports.certificates import CertificateFiles
from tests.certificates import Made, make


class Noted(QuietLog):
    """A log that keeps what was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))

    warning = info


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    found: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
    with contextlib.suppress(ImportError):
        import uvloop

        found.append(uvloop.new_event_loop)
    return found


@pytest.fixture(params=loops(), ids=lambda factory: factory.__module__.partition(".")[0])
def runner(request: pytest.FixtureRequest) -> Callable[[object], object]:
    """Runs a coroutine on one of the event loops the server may have."""

    def run(main: object) -> object:
        with asyncio.Runner(loop_factory=request.param) as one:
            return one.run(main)  # type: ignore[arg-type]

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop go on until something has come about."""
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def echo(wire: Wire) -> None:
    """A session: says hello, then says back what comes."""
    wire.patience = 5.0
    wire.write(b"hello\n")
    with contextlib.suppress(TimeoutError):
        while octets := await wire.read():
            wire.write(octets)


@contextlib.asynccontextmanager
async def serving(tls: ServerTls):  # type: ignore[no-untyped-def]
    """The port of a listener that begins with TLS."""
    sessions = Sessions(100, QuietLog())
    listener = Listener("test", sessions, Service(echo, b"", b"", lambda wire: tls.protect(wire, "test", at_once=True)))
    [address] = await listener.open("127.0.0.1", 0)
    try:
        yield address.port
    finally:
        listener.close()
        await sessions.stop(1.0)


def tls_of(*files: CertificateFiles, log: Noted | None = None, timeout: float = 5.0, most: int = 100) -> ServerTls:
    return ServerTls(files, minimum="1.2", timeout=timeout, most=most, log=log or Noted())


async def talk(port: int, made: Made, host: str = "localhost") -> bytes:
    """Connects, believing the authority of this certificate; returns the certificate that was shown."""
    wire = await connect("127.0.0.1", port)
    wire.patience = 5.0
    tls = await protect_client(wire, host, Trust(made.authority), timeout=5.0)
    try:
        assert await wire.read() == b"hello\n"
        wire.write(b"x" * 100_000)
        got = b""
        while len(got) < 100_000:
            got += await wire.read()
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate
    finally:
        wire.abort()


def der(made: Made) -> bytes:
    text = made.pem.read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])


def test_the_name_chooses_the_certificate(tmp_path: Path, runner: Callable[[object], object]) -> None:
    """Exact names, a wildcard for one label, capitals; who asks for none or another gets the first one."""
    first, second, third = make(tmp_path), make(tmp_path, "mail.example.org"), make(tmp_path, "x.wild.example")
    tls = tls_of(first.files("localhost"), second.files("mail.example.org"), third.files("*.wild.example"))

    async def main() -> None:
        async with serving(tls) as port:
            assert await talk(port, first) == der(first)
            assert await talk(port, second, "mail.example.org") == der(second)
            assert await talk(port, third, "X.wild.example") == der(third)
            with pytest.raises(TlsFailed, match="Hostname mismatch"):
                await talk(port, first, "other.example")

    runner(main())


def test_a_changed_file_counts_from_the_next_handshake(tmp_path: Path, runner: Callable[[object], object]) -> None:
    """And the session that was open goes on."""
    old = make(tmp_path)
    tls = tls_of(old.files())

    async def main() -> None:
        async with serving(tls) as port:
            wire = await connect("127.0.0.1", port)
            wire.patience = 5.0
            await protect_client(wire, "localhost", Trust(old.authority), timeout=5.0)
            assert not tls.refresh([old.files()])
            new = make(tmp_path)
            assert tls.refresh([new.files()])
            assert await talk(port, new) == der(new)
            assert await wire.read() == b"hello\n"
            wire.write(b"still here")
            assert await wire.read() == b"still here"
            wire.abort()

    runner(main())


def test_a_half_written_certificate_leaves_the_old_one(tmp_path: Path) -> None:
    """certbot and people replace the chain before the key: until both fit, the old pair serves."""
    good, other = make(tmp_path), make(tmp_path, "other")
    tls = tls_of(good.files())
    context = tls._default
    good.pem.write_bytes(good.pem.read_bytes().split(b"-----BEGIN CERTIFICATE")[0])
    with pytest.raises(BadCertificate):
        tls.refresh([good.files()])
    assert tls._default is context
    with pytest.raises(BadCertificate, match="is not that of the certificate"):
        server_context(CertificateFiles(good.authority, other.pem))
    good.pem.write_bytes(other.pem.read_bytes())
    assert tls.refresh([good.files()])


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    made = make(tmp_path)
    with pytest.raises(BadCertificate, match=r"nowhere\.pem is not there"):
        server_context(CertificateFiles(tmp_path / "nowhere.pem", made.pem))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(BadCertificate, match="no certificate with its key in PEM"):
        server_context(CertificateFiles(tmp_path / "empty.pem", made.pem))


def test_a_handshake_has_a_deadline(tmp_path: Path, runner: Callable[[object], object]) -> None:
    """Who connects and says nothing, or half of a hello, is dropped, and the log says why."""
    log = Noted()
    tls = tls_of(make(tmp_path).files(), log=log, timeout=0.2)

    async def main() -> None:
        async with serving(tls) as port:
            for octets in (b"", b"\x16\x03\x01\x02\x00\x01"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(octets)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 5.0) == b""
                writer.close()

    runner(main())
    assert [fields["reason"] for _, fields in log.events] == ["the handshake took too long"] * 2


def test_handshakes_at_once_are_bounded(tmp_path: Path, runner: Callable[[object], object]) -> None:
    """Thousands of half-open ones must not take the memory: those beyond the bound are dropped at once."""
    log = Noted()
    made = make(tmp_path)
    tls = tls_of(made.files(), log=log, most=10)

    async def main() -> None:
        async with serving(tls) as port:
            open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(15)]
            dropped = 0
            for reader, _ in open_ones[10:]:
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 5.0) == b""
                dropped += 1
            assert dropped == 5 and tls._running == 10
            for _, writer in open_ones:
                writer.close()
            await until(lambda: not tls._running)
            assert await talk(port, made) == der(made)

    runner(main())
    assert [fields["reason"] for _, fields in log.events][:5] == ["too many handshakes at once"] * 5


def test_a_stop_ends_handshakes_at_once(tmp_path: Path, runner: Callable[[object], object]) -> None:
    """Would catch a server that waits the whole deadline of a handshake before it stops."""
    tls = tls_of(make(tmp_path).files(), timeout=60.0)

    async def main() -> float:
        sessions = Sessions(100, QuietLog())
        service = Service(echo, b"", b"", lambda wire: tls.protect(wire, "test", at_once=True))
        listener = Listener("test", sessions, service)
        [address] = await listener.open("127.0.0.1", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", address.port)
        await until(lambda: tls._running > 0)
        begun = asyncio.get_running_loop().time()
        listener.close()
        assert await sessions.stop(30.0) == 0
        writer.close()
        return asyncio.get_running_loop().time() - begun

    assert runner(main()) < 5.0  # type: ignore[operator]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_are_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """RFC 8996. The client here would take anything."""
    made = make(tmp_path)
    log = Noted()

    async def main() -> None:
        async with serving(tls_of(made.files(), log=log)) as port:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            context.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=context)

    asyncio.run(main())
    assert "unsupported protocol" in str(log.events[0][1]["reason"])


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "a" * 63, "sha1:" + "a" * 40])
def test_a_pin_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no SHA-256"):
        read_pin(text)


def test_a_pin_as_people_write_it() -> None:
    assert read_pin(" SHA256:" + ":".join(["AB"] * 32)) == "ab" * 32
