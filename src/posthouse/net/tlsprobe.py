"""How a stranger's TLS is looked at: contexts that take what no session would, and what a certificate says.

Nothing secret passes through connections that are made with these contexts.
"""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from posthouse.net.localca import key_fingerprint, names_of
from posthouse.net.tls import fingerprint

OLD: Final = ("TLSv1", "TLSv1.1")  # RFC 8996: nobody should accept them any more
_VERSIONS: Final = {"TLSv1": ssl.TLSVersion.TLSv1, "TLSv1.1": ssl.TLSVersion.TLSv1_1}
MOST_NAMES: Final = 50


def verifying(authorities: Path | None) -> ssl.SSLContext:
    """As a careful client: the authorities of the system or of a file, the name, the dates. Raises OSError."""
    return ssl.create_default_context(cafile=authorities)


def blind() -> ssl.SSLContext:
    """Takes any certificate, and any version that the library still speaks, to see it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def only(version: str) -> ssl.SSLContext:
    """Offers one old version and nothing else."""
    context = blind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # they are old: that is why we ask
        context.minimum_version = context.maximum_version = _VERSIONS[version]
    return context


@dataclass(slots=True, frozen=True)
class CertificateFacts:
    """What a certificate says of itself."""

    names: tuple[str, ...]
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    sha256: str
    key_sha256: str
    self_signed: bool

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its time is over, or has not begun."""
        now = now or datetime.now(UTC)
        return not self.not_before <= now <= self.not_after


def facts_of(certificate: bytes) -> CertificateFacts | None:
    """The facts of a certificate (DER); None when it cannot be read."""
    try:
        read = x509.load_der_x509_certificate(certificate)
        return CertificateFacts(
            tuple(names_of(read)[:MOST_NAMES]),
            read.subject.rfc4514_string(),
            read.issuer.rfc4514_string(),
            read.not_valid_before_utc,
            read.not_valid_after_utc,
            fingerprint(certificate),
            key_fingerprint(certificate),
            _signs_itself(read),
        )
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None


def _signs_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True
