"""Routing: where a letter goes that is not for a mailbox here (RFC 5321 §5.1).

The route table comes first: an exact domain, then the longest `*.` pattern that fits, then `*`. A route with targets
names the hosts itself; one without, and everything that has no route, goes to the hosts that DNS names: by MX records,
in the order of their preference, or by the address of the domain itself where there are none.

Two kinds of trouble are told apart. What DNS says for certain ends a letter: no such domain, a domain that takes no
mail, a way that leads back here. What fails for now, and every fault of the route table, only delays it: a mistake of
the administrator loses no mail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posthouse.mail.address import Address, domain_text
from posthouse.mail.reply import Unavailable
from posthouse.mail.schedule import Schedule, write_schedule
from posthouse.mta.hops import Hosts, Own, Step, Tell, defer, fail, mute
from posthouse.mta.plan import NoRoute, Plan
from posthouse.mta.routetable import RouteTable, Target, sealed_for
from posthouse.ports.directory import Directory
from posthouse.ports.dns import MailResolver
from posthouse.ports.queue import Status
from posthouse.ports.store import Route
from posthouse.ports.system import Random


class Router:
    """Decides where letters go. One for a server; lives on one event loop."""

    __slots__ = ("_directory", "_hosts", "_open", "_routes", "_table")

    def __init__(
        self,
        routes: Callable[[], Sequence[Route]],
        resolver: MailResolver,
        random: Random,
        *,
        names: Sequence[str],
        own: Own,
        open_secret: Callable[[bytes, str], bytes | None],
        directory: Directory | None = None,
    ) -> None:
        """`routes` is the store's; `names` are those by which this server is known, its host name first;
        `open_secret` opens what a route keeps sealed; `directory` is only asked by `explain`."""
        self._routes = routes
        self._hosts = Hosts(resolver, random, names, own)
        self._open = open_secret
        self._directory = directory
        self._table: RouteTable | None = None

    # What is asked at every RCPT: no DNS, no disk. Raises Unavailable while the store was never read.

    def destination(self, address: Address) -> str:
        """The name under which letters for an address wait: the pattern of a route that names hosts, else the domain
        (lower case, A-labels) or the address literal."""
        domain = _domain(address)
        route = self._current().match(domain)
        return route.pattern if route is not None and route.targets else domain

    def route(self, address: Address) -> Route | None:
        """The route of an address, if it has one."""
        return self._current().match(_domain(address))

    def is_ours(self, address: Address) -> bool:
        """Whether a route says that the domain is ours: letters for it are taken from everybody."""
        route = self.route(address)
        return route is not None and route.local

    def is_refused(self, address: Address) -> bool:
        """Whether the domain is ours by a route that leads nowhere: who has no mailbox here is unknown."""
        route = self.route(address)
        return route is not None and route.local and not route.targets

    def way(self, destination: str) -> Route | None:
        """The route that a destination has now: while it stays the same, so do hosts, TLS and login."""
        return self._current().way(destination)

    def schedule(self, destination: str) -> Schedule | None:
        """The timetable that the route of a destination has for itself."""
        table = self._current()
        route = table.way(destination)
        return None if route is None else table.schedule(route)

    def _current(self) -> RouteTable:
        """The route table; the one known last when the store cannot be read. Raises Unavailable when none is."""
        try:
            routes = self._routes()
        except Unavailable:
            if self._table is None:
                raise
            return self._table
        if self._table is None or routes is not self._table.routes:
            self._table = RouteTable(routes)
        return self._table

    # What is asked at every attempt

    async def plan(self, destination: str) -> Plan:
        """The hosts of a destination, best first, at most 15. Raises NoRoute. Asks DNS, for a bounded time."""
        return await self._plan(destination, mute)

    async def explain(self, address: Address) -> list[Step]:
        """Every step of the decision about an address, by the same code; the last one is the plan or says why there is
        none, its kind being "delivered here", "refused", "plan" or "no way"."""
        steps: list[Step] = []

        def tell(kind: str, text: str, /, **values: object) -> None:
            steps.append(Step(kind, text, values))

        domain = _domain(address)
        named = domain_text(domain)
        tell("address", f"The domain of {address} is {named}.", domain=domain)
        if await self._ends_here(address, domain, tell):
            return steps
        self._tell_route(domain, tell)
        destination = self.destination(address)
        try:
            plan = await self._plan(destination, tell)
        except NoRoute as problem:
            result = problem.result
            final = result.state is Status.FAILED
            what = "The letter comes back" if final else "The letter waits and is tried again"
            tell(
                "no way",
                f"{what}: {result.reply} ({result.status}).",
                destination=destination,
                final=final,
                status=result.status,
                reply=result.reply,
            )
        else:
            self._tell_plan(destination, plan, tell)
        return steps

    async def _ends_here(self, address: Address, domain: str, tell: Tell) -> bool:
        """Whether reception decides about it alone: a mailbox here, or a domain of ours without it."""
        if self._directory is None or domain.startswith("["):
            return False
        account = await self._directory.find(address)
        if account is not None:
            tell("delivered here", f"{account.address} is a mailbox here.", account=account.address)
            return True
        if await self._directory.is_local(domain):
            tell("refused", f"{domain_text(domain)} is a domain of ours and has no such mailbox.", local=True)
            return True
        tell("local", f"{domain_text(domain)} is none of the domains whose mail lies here.", local=False)
        return False

    def _tell_route(self, domain: str, tell: Tell) -> None:
        route = self._current().match(domain)
        if route is None:
            tell("route", "No route fits: DNS decides.", pattern=None)
            return
        where = f"to {', '.join(route.targets)}" if route.targets else "by DNS"
        if route.local:
            where = f"the domain is ours, and goes {where}" if route.targets else "the domain is ours, and goes nowhere"
        tell("route", f'The route "{route.pattern}" fits: {where}.', pattern=route.pattern, targets=list(route.targets))

    def _tell_plan(self, destination: str, plan: Plan, tell: Tell) -> None:
        schedule = self.schedule(destination)
        hops = [{"host": hop.host, "port": hop.port, "addresses": list(hop.addresses)} for hop in plan.hops]
        login = "" if plan.login is None else plan.login[0]
        timetable = "the server's" if schedule is None else write_schedule(schedule)
        order = ", ".join(str(Target(hop.host, hop.port)) for hop in plan.hops)
        tell(
            "plan",
            f"Tried in this order: {order}. Protocol {plan.protocol}, TLS {plan.tls}, "
            f"{f'login {login}' if login else 'no login'}. Timetable: {timetable}.",
            destination=destination,
            hops=hops,
            protocol=plan.protocol,
            tls=plan.tls,
            login=login,
            schedule=None if schedule is None else write_schedule(schedule),
        )

    async def _plan(self, destination: str, tell: Tell) -> Plan:
        try:
            route = self._current().way(destination)
        except Unavailable:
            raise defer("the route table cannot be read now", "4.3.0") from None
        if route is None and destination.startswith("*"):
            raise defer(f'the route "{destination}" is no more', "4.3.5")
        if route is not None and route.targets:
            hops = await self._hosts.of_route(route, tell)
            return Plan(tuple(hops), route.tls, route.protocol, self._login(route, tell))
        if route is not None and route.local:
            raise fail(f"{domain_text(destination)} is a domain of ours and has no such mailbox", "5.1.1")
        if destination.startswith("["):
            hops = self._hosts.of_literal(destination, tell)
        else:
            hops = await self._hosts.of_domain(destination, tell)
        return Plan(tuple(hops), "opportunistic" if route is None else route.tls)

    def _login(self, route: Route, tell: Tell) -> tuple[str, str] | None:
        if not route.login:
            return None
        password = self._open(route.secret, sealed_for(route.pattern))
        if password is None:
            advice = "posthouse route add --replace sets it anew"
            tell("login", f"The password of {route.login} cannot be opened: {advice}.", login=route.login)
            raise defer(f'the login of the route "{route.pattern}" cannot be had', "4.3.5")
        return route.login, password.decode("utf-8", "surrogateescape")


def _domain(address: Address) -> str:
    return address.key.rpartition("@")[2]
