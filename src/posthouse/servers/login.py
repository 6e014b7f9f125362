"""The logins of a session, the same for every protocol: mechanisms stepped, passwords verified, failures answered
after a fixed time, and one line in the log for each failure.

SMTP, POP3 and IMAP put their own words around it: this room writes no reply.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from posthouse.config.schema import AccountSettings
from posthouse.mail.reply import Fault, Unavailable
from posthouse.net.wire import Wire
from posthouse.observe.log import Log
from posthouse.policy.guard import Guard
from posthouse.ports.directory import Candidates, Directory, Opened
from posthouse.ports.system import Clock, Random
from posthouse.sasl.digests import match_apop, timestamp
from posthouse.sasl.mechanisms import AskingMechanism, Credentials, Proven, SaslError, ServerMechanism, Step, Wanted
from posthouse.sasl.registry import offered, server_mechanism
from posthouse.sasl.scram import Binding

NONCE: Final = 18  # octets, 24 characters
EXPORTER: Final = "EXPORTER-Channel-Binding"  # RFC 9266 §2
CHALLENGE_TIME: Final = 0.004
"""Seconds after which the salt of a name is told: a look-up that finds something takes some 50 us longer than one
that does not, and that would show (RFC 5802 §9)."""

NOBODY: Final = ""
"""A login name that no account can have: looking at its password takes as long as at any other."""

_SCOPES: Final = {"submission": "smtp"}  # what an app password calls them
LOGGED: Final = 100  # characters of a login name in the log


class LoginService:
    """What the logins of all sessions share. `host` stands in the words of CRAM-MD5 and APOP; without a `guard` nothing
    is delayed or banned."""

    __slots__ = ("_clock", "_random", "_shared", "directory", "failure_time", "guard", "host", "log", "scram")

    def __init__(
        self,
        directory: Directory,
        settings: AccountSettings,
        clock: Clock,
        random: Random,
        log: Log,
        *,
        host: str,
        guard: Guard | None = None,
    ) -> None:
        self.directory = directory
        self.guard = guard
        self.log = log
        self.host = host
        self.scram = settings.scram == "on"
        self.failure_time = settings.failure_time
        self._shared = settings.recoverable_passwords == "on"
        self._clock = clock
        self._random = random

    def offered(self, wire: Wire | None = None) -> tuple[str, ...]:
        """The mechanisms that work on this connection, the strongest first; without one, those that work on any."""
        return offered(scram=self.scram, shared=self._shared, binding=None if wire is None else binding_of(wire))

    def word(self) -> str:
        """A word for APOP, empty when it is not offered (RFC 1939 §7)."""
        return self._word() if self._shared else ""

    def _word(self) -> str:
        return timestamp(f"{self._random.octets(10).hex()}.{int(self._clock.now())}", self.host)

    def mechanism(self, name: str, wire: Wire) -> ServerMechanism | AskingMechanism:
        """A new exchange."""
        nonce = b64encode(self._random.octets(NONCE)).decode("ascii")
        word = self._word() if self._shared else ""
        return server_mechanism(name, nonce=nonce, word=word, binding=binding_of(wire))


def binding_of(wire: Wire) -> Binding | None:
    """What a connection can be bound to: keying material exported from TLS (RFC 9266), where this Python can."""
    if not CAN_EXPORT or not wire.encrypted:
        return None
    return exported(wire.tls)


def exported(tls: Any) -> Binding | None:
    """The binding of an object of Python's `ssl`, None where it cannot export (before TLS 1.3 it would not be unique
    without the extended master secret, RFC 9266 §3)."""
    export = getattr(tls, "export_keying_material", None)
    if export is None or tls.version() != "TLSv1.3":
        return None
    return Binding("tls-exporter", export(EXPORTER, 32, b""))


CAN_EXPORT: Final = hasattr(ssl.SSLObject, "export_keying_material")
"""Whether this Python can export keying material; none up to 3.14 can, so -PLUS is not offered there."""


class Login:
    """The logins of one session. Each method gives what was opened, or None when the login failed: the failure is
    then logged, and its time has come. Raises Unavailable, and SaslError for what breaks the mechanism."""

    __slots__ = ("_candidates", "_exchange", "_peer", "_protocol", "_scope", "_service", "_wire", "mechanism")

    def __init__(self, service: LoginService, wire: Wire, protocol: str, peer: str) -> None:
        self._service = service
        self._wire = wire
        self._protocol = protocol
        self._scope = _SCOPES.get(protocol, protocol)
        self._peer = peer
        self._exchange: ServerMechanism | AskingMechanism | None = None
        self._candidates: Candidates | None = None
        self.mechanism = ""

    def begin(self, mechanism: str) -> None:
        """Begins an exchange by an offered mechanism."""
        self.mechanism = mechanism
        self._exchange = self._service.mechanism(mechanism, self._wire)
        self._candidates = None

    def cancel(self) -> None:
        """Forgets an exchange."""
        self._exchange = self._candidates = None

    async def step(self, response: bytes | None) -> bytes | Opened | None:
        """The next step of the exchange; octets are the next challenge."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None, "answers come only while a challenge is open"
        began = self._now()
        result = exchange.step(response)
        if isinstance(result, Wanted):
            result = await self._know(cast(AskingMechanism, exchange), result, began)
        if isinstance(result, bytes):
            self._exchange = exchange
            return result
        candidates, self._candidates = self._candidates, None
        if isinstance(result, Credentials):
            opened = await self._authenticate(result.login, result.password)
            return await self._judge(opened, result.login, result.authzid, began)
        if isinstance(result, Proven):
            proven = result
            opened = await self._guarded(proven.login, None, lambda _: self._proven(proven, candidates))
            return await self._judge(opened, result.login, result.authzid, began)
        await self._guarded(result.login, None, _nothing)
        await self._fail(result.login, began, "" if candidates is None else self._lack(candidates))
        return None

    async def _authenticate(self, login: str, password: str) -> Opened | None:
        directory, scope = self._service.directory, self._scope
        return await self._guarded(login, password, lambda name: directory.authenticate(name, password, scope))

    async def _guarded(
        self, login: str, secret: str | None, verify: Callable[[str], Awaitable[Opened | None]]
    ) -> Opened | None:
        """Verifies a login with the guard before and after: a wrong password and a banned place look the same, in text
        and in time. `secret` is the password where the mechanism shows it. Raises Unavailable(BUSY) when it is to be
        tried later, and what `Wire.hold` raises."""
        guard, host = self._service.guard, self._wire.peer.host
        if guard is None:
            return await verify(login)
        attempt = guard.ask(self._protocol, host, login)
        if attempt.busy:
            raise Unavailable(Fault.BUSY, "too many strangers try this account")
        try:
            if attempt.delay:
                await self._wire.hold(attempt.delay)
            opened = await verify(login if attempt.refused is None else NOBODY)
        except BaseException:
            guard.dropped(host, login)
            raise
        if attempt.refused is not None:
            return None
        if opened is None:
            guard.failed(self._protocol, host, login, secret)
        else:
            guard.succeeded(host, login, opened.account.address)
        return opened

    async def _know(self, exchange: AskingMechanism, wanted: Wanted, began: float) -> Step:
        self._candidates = await self._service.directory.candidates(wanted.login, self._scope)
        result = exchange.know(self._candidates.secrets)
        if isinstance(result, bytes):
            await self._wire.rest(began + CHALLENGE_TIME - self._now())
        return result

    def _opens(self, candidates: Candidates, index: int) -> Opened | None:
        of = candidates.scram if self._by_scram else candidates.shared
        return of[index] if index < len(of) else None

    @property
    def _by_scram(self) -> bool:
        return self.mechanism.startswith("SCRAM")

    async def _proven(self, proven: Proven, candidates: Candidates | None) -> Opened | None:
        """What a proof opens: still, for a password may have been changed or taken back since the challenge."""
        assert candidates is not None, "proofs are compared with candidates"
        opened = self._opens(candidates, proven.index)
        now = await self._service.directory.candidates(proven.login, self._scope)
        before, after = candidates.secrets, now.secrets
        if self._by_scram:
            still = before.scram[proven.index] in after.scram
        else:
            still = before.shared[proven.index] in after.shared
        if opened is None or not still:
            return None
        await self._service.directory.note(opened)
        return opened

    async def password(self, login: str, password: str) -> Opened | None:
        """A login by name and password, such as USER and PASS."""
        self.mechanism = "PASS"
        began = self._now()
        return await self._judge(await self._authenticate(login, password), login, "", began)

    async def apop(self, login: str, word: str, digest: str) -> Opened | None:
        """A login by digest (RFC 1939 §7)."""
        self.mechanism = "APOP"
        began = self._now()
        candidates = await self._service.directory.candidates(login, self._scope)
        index = match_apop(word, digest, candidates.secrets.shared)
        found = self._opens(candidates, index) if index >= 0 else None
        opened = await self._guarded(login, None, lambda _: _already(found))
        if opened is None:
            await self._fail(login, began, self._lack(candidates))
            return None
        await self._service.directory.note(opened)
        return opened

    async def _judge(self, opened: Opened | None, login: str, authzid: str, began: float) -> Opened | None:
        """Nobody may act as somebody else; that is found out after the password, so that it takes the same time."""
        if opened is None or authzid not in ("", login, opened.account.address):
            await self._fail(login, began)
            return None
        return opened

    async def _fail(self, login: str, began: float, lack: str = "") -> None:
        service, fields = self._service, {"reason": lack} if lack else {}
        service.log.warning(
            "login_failed",
            protocol=self._protocol,
            mechanism=self.mechanism,
            login=login[:LOGGED],
            peer=self._peer,
            **fields,
        )
        await self._wire.rest(until_answer(self._now() - began, service.failure_time))

    def _lack(self, candidates: Candidates) -> str:
        """For the log only: why somebody who knows the password is refused all the same."""
        of = candidates.scram if self._by_scram else candidates.shared
        if candidates.account is None or of:
            return ""
        return "nothing is kept of this password for this mechanism"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def _nothing(_: str) -> Opened | None:
    return None


async def _already(opened: Opened | None) -> Opened | None:
    return opened


def until_answer(elapsed: float, failure_time: float) -> float:
    """Seconds until a failure is answered: at the fixed time, and after it at the next multiple, so that a queue of
    other logins does not tell more than the time of a verification would."""
    if failure_time <= 0:
        return 0.0
    return math.ceil(max(elapsed, 1e-9) / failure_time) * failure_time - elapsed


__all__ = ["Login", "LoginService", "SaslError"]
