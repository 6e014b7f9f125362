"""The envelope of a letter: who sent it, to whom it goes and what was asked with it (RFC 5321 §2.3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from posthouse.mail.address import Address


@dataclass(slots=True)
class Recipient:
    """One forward-path with what RCPT asked for it (RFC 3461 §4.1, §4.2)."""

    address: Address
    notify: tuple[str, ...] = ()  # of NEVER, SUCCESS, FAILURE, DELAY; empty: not given
    orcpt: str | None = None  # "rfc822;user@example.org", xtext decoded


@dataclass(slots=True)
class Envelope:
    """The reverse-path, the recipients and the parameters of MAIL. `sender` None is the null reverse-path."""

    sender: Address | None
    recipients: list[Recipient] = field(default_factory=list)
    size: int | None = None  # SIZE= (RFC 1870), the sender's word
    body: str | None = None  # BODY=: "7BIT" or "8BITMIME" (RFC 6152)
    smtputf8: bool = False  # RFC 6531 §3.4
    ret: str | None = None  # RET=: "FULL" or "HDRS" (RFC 3461 §4.3)
    envid: str | None = None  # ENVID=, xtext decoded (RFC 3461 §4.4)
    auth: str | None = None  # AUTH=, xtext decoded (RFC 4954 §5)
