"""What the client commands share: the server's address, the password, the transcript, the progress bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Final

from posthouse.cli.exits import Exit, Problem

if TYPE_CHECKING:
    from posthouse.net.dial import Server
    from posthouse.ports.system import SessionObserver

PASSWORD_VARIABLE: Final = "POSTHOUSE_PASSWORD"  # noqa: S105 - the name of a variable, not a password
SHOW_AFTER: Final = 1.0  # seconds before a progress bar appears
BAR: Final = 30  # columns


def parse_url(url: str, schemes: Sequence[str]) -> tuple[Server, str]:
    """The server and the login name of `smtp://user@host:port`. The first of the `schemes` stands for none. Raises
    Problem."""
    from urllib.parse import unquote

    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = schemes[0], url
    if scheme.lower() not in schemes:
        raise Problem(Exit.USAGE, f"{scheme}:// is no scheme for this: write {schemes[0]}://user@host:port")
    user, at, host = rest.partition("/")[0].rpartition("@")
    if ":" in user:
        raise Problem(
            Exit.USAGE,
            "A password on the command line can be read by everybody on this machine. Leave it out of the URL: it is "
            f"asked for, or comes from --password-stdin or {PASSWORD_VARIABLE}.",
        )
    return read_server(host), unquote(user) if at else ""


def read_server(text: str) -> Server:
    """A server as people write it. Raises Problem."""
    from posthouse.net.dial import parse_server

    try:
        return parse_server(text)
    except ValueError as error:
        raise Problem(Exit.USAGE, str(error)) from error


def find_password(login: str, *, stdin: bool) -> str:
    """The password: from standard input, the environment, or the person. Raises Problem."""
    if stdin:
        line = sys.stdin.buffer.readline(4096)
        return line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if not sys.stdin.isatty():
        raise Problem(
            Exit.USAGE,
            f"There is no password for {login}, and nobody to ask. Give --password-stdin or set {PASSWORD_VARIABLE}.",
        )
    import getpass

    from posthouse.cli.words import phrase

    return getpass.getpass(f"{phrase('Password for {login}', login=login)}: ")


def observer(verbose: int) -> SessionObserver | None:
    """Who writes the dialogue on standard error, when that is wanted."""
    return transcript() if verbose else None


def transcript() -> SessionObserver:
    """Writes one session down on standard error."""
    from posthouse.observe.transcript import Transcript

    return Transcript(stderr_line)


def stderr_line(line: str) -> None:
    """Writes a line of a transcript on standard error, at once."""
    sys.stderr.write(line)
    sys.stderr.flush()


class Progress:
    """A bar on the terminal for what takes longer than a second. Silent where there is no terminal."""

    def __init__(self, what: str, stream: IO[str] | None = None, *, wanted: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._what = what
        self._begun = self._shown = time.monotonic()
        self._width = 0
        self._wanted = wanted and self._stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        """So many octets of so many are done; `total` 0 when nobody knows."""
        now = time.monotonic()
        if not self._wanted or now - self._begun < SHOW_AFTER or (now - self._shown < 0.1 and done < total):
            return
        self._shown = now
        speed = done / (now - self._begun) / 1_000_000
        part = min(done / total, 1.0) if total else 0.0
        filled = int(part * BAR)
        share = f"{part * 100:3.0f} % [{'#' * filled}{'.' * (BAR - filled)}] " if total else ""
        text = f"{self._what} {share}{done / 1_000_000:.1f} MB, {speed:.1f} MB/s"
        self._stream.write(f"\r{text:<{self._width}}")
        self._stream.flush()
        self._width = len(text)

    def end(self) -> None:
        """Takes the bar away."""
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()
            self._width = 0
