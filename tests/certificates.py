"""Certificates for tests: authorities and servers made on the spot, good ones and bad ones."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from posthouse.net.localca import Identity, Names, make_authority, make_server, pem_of
from posthouse.net.tls import ServerTls
from posthouse.observe.log import Log, QuietLog
from posthouse.ports.certificates import CertificateFiles


@dataclass(slots=True, frozen=True)
class Made:
    """A certificate on the disk: `authority` is what a client is given to believe it."""

    pem: Path
    authority: Path
    identity: Identity

    def files(self, *hosts: str) -> CertificateFiles:
        """As a server takes it."""
        return CertificateFiles(self.pem, self.pem, hosts)


class OneName(Names):
    """A server that has only its host name."""

    def hosts(self) -> list[str]:
        return [self.host]


def make(folder: Path, host: str = "localhost", *, days_ago: int = 0, name: str = "") -> Made:
    """A certificate for a host of an authority of its own, made so many days ago."""
    names = OneName(host)
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    authority = make_authority(names, moment)
    identity = make_server(names, authority, ec.generate_private_key(ec.SECP256R1()), moment)
    pem, trusted = folder / f"{name or host}.pem", folder / f"{name or host}-ca.crt"
    pem.write_bytes(identity.pem())
    trusted.write_bytes(pem_of(authority.certificate))
    return Made(pem, trusted, identity)


def server_tls(made: Made, *, log: Log | None = None, timeout: float = 10.0, most: int = 100) -> ServerTls:
    """What a server needs to speak TLS with it."""
    return ServerTls([made.files()], minimum="1.2", timeout=timeout, most=most, log=log or QuietLog())


@functools.cache
def any_tls() -> ServerTls:
    """TLS that is offered and never begun: one certificate for all tests that only look at the words before it."""
    with tempfile.TemporaryDirectory() as folder:
        return server_tls(make(Path(folder)))
