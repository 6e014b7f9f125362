"""CRAM-MD5 and APOP: the password is hashed together with a word that the server makes up (RFC 2195, RFC 1939 §7).

Both need the password itself on the server, and MD5. They are here for old programs, and only where the
administrator turns them on. The word ("timestamp") is an argument.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from posthouse.sasl.mechanisms import Failed, Proven, SaslError, Secrets, Wanted

_DIGEST: Final = re.compile(rb"[0-9a-f]{32}")
_TIMESTAMP: Final = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>")


def timestamp(unique: str, host: str) -> str:
    """A word that never comes twice, in the form of a message-id (RFC 1939 §7, RFC 2195 §2)."""
    return f"<{unique}@{host}>"


def find_timestamp(greeting: str) -> str | None:
    """The word in a POP3 greeting that tells of APOP, None when there is none (RFC 1939 §7)."""
    found = _TIMESTAMP.search(greeting)
    return None if found is None else found[0]


def apop_digest(word: str, password: bytes) -> str:
    """RFC 1939 §7: MD5 over the word and the secret."""
    return hashlib.md5(word.encode("utf-8") + password, usedforsecurity=False).hexdigest()


def cram_digest(word: bytes, password: bytes) -> str:
    """RFC 2195 §2: HMAC-MD5 with the secret as the key."""
    return hmac.digest(password, word, "md5").hex()


def match_apop(word: str, digest: str, shared: Sequence[bytes]) -> int:
    """Which of the secrets made this digest, -1 for none."""
    return _match(digest.lower().encode("utf-8"), [apop_digest(word, secret) for secret in shared or (b"",)], shared)


def _match(given: bytes, digests: Sequence[str], shared: Sequence[bytes]) -> int:
    found = -1
    for index, digest in enumerate(digests):
        if hmac.compare_digest(given, digest.encode("ascii")) and found < 0:
            found = index
    return found if shared else -1


@dataclass(slots=True)
class CramMd5Server:
    """The server's side of CRAM-MD5 (RFC 2195 §2)."""

    word: str
    _digest: bytes = field(default=b"", repr=False)
    _login: str = ""
    _asked: bool = False

    def step(self, response: bytes | None) -> bytes | Wanted:
        """The word, then the name for which `know` must bring the secrets. An initial response is not allowed: the
        server speaks first."""
        if response is None:
            self._asked = True
            return self.word.encode("ascii")
        if not self._asked:
            raise SaslError("an initial response where the server speaks first")
        login, blank, digest = response.rpartition(b" ")
        if not blank or not login or not _DIGEST.fullmatch(digest) or b"\0" in login:
            raise SaslError("not of the form name, blank, digest")
        try:
            self._login = login.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SaslError("not UTF-8") from error
        self._digest = digest
        return Wanted(self._login, "")

    def know(self, secrets: Secrets) -> Proven | Failed:
        """Ends the exchange with what is kept for the name."""
        word = self.word.encode("ascii")
        digests = [cram_digest(word, secret) for secret in secrets.shared or (b"",)]
        found = _match(self._digest, digests, secrets.shared)
        return Failed(self._login) if found < 0 else Proven(self._login, "", found)


@dataclass(slots=True)
class CramMd5Client:
    """The client's side of CRAM-MD5."""

    login: str
    password: str = field(repr=False)
    name: str = "CRAM-MD5"
    initial: bool = False
    finished: bool = True
    _said: bool = False

    def step(self, challenge: bytes) -> bytes:
        """The name and the digest."""
        if self._said or not challenge:
            raise SaslError("the server asks in a wrong way")
        self._said = True
        return f"{self.login} {cram_digest(challenge, self.password.encode('utf-8'))}".encode()
