"""Passwords that are kept elsewhere: printed by a program, in the keyring of the system, in a file.

What a program prints and a file holds goes nowhere but into the session: not into an error, a log or a transcript.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from posthouse.cli.exits import Exit, Problem

SERVICE: Final = "posthouse"  # under which passwords stand in the keyring
PATIENCE: Final = 60.0  # seconds: somebody may have to unlock a safe
LONGEST: Final = 4096  # octets of a password with what follows it


def from_command(command: Sequence[str], account: str, patience: float = PATIENCE) -> str:
    """The first line that a program prints. It runs without a shell; its standard error is the terminal's, so that it
    can ask for what opens its safe, and it cannot take our standard input. Raises Problem."""
    what = f"The password command of the account {account} ({command[0]})"
    try:
        process = subprocess.Popen(  # noqa: S603 - the owner of the profile names the program
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
    except OSError as error:
        raise Problem(Exit.CONFIG, f"{what} cannot be started: {error.strerror or error}.", stage="password") from error
    octets = b""

    def read() -> None:
        nonlocal octets
        assert process.stdout is not None
        with process.stdout as output:
            octets = output.read(LONGEST + 1)  # no more: a program that babbles is cut off

    # Something that the program started may hold its output open after it was killed: nobody waits for that.
    reader = threading.Thread(target=read, name="password", daemon=True)
    reader.start()
    reader.join(patience)
    if reader.is_alive():
        process.kill()
        process.wait()
        raise Problem(Exit.TEMPORARY, f"{what} did not end within {patience:g} s.", stage="password")
    code = _end(process, patience)
    if len(octets) > LONGEST:
        raise Problem(Exit.CONFIG, f"{what} prints more than a password.", stage="password")
    if code:
        raise Problem(Exit.NO_PERMISSION, f"{what} ended with {code}: run it yourself to see why.", stage="password")
    return _first_line(octets, what)


def _end(process: subprocess.Popen[bytes], patience: float) -> int:
    """The exit code of a program that prints nothing more."""
    try:
        return process.wait(min(patience, 5.0))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def from_file(path: Path) -> str:
    """The first line of a file that only its owner may read. Raises Problem."""
    what = f"The password file {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            octets = file.read(LONGEST)
    except OSError as error:
        raise Problem(Exit.NO_INPUT, f"{what} cannot be read: {error.strerror}.", stage="password") from error
    if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Problem(Exit.CONFIG, f"{what} may be read by others: run chmod 600 {path}", stage="password")
    return _first_line(octets, what)


def _first_line(octets: bytes, what: str) -> str:
    line = octets.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise Problem(Exit.NO_PERMISSION, f"{what} gives no password.", stage="password")
    return line.decode("utf-8", "surrogateescape")


def from_keyring(account: str) -> str:
    """The password of an account in the keyring of the system. Raises Problem."""
    keyring = load_keyring()
    try:
        password = keyring.get_password(SERVICE, account)
    except keyring.errors.KeyringError as error:
        raise _closed(error) from error
    if not password:
        text = f"The keyring has no password for the account {account}: run keyring set {SERVICE} {account}"
        raise Problem(Exit.NO_PERMISSION, text, stage="password")
    return str(password)


def to_keyring(account: str, password: str) -> None:
    """Puts a password into the keyring. Raises Problem."""
    keyring = load_keyring()
    try:
        keyring.set_password(SERVICE, account, password)
    except keyring.errors.KeyringError as error:
        raise _closed(error) from error


def load_keyring() -> Any:
    """The library, with its errors. Raises Problem where it is not installed."""
    try:
        import keyring
        import keyring.errors
    except ImportError as error:
        text = "The library `keyring` is not installed: run pip install 'posthouse[keyring]', or take another source."
        raise Problem(Exit.CONFIG, text, stage="password") from error
    return keyring


def _closed(error: Exception) -> Problem:
    reason = type(error).__name__  # its text is the library's, and may hold anything
    text = f"The keyring of this system cannot be used ({reason}). Is there one, and is it unlocked?"
    return Problem(Exit.NO_PERMISSION, text, stage="password")
