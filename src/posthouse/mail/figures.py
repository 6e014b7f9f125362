"""Times and sizes as people and programs read them."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float) -> str:
    """A time as programs and people read it: UTC, whole seconds (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def about(octets: int) -> str:
    """A size for people: `1.4M`."""
    size = float(octets)
    for unit in ("", "K", "M", "G"):
        if size < 1024:
            return f"{size:.0f}" if not unit else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}T"


def span(seconds: float) -> str:
    """A length of time for people, in the largest unit that it has at least two of: `3 days`."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
