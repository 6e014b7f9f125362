"""Password hashes that other mail servers made: they verify once, and are then replaced by argon2id.

A foreign hash is kept in the form `{SCHEME}rest`, as Dovecot writes it. What comes without a scheme is recognised by
its look: `$2b$` bcrypt, `$5$` and `$6$` SHA-crypt, `$1$` MD5-crypt, 32 hexadecimal digits MD5, 64 SHA-256, and 70
the form of hMailServer: a salt of six characters, then SHA-256 over salt and password. All of them are weaker than
what we make; that is why they do not stay.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Callable
from typing import Final

from argon2 import Type, exceptions, extract_parameters
from argon2.low_level import verify_secret

LONGEST: Final = 512  # characters of a hash
MOST_ROUNDS: Final = 1_000_000  # of SHA-crypt: a second of a core
MOST_COST: Final = 15  # of bcrypt: two seconds
MOST_MEMORY: Final = 262_144  # KiB of argon2
MOST_PASSES: Final = 20

_SCHEME: Final = re.compile(r"\{([A-Za-z0-9-]{1,30})(\.(?:HEX|hex|B64|b64|BASE64|base64))?\}(.*)")
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_SHA_CRYPT: Final = re.compile(r"\$([56])\$(?:rounds=(\d{1,9})\$)?[^$:\s]{0,16}\$([./A-Za-z0-9]{43}|[./A-Za-z0-9]{86})")
_MD5_CRYPT: Final = re.compile(r"\$1\$[^$:\s]{0,8}\$[./A-Za-z0-9]{22}")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")
_HMAIL: Final = re.compile(r"[!-~]{6}[0-9A-Fa-f]{64}")


class BadHash(ValueError):
    """A hash that cannot be taken over. The text says why, and what to do."""


# The plain digests: name of the hash, octets of it, whether a salt follows. RFC 3112 has the family.
_DIGESTS: Final = {
    "SHA": ("sha1", 20, False),
    "SHA1": ("sha1", 20, False),
    "SHA256": ("sha256", 32, False),
    "SHA512": ("sha512", 64, False),
    "PLAIN-MD5": ("md5", 16, False),
    "LDAP-MD5": ("md5", 16, False),
    "SMD5": ("md5", 16, True),
    "SSHA": ("sha1", 20, True),
    "SSHA256": ("sha256", 32, True),
    "SSHA512": ("sha512", 64, True),
}
_CRYPTS: Final = frozenset({"CRYPT", "BLF-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "MD5-CRYPT", "BCRYPT"})


def read(text: str) -> str:
    """A hash as another server had it, in the form in which it is kept here. Raises BadHash."""
    text = text.strip()
    if not 0 < len(text) <= LONGEST or not text.isascii() or not text.isprintable():
        raise BadHash("This is no hash of a password: a hash is one short line of printable characters.")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return _bare(text)
    name, encoding, rest = match[1].upper(), (match[2] or "").upper(), match[3]
    if name in ("PLAIN", "CLEARTEXT", "CLEAR"):
        raise BadHash("This is a password and no hash. Give it with --password-stdin.")
    if name in _CRYPTS or name.startswith("ARGON2"):
        return _bare(rest)
    if name not in _DIGESTS:
        known = ", ".join([*_DIGESTS, *sorted(_CRYPTS), "ARGON2ID"])
        raise BadHash(f"The scheme {{{name}}} is not known here. Known are {known}.")
    kept = f"{{{name}}}{_octets(name, encoding, rest).hex()}"
    _check(name, kept)
    return kept


def _bare(text: str) -> str:
    """A hash that shows by its look what it is."""
    if text.startswith(("$argon2id$", "$argon2i$")):
        return _argon(text)
    if (match := _BCRYPT.fullmatch(text)) is not None:
        if not 4 <= int(match[1]) <= MOST_COST:
            raise BadHash(f"This bcrypt hash has the cost {match[1]}; at most {MOST_COST} is verified here.")
        return f"{{BLF-CRYPT}}{text}"
    if (match := _SHA_CRYPT.fullmatch(text)) is not None and len(match[3]) == (43 if match[1] == "5" else 86):
        if match[2] and not 1000 <= int(match[2]) <= MOST_ROUNDS:
            raise BadHash(f"This hash has {match[2]} rounds; 1000 to {MOST_ROUNDS} are verified here.")
        return f"{{{'SHA256' if match[1] == '5' else 'SHA512'}-CRYPT}}{text}"
    if _MD5_CRYPT.fullmatch(text):
        return f"{{MD5-CRYPT}}{text}"
    if _HEX.fullmatch(text) and len(text) in (32, 64):
        return f"{{{'PLAIN-MD5' if len(text) == 32 else 'SHA256'}}}{text.lower()}"
    if _HMAIL.fullmatch(text):
        return f"{{HMAILSERVER}}{text[:6]}{text[6:].lower()}"
    raise BadHash(
        "This is no hash that is known here. Write {SCHEME} before it as Dovecot does, for example {SSHA256}, "
        "{SHA512-CRYPT} or {BLF-CRYPT}."
    )


def _argon(text: str) -> str:
    try:
        found = extract_parameters(text)
    except exceptions.InvalidHashError:
        raise BadHash("This argon2 hash is damaged.") from None
    if found.memory_cost > MOST_MEMORY or found.time_cost > MOST_PASSES or found.parallelism > 16:
        raise BadHash(f"This argon2 hash costs more than {MOST_MEMORY // 1024} MiB and {MOST_PASSES} passes.")
    return text if text.startswith("$argon2id$") else f"{{ARGON2I}}{text}"


def _octets(name: str, encoding: str, text: str) -> bytes:
    """The octets of a digest: base64, but hexadecimal digits for MD5 and where `.HEX` says so (Dovecot)."""
    try:
        if encoding == ".HEX" or (not encoding and name == "PLAIN-MD5"):
            return binascii.unhexlify(text)
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadHash(f"What stands behind {{{name}}} is neither base64 nor hexadecimal.") from None


def _check(name: str, kept: str) -> None:
    _, size, salted = _DIGESTS[name]
    octets = (len(kept) - len(name) - 2) // 2
    if (octets <= size or octets > size + 64) if salted else octets != size:
        raise BadHash(f"What stands behind {{{name}}} has a wrong length: {octets} octets.")


def known(stored: str) -> bool:
    """Whether a stored hash is one of these."""
    return stored.startswith("{")


def matches(stored: str, secret: bytes) -> bool:
    """Whether the password is the one behind a hash that `read` gave. In a thread: some take a second."""
    scheme, _, rest = stored[1:].partition("}")
    if scheme in _DIGESTS:
        return _digest_matches(scheme, bytes.fromhex(rest), secret)
    verify = _VERIFY.get(scheme)
    return verify is not None and verify(rest, secret)


def _digest_matches(scheme: str, octets: bytes, secret: bytes) -> bool:
    name, size, _ = _DIGESTS[scheme]
    made = hashlib.new(name, secret + octets[size:], usedforsecurity=False).digest()
    return hmac.compare_digest(made, octets[:size])


def _hmailserver(text: str, secret: bytes) -> bool:
    made = hashlib.sha256(text[:6].encode("ascii") + secret).hexdigest()
    return hmac.compare_digest(made, text[6:])


def _bcrypt(text: str, secret: bytes) -> bool:
    import bcrypt

    # Others cut at 72 octets, and so must we to verify what they made; a NUL cannot be in a password here.
    return bcrypt.checkpw(secret[:72], text.encode("ascii"))


def _crypt(text: str, secret: bytes) -> bool:
    from passlib.hash import md5_crypt, sha256_crypt, sha512_crypt

    kind = {"$1$": md5_crypt, "$5$": sha256_crypt, "$6$": sha512_crypt}[text[:3]]
    return bool(kind.verify(secret, text))


def _argon2i(text: str, secret: bytes) -> bool:
    try:
        return verify_secret(text.encode("ascii"), secret, Type.I)
    except (exceptions.VerificationError, exceptions.InvalidHashError):
        return False


_VERIFY: Final[dict[str, Callable[[str, bytes], bool]]] = {
    "HMAILSERVER": _hmailserver,
    "BLF-CRYPT": _bcrypt,
    "SHA256-CRYPT": _crypt,
    "SHA512-CRYPT": _crypt,
    "MD5-CRYPT": _crypt,
    "ARGON2I": _argon2i,
}
