"""The path of a message as people read it: lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from posthouse.mail.charsets import harmless_line
from posthouse.mail.path import CLOCKS, Leg, Path
from posthouse.mail.verdicts import METHODS

BAR: Final = 6  # columns of the bar of the slowest hop
WIDEST: Final = 44  # columns of a host
NAMES: Final = {"spf": "SPF", "dkim": "DKIM", "dmarc": "DMARC", "arc": "ARC"}


def lines(path: Path, *, terminal: bool = False, colour: bool = False) -> Iterator[str]:
    """The path as lines of text, each harmless. Bars are for terminals, colours for those that want them."""
    yield from _head(path)
    yield ""
    if path.left_out:
        yield f"{path.left_out} older hops are not shown."
    slowest = path.slowest
    most = (slowest.delay or 0) if slowest is not None else 0
    rows = [(leg, *_cells(leg, most if terminal else 0)) for leg in path.legs]
    widths = [
        max(map(len, column)) for column in zip(("delay", "from", "by"), *(row[1:4] for row in rows), strict=True)
    ]
    yield f" #  {'delay':<{widths[0]}}  {'from':<{widths[1]}}  {'by':<{widths[2]}}  how"
    for place, (leg, *cells, how) in enumerate(rows):
        if leg.trusted and place and not path.legs[place - 1].trusted:
            yield _paint("------- above: claimed, below: our own servers", "2", colour)
        row = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        shade = "33" if (leg.delay or 0) < 0 or leg.gap else ("1" if leg is slowest else "")
        yield _paint(f"{leg.n:>2}  {row}  {how}".rstrip(), shade, colour)
        for note in leg.notes:
            if note == CLOCKS:
                continue  # the delay says so
            yield _paint(harmless_line(f"    ! {note}"), "33", colour)
    yield _verdict_line(path)


def _head(path: Path) -> Iterator[str]:
    for title, value in (
        ("From", path.first("from")),
        ("To", path.first("to")),
        ("Mailer", path.mailer),
        ("Message-ID", path.first("message-id")),
        ("List", path.first("list-id")),
        ("Sent", _when(path)),
        ("Arrived", _arrived(path)),
        ("Journey", _journey(path)),
    ):
        if value:
            yield f"{title:<10}  {harmless_line(value)}"


def _when(path: Path) -> str | None:
    if path.sent is None:
        return f"{path.first('date')} (this is no date)" if path.first("date") else None
    if path.sent.seconds is None:
        return f"{path.first('date')} ({path.sent.notes[-1]})"
    return _local(path.sent.seconds, path.sent.zone)


def _arrived(path: Path) -> str | None:
    leg = path.arrived
    if leg is None or leg.stamp.moment is None or leg.time is None:
        return None
    # In the zone of the sender, so that the two can be compared by eye.
    moment = path.sent if path.sent is not None and path.sent.seconds is not None else leg.stamp.moment
    return _local(leg.time, moment.zone)


def _local(seconds: int, zone: str | None) -> str:
    minutes = 0
    if zone and zone[:1] in ("+", "-") and len(zone) == 5 and zone[1:].isdigit() and int(zone[1:3]) < 24:
        minutes = (int(zone[1:3]) * 60 + int(zone[3:])) * (-1 if zone[0] == "-" else 1)
    try:
        moment = datetime.fromtimestamp(seconds, UTC) + timedelta(minutes=minutes)
    except OverflowError:
        moment, minutes = datetime.fromtimestamp(seconds, UTC), 0
    return f"{moment:%Y-%m-%d %H:%M:%S} {zone if minutes else 'UTC'}"


def _journey(path: Path) -> str:
    total, slowest = path.total, path.slowest
    count = len(path.legs) + path.left_out
    text = f"{'unknown' if total is None else duration(total)}, {count} hop{'' if count == 1 else 's'}"
    if slowest is None:
        return text
    return f"{text} ({duration(slowest.delay or 0)} of it at hop {slowest.n})"


def duration(seconds: int) -> str:
    """`18 s`, `2 min 5 s`, `3 h 0 min`, `4 d 2 h`; negative when two clocks disagree."""
    if seconds < 0:
        return f"-{duration(-seconds)} (clocks)"
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // below} {small}"
    return f"{seconds} s"


def _cells(leg: Leg, most: int) -> tuple[str, str, str, str]:
    stamp = leg.stamp
    delay = "-" if leg.delay is None else f"{'+' if leg.delay >= 0 else ''}{duration(leg.delay)}"
    if most and leg.delay and leg.delay > 0:
        delay += " " + "█" * max(1, round(leg.delay / most * BAR))
    source = host(stamp.source, stamp.ip)
    tls = "" if stamp.tls is None else (stamp.tls[0] or "TLS").replace("TLSv", "TLS")
    how = f"{stamp.protocol or '-'}  {tls}".rstrip()
    return delay, source, _short(stamp.by or "(nobody)"), harmless_line(how)[:WIDEST]


def host(name: str | None, ip: str | None) -> str:
    """A host as people read it: `out.example.net [192.0.2.25]`."""
    if name is None:
        return f"[{ip}]" if ip else "(itself)"
    return _short(name) if ip is None or ip in name else f"{_short(name)} [{ip}]"


def _short(text: str) -> str:
    text = harmless_line(text)
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _verdict_line(path: Path) -> str:
    verdicts = path.verdicts
    if not verdicts.said:
        if not verdicts.ignored:
            return "Nobody says anything about SPF, DKIM or DMARC."
        return "What the header says of SPF, DKIM and DMARC is not believed: no server named by --trusted says it."
    parts = []
    for method in METHODS:
        result = verdicts.result(method)
        if result is not None:
            first = next(v for v in verdicts.said if v.method == method and v.result == result)
            parts.append(f"{NAMES[method]} {result} {first.domain or ''}".rstrip())
    by = ", ".join(dict.fromkeys(verdict.by for verdict in verdicts.said))
    return harmless_line(f"{'   '.join(parts)}   (said by {by}, trusted)")


def _paint(text: str, shade: str, colour: bool) -> str:
    return f"\x1b[{shade}m{text}\x1b[0m" if colour and shade else text
