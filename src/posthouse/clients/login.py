"""The client's side of a login, the same for SMTP and POP3: the mechanism's steps, and what it means when the server
breaks them.

A mechanism that was chosen is the only one that is tried: when it is refused, no weaker one follows, for a server
that pretends not to know a proof would be given the password then.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Collection
from typing import Final

from posthouse.clients.failure import Failure, Kind
from posthouse.net.system import SystemRandom
from posthouse.sasl.mechanisms import ClientMechanism, SaslError, decode_line
from posthouse.sasl.registry import CLEAR, client_mechanism, strongest

KNOWN: Final = "SCRAM-SHA-256, PLAIN, LOGIN, and CRAM-MD5 where nothing is encrypted"
NONCE: Final = 18  # octets


def choose(offered: Collection[str], *, private: bool) -> str | None:
    """The mechanism that is used of those that a server offers. `private`: nobody else hears the connection."""
    return strongest(offered, encrypted=private)


class Exchange:
    """One login by one mechanism. Every method raises Failure(LOGIN) for what no honest server says."""

    def __init__(self, mechanism: str, login: str, password: str) -> None:
        nonce = b64encode(SystemRandom().octets(NONCE)).decode("ascii")
        self.name = mechanism
        try:
            self._mechanism: ClientMechanism = client_mechanism(mechanism, login, password, nonce=nonce)
        except SaslError as error:
            raise Failure(Kind.LOGIN, "auth", f"this login cannot be said in {mechanism}: {error}") from error
        self._initial: bytes | None = None

    async def initial(self) -> bytes | None:
        """The initial response; None when the server speaks first."""
        if self._mechanism.initial:
            self._initial = await self._step(b"")
        return self._initial

    async def answer(self, line: bytes) -> bytes:
        """The response to a challenge, which is given in base64."""
        try:
            challenge = decode_line(line.strip())
        except SaslError as error:
            if self.name not in CLEAR:
                raise Failure(Kind.LOGIN, "auth", f"the server's {self.name} challenge is not base64") from error
            challenge = b""  # some servers ask in plain words, and the answer does not hang on them
        if self._initial is not None and not challenge:
            repeated, self._initial = self._initial, None
            return repeated  # the server did not look at the initial response
        if self.name not in CLEAR:
            self._initial = None
        return await self._step(challenge)

    async def _step(self, challenge: bytes) -> bytes:
        """In a thread, for a step of SCRAM takes as long as a hash on purpose."""
        try:
            return await asyncio.to_thread(self._mechanism.step, challenge)
        except SaslError as error:
            raise Failure(Kind.LOGIN, "auth", f"the login by {self.name} was broken off: {error}") from error

    def check(self) -> None:
        """The server says that we are in: that is true only once it has proven what it must (RFC 5802 §3)."""
        if not self._mechanism.finished:
            text = "the server did not prove that it knows this login: it may be another than it seems"
            raise Failure(Kind.LOGIN, "auth", text)
