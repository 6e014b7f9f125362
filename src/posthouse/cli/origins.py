"""How a letter of the outbox reaches its server: what `send` was told, without the password, and back again."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posthouse.cli.account import PROFILE, fill_in, load_profiles, own_password, profile_path
from posthouse.cli.exits import Exit, Problem
from posthouse.cli.helpers import PASSWORD_VARIABLE, parse_url
from posthouse.cli.security import security_of
from posthouse.clients.waiting import Route

if TYPE_CHECKING:
    from posthouse.clients.security import Security
    from posthouse.config.profiles import Account
    from posthouse.net.dial import Server


def outbox_folder() -> Path:
    """Where this person's outbox lies (XDG Base Directory Specification: state)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "posthouse" / "outbox"
    except RuntimeError as error:  # a user without a home, as services have
        text = "This user has no home for an outbox: set XDG_STATE_HOME to a directory of theirs."
        raise Problem(Exit.CANNOT_CREATE, text, stage="outbox") from error


def route_of(options: dict[str, Any], user: str) -> Route:
    """What the options of a command say of the server; `user` "" where nobody logs in."""
    account = options.get(PROFILE)
    return Route(
        url=options["url"],
        user=user,
        account=account.name if account is not None else "",
        config=str(Path(options["config"]).absolute()) if account is not None and options.get("config") else "",
        tls=options["tls"],
        cacert=str(Path(options["cacert"]).absolute()) if options["cacert"] else "",
        pin=options["pin"] or "",
        blind=options["blind"],
        insecure_auth=options["insecure_auth"],
    )


@dataclass(slots=True)
class Way:
    """A route that can be gone: server, login and how it is protected."""

    server: Server
    login: str
    security: Security
    insecure_auth: bool


def account_of(route: Route) -> Account | None:
    """The account of a route as it stands today: its server or its password may have been mended since. Raises
    Problem."""
    if not route.account:
        return None
    path = profile_path({"config": route.config or None})
    found = load_profiles(path).accounts.get(route.account)
    if found is None:
        raise Problem(Exit.CONFIG, f"There is no account {route.account!r} in {path} any more.", stage="configuration")
    return found


def way_of(route: Route, verbose: int = 0) -> Way:
    """The server and the login of a route. Raises Problem."""
    from posthouse.cli.send import SCHEMES

    options: dict[str, Any] = {
        "tls": route.tls,
        "cacert": Path(route.cacert) if route.cacert else None,
        "pin": route.pin,
        "blind": route.blind,
        "verbose": verbose,
        "url": route.url,
        "user": route.user,
    }
    account = account_of(route)
    if account is not None:
        options["user"] = ""
        fill_in(options, account, "send")
    server, login = parse_url(options["url"], SCHEMES)
    return Way(server, options["user"] or login, security_of(options, options["url"]), route.insecure_auth)


@dataclass(slots=True)
class Keys:
    """The passwords of one run: each is looked for once. `alone`: all letters of the run have one login, so that the
    password of the environment can only be meant for it."""

    alone: bool
    found: dict[tuple[str, str], str | None] = field(default_factory=dict, repr=False)

    def password(self, route: Route) -> str | None:
        """The password of a route; "" where none is needed, None where there is none and nobody to ask."""
        if not route.user:
            return ""
        name = (route.url, route.user)
        if name not in self.found:
            self.found[name] = self._look(route)
        return self.found[name]

    def forget_missing(self) -> None:
        """Passwords that were not there are looked for again."""
        self.found = {name: password for name, password in self.found.items() if password is not None}

    def _look(self, route: Route) -> str | None:
        if self.alone and PASSWORD_VARIABLE in os.environ:
            return os.environ[PASSWORD_VARIABLE]
        account = account_of(route)
        if account is not None and not account.password.prompt:
            return own_password(account)
        if not sys.stdin.isatty():
            return None
        import getpass

        return getpass.getpass(f"Password for {route.user} ({route.url}): ")


def span(text: str) -> float:
    """Seconds of `10s`, `5m`, `2h` or `1d`; a bare number is seconds. Raises Problem."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not (number.isascii() and number.isdigit() and len(number) <= 7):
        raise Problem(Exit.USAGE, f"{text!r} is no time: write 10s, 5m, 2h or 1d.")
    return int(number) * units[unit]
