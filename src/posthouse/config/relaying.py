"""The settings for letters that are carried on to other servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final

from posthouse.config.values import Kind, Setting
from posthouse.mail.limits import RelayLimits

LANGUAGES: Final = ("en", "ru")
EIGHT_BIT: Final = ("return", "send")


@dataclass(slots=True)
class RelaySettings:
    """Letters for other servers: when they are tried again, how many leave at once, and how their senders are told."""

    limits: RelayLimits = field(default_factory=RelayLimits)
    schedule: Annotated[
        str,
        Setting(
            Kind.SCHEDULE,
            "When a letter that could not be carried on is tried again: times after its acceptance, then every so "
            "often, until it is given up; `notice` is when its sender is told of the delay (0: with the first failed "
            "attempt). "
            '"default" is "1m 5m 15m 30m 1h 2h 4h, every 3h, until 4d, notice 4h", "classic" is "1h 4h 1d 2d 3d 4d, '
            'until 4d, notice 0". A route can have its own.',
            rfc="RFC 5321 §4.5.4.1",
        ),
    ] = "default"
    language: Annotated[
        str,
        Setting(Kind.CHOICE, "The language of the notices to senders.", choices=LANGUAGES),
    ] = "en"
    connections: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "Letters that leave at once, to all destinations together.",
            low=1,
            high=10_000,
            source="Postfix default_process_limit 100, three times as many for hosts that do not answer",
        ),
    ] = 300
    destination_connections: Annotated[
        int,
        Setting(
            Kind.INTEGER,
            "Letters that leave at once for one destination. It begins with 2 and grows with each one taken.",
            low=1,
            high=1000,
            source="Postfix default_destination_concurrency_limit 20",
        ),
    ] = 20
    eight_bit: Annotated[
        str,
        Setting(
            Kind.CHOICE,
            "What happens to a letter with octets over 127 that may not be rewritten (it is signed) and meets a host "
            "without 8BITMIME: it comes back, or it is sent as it is.",
            choices=EIGHT_BIT,
            rfc="RFC 6152 §3",
        ),
    ] = "return"
