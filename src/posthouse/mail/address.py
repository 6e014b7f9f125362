"""Mail addresses (RFC 5321 §4.1.2). Provisional: the parser comes with the SMTP grammar."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Address:
    """A mail address as it was written: `local` without quotes, `domain` without brackets removed."""

    local: str
    domain: str

    @property
    def key(self) -> str:
        """The form two equal addresses share: lower case, the domain as A-labels."""
        return f"{self.local}@{self.domain}".lower()

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"
