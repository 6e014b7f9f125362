"""What is kept of a password beside its hash: the verifier of SCRAM, and, where the administrator wants it, the
password itself under a key of its own.
"""

from __future__ import annotations

import binascii
import contextlib
import hmac
import os
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final

from posthouse.net.files import sync_directory
from posthouse.ports.system import Random
from posthouse.sasl.scram import NAME, Keys

ITERATIONS: Final = 50_000
"""Of SCRAM: 15 ms of a core, as long as our argon2id takes; RFC 7677 §4 asks for 4096 at least. A constant and no
setting: a name that does not exist must be told the same count as every other (docs/adr/0050)."""

SALT: Final = 16  # octets
NONCE: Final = 12  # octets of AES-GCM, NIST SP 800-38D §8.2.2
KEY: Final = 32  # octets of AES-256
FILE: Final = "passwords.key"  # in the data directory


def salt_of(secret: bytes, local: str) -> bytes:
    """The salt of everybody with this local part, also of those who do not exist: nobody can tell them apart.

    It hangs on nothing else, so that the name alone and the whole address are told the same salt.
    """
    return hmac.digest(secret, b"scram salt\0" + local.encode("utf-8", "replace"), "sha256")[:SALT]


def write_verifier(salt: bytes, iterations: int, keys: Keys) -> str:
    """The verifier as text (RFC 5803 §2)."""
    parts = [b64encode(octets).decode("ascii") for octets in (salt, keys.stored, keys.server)]
    return f"{NAME}${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def read_verifier(text: str, salt: bytes, iterations: int) -> Keys | None:
    """The keys, if they were made with this salt and count; others are made anew at the next login."""
    begin = f"{NAME}${iterations}:{b64encode(salt).decode('ascii')}$"
    if not text.startswith(begin):
        return None
    stored, _, server = text[len(begin) :].partition(":")
    try:
        return Keys(b64decode(stored, validate=True), b64decode(server, validate=True))
    except binascii.Error:
        return None


class Vault:
    """Seals passwords with AES-256-GCM under a key that lies in a file beside the store, which only its owner can
    read. Whoever has the database alone has none of them; whoever has both has all. Any thread may use it."""

    __slots__ = ("_key", "_path", "_random")

    def __init__(self, folder: Path, random: Random) -> None:
        self._path = folder / FILE
        self._random = random
        self._key: bytes | None = None
        with contextlib.suppress(OSError):
            self._load(create=False)

    def seal(self, password: bytes, whose: str) -> bytes:
        """The password, sealed for this account. Raises OSError when the key cannot be kept."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = self._random.octets(NONCE)
        return nonce + AESGCM(self._load(create=True)).encrypt(nonce, password, whose.encode("utf-8"))

    def open(self, sealed: bytes, whose: str) -> bytes | None:
        """The password, None when it cannot be had: another key, another account, or damaged."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            key = self._load(create=False)
            return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], whose.encode("utf-8"))
        except (OSError, InvalidTag, ValueError):
            return None

    def _load(self, *, create: bool) -> bytes:
        if self._key is None:
            if create and not self._path.exists():
                self._create()
            key = self._path.read_bytes()
            if len(key) != KEY:
                raise OSError(f"{self._path} is not a key: {len(key)} octets instead of {KEY}")
            self._key = key
        return self._key

    def _create(self) -> None:
        """Makes the key; when another process is faster, its key counts. Whole or not there at all."""
        number, name = tempfile.mkstemp(prefix=FILE, dir=self._path.parent)  # 0600
        try:
            with os.fdopen(number, "wb") as file:
                file.write(self._random.octets(KEY))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(name, self._path)
            sync_directory(self._path.parent)  # what is sealed with it will be on the disk a moment later
        finally:
            Path(name).unlink()
