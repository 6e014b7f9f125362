"""What is wrong with a server, its machine and its place in the DNS: `posthouse doctor`.

Each module has one area: the catalogue of what it can find, with all words, and functions that judge facts. Nothing is
changed. What needs root's eyes is looked at first, the rest with the rights of the server's own user, so that what the
server cannot read is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from posthouse.app.health.certificates import Certificates
from posthouse.app.health.clock import Clock
from posthouse.app.health.configuration import Configuration
from posthouse.app.health.disk import Disk
from posthouse.app.health.dns import Dns
from posthouse.app.health.finding import Finding, Kind, Level, kinds_of
from posthouse.app.health.people import Accounts
from posthouse.app.health.ports import Ports
from posthouse.app.health.queue import Queue
from posthouse.app.health.server import Routes, Server, Store

__all__ = ["AREAS", "Finding", "Kind", "Level", "kinds_of"]

AREAS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "configuration": Configuration,
        "server": Server,
        "ports": Ports,
        "certificates": Certificates,
        "dns": Dns,
        "disk": Disk,
        "clock": Clock,
        "store": Store,
        "queue": Queue,
        "routes": Routes,
        "accounts": Accounts,
    }
)
"""The catalogue of each area, in the order in which they are told."""
