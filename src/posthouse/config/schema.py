"""Every setting of the server: its type, default, unit, bounds, help and standard, in one place.

The values are plain dataclasses; what describes a setting stands in its annotation. Defaults, the checks of the
loader and the reference page derive from here, and the limits of the protocols from mail/limits.py. A `Config` is
a value: whoever needs a part of it is given that part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from posthouse.config.values import Kind, Setting
from posthouse.mail.limits import Pop3Limits, SmtpLimits

KIB: Final = 1024
MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
PIB: Final = 1024 * 1024 * GIB

PROTOCOLS: Final = ("smtp", "submission", "submissions", "pop3", "pop3s", "lmtp")
PORTS: Final[Mapping[str, int]] = {
    "smtp": 25,
    "submission": 587,
    "submissions": 465,
    "pop3": 110,
    "pop3s": 995,
    "lmtp": 24,
}
IMPLICIT_TLS: Final[Mapping[str, str]] = {"submissions": "submission", "pop3s": "pop3"}
"""Protocols that begin with TLS at once, and what is spoken within it (RFC 8314 §3)."""
STYLES: Final = ("posthouse", "classic")
LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(slots=True)
class ServerSettings:
    """The server as a whole."""

    hostname: Annotated[
        str,
        Setting(
            Kind.HOST,
            "The server's own name in greetings and Received fields.",
            rfc="RFC 5321 §4.1.3",
            empty="the name of this machine",
        ),
    ] = ""
    data: Annotated[
        str,
        Setting(
            Kind.TEXT,
            "The directory that holds all mail and accounts. A relative path counts from the configuration file. "
            "The option --data and the variable POSTHOUSE_DATA go before it.",
            empty="the usual place of this system",
        ),
    ] = ""
    user: Annotated[
        str,
        Setting(
            Kind.TEXT,
            "The system user that the server becomes when root starts it, before it opens anything. The data directory "
            "and the log must belong to it. It keeps the right to bind ports below 1024 and none else.",
            empty="whoever starts it",
        ),
    ] = ""
    style: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "The texts of replies: our own with enhanced status codes, or exactly those of the teaching lab.",
            choices=STYLES,
            rfc="RFC 2034 §4",
        ),
    ] = "posthouse"
    connections: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "How many connections are served at once, on all listeners together; more are told to come back later.",
            low=1,
            high=100_000,
            rfc="RFC 5321 §4.5.3.2",
        ),
    ] = 10_000
    stop_timeout: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long running sessions may take to finish when the server is stopped.",
            unit="seconds",
            low=0,
            high=600,
        ),
    ] = 10.0


@dataclass(slots=True, frozen=True)
class ListenerSettings:
    """One address on which the server waits for connections. The table may stand any number of times."""

    protocol: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "What is spoken there: smtp takes mail in from other servers, submission from people who log in, lmtp "
            "from a server in front of this one; pop3 hands mail out. submissions and pop3s are the same within TLS "
            "from the first octet.",
            choices=PROTOCOLS,
            rfc="RFC 5321, RFC 6409, RFC 2033, RFC 1939, RFC 8314",
        ),
    ]
    address: Annotated[
        str,
        Setting(Kind.ADDRESS, "The address of this machine on which to wait; * is every address, IPv4 and IPv6."),
    ] = "*"
    port: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "The port. Without it: 25 for smtp, 587 for submission, 465 for submissions, 110 for pop3, 995 for pop3s, "
            "24 for lmtp.",
            low=0,
            high=65_535,
            empty="any free port",
        ),
    ] = -1

    def __post_init__(self) -> None:
        if self.port < 0:
            object.__setattr__(self, "port", PORTS[self.protocol])

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol}={address}:{self.port}"


DEFAULT_LISTENERS: Final = tuple(
    ListenerSettings(protocol) for protocol in ("smtp", "submission", "submissions", "pop3", "pop3s")
)
"""What a server without configured listeners waits on: every address of the machine, the standard's ports."""


@dataclass(slots=True)
class TlsSettings:
    """Encryption. Without any [[certificate]] the server makes one, with an authority of its own."""

    offer: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "Whether TLS is offered: with STARTTLS and STLS, and on the listeners submissions and pop3s. Without it "
            "only this machine itself may log in.",
            choices=("yes", "no"),
            rfc="RFC 3207, RFC 2595, RFC 8314",
        ),
    ] = "yes"
    minimum: Annotated[
        str,
        Setting(Kind.CHOICE, "The oldest version of TLS.", choices=("1.2", "1.3"), rfc="RFC 9325 §3.1"),
    ] = "1.2"
    handshake_timeout: Annotated[
        float,
        Setting(Kind.SECONDS, "How long one handshake may take.", unit="seconds", low=1, high=300),
    ] = 30.0
    handshakes: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "How many handshakes may be under way at once; more are dropped. Each takes some 60 KiB of memory, without "
            "uvloop 320 KiB.",
            low=10,
            high=100_000,
        ),
    ] = 1000
    look_again: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How often the server looks whether a certificate file has changed or is to be renewed.",
            unit="seconds",
            low=0.1,
            high=86_400,
        ),
    ] = 30.0


@dataclass(slots=True, frozen=True)
class CertificateSettings:
    """A certificate of your own. The table may stand any number of times; the first is shown where no name fits."""

    chain: Annotated[
        str,
        Setting(
            Kind.TEXT,
            "The file with the certificate and those of the authorities between it and the root, in PEM, the server's "
            "own first. A relative path counts from the configuration file.",
        ),
    ]
    key: Annotated[
        str,
        Setting(Kind.TEXT, "The file with its private key, in PEM, without a pass phrase.", empty="the same file"),
    ] = ""
    host: Annotated[
        str,
        Setting(
            Kind.TEXT,
            "The host name for which it is shown; *.example.org stands for all names one level below.",
            rfc="RFC 6066 §3",
            empty="all names in the certificate",
        ),
    ] = ""


BARE_LF: Final = ("reject", "normalize")


@dataclass(slots=True)
class SmtpSettings:
    """SMTP, submission and LMTP."""

    limits: SmtpLimits = field(default_factory=SmtpLimits)
    bare_lf: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "What happens to a message with a line feed that has no carriage return before it: it is refused, or the "
            "lines are put right. Whatever is set, only CR LF . CR LF ends a message.",
            choices=BARE_LF,
            rfc="RFC 5321 §2.3.8",
        ),
    ] = "reject"
    bare_lf_trusted: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "The same for peers that may do so (`trusted` in `posthouse network`; this machine itself may) and for "
            "senders who logged in.",
            choices=BARE_LF,
            rfc="RFC 5321 §2.3.8",
        ),
    ] = "normalize"


SENDER: Final = ("refuse", "add-sender", "off")


@dataclass(slots=True)
class SubmissionSettings:
    """What holds for senders who logged in, by submission or by SMTP."""

    sender: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "Whose address a sender who logged in may name. `refuse`: the envelope sender and one address in From or "
            "Resent-From must be the login's own or granted to it (`posthouse account grant-sender`). `add-sender`: "
            "the envelope sender must be; a letter with another From gets a Sender field that names the login, and a "
            "foreign Sender field is removed. `off`: nothing is checked.",
            choices=SENDER,
            rfc="RFC 6409 §6.1, §8.1",
        ),
    ] = "refuse"


@dataclass(slots=True)
class Pop3Settings:
    """POP3."""

    limits: Pop3Limits = field(default_factory=Pop3Limits)


@dataclass(slots=True)
class DnsSettings:
    """Names of the clients' addresses, for the Received field."""

    servers: Annotated[
        tuple[str, ...],
        Setting(
            Kind.SERVERS,
            "Name servers to ask. Names of private addresses are asked only of servers set here.",
            empty="those of this system",
        ),
    ] = ()
    timeout: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long one look-up may take in all; without an answer the name is left out.",
            unit="seconds",
            low=0.05,
            high=10,
        ),
    ] = 1.0
    negative_cache: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long it is remembered that an address has no name.",
            unit="seconds",
            low=0,
            high=86_400,
            rfc="RFC 2308 §5",
        ),
    ] = 300.0
    cache: Annotated[
        int, Setting(Kind.INTEGER, "How many addresses are remembered, with and without names.", low=10, high=1_000_000)
    ] = 10_000
    dead_time: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long a name server that does not answer is left alone.",
            unit="seconds",
            low=1,
            high=3600,
        ),
    ] = 60.0


@dataclass(slots=True)
class AccountSettings:
    """Accounts, their passwords and quotas."""

    quota: Annotated[
        int,
        Setting(Kind.OCTETS, "How much mail a new account may hold.", unit="octets", low=0, high=PIB, empty="no limit"),
    ] = 0
    postmaster: Annotated[
        str,
        Setting(
            Kind.MAILBOX,
            "The account that gets letters to postmaster, in every domain that has no account of that name. Every mail "
            "server must take them.",
            rfc="RFC 5321 §4.5.1",
            empty="nobody; such letters are refused unless the domain has that account",
        ),
    ] = ""
    hash_memory: Annotated[
        int,
        Setting(
            Kind.OCTETS,
            "Memory that one password hash (argon2id) takes. Older hashes are renewed at the next login.",
            unit="octets",
            low=64 * KIB,
            high=4 * GIB,
            rfc="RFC 9106 §4",
        ),
    ] = 19 * MIB
    hash_passes: Annotated[
        int, Setting(Kind.INTEGER, "Passes over that memory.", low=1, high=1000, rfc="RFC 9106 §4")
    ] = 2
    hash_lanes: Annotated[
        int, Setting(Kind.INTEGER, "Lanes of one password hash.", low=1, high=16, rfc="RFC 9106 §4")
    ] = 1
    hash_threads: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "How many passwords are verified at once. Each of these threads keeps the memory of one hash.",
            low=0,
            high=256,
            empty="one less than the processor has cores, at least one",
        ),
    ] = 0
    hash_queue: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "How many logins may wait for their verification; more are told to come back.",
            low=1,
            high=100_000,
            rfc="RFC 4954 §6",
        ),
    ] = 100
    login_cache: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "How many verified logins are remembered in memory, so that a program which looks for mail every minute "
            "does not cost a hash each time.",
            low=0,
            high=1_000_000,
            empty="none",
        ),
    ] = 10_000
    login_cache_time: Annotated[
        float,
        Setting(Kind.SECONDS, "How long a verified login is remembered.", unit="seconds", low=0, high=86_400),
    ] = 300.0
    scram: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "Whether SCRAM-SHA-256 is offered, with which programs prove that they know the password without sending "
            "it. For that a verifier is kept beside the hash of each password; whoever steals the store can try "
            "passwords against it, a little faster than against the hash.",
            choices=("on", "off"),
            rfc="RFC 7677",
        ),
    ] = "on"
    recoverable_passwords: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "Whether passwords that are set from now on are also kept so that the server can read them, which CRAM-MD5 "
            "and APOP need; both are then offered. They are encrypted with a key in the file passwords.key beside the "
            "store: whoever gets hold of both has every such password in clear. Leave it off unless an old program "
            "knows nothing better.",
            choices=("off", "on"),
            rfc="RFC 2195 §3",
        ),
    ] = "off"
    failure_time: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "When a failed login is answered, counted from the password's arrival, so that the time does not tell "
            "whether the account exists; what takes longer is answered at a multiple of it. Choose more than the "
            "slowest password hash in use takes.",
            unit="seconds",
            low=0,
            high=10,
            empty="at once, which lets time tell",
        ),
    ] = 0.5


def _limit(help: str, source: str, low: int = 0, high: int = 1_000_000, empty: str = "no such limit") -> Setting:
    return Setting(Kind.INTEGER, help, low=low, high=high, source=source, empty=empty)


def _span(help: str, source: str, low: float, high: float) -> Setting:
    return Setting(Kind.SECONDS, help, unit="seconds", low=low, high=high, source=source)


@dataclass(slots=True)
class LimitSettings:
    """Connections and failed logins: what one address, one network and one account may do before it is slowed, put
    off or banned. A network is an IPv4 /24 or an IPv6 /64; for bans an IPv6 /64 counts as one address."""

    local: Annotated[
        tuple[str, ...],
        Setting(
            Kind.NETWORKS,
            "What counts as this machine itself in this section: no limit of connections but the one of all together, "
            "and failed logins are delayed, never banned. A local socket always counts. Behind a proxy on this machine "
            "everybody seems to come from here: then the proxy must set the limits.",
            source="the loopback networks of RFC 1122 §3.2.1.3 and RFC 4291 §2.5.3",
        ),
    ] = ("127.0.0.0/8", "::1/128")
    networks: Annotated[
        tuple[str, ...],
        Setting(
            Kind.NETWORKS,
            "Networks that are treated the same, such as an office whose people share one address: one telephone with "
            "an old password must not lock all of them out.",
            source="nobody but you knows them",
        ),
    ] = ()
    address_connections: Annotated[
        int,
        _limit("Connections from one address at once.", "Postfix smtpd_client_connection_count_limit 50; mox 30"),
    ] = 50
    network_connections: Annotated[
        int, _limit("Connections from one network at once.", "three times one address, as mox has it (30 and 90)")
    ] = 150
    address_rate: Annotated[int, _limit("New connections from one address in a minute.", "mox 300")] = 300
    network_rate: Annotated[int, _limit("New connections from one network in a minute.", "mox 900")] = 900
    delay_after: Annotated[
        int,
        _limit(
            "Different wrong passwords for one account from one address that cost no delay; each further one doubles "
            "it, from one second on. The same wrong password again counts once.",
            "people mistype two or three times before they look it up; Dovecot delays from the first",
            high=1000,
            empty="delay from the first",
        ),
    ] = 3
    delay_longest: Annotated[
        float,
        _span("The longest such delay.", "Dovecot AUTH_PENALTY_MAX_SECS 15", 0, 30),
    ] = 15.0
    pair_failures: Annotated[
        int,
        _limit(
            "Different wrong passwords for one account from one address that end in a ban of this account from there. "
            "Nobody is told of it: further logins are refused as if the password were wrong.",
            "NIST SP 800-63B §5.2.2 allows 100 in all; a tenth of it from one place",
            low=1,
            high=10_000,
            empty="",
        ),
    ] = 10
    address_accounts: Annotated[
        int,
        _limit(
            "Accounts for which logins from one address fail until all connections from there are refused.",
            "a household has fewer; fail2ban's maxretry 5",
            low=1,
            high=10_000,
            empty="",
        ),
    ] = 5
    address_failures: Annotated[
        int,
        _limit(
            "Different failed logins from one address until all connections from there are refused.",
            "five accounts with ten wrong passwords each",
            low=1,
            high=10_000,
            empty="",
        ),
    ] = 50
    account_failures: Annotated[
        int,
        _limit(
            "Different wrong passwords for one account, from wherever, after which strangers wait for a turn that "
            "comes every five seconds. Networks from which the account was used not long ago are not affected.",
            "twice what one address may try",
            low=1,
            high=10_000,
            empty="",
        ),
    ] = 20
    failure_window: Annotated[
        float,
        _span(
            "Failures count together when they fall into this time after the first.",
            "six times fail2ban's findtime of ten minutes, which patient attackers know",
            60,
            7 * 86_400,
        ),
    ] = 3600.0
    ban_time: Annotated[
        float,
        _span("How long the first ban lasts; each further one twice as long.", "fail2ban's bantime is 600", 1, 86_400),
    ] = 900.0
    ban_longest: Annotated[
        float,
        _span(
            "The longest ban, and how long an ended one counts when the next is measured.",
            "addresses of households change about once a day",
            1,
            365 * 86_400,
        ),
    ] = 86_400.0
    known_time: Annotated[
        float,
        _span(
            "How long a network counts as an owner's own after a login to the account.",
            "a month covers holidays; most mail programs log in daily",
            0,
            365 * 86_400,
        ),
    ] = 30 * 86_400.0


@dataclass(slots=True)
class SendingSettings:
    """What one account may send, so that a stolen password does little harm. Hours and days begin with the first
    letter; counted is what was accepted from somebody who logged in."""

    letters_hour: Annotated[
        int, _limit("Letters an hour.", "half of the day's, so that a night's work is not sent in one minute")
    ] = 500
    letters_day: Annotated[int, _limit("Letters a day.", "mox MaxOutgoingMessagesPerDay 1000")] = 1000
    recipients_hour: Annotated[
        int, _limit("Recipients an hour, of all letters together.", "one letter to as many as smtp.recipients allows")
    ] = 1000
    recipients_day: Annotated[
        int, _limit("Recipients a day, of all letters together.", "Google Workspace 2000 letters a day")
    ] = 2000
    new_recipients_day: Annotated[
        int,
        _limit(
            "Recipients a day to whom this account has never written before; the last 4000 it wrote to are known.",
            "mox MaxFirstTimeRecipientsPerDay 200",
        ),
    ] = 200


@dataclass(slots=True)
class LogSettings:
    """The log."""

    format: Annotated[
        str,
        Setting(Kind.CHOICE, "How its lines look: for people (key=value) or for programs.", choices=("text", "json")),
    ] = "text"
    level: Annotated[str, Setting(Kind.CHOICE, "The least important lines it has.", choices=LEVELS)] = "info"
    file: Annotated[
        str,
        Setting(
            Kind.TEXT,
            "A file to which it is appended; a relative path counts from the configuration file. It is opened anew at "
            "SIGHUP.",
            empty="standard error",
        ),
    ] = ""


@dataclass(slots=True)
class StoreSettings:
    """How letters are kept."""

    small: Annotated[
        int,
        Setting(
            Kind.OCTETS,
            "Contents up to this size lie in the database; larger ones get a file of their own.",
            unit="octets",
            low=KIB,
            high=16 * MIB,
        ),
    ] = 128 * KIB
    jobs: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "How many letters and changes may wait to be written; more are put off.",
            low=10,
            high=1_000_000,
        ),
    ] = 4096
    waiting_octets: Annotated[
        int,
        Setting(Kind.OCTETS, "How much of them may wait in memory.", unit="octets", low=MIB, high=64 * GIB),
    ] = 64 * MIB
    busy_timeout: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long is waited for another program that is writing to the database.",
            unit="seconds",
            low=0.1,
            high=300,
        ),
    ] = 10.0
    reserve: Annotated[
        int,
        Setting(
            Kind.OCTETS,
            "Room on the disk that is kept aside, so that mail can still be deleted when the disk is full.",
            unit="octets",
            low=0,
            high=GIB,
            empty="none",
        ),
    ] = 16 * MIB


@dataclass(slots=True)
class Config:
    """All settings of a server. `listeners` is never empty."""

    server: ServerSettings = field(default_factory=ServerSettings)
    listeners: tuple[ListenerSettings, ...] = DEFAULT_LISTENERS
    smtp: SmtpSettings = field(default_factory=SmtpSettings)
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    pop3: Pop3Settings = field(default_factory=Pop3Settings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    certificates: tuple[CertificateSettings, ...] = ()
    dns: DnsSettings = field(default_factory=DnsSettings)
    accounts: AccountSettings = field(default_factory=AccountSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    sending: SendingSettings = field(default_factory=SendingSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    log: LogSettings = field(default_factory=LogSettings)


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
    "session_timeout": _span(
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
    "idle_commands": _limit(
        "Commands in a row that ask for no mail (NOOP, CAPA, RSET, LAST, and before the login USER, AUTH and UTF8).",
        "Postfix smtpd_junk_command_limit 100",
        10,
        empty="",
    ),
    "login_failures": _count("Failed logins before the connection is closed.", 1, 1000),
    "login_timeout": _time("How long a login may take in all.", 1, 3600),
    "idle_timeout": _time("How long the server waits for a command after the login.", 1, 86_400, "RFC 1939 §3"),
    "session_timeout": _span(
        "How long a session may last after its login.",
        "half a day: a slow line needs hours for a large maildrop, and nobody should keep its lock longer",
        60,
        604_800,
    ),
    "stall_timeout": _time("How long a program may leave a reply unread.", 1, 3600),
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


def _annotated(kind: type) -> dict[str, Setting]:
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated:
            found[name] = next(item for item in get_args(hint) if isinstance(item, Setting))
    return found


def _defaults(value: Any, names: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _section(name: str, kind: type, limits: Mapping[str, Setting] | None = None) -> Section:
    own = _annotated(kind)
    value = kind()
    if limits is None:
        return Section(name, kind.__doc__ or "", own, _defaults(value, own), lambda given: kind(**given))
    limit_kind = type(value.limits)
    assert set(limits) == {item.name for item in fields(limit_kind)}, "every limit is a setting"

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
}
"""What became of settings that are no more."""

LISTENER: Final = Section(
    "listener",
    ListenerSettings.__doc__ or "",
    _annotated(ListenerSettings),
    {"address": "*", "port": "25, 587, 465, 110, 995 or 24"},
    lambda given: ListenerSettings(**given),
    required=("protocol",),
)

CERTIFICATE: Final = Section(
    "certificate",
    CertificateSettings.__doc__ or "",
    _annotated(CertificateSettings),
    {"key": "", "host": ""},
    lambda given: CertificateSettings(**given),
    required=("chain",),
)
