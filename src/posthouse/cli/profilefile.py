"""Adding an account to the profile file: at its end, never touching what stands there."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posthouse.cli.account import load_profiles
from posthouse.cli.exits import Exit, Problem
from posthouse.config.load import ConfigError
from posthouse.config.profiles import ACCOUNT_NAME, Profiles, parse
from posthouse.net.files import sync_directory


def read_existing(path: Path) -> Profiles:
    """The accounts that are there already; none where there is no file. Raises Problem."""
    return load_profiles(path) if path.exists() else Profiles()


def free_name(wanted: str, address: str, profiles: Profiles) -> str:
    """The name of a new account: what was `wanted`, else made of the address. Raises Problem when it is taken."""
    if wanted:
        if not ACCOUNT_NAME.fullmatch(wanted):
            raise Problem(Exit.USAGE, f"{wanted!r} is no name for an account: letters, digits and . _ @ + - make one.")
        if wanted in profiles.accounts:
            raise Problem(Exit.CANNOT_CREATE, f"There is an account {wanted} already: take another name with -A.")
        return wanted
    local = re.sub(r"[^A-Za-z0-9_-]", "", address.rpartition("@")[0]) or "account"
    domain = re.sub(r"[^A-Za-z0-9_-]", "", address.rpartition("@")[2].partition(".")[0])
    for name in (local, f"{local}-{domain}", *(f"{local}-{number}" for number in range(2, 1000))):
        if name not in profiles.accounts and ACCOUNT_NAME.fullmatch(name):
            return name
    raise Problem(Exit.CANNOT_CREATE, "All names for this account are taken: give one with -A.")


def block(name: str, values: Mapping[str, Any]) -> str:
    """The lines of an account in TOML."""
    head = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)
    width = max(map(len, values))
    return f"[account.{head}]\n" + "".join(f"{key:<{width}} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    """A basic string; whatever could end it or is not printable by its number. Raises Problem."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise Problem(Exit.DATA, "What is to be written into the profile holds octets that are no text in UTF-8.")
    pieces = (f"\\{c}" if c in '"\\' else (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text)
    return f'"{"".join(pieces)}"'


def append(path: Path, name: str, lines: str, *, secret: bool) -> None:
    """Adds the account; a new file also gets its `default`. On the disk when this returns, and else as it was. Raises
    Problem."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            with contextlib.suppress(ImportError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)  # two setups at once must not take the same name
            before = file.read()
            _check(path, before, lines, os.fstat(descriptor).st_mode, secret=secret)
            _write(descriptor, before, _joint(before, name) + lines.encode("utf-8"))
        if not before and os.name == "posix":
            sync_directory(path.parent)
    except OSError as error:
        text = f"{path} cannot be written: {error.strerror or error}. It is as it was."
        raise Problem(Exit.CANNOT_CREATE, text, stage="write") from error


def _joint(before: bytes, name: str) -> bytes:
    """What stands between the old end of the file and the account."""
    if not before:
        return f"default = {_text(name)}\n\n".encode()
    return b"\n" if before.endswith(b"\n") else b"\n\n"


def _check(path: Path, before: bytes, lines: str, mode: int, *, secret: bool) -> None:
    """The file must be good with the account, and as private as it must be then."""
    if secret and before and sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{path} may be read by others, so no password is written into it: run chmod 600 {path}"
        raise Problem(Exit.CONFIG, text, stage="write")
    try:
        parse(f"{before.decode('utf-8-sig')}\n\n{lines}", str(path))
    except (ConfigError, UnicodeDecodeError) as error:
        text = f"{path} would not be good any more with this account, so it is as it was:\n{error}"
        raise Problem(Exit.CONFIG, text, stage="write") from error


def _write(descriptor: int, before: bytes, octets: bytes) -> None:
    try:
        while octets:
            octets = octets[os.write(descriptor, octets) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, len(before))
        raise
