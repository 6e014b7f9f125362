"""What all login mechanisms share, and the two simple ones: PLAIN and LOGIN, both roles (RFC 4422, RFC 4616,
draft-murchison-sasl-login). No protocol is known here: SMTP, POP3 and IMAP step the same objects.

A mechanism is stepped with the octets the other side sent, base64 already removed; `decode_line` and `encode_line`
do that part. Octets of a password leave here only inside `Credentials`, which never prints them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from posthouse.mail.limits import SASL_LINE

if TYPE_CHECKING:
    from posthouse.sasl.scram import Keys


class SaslError(ValueError):
    """The other side broke the mechanism: bad base64, a wrong form, NUL where none may be."""


@dataclass(slots=True)
class Credentials:
    """What a login brought: who asks, with which password, and whom they want to act as ("" for themselves)."""

    login: str
    password: str = field(repr=False)
    authzid: str = ""


@dataclass(slots=True)
class Wanted:
    """The mechanism goes on when it `know`s what is kept for this login name."""

    login: str
    authzid: str


@dataclass(slots=True)
class Secrets:
    """What is kept for a login name: the salt and count that SCRAM tells everybody, and one entry for each password
    that opens it, none for a name that does not exist (RFC 5802 §9 asks that nobody can tell)."""

    salt: bytes
    iterations: int
    scram: Sequence[Keys] = ()
    shared: Sequence[bytes] = field(default=(), repr=False)


@dataclass(slots=True)
class Proven:
    """The exchange is over, and the client knows the password at this place of the `Secrets`."""

    login: str
    authzid: str
    index: int


@dataclass(slots=True)
class Failed:
    """The exchange is over, and the client does not know a password."""

    login: str


def decode_line(line: bytes) -> bytes:
    """The octets of one base64 line without CRLF; raises SaslError (RFC 4954 §4, RFC 4648 §4)."""
    if len(line) > SASL_LINE:
        raise SaslError("too long")
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error as error:
        raise SaslError("not base64") from error


def decode_initial(text: bytes) -> bytes:
    """The octets of an initial response: "=" stands for an empty one (RFC 4954 §4)."""
    return b"" if text == b"=" else decode_line(text)


def encode_line(octets: bytes) -> bytes:
    """The octets in base64, without a line end."""
    return base64.b64encode(octets)


Step = bytes | Credentials | Wanted | Proven | Failed
"""What a step of a server mechanism comes to; octets are the next challenge."""


class ServerMechanism(Protocol):
    """The server's side of one login."""

    def step(self, response: bytes | None) -> Step:
        """Takes the next response (None: there was no initial one) and gives the next challenge, or says how the
        exchange ended: with credentials that are still to be verified, proven or failed. After `Wanted` the caller
        goes on with `know`. Raises SaslError."""
        ...


class AskingMechanism(ServerMechanism, Protocol):
    """One that wants to know something kept for a login name."""

    def know(self, secrets: Secrets) -> Step:
        """Goes on after `Wanted`."""
        ...


class ClientMechanism(Protocol):
    """The client's side of one login."""

    name: str
    initial: bool  # whether the client speaks first, so that an initial response may be sent
    finished: bool  # whether the server has proven all it must; a success before that is none

    def step(self, challenge: bytes) -> bytes:
        """The response to a challenge. Raises SaslError when the server asks too often."""
        ...


def _text(octets: bytes) -> str:
    if b"\0" in octets:
        raise SaslError("a NUL octet")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SaslError("not UTF-8") from error


@dataclass(slots=True)
class PlainServer:
    """PLAIN: message = [authzid] NUL authcid NUL passwd (RFC 4616 §2)."""

    def step(self, response: bytes | None) -> bytes | Credentials:
        """An empty challenge when there was no initial response, then the credentials."""
        if response is None:
            return b""
        parts = response.split(b"\0")
        if len(parts) != 3 or not parts[1] or not parts[2]:
            raise SaslError("not of the form [authzid] NUL authcid NUL passwd")
        authzid, login, password = (_text(part) for part in parts)
        return Credentials(login, password, authzid)


@dataclass(slots=True)
class LoginServer:
    """LOGIN: the name, then the password, each on a line of its own (draft-murchison-sasl-login §2)."""

    _login: str | None = None

    def step(self, response: bytes | None) -> bytes | Credentials:
        """Asks for what is missing; an initial response is the name."""
        if response is None:
            return b"Username:"
        if self._login is None:
            self._login = _text(response)
            if not self._login:
                raise SaslError("an empty name")
            return b"Password:"
        password = _text(response)
        if not password:
            raise SaslError("an empty password")
        return Credentials(self._login, password)


@dataclass(slots=True)
class PlainClient:
    """The client's side of PLAIN (RFC 4616 §2)."""

    login: str
    password: str = field(repr=False)
    name: str = "PLAIN"
    initial: bool = True
    finished: bool = True
    _said: bool = False

    def step(self, challenge: bytes) -> bytes:
        """Name and password at once."""
        if self._said:
            raise SaslError("the server asks again")
        self._said = True
        if "\0" in self.login or "\0" in self.password:
            raise SaslError("a NUL character")
        return f"\0{self.login}\0{self.password}".encode()


@dataclass(slots=True)
class LoginClient:
    """The client's side of LOGIN: answers in order, whatever the challenges say, as their words vary."""

    login: str
    password: str = field(repr=False)
    name: str = "LOGIN"
    initial: bool = False
    finished: bool = True
    _said: int = 0

    def step(self, challenge: bytes) -> bytes:
        """First the name, then the password."""
        self._said += 1
        if self._said > 2:
            raise SaslError("the server asks again")
        return (self.login if self._said == 1 else self.password).encode()
