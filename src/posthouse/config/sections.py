"""The tables of the configuration file: which settings each has, with their defaults, and how its value is made.

All of it is read off the values in schema.py and limits.py; only the limits of the protocols, which are plain numbers
in mail/limits.py, are described here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from posthouse.config.limits import LimitSettings, SendingSettings, limit, span
from posthouse.config.relaying import RelaySettings
from posthouse.config.schema import (
    GIB,
    KIB,
    AccountSettings,
    CertificateSettings,
    DnsSettings,
    ListenerSettings,
    LogSettings,
    Pop3Settings,
    ServerSettings,
    SmtpSettings,
    StoreSettings,
    SubmissionSettings,
    TlsSettings,
)
from posthouse.config.values import Kind, Setting


def _octets(help: str, low: int, high: int, rfc: str = "") -> Setting:
    return Setting(Kind.OCTETS, help, unit="octets", low=low, high=high, rfc=rfc)


def _count(help: str, low: int, high: int, rfc: str = "") -> Setting:
    return Setting(Kind.INTEGER, help, low=low, high=high, rfc=rfc)


def _time(help: str, low: float, high: float, rfc: str = "") -> Setting:
    return Setting(Kind.SECONDS, help, unit="seconds", low=low, high=high, rfc=rfc)


_SMTP_LIMITS: Final[Mapping[str, Setting]] = {
    "message": _octets("The largest message, announced with SIZE.", 64 * KIB, 2 * GIB - 1, "RFC 1870 §4"),
    "recipients": _count("Recipients of one message.", 100, 100_000, "RFC 5321 §4.5.3.1.8"),
    "command_line": _octets("The longest command line.", 512, 64 * KIB, "RFC 5321 §4.5.3.1.4"),
    "auth_line": _octets("The longest line of a login.", 512, 64 * KIB, "RFC 4954 §4"),
    "errors": _count("Bad commands before the connection is closed.", 1, 1_000_000, "RFC 5321 §3.8"),
    "bad_recipients": _count("Refused recipients before the connection is closed.", 1, 1_000_000, "RFC 5321 §3.8"),
    "idle_commands": _count("Commands in a row that send no message.", 10, 1_000_000),
    "login_failures": _count("Failed logins before the connection is closed.", 1, 1000, "RFC 4954 §9"),
    "command_timeout": _time("How long the server waits for a command.", 1, 3600, "RFC 5321 §4.5.3.2.7"),
    "session_timeout": span(
        "How long a session may last; a message under way is finished.",
        "thousands of letters take minutes; two hours are for slow lines",
        60,
        604_800,
    ),
    "data_timeout": _time("How long it waits for the next part of a message.", 1, 3600, "RFC 5321 §4.5.3.2.5"),
    "data_rate": Setting(
        Kind.INTEGER,
        "Octets per second that a sender must reach over a whole message, counted after ten minutes.",
        unit="octets per second",
        low=0,
        high=10_000_000,
        empty="no such limit",
    ),
    "discard_timeout": _time("How long the server listens on after it refused a message.", 0, 60),
}

_POP3_LIMITS: Final[Mapping[str, Setting]] = {
    "command_line": _octets("The longest command line.", 255, 64 * KIB, "RFC 2449 §4"),
    "argument": _octets("The longest argument of a command.", 40, 8192, "RFC 2449 §4"),
    "auth_line": _octets("The longest line of a login.", 512, 64 * KIB, "RFC 5034 §4"),
    "errors": _count("Bad commands before the connection is closed.", 1, 1_000_000),
    "idle_commands": limit(
        "Commands in a row that ask for no mail (NOOP, CAPA, RSET, LAST, and before the login USER, AUTH and UTF8).",
        "Postfix smtpd_junk_command_limit 100",
        10,
        empty="",
    ),
    "login_failures": _count("Failed logins before the connection is closed.", 1, 1000),
    "login_timeout": _time("How long a login may take in all.", 1, 3600),
    "idle_timeout": _time("How long the server waits for a command after the login.", 1, 86_400, "RFC 1939 §3"),
    "session_timeout": span(
        "How long a session may last after its login.",
        "half a day: a slow line needs hours for a large maildrop, and nobody should keep its lock longer",
        60,
        604_800,
    ),
    "stall_timeout": _time("How long a program may leave a reply unread.", 1, 3600),
}

_RELAY_LIMITS: Final[Mapping[str, Setting]] = {
    "connect": _time("How long an address may take to answer; the next one begins before that.", 1, 600),
    "greeting": _time("How long a host may take to greet.", 1, 3600, "RFC 5321 §4.5.3.2.1"),
    "hello": _time("How long it may take to answer EHLO, STARTTLS and a login.", 1, 3600),
    "mail": _time("How long it may take to answer MAIL.", 1, 3600, "RFC 5321 §4.5.3.2.2"),
    "rcpt": _time("How long it may take to answer RCPT.", 1, 3600, "RFC 5321 §4.5.3.2.3"),
    "data": _time("How long it may take to answer DATA.", 1, 3600, "RFC 5321 §4.5.3.2.4"),
    "content": _time("How long it may leave a part of the letter unread.", 1, 3600, "RFC 5321 §4.5.3.2.5"),
    "end_of_data": _time("How long it may take to answer the whole letter.", 1, 7200, "RFC 5321 §4.5.3.2.6"),
    "attempt": _time("How long a session with one host may last, beside the time for the letter's size.", 10, 86_400),
    "data_rate": Setting(
        Kind.INTEGER,
        "The octets per second by which a letter's size adds to that time.",
        unit="octets per second",
        low=1,
        high=10_000_000,
    ),
    "hosts": _count("Hosts that one attempt tries.", 1, 100, "RFC 5321 §5.1"),
    "addresses": _count("Addresses of one host that it tries.", 1, 100, "RFC 5321 §5.1"),
    "sessions": _count("Sessions that may fail in one attempt.", 1, 100, "RFC 5321 §5.1"),
    "recipients": _count("Recipients of one transaction.", 1, 10_000, "RFC 5321 §4.5.3.1.8"),
    "letters": _count("Letters that leave on one connection.", 1, 100_000),
    "age": _time("How long a connection is used for further letters.", 0, 3600),
    "idle": _time("How long a connection waits for a further letter.", 0, 300),
    "idle_connections": _count("Connections that wait, in all.", 0, 10_000),
    "idle_each": _count("Connections that wait, of one destination.", 0, 1000),
}


@dataclass(slots=True, frozen=True)
class Section:
    """One table of the configuration file. `build` makes its value from the settings that were given."""

    name: str
    help: str
    settings: Mapping[str, Setting]
    defaults: Mapping[str, Any]
    build: Callable[[Mapping[str, Any]], Any]
    required: tuple[str, ...] = ()


def annotated(kind: type) -> dict[str, Setting]:
    """The settings in the annotations of a value class, by name."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated:
            found[name] = next(item for item in get_args(hint) if isinstance(item, Setting))
    return found


def _defaults(value: Any, names: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _section(name: str, kind: type, limits: Mapping[str, Setting] | None = None) -> Section:
    own = annotated(kind)
    value = kind()
    if limits is None:
        return Section(name, kind.__doc__ or "", own, _defaults(value, own), lambda given: kind(**given))
    limit_kind = type(value.limits)
    numbers = {item.name for item in fields(limit_kind) if item.type != "bool"}
    assert set(limits) == numbers, "every limit is a setting"

    def build(given: Mapping[str, Any]) -> Any:
        of_limits = {key: item for key, item in given.items() if key in limits}
        others = {key: item for key, item in given.items() if key not in limits}
        return kind(limits=limit_kind(**of_limits), **others)

    defaults = {**_defaults(value.limits, limits), **_defaults(value, own)}
    return Section(name, kind.__doc__ or "", {**limits, **own}, defaults, build)


SECTIONS: Final[Mapping[str, Section]] = {
    section.name: section
    for section in (
        _section("server", ServerSettings),
        _section("smtp", SmtpSettings, _SMTP_LIMITS),
        _section("submission", SubmissionSettings),
        _section("pop3", Pop3Settings, _POP3_LIMITS),
        _section("tls", TlsSettings),
        _section("dns", DnsSettings),
        _section("relay", RelaySettings, _RELAY_LIMITS),
        _section("accounts", AccountSettings),
        _section("limits", LimitSettings),
        _section("sending", SendingSettings),
        _section("store", StoreSettings),
        _section("log", LogSettings),
    )
}

MOVED: Final[Mapping[str, str]] = {
    "smtp.trusted": "networks are named with a command now, beside the running server too. Remove this setting and run "
    "for each network: posthouse network add NETWORK --allow trusted",
    "limits.networks": "networks are named with a command now, beside the running server too. Remove this setting and "
    "run for each network: posthouse network add NETWORK --allow unlimited (with --replace and all its rights where it "
    "is named already)",
    "limits.local": "whether the limits pass over this machine is a right of its network now, which it has. Remove "
    "this setting; what it left out loses the right with: posthouse network add 127.0.0.0/8 --deny unlimited",
}
"""What became of settings that are no more."""

LISTENER: Final = Section(
    "listener",
    ListenerSettings.__doc__ or "",
    annotated(ListenerSettings),
    {"address": "*", "port": "25, 587, 465, 110, 995 or 24"},
    lambda given: ListenerSettings(**given),
    required=("protocol",),
)

CERTIFICATE: Final = Section(
    "certificate",
    CertificateSettings.__doc__ or "",
    annotated(CertificateSettings),
    {"key": "", "host": ""},
    lambda given: CertificateSettings(**given),
    required=("chain",),
)
