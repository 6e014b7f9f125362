"""Scenarios: what stands in the box, what goes wrong, and who writes to whom. Read from TOML, all errors at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

from posthouse.config.load import Checker, ConfigError, Problem, examine, places, read_tables
from posthouse.config.schema import Config
from posthouse.lab.box import usual_tables
from posthouse.lab.network import How, Outage
from posthouse.lab.schema import (
    LONGEST,
    SECTIONS,
    AliasSpec,
    CrowdSpec,
    HostSpec,
    LetterSpec,
    NameSpec,
    OutageSpec,
    RefusalSpec,
    ScenarioSpec,
)
from posthouse.lab.zone import Zone, ZoneError
from posthouse.mail.address import Address, AddressError
from posthouse.mta.routes import BadRoute, Wish, make_route
from posthouse.policy.access import read_network
from posthouse.ports.store import Route

FILE_LIMIT: Final = 4_000_000  # octets
MOST_OUTAGES: Final = 100_000  # times that outages come again, all together
LISTED: Final = ("host", "outage", "refusal", "names", "letter")
SETTINGS: Final = ("server", "smtp", "submission", "pop3", "accounts", "limits", "sending", "relay")
WORDS: Final = frozenset(("success", "failure", "delay", "never"))  # RFC 3461 §4.1


@dataclass(slots=True)
class HostPlan:
    """A host as it is built: what the scenario says of it, its configuration, its accounts and routes."""

    spec: HostSpec
    config: Config
    users: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    aliases: tuple[AliasSpec, ...] = ()


@dataclass(slots=True)
class Scenario:
    """Everything that a scenario says, checked."""

    spec: ScenarioSpec
    source: str
    hosts: dict[str, HostPlan] = field(default_factory=dict)
    outages: list[OutageSpec] = field(default_factory=list)
    refusals: list[RefusalSpec] = field(default_factory=list)
    names: list[NameSpec] = field(default_factory=list)
    letters: list[LetterSpec] = field(default_factory=list)
    crowd: CrowdSpec | None = None

    @property
    def start(self) -> float:
        """When its clock begins, in seconds since 1970."""
        return _instant(self.spec.start)

    def outages_of(self, spec: OutageSpec) -> Iterable[Outage]:
        """What one entry comes to on the network."""
        begin, end = spec.begin, spec.end
        while begin < self.spec.end:
            for host in spec.host:
                yield Outage(host, How(spec.how), begin, end, spec.peer, spec.share / 100, spec.octets, spec.delay)
            if not spec.every:
                return
            begin, end = begin + spec.every, end + spec.every

    def host_of(self, address: str) -> str | None:
        """The host where this address has an account."""
        for name, plan in self.hosts.items():
            if address in plan.users:
                return name
        return None

    def via(self, letter: LetterSpec) -> str:
        """The host to which a letter is given, "" when there is none."""
        if letter.via:
            return letter.via
        if (host := self.host_of(letter.sender)) is not None:
            return host
        domain = letter.sender.rpartition("@")[2]
        return next((name for name, plan in self.hosts.items() if domain in plan.spec.domains), "")


def load_scenario(path: Path) -> Scenario:
    """The scenario in a file. Raises ConfigError, also when the file cannot be read."""
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_LIMIT + 1)
        if len(octets) > FILE_LIMIT:
            raise ConfigError(str(path), [Problem(0, "", f"is larger than {FILE_LIMIT} octets")])
        return parse_scenario(octets.decode("utf-8-sig"), str(path))
    except OSError as error:
        raise ConfigError(str(path), [Problem(0, "", f"cannot be read: {error.strerror or error}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Problem(0, "", "is not UTF-8 text; save the file as UTF-8")]) from error


def shipped() -> dict[str, str]:
    """The scenarios that come with the program: name and text."""
    folder = resources.files("posthouse.lab") / "scenarios"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in sorted(files, key=lambda e: e.name)}


def parse_scenario(text: str, source: str = "scenario") -> Scenario:
    """The scenario in a TOML text. Raises ConfigError with every problem found."""
    tables = read_tables(text, source)
    reader = _ScenarioReader(places(text))
    scenario = reader.scenario(tables, source)
    if reader.problems:
        raise ConfigError(source, reader.problems)
    return scenario


class _ScenarioReader(Checker):
    """Reads the tables, then looks whether they fit together."""

    def scenario(self, tables: Mapping[str, Any], source: str) -> Scenario:
        """All of it; what is wrong stands in `problems`."""
        for name in tables:
            if name not in (*LISTED, "scenario", "crowd"):
                self.wrong(name, f"there is no such table; there are scenario, crowd and [[{']], [['.join(LISTED)}]]")
        found = Scenario(self.section(SECTIONS["scenario"], tables.get("scenario", {}), "scenario"), source)
        self._check_start(found.spec)
        for path, spec in self._all(tables, "host"):
            self._host(found, path, spec)
        for path, spec in self._all(tables, "outage"):
            found.outages.append(spec)
            self._outage(found, path, spec)
        for path, spec in self._all(tables, "refusal"):
            found.refusals.append(spec)
            self._known(found, f"{path}.host", spec.host)
            self._window(path, spec)
        for path, spec in self._all(tables, "names"):
            found.names.append(spec)
            self._window(path, spec)
        for path, spec in self._all(tables, "letter"):
            found.letters.append(spec)
            self._letter(found, path, spec)
        if "crowd" in tables:
            found.crowd = self.section(SECTIONS["crowd"], tables["crowd"], "crowd")
        if not found.hosts and "crowd" not in tables:
            self.wrong("host", "there is no host; write at least one [[host]]")
        self._zone(found)
        return found

    def _all(self, tables: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
        listed = tables.get(name, [])
        if not isinstance(listed, list):
            self.wrong(name, f"may stand several times, so its line is [[{name}]] with two brackets")
            return []
        read = [(f"{name}[{n}]", self.section(SECTIONS[name], table, f"{name}[{n}]")) for n, table in enumerate(listed)]
        return [(path, spec) for path, spec in read if spec is not None]

    def _check_start(self, spec: ScenarioSpec) -> None:
        try:
            _instant(spec.start)
        except ValueError:
            self.wrong("scenario.start", f'"{spec.start}" is no time; write it like 2026-03-02T08:00:00Z')

    # Hosts

    def _host(self, found: Scenario, path: str, spec: HostSpec) -> None:
        if spec.name in found.hosts:
            self.wrong(f"{path}.name", f"{spec.name} stands here twice")
            return
        if not spec.address:
            self.wrong(f"{path}.address", "a host needs an address at least")
        taken = {address: name for name, plan in found.hosts.items() for address in plan.spec.address}
        for address in spec.address:
            if address in taken:
                self.wrong(f"{path}.address", f"{address} is the address of {taken[address]} already")
        for network in spec.relays_for:
            try:
                read_network(network)
            except ValueError as error:
                self.wrong(f"{path}.relays_for", str(error))
        found.hosts[spec.name] = HostPlan(
            spec,
            self._config(path, spec),
            self._users(path, spec),
            tuple(self._routes(path, spec)),
            tuple(self._aliases(path, spec)),
        )

    def _config(self, path: str, spec: HostSpec) -> Config:
        tables = usual_tables(spec.name, spec.address)
        for name, table in spec.settings.items():
            if name not in SETTINGS:
                self.wrong(f"{path}.settings.{name}", f"means nothing in the box; there are {', '.join(SETTINGS)}")
                continue
            usual = tables.get(name)
            tables[name] = {**usual, **table} if isinstance(usual, dict) and isinstance(table, dict) else table
        config, problems = examine(tables)
        for problem in problems:
            self.wrong(f"{path}.settings.{problem.key}", problem.text)
        if config.accounts.recoverable_passwords == "on":
            self.wrong(
                f"{path}.settings.accounts.recoverable_passwords", "needs a file, and nothing lies on a disk here"
            )
        return config

    def _users(self, path: str, spec: HostSpec) -> tuple[str, ...]:
        users = [self._own_address(f"{path}.users", spec, user) for user in spec.users]
        return tuple(user for user in users if user)

    def _own_address(self, path: str, spec: HostSpec, text: str) -> str:
        """An address in a domain of the host; "" for one that is wrong."""
        if "@" not in text and not spec.domains:
            self.wrong(path, f'"{text}" has no domain, and {spec.name} has none either')
            return ""
        try:
            address = Address.parse(text if "@" in text else f"{text}@{spec.domains[0]}").key
        except AddressError as error:
            self.wrong(path, f'"{text}" is no address ({error})')
            return ""
        if address.rpartition("@")[2] not in spec.domains:
            self.wrong(path, f"{text} is in none of the domains of {spec.name}")
        return address

    def _aliases(self, path: str, spec: HostSpec) -> Iterable[AliasSpec]:
        for number, table in enumerate(spec.alias):
            place = f"{path}.alias[{number}]"
            alias = self.section(SECTIONS["alias"], table, place)
            if alias is None:
                continue
            address = self._own_address(f"{place}.address", spec, alias.address)
            if not alias.to:
                self.wrong(f"{place}.to", "an alias stands for an address at least")
            elif address:
                yield AliasSpec(address, alias.to)

    def _routes(self, path: str, spec: HostSpec) -> Iterable[Route]:
        for number, table in enumerate(spec.route):
            place = f"{path}.route[{number}]"
            route = self.section(SECTIONS["route"], table, place)
            if route is None:
                continue
            wish = Wish(route.pattern, route.to, schedule=route.schedule, local=route.local == "yes")
            try:
                yield make_route(wish, 0.0)
            except BadRoute as error:
                self.wrong(place, str(error))

    # What goes wrong

    def _outage(self, found: Scenario, path: str, spec: OutageSpec) -> None:
        for host in (*spec.host, *([spec.peer] if spec.peer else [])):
            self._known(found, f"{path}.host", host)
        self._window(path, spec)
        if spec.every and not 0 < spec.end - spec.begin <= spec.every:
            self.wrong(f"{path}.every", "it would come again before it has ended")
        elif spec.every and (found.spec.end - spec.begin) / spec.every > MOST_OUTAGES:
            self.wrong(f"{path}.every", f"it would come again more than {MOST_OUTAGES} times")

    def _window(self, path: str, spec: OutageSpec | RefusalSpec | NameSpec) -> None:
        if spec.end <= spec.begin:
            self.wrong(f"{path}.until", "it would end before it begins")

    def _known(self, found: Scenario, path: str, host: str) -> None:
        if host not in found.hosts:
            self.wrong(path, f"there is no host {host}; there are {', '.join(list(found.hosts)[:10]) or 'none'}")

    # Letters and names

    def _letter(self, found: Scenario, path: str, spec: LetterSpec) -> None:
        via = found.via(spec)
        if via not in found.hosts:
            text = f"there is no host {via}" if via else f"no host has the domain of {spec.sender}; say one with via"
            self.wrong(f"{path}.via", text)
        if not spec.to:
            self.wrong(f"{path}.to", "a letter needs a recipient at least")
        if spec.at + (spec.count - 1) * spec.every >= found.spec.end:
            self.wrong(f"{path}.at", "it would be sent after the end of the scenario (scenario.until)")
        words = set(spec.notify)
        if not words <= WORDS or ("never" in words and len(words) > 1):
            self.wrong(f"{path}.notify", "allowed are success, failure and delay together, or never alone")

    def _zone(self, found: Scenario) -> None:
        try:
            Zone().read(found.spec.zone)
        except ZoneError as error:
            self.wrong("scenario.zone", f"cannot be read: {error}")


def _instant(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


__all__ = ["LONGEST", "HostPlan", "Scenario", "load_scenario", "parse_scenario", "shipped"]
