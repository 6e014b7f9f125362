"""Letters of every awkward kind, and the exact comparison of what came out with what went in."""

from __future__ import annotations

import base64
import functools
import random
import re
from collections.abc import Callable

KIB = 1024
MIB = 1024 * 1024

_HEADER = (
    b"From: Test <test@x.mail>\r\n"
    b"To: Test Two <test2@x.mail>\r\n"
    b"Subject: a letter\r\n"
    b"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n"
    b"Message-ID: <letter-1@x.mail>\r\n"
    b"MIME-Version: 1.0\r\n"
)
_PLAIN = b"Content-Type: text/plain; charset=us-ascii\r\n\r\n"
_EIGHT_BIT = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"


def _filled(size: int) -> bytes:
    """A plain letter of exactly this many octets; its lines do not repeat, so no octet can change unnoticed."""
    head = _HEADER + _PLAIN
    room = size - len(head)
    text = base64.b64encode(random.Random(size).randbytes(room * 3 // 4 + 3))
    width = 74
    lines = [text[start : start + width] for start in range(0, room, width + 2)]
    body = b"\r\n".join(lines)[: room - 2].rstrip(b"\r\n")
    return head + body + b"=" * (room - 2 - len(body)) + b"\r\n"


def _dots() -> bytes:
    lines = [b".", b"..", b"...", b".x", b". ", b"x.", b"", b".", b"", b"..\t", b"." * 200, b"RSET", b".QUIT", b"."]
    return _HEADER + _PLAIN + b"\r\n".join(lines) + b"\r\n"


def _eight_bit() -> bytes:
    latin = bytes(range(0xA0, 0x100))
    return _HEADER + _EIGHT_BIT + "Привет, мир. Grüße. 你好.\r\n".encode() + latin + b"\r\nend\r\n"


def all_octets() -> bytes:
    """What the attachment of `attachment` holds: every octet value, in every neighbourhood of CR, LF, NUL and dot."""
    pairs = bytes(octet for first in range(256) for octet in (first, 0x0D, 0x0A, first, 0x2E, 0x00))
    return bytes(range(256)) * 4 + pairs


def _attachment() -> bytes:
    encoded = base64.encodebytes(all_octets()).replace(b"\n", b"\r\n")
    return (
        _HEADER
        + b'Content-Type: multipart/mixed; boundary="=_b"\r\n\r\n--=_b\r\n'
        + b"Content-Type: text/plain\r\n\r\nHello\r\n--=_b\r\n"
        + b'Content-Type: application/octet-stream; name="all.bin"\r\nContent-Transfer-Encoding: base64\r\n'
        + b'Content-Disposition: attachment; filename="all.bin"\r\n\r\n'
        + encoded
        + b"--=_b--\r\n"
    )


def _raw_octets() -> bytes:
    """Every octet value but NUL, CR and LF stands in a line as it is (RFC 5321 §2.4 forbids only these)."""
    allowed = bytes(octet for octet in range(256) if octet not in b"\0\r\n")
    return _HEADER + _EIGHT_BIT + b"".join(b"x" + allowed + b"\r\n" for _ in range(8))


def _longest_lines() -> bytes:
    """Lines of 998 octets and CRLF, RFC 5322 §2.1.1, also of dots alone."""
    return _HEADER + _PLAIN + b"".join(bytes([octet]) * 998 + b"\r\n" for octet in b"a.z ~")


_KINDS: dict[str, Callable[[], bytes]] = {
    "0 B": lambda: b"",
    "1 KiB": lambda: _filled(KIB),
    "dots": _dots,
    "8-bit": _eight_bit,
    "raw octets": _raw_octets,
    "attachment": _attachment,
    "998 octets": _longest_lines,
    "10 MiB": lambda: _filled(10 * MIB),
    "50 MiB": lambda: _filled(50 * MIB),
}

SMALL = ["1 KiB", "dots", "8-bit", "raw octets", "attachment", "998 octets"]
KINDS = ["0 B", *SMALL, "10 MiB", "50 MiB"]


@functools.lru_cache(maxsize=4)
def letter(kind: str) -> bytes:
    """The letter of this name, always the same octets, lines ended by CRLF."""
    made = _KINDS[kind]()
    assert kind not in ("1 KiB", "10 MiB", "50 MiB") or len(made) == int(kind.split()[0]) * {
        "KiB": KIB,
        "MiB": MIB,
    }.get(kind.split()[1], 1)
    return made


def with_lf(octets: bytes) -> bytes:
    """The same lines as a Unix file has them."""
    return octets.replace(b"\r\n", b"\n")


def as_stored(sent: bytes) -> bytes:
    """What follows our header fields in the stored message: the octets that were sent, their last line closed by
    CRLF, and parted from our fields by an empty line where they begin with neither a header field nor such a line."""
    content = sent if not sent or sent.endswith(b"\r\n") else sent + b"\r\n"
    return content if re.match(rb"[!-9;-~]+[ \t]*:|\r\n", content) else b"\r\n" + content


_FIELD = rb"%s: [^\r\n]+\r\n(?:[ \t][^\r\n]+\r\n)*"
_PREFIX = re.compile(b"(?:" + _FIELD % b"Return-Path" + b")(?:" + _FIELD % b"Received" + b")")


def check_same(collected: bytes, sent: bytes) -> None:
    """Fails unless `collected` is exactly our Return-Path and Received and then the octets that were sent."""
    expected = as_stored(sent)
    prefix = collected[: len(collected) - len(expected)]
    if not collected.endswith(expected):
        raise AssertionError(_difference(collected, expected))
    assert _PREFIX.fullmatch(prefix), f"before the letter stands something else than our two fields: {prefix!r}"


def check_same_lines(collected: bytes, sent: bytes) -> None:
    """The same for a program that writes files with bare LF, as Unix has them: its lines are compared."""
    assert b"\r" not in collected
    check_same(collected.replace(b"\n", b"\r\n"), sent)


def _difference(got: bytes, expected: bytes) -> str:
    """Where two long texts part, counted from their ends, with what stands around it."""
    at = next((n for n, (a, b) in enumerate(zip(reversed(got), reversed(expected), strict=False)) if a != b), None)
    at = min(len(got), len(expected)) if at is None else at
    return (
        f"the letter changed on its way ({len(got)} octets came out, {len(expected)} were expected at their end); "
        f"{at} octets before the end stands {got[-at - 40 : len(got) - at + 40]!r} "
        f"instead of {expected[-at - 40 : len(expected) - at + 40]!r}"
    )
