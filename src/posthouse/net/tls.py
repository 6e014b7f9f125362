"""TLS: the contexts of servers and clients, and how a connection goes over to it.

A server has one context for each certificate. The handshake begins with the default one, and the name that the
client asks for (SNI, RFC 6066 §3) chooses another. Contexts are made anew when a file changes; connections that
are open keep theirs.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.net.encryption import TlsFailed
from posthouse.net.wire import Wire
from posthouse.observe.log import Log
from posthouse.ports.certificates import CertificateFiles

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"  # of TLS 1.2: forward secrecy and AEAD only (RFC 9325 §4.2)
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}  # RFC 8996: nothing older


class BadCertificate(Exception):
    """A certificate cannot be used. Its text says which file and why."""


class ServerTls:
    """What the sessions of a server need for TLS. `timeout` bounds one handshake in seconds, `most` how many there may
    be at once: each costs memory before anybody is known."""

    __slots__ = ("_contexts", "_default", "_files", "_log", "_minimum", "_running", "_stamps", "most", "timeout")

    def __init__(self, files: Sequence[CertificateFiles], *, minimum: str, timeout: float, most: int, log: Log) -> None:
        """Raises BadCertificate."""
        self._minimum = minimum
        self._log = log
        self._running = 0
        self.timeout = timeout
        self.most = most
        self.load(files)

    def load(self, files: Sequence[CertificateFiles]) -> None:
        """Takes these certificates from now on, the default one first. Raises BadCertificate; then those before stay
        in use."""
        stamps = _stamps(files)
        contexts: dict[str, ssl.SSLContext] = {}
        made: list[ssl.SSLContext] = []
        for one in files:
            context = server_context(one, self._minimum)
            context.sni_callback = self._choose
            made.append(context)
            for host in one.hosts:
                contexts.setdefault(host.lower(), context)
        if not made:
            raise BadCertificate("there is no certificate")
        self._contexts, self._default, self._files, self._stamps = contexts, made[0], tuple(files), stamps

    def refresh(self, files: Sequence[CertificateFiles]) -> bool:
        """Loads the certificates if they are others or a file has changed; True when it did. Raises as `load`."""
        if tuple(files) == self._files and _stamps(files) == self._stamps:
            return False
        self.load(files)
        return True

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> int | None:
        if name is not None and (chosen := self._find(name.lower().rstrip("."))) is not None:
            connection.context = chosen
        return None  # a name that nobody knows gets the default certificate: mail programs say better why it is wrong

    def _find(self, name: str) -> ssl.SSLContext | None:
        """The context for a name; a wildcard stands for exactly one label (RFC 9525 §6.3)."""
        return self._contexts.get(name) or self._contexts.get(f"*.{name.partition('.')[2]}")

    async def protect(self, wire: Wire, protocol: str, *, at_once: bool = False) -> bool:
        """Goes over to TLS as the server, `at_once` where nothing was said before. False when that
        failed: then it was logged and the connection is gone."""
        if self._running >= self.most:
            self._log.warning(
                "tls_failed", protocol=protocol, peer=wire.peer.host, reason="too many handshakes at once"
            )
            wire.abort()
            return False
        self._running += 1
        try:
            await wire.start_tls(self._default, timeout=self.timeout, at_once=at_once)
        except TlsFailed as failed:
            self._log.info("tls_failed", protocol=protocol, peer=wire.peer.host, reason=str(failed))
            if wire.tap is not None:
                wire.tap.note(f"TLS failed: {failed}")
            return False
        finally:
            self._running -= 1
        return True


def _stamps(files: Sequence[CertificateFiles]) -> list[object]:
    """What changes when a file does. A file that is not there has a stamp too."""
    return [_stamp(path) for one in files for path in (one.chain, one.key)]


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def server_context(files: CertificateFiles, minimum: str = "1.2") -> ssl.SSLContext:
    """The context for one certificate. Raises BadCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, minimum)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        # A key with a pass phrase would make OpenSSL ask on the terminal; an empty answer refuses it.
        context.load_cert_chain(files.chain, files.key, password=lambda: "")
    except FileNotFoundError as error:
        missing = next((path for path in (files.chain, files.key) if not path.exists()), files.chain)
        raise BadCertificate(f"{missing} is not there") from error
    except PermissionError as error:
        raise BadCertificate(f"{files.chain} or {files.key} may not be read by the user who runs the server") from error
    except (ssl.SSLError, OSError, ValueError) as error:
        raise BadCertificate(_bad_files(files, error)) from error
    return context


def _bad_files(files: CertificateFiles, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"the key in {files.key} is not that of the certificate in {files.chain}"
    if "EE_KEY_TOO_SMALL" in reason or "MD_TOO_WEAK" in reason:
        return f"the certificate in {files.chain} is too weak: make one with RSA-2048 or P-256 and SHA-256"
    return f"{files.chain} with {files.key} is no certificate with its key in PEM, or the key has a pass phrase"


def _harden(context: ssl.SSLContext, minimum: str) -> None:
    context.minimum_version = VERSIONS[minimum]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION  # RFC 9325 §3.3


# The client's side


@dataclass(slots=True, frozen=True)
class Trust:
    """Whom a client believes: the authorities of the system, those of a file in their place, one certificate by its
    SHA-256 (`pin`, in hexadecimal), or anybody (`blind`)."""

    authorities: Path | None = None
    pin: str = ""
    blind: bool = False


def client_context(trust: Trust) -> ssl.SSLContext:
    """The context of a client. Raises BadCertificate when the file of authorities cannot be used."""
    if trust.blind or (trust.pin and trust.authorities is None):
        # No authority is asked: loading those of the system would take 27 ms and more than a megabyte.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _harden(context, "1.2")
        return context
    try:
        context = ssl.create_default_context(cafile=trust.authorities)
    except FileNotFoundError as error:
        raise BadCertificate(f"{trust.authorities} is not there") from error
    except (ssl.SSLError, OSError) as error:
        raise BadCertificate(f"{trust.authorities} holds no certificates in PEM that can be read") from error
    _harden(context, "1.2")
    return context


def read_pin(text: str) -> str:
    """A SHA-256 as people write it: 64 hexadecimal digits, perhaps with colons. Raises ValueError."""
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if len(digits) != 64 or any(digit not in "0123456789abcdef" for digit in digits):
        raise ValueError(f"{text!r} is no SHA-256: 64 hexadecimal digits, with or without colons")
    return digits


async def protect_client(
    wire: Wire, host: str, trust: Trust, *, timeout: float, context: ssl.SSLContext | None = None
) -> ssl.SSLObject:
    """Goes over to TLS as the client of this host, with the context given or one for this `trust`. Raises TlsFailed,
    and BadCertificate as `client_context` does."""
    context = context or client_context(trust)
    tls = await wire.start_tls(context, timeout=timeout, server_name=host.rstrip("."))
    certificate = None if tls is None else tls.getpeercert(binary_form=True)
    if tls is None or certificate is None:
        wire.abort()
        raise TlsFailed("the server showed no certificate", certificate=True)
    if trust.pin and not matches_pin(certificate, trust.pin):
        wire.abort()
        raise TlsFailed(f"it is not the pinned one, but one with SHA-256 {fingerprint(certificate)}", certificate=True)
    return tls


def matches_pin(certificate: bytes, pin: str) -> bool:
    """Whether a certificate (DER), or the public key in it, which outlives a renewal, has this SHA-256."""
    if fingerprint(certificate) == pin:
        return True
    from posthouse.net.localca import key_fingerprint  # cryptography takes a while to load

    return key_fingerprint(certificate) == pin


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a certificate (DER) in hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()
