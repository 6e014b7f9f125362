"""The router of a server, built of its configuration, its store and DNS."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from posthouse.accounts.kept import Vault
from posthouse.config.schema import Config
from posthouse.mta.routing import Router
from posthouse.net.own import OwnAddresses
from posthouse.net.sysfiles import machine_name
from posthouse.ports.directory import Directory
from posthouse.ports.dns import MailResolver
from posthouse.ports.store import Store
from posthouse.ports.system import Random

_TAKES_LETTERS: Final = ("smtp", "submission", "submissions", "lmtp")


def make_router(
    config: Config, store: Store, data: Path, resolver: MailResolver, random: Random, directory: Directory
) -> Router:
    """The router of these settings; `resolver` lives as long as it."""
    listened = [(one.address, one.port) for one in config.listeners if one.protocol in _TAKES_LETTERS]
    incoming = [one.address for one in config.listeners if one.protocol == "smtp"]
    return Router(
        store.routes,
        resolver,
        random,
        names=[config.server.hostname or machine_name()],
        own=OwnAddresses(listened, incoming),
        open_secret=Vault(data, random).open,
        directory=directory,
    )
