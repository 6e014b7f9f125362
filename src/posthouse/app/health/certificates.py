"""Certificates: their dates, their names, their keys, and whether programs will believe them."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.net.tls import BadCertificate, server_context
from posthouse.ports.certificates import CertificateFiles

if TYPE_CHECKING:
    from cryptography import x509

SOON: Final = timedelta(days=14)  # Let's Encrypt renews 30 days before the end: by now that has failed twice
SMALLEST_RSA: Final = 2048  # bits; RFC 9325 §4.5
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: dates are judged apart
_UNKNOWN_ISSUER: Final = (2, 20, 21)  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, ..._LOCALLY, UNABLE_TO_VERIFY_LEAF


class Certificates:
    """Certificates"""

    SOUND = Kind("certificates.sound", Level.OK, "{file} is good until {until}, for {names}.")
    NOT_YET = Kind(
        "certificates.not-yet",
        Level.OK,
        "There is no certificate yet: the server makes one, with an authority of its own, at its first start.",
    )
    UNUSABLE = Kind(
        "certificates.unusable",
        Level.ERROR,
        "A certificate cannot be used: {why}.",
        "The server does not start; one that runs keeps the old certificate until it is stopped.",
        "Put the files right, or leave [[certificate]] out: then the server makes its own.",
    )
    EXPIRED = Kind(
        "certificates.expired",
        Level.ERROR,
        "{file} has expired: it was good until {until}.",
        "Mail programs refuse to connect, and so do careful servers.",
        "Renew it: {renew}.",
    )
    EXPIRES = Kind(
        "certificates.expires",
        Level.WARNING,
        "{file} expires on {until}, in {days} days.",
        "By now it should have been renewed: that has failed, or nobody does it.",
        "Renew it: {renew}.",
    )
    EARLY = Kind(
        "certificates.early",
        Level.ERROR,
        "{file} is not good yet, only from {since} on.",
        "Mail programs refuse it until then.",
        "Look at the clock of this machine first; if it is right, have the certificate issued anew.",
    )
    NAME = Kind(
        "certificates.name",
        Level.ERROR,
        "No certificate is for {host}; there are those for {names}.",
        "Mail programs that connect to {host} refuse it.",
        "Have one issued for that name, or set server.hostname to the name it is for.",
    )
    CHAIN = Kind(
        "certificates.chain",
        Level.WARNING,
        "{file} lacks a certificate between the server's and its authority ({issuer}).",
        "Browsers may find it themselves; mail programs and servers do not, and refuse it.",
        "Name the file with the whole chain (fullchain.pem), the server's own certificate first.",
    )
    ORDER = Kind(
        "certificates.order",
        Level.WARNING,
        "{file} has its certificates in a wrong order: number {number} was not issued by the next one.",
        "Strict programs refuse it (RFC 8446 §4.4.2).",
        "Put the server's own first, then the one that issued it, and so on.",
    )
    PRIVATE = Kind(
        "certificates.private",
        Level.NOTE,
        "{file} comes from an authority that this system does not know: {issuer}.",
        "Programs believe it only after they were given that authority.",
        "If the server is for everybody, have one issued by a public authority.",
    )
    WEAK = Kind(
        "certificates.weak",
        Level.ERROR,
        "The key of {file} is too weak: {kind}.",
        "Programs refuse it, and it can be broken.",
        "Make a new key (P-256, or RSA with at least 2048 bits) and have a certificate issued for it.",
    )
    KEY_OPEN = Kind(
        "certificates.key-open",
        Level.ERROR,
        "The private key {file} is open to others: mode {mode}.",
        "Whoever reads it can pretend to be this server.",
        "chmod 600 {file} (or 640 with the group of the server's user). If others have accounts here, replace the key.",
    )
    AUTHORITY = Kind(
        "certificates.authority",
        Level.WARNING,
        "The server's own authority may not vouch for {names}.",
        "The certificate lacks these names: programs that connect to them refuse it.",
        "posthouse cert renew --authority, and give programs the new authority (posthouse cert export).",
    )


@dataclass(slots=True)
class Loaded:
    """A certificate of the server that could be read: the chain of its file, the server's own first."""

    files: CertificateFiles
    chain: Sequence[x509.Certificate]
    own: bool  # made by the server's own authority

    @property
    def names(self) -> list[str]:
        """The hosts and addresses it is for."""
        from posthouse.net.localca import names_of

        return names_of(self.chain[0])

    @property
    def der(self) -> bytes:
        """The server's own certificate."""
        from posthouse.net.localca import der_of

        return der_of(self.chain[0])


def load(files: CertificateFiles, *, own: bool) -> Loaded | Finding:
    """Reads one as the server does. To be called with the rights of its user."""
    from cryptography import x509

    try:
        server_context(files)
    except BadCertificate as error:
        return Certificates.UNUSABLE(why=error)
    try:
        chain = x509.load_pem_x509_certificates(files.chain.read_bytes())
        return Loaded(files, chain, own)
    except (OSError, ValueError) as error:
        return Certificates.UNUSABLE(why=f"{files.chain}: {error}")


def judge(one: Loaded, now: datetime) -> Iterator[Finding]:
    """Everything about one certificate."""
    found = [*_dates(one, now), *_strength(one), *_chain(one), *key_mode(one.files.key)]
    yield from found
    if all(finding.level < Level.WARNING for finding in found):
        names = " ".join(one.names[:4]) or "no name"
        yield Certificates.SOUND(file=one.files.chain, until=_day(one.chain[0].not_valid_after_utc), names=names)


def judge_names(loaded: Sequence[Loaded], host: str) -> Iterator[Finding]:
    """Whether one of them is for the name of the server."""
    if loaded and not any(is_for(one.names, host) for one in loaded):
        names = " ".join(name for one in loaded for name in one.names[:4])[:300]
        yield Certificates.NAME(host=host, names=names or "nobody")


def is_for(names: Sequence[str], host: str) -> bool:
    """Whether a certificate with these names is for a host; a wildcard stands for one label (RFC 9525 §6.3)."""
    host = host.lower()
    rest = host.partition(".")[2]
    if any(name.lower() in (host, f"*.{rest}" if rest else host) for name in names):
        return True
    try:
        return str(ip_address(host)) in names
    except ValueError:
        return False


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _dates(one: Loaded, now: datetime) -> Iterator[Finding]:
    for number, certificate in enumerate(one.chain):
        file = one.files.chain if number == 0 else f"{one.files.chain}, certificate {number + 1}"
        end = certificate.not_valid_after_utc
        renew = "posthouse cert renew" if one.own else "whoever issued it, such as certbot renew"
        if now > end:
            yield Certificates.EXPIRED(file=file, until=_day(end), renew=renew)
        elif now < certificate.not_valid_before_utc:
            yield Certificates.EARLY(file=file, since=_day(certificate.not_valid_before_utc))
        elif end - now < SOON:
            yield Certificates.EXPIRES(file=file, until=_day(end), days=(end - now).days, renew=renew)


def _strength(one: Loaded) -> Iterator[Finding]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = one.chain[0].public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA:
        yield Certificates.WEAK(file=one.files.chain, kind=f"RSA with {key.key_size} bits")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256:
        yield Certificates.WEAK(file=one.files.chain, kind=f"a curve of {key.key_size} bits")


def _chain(one: Loaded) -> Iterator[Finding]:
    """Whether a program that knows the authorities of this system comes from the certificate to one of them."""
    from cryptography.exceptions import InvalidSignature

    if one.own:
        return
    for number, (lower, upper) in enumerate(zip(one.chain, one.chain[1:], strict=False), 1):
        try:
            lower.verify_directly_issued_by(upper)
        except (InvalidSignature, TypeError, ValueError):
            yield Certificates.ORDER(file=one.files.chain, number=number)
            return
    last = one.chain[-1]
    code = verify(one)
    if not code:
        return
    if code in _UNKNOWN_ISSUER and last.issuer != last.subject:
        yield Certificates.CHAIN(file=one.files.chain, issuer=last.issuer.rfc4514_string())
    else:
        yield Certificates.PRIVATE(file=one.files.chain, issuer=last.issuer.rfc4514_string())


def verify(one: Loaded) -> int:
    """OpenSSL's error when a client that knows the authorities of this system shakes hands with the server; 0 when it
    believes it. Dates and names are judged apart, and nothing leaves this process."""
    client = ssl.create_default_context()
    client.check_hostname = False
    client.verify_flags = ssl.VerifyFlags(client.verify_flags | _NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server),
        server_context(one.files).wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_code
            except ssl.SSLError:
                return -1
            if side is sides[0]:
                return 0
    return -1


def key_mode(key: Path) -> Iterator[Finding]:
    """Whether others may read a private key. Its group may: the server's user is in it."""
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o027:
        yield Certificates.KEY_OPEN(file=key, mode=f"{mode:04o}")


def now_utc(seconds: float) -> datetime:
    """The time as certificates have it."""
    return datetime.fromtimestamp(seconds, UTC)
