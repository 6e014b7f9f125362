"""What protects a connection, and why nothing does."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


class TlsFailed(Exception):
    """The handshake failed and the connection is gone. Its text says why, in a few words. `certificate` when it was
    the peer's certificate that we do not take."""

    def __init__(self, text: str, *, certificate: bool = False) -> None:
        super().__init__(text)
        self.certificate = certificate


@dataclass(slots=True, frozen=True)
class Encryption:
    """What protects a connection: the version of TLS and the cipher suite, in the names of OpenSSL."""

    version: str
    cipher: str

    def __str__(self) -> str:
        return f"{self.version} {self.cipher}"


def why_failed(error: Exception) -> str:
    """Why a handshake failed, in the words of OpenSSL where it has some."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "the certificate was not accepted"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if "too long" in str(error) or "taking longer" in str(error):
        return "the handshake took too long"
    return "the connection was lost during the handshake"
