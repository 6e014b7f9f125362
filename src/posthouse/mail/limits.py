"""Every bound of the protocols in one place, each with its source.

The servers get these as values; the configuration makes them from the administrator's settings.
Times are seconds, sizes are octets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOCAL_PART: Final = 64  # RFC 5321 §4.5.3.1.1
DOMAIN: Final = 255  # RFC 5321 §4.5.3.1.2
PATH: Final = 256  # RFC 5321 §4.5.3.1.3, with the angle brackets
REPLY_LINE: Final = 512  # RFC 5321 §4.5.3.1.5 and RFC 1939 §3, with CRLF
SASL_LINE: Final = 12_288  # RFC 4954 §4: the longest line of a login
HOPS: Final = 50  # Received fields after which a letter goes in a circle; RFC 5321 §6.3 asks for at least 100
HEADER_FIELD: Final = 10_000_000  # one header field that is looked at
HEADER: Final = 50_000_000  # all header fields that are looked at
RETURNED: Final = 262_144  # a letter that a notice gives back whole; RFC 3461 §6.2 leaves the bound to us
RETURNED_HEADER: Final = 65_536  # the header that a notice gives back otherwise


@dataclass(slots=True)
class SmtpLimits:
    """What one SMTP session may do."""

    message: int = 52_428_800  # 50 MiB, the largest message, announced with SIZE (RFC 1870)
    recipients: int = 1000  # per message; RFC 5321 §4.5.3.1.8 asks for at least 100
    command_line: int = 2048  # with CRLF; RFC 5321 §4.5.3.1.4 asks for 512 and room for parameters
    auth_line: int = SASL_LINE
    errors: int = 10  # bad commands before 421; Dovecot 3, Exim 4, Postfix 20
    bad_recipients: int = 20  # refused recipients in a session before 421; Postfix 20, with a growing delay
    idle_commands: int = 100  # commands in a row that send no message, before 421; Postfix counts 100 NOOPs
    login_failures: int = 5  # failed logins in a session before 421
    command_timeout: float = 300.0  # RFC 5321 §4.5.3.2.7: a server waits at least 5 minutes
    session_timeout: float = 7200.0  # a whole session, but for a message under way; twice what mailing lists keep open
    data_timeout: float = 180.0  # RFC 5321 §4.5.3.2.5: between two blocks of data
    data_rate: int = 1000  # octets a second that a sender must reach over a whole message, after 10 minutes
    discard_timeout: float = 2.0  # how long we listen on after the last reply of a refused message


@dataclass(slots=True)
class Pop3Limits:
    """What one POP3 session may do."""

    command_line: int = 512  # with CRLF; RFC 2449 §4 asks for 255
    argument: int = 255  # RFC 2449 §4
    auth_line: int = SASL_LINE
    errors: int = 10  # bad commands before the connection is closed
    idle_commands: int = 100  # commands in a row that ask for no mail; as for SMTP
    login_failures: int = 3  # failed logins in a session
    login_timeout: float = 60.0  # in all, from the greeting to a login
    idle_timeout: float = 600.0  # RFC 1939 §3: at least 10 minutes, between two commands after login
    session_timeout: float = 43_200.0  # from the login on: it holds the maildrop's lock; a modem needs hours for a GB
    stall_timeout: float = 300.0  # how long a client may leave a reply unread


@dataclass(slots=True)
class RelayLimits:
    """What an attempt to carry a letter on may cost, in time above all."""

    connect: float = 30.0  # for each address; Postfix 30 s
    greeting: float = 300.0  # RFC 5321 §4.5.3.2.1
    hello: float = 300.0  # EHLO, STARTTLS and AUTH; the RFC names none, Postfix has 5 minutes
    mail: float = 300.0  # RFC 5321 §4.5.3.2.2
    rcpt: float = 300.0  # RFC 5321 §4.5.3.2.3
    data: float = 120.0  # RFC 5321 §4.5.3.2.4
    content: float = 180.0  # RFC 5321 §4.5.3.2.5: between two blocks of data
    end_of_data: float = 600.0  # RFC 5321 §4.5.3.2.6
    attempt: float = 3600.0  # an attempt in all, whatever the single times are: for hosts that drip
    data_rate: int = 1000  # octets a second that are added to it for the size of the letter
    hosts: int = 15  # that one attempt tries
    addresses: int = 10  # of one host; Postfix 5 of all
    sessions: int = 5  # that fail before one attempt is over; RFC 5321 §5.1 asks for 2 addresses; Postfix 2 sessions
    recipients: int = 100  # of one transaction; RFC 5321 §4.5.3.1.8 has every server take as many
    letters: int = 100  # of one connection
    age: float = 300.0  # seconds after which a connection is not used again; Postfix 300
    idle: float = 5.0  # seconds that a connection waits for a further letter; Postfix 2
    idle_connections: int = 100  # that wait, in all
    idle_each: int = 20  # of one destination
    send_eight_bit: bool = False  # to hosts without 8BITMIME, where a letter cannot be rewritten: else it is returned
    tls_here: bool = False  # opportunistic TLS with this machine itself too

    def patience(self) -> dict[str, float]:
        """The time for each stage, by the names that clients give them."""
        return {
            "greeting": self.greeting,
            **dict.fromkeys(("ehlo", "tls", "auth", "rset"), self.hello),
            "mail": self.mail,
            "rcpt": self.rcpt,
            "data": self.data,
            "content": self.content,
            "end of data": self.end_of_data,
        }
