"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both roles (RFC 5802, RFC 7677).

The password never passes. The server keeps a salt and two keys made of the password; the client proves that it can
make them too, and the server proves that it has them. One grammar reads and prints the four messages of both roles:

    client-first  =  gs2-cbind-flag "," [ "a=" saslname ] "," "n=" saslname ",r=" nonce [ "," extensions ]
    server-first  =  "r=" nonce ",s=" base64 ",i=" posit-number [ "," extensions ]
    client-final  =  "c=" base64 ",r=" nonce [ "," extensions ] ",p=" base64
    server-final  =  ( "e=" value / "v=" base64 ) [ "," extensions ]

Nonces, salts and the data of channel bindings are arguments: nothing here is random or knows a connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from posthouse.sasl.mechanisms import Failed, Proven, SaslError, Secrets, Wanted
from posthouse.sasl.prepare import Unprepared, saslprep, scram_password

NAME: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
HASH: Final = "sha256"
KEY: Final = 32  # octets of a SHA-256 key
MESSAGE: Final = 4096  # octets of one message
NONCE: Final = 256  # characters of a client's nonce: our answer with it must fit a line of 512 octets in base64
SALT: Final = 1024  # octets
FEWEST: Final = 4096  # iterations; RFC 7677 §4: at least so many. Fewer make guessing cheap for whoever asks for them
MOST: Final = 2_000_000  # iterations a client takes on: about a second; more would only keep it busy
EXTENSIONS: Final = 16

_NONCE: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # RFC 5802 §7: printable, without the comma
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,9}")
_EXTENSION: Final = re.compile(r"[A-Za-z]=[^\x00,]+")
_BINDING: Final = re.compile(r"p=([A-Za-z0-9.-]{1,64})")
_NAME: Final = re.compile(r"(?:[^\x00=,]|=2C|=3D)+")


@dataclass(slots=True, frozen=True)
class Binding:
    """What ties a login to its TLS connection: the type's registered name and its octets (RFC 5056, RFC 9266)."""

    name: str
    octets: bytes = field(repr=False)


@dataclass(slots=True, frozen=True)
class Keys:
    """What a server keeps of a password beside salt and count (RFC 5802 §3)."""

    stored: bytes = field(repr=False)
    server: bytes = field(repr=False)


def derive(password: bytes, salt: bytes, iterations: int) -> Keys:
    """The keys of a prepared password: expensive on purpose, so never on an event loop. RFC 5802 §3."""
    return _keys(hashlib.pbkdf2_hmac(HASH, password, salt, iterations))


def _keys(salted: bytes) -> Keys:
    client = _hmac(salted, b"Client Key")
    return Keys(hashlib.sha256(client).digest(), _hmac(salted, b"Server Key"))


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, HASH)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


# The messages


@dataclass(slots=True)
class ClientFirst:
    """The client's first message. `flag` is "n", "y" or "p=" with the binding's name; `header` and `bare` are its two
    parts as they stand on the wire."""

    flag: str
    authzid: str
    login: str
    nonce: str
    header: str = ""
    bare: str = ""

    def __post_init__(self) -> None:
        if not self.header:
            self.header = f"{self.flag},{'a=' + _escape(self.authzid) if self.authzid else ''},"
            self.bare = f"n={_escape(self.login)},r={self.nonce}"

    def encode(self) -> bytes:
        """The octets."""
        return (self.header + self.bare).encode("utf-8")

    @classmethod
    def parse(cls, octets: bytes) -> ClientFirst:
        """Raises SaslError."""
        text = _text(octets)
        flag, comma, rest = text.partition(",")
        authzid, second, bare = rest.partition(",")
        if not comma or not second or not (flag in ("n", "y") or _BINDING.fullmatch(flag)):
            raise SaslError("no gs2-header")
        if authzid and not authzid.startswith("a="):
            raise SaslError("no gs2-header")
        login, nonce = _attributes(bare, "n", "r")
        if len(nonce) > NONCE:
            raise SaslError("a nonce that is too long")
        who = _unescape(authzid[2:]) if authzid else ""
        return cls(flag, who, _unescape(login), _nonce(nonce), f"{flag},{authzid},", bare)


@dataclass(slots=True)
class ServerFirst:
    """The server's first message: the whole nonce, the salt and the count of iterations."""

    nonce: str
    salt: bytes
    iterations: int
    raw: str = ""

    def __post_init__(self) -> None:
        self.raw = self.raw or f"r={self.nonce},s={_base64(self.salt)},i={self.iterations}"

    def encode(self) -> bytes:
        """The octets."""
        return self.raw.encode("utf-8")

    @classmethod
    def parse(cls, octets: bytes) -> ServerFirst:
        """Raises SaslError."""
        text = _text(octets)
        nonce, salt, count = _attributes(text, "r", "s", "i")
        if not _NUMBER.fullmatch(count):
            raise SaslError("no count of iterations")
        decoded = _octets(salt)
        if not 0 < len(decoded) <= SALT:
            raise SaslError("a salt of a wrong length")
        return cls(_nonce(nonce), decoded, int(count), text)


@dataclass(slots=True)
class ClientFinal:
    """The client's second message. `without` is all of it before the proof: that is what is signed."""

    binding: bytes
    nonce: str
    proof: bytes = b""
    without: str = ""

    def __post_init__(self) -> None:
        self.without = self.without or f"c={_base64(self.binding)},r={self.nonce}"

    def encode(self) -> bytes:
        """The octets."""
        return f"{self.without},p={_base64(self.proof)}".encode()

    @classmethod
    def parse(cls, octets: bytes) -> ClientFinal:
        """Raises SaslError."""
        without, comma, proof = _text(octets).rpartition(",p=")
        if not comma:
            raise SaslError("no proof")
        binding, nonce = _attributes(without, "c", "r")
        found = cls(_octets(binding), _nonce(nonce), _octets(proof), without)
        if len(found.proof) != KEY:
            raise SaslError("a proof of a wrong length")
        return found


@dataclass(slots=True)
class ServerFinal:
    """The server's last message: its own proof, or the name of an error."""

    signature: bytes = b""
    error: str = ""

    def encode(self) -> bytes:
        """The octets."""
        return f"e={self.error}".encode() if self.error else f"v={_base64(self.signature)}".encode()

    @classmethod
    def parse(cls, octets: bytes) -> ServerFinal:
        """Raises SaslError."""
        text = _text(octets)
        if text.startswith("e="):
            return cls(error=_attributes(text, "e")[0])
        return cls(_octets(_attributes(text, "v")[0]))


def _text(octets: bytes) -> str:
    if len(octets) > MESSAGE:
        raise SaslError("a message that is too long")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SaslError("not UTF-8") from error
    if "\0" in text:
        raise SaslError("a NUL octet")
    return text


def _attributes(text: str, *letters: str) -> list[str]:
    """The values of these attributes, which stand first and in this order; extensions behind them are allowed and
    mean nothing to us. An extension that must be understood ("m=") stands in front, and is refused."""
    parts = text.split(",", EXTENSIONS + len(letters))
    if len(parts) < len(letters) or len(parts) > EXTENSIONS + len(letters):
        raise SaslError("not the attributes of this message")
    for part, letter in zip(parts, letters, strict=False):
        if not part.startswith(f"{letter}="):
            raise SaslError("not the attributes of this message")
    for part in parts[len(letters) :]:
        if not _EXTENSION.fullmatch(part):
            raise SaslError("no attribute")
    return [part[2:] for part in parts[: len(letters)]]


def _nonce(text: str) -> str:
    if not _NONCE.fullmatch(text):
        raise SaslError("no nonce")
    return text


def _octets(text: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (Error, UnicodeEncodeError) as error:
        raise SaslError("not base64") from error


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")


def _escape(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _unescape(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SaslError("no name")
    return name.replace("=2C", ",").replace("=3D", "=")


# The two roles


class ScramServer:
    """The server's side. `nonce` is fresh; `binding` is what this connection can be bound to, None where it cannot:
    then -PLUS is not offered, and a client that says "y" (I could, you do not offer it) is believed."""

    __slots__ = ("_binding", "_expected", "_first", "_keys", "_nonce", "_plus", "_proven", "_server_first")

    def __init__(self, nonce: str, binding: Binding | None = None, *, plus: bool = False) -> None:
        assert binding is not None or not plus, "without a binding -PLUS is not offered"
        self._nonce = _nonce(nonce)
        self._binding = binding
        self._plus = plus
        self._expected = b""
        self._first: ClientFirst | None = None
        self._server_first: ServerFirst | None = None
        self._keys: Sequence[Keys] = ()
        self._proven: Proven | None = None

    def step(self, response: bytes | None) -> bytes | Wanted | Proven | Failed:
        """An empty challenge when there was no initial response; then what `know` must bring; then the server's
        proof, and after the client's empty answer to it the end."""
        if response is None:
            return b""
        if self._first is None:
            return self._begin(response)
        if self._proven is None:
            return self._finish(response)
        if response:
            raise SaslError("more than the exchange has")
        return self._proven

    def _begin(self, response: bytes) -> Wanted:
        first = ClientFirst.parse(response)
        binding, flag = self._binding, first.flag
        if self._plus:
            assert binding is not None, "without a binding -PLUS is not offered"
            if flag != f"p={binding.name}":
                raise SaslError("not the channel binding of this server")
        elif flag.startswith("p="):
            raise SaslError("a channel binding without -PLUS")
        elif flag == "y" and binding is not None:
            # Somebody between us took -PLUS off the list that the client saw (RFC 5802 §6).
            raise SaslError("the server does support channel binding")
        self._expected = first.header.encode("utf-8")
        if self._plus and binding is not None:
            self._expected += binding.octets
        self._first = first
        return Wanted(first.login, first.authzid)

    def know(self, secrets: Secrets) -> bytes:
        """Goes on with what is kept for the login name that was wanted; the next challenge."""
        assert self._first is not None and self._server_first is None, "asked for once, after the first message"
        self._keys = tuple(secrets.scram)
        self._server_first = ServerFirst(self._first.nonce + self._nonce, secrets.salt, secrets.iterations)
        return self._server_first.encode()

    def _finish(self, response: bytes) -> bytes | Failed:
        first, mine = self._first, self._server_first
        assert first is not None and mine is not None, "the challenge was sent"
        final = ClientFinal.parse(response)
        if final.nonce != mine.nonce:
            raise SaslError("another nonce")
        if final.binding != self._expected:
            raise SaslError("another channel binding")
        signed = f"{first.bare},{mine.raw},{final.without}".encode()
        found = -1
        for index, keys in enumerate(self._keys or (_NOBODY,)):
            client = _xor(final.proof, _hmac(keys.stored, signed))
            if hmac.compare_digest(hashlib.sha256(client).digest(), keys.stored) and found < 0:
                found = index
        if found < 0 or not self._keys:
            return Failed(first.login)
        self._proven = Proven(first.login, first.authzid, found)
        return ServerFinal(_hmac(self._keys[found].server, signed)).encode()


_NOBODY: Final = Keys(bytes(KEY), bytes(KEY))  # compared with where nothing is kept, so that it takes as long


class ScramClient:
    """The client's side. `binding` makes it -PLUS; `could_bind` says that we could, had the server offered it."""

    __slots__ = ("_binding", "_first", "_password", "_server", "_steps", "finished", "initial", "name")

    def __init__(
        self,
        login: str,
        password: str,
        nonce: str,
        *,
        authzid: str = "",
        binding: Binding | None = None,
        could_bind: bool = False,
    ) -> None:
        self.name = NAME if binding is None else PLUS
        self.initial = True
        self.finished = False  # True once the server has proven that it knows the password's keys
        flag = f"p={binding.name}" if binding is not None else "y" if could_bind else "n"
        self._binding = b"" if binding is None else binding.octets
        with contextlib.suppress(Unprepared):  # a newer letter: the server may know it
            login = saslprep(login)
        if not login or "\0" in login + authzid:
            raise SaslError("no name")
        self._first = ClientFirst(flag, authzid, login, _nonce(nonce))
        self._password = scram_password(password)
        self._server = b""
        self._steps = 0

    def step(self, challenge: bytes) -> bytes:
        """The response to a challenge; the second one is expensive. Raises SaslError, also when the server cannot
        prove that it knows us: then it is not our server, or somebody stands between."""
        self._steps += 1
        if self._steps == 1:
            if challenge:
                raise SaslError("the server speaks before us")
            return self._first.encode()
        if self._steps == 2:
            return self._prove(ServerFirst.parse(challenge))
        if self._steps > 3:
            raise SaslError("the server asks again")
        return self._check(ServerFinal.parse(challenge))

    def _prove(self, server: ServerFirst) -> bytes:
        first = self._first
        if not server.nonce.startswith(first.nonce) or server.nonce == first.nonce:
            raise SaslError("the server's nonce does not continue ours")
        if not FEWEST <= server.iterations <= MOST:
            raise SaslError(f"{server.iterations} iterations, and {FEWEST} to {MOST} are sensible")
        salted = hashlib.pbkdf2_hmac(HASH, self._password, server.salt, server.iterations)
        keys = _keys(salted)
        final = ClientFinal(first.header.encode("utf-8") + self._binding, server.nonce)
        signed = f"{first.bare},{server.raw},{final.without}".encode()
        final.proof = _xor(_hmac(salted, b"Client Key"), _hmac(keys.stored, signed))
        self._server = _hmac(keys.server, signed)
        return final.encode()

    def _check(self, last: ServerFinal) -> bytes:
        if last.error:
            raise SaslError(f"the server says {last.error[:60]}")
        if not hmac.compare_digest(last.signature, self._server):
            raise SaslError("the server could not prove that it knows this login")
        self.finished = True
        return b""
