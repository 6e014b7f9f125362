"""The authority of our own: what it vouches for, when it renews, what survives."""

from __future__ import annotations

import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from posthouse.net.localca import CA_DAYS, SERVER_DAYS, LocalAuthority, Names, Permitted, make_authority, names_of
from posthouse.net.tls import server_context
from tests.smtp_stage import StillClock

NAMES = Names("mail.example.org", ("example.org", "xn--e1afmkfd.example"), ("192.168.1.5",))
DAY = 86_400


@pytest.fixture
def clock() -> StillClock:
    clock = StillClock()
    clock.seconds = datetime.now(UTC).timestamp()  # openssl looks at the real one
    return clock


@pytest.fixture
def authority(tmp_path: Path, clock: StillClock) -> LocalAuthority:
    return LocalAuthority(tmp_path / "tls", NAMES, clock)


def server(authority: LocalAuthority) -> x509.Certificate:
    both = authority.identities()
    assert both is not None
    return both[1].certificate


def verify(authority: LocalAuthority, pem: Path, *names: str) -> str:
    """What openssl, which nobody here wrote, says of a certificate."""
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(authority.certificate), *names, str(pem)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_first_call_makes_both_and_openssl_believes_them(authority: LocalAuthority) -> None:
    """For the host name, domains, what lies below them, loopback and the address on the local network."""
    assert authority.tend() and not authority.tend()
    [files] = authority.files()
    for name in ("mail.example.org", "example.org", "mail.xn--e1afmkfd.example", "localhost", "mail.local"):
        assert ": OK" in verify(authority, files.chain, "-verify_hostname", name), name
    for address in ("127.0.0.1", "::1", "192.168.1.5"):
        assert ": OK" in verify(authority, files.chain, "-verify_ip", address), address
    assert "mismatch" in verify(authority, files.chain, "-verify_hostname", "example.com")
    server_context(files)


def test_keys_are_private_from_their_first_moment(authority: LocalAuthority) -> None:
    """Would catch a key that is written with the usual mode and made private afterwards."""
    before = os.umask(0)
    try:
        authority.tend()
    finally:
        os.umask(before)
    folder = authority.certificate.parent
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o600, "ca.crt": 0o644, "server.pem": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_stolen_key_vouches_for_nobody_else(authority: LocalAuthority, tmp_path: Path, clock: StillClock) -> None:
    """A certificate for a bank, made with the authority's own key, is refused by openssl (RFC 5280 §4.2.1.10)."""
    authority.tend()
    both = authority.identities()
    assert both is not None
    stolen, victim = both
    names = x509.SubjectAlternativeName([x509.DNSName("bank.example.com")])
    builder = x509.CertificateBuilder(
        issuer_name=stolen.certificate.subject,
        subject_name=x509.Name([]),
        public_key=victim.key.public_key(),
        serial_number=7,
        not_valid_before=datetime.now(UTC) - timedelta(days=1),
        not_valid_after=datetime.now(UTC) + timedelta(days=1),
    ).add_extension(names, critical=True)
    forged = tmp_path / "forged.pem"
    forged.write_bytes(builder.sign(stolen.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", str(authority.certificate), str(forged)], capture_output=True, text=True
    )
    assert "permitted subtree violation" in done.stdout + done.stderr


def test_it_is_renewed_when_a_third_of_its_life_is_left(authority: LocalAuthority, clock: StillClock) -> None:
    """Not before, and with the same key; the authority stays the same."""
    authority.tend()
    first, trusted = server(authority), authority.certificate.read_bytes()
    clock.seconds += SERVER_DAYS * 2 / 3 * DAY - 2 * DAY
    assert not authority.tend()
    clock.seconds += 3 * DAY
    assert authority.tend()
    second = server(authority)
    assert second.serial_number != first.serial_number and second.public_key() == first.public_key()
    assert (second.not_valid_after_utc - datetime.fromtimestamp(clock.seconds, UTC)).days >= SERVER_DAYS - 1
    assert authority.certificate.read_bytes() == trusted
    assert not authority.tend()


def test_the_authority_itself_is_renewed_in_time(authority: LocalAuthority, clock: StillClock) -> None:
    authority.tend()
    trusted = authority.certificate.read_bytes()
    clock.seconds += CA_DAYS * 0.7 * DAY
    assert authority.tend() and authority.certificate.read_bytes() != trusted


def test_a_clock_that_was_wrong_is_survived(authority: LocalAuthority, clock: StillClock) -> None:
    """A certificate from the future, made before the clock was set right, is made anew."""
    clock.seconds += 500 * DAY
    authority.tend()
    clock.seconds -= 500 * DAY
    assert authority.tend()
    assert server(authority).not_valid_before_utc < datetime.fromtimestamp(clock.seconds, UTC)


def test_a_new_domain_joins_while_nobody_has_the_authority(authority: LocalAuthority) -> None:
    """Most servers are started before their first domain is added."""
    authority.tend()
    authority.names = Names("mail.example.org", (*NAMES.domains, "example.net"), NAMES.addresses)
    assert authority.missing() == ["example.net", "mail.example.net"]
    assert authority.tend() and not authority.missing()
    assert "example.net" in names_of(server(authority))


def test_an_exported_authority_is_never_replaced_unasked(authority: LocalAuthority) -> None:
    """Would catch that a new domain makes every telephone of the office warn."""
    authority.tend()
    authority.mark_exported()
    trusted = authority.certificate.read_bytes()
    authority.names = Names("mail.example.org", (*NAMES.domains, "example.net"), ("192.168.1.6",))
    assert authority.tend()  # for the address
    assert authority.certificate.read_bytes() == trusted
    assert authority.missing() == ["example.net", "mail.example.net"]
    assert "192.168.1.6" in names_of(server(authority)) and "example.net" not in names_of(server(authority))
    assert not authority.tend()
    authority.renew(authority=True)
    assert not authority.missing() and not authority.exported


def test_names_that_go_do_not_matter(authority: LocalAuthority) -> None:
    """An address that comes and goes must not renew the certificate again and again."""
    authority.tend()
    authority.names = Names("mail.example.org", NAMES.domains)
    assert not authority.tend()


@pytest.mark.parametrize(
    "content", [b"", b"garbage\n", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_file_is_told_and_never_overwritten(authority: LocalAuthority, content: bytes) -> None:
    authority.tend()
    damaged = authority.certificate.parent / "ca.pem"
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"ca\.pem holds no key with a certificate"):
        authority.tend()
    assert damaged.read_bytes() == content


def test_a_key_of_another_certificate_is_told(authority: LocalAuthority, tmp_path: Path, clock: StillClock) -> None:
    authority.tend()
    other = LocalAuthority(tmp_path / "other", NAMES, clock)
    other.tend()
    mine, others = (one.certificate.parent / "ca.pem" for one in (authority, other))
    key = mine.read_text().partition("-----BEGIN CERTIFICATE")[0]
    mine.write_text(key + others.read_text()[others.read_text().index("-----BEGIN CERTIFICATE") :])
    with pytest.raises(ValueError, match="do not belong together"):
        authority.tend()


def test_a_thousand_domains_and_long_names_fit() -> None:
    """A certificate is part of each handshake: it must not grow without bound."""
    names = Names("a" * 63 + ".example.org", tuple(f"d{number}.example" for number in range(1000)))
    assert len(names.hosts()) < 210
    made = make_authority(names, datetime.now(UTC))
    assert Permitted.of(made.certificate).host("d5.example")
