"""A Dovecot of the tests' own: POP3 for one account, with the mechanisms that it is given, or LMTP. It needs root, as
its login processes give theirs up."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.system.programs import find_program, leave_out
from tests.system.server import PASSWORD, wait_for

USER = "anna@x.mail"


@contextlib.contextmanager
def dovecot(mechanisms: str, more: str = "") -> Iterator[int]:
    """The port of a Dovecot that runs while the block does; without root the test is named as left out. `more` stands
    at the end of its configuration."""
    with dovecot_with_mail(mechanisms, more) as (port, _):
        yield port


@contextlib.contextmanager
def dovecot_with_mail(mechanisms: str, more: str = "") -> Iterator[tuple[int, Path]]:
    """The same, with its Maildir: `put_letters` puts mail there."""
    with _running(lambda folder, port: _configuration(folder, port, mechanisms) + more, b"+OK") as (port, folder):
        yield port, folder / "mail"


@contextlib.contextmanager
def dovecot_lmtp() -> Iterator[tuple[int, Path]]:
    """The same with LMTP, and the Maildir of its account."""
    with _running(_lmtp_configuration, b"220") as (port, folder):
        yield port, folder / "mail"


@contextlib.contextmanager
def _running(configuration: Callable[[Path, int], str], greeting: bytes) -> Iterator[tuple[int, Path]]:
    if os.geteuid() != 0:
        leave_out("Dovecot needs root to start its login processes")
    program = find_program("dovecot")
    owner = pwd.getpwnam("nobody")
    # Not in pytest's folder, which other users cannot enter.
    with tempfile.TemporaryDirectory(prefix="posthouse-dovecot-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mail").mkdir()
        os.chown(folder / "mail", owner.pw_uid, owner.pw_gid)
        (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}:{owner.pw_uid}:{owner.pw_gid}::{folder}/mail::\n")
        port = _free_port()
        (folder / "dovecot.conf").write_text(configuration(folder, port))
        process = subprocess.Popen([program, "-F", "-c", str(folder / "dovecot.conf")], stdin=subprocess.DEVNULL)
        try:
            wait_for(
                lambda: _answers(port, greeting),
                lambda: (folder / "log").read_text() if (folder / "log").exists() else "",
            )
            yield port, folder
        finally:
            process.terminate()
            process.wait(20)


def put_letters(maildir: Path, letters: Iterable[bytes]) -> None:
    """Delivers letters, as an MDA of Dovecot's does."""
    owner = maildir.stat()
    for name in ("tmp", "new", "cur"):
        (maildir / name).mkdir(exist_ok=True)
        os.chown(maildir / name, owner.st_uid, owner.st_gid)
    for letter in letters:
        name = f"{next(_MOMENTS)}.R{secrets.token_hex(8)}.x"
        (maildir / "tmp" / name).write_bytes(letter.replace(b"\r\n", b"\n"))
        os.chown(maildir / "tmp" / name, owner.st_uid, owner.st_gid)
        (maildir / "tmp" / name).rename(maildir / "new" / name)


_MOMENTS = itertools.count(1_700_000_000)  # Dovecot's order is that of the names


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(port: int, greeting: bytes) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        return connection.recv(3) == greeting
    return False


def _lmtp_configuration(folder: Path, port: int) -> str:
    listener = f"service lmtp {{\n  inet_listener lmtp {{\n    address = 127.0.0.1\n    port = {port}\n  }}\n}}\n"
    return _common(folder, "lmtp", "plain") + listener


def _configuration(folder: Path, port: int, mechanisms: str) -> str:
    return (
        _common(folder, "pop3", mechanisms)
        + f"""
service pop3-login {{
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
"""
    )


def _common(folder: Path, protocol: str, mechanisms: str) -> str:
    return f"""
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = {protocol}
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
mail_location = maildir:{folder}/mail
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
"""
