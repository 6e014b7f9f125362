"""Which messages of a maildrop were collected before, by their unique-ids."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from types import TracebackType
from typing import IO

from posthouse.cli.exits import Exit, Problem


class Collected:
    """The unique-ids of one account that were collected, in a file of one line each. A line is on the disk before the
    next step is taken, so after a crash at most the last message is collected twice, and none is lost."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        octets = file.read()
        # A line that was cut off by a crash was not committed.
        self._known = {line.decode("utf-8") for line in octets[: octets.rfind(b"\n") + 1].split(b"\n") if line}
        file.truncate(octets.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)

    @classmethod
    def open(cls, login: str, server: str, target: str) -> Collected:
        """The state of one account on one server and one place that messages are collected to: what was only shown is
        not safe in a folder. Raises Problem when it cannot be kept, or another run has it."""
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        readable = re.sub(r"[^A-Za-z0-9@._-]", "_", f"{login}@{server}")[:80]
        digest = hashlib.sha256(f"{login}\0{server}\0{target}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
        path = Path(base) / "posthouse" / "collected" / f"{readable}-{digest}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            text = f"What was collected cannot be remembered: {path}: {error.strerror}"
            raise Problem(Exit.CANNOT_CREATE, text, stage="state") from error
        try:
            _lock(file)
        except Problem:
            file.close()
            raise
        return cls(path, file)

    def __enter__(self) -> Collected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, identity: str) -> bool:
        return identity in self._known

    def add(self, identity: str) -> None:
        """Remembers a message that is safe here; on the disk when this returns."""
        self._file.write(identity.encode("utf-8", "surrogateescape") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._known.add(identity)

    def keep_only(self, present: set[str]) -> None:
        """Forgets messages that the server has no more, once they are the greater part."""
        stale = self._known - present
        if len(stale) <= max(1000, len(present)):
            return
        self._known &= present
        draft = self._path.with_suffix(".new")
        with draft.open("wb") as file:
            file.writelines(identity.encode() + b"\n" for identity in sorted(self._known))
            file.flush()
            os.fsync(file.fileno())
        # The lock stays with the old file; a run that starts now waits for neither and finds the new one.
        draft.replace(self._path)
        self._file.close()
        self._file = self._path.open("r+b")
        _lock(self._file)
        self._file.seek(0, os.SEEK_END)


def _lock(file: IO[bytes]) -> None:
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = "Another posthouse is collecting from this mailbox. Repeat it later."
            raise Problem(Exit.TEMPORARY, text, stage="state") from None
