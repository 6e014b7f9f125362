"""The tables of a scenario: what each may hold, with type, default, unit, bounds and help.

The values are plain dataclasses; what describes a setting stands in its annotation, as in config/schema.py. Times
count from the beginning of the scenario.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any, Final

from posthouse.config.sections import Section, annotated
from posthouse.config.values import Kind, Setting, Wrong
from posthouse.lab.network import How
from posthouse.mail.address import Address, AddressError
from posthouse.mail.reply import Reply

DAY: Final = 86_400.0
LONGEST: Final = 365 * DAY
STAGES: Final = ("mail", "rcpt", "data", "end")

_SPAN: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?\s*(?:ms|s|min|m|h|d)\s*)+", re.IGNORECASE)
_PIECE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)", re.IGNORECASE)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": DAY}
_REPLY: Final = re.compile(r"([45]\d\d) ([45]\.\d{1,3}\.\d{1,3}) ([ -~]{1,200})")


def show_span(seconds: float) -> str:
    """A time in the largest unit that fits."""
    for unit, length in (("d", DAY), ("h", 3600.0), ("m", 60.0)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


class Span(Setting):
    """A time such as `90s`, `5h 10m` or `4d`, in seconds."""

    def read(self, value: object) -> object:
        """The seconds. Raises Wrong."""
        if isinstance(value, str) and _SPAN.fullmatch(value.strip()):
            seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in _PIECE.findall(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        else:
            raise Wrong(f"{value!r} is not a time; allowed is {self.allowed}")
        if not (self.low or 0.0) <= seconds <= (self.high or LONGEST):
            raise Wrong(f"{value!r} is out of bounds; allowed is {self.allowed}")
        return seconds

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        low = f"at least {show_span(self.low)}, " if self.low else ""
        return f'a time such as "90s", "5h 10m" or "4d", {low}at most {show_span(self.high or LONGEST)}'


class Texts(Setting):
    """Some texts, or one alone."""

    def read(self, value: object) -> object:
        """All of them. Raises Wrong."""
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise Wrong(f"{value!r} is not a list of texts; allowed is {self.allowed}")
        if len(listed) > 1000:
            raise Wrong(f"{len(listed)} entries are too many; at most 1000 are allowed")
        return tuple(self.item(item) for item in listed)

    def item(self, text: str) -> str:
        """One of them. Raises Wrong."""
        return text

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return 'a text, or several: ["one", "two"]'


class Lines(Setting):
    """A text of any number of lines."""

    def read(self, value: object) -> object:
        """The text. Raises Wrong."""
        if (
            not isinstance(value, str)
            or not value.replace("\n", "").replace("\t", "").isprintable()
            or len(value) > 1 << 20
        ):
            raise Wrong(f"{str(value)[:40]!r} is not a text; allowed is {self.allowed}")
        return value

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return "a text, also of several lines"


class Mailboxes(Texts):
    """Mail addresses."""

    def item(self, text: str) -> str:
        """One of them. Raises Wrong."""
        try:
            return str(Address.parse(text))
        except AddressError as error:
            raise Wrong(f'"{text}" is not a mail address ({error}); write one such as "anna@a.example"') from None


class Addresses(Texts):
    """IP addresses."""

    def item(self, text: str) -> str:
        """One of them. Raises Wrong."""
        try:
            return str(ip_address(text))
        except ValueError:
            raise Wrong(f'"{text}" is not an IP address; write one such as "192.0.2.1" or "2001:db8::1"') from None


class Hosts(Texts):
    """Host names."""

    def item(self, text: str) -> str:
        """One of them. Raises Wrong."""
        return str(Setting(Kind.HOST, "").read(text))


class Refusing(Setting):
    """A reply that refuses."""

    def read(self, value: object) -> object:
        """The reply. Raises Wrong."""
        match = _REPLY.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[1][0] != match[2][0] or set(match[3]) & set("{}"):
            raise Wrong(f"{value!r} is not a reply that refuses; allowed is {self.allowed}")
        return Reply(match[1], match[2], match[3])

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return 'a reply with both codes, such as "451 4.7.1 Try again later"'


class Table(Setting):
    """A table that is checked elsewhere."""

    def read(self, value: object) -> object:
        """The table. Raises Wrong."""
        if not isinstance(value, dict):
            raise Wrong(f"{value!r} is not a table; allowed is {self.allowed}")
        return value

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return "tables as in posthouse.toml, such as [host.settings.relay]"


class Tables(Setting):
    """Tables that are checked elsewhere."""

    def read(self, value: object) -> object:
        """The tables. Raises Wrong."""
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise Wrong(f"{value!r} is not a list of tables; allowed is {self.allowed}")
        return value

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return "any number of such tables, each with a line [[host.route]] or [[host.alias]] of its own"


def _moment(help: str) -> Span:
    return Span(Kind.SECONDS, help, unit="seconds", low=0, high=LONGEST)


@dataclass(slots=True, frozen=True)
class RouteSpec:
    """A route of a host, as `posthouse route add` makes it: letters for some domains go to hosts that are named."""

    pattern: Annotated[str, Setting(Kind.TEXT, "A domain, *.domain for all below it, or * for all else.")]
    to: Annotated[tuple[str, ...], Texts(Kind.TEXT, "The hosts, in the order in which they are tried.")] = ()
    schedule: Annotated[
        str, Setting(Kind.TEXT, "A timetable of its own.", empty="the host's", rfc="RFC 5321 §4.5.4.1")
    ] = ""
    local: Annotated[
        str,
        Setting(Kind.CHOICE, "Whether letters for it are taken from everybody.", choices=("no", "yes")),
    ] = "no"


@dataclass(slots=True, frozen=True)
class AliasSpec:
    """An address of a host that stands for others, as `posthouse alias add` makes it."""

    address: Annotated[str, Setting(Kind.TEXT, "A local part in the first domain, or a whole address.")]
    to: Annotated[tuple[str, ...], Mailboxes(Kind.TEXT, "For whom it stands, here or elsewhere.")]


@dataclass(slots=True, frozen=True)
class HostSpec:
    """A machine with a mail system."""

    name: Annotated[str, Setting(Kind.HOST, "Its name.")]
    address: Annotated[tuple[str, ...], Addresses(Kind.TEXT, "Its IP addresses.")]
    domains: Annotated[
        tuple[str, ...],
        Hosts(
            Kind.TEXT,
            "The domains whose mail lies here. Each gets an MX record that names it, unless the zone has one.",
        ),
    ] = ()
    users: Annotated[
        tuple[str, ...],
        Texts(Kind.TEXT, "Its accounts: local parts in the first domain, or whole addresses."),
    ] = ()
    latency: Annotated[float, Span(Kind.SECONDS, "How long octets take to others, one way.", low=0, high=60)] = 0.02
    bandwidth: Annotated[
        int, Setting(Kind.OCTETS, "Octets a second on its line.", low=0, high=1 << 40, empty="no bound")
    ] = 0
    greylist: Annotated[
        float,
        Span(
            Kind.SECONDS,
            "For how long the first letter of each sender to each recipient from each network is put off.",
            low=0,
            high=DAY,
            empty="not at all",
            rfc="RFC 6647 §4.1",
        ),
    ] = 0.0
    relays_for: Annotated[
        tuple[str, ...],
        Texts(Kind.TEXT, "Networks whose letters it carries on without a login, as a smarthost does."),
    ] = ()
    settings: Annotated[
        Mapping[str, Any],
        Table(
            Kind.TEXT,
            "Settings of its server: the sections server, smtp, submission, pop3, accounts, limits, sending and relay. "
            "There is no TLS in the box, and nothing on a disk.",
        ),
    ] = field(default_factory=dict)
    route: Annotated[list[Mapping[str, Any]], Tables(Kind.TEXT, "Where letters go that DNS does not decide about.")] = (
        field(default_factory=list)
    )
    alias: Annotated[list[Mapping[str, Any]], Tables(Kind.TEXT, "Addresses that stand for others.")] = field(
        default_factory=list
    )


@dataclass(slots=True, frozen=True)
class OutageSpec:
    """Something that is wrong with a host for a time."""

    host: Annotated[tuple[str, ...], Hosts(Kind.TEXT, "With which hosts.")]
    how: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "silent: nothing comes through, as when its line is cut. refused: nothing listens, and open connections "
            "end. mute: connections are accepted, and nothing is ever said. cut: each connection ends once the caller "
            "has sent so many octets. dot: each ends when a letter was taken, before the reply comes. slow: everything "
            "takes longer. off: the power of the machine is cut; at the end it starts again with what was on its disk.",
            choices=tuple(How),
        ),
    ] = "silent"
    begin: Annotated[float, _moment("When it begins.")] = 0.0
    end: Annotated[float, _moment("When it ends.")] = LONGEST
    every: Annotated[float, Span(Kind.SECONDS, "It comes again each time so much later.", empty="it does not")] = 0.0
    peer: Annotated[str, Setting(Kind.HOST, "Only between the hosts and this one.", empty="with everybody")] = ""
    share: Annotated[
        int, Setting(Kind.INTEGER, "How many of a hundred new connections it befalls.", low=1, high=100)
    ] = 100
    octets: Annotated[int, Setting(Kind.OCTETS, "With cut: after how many octets.", low=0, high=1 << 30)] = 0
    delay: Annotated[float, Span(Kind.SECONDS, "With slow: how much longer.", low=0, high=600)] = 0.0


@dataclass(slots=True, frozen=True)
class RefusalSpec:
    """A host that refuses letters for a time, with a reply of the scenario's own."""

    host: Annotated[str, Setting(Kind.HOST, "Which host.")]
    reply: Annotated[Reply, Refusing(Kind.TEXT, "What it says.", rfc="RFC 5321 §4.2, RFC 3463")]
    stage: Annotated[str, Setting(Kind.CHOICE, "To which command; end is the end of the letter.", choices=STAGES)] = (
        "rcpt"
    )
    recipient: Annotated[str, Setting(Kind.MAILBOX, "Only to this recipient, with rcpt.", empty="to everybody")] = ""
    begin: Annotated[float, _moment("When it begins.")] = 0.0
    end: Annotated[float, _moment("When it ends.")] = LONGEST


@dataclass(slots=True, frozen=True)
class NameSpec:
    """Names whose servers fail for a time."""

    name: Annotated[str, Setting(Kind.HOST, "A name, with all below it.", empty="all names")] = ""
    how: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "fail: they answer that they fail (SERVFAIL). silent: they do not answer.",
            choices=("fail", "silent"),
        ),
    ] = "fail"
    begin: Annotated[float, _moment("When it begins.")] = 0.0
    end: Annotated[float, _moment("When it ends.")] = LONGEST


@dataclass(slots=True, frozen=True)
class LetterSpec:
    """A letter that somebody sends, or several alike."""

    sender: Annotated[str, Setting(Kind.MAILBOX, "Who sends it. A user of a host logs in there.")]
    to: Annotated[tuple[str, ...], Mailboxes(Kind.TEXT, "To whom.")]
    cc: Annotated[tuple[str, ...], Mailboxes(Kind.TEXT, "Who gets a copy.")] = ()
    bcc: Annotated[
        tuple[str, ...], Mailboxes(Kind.TEXT, "Who gets a copy that the others do not know of.", rfc="RFC 5322 §3.6.3")
    ] = ()
    subject: Annotated[str, Setting(Kind.TEXT, "Its subject.")] = "Hello"
    text: Annotated[str, Lines(Kind.TEXT, "What it says.")] = "Hello."
    size: Annotated[
        int, Setting(Kind.OCTETS, "It is filled up to this size.", low=0, high=50 << 20, empty="as it is")
    ] = 0
    at: Annotated[float, _moment("When it is sent.")] = 0.0
    count: Annotated[int, Setting(Kind.INTEGER, "How many of them.", low=1, high=100_000)] = 1
    every: Annotated[float, Span(Kind.SECONDS, "How long after each other.", low=0, high=LONGEST)] = 0.0
    via: Annotated[
        str, Setting(Kind.HOST, "The host to which it is given.", empty="the host of the sender's domain")
    ] = ""
    notify: Annotated[
        tuple[str, ...],
        Texts(
            Kind.TEXT, "Of what the sender wants to be told: success, failure, delay, or never.", rfc="RFC 3461 §4.1"
        ),
    ] = ()


@dataclass(slots=True, frozen=True)
class CrowdSpec:
    """Many hosts that write to each other: h1.example with the domain d1.example and one account, and so on."""

    hosts: Annotated[int, Setting(Kind.INTEGER, "How many hosts.", low=2, high=10_000)]
    letters: Annotated[
        int, Setting(Kind.INTEGER, "How many letters, from and to hosts by chance.", low=1, high=1_000_000)
    ]
    size: Annotated[int, Setting(Kind.OCTETS, "How large each is.", low=200, high=1 << 20)] = 2048
    spread: Annotated[float, Span(Kind.SECONDS, "Over what time they are sent.", low=1, high=LONGEST)] = 3600.0
    down: Annotated[
        int,
        Setting(Kind.INTEGER, "How many of a hundred hosts are down for a while, at times by chance.", low=0, high=100),
    ] = 0
    longest: Annotated[float, Span(Kind.SECONDS, "For how long at most.", low=1, high=LONGEST)] = 6 * 3600.0


@dataclass(slots=True, frozen=True)
class ScenarioSpec:
    """The scenario as a whole."""

    title: Annotated[str, Setting(Kind.TEXT, "What it shows, in one line.")] = ""
    about: Annotated[str, Lines(Kind.TEXT, "What to look for.")] = ""
    start: Annotated[str, Setting(Kind.TEXT, "When its clock begins, in UTC.")] = "2026-03-02T08:00:00Z"
    seed: Annotated[int, Setting(Kind.INTEGER, "Chance: the same number gives the same run.", low=0, high=1 << 31)] = 1
    end: Annotated[float, _moment("When it ends, if anything still waits then.")] = 10 * DAY
    zone: Annotated[
        str,
        Lines(
            Kind.TEXT,
            "Records of DNS beside those that follow from the hosts, as in a zone file: MX, A, AAAA, PTR, TXT, CNAME. "
            "Names are whole, with or without a final dot.",
            rfc="RFC 1035 §5.1",
        ),
    ] = ""


WORDS: Final = {"begin": "from", "end": "until", "sender": "from"}
"""Words that a scenario says and Python cannot."""


def _section(name: str, kind: Any) -> Section:
    settings: dict[str, Setting] = {}
    defaults: dict[str, Any] = {}
    required: list[str] = []
    back: dict[str, str] = {}
    for key, setting in annotated(kind).items():
        word = WORDS.get(key, key)
        settings[word], back[word] = setting, key
        one = kind.__dataclass_fields__[key]
        if one.default is not MISSING:
            defaults[word] = one.default
        elif one.default_factory is MISSING:
            required.append(word)

    def build(given: Mapping[str, Any]) -> Any:
        return kind(**{back[word]: value for word, value in given.items()})

    return Section(name, kind.__doc__ or "", settings, defaults, build, tuple(required))


SECTIONS: Final[Mapping[str, Section]] = {
    "host": _section("host", HostSpec),
    "route": _section("host.route", RouteSpec),
    "alias": _section("host.alias", AliasSpec),
    "outage": _section("outage", OutageSpec),
    "refusal": _section("refusal", RefusalSpec),
    "names": _section("names", NameSpec),
    "letter": _section("letter", LetterSpec),
    "crowd": _section("crowd", CrowdSpec),
    "scenario": _section("scenario", ScenarioSpec),
}
