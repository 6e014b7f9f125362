"""The route table as the router asks it: which route a domain goes, in microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from posthouse.mail.schedule import Schedule, parse_schedule
from posthouse.net.dial import parse_server
from posthouse.ports.store import Route

SMARTHOST: Final = "*"  # the pattern of the route for all that has none of its own
SMTP_PORT: Final = 25  # RFC 5321 §4.5.4.2


@dataclass(slots=True, frozen=True)
class Target:
    """One server of a route: a host name or an IP address, and a port."""

    host: str
    port: int = SMTP_PORT

    def __str__(self) -> str:
        bare = ":" in self.host and not self.host.startswith("[")
        return f"[{self.host}]:{self.port}" if bare else f"{self.host}:{self.port}"


def read_target(text: str, port: int = SMTP_PORT) -> Target:
    """Reads `host`, `host:port` or `[address]:port`; `port` is for one that names none. Raises ValueError."""
    server = parse_server(text)
    return Target(server.host, server.port or port)


def sealed_for(pattern: str) -> str:
    """Whose password it is that a route keeps sealed: moved to another row, it cannot be opened."""
    return f"route {pattern}"


class RouteTable:
    """The routes, by pattern. An exact domain goes before the longest `*.` pattern, and that before `*`."""

    __slots__ = ("_by_pattern", "_schedules", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self._by_pattern = {route.pattern: route for route in routes}
        self._schedules: dict[str, Schedule | None] = {}

    def match(self, domain: str) -> Route | None:
        """The route of a domain (lower case, A-labels) or of an address literal."""
        table = self._by_pattern
        if not table:
            return None
        if (route := table.get(domain)) is not None:
            return route
        if not domain.startswith("["):
            rest = domain
            while rest := rest.partition(".")[2]:
                if (route := table.get(f"*.{rest}")) is not None:
                    return route
        return table.get(SMARTHOST)

    def way(self, destination: str) -> Route | None:
        """The route of a destination: a pattern, a domain or a literal."""
        if (route := self._by_pattern.get(destination)) is not None:
            return route
        return None if destination.startswith("*") else self.match(destination)

    def schedule(self, route: Route) -> Schedule | None:
        """A route's own timetable."""
        text = route.schedule
        if text and text not in self._schedules:
            try:
                self._schedules[text] = parse_schedule(text)
            except ValueError:  # a newer version wrote it: the usual one will do
                self._schedules[text] = None
        return self._schedules.get(text)
