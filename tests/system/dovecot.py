"""A Dovecot of the tests' own: POP3 for one account, with the mechanisms that it is given. It needs root, as its
login processes give theirs up."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.system.programs import find_program, leave_out
from tests.system.server import PASSWORD, wait_for

USER = "anna@x.mail"


@contextlib.contextmanager
def dovecot(mechanisms: str) -> Iterator[int]:
    """The port of a Dovecot that runs while the block does; without root the test is named as left out."""
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
        (folder / "dovecot.conf").write_text(_configuration(folder, port, mechanisms))
        process = subprocess.Popen([program, "-F", "-c", str(folder / "dovecot.conf")], stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: _answers(port), lambda: (folder / "log").read_text() if (folder / "log").exists() else "")
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        return connection.recv(3) == b"+OK"
    return False


def _configuration(folder: Path, port: int, mechanisms: str) -> str:
    return f"""
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = pop3
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
service pop3-login {{
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
"""
