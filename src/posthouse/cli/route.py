"""`posthouse route`: where letters for other servers go, also beside a running server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish, print_json
from posthouse.cli.helpers import find_password
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run_router, run_routes
from posthouse.cli.output import hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.mta.routes import RouteService
    from posthouse.mta.routing import Router
    from posthouse.ports.store import Route

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
_MODES = ("none", "opportunistic", "required", "verified", "implicit")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def route() -> None:
    """Where letters for other servers go.

    Without a route DNS decides: the MX records of the domain. An exact domain goes before the longest *.domain that
    fits, and that before *, which stands for all else.

    \b
    posthouse route add '*' --to smtp.provider.example --login anna --password-stdin < password.txt
    posthouse route add partner.example --tls verified
    posthouse route add '*.branch.example' --to 10.0.0.25 --schedule "5m 1h, every 1h, until 2d"
    posthouse route test boris@partner.example
    posthouse route list
    """


@route.command("add", cls=Verb)
@click.argument("pattern")
@click.option("--to", "targets", multiple=True, metavar="HOST[:PORT]", help="A host that takes them; several in order.")
@click.option("--tls", type=click.Choice(_MODES), help="How the session is protected; verified where there is a login.")
@click.option("--login", default="", metavar="NAME", help="Log in there, by this name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@click.option("--schedule", default="", metavar="TEXT", help="When to try again, such as 5m 1h, every 3h, until 4d.")
@click.option("--lmtp", is_flag=True, help="Speak LMTP with the hosts.")
@click.option("--local", is_flag=True, help="The domain is ours: take letters for it from everybody.")
@click.option("--note", default="", metavar="TEXT", help="Why, for whoever reads the list.")
@click.option("--replace", is_flag=True, help="Put this route in the place of the one that the pattern has.")
@_json
@click.pass_obj
def route_add(
    invocation: Invocation,
    pattern: str,
    targets: Sequence[str],
    tls: str | None,
    login: str,
    password_stdin: bool,
    schedule: str,
    lmtp: bool,
    local: bool,
    note: str,
    replace: bool,
    as_json: bool,
) -> None:
    """Say where letters for some domains go. It counts at once.

    PATTERN is a domain, *.domain for everything below it (not itself), or * for all that has no other route. Without
    --to the hosts are those that DNS names; so a domain can be excepted from the smarthost.

    \b
    TLS:
      none           never
      opportunistic  when the host offers it, without a look at its certificate
      required       always, without a look at its certificate
      verified       always, and the certificate must be right
      implicit       from the first octet, and the certificate must be right (port 465)

    The port is 25 when none is named; 587 with a login, 465 with --tls implicit, 24 with --lmtp. The password comes
    from --password-stdin, POSTHOUSE_PASSWORD or the person at the terminal, and is kept sealed.

    With --local and without --to, letters for the domain never leave: who has no mailbox here is unknown.

    \b
    posthouse route add '*' --to smtp.provider.example:465 --login anna
    posthouse route add intern.example --local
    posthouse route add lists.example.org --to 127.0.0.1:8024 --lmtp --local
    """

    def action() -> int:
        from posthouse.mta.routes import Wish

        wish = Wish(pattern, targets, "lmtp" if lmtp else "smtp", tls, login, schedule, local, note)
        if password_stdin and not login:
            raise Problem(Exit.USAGE, "--password-stdin needs a name: give --login NAME.", stage="usage")
        password = find_password(login, stdin=password_stdin) if login else ""

        async def work(service: RouteService) -> int:
            row = await service.add(wish, password, replace=replace)
            text = f"Letters for {_whom(row)} {_way(row)}."
            hint(f"See what comes of it: posthouse route test somebody@{_example(row)}")
            return succeed(as_json, text, routes=[_values(row)])

        return run_routes(invocation, work, create=True)

    finish("route add", as_json, action)


@route.command("list", cls=Verb)
@_json
@click.pass_obj
def route_list(invocation: Invocation, as_json: bool) -> None:
    """Show the routes. Passwords are never shown.

    \b
    posthouse route list --json
    """

    async def work(service: RouteService) -> int:
        found = service.list()
        rows = [_row(one) for one in found]
        if not rows:
            hint("There are no routes: DNS decides for all domains. posthouse route add PATTERN adds one.")
        text = table(("PATTERN", "TO", "TLS", "LOGIN", "TIMETABLE", "NOTE"), rows) if rows else ""
        return succeed(as_json, text, routes=[_values(one) for one in found])

    finish("route list", as_json, lambda: run_routes(invocation, work))


@route.command("remove", cls=Verb)
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@_json
@click.pass_obj
def route_remove(invocation: Invocation, patterns: Sequence[str], as_json: bool) -> None:
    """Remove routes: the next best one counts again, or DNS.

    \b
    posthouse route remove partner.example
    """

    async def work(service: RouteService) -> int:
        removed = [await service.remove(pattern) for pattern in patterns]
        text = "\n".join(f"Removed the route for {_shown(one)}." for one in removed)
        return succeed(as_json, text, routes=[{"pattern": one} for one in removed])

    finish("route remove", as_json, lambda: run_routes(invocation, work))


@route.command("test", cls=Verb)
@click.argument("address")
@_json
@click.pass_obj
def route_test(invocation: Invocation, address: str, as_json: bool) -> None:
    """Show where a letter to an address would go, and every step of the decision. Nothing is sent.

    It asks DNS as the server does. The exit code is 0 when there is a way, 1 when there is none.

    \b
    posthouse route test boris@example.com
    """

    async def work(router: Router) -> int:
        from posthouse.mail.address import Address, AddressError

        try:
            parsed = Address.parse(address)
        except AddressError as error:
            raise Problem(Exit.DATA, f"{error}. Write an address such as anna@example.org.", stage="check") from error
        steps = await router.explain(parsed)
        found = steps[-1].kind in ("plan", "delivered here")
        code = Exit.OK if found else Exit.NOT_ALL
        if as_json:
            values = [{"step": step.kind, "text": step.text, **step.values} for step in steps]
            print_json({"ok": found, "code": int(code), "address": str(parsed), "steps": values})
        else:
            print("\n".join(step.text for step in steps))
        return code

    finish("route test", as_json, lambda: run_router(invocation, work))


def _row(one: Route) -> tuple[str, ...]:
    return _shown(one.pattern), _where(one), one.tls, one.login or "-", one.schedule or "-", one.note


def _shown(pattern: str) -> str:
    from posthouse.mail.address import domain_text

    return f"*.{domain_text(pattern[2:])}" if pattern.startswith("*.") else domain_text(pattern)


def _whom(one: Route) -> str:
    return "all other domains" if one.pattern == "*" else _shown(one.pattern)


def _example(one: Route) -> str:
    if one.pattern == "*":
        return "example.com"
    return f"x{one.pattern[1:]}" if one.pattern.startswith("*.") else one.pattern


def _where(one: Route) -> str:
    if not one.targets:
        return "nowhere (ours)" if one.local else "DNS"
    return f"{'lmtp ' if one.protocol == 'lmtp' else ''}{' '.join(one.targets)}{' (ours)' if one.local else ''}"


def _way(one: Route) -> str:
    """What happens to letters that go this way, in words."""
    if one.local and not one.targets:
        return "never leave: who has no mailbox here is unknown"
    to = f"go to {', '.join(one.targets)}" if one.targets else "go where DNS says"
    by = f"by {one.protocol.upper()}, TLS {one.tls}"
    login = f", with the login {one.login}" if one.login else ""
    return f"{to} ({by}{login})"


def _values(one: Route) -> dict[str, Any]:
    return {
        "pattern": one.pattern,
        "targets": list(one.targets),
        "protocol": one.protocol,
        "tls": one.tls,
        "login": one.login,
        "schedule": one.schedule,
        "local": one.local,
        "note": one.note,
        "created": moment(one.created),
    }
