"""Mail addresses: parsing, comparing and printing (RFC 5321 §4.1.2, RFC 6531 §3.3).

An `Address` holds the local part without quotes and the domain as it was written, so that `key` can compare
what is equal and `str` can print the form with the least quoting, as RFC 5321 §4.1.2 asks.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import idna

from posthouse.mail import limits

_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_UTF8_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*"

# Dot-string "@" Domain, all ASCII: what nearly every address looks like.
_PLAIN: Final = re.compile(rf"({_ATEXT}+(?:\.{_ATEXT}+)*)@({_DOMAIN})")
_DOT_STRING: Final = re.compile(rf"{_UTF8_ATEXT}+(?:\.{_UTF8_ATEXT}+)*")
# Quoted-string = DQUOTE *(qtextSMTP / quoted-pairSMTP) DQUOTE, with UTF8-non-ascii of RFC 6531 §3.3.
_QUOTED_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*)"')
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_ASCII_DOMAIN: Final = re.compile(_DOMAIN)
_GENERAL_LITERAL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?:[!-Z^-~]+")
# What is not seen or changes how the rest is shown: controls, line separators, surrogates, soft hyphen, zero width
# space, bidirectional controls, byte order mark. Joiners (U+200C, U+200D) stay: scripts and emoji need them.
_HIDDEN: Final = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


class AddressError(ValueError):
    """This is not an address. `too_long` tells a limit from a fault of form."""

    def __init__(self, text: str, *, too_long: bool = False) -> None:
        super().__init__(text)
        self.too_long = too_long


@dataclass(slots=True, frozen=True)
class Address:
    """A mail address: `local` without quotes, `domain` as written, a literal with its brackets.

    An empty domain is the `postmaster` that RFC 5321 §4.5.1 allows without one.
    """

    local: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that the text holds, without angle brackets and without anything around it.

        Raises AddressError. Mailbox = Local-part "@" ( Domain / address-literal ), RFC 5321 §4.1.2; beyond ASCII
        as in RFC 6531 §3.3; lengths in octets as in RFC 5321 §4.5.3.1.
        """
        return _parse(text)

    def _check_lengths(self, text: str) -> None:
        # Fits whatever the form: most addresses end here.
        if len(text) <= limits.LOCAL_PART and text.isascii():
            return
        if len(_quote(self.local).encode()) > limits.LOCAL_PART:
            raise AddressError("The part before the @ is longer than 64 octets", too_long=True)
        if len(str(self).encode()) > limits.PATH - 2:
            raise AddressError("The address is longer than 254 octets", too_long=True)

    @property
    def key(self) -> str:
        """The form that equal addresses share: lower case, NFC, quotes only where needed, the domain as A-labels."""
        return _key(self.local, self.domain)

    @property
    def is_ascii(self) -> bool:
        """Whether the address can travel without SMTPUTF8 just as it is written."""
        return self.local.isascii() and self.domain.isascii()

    def __str__(self) -> str:
        """The address with the least quoting (RFC 5321 §4.1.2)."""
        return f"{_quote(self.local)}@{self.domain}" if self.domain else _quote(self.local)


@lru_cache(maxsize=4096)  # the same addresses come again and again; who sends others only pays the price of parsing
def _parse(text: str) -> Address:
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        address = Address(plain[1], plain[2])
    else:
        local, rest = _split(text)
        address = Address(local, parse_domain(rest))
    address._check_lengths(text)
    return address


def parse_domain(text: str) -> str:
    """Checks a domain or an address literal and returns it as written; raises AddressError.

    Domain = sub-domain *("." sub-domain), RFC 5321 §4.1.2; U-labels as in RFC 6531 §3.3 and RFC 5890 §2.3.2.1.
    """
    if len(text.encode("utf-8", "replace")) > limits.DOMAIN:
        raise AddressError("The domain is longer than 255 octets", too_long=True)
    if text.startswith("["):
        _literal_key(text)
    elif not _ASCII_DOMAIN.fullmatch(text):
        _a_labels(text)
    return text


@lru_cache(maxsize=4096)
def _key(local: str, domain: str) -> str:
    local = local.lower()
    if not local.isascii():
        local = unicodedata.normalize("NFC", local)
    return f"{_quote(local)}@{domain_key(domain)}" if domain else _quote(local)


def domain_key(domain: str) -> str:
    """The form that equal domains share: lower case, A-labels; literals in their shortest form.

    Takes what `parse_domain` accepts; raises AddressError for anything else that is not ASCII.
    """
    if domain.startswith("["):
        return _literal_key(domain)
    return domain.lower() if domain.isascii() else _a_labels(domain)


def domain_text(domain: str) -> str:
    """The domain as people read it: A-labels become U-labels where that is possible."""
    if "xn--" not in domain.lower():
        return domain
    try:
        return idna.decode(domain.lower())
    except UnicodeError:
        return domain


def literal_of(host: str) -> str:
    """The address literal of an IP address: `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3)."""
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


def _split(text: str) -> tuple[str, str]:
    if text.startswith('"'):
        quoted = _QUOTED_STRING.match(text)
        if quoted is None or text[quoted.end() : quoted.end() + 1] != "@":
            raise AddressError("The quoted part before the @ is not closed or holds what it may not hold")
        return _visible(_QUOTED_PAIR.sub(r"\1", quoted[1])), text[quoted.end() + 1 :]
    local, at, rest = text.partition("@")
    if not at:
        raise AddressError("There is no @")
    if not _DOT_STRING.fullmatch(local):
        raise AddressError("The part before the @ holds characters that need quotes")
    return _visible(local), rest


def _visible(local: str) -> str:
    if not local.isascii() and _HIDDEN.search(local):
        raise AddressError("The part before the @ holds invisible characters")
    return local


@lru_cache(maxsize=4096)
def _quote(local: str) -> str:
    """Local-part = Dot-string / Quoted-string, RFC 5321 §4.1.2."""
    if _DOT_STRING.fullmatch(local):
        return local
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _a_labels(domain: str) -> str:
    if domain.isascii() or _HIDDEN.search(domain):
        raise AddressError("This is not a domain name")
    try:
        encoded = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii").lower()
    except UnicodeError as error:
        raise AddressError("This is not a domain name") from error
    if not _ASCII_DOMAIN.fullmatch(encoded):
        raise AddressError("This is not a domain name")
    return encoded


def _literal_key(domain: str) -> str:
    """address-literal = "[" ( IPv4 / "IPv6:" IPv6-addr / Standardized-tag ":" 1*dcontent ) "]", RFC 5321 §4.1.3."""
    inside = domain[1:-1]
    if not domain.endswith("]") or len(domain) < 3:
        raise AddressError("The address literal is not closed")
    try:
        if inside[:5].lower() == "ipv6:":
            if "%" in inside:
                raise AddressError("An address literal has no zone")
            address = IPv6Address(inside[5:])
            # RFC 5952 §5 writes mapped addresses with dots; Python does so from 3.13 on.
            return f"[IPv6:::ffff:{address.ipv4_mapped}]" if address.ipv4_mapped else f"[IPv6:{address}]"
        if ":" not in inside:
            return f"[{IPv4Address(inside)}]"
    except AddressValueError as error:
        raise AddressError("The address literal holds no IP address") from error
    if not _GENERAL_LITERAL.fullmatch(inside):
        raise AddressError("This is not an address literal")
    return f"[{inside.lower()}]"
