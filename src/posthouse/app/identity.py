"""Whose rights the server has: root's only for as long as it needs to become somebody else.

A server that root starts with `server.user` set takes on that user's identity before it opens anything: the data
directory, the log and every port belong to the user from the first moment. Of root's rights it keeps one, binding
ports below 1024 (CAP_NET_BIND_SERVICE), so that a reload can open port 25 as well; nothing can give it the others
back (capabilities(7), no_new_privs). Where the kernel knows no capabilities, ports below 1024 are what the system
allows the user.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_KEEPCAPS: Final = 8  # PR_SET_KEEPCAPS
_NO_NEW_PRIVS: Final = 38  # PR_SET_NO_NEW_PRIVS
_CAPABILITY_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words a set
_NET_BIND_SERVICE: Final = 1 << 10


class IdentityError(Exception):
    """The server cannot become that user. The text says why and what to do."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def is_root() -> bool:
    """Whether this process has all rights."""
    return sys.platform != "win32" and os.geteuid() == 0


def become(user: str, data: Path) -> None:
    """Takes on a user's identity for good, with the groups that user has. `data` is made for the user when it is not
    there yet. Does nothing when we are that user already.

    To be called before any thread is started: capabilities belong to threads. Raises IdentityError.
    """
    if sys.platform == "win32":
        raise IdentityError("The setting server.user means nothing on Windows: start the service as that user")
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise IdentityError(
            f"server.user: there is no user {user!r} here. Make one, for example: "
            f"useradd --system --home-dir {data} --shell /usr/sbin/nologin {user}"
        ) from error
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        raise IdentityError(f"server.user: only root can become {user!r}. Start Posthouse as root or as {user!r}")
    if entry.pw_uid == 0:
        return
    _own(data, entry.pw_uid, entry.pw_gid, user)
    os.environ["HOME"] = entry.pw_dir
    require_readable_program(user)
    os.initgroups(entry.pw_name, entry.pw_gid)
    _leave_root(entry.pw_uid, entry.pw_gid)
    if os.getuid() == 0 or os.geteuid() == 0:
        raise IdentityError(f"server.user: the system did not let us become {user!r}")


def require_readable_program(user: str) -> None:
    """Raises IdentityError when a user of this system, as whom root asks, cannot read this program: much of it is
    loaded only when it is needed."""
    if sys.platform == "win32":
        return
    import pwd

    entry = pwd.getpwnam(user)
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user, entry.pw_gid))
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        for place in (Path(__file__).resolve().parents[1], Path(sys.prefix), Path(sys.base_prefix)):
            with os.scandir(place):
                pass
    except OSError as error:
        raise IdentityError(
            f"{user!r} cannot read the program in {error.filename}. Install Posthouse, and the Python it runs on, "
            "where that user can, for example in /opt/posthouse"
        ) from error
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _own(data: Path, uid: int, gid: int, user: str) -> None:
    """The data directory is the user's: a new one is made so, an old one of somebody else's is refused."""
    try:
        if not data.exists():
            data.mkdir(mode=0o700, parents=True)
            os.chown(data, uid, gid)
        owner = data.stat().st_uid
    except OSError as error:
        raise IdentityError(f"The data directory {data} cannot be made for {user!r}: {error.strerror}") from error
    if owner != uid:
        raise IdentityError(
            f"The data directory {data} does not belong to {user!r}, who is to serve it. "
            f"Give it to that user: chown -R {user} {data}"
        )


def _leave_root(uid: int, gid: int) -> None:
    kernel = _kernel()
    if kernel is not None:
        kernel.prctl(_KEEPCAPS, 1, 0, 0, 0)
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o077)
    if kernel is not None:
        sets = (_Sets * 2)(_Sets(_NET_BIND_SERVICE, _NET_BIND_SERVICE, 0), _Sets(0, 0, 0))
        if kernel.capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), sets) != 0:
            # Root without that right (a container): then the ports below 1024 are closed to the user.
            none = (_Sets * 2)(_Sets(0, 0, 0), _Sets(0, 0, 0))
            kernel.capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), none)
        kernel.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)


def _kernel() -> ctypes.CDLL | None:
    """The C library where it can speak of capabilities (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "capset") and hasattr(library, "prctl") else None
