"""The router of a server, built of its configuration, its store and DNS."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from posthouse.accounts.kept import Vault
from posthouse.config.schema import Config
from posthouse.mta.routing import Router
from posthouse.net.maildns import MailDns
from posthouse.net.nameservers import NameServers
from posthouse.net.own import OwnAddresses
from posthouse.net.sysfiles import machine_name
from posthouse.ports.directory import Directory
from posthouse.ports.store import Store
from posthouse.ports.system import Random

_TAKES_LETTERS: Final = ("smtp", "submission", "submissions", "lmtp")


def make_router(
    config: Config, store: Store, data: Path, servers: NameServers, random: Random, directory: Directory
) -> Router:
    """`servers` are those of the resolver (`DnsResolver.servers`) and live as long as the router."""
    listened = [(one.address, one.port) for one in config.listeners if one.protocol in _TAKES_LETTERS]
    incoming = [one.address for one in config.listeners if one.protocol == "smtp"]
    return Router(
        store.routes,
        MailDns(servers, config.dns),
        random,
        names=[config.server.hostname or machine_name()],
        own=OwnAddresses(listened, incoming),
        open_secret=Vault(data, random).open,
        directory=directory,
    )
