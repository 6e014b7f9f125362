"""A certificate authority of our own, for servers whose names no public one can vouch for (RFC 5280).

It lives in one folder: `ca.pem` holds its key and certificate, `ca.crt` the certificate alone, which mail programs are
given; `server.pem` holds the server's key and certificate. Key and certificate stand in one file each, so that they
always belong together. The authority may vouch for the server's own names only, so whoever steals its key can
pretend to be nobody else.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from posthouse.net.files import adopt, sync_directory, write_whole
from posthouse.ports.certificates import CertificateFiles
from posthouse.ports.system import Clock

CA_DAYS: Final = 3650  # nobody wants to carry it to every telephone again soon
SERVER_DAYS: Final = 397  # Apple's programs take no longer ones from public authorities; 825 days from private ones
RENEW_BELOW: Final = 1 / 3  # of its life left
BACKDATED: Final = timedelta(days=1)  # clocks of clients that are behind ours
MOST_DOMAINS: Final = 100  # in one certificate: each handshake carries it
COMMON_NAME: Final = 64  # octets; RFC 5280 A.1, ub-common-name
LOCAL_NETWORKS: Final = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),  # RFC 1918, RFC 3927
    *("::1/128", "fc00::/7", "fe80::/10"),  # RFC 4193, RFC 4291 §2.5.6
)

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(slots=True, frozen=True)
class Names:
    """What a server is called: its host name, the domains whose mail it has, and addresses it may be reached at."""

    host: str
    domains: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def hosts(self) -> list[str]:
        """The names of the certificate: those that people type into mail programs."""
        found = [self.host, f"{self.host.partition('.')[0]}.local", "localhost"]
        for domain in self.domains[:MOST_DOMAINS]:
            found += [domain, f"mail.{domain}"]
        return list(dict.fromkeys(name for name in found if len(name) <= 253 and not name.startswith("[")))

    def ips(self) -> list[IP]:
        """The addresses of the certificate."""
        found = ["127.0.0.1", "::1", *self.addresses]
        return list(dict.fromkeys(ipaddress.ip_address(text.partition("%")[0]) for text in found))


@dataclass(slots=True, frozen=True)
class Identity:
    """A key and the certificate for it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def load(cls, path: Path) -> Identity | None:
        """What a file holds; None when there is none. Raises ValueError when it holds something else."""
        try:
            octets = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            key = serialization.load_pem_private_key(octets, None)
            certificate = x509.load_pem_x509_certificate(octets)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no key with a certificate that can be read") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"{path} holds a key and a certificate that do not belong together")
        return cls(key, certificate)

    def pem(self) -> bytes:
        """Both in PEM, the key first."""
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, form, plain) + pem_of(self.certificate)


class LocalAuthority:
    """The authority in a folder, as a supplier of certificates. `names` may be changed before each `tend`.

    While nobody was given its certificate (`mark_exported`), the authority is made anew when the server gets a name
    that it may not vouch for. After that it stays, and such names are left out of the certificate (`missing`) until
    `renew` is told to make a new one.
    """

    def __init__(self, folder: Path, names: Names, clock: Clock) -> None:
        self.names = names
        self._folder = folder
        self._clock = clock
        self._ca = folder / "ca.pem"
        self._server = folder / "server.pem"
        self.certificate = folder / "ca.crt"
        self._marker = folder / "exported"

    def files(self) -> Sequence[CertificateFiles]:
        """The server's certificate."""
        return [CertificateFiles(self._server, self._server)]

    def tend(self) -> bool:
        """Makes what is missing and renews what is due; True when something changed. Raises OSError or ValueError."""
        authority = Identity.load(self._ca)
        if authority is None or self._due(authority) or (self._left_out(authority) and not self.exported):
            return self.renew(authority=True)
        server = Identity.load(self._server)
        if server is None or self._due(server) or not self._fits(server, authority):
            return self.renew()
        return False

    def renew(self, *, authority: bool = False) -> bool:
        """Makes a new certificate for the server, with `authority` also a new authority, which mail programs must be
        given again. The server keeps its key, so that who pinned it need not care. Raises OSError or ValueError."""
        self._make_folder()
        issuer = None if authority else Identity.load(self._ca)
        if issuer is None:
            issuer = make_authority(self.names, self._now())
            write_whole(self._ca, issuer.pem(), 0o600)
            write_whole(self.certificate, pem_of(issuer.certificate), 0o644)
            self._marker.unlink(missing_ok=True)
        before = Identity.load(self._server)
        key = ec.generate_private_key(ec.SECP256R1()) if before is None else before.key
        server = make_server(self.names, issuer, key, self._now())
        write_whole(self._server, server.pem(), 0o600)
        return True

    @property
    def exported(self) -> bool:
        """Whether somebody was given the authority's certificate."""
        return self._marker.exists()

    def mark_exported(self) -> None:
        """From now on the authority is not replaced without being asked."""
        if not self.exported:
            write_whole(self._marker, b"The certificate of this authority was given to mail programs.\n", 0o600)

    def missing(self) -> list[str]:
        """Names of the server that the authority may not vouch for."""
        authority = Identity.load(self._ca)
        return [] if authority is None else self._left_out(authority)

    def identities(self) -> tuple[Identity, Identity] | None:
        """The authority and the server's certificate; None before they were made. Raises OSError or ValueError."""
        authority, server = Identity.load(self._ca), Identity.load(self._server)
        return None if authority is None or server is None else (authority, server)

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700)
            adopt(self._folder, self._folder.parent)
            sync_directory(self._folder.parent)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _due(self, identity: Identity) -> bool:
        begin, end = identity.certificate.not_valid_before_utc, identity.certificate.not_valid_after_utc
        return (end - self._now()) < (end - begin) * RENEW_BELOW or self._now() < begin

    def _left_out(self, authority: Identity) -> list[str]:
        permitted = Permitted.of(authority.certificate)
        return [name for name in self.names.hosts() if not permitted.host(name)]

    def _fits(self, server: Identity, authority: Identity) -> bool:
        """Whether a certificate of the server is this authority's and has the names of today."""
        try:
            server.certificate.verify_directly_issued_by(authority.certificate)
        except (InvalidSignature, TypeError, ValueError):  # another's signature, an unknown kind of key, another issuer
            return False
        return set(_names(self.names, authority)) <= set(names_of(server.certificate))


@dataclass(slots=True, frozen=True)
class Permitted:
    """The names an authority may vouch for."""

    domains: tuple[str, ...]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    @classmethod
    def of(cls, authority: x509.Certificate) -> Permitted:
        """Those in its name constraints (RFC 5280 §4.2.1.10)."""
        value = authority.extensions.get_extension_for_class(x509.NameConstraints).value
        trees = value.permitted_subtrees or []
        domains = tuple(tree.value for tree in trees if isinstance(tree, x509.DNSName))
        found = [tree.value for tree in trees if isinstance(tree, x509.IPAddress)]
        networks = tuple(one for one in found if isinstance(one, ipaddress.IPv4Network | ipaddress.IPv6Network))
        return cls(domains, networks)

    def host(self, name: str) -> bool:
        """Whether a name is one of the domains or lies below one."""
        return any(name == domain or name.endswith(f".{domain}") for domain in self.domains)

    def ip(self, address: IP) -> bool:
        """Whether an address lies in one of the networks."""
        return any(address in network for network in self.networks)


def make_authority(names: Names, now: datetime) -> Identity:
    """A new authority for these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    short = names.host[: COMMON_NAME - 30]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Posthouse authority of {short}")])
    certificate = (
        _begin(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.NameConstraints(_subtrees(names), None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(key, certificate)


def make_server(names: Names, authority: Identity, key: ec.EllipticCurvePrivateKey, now: datetime) -> Identity:
    """A certificate of the authority for those of the names that it may vouch for."""
    common = names.host if len(names.host) <= COMMON_NAME else "Posthouse"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    days = min(SERVER_DAYS, (authority.certificate.not_valid_after_utc - now).days)
    issued = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        _begin(subject, authority.certificate.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternatives(_names(names, authority)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issued, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Identity(key, certificate)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    now = now.replace(microsecond=0)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates, a server handshakes (RFC 5280 §4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _subtrees(names: Names) -> list[x509.GeneralName]:
    """What the authority may vouch for: the server's names with all below them, this machine, private networks. Mail
    addresses are named so that it vouches for no others: a kind of name that is not named would be free."""
    every = names.hosts()
    hosts = [name for name in every if not any(name.endswith(f".{other}") for other in every)]
    trees: list[x509.GeneralName] = [x509.DNSName(name) for name in hosts]
    trees += [x509.RFC822Name(name) for name in hosts]
    networks = [ipaddress.ip_network(text) for text in LOCAL_NETWORKS]
    outside = [ip for ip in names.ips() if not any(ip in network for network in networks)]
    return trees + [x509.IPAddress(network) for network in [*networks, *map(ipaddress.ip_network, outside)]]


def _names(names: Names, authority: Identity) -> list[str]:
    permitted = Permitted.of(authority.certificate)
    hosts = [name for name in names.hosts() if permitted.host(name)]
    return hosts + [str(ip) for ip in names.ips() if permitted.ip(ip)]


def _alternatives(names: Iterable[str]) -> x509.SubjectAlternativeName:
    def value(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    return x509.SubjectAlternativeName([value(name) for name in names])


# What others ask about certificates


def names_of(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses a certificate is for."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in value if isinstance(name, x509.DNSName | x509.IPAddress)]


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM (RFC 7468 §5)."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der_of(certificate: x509.Certificate) -> bytes:
    """A certificate in DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises OSError or ValueError."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def key_fingerprint(certificate: bytes) -> str:
    """The SHA-256 of the public key (SubjectPublicKeyInfo) in a certificate (DER), in hexadecimal (RFC 7469 §2.4)."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def describe(certificate: bytes) -> str:
    """A certificate (DER) in a few words: for whom, by whom, until when."""
    read = x509.load_der_x509_certificate(certificate)
    names = names_of(read)[:4] or [read.subject.rfc4514_string()]
    return f"{' '.join(names)} by {read.issuer.rfc4514_string()}, valid to {read.not_valid_after_utc:%Y-%m-%d}"
