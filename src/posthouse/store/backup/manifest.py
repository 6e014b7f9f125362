"""What a backup directory says of each backup: the manifest, a small file, and the listing of its objects.

The listing is an object of the pool itself, one JSON array on a line: two backups between which nothing changed have
the same one.
"""

from __future__ import annotations

import hashlib
import re
import sys
from typing import Final

import msgspec

from posthouse.store.backup.objects import NAME

FORM: Final = 1
"""Of everything in a backup directory."""

LARGEST: Final = 1_048_576  # octets of a manifest

DATABASE: Final = "database"  # a piece of the database, in order
CONTENT: Final = "content"  # a large letter
FILE: Final = "file"  # a part of anything else in the data directory, in order

_CONTENT_NAME: Final = re.compile(r"[0-9a-f]{32}")


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One object of a backup. `path` is the name of a content, or where the file lies in the data directory."""

    kind: str
    object: str
    size: int
    path: str = ""
    mode: int = 0o600

    def sound(self) -> bool:
        """Whether it can be what we wrote: nothing in a listing may lead out of the directory that is restored."""
        if not NAME.fullmatch(self.object) or self.size < 0:
            return False
        if self.kind == CONTENT:
            return bool(_CONTENT_NAME.fullmatch(self.path))
        return self.kind == DATABASE or (self.kind == FILE and is_inside(self.path))


def is_inside(path: str) -> bool:
    """Whether a path leads to something within the directory that it begins in, on this system too."""
    parts = path.split("/")
    if not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        return False
    return sys.platform != "win32" or not any(mark in path for mark in ":\\")


class Owner(msgspec.Struct, array_like=True, frozen=True):
    """Whose the data directory was."""

    user: str = ""
    group: str = ""
    uid: int = -1
    gid: int = -1


class Manifest(msgspec.Struct):
    """One backup."""

    form: int
    name: str
    number: int  # grows by one with each backup, whatever the clock does
    begun: float  # wall time: what was answered before is in it
    ended: float
    posthouse: str  # the version that made it
    schema: int  # the form of its database
    fingerprint: str  # of what the database holds
    listing: str
    listing_size: int
    objects: int
    size: int  # octets of all its objects
    new: int  # octets that it added to the pool
    letters: int
    accounts: int
    queued: int
    owner: Owner = Owner()
    missing: list[str] = []  # contents whose files were lost before: the letters named are not whole


_decoder: Final = msgspec.json.Decoder(Manifest)
_encoder: Final = msgspec.json.Encoder()
_entries: Final = msgspec.json.Decoder(Entry)


def encode(manifest: Manifest) -> bytes:
    """The manifest as its file holds it: JSON, and its checksum on the next line."""
    octets = _encoder.encode(manifest)
    return octets + b"\n" + hashlib.sha256(octets).hexdigest().encode() + b"\n"


def decode(octets: bytes) -> Manifest | None:
    """What `encode` made, None when it was damaged since."""
    head, _, checksum = octets.partition(b"\n")
    if checksum.strip() != hashlib.sha256(head).hexdigest().encode():
        return None
    try:
        return _decoder.decode(head)
    except msgspec.DecodeError:
        return None


def encode_entry(entry: Entry) -> bytes:
    """A line of a listing."""
    return _encoder.encode(entry) + b"\n"


def decode_entry(line: bytes) -> Entry | None:
    """A line of a listing, None when it cannot be one."""
    try:
        entry = _entries.decode(line)
    except msgspec.DecodeError:
        return None
    return entry if entry.sound() else None
