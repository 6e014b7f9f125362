"""A delivery status notification as people read it: its text, and what became of each recipient, in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from posthouse.mail.charsets import harmless_line
from posthouse.mail.message import Message
from posthouse.mail.report import Fate, Report, read_report

ROWS: Final = 100  # recipients that are shown
WIDEST: Final = 60  # columns of an address
WORDS: Final = 300  # characters of what a host said


def shown(message: Message) -> Iterator[str]:
    """The message for a terminal, in pieces: a notice as text and table, whoever wrote it; any other as it is."""
    report = read_report(message.octets, message.root)
    if report is None:
        yield from message.render()
        return
    root = message.root
    if root.type == "multipart/report":  # without the part for programs and what came back of the letter (RFC 6522 §3)
        root = replace(root, children=root.children[:1])
    yield from Message(message.octets, root).render()
    yield "\n"
    yield from (f"{line}\n" for line in table(report))


def table(report: Report) -> Iterator[str]:
    """A line for each recipient: what happened, status, address; below it who said what, and until when it is tried."""
    yield f"Report of {harmless_line(report.reporter)[:WIDEST] or 'an unknown server'}:"
    for fate in report.fates[:ROWS]:
        action = fate.action or "unknown"
        yield f"  {action:<10} {fate.status or '-':<8} {harmless_line(fate.recipient)[:WIDEST]}".rstrip()
        if fate.diagnostic:
            source = f"{harmless_line(fate.remote)[:WIDEST]}: " if fate.remote else ""
            yield f"             {source}{harmless_line(fate.diagnostic)[:WORDS]}"
        if fate.until is not None and (date := _date(fate.until)):
            yield f"             is tried until {date}"
    if len(report.fates) > ROWS:
        yield f"  ... and {len(report.fates) - ROWS} more"


def describe(report: Report) -> dict[str, Any]:
    """The same for programs; times are UTC, and null where nothing is said."""
    return {
        "reporter": report.reporter or None,
        "envelope_id": report.envid or None,
        "arrived": _date(report.arrived),
        "recipients": [_row(fate) for fate in report.fates],
    }


def _row(fate: Fate) -> dict[str, Any]:
    return {
        "to": fate.recipient,
        "action": fate.action or None,
        "status": fate.status or None,
        "host": fate.remote or None,
        "reply": fate.diagnostic or None,
        "tried": _date(fate.tried),
        "until": _date(fate.until),
    }


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):  # a year that the calendar does not have
        return None
