"""Letters for filling mailboxes before a reading workload."""

from __future__ import annotations

import random
import string
from functools import cache

from bench.generator import user

_ALPHABET = (string.ascii_letters + string.digits + "+/").encode()


@cache
def _body(length: int) -> bytes:
    """Exactly `length` octets of text lines with CRLF; the same for every letter of a size."""
    chance = random.Random(length)
    lines = []
    left = length
    while left > 0:
        here = left if left <= 76 else min(74, left - 2)
        lines.append(bytes(chance.choices(_ALPHABET, k=max(0, here - 2))) + b"\r\n")
        left -= here
    return b"".join(lines)


def letter(mailbox: int, serial: int, size: int) -> bytes:
    """A letter of exactly `size` octets, CRLF line ends."""
    header = (
        f"From: Bench <bench@example.org>\r\nTo: <{user(mailbox)}>\r\nSubject: bench {serial:010d}\r\n"
        f"Date: Mon, 01 Jan 2024 12:00:00 +0000\r\nMessage-ID: <{mailbox:05d}.{serial:010d}@bench.example>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
    ).encode("ascii")
    return header + _body(size - len(header))
