"""Whose rights a backup is made with: root reads as the owner of the mail and writes as the owner of the backups.

So no file changes hands, and whoever owns one of the two directories cannot have root read or write elsewhere by a
symbolic link in it. Without root's rights nothing here does anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(slots=True, frozen=True)
class Identity:
    """A user and a group of this system, by number and by name ("" where the system knows no name)."""

    uid: int
    gid: int
    user: str = ""
    group: str = ""


OURSELVES: Final = Identity(-1, -1)
"""Whoever runs this; also where the system knows no owners."""


def is_root() -> bool:
    """Whether this process can take on another identity."""
    return sys.platform != "win32" and os.getuid() == 0


def owner_of(path: Path) -> Identity:
    """Who owns a path that exists."""
    if sys.platform == "win32":
        return OURSELVES
    import grp
    import pwd

    status = path.stat()
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = ""
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = ""
    return Identity(status.st_uid, status.st_gid, user, group)


def keeper_of(folder: Path) -> Identity:
    """Who works on a backup directory: its owner, or whoever makes it."""
    return owner_of(folder) if folder.is_dir() else OURSELVES


def known_here(identity: Identity) -> Identity | None:
    """The user of this name on this system, whose number may be another one; None when there is none."""
    if sys.platform == "win32" or not identity.user:
        return None
    import grp
    import pwd

    try:
        entry = pwd.getpwnam(identity.user)
    except KeyError:
        return None
    try:
        gid = grp.getgrnam(identity.group).gr_gid
    except KeyError:
        gid = entry.pw_gid
    return Identity(entry.pw_uid, gid, identity.user, identity.group)


@contextmanager
def acting_as(identity: Identity) -> Iterator[None]:
    """Opens and makes files with this user's rights for the length of the block, which imports nothing and starts no
    thread: the user need not be able to read where Python is installed, and the rights are the whole process's."""
    if sys.platform == "win32" or not is_root() or identity.uid in (-1, os.geteuid()):
        yield
        return
    before = os.geteuid(), os.getegid(), os.getgroups()
    _assume(identity.uid, identity.gid, [identity.gid])
    try:
        yield
    finally:
        _assume(*before)


def _assume(uid: int, gid: int, groups: Sequence[int]) -> None:
    if sys.platform != "win32":
        os.seteuid(0)
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)
