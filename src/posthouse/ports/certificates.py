"""Where a server's certificates come from: files of the administrator, an authority of our own, one day ACME."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(slots=True, frozen=True)
class CertificateFiles:
    """One certificate: the file with its chain, the server's own certificate first, and the file with its key, both
    in PEM. `hosts` are the names it is shown for; without any, it is shown to whoever names no other one."""

    chain: Path
    key: Path
    hosts: tuple[str, ...] = ()


class Certificates(Protocol):
    """Supplies certificates. Threads of a pool call it, one at a time."""

    def tend(self) -> bool:
        """Renews what is due; True when a file has changed. Called at the start and regularly after it. Raises OSError
        or ValueError when that fails: then what was there before still holds."""
        ...

    def files(self) -> Sequence[CertificateFiles]:
        """The certificates, the default one first."""
        ...
