"""Adding and removing routes: the service behind `posthouse route`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from posthouse.config.values import is_host_name
from posthouse.mail.address import AddressError, domain_key, parse_domain
from posthouse.mail.schedule import parse_schedule, write_schedule
from posthouse.mta.hops import MOST_HOSTS
from posthouse.mta.routetable import SMARTHOST, SMTP_PORT, Target, read_target, sealed_for
from posthouse.net.sysfiles import parse_ip
from posthouse.observe.audit import Record, no_record
from posthouse.ports.store import Conflict, Missing, Route, Store
from posthouse.ports.system import Clock

MOST: Final = 1000  # routes
NOTE: Final = 200  # characters
LOGIN: Final = 255  # characters
PASSWORD: Final = 1024  # octets

MODES: Final = ("none", "opportunistic", "required", "verified", "implicit")
SUBMISSIONS_PORT: Final = 465  # RFC 8314 §7.3
SUBMISSION_PORT: Final = 587  # RFC 6409 §3.1
LMTP_PORT: Final = 24  # "any private mail system"; the usual port of LMTP, which has none (RFC 2033 §5)


class BadRoute(ValueError):
    """Not a route. The text says why, and what to write."""


@dataclass(slots=True)
class Wish:
    """A route as somebody asks for it. `tls` None: what fits the rest."""

    pattern: str
    targets: Sequence[str] = ()
    protocol: str = "smtp"
    tls: str | None = None
    login: str = ""
    schedule: str = ""
    local: bool = False
    note: str = ""


class RouteService:
    """The route table of one store."""

    __slots__ = ("_clock", "_record", "_seal", "_store")

    def __init__(
        self, store: Store, clock: Clock, seal: Callable[[bytes, str], bytes], record: Record = no_record
    ) -> None:
        """`seal` keeps passwords from being read: `accounts.kept.Vault.seal`."""
        self._store = store
        self._clock = clock
        self._seal = seal
        self._record = record

    async def add(self, wish: Wish, password: str = "", *, replace: bool = False) -> Route:
        """Adds a route. Raises BadRoute, OSError when the password cannot be sealed, and Conflict when the pattern has
        a route already and that is not to be replaced."""
        route = make_route(wish, self._clock.now(), password, self._seal)
        held = {row.pattern for row in self._store.routes()}
        if route.pattern in held and not replace:
            raise Conflict(f"There is a route for {route.pattern} already. --replace puts this one in its place.")
        if route.pattern not in held and len(held) >= MOST:
            raise Conflict(f"There are {MOST} routes already, and more there cannot be. Remove some first.")
        await self._store.put_route(route, replace=replace)
        self._record(
            "route_added",
            pattern=route.pattern,
            targets=" ".join(route.targets),
            protocol=route.protocol,
            tls=route.tls,
            login=route.login,
            schedule=route.schedule,
            local=route.local,
            note=route.note,
        )
        return route

    async def remove(self, pattern: str) -> str:
        """Removes a route; returns its pattern in its one form. Raises BadRoute, Missing."""
        found = read_pattern(pattern)
        try:
            await self._store.remove_route(found)
        except Missing:
            raise Missing(f"There is no route for {found}. posthouse route list shows those that are.") from None
        self._record("route_removed", pattern=found)
        return found

    def list(self) -> tuple[Route, ...]:
        """All routes, in the order of their patterns."""
        return self._store.routes()


def make_route(
    wish: Wish, now: float, password: str = "", seal: Callable[[bytes, str], bytes] = lambda octets, purpose: b""
) -> Route:
    """The route that somebody asks for; `seal` is needed where there is a login. Raises BadRoute."""
    pattern = read_pattern(wish.pattern)
    targets = _read_targets(wish)
    tls = _choose_tls(wish, targets)
    _check_login(wish, targets, tls, password)
    _check_whole(wish, pattern, targets, tls)
    if len(wish.note) > NOTE or not wish.note.isprintable():
        raise BadRoute(f"A note is one line of at most {NOTE} characters.")
    secret = seal(password.encode("utf-8", "surrogateescape"), sealed_for(pattern)) if wish.login else b""
    return Route(
        pattern,
        tuple(map(str, targets)),
        wish.protocol,
        tls,
        wish.login,
        secret,
        _read_schedule(wish.schedule),
        wish.local,
        wish.note,
        now,
    )


def read_pattern(text: str) -> str:
    """The one form of a pattern. Raises BadRoute."""
    text = text.strip()
    if text == SMARTHOST:
        return text
    if "@" in text:
        raise BadRoute(f'"{text[:60]}" is an address. A route is for a whole domain: write what follows the @.')
    if text.startswith("."):
        raise BadRoute(f'"{text[:60]}" begins with a dot. Write *{text[:60]} for everything below that domain.')
    below = text.startswith("*.")
    try:
        name = domain_key(parse_domain(text[2:] if below else text))
    except AddressError:
        name = ""
    if not name or (below and name.startswith("[")):
        raise BadRoute(
            f'"{text[:60]}" is no pattern of a route. Write example.org for a domain, *.example.org for everything '
            "below it, or * for all else."
        )
    return f"*.{name}" if below else name


def _read_targets(wish: Wish) -> list[Target]:
    if len(wish.targets) > MOST_HOSTS:
        raise BadRoute(f"{len(wish.targets)} hosts are too many: at most {MOST_HOSTS} are tried.")
    targets: list[Target] = []
    for text in wish.targets:
        target = _read_target(text, _usual_port(wish))
        if target in targets:
            raise BadRoute(f"{target} is named twice. Name each host once, in the order in which they are to be tried.")
        targets.append(target)
    return targets


def _usual_port(wish: Wish) -> int:
    if wish.tls == "implicit":
        return SUBMISSIONS_PORT
    if wish.protocol == "lmtp":
        return LMTP_PORT
    return SUBMISSION_PORT if wish.login else SMTP_PORT


def _read_target(text: str, port: int) -> Target:
    try:
        target = read_target(text, port)
        if (ip := parse_ip(target.host)) is not None and "%" not in target.host:
            return Target(str(ip), target.port)
        host = domain_key(target.host.removesuffix("."))
    except ValueError as error:
        raise BadRoute(f"{str(error)[:200]}. Write a host such as smtp.example.org or smtp.example.org:587.") from None
    if not is_host_name(host) or host.replace(".", "").isdigit():
        raise BadRoute(f'"{text[:60]}" is no host. Write one such as smtp.example.org:587 or [2001:db8::25]:25.')
    return Target(host, target.port)


def _choose_tls(wish: Wish, targets: Sequence[Target]) -> str:
    if wish.tls is not None:
        return wish.tls
    if targets and all(target.port == SUBMISSIONS_PORT for target in targets):
        return "implicit"
    return "verified" if wish.login else "opportunistic"


def _check_login(wish: Wish, targets: Sequence[Target], tls: str, password: str) -> None:
    if not wish.login:
        if password:
            raise BadRoute("A password needs a name: give --login NAME.")
        return
    if not targets:
        raise BadRoute("A login is for a host of yours: name it with --to HOST.")
    if len(wish.login) > LOGIN or not wish.login.isprintable():
        raise BadRoute(f"A login name is one line of at most {LOGIN} characters.")
    if not password or len(password.encode("utf-8", "surrogateescape")) > PASSWORD or "\0" in password:
        raise BadRoute(f"A password has 1 to {PASSWORD} octets and no NUL.")
    here = all((ip := parse_ip(target.host)) is not None and ip.is_loopback for target in targets)
    if tls in ("none", "opportunistic") and not here:
        raise BadRoute(
            f"With --tls {tls} somebody on the way could read the password. Write --tls verified (or required, when "
            "the host's certificate cannot be checked)."
        )


def _check_whole(wish: Wish, pattern: str, targets: Sequence[Target], tls: str) -> None:
    if not targets:
        if wish.protocol == "lmtp":
            raise BadRoute("LMTP needs a host: name it with --to HOST. No DNS record tells of LMTP servers.")
        if tls == "implicit":
            raise BadRoute("The hosts that DNS names do not speak TLS from the first octet. Write --tls verified.")
        if pattern == SMARTHOST and tls == "opportunistic" and not wish.schedule and not wish.local:
            raise BadRoute("This route changes nothing. Name the smarthost: --to HOST.")
    if wish.local and pattern == SMARTHOST:
        raise BadRoute("Not every domain is yours: with --local, name the domain.")
    if wish.local and targets and pattern.startswith("*.") and pattern.count(".") < 2:
        raise BadRoute(f"{pattern} is too much: everybody could send through this server. Name the domain.")


def _read_schedule(text: str) -> str:
    if not text.strip():
        return ""
    try:
        return write_schedule(parse_schedule(text))
    except ValueError as error:
        raise BadRoute(f"{error}.") from None
