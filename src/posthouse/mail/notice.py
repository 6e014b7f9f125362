"""Writing delivery status notifications: a report for programs inside a message for people (RFC 3464, RFC 6522).

With the fields that RFC 3461 §6 asks for. What is written is ASCII with lines of at most 998 octets whatever came in,
unless the address it goes to can be named with SMTPUTF8 only: then it is UTF-8 (RFC 6533).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from posthouse.mail.address import Address, AddressError
from posthouse.mail.compose import LINE, Part, encode_base64, encode_body, quoted_printable
from posthouse.mail.encoded import encode_text, fold
from posthouse.mail.header import Header
from posthouse.mail.limits import RETURNED_HEADER
from posthouse.mail.lines import whole_lines
from posthouse.mail.mailboxes import Mailbox, ascii_form, encode_mailboxes
from posthouse.mail.report import Fate, Report, unescape
from posthouse.mail.trace import date_time

VALUE: Final = 900  # octets of one field's value that are printed: with its name it fits a line, however it is folded
DIAGNOSTIC: Final = 1_000  # characters of a reply in all; RFC 5321 §4.5.3.1.5 has 512 octets for each of its lines


@dataclass(slots=True)
class Notice:
    """A report with all that makes it a message. `about` is the Message-ID of the letter it tells of, or "";
    `returned` that letter or its header; `whole` says which."""

    sender: Mailbox
    to: Address
    subject: str
    date: float
    message_id: str
    text: str
    report: Report
    about: str = ""
    returned: bytes = field(default=b"", repr=False)
    whole: bool = False

    @property
    def utf8(self) -> bool:
        """Whether it can travel with SMTPUTF8 only, because its recipient can be named with it only."""
        return not self.to.local.isascii()


def write_notice(notice: Notice, boundary: str) -> bytes:
    """The message. `boundary` is random text that nobody could have put into the letter."""
    mark = f"=_{boundary}"
    fields, body = encode_body(_part(notice.text.encode("utf-8", "replace")))
    octets = body if isinstance(body, bytes) else b"".join(body.content())
    parts = [fields + b"Content-Description: Notification\r\n\r\n" + octets, _status_part(notice)]
    if notice.returned:
        parts.append(_returned_part(notice))
    return b"".join(
        (
            _header(notice, mark).encode(),
            *(f"\r\n--{mark}\r\n".encode() + part for part in parts),
            f"\r\n--{mark}--\r\n".encode(),
        )
    )


def _header(notice: Notice, mark: str) -> str:
    """RFC 3834 §5 keeps robots from answering; RFC 3834 §3.1.5 leads back to the letter."""
    utf8 = notice.utf8
    lines = [
        f"Date: {date_time(notice.date)}",
        f"From: {notice.sender.encode(utf8=utf8)}",
        f"To: {encode_mailboxes([Mailbox('', notice.to)], utf8=utf8)}",
        f"Subject: {encode_text(notice.subject, 9, utf8=utf8)}",
        f"Message-ID: {notice.message_id}",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{mark}"',
    ]
    if _MESSAGE_ID.fullmatch(notice.about):
        lines[5:5] = [fold(f"{name}: {notice.about}", 0) for name in ("In-Reply-To", "References")]
    return "\r\n".join([*lines, ""])


_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,800}>")  # msg-id, RFC 5322 §3.6.4, without what it may not hold


def _status_part(notice: Notice) -> bytes:
    utf8 = notice.utf8
    blocks = [_about_message(notice.report, utf8=utf8)]
    blocks += [_about_recipient(fate, utf8=utf8) for fate in notice.report.fates]
    body = "\r\n".join("".join(f"{line}\r\n" for line in block) for block in blocks).encode()
    kind, encoding = ("delivery-status", "7bit") if body.isascii() else ("global-delivery-status", "8bit")
    return _part_header(f"message/{kind}", encoding, "Delivery report") + body


def _part_header(kind: str, encoding: str, description: str) -> bytes:
    fields = (
        f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\nContent-Description: {description}\r\n\r\n"
    )
    return fields.encode("ascii")


def _about_message(report: Report, *, utf8: bool) -> Iterator[str]:
    """RFC 3464 §2.2, in the order of its grammar."""
    if report.envid:
        yield _field("Original-Envelope-Id", report.envid, utf8=utf8)
    kind = "dns" if "." in report.reporter or report.reporter.startswith("[") else "x-local-hostname"
    yield _field("Reporting-MTA", f"{kind}; {report.reporter}", utf8=utf8)
    if report.arrived is not None:
        yield f"Arrival-Date: {date_time(report.arrived)}"


def _about_recipient(fate: Fate, *, utf8: bool) -> Iterator[str]:
    """RFC 3464 §2.3, in the order of its grammar."""
    if original := _original(fate.original, utf8=utf8):
        yield f"Original-Recipient: {original}"
    yield fold(f"Final-Recipient: {_typed(fate.recipient, utf8=utf8)}", 0)
    yield f"Action: {fate.action}"
    yield f"Status: {fate.status}"
    if fate.remote:
        yield _field("Remote-MTA", f"dns; {fate.remote}", utf8=utf8)
    if fate.diagnostic:
        yield _diagnostic(fate, utf8=utf8)
    if fate.tried is not None:
        yield f"Last-Attempt-Date: {date_time(fate.tried)}"
    if fate.until is not None:
        yield f"Will-Retry-Until: {date_time(fate.until)}"


def _field(name: str, value: str, *, utf8: bool) -> str:
    return fold(f"{name}: {_printable(value, utf8=utf8)}", 0)


def _printable(value: str, *, utf8: bool) -> str:
    """A value that holds no control and no line end, and in ASCII nothing else; cut where it is too long."""
    value = value.replace("\t", " ").strip()[:VALUE]
    if value.isascii() and value.isprintable():
        return value
    kept = "".join(c if c.isprintable() and (utf8 or c.isascii()) else "?" for c in value)
    return kept.encode()[:VALUE].decode("utf-8", "ignore")


def _diagnostic(fate: Fate, *, utf8: bool) -> str:
    """RFC 3461 §9.2: the lines of a reply one below the other; what is beyond ASCII only where UTF-8 may stand."""
    cleaned = (" ".join(_printable(line, utf8=utf8).split()) for line in fate.diagnostic[:DIAGNOSTIC].splitlines())
    text = "\r\n ".join(fold(line, 30) for line in cleaned if line)
    return f"Diagnostic-Code: {fate.transport}; {text}"


def _typed(address: str, *, utf8: bool) -> str:
    """Address type and address, in the form that fits the transport (RFC 6533 §3)."""
    try:
        address = str(ascii_form(Address.parse(address)))
    except AddressError:  # "postmaster" has no domain
        address = _printable(address, utf8=utf8)
    if address.isascii():
        return f"rfc822; {address}"
    return f"utf-8; {_escape(address, utf8=utf8)}"


def _original(original: str, *, utf8: bool) -> str:
    """The value of Original-Recipient; "" for what no line could hold, and what then is no address either."""
    kind, separator, address = original.partition(";")
    if not separator:
        return ""
    if kind.lower() == "utf-8":
        address = unescape(address)
    if not (address.isascii() and address.isprintable()):
        kind, address = "utf-8", _escape(address, utf8=utf8)
    value = f"{_printable(kind, utf8=False)};{address}"
    return value if len(value.encode()) <= VALUE else ""


_NOT_QCHAR: Final = re.compile(r"[^!-*,-<>-\[\]-~]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(address: str, *, utf8: bool) -> str:
    """utf-8-address, or in ASCII utf-8-addr-xtext (RFC 6533 §3): every other character as \\x{HEX}."""
    return (_CONTROL if utf8 else _NOT_QCHAR).sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address)


# What comes back of the letter


def header_part(octets: bytes) -> bytes:
    """The header of a letter as far as a notice gives it back: without the empty line, in whole lines."""
    end = Header(octets, limit=RETURNED_HEADER).body
    if end == RETURNED_HEADER < len(octets):
        end = octets.rfind(b"\n", 0, end) + 1 or end
    header = octets[:end].rstrip(b"\r\n")
    return whole_lines(header + b"\r\n") if header else b""


def _returned_part(notice: Notice) -> bytes:
    """The third part. A letter in message/rfc822 can have no transfer encoding (RFC 2046 §5.2.1); message/global can
    (RFC 6532 §3.7), and holds any letter without loss. A header is encoded as RFC 6533 §4.5 and RFC 6522 §4 say."""
    octets = notice.returned
    plain, eight_bit = _passes(octets)
    if notice.whole:
        description = "Returned message"
        if plain:
            return _part_header("message/rfc822", "7bit", description) + whole_lines(octets)
        if eight_bit and notice.utf8:
            return _part_header("message/global", "8bit", description) + whole_lines(octets)
        return _part_header("message/global", "base64", description) + b"".join(encode_base64(_part(octets)).content())
    description = "Header of the message"
    if plain:
        return _part_header("text/rfc822-headers", "7bit", description) + octets
    if eight_bit and notice.utf8:
        return _part_header("message/global-headers", "8bit", description) + octets
    kind = "message/global-headers" if _is_utf8(octets) else "text/rfc822-headers"
    return _part_header(kind, "quoted-printable", description) + quoted_printable(octets)


def _passes(octets: bytes) -> tuple[bool, bool]:
    """Whether octets may stand in a message as they are: in one of ASCII, in one of UTF-8 (RFC 5322 §2.1.1)."""
    lines = max(map(len, whole_lines(octets).split(b"\r\n"))) <= LINE and b"\0" not in octets
    return lines and octets.isascii(), lines and _is_utf8(octets)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _part(octets: bytes) -> Part:
    return Part(len(octets), lambda: io.BytesIO(octets))
