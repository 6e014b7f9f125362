"""The trace a server leaves on a letter: Return-Path and Received (RFC 5321 §4.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from posthouse.mail.address import Address, AddressError, domain_key, literal_of

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Names with an underscore are no host names, and common: they are shown as they were said.
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")


@dataclass(slots=True)
class Hop:
    """What one Received field says.

    `helo` is the name the client gave itself, `address` its IP address ("" for a local socket), `reverse` the name
    DNS gives that address. `recipient` is set when there is exactly one: several would tell them of each other
    (RFC 5321 §7.2). `time` is seconds since 1970 UTC. `tls` is version and cipher, parted by a blank, or "".
    """

    helo: str
    address: str
    reverse: str | None
    host: str
    protocol: str
    id: str
    time: float
    recipient: Address | None = None
    tls: str = ""


def protocol_keyword(*, extended: bool, lmtp: bool, utf8: bool, tls: bool, login: bool) -> str:
    """The word after `with` (RFC 3848, RFC 6531 §4.3): SMTP, ESMTP, ESMTPSA, UTF8SMTPA, LMTP ..."""
    base = "LMTP" if lmtp else "SMTP"
    plain = f"E{base}" if extended and not lmtp else base
    word = f"UTF8{base}" if utf8 else plain
    if tls and extended:
        word += "S"
    return f"{word}A" if login and extended else word


def return_path(sender: Address | None) -> str:
    """The field that keeps the reverse-path at final delivery.

    Return-path-line = "Return-Path:" FWS Reverse-path CRLF, RFC 5321 §4.4.
    """
    return f"Return-Path: <{'' if sender is None else sender}>\r\n"


def received(hop: Hop) -> str:
    """The field that says from whom, by whom, how, when.

    Stamp = From-domain By-domain Opt-info [CFWS] ";" FWS date-time, RFC 5321 §4.4.
    """
    whom = "" if hop.recipient is None else f"\r\n\tfor <{hop.recipient}>"
    return (
        f"Received: from {_from(hop)}{_tls(hop.tls)}\r\n"
        f"\tby {hop.host} (Posthouse) with {hop.protocol} id {hop.id}{whom};\r\n"
        f"\t{date_time(hop.time)}\r\n"
    )


def _tls(tls: str) -> str:
    """The comment on the encryption, in the form that most servers and readers know."""
    version, _, cipher = tls.partition(" ")
    return f"\r\n\t(using {version} with cipher {cipher})" if tls else ""


def date_time(seconds: float) -> str:
    """date-time of RFC 5322 §3.3, in UTC."""
    return _date_time(int(seconds))


@lru_cache(maxsize=8)  # thousands of letters a second share their date
def _date_time(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month - 1]} {moment.year} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} +0000"
    )


def _from(hop: Hop) -> str:
    """Extended-Domain = Domain / ( Domain FWS "(" TCP-info ")" ) / ( address-literal FWS "(" TCP-info ")" ).

    A name that is neither is not repeated: the address stands in its place.
    """
    literal = literal_of(hop.address) if hop.address else ""
    name = hop.helo if _sayable(hop.helo) else literal or "unknown"
    if not literal:
        return name
    return f"{name} ({hop.reverse} {literal})" if hop.reverse else f"{name} ({literal})"


@lru_cache(maxsize=256)
def _sayable(helo: str) -> bool:
    if not helo.startswith("["):
        return _NAME.fullmatch(helo) is not None
    try:
        return bool(domain_key(helo))
    except AddressError:
        return False
