"""What a failed login tells: the same words, at the same time, whatever is wrong (catalogue A4), and nothing of a login
in a transcript."""

from __future__ import annotations

import asyncio
from base64 import b64encode

import pytest

from posthouse.observe.transcript import Transcript
from posthouse.ports.system import Endpoint
from posthouse.sasl.mechanisms import decode_line, encode_line
from posthouse.sasl.scram import Binding, ScramClient
from posthouse.servers.login import exported, until_answer
from tests.pop3_stage import Pop3Stage
from tests.smtp_stage import SmtpStage
from tests.torture.timing import best_threshold
from tests.transcript_runner import Client


def test_failures_are_answered_at_multiples_of_one_time() -> None:
    assert until_answer(0.0, 0.5) == 0.5
    assert until_answer(0.3, 0.5) == pytest.approx(0.2)
    assert until_answer(0.5, 0.5) == pytest.approx(0.0)
    assert until_answer(0.6, 0.5) == pytest.approx(0.4)
    assert until_answer(7.0, 0.5) == pytest.approx(0.0)
    assert until_answer(0.3, 0.0) == 0.0


class Rests:
    """Notes every rest of a session instead of letting time pass."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []

        async def rest(wire: object, seconds: float) -> None:
            self.seconds.append(seconds)

        monkeypatch.setattr(type(client.wire), "rest", rest)


def attempts() -> dict[str, list[bytes]]:
    """Every way to fail in POP3: what the client says, line by line."""
    plain = {
        "unknown": b"\0nobody@x.mail\0secret",
        "wrong": b"\0test@x.mail\0wrong",
        "for another": b"other@x.mail\0test@x.mail\0secret",
        "impossible": b"\0" + b"x" * 500 + b"\0secret",
    }
    lines = {name: [b"AUTH PLAIN " + b64encode(octets) + b"\r\n"] for name, octets in plain.items()}
    for name in ("nobody@x.mail", "test@x.mail"):
        lines[f"APOP of {name}"] = [b"APOP %b %b\r\n" % (name.encode(), b"0" * 32)]
        lines[f"USER of {name}"] = [b"USER %b\r\n" % name.encode(), b"PASS wrong\r\n"]
    return lines


@pytest.mark.parametrize("attempt", attempts())
async def test_every_failure_waits_for_its_time(attempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not depend on time: catches a way to fail that is answered at once."""
    client = Client(await Pop3Stage().session({"failure_time": "5", "recoverable": "on"}), "127.0.0.1")
    await client.line()
    rests = Rests(client, monkeypatch)
    for line in attempts()[attempt]:
        client.send(line)
        said = await client.line()
    assert said == "-ERR [AUTH] Login refused: unknown user name or wrong password"
    [waited] = rests.seconds
    assert 4.5 < waited <= 5
    await client.leave()


async def scram(client: Client, login: str, password: str, begin: str, prompt: str) -> str:
    """A login by SCRAM; what the server says at its end."""
    mechanism = ScramClient(login, password, "abc")
    client.send(f"{begin} {encode_line(mechanism.step(b'')).decode()}\r\n".encode())
    while (said := await client.line()).startswith(prompt):
        client.send(encode_line(mechanism.step(decode_line(said[len(prompt) :].encode()))) + b"\r\n")
    return said


@pytest.mark.parametrize("login", ["test@x.mail", "nobody@x.mail"])
async def test_scram_waits_for_the_salt_and_for_the_failure(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(await SmtpStage().session({"failure_time": "5"}), "127.0.0.1")
    await client.line()
    client.send(b"EHLO pc\r\n")
    while (await client.line())[3] == "-":
        pass
    rests = Rests(client, monkeypatch)
    assert (await scram(client, login, "wrong", "AUTH SCRAM-SHA-256", "334 ")).startswith("535 5.7.8")
    salt, failure = rests.seconds
    assert salt <= 0.004 and 4.5 < failure <= 5
    await client.leave()


async def test_a_peer_that_leaves_ends_the_wait() -> None:
    """Catches sessions that stay for the whole time when nobody listens any more."""
    client = Client(await Pop3Stage().session({"failure_time": "10"}), "127.0.0.1")
    await client.line()
    client.send(b"AUTH PLAIN " + b64encode(b"\0test\0wrong") + b"\r\n")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not client.task.done()
    client.wire.connection_lost(None)
    await asyncio.wait_for(client.task, 5)


async def test_a_stopped_server_waits_for_no_failure() -> None:
    client = Client(await Pop3Stage().session({"failure_time": "10"}), "127.0.0.1")
    await client.line()
    client.send(b"AUTH PLAIN " + b64encode(b"\0test\0wrong") + b"\r\n")
    for _ in range(10):
        await asyncio.sleep(0)
    client.wire.ask_to_stop()
    assert (await client.line()).startswith("-ERR [AUTH]")
    await asyncio.wait_for(client.task, 5)


def test_the_best_threshold() -> None:
    assert best_threshold([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert best_threshold([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert best_threshold([1.0, 3.0], [2.0, 4.0]) == 0.75
    assert best_threshold([1.0, 4.0], [2.0, 3.0]) == 0.75


# Transcripts


class Written:
    """An observer whose sessions write transcripts into one text."""

    def __init__(self) -> None:
        self.text = ""

    def session(self, protocol: str, local: Endpoint, peer: Endpoint) -> Transcript:
        return Transcript(self._add, clock=lambda: 0.0)

    def _add(self, line: str) -> None:
        self.text += line


@pytest.mark.parametrize("protocol", ["smtp", "pop3"])
async def test_no_step_of_scram_stands_in_a_transcript(protocol: str) -> None:
    written = Written()
    stage = SmtpStage(written) if protocol == "smtp" else Pop3Stage(written)
    client = Client(await stage.session({}), "127.0.0.1")
    await client.line()
    if protocol == "smtp":
        client.send(b"EHLO pc\r\n")
        while (await client.line())[3] == "-":
            pass
        said = await scram(client, "test@x.mail", "secret", "AUTH SCRAM-SHA-256", "334 ")
    else:
        said = await scram(client, "test@x.mail", "secret", "AUTH SCRAM-SHA-256", "+ ")
    assert said.startswith(("235", "+OK"))
    client.send(b"QUIT\r\n")
    await client.leave()
    assert written.text.count("********") == 5, "two challenges, the first message, the proof, the empty answer"
    assert "AUTH SCRAM-SHA-256 ********" in written.text
    for secret in (b"n,,n=test", b"r=abc", b"c=biws", b"v="):
        assert b64encode(secret).decode().rstrip("=")[:-1] not in written.text


# What a connection can be bound to


class Tls:
    """As Python's `ssl` may look one day."""

    def __init__(self, version: str) -> None:
        self._version = version

    def version(self) -> str:
        return self._version

    def export_keying_material(self, label: str, length: int, context: bytes) -> bytes:
        return f"{label} {length} {context!r}".encode()


def test_the_binding_is_exported_from_tls_1_3_only() -> None:
    """RFC 9266 §2: label, length and an empty context; no Python can yet, so that -PLUS is not offered."""
    assert exported(Tls("TLSv1.3")) == Binding("tls-exporter", b"EXPORTER-Channel-Binding 32 b''")
    assert exported(Tls("TLSv1.2")) is None
    assert exported(object()) is None
