"""What every command knows of the command line: the data directory and the configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posthouse.cli.exits import Exit, Problem

if TYPE_CHECKING:
    from posthouse.config.schema import Config

CONFIG_NAME = "posthouse.toml"


@dataclass(slots=True)
class Invocation:
    """The global options, as they were given."""

    data: Path | None = None
    config_file: Path | None = None

    def load(self) -> tuple[Config, Path]:
        """The configuration and the data directory: `--data`, else what the configuration says, else the usual place of
        this system. Without `--config`, posthouse.toml in the data directory is the configuration where there is one.
        Raises Problem."""
        from posthouse.config.load import load
        from posthouse.config.schema import Config

        with explained():
            if self.config_file is not None:
                config = load(self.config_file)
            else:
                usual = (self.data or default_data()) / CONFIG_NAME
                config = load(usual) if usual.is_file() else Config()
        return config, self.data or (Path(config.server.data) if config.server.data else default_data())


def default_data() -> Path:
    """The usual place of mail on this system, for whoever gives no `--data`."""
    if state := os.environ.get("STATE_DIRECTORY"):  # systemd.exec(5); several are parted by colons
        return Path(state.partition(":")[0])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "Posthouse"
    if os.geteuid() == 0:
        return Path("/var/lib/posthouse")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Posthouse"
    share = os.environ.get("XDG_DATA_HOME", "")
    return (Path(share) if share.startswith("/") else Path.home() / ".local" / "share") / "posthouse"


@contextmanager
def explained() -> Iterator[None]:
    """Turns the errors that commands expect into Problems with an exit code."""
    from posthouse.config.load import ConfigError
    from posthouse.config.values import Wrong

    try:
        yield
    except ConfigError as error:
        count = len(error.problems)
        head = "The configuration has an error" if count == 1 else f"The configuration has {count} errors"
        raise Problem(Exit.CONFIG, f"{head}:\n{error}", stage="configuration") from error
    except Wrong as error:
        raise Problem(Exit.USAGE, str(error), stage="usage") from error
    except PermissionError as error:
        raise Problem(Exit.IO, f"{_of(error)}Run the command as the user who owns it, or as root.") from error
    except OSError as error:
        raise Problem(Exit.IO, f"{_of(error)}Check the disk and the path.") from error


def _of(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. "
