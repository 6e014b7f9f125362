"""The settings of the server by their sections: type, default, unit, bounds, help and standard of each. Those against
abuse stand in limits.py.

The values are plain dataclasses; what describes a setting stands in its annotation. Defaults, the checks of the loader
and the reference page derive from here (sections.py), and the limits of the protocols from mail/limits.py. A `Config`
is a value: whoever needs a part of it is given that part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from posthouse.config.limits import LimitSettings, SendingSettings
from posthouse.config.relaying import RelaySettings
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
    outbox: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "Whether the outbox of the person as whom the server runs is worked on too: what `posthouse send` could "
            "not hand over is tried when its time has come, as by `posthouse outbox run --watch`. It is for a server "
            "that somebody runs on a machine of their own, and reads nobody else's outbox.",
            choices=("on", "off"),
        ),
    ] = "off"
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
    memory: Annotated[
        int,
        Setting(
            Kind.OCTETS,
            "How much memory all connections together may take: half of it for what was received and not yet used and "
            "for what peers do not read, half for letters on their way in. 8 KiB of each connection, and of each "
            "letter, are free. When it is used up, everything is read in small pieces, letters go to the disk early, "
            "and connections that hold much and do not go on are dropped; all others are served, more slowly.",
            unit="octets",
            low=8 * MIB,
            high=64 * GIB,
            source="a quarter of the smallest machine one rents, with 1 GiB",
        ),
    ] = 256 * MIB
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
            "only this machine itself and networks named `clear` may log in.",
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
    """Names of the clients' addresses, for the Received field; and the hosts that take the mail of other domains."""

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
            "How long the look-up of a client's name may take in all; without an answer the name is left out.",
            unit="seconds",
            low=0.05,
            high=10,
        ),
    ] = 1.0
    negative_cache: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long it is remembered at most that a name or an address is not known.",
            unit="seconds",
            low=0,
            high=86_400,
            rfc="RFC 2308 §5",
        ),
    ] = 300.0
    cache: Annotated[
        int, Setting(Kind.INTEGER, "How many addresses are remembered, with and without names.", low=10, high=1_000_000)
    ] = 10_000
    mail_timeout: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long one look-up of where mail goes may take in all; without an answer the letter waits.",
            unit="seconds",
            low=0.1,
            high=60,
            rfc="RFC 5321 §5.1",
        ),
    ] = 15.0
    mail_cache: Annotated[
        int, Setting(Kind.INTEGER, "How many answers about mail hosts are remembered.", low=10, high=100_000)
    ] = 2000
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
            "passwords against it, and graphics cards do that much faster than against the hash.",
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
    undelete: Annotated[
        float,
        Setting(
            Kind.SECONDS,
            "How long a deleted letter can be brought back (posthouse account undelete). It takes room on the disk, "
            "not in the quota; when the disk is full, the oldest go first.",
            unit="seconds",
            low=0,
            high=365 * 86_400,
            source="a week covers a weekend and a short illness; Exchange keeps 14 days, Gmail 30",
            empty="it is gone at once",
        ),
    ] = 7 * 86_400.0


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
    relay: RelaySettings = field(default_factory=RelaySettings)
    accounts: AccountSettings = field(default_factory=AccountSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    sending: SendingSettings = field(default_factory=SendingSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    log: LogSettings = field(default_factory=LogSettings)
