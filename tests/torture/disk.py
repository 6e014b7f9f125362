"""A disk whose power can be cut: ext4 in a file, shut down without writing back its journal."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_LOG_FLUSH = 2  # what was not synced is lost, as it is when the power goes


class Disk:
    """A file system of its own, mounted on `folder`. Root's, and best in a mount namespace of its own: then nothing
    stays mounted whatever happens to the test."""

    def __init__(self, image: Path, folder: Path, megabytes: int = 1024) -> None:
        self.image = image
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", str(image))
        self.mount()

    def mount(self) -> None:
        """Power on: the journal is played back."""
        _run("mount", "-o", "loop", str(self.image), str(self.folder))

    def unmount(self) -> None:
        """Lets go of the device; nobody may use it any more."""
        _run("umount", str(self.folder))

    def cut(self) -> None:
        """Power off, now: from here on every write and sync fails, and what was not synced is gone."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(handle)


def missing() -> str:
    """What this machine lacks for it; empty when it can be done."""
    if os.geteuid() != 0:
        return "only root can mount a disk whose power can be cut"
    for program in ("mkfs.ext4", "mount", "umount", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not Path("/dev/loop-control").exists():
        return "this machine has no loop devices"
    tried = subprocess.run(["unshare", "--mount", "--propagation", "private", "true"], capture_output=True, timeout=20)
    return "" if tried.returncode == 0 else "this machine lets nobody mount a disk"


def enter_namespace(module: str) -> None:
    """Starts this command anew where its mounts are its own and end with it. Returns when that is done."""
    mark = "POSTHOUSE_TORTURE_NAMESPACE"
    if mark not in os.environ:
        os.environ[mark] = "1"
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module]
        os.execvp(command[0], [*command, *sys.argv[1:]])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
