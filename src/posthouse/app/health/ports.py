"""Ports: who holds them, whether the server may open them, and what it says there."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from posthouse.app.health.finding import Finding, Kind, Level
from posthouse.config.schema import IMPLICIT_TLS, Config, ListenerSettings
from posthouse.net.proc import Bound, Process, bound_sockets, holders
from posthouse.net.sysfiles import parse_ip


class Ports:
    """Ports"""

    FREE = Kind("ports.free", Level.OK, "{listener}: the port is free for the server.")
    ANSWERS = Kind("ports.answers", Level.OK, "{listener} answers{how}.")
    TAKEN = Kind(
        "ports.taken",
        Level.ERROR,
        "{listener}: the port is held by {holder}.",
        "Posthouse cannot listen there; who connects talks to that program.",
        "Stop that program, or give the [[listener]] another port.",
    )
    PRIVILEGED = Kind(
        "ports.privileged",
        Level.WARNING,
        "{listener}: you may not open this port; those below 1024 are root's.",
        "Started by you, the server ends at once. Started by root with server.user, or by the unit of the service, it "
        "has the right.",
        "Start it that way (docs/howto/run-as-a-service.md), or give the [[listener]] a port above 1023.",
    )
    NO_ADDRESS = Kind(
        "ports.no-address",
        Level.ERROR,
        "{listener}: this machine has no such address.",
        "The server does not start.",
        'Give the [[listener]] one of the addresses that `ip address` shows, or address = "*".',
    )
    NOT_LISTENING = Kind(
        "ports.not-listening",
        Level.ERROR,
        "{listener}: the server runs and does not listen there.",
        "It was started with other listeners (--listen), or the configuration was changed since.",
        "Have it read the configuration: systemctl reload posthouse, or kill -HUP. Its log says what failed.",
    )
    SILENT = Kind(
        "ports.silent",
        Level.ERROR,
        "{listener} does not answer as it should: {trouble}.",
        "Programs and other servers that connect there wait or give up.",
        "See the server's log. If it says nothing, the server is overloaded or stuck: restart it.",
    )
    GREETING = Kind(
        "ports.greeting",
        Level.WARNING,
        "{listener} greets as {greeting}, not as {host}.",
        "Another server answers there, or this one was not told of a new name.",
        "Reload the server. If that changes nothing, see who holds the port: ss -ltnp",
    )
    NO_STARTTLS = Kind(
        "ports.no-starttls",
        Level.ERROR,
        "{listener} does not offer encryption, although the configuration does.",
        "Letters and passwords pass in the clear, or programs refuse to connect.",
        "See the server's log for certificate_failed, then posthouse doctor --only certificates.",
    )
    OLD_CERTIFICATE = Kind(
        "ports.old-certificate",
        Level.WARNING,
        "{listener} shows another certificate than the one in its file.",
        "The new one was not taken: its key does not fit, or it cannot be read by the server.",
        "See the server's log for certificate_failed. A reload makes it look at once.",
    )


@dataclass(slots=True)
class Sockets:
    """Who listens on this machine, and what we could bind. Read with root's eyes where we have them. `bound` is None
    where the system does not tell."""

    bound: list[Bound] | None
    holders: dict[int, Process] = field(default_factory=dict)
    refused: dict[ListenerSettings, int] = field(default_factory=dict)  # errno of a try to bind

    def at(self, listener: ListenerSettings) -> list[Bound]:
        """Those in the place of a listener."""
        return [one for one in self.bound or () if one.port == listener.port and one.covers(listener.address)]

    def name(self, bound: Sequence[Bound]) -> str:
        """Who holds them, in words."""
        for one in bound:
            if (process := self.holders.get(one.inode)) is not None:
                return f"{process.name or 'a program'} (process {process.pid})"
        return f"a program of user {bound[0].uid}" if bound else "another program"


def look(config: Config) -> Sockets:
    """What there is now. Binds the ports for an instant and listens nowhere."""
    bound = bound_sockets()
    ports = {listener.port for listener in config.listeners}
    found = Sockets(bound, holders(one.inode for one in bound or () if one.port in ports))
    for listener in config.listeners:
        if listener.port and (number := _try(listener)):
            found.refused[listener] = number
    return found


def _try(listener: ListenerSettings) -> int:
    address = "0.0.0.0" if listener.address == "*" else listener.address.partition("%")[0]  # noqa: S104 - never listens
    ip = parse_ip(address)
    family = socket.AF_INET6 if ip is not None and ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, listener.port))
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def is_ours(bound: Sequence[Bound], sockets: Sockets, server: int | None, owner: int) -> bool:
    """Whether the server with this process id (None: none runs, 0: unknown) is among those who listen; where nobody may
    be seen, whether the owner of the data directory is."""
    if server is None:
        return False
    known = [sockets.holders[one.inode].pid for one in bound if one.inode in sockets.holders]
    return server in known if known and server else any(one.uid == owner for one in bound)


def judge(listener: ListenerSettings, sockets: Sockets, server: int | None, owner: int) -> Finding | None:
    """What is to be said of a listener before anybody talks to it; None when our server listens there and is to be
    talked to."""
    bound = sockets.at(listener)
    refused = sockets.refused.get(listener, 0)
    if sockets.bound is None and server is not None:
        return None if refused == errno.EADDRINUSE else Ports.NOT_LISTENING(listener=listener)
    if is_ours(bound, sockets, server, owner):
        return None
    if bound or refused == errno.EADDRINUSE:
        return Ports.TAKEN(listener=listener, holder=sockets.name(bound))
    if server is not None:
        return Ports.NOT_LISTENING(listener=listener)
    if refused in (errno.EACCES, errno.EPERM):
        return Ports.PRIVILEGED(listener=listener)
    if refused in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return Ports.NO_ADDRESS(listener=listener)
    return Ports.FREE(listener=listener)


@dataclass(slots=True)
class Heard:
    """What a listener said. `certificate` is that of its TLS (DER), `trouble` what went wrong."""

    greeting: str = ""
    offers_tls: bool = False
    version: str = ""
    certificate: bytes | None = None
    trouble: str = ""


def judge_talk(
    listener: ListenerSettings, heard: Heard, host: str, *, tls: bool, expected: Sequence[bytes]
) -> Iterator[Finding]:
    """What is to be said of what was heard. `expected` are the certificates (DER) in the server's files."""
    if heard.trouble:
        yield Ports.SILENT(listener=listener, trouble=heard.trouble)
        return
    named = [*heard.greeting.split(" "), "", ""][1]  # behind the code
    if IMPLICIT_TLS.get(listener.protocol, listener.protocol) != "pop3" and named.lower() != host.lower():
        yield Ports.GREETING(listener=listener, greeting=named[:80] or "nobody", host=host)
    if tls and listener.protocol in ("smtp", "submission", "pop3") and not heard.offers_tls:
        yield Ports.NO_STARTTLS(listener=listener)
    if expected and heard.certificate is not None and heard.certificate not in expected:
        yield Ports.OLD_CERTIFICATE(listener=listener)
    else:
        yield Ports.ANSWERS(listener=listener, how=f", with {heard.version}" if heard.version else "")
