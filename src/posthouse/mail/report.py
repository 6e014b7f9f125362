"""Delivery status notifications as values, and their reading, whoever wrote them (RFC 3464, RFC 6522, RFC 6533).

Whatever breaks the rules is read as far as it has a meaning, and everything is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from posthouse.mail.header import Header
from posthouse.mail.mime import Octets, Part, decoded, parse
from posthouse.mail.moment import read_moment

ACTIONS: Final = ("failed", "delayed", "delivered", "relayed", "expanded")  # RFC 3464 §2.3.3
STATUS_PART: Final = 2_097_152  # octets of a report that are read
RECIPIENTS: Final = 2_000  # of a report that are read; RFC 5321 §4.5.3.1.8 asks for at least 100
READ_VALUE: Final = 2_000  # octets of one field that are read
BLANKS: Final = " \t"  # a no-break space belongs to an address (RFC 6531 §3.3)


@dataclass(slots=True)
class Fate:
    """What became of a letter for one recipient (RFC 3464 §2.3). `diagnostic` is what the host `remote` said, lines
    parted by "\\n"; times are seconds since 1970."""

    recipient: str
    action: str
    status: str  # enhanced status code, RFC 3463
    original: str = ""  # "rfc822;anna@example.org": the word of ORCPT, decoded
    remote: str = ""
    diagnostic: str = ""
    transport: str = "smtp"  # whose codes stand in `diagnostic`
    tried: float | None = None
    until: float | None = None


@dataclass(slots=True)
class Report:
    """What the server `reporter` tells of one letter (RFC 3464 §2.2). `envid` is what ENVID said, decoded."""

    reporter: str
    fates: list[Fate] = field(default_factory=list)
    envid: str = ""
    arrived: float | None = None


def read_report(octets: Octets, root: Part | None = None) -> Report | None:
    """What a notice says, whoever wrote it: None when it is none. `root` is the tree of its parts, where that is known
    already. What breaks the rules is read as far as it has a meaning; everything is bounded."""
    root = root or parse(octets)
    if not root.type.startswith("multipart/"):  # OpenSMTPD says mixed
        return None
    part = next((child for child in root.children if child.type in STATUS_TYPES), None)
    if part is None:
        return None
    report = Report("")
    for block in _blocks(octets, part):
        _take_message(report, block)
        if len(report.fates) < RECIPIENTS and ("final-recipient" in block or "original-recipient" in block):
            report.fates.append(_fate(block))
    return report if report.fates else None


STATUS_TYPES: Final = ("message/delivery-status", "message/global-delivery-status")


def _blocks(octets: Octets, part: Part) -> Iterator[dict[str, str]]:
    """The groups of fields, parted by empty lines: name in small letters and value, of a repeated field the first."""
    text = bytearray()
    for piece in decoded(octets, part):
        text += piece[: STATUS_PART - len(text)]
        if len(text) >= STATUS_PART:
            break
    lines: list[bytes] = []
    for line in [*bytes(text).split(b"\n"), b""]:
        if line.strip():
            lines.append(line)
        elif lines:
            yield _fields(b"\n".join(lines) + b"\n")
            lines = []


def _fields(block: bytes) -> dict[str, str]:
    header = Header(block)
    found: dict[str, str] = {}
    for one in header:
        if one.name and one.name.lower() in _KNOWN:
            value = header.value(one)[:READ_VALUE].decode("utf-8", "replace").replace("\r", " ").replace("\n", " ")
            found.setdefault(one.name.lower(), value)
    return found


_KNOWN: Final = frozenset(
    (
        *("original-envelope-id", "reporting-mta", "arrival-date", "original-recipient", "final-recipient", "action"),
        *("status", "remote-mta", "diagnostic-code", "last-attempt-date", "will-retry-until"),
    )
)


def _take_message(report: Report, block: dict[str, str]) -> None:
    report.reporter = report.reporter or _after_type(block.get("reporting-mta", ""))
    report.envid = report.envid or block.get("original-envelope-id", "")
    if report.arrived is None:
        report.arrived = _moment(block.get("arrival-date", ""))


def _fate(block: dict[str, str]) -> Fate:
    original = block.get("original-recipient", "")
    status = _STATUS.search(block.get("status", ""))
    fate = Fate(
        _address(block.get("final-recipient", original)),
        _action(block.get("action", ""), status[0] if status else ""),
        status[0] if status else "",
        original,
        _after_type(block.get("remote-mta", "")),
        tried=_moment(block.get("last-attempt-date", "")),
        until=_moment(block.get("will-retry-until", "")),
    )
    kind, separator, text = block.get("diagnostic-code", "").partition(";")
    if separator and _ATOM.fullmatch(kind.strip()):
        fate.transport, fate.diagnostic = kind.strip().lower(), text.strip()
    else:
        fate.diagnostic = block.get("diagnostic-code", "")
    return fate


_STATUS: Final = re.compile(r"\b[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")
_ATOM: Final = re.compile(r"[!#-'*+\-/-9=?A-Z^-~]{1,40}")
_BY_CLASS: Final = {"5": "failed", "4": "delayed", "2": "delivered"}


def _action(value: str, status: str) -> str:
    """One of ACTIONS, or "": some add comments (RFC 822), OpenSMTPD says `error`, some say nothing."""
    word = value.strip().lower()
    if word.startswith(("error", "fail")):
        return "failed"
    return next((action for action in ACTIONS if word.startswith(action)), _BY_CLASS.get(status[:1], ""))


def _after_type(value: str) -> str:
    """`dns; mx.example.org` without the type, and without it too where there is none."""
    return (value.partition(";")[2] if ";" in value else value).strip(BLANKS)


def _address(value: str) -> str:
    """`rfc822; <anna@example.org>`: the address alone."""
    kind, separator, address = value.partition(";")
    address = (address if separator else kind).strip(BLANKS).removeprefix("<").removesuffix(">").strip(BLANKS)
    return unescape(address) if kind.strip().lower() == "utf-8" else address


def _moment(value: str) -> float | None:
    moment = read_moment(value.split())
    return None if moment is None or moment.seconds is None else float(moment.seconds)


_EMBEDDED: Final = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


def unescape(address: str) -> str:
    """The address of type utf-8 without its `\\x{HEX}` (RFC 6533 §3)."""

    def character(found: re.Match[str]) -> str:
        code = int(found[1], 16)
        return chr(code) if code <= 0x10FFFF and not 0xD800 <= code < 0xE000 else found[0]

    return _EMBEDDED.sub(character, address)
