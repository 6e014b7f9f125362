"""Whether the configuration can be read, and whether what it names is there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.config.load import ConfigError
from posthouse.config.schema import IMPLICIT_TLS, Config
from posthouse.net.sysfiles import machine_name

MOST: Final = 20  # mistakes told one by one


class Configuration:
    """Configuration"""

    READ = Kind("configuration.read", Level.OK, "The configuration is read: {source}.")
    WRONG = Kind(
        "configuration.wrong",
        Level.ERROR,
        "{problem}",
        "The server does not start with this configuration; one that runs keeps the one it has.",
        "Put it right in that line. docs/reference/settings.md has every setting with its bounds.",
    )
    NEEDS_TLS = Kind(
        "configuration.needs-tls",
        Level.ERROR,
        '{listener} begins with TLS, and [tls] has offer = "no".',
        "The server does not start.",
        'Remove that [[listener]], or set offer = "yes".',
    )
    NO_TLS = Kind(
        "configuration.no-tls",
        Level.NOTE,
        'Encryption is turned off: [tls] has offer = "no".',
        "Only this machine itself and networks named `clear` may log in; everything else passes in the clear.",
        'Unless something in front of Posthouse encrypts, set offer = "yes".',
    )
    NO_USER = Kind(
        "configuration.no-user",
        Level.ERROR,
        "server.user names {user}, and there is no such user here.",
        "The server does not start.",
        "Make it: useradd --system --home-dir {data} --shell /usr/sbin/nologin {user}",
    )
    HOST_NAME = Kind(
        "configuration.host-name",
        Level.WARNING,
        "The server calls itself {host}, which is no name in the DNS.",
        "Other mail servers distrust a greeting without a full host name, and their notices cannot reach you.",
        'Set hostname = "mail.example.org" below [server], with the name that your MX record has.',
    )
    LOG = Kind(
        "configuration.log",
        Level.ERROR,
        "The log {file} cannot be written: {why}.",
        "Mail goes on, and nobody can see what happens to it.",
        "Make the directory, and give it to the user who runs the server.",
    )


def wrong(error: ConfigError) -> list[Finding]:
    """What a configuration that cannot be read comes to."""
    lines = str(error).splitlines()
    found = [Configuration.WRONG(problem=line) for line in lines[:MOST]]
    return found + ([Configuration.WRONG(problem=f"... and {len(lines) - MOST} more.")] if len(lines) > MOST else [])


def check(config: Config, data: Path, source: str) -> Iterator[Finding]:
    """Everything about a configuration that was read. To be called with the rights of the server's user."""
    found = [*_settings(config, data), *_log(config)]
    yield from found or [Configuration.READ(source=source)]


def _settings(config: Config, data: Path) -> Iterator[Finding]:
    if config.tls.offer == "no":
        yield Configuration.NO_TLS()
        for listener in config.listeners:
            if listener.protocol in IMPLICIT_TLS:
                yield Configuration.NEEDS_TLS(listener=listener)
    if config.server.user and not _is_user(config.server.user):
        yield Configuration.NO_USER(user=config.server.user, data=data)
    host = config.server.hostname or machine_name()
    if "." not in host and host != "localhost" and any(one.protocol == "smtp" for one in config.listeners):
        yield Configuration.HOST_NAME(host=host)


def _is_user(name: str) -> bool:
    try:
        import pwd
    except ImportError:  # Windows, where the setting means nothing
        return True
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _log(config: Config) -> Iterator[Finding]:
    if not config.log.file:
        return
    file = Path(config.log.file)
    if not file.parent.is_dir():
        yield Configuration.LOG(file=file, why=f"there is no directory {file.parent}")
    elif file.is_dir():
        yield Configuration.LOG(file=file, why="it is a directory")
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        yield Configuration.LOG(file=file, why=f"{_user()} may not write there")


def _user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return f"user {os.geteuid()}" if hasattr(os, "geteuid") else socket.gethostname()
