"""An installation of Posthouse that every user of the machine can read, and a data directory of `nobody`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import posthouse
from tests.system.programs import leave_out
from tests.system.server import Server, serving

NOBODY = 65534


@dataclass(slots=True)
class Office:
    """A data directory that belongs to `nobody`, and an installation which that user can read."""

    data: Path
    program: list[str]

    def serving(self) -> contextlib.AbstractContextManager[Server]:
        return serving(self.data, program=self.program)


@contextlib.contextmanager
def office(prepared: Path | None) -> Iterator[Office]:
    """One for the length of a `with` block, with a copy of the data, or without any yet."""
    if os.geteuid() != 0:
        leave_out("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        if prepared is not None:
            shutil.copytree(prepared, data)
            for file in [data, *data.rglob("*")]:
                os.chown(file, NOBODY, NOBODY)
        install(folder / "site")
        start = f"import sys; sys.path.insert(0, {str(folder / 'site')!r}); from posthouse.cli.main import main; main()"
        yield Office(data, [readable_python(), "-c", start])


def readable_python() -> str:
    """A Python of our version that every user of this machine can run: ours, or else the system's."""
    ours = Path(sys.executable).resolve()
    if all(parent.stat().st_mode & 0o001 for parent in ours.parents):
        return str(ours)
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if (path := shutil.which(name, path="/usr/bin:/usr/local/bin")) is None:
        leave_out(f"no {name} that every user can read")
    return path


def install(folder: Path) -> None:
    """Copies Posthouse and all that it needs, from where the tests run."""
    shutil.copytree(Path(posthouse.__file__).parent, folder / "posthouse")
    waiting, seen = ["posthouse"], set[str]()
    while waiting:
        name = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an extra, or something for another system
        needs = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in found.requires or () if "extra ==" not in text]
        waiting += [need for need in needs if need not in seen]
        seen.update(needs)
        for file in () if name == "posthouse" else found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
