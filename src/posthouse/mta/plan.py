"""The way to a destination: the hosts that take its letters, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import dataclass, field

from posthouse.ports.queue import Result


class NoRoute(Exception):
    """There is no way to a destination. `result` says for its letters whether there may be one later."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.reply)
        self.result = result


@dataclass(slots=True, frozen=True)
class Hop:
    """One host: its name, and its addresses in the order in which they are tried."""

    host: str
    port: int
    addresses: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Plan:
    """The hosts of a destination, best first; how a session with them is protected (`tls`: none, opportunistic,
    required, verified or implicit), and the login, if one is needed."""

    hops: tuple[Hop, ...]
    tls: str = "opportunistic"
    protocol: str = "smtp"
    login: tuple[str, str] | None = field(default=None, repr=False)
