"""The settings that keep abuse in bounds: connections, failed logins, bans, and what an account may send.

Every number has its source beside it. What is a limit of one session's protocol stands in mail/limits.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from posthouse.config.values import Kind, Setting


def limit(help: str, source: str, low: int = 0, high: int = 1_000_000, empty: str = "no such limit") -> Setting:
    """A number that nobody may exceed; 0 stands for what `empty` says."""
    return Setting(Kind.INTEGER, help, low=low, high=high, source=source, empty=empty)


def span(help: str, source: str, low: float, high: float) -> Setting:
    """A length of time."""
    return Setting(Kind.SECONDS, help, unit="seconds", low=low, high=high, source=source)


@dataclass(slots=True)
class LimitSettings:
    """Connections and failed logins: what one address, one network and one account may do before it is slowed, put
    off or banned. A network is an IPv4 /24 or an IPv6 /64; for bans an IPv6 /64 counts as one address. Whom all this
    passes over has the right `unlimited`: posthouse network."""

    address_connections: Annotated[
        int,
        limit("Connections from one address at once.", "Postfix smtpd_client_connection_count_limit 50; mox 30"),
    ] = 50
    network_connections: Annotated[
        int, limit("Connections from one network at once.", "three times one address, as mox has it (30 and 90)")
    ] = 150
    address_rate: Annotated[int, limit("New connections from one address in a minute.", "mox 300")] = 300
    network_rate: Annotated[int, limit("New connections from one network in a minute.", "mox 900")] = 900
    delay_after: Annotated[
        int,
        limit(
            "Different wrong passwords for one account from one address that cost no delay; each further one doubles "
            "it, from one second on. The same wrong password again counts once.",
            "people mistype two or three times before they look it up; Dovecot delays from the first",
            high=1000,
            empty="delay from the first",
        ),
    ] = 3
    delay_longest: Annotated[
        float,
        span("The longest such delay.", "Dovecot AUTH_PENALTY_MAX_SECS 15", 0, 30),
    ] = 15.0
    pair_failures: Annotated[
        int,
        limit(
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
        limit(
            "Accounts for which logins from one address fail until all connections from there are refused.",
            "a household has fewer; fail2ban's maxretry 5",
            low=1,
            high=10_000,
            empty="",
        ),
    ] = 5
    address_failures: Annotated[
        int,
        limit(
            "Different failed logins from one address until all connections from there are refused.",
            "five accounts with ten wrong passwords each",
            low=1,
            high=10_000,
            empty="",
        ),
    ] = 50
    account_failures: Annotated[
        int,
        limit(
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
        span(
            "Failures count together when they fall into this time after the first.",
            "six times fail2ban's findtime of ten minutes, which patient attackers know",
            60,
            7 * 86_400,
        ),
    ] = 3600.0
    ban_time: Annotated[
        float,
        span("How long the first ban lasts; each further one twice as long.", "fail2ban's bantime is 600", 1, 86_400),
    ] = 900.0
    ban_longest: Annotated[
        float,
        span(
            "The longest ban, and how long an ended one counts when the next is measured.",
            "addresses of households change about once a day",
            1,
            365 * 86_400,
        ),
    ] = 86_400.0
    known_time: Annotated[
        float,
        span(
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
        int, limit("Letters an hour.", "half of the day's, so that a night's work is not sent in one minute")
    ] = 500
    letters_day: Annotated[int, limit("Letters a day.", "mox MaxOutgoingMessagesPerDay 1000")] = 1000
    recipients_hour: Annotated[
        int, limit("Recipients an hour, of all letters together.", "one letter to as many as smtp.recipients allows")
    ] = 1000
    recipients_day: Annotated[
        int, limit("Recipients a day, of all letters together.", "Google Workspace 2000 letters a day")
    ] = 2000
    new_recipients_day: Annotated[
        int,
        limit(
            "Recipients a day to whom this account has never written before; the last 4000 it wrote to are known.",
            "mox MaxFirstTimeRecipientsPerDay 200",
        ),
    ] = 200
