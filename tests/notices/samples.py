"""Notices that are always the same: `python -m tests.notices.samples` writes tests/notices/ours anew.

The times, the random octets and the zone are fixed, so that any change of a notice shows in the files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta, timezone
from pathlib import Path
from typing import Final

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.schedule import CLASSIC, USUAL
from posthouse.mta.bounce import Composed, Notices, Told
from tests.smtp_stage import START, Seeded, StillClock

OURS: Final = Path(__file__).parent / "ours"
FOREIGN: Final = Path(__file__).parent / "foreign"
MOSCOW: Final = timezone(timedelta(hours=3))
RECEIVED: Final = (
    b"Received: from pc.x.mail ([192.0.2.77])\r\n\tby mx.x.mail (Posthouse) with ESMTPA id 01;\r\n"
    b"\tTue, 14 Nov 2023 22:13:00 +0000\r\n"
)
LETTER: Final = (
    b"From: Test <test@x.mail>\r\nTo: anna@example.org\r\nSubject: Message 1\r\n"
    b"Date: Tue, 14 Nov 2023 22:12:58 +0000\r\nMessage-ID: <1@x.mail>\r\n\r\nHello\r\n"
)


@dataclass(slots=True)
class Stored:
    """A letter of the store: whole in memory, or in pieces."""

    content: bytes
    prefix: bytes = RECEIVED
    in_pieces: bool = False

    @property
    def size(self) -> int:
        return len(self.prefix) + len(self.content)

    @property
    def octets(self) -> bytes | None:
        return None if self.in_pieces else self.prefix + self.content

    async def chunks(self) -> AsyncIterator[bytes]:
        whole = self.prefix + self.content
        for place in range(0, len(whole), 1000):
            yield whole[place : place + 1000]


def notices(language: str = "en") -> Notices:
    return Notices("mx.x.mail", Address.parse("postmaster@x.mail"), language, StillClock(), Seeded(), MOSCOW)


def envelope(sender: str | None = "test@x.mail", *recipients: str, **given: str | bool) -> Envelope:
    found = Envelope(None if sender is None else Address.parse(sender))
    found.recipients = [Recipient(Address.parse(one)) for one in recipients or ("anna@example.org",)]
    for name, value in given.items():
        setattr(found, name, value)
    return found


def told(action: str = "failed", status: str = "5.1.1", reply: str = "", to: str = "anna@example.org") -> Told:
    return Told(to, None, action, status, reply, bool(reply), "mx.example.org", "192.0.2.2", START, "rcpt")


UNKNOWN: Final = Told(
    "anna@example.org",
    "rfc822;Anna@example.org",
    "failed",
    "5.1.1",
    "550-5.1.1 <anna@example.org>: Recipient address rejected:\n550 5.1.1 User unknown",
    True,
    "mx.example.org",
    "192.0.2.2",
    START,
    "rcpt",
)
SILENT: Final = Told(
    "boris@example.net", None, "delayed", "4.4.1", "connect: connection refused", False, "", "", START, "connect"
)


def compose(
    language: str,
    one: Envelope,
    what: list[Told],
    letter: Stored | None = None,
    upcoming: list[float] | None = None,
    until: float | None = None,
) -> Composed:
    made = notices(language).compose(
        one, "0c5e1f0a2b7d3c4e5f6a7b", START - 20, what, upcoming or [], letter or Stored(LETTER), until
    )
    return asyncio.run(made)


def _delayed(language: str, *, classic: bool) -> bytes:
    schedule = CLASSIC if classic else USUAL
    due = schedule.next(START - 20, START if classic else START + 4 * 3600)
    upcoming = schedule.upcoming(START - 20, due, 6)
    return compose(language, envelope("test@x.mail"), [SILENT], None, upcoming, schedule.expires(START - 20)).content


def _success(action: str, status: str) -> bytes:
    return compose("en", envelope("test@x.mail", envid="QQ314159"), [told(action, status)]).content


def _given_up() -> bytes:
    late = Told(**{name: getattr(SILENT, name) for name in Told.__slots__} | {"action": "failed"})
    late.at = START + 4 * 86_400
    return compose("en", envelope("test@x.mail"), [late, UNKNOWN]).content


def _utf8() -> bytes:
    what = told("failed", "5.1.1", "550 5.1.1 нет такого ящика", to="анна@пример.рф")
    what.orcpt = "utf-8;\\x{430}нна@пример.рф"
    letter = Stored("From: тест@почта.рф\r\nSubject: Привет\r\nMessage-ID: <2@x.mail>\r\n\r\nПривет\r\n".encode())
    return compose("ru", envelope("тест@почта.рф", smtputf8=True, ret="FULL"), [what], letter).content


def _utf8_to_ascii() -> bytes:
    what = told("failed", "5.6.7", "550 5.6.7 Non-ASCII addresses not permitted", to="анна@example.org")
    letter = Stored("From: test@x.mail\r\nSubject: Привет\r\nMessage-ID: <2@x.mail>\r\n\r\nПривет\r\n".encode())
    return compose("en", envelope("test@x.mail", smtputf8=True, ret="FULL"), [what], letter).content


def samples() -> dict[str, bytes]:
    """Each notice by the name of its file."""
    full = envelope("test@x.mail", ret="FULL", envid="QQ314159")
    return {
        "failed-en": compose("en", full, [UNKNOWN]).content,
        "failed-ru": compose("ru", full, [UNKNOWN]).content,
        "delayed-en": _delayed("en", classic=False),
        "delayed-ru": _delayed("ru", classic=False),
        "delayed-classic": _delayed("en", classic=True),
        "given-up": _given_up(),
        "delivered": _success("delivered", "2.0.0"),
        "relayed": _success("relayed", "2.0.0"),
        "expanded": _success("expanded", "2.0.0"),
        "utf8": _utf8(),
        "utf8-to-ascii": _utf8_to_ascii(),
    }


if __name__ == "__main__":
    for name, octets in samples().items():
        (OURS / f"{name}.eml").write_bytes(octets)
