"""What every engine shares: the errors, sizes and small encodings of the store."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final

import msgspec

from posthouse.mail.address import Address
from posthouse.mail.budget import Budget
from posthouse.mail.envelope import Envelope
from posthouse.ports.system import Random

SMALL: Final = 131_072
"""Octets up to which a content lies in its row; a larger one has a file (measured: docs/adr/0011)."""

CHUNK: Final = 262_144
"""Octets that are written or read at once when a content lies in a file."""

INLINE: Final = 1_048_576
"""Octets of contents that one fetch brings along at once."""

HEAD: Final = 1024
"""Octets of a draft's beginning that are kept at hand."""

RETRIEVED: Final = 1
"""Bit of a maildrop row: POP3 retrieved the message in an earlier session."""

EIGHT_BIT: Final = 2
"""Bit of a maildrop row: an octet over 127 stands in the prefix or the content's header."""


_encoder: Final = msgspec.json.Encoder()
QUEUE_CHANGES: Final = "queue.changes"
"""The file in the data directory whose octets change when a command changed the queue."""


TALLY: Final = "commits"
"""The file in the data directory that counts the commits outside the database."""


class StoreError(Exception):
    """A store cannot be opened. The text says what happened, what it means and what to do."""


class StoreInUse(StoreError):
    """Another server works on this data directory."""


class StoreTooNew(StoreError):
    """A newer Posthouse wrote this store."""


@dataclass(slots=True)
class Options:
    """How a store behaves; the defaults are what a server wants."""

    message_limit: int = 52_428_800  # the largest message; 1.5 times as much disk must be free for a new one
    small: int = SMALL
    jobs: int = 4096  # waiting jobs at most, beyond them Fault.BUSY
    waiting_octets: int = 67_108_864  # contents waiting in memory at most
    busy_timeout: float = 10.0  # seconds that a lock of another process is waited for
    reserve: int = 16_777_216  # octets kept aside so that a full disk can still delete
    # What all drafts hold in memory; no setting of the store's, since it is shared with their envelopes.
    budget: Budget = field(default_factory=lambda: Budget(134_217_728), compare=False)
    undelete: float = 604_800.0  # seconds for which a deleted letter can be brought back, 0: it is gone at once


class UniqueIds:
    """Makes unique-ids: 64 random bits each, as 16 hexadecimal digits (RFC 1939 §7)."""

    __slots__ = ("_pool", "_random", "_used")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._pool = ""
        self._used = 0

    def next(self) -> str:
        """A unique-id that was never given before and never will be again."""
        used = self._used
        if used == len(self._pool):
            self._pool, used = self._random.octets(2048).hex(), 0
        self._used = used + 16
        return self._pool[used : used + 16]


class _Kept(msgspec.Struct, omit_defaults=True):
    """What is kept of an envelope."""

    sender: str
    size: int | None = None
    body: str | None = None
    ret: str | None = None
    envid: str | None = None
    auth: str | None = None
    smtputf8: bool = False


_decoder: Final = msgspec.json.Decoder(_Kept)


def encode_envelope(envelope: Envelope | None) -> str:
    """The letter's envelope as JSON, without its recipients: those stand with their deliveries."""
    if envelope is None:
        return "{}"
    kept = _Kept(
        "" if envelope.sender is None else str(envelope.sender),
        envelope.size,
        envelope.body,
        envelope.ret,
        envelope.envid,
        envelope.auth,
        envelope.smtputf8,
    )
    return _encoder.encode(kept).decode()


def decode_envelope(text: str) -> Envelope:
    """The envelope that `encode_envelope` wrote, without recipients."""
    kept = _Kept("") if text == "{}" else _decoder.decode(text)
    sender = Address.parse(kept.sender) if kept.sender else None
    return Envelope(
        sender,
        size=kept.size,
        body=kept.body,
        smtputf8=kept.smtputf8,
        ret=kept.ret,
        envid=kept.envid,
        auth=kept.auth,
    )


def end_line(tail: bytes) -> bytes:
    """What a content that ends with `tail` lacks to end with a whole line; an empty one lacks nothing."""
    return b"" if not tail or tail.endswith(b"\r\n") else b"\r\n"


def header_of(octets: bytes | bytearray) -> bytes | None:
    """The header with the empty line that ends it, or None when that line is not among these octets."""
    if octets[:2] == b"\r\n":
        return b"\r\n"
    end = octets.find(b"\r\n\r\n")
    return None if end < 0 else bytes(octets[: end + 4])


ON_WINDOWS: Final = sys.platform == "win32"
