"""What was said in a session, with its times, in a form people read. Secrets never get in."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TextIO

from posthouse.mail.charsets import HARMFUL

MASK: Final = "********"
COLUMN: Final = 70  # where the times stand
MOST: Final = 1_048_576  # octets of one transcript; the rest of the session is counted, not kept
LINE: Final = 2_000  # octets of one line


def masked(line: str) -> str:
    """The line without its secret: the command word (of AUTH also the mechanism, of APOP the name) stays, and what
    begins a challenge."""
    words = line.split(" ")
    verb = words[0].upper()
    keep = {"PASS": 1, "AUTH": 2, "APOP": 2, "334": 1, "+": 1}.get(verb, 0)
    if not keep:
        return MASK
    return " ".join([*words[:keep], MASK]) if len(words) > keep else line


class Transcript:
    """Writes one session down: `<-` is what the peer said, ` ->` what this side said, `===` what happened.

    `write` gets whole lines. `clock` counts seconds and never jumps. `tls` tells whether the octets were
    encrypted on their way: then the arrows are `<~` and ` ~>`. Lines that refuse something carry a star.
    """

    __slots__ = ("_clock", "_closing", "_partial", "_room", "_start", "_write", "tls")

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        closing: Callable[[], None] | None = None,
        most: int = MOST,
    ) -> None:
        self._write = write
        self._closing = closing
        self._clock = clock
        self._start = clock()
        self._room = most
        self._partial: dict[str, bytes] = {}
        self.tls = False

    def received(self, octets: bytes, secret: bool = False) -> None:
        """Octets that the peer sent, cut anywhere."""
        self._add("<~" if self.tls else "<-", octets, secret)

    def sent(self, octets: bytes, secret: bool = False) -> None:
        """Octets that we sent."""
        self._add(" ~>" if self.tls else " ->", octets, secret)

    def note(self, text: str) -> None:
        """Something that happened beside the octets."""
        self._flush()
        self._line("===", _CONTROL.sub(_shown, text))  # names in a certificate are the peer's words too

    def secured(self, text: str) -> None:
        """From here on TLS protects the octets, which stand here decrypted."""
        self.note(text)
        self.tls = True

    def closed(self) -> None:
        """The session is over."""
        self._flush()
        self._line("===", "closed")
        if self._closing is not None:
            self._closing()

    def _add(self, arrow: str, octets: bytes, secret: bool) -> None:
        octets = self._partial.pop(arrow, b"") + octets
        if self._partial:
            self._flush()
        *lines, rest = octets.split(b"\n")
        for line in lines:
            self._say(arrow, line, secret)
        if len(rest) > LINE or (secret and rest):
            self._say(arrow, rest, secret)
        elif rest:
            self._partial[arrow] = rest

    def _flush(self) -> None:
        for arrow, octets in list(self._partial.items()):
            self._say(arrow, octets, False)
        self._partial.clear()

    def _say(self, arrow: str, octets: bytes, secret: bool) -> None:
        text = _readable(octets.removesuffix(b"\r")[:LINE])
        if _REFUSAL.match(text):
            arrow = f"{arrow}*" if arrow[0] == "<" else f"*{arrow[1:]}"
        self._line(arrow, masked(text) if secret else text)

    def _line(self, mark: str, text: str) -> None:
        if self._room < 0:
            return
        elapsed = f"{self._clock() - self._start:8.3f}"
        self._room -= len(text) + 1
        if self._room < 0:
            self._write("=== the transcript is full; the session goes on\n")
            return
        self._write(f"{mark:<3} {text:<{COLUMN}} {elapsed}\n")


_REFUSAL: Final = re.compile(r"[45][0-9][0-9][ -]|-ERR")
_CONTROL: Final = re.compile(f"\n|{HARMFUL}")


def _readable(octets: bytes) -> str:
    text = octets.decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"<U+{code:04X}>"


class TranscriptFolder:
    """Writes the transcript of every session into a file of its own in a folder.

    The names sort by time: `20260302T061504Z-00001-smtp-192.0.2.7.txt`. A file that cannot be written is given up;
    mail goes on.
    """

    __slots__ = ("_count", "_folder", "_now", "failures")

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._now = now
        self._count = itertools.count(1)
        self.failures = 0

    def session(self, protocol: str, local: object, peer: object) -> Transcript | None:
        """The transcript of a new session, None when its file cannot be opened."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        host = str(peer).rsplit(":", 1)[0].strip("[]").replace(":", "_") or "local"
        path = self._folder / f"{moment}-{next(self._count):05}-{protocol}-{host}.txt"
        try:
            file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8")
        except OSError:
            self.failures += 1
            return None
        transcript = Transcript(self._writer(file), closing=self._closer(file))
        transcript.note(f"{protocol} {peer} -> {local}  {moment}")
        return transcript

    def _writer(self, file: TextIO) -> Callable[[str], None]:
        def write(line: str) -> None:
            try:
                file.write(line)
                file.flush()
            except (OSError, ValueError):
                self.failures += 1

        return write

    def _closer(self, file: TextIO) -> Callable[[], None]:
        def close() -> None:
            try:
                file.close()
            except OSError:
                self.failures += 1

        return close
