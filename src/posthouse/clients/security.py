"""Whether and how a client goes over to TLS, and whom it believes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from posthouse.clients.failure import Failure, Injected, Kind
from posthouse.net.dial import is_loopback
from posthouse.net.encryption import TlsFailed
from posthouse.net.tls import BadCertificate, Trust, protect_client
from posthouse.net.wire import Wire
from posthouse.ports.system import SessionObserver

HANDSHAKE: Final = 30.0  # seconds
SUBMISSIONS: Final = 465  # RFC 8314 §3.3
POP3S: Final = 995  # RFC 8314 §3.1


class When(Enum):
    """When TLS begins."""

    NEVER = "not at all"
    OFFERED = "when the server offers it"
    ALWAYS = "after STARTTLS or STLS, without which there is no session"
    AT_ONCE = "with the first octet"


@dataclass(slots=True, frozen=True)
class Security:
    """What a person wants. `here`: also with this machine itself, where nobody listens in. `detail` has the server's
    certificate told."""

    when: When = When.OFFERED
    trust: Trust = field(default_factory=Trust)
    here: bool = False
    detail: bool = False
    context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)

    def at_once(self, port: int | None, usual: int) -> bool:
        """Whether TLS begins with the first octet; on the port that is for that it does, without being asked."""
        return self.when is When.AT_ONCE or (port == usual and self.when is not When.NEVER)

    def wanted(self, wire: Wire) -> bool:
        """Whether this connection shall go over to TLS."""
        if wire.encrypted or self.when is When.NEVER:
            return False
        return self.when is not When.OFFERED or self.here or not is_loopback(wire.peer.host)

    def stripped(self, keyword: str) -> Failure | None:
        """What it means that the server does not offer TLS: nothing where nobody asked for it."""
        if self.when in (When.OFFERED, When.NEVER):
            return None
        text = f"the server does not offer {keyword}, or somebody on the way took the offer out, and TLS was asked for"
        return Failure(Kind.INSECURE, "tls", text)


def injected(wire: Wire, keyword: str) -> Failure:
    """The failure that words between the plain and the encrypted part mean (CVE-2011-0411 and its kin)."""
    wire.abort()
    return Injected(
        Kind.PROTOCOL, "tls", f"something stood behind the reply to {keyword}; that is how words are put into a session"
    )


async def protect(
    wire: Wire, host: str, security: Security, observer: SessionObserver | None, timeout: float | None = None
) -> None:
    """Goes over to TLS, within `timeout` seconds if that is less than usual. Raises Failure; then the connection is
    gone."""
    try:
        seconds = min(timeout or HANDSHAKE, HANDSHAKE)
        tls = await protect_client(wire, host, security.trust, timeout=seconds, context=security.context)
    except TlsFailed as failed:
        if failed.certificate:
            raise Failure(Kind.CERTIFICATE, "tls", f"the certificate of {host} is refused: {failed}") from failed
        raise Failure(Kind.PROTOCOL, "tls", f"encryption could not begin: {failed}") from failed
    except BadCertificate as bad:
        wire.abort()
        raise Failure(Kind.LOCAL, "tls", str(bad)) from bad
    certificate = tls.getpeercert(binary_form=True)
    if security.detail and observer is not None and certificate is not None:
        from posthouse.net.localca import describe  # cryptography takes a while to load
        from posthouse.net.tls import fingerprint

        observer.note(f"certificate {describe(certificate)}")
        observer.note(f"certificate SHA-256 {fingerprint(certificate)}")
