"""What a repair puts aside: `lost+found/` in the data directory, for people to look through.

Each find is a file `.eml` with the octets that remain and one `.json` that tells what is known of them. The names say
what it is and do not change, so a repair that was killed and runs again makes none twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from posthouse.net.files import adopt, sync_directory, sync_file, write_whole

FOLDER: Final = "lost+found"
_SAFE: Final = re.compile(r"[A-Za-z0-9._-]{1,80}")


class LostAndFound:
    """The folder of one data directory. With `dry` nothing is written."""

    def __init__(self, data: Path, *, dry: bool = False) -> None:
        self.folder = data / FOLDER
        self._dry = dry

    def keep(self, name: str, octets: bytes | Path) -> None:
        """Puts octets there, on the disk on return; those of a file, which stays where it is. Raises OSError."""
        if self._dry:
            return
        self._make()
        if isinstance(octets, Path):
            self._take(octets, self.folder / f"{name}.eml")
        else:
            write_whole(self.folder / f"{name}.eml", octets, 0o600)

    def tell(self, name: str, facts: Mapping[str, object], *, octets: bool) -> str:
        """Puts what is known beside it, and returns where to look. Raises OSError."""
        if not self._dry:
            self._make()
            text = json.dumps(facts, ensure_ascii=False, indent=1, default=_readable)
            write_whole(self.folder / f"{name}.json", text.encode("utf-8", "replace") + b"\n", 0o600)
        return f"{FOLDER}/{name}{'.eml' if octets else '.json'}"

    def _make(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700)
            adopt(self.folder, self.folder.parent)
            sync_directory(self.folder.parent)

    def _take(self, source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            with source.open("rb") as octets, target.open("xb") as copy:
                shutil.copyfileobj(octets, copy)
                copy.flush()
                sync_file(copy.fileno())
            adopt(target, self.folder)
        sync_directory(self.folder)


def name_of(*parts: object) -> str:
    """A file name made of these; what does not belong into one is left out."""
    return "-".join(text for part in parts if _SAFE.fullmatch(text := str(part)) and not text.startswith("."))


def _readable(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
