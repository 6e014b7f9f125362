"""What is told to whom: notices of failed, delayed, delivered, relayed and expanded letters (RFC 3461, RFC 3464)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Final, cast

from posthouse.mail.address import Address
from posthouse.mail.encoded import decode_field
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.header import Header
from posthouse.mail.limits import RETURNED, RETURNED_HEADER
from posthouse.mail.mailboxes import Mailbox, ascii_form
from posthouse.mail.notice import Notice, header_part, write_notice
from posthouse.mail.reply import Fault, Unavailable
from posthouse.mail.report import Fate, Report
from posthouse.mta.wording import LANGUAGES, Story, Told, subject_of, tell
from posthouse.ports.store import Letter
from posthouse.ports.system import Clock, Random

__all__ = ["Composed", "Notices", "Told"]

# Which words of NOTIFY ask for which notice. Without NOTIFY a sender hears of failures and delays (RFC 3461 §4.1).
ASKED: Final = {
    "failed": "FAILURE",
    "delayed": "DELAY",
    "delivered": "SUCCESS",
    "relayed": "SUCCESS",
    "expanded": "SUCCESS",
}
UNASKED: Final = ("failed", "delayed")


@dataclass(slots=True)
class Composed:
    """A notice ready to be put on its way. `sender` is the null reverse-path (RFC 5321 §4.5.5), `recipient` the
    reverse-path of the letter, `letter` the notice's own id; `envelope` holds both and asks for no further notice."""

    sender: None
    recipient: Address
    content: bytes = field(repr=False)
    letter: str
    envelope: Envelope


class Notices:
    """Writes the notices of one server. `zone` is that of the dates people read; None: that of this machine."""

    def __init__(
        self,
        host: str,
        postmaster: Address,
        language: str,
        clock: Clock,
        random: Random,
        zone: tzinfo | None = None,
    ) -> None:
        self._host, self._postmaster = host, postmaster
        self._language = LANGUAGES[language]
        self._clock, self._random, self._zone = clock, random, zone

    def wanted(self, action: str, envelope: Envelope, notify: tuple[str, ...]) -> bool:
        """Whether the sender is to be told (RFC 3461 §4.1, §5.2): never at a null reverse-path, which every notice
        has (RFC 5321 §4.5.5), so that none is ever written about another."""
        if envelope.sender is None:
            return False
        if not notify:
            return action in UNASKED
        asked = {word.upper() for word in notify}
        return "NEVER" not in asked and ASKED[action] in asked

    async def compose(
        self,
        envelope: Envelope,
        letter_id: str,
        arrived: float,
        told: Sequence[Told],
        upcoming: Sequence[float],
        letter: Letter,
        until: float | None = None,
    ) -> Composed:
        """The notice to the sender of a letter about those of its recipients for whom `wanted` said yes. `upcoming`
        are the times of the next attempts, `until` is when it is given up (both for delayed ones only). The letter
        comes back whole where RET=FULL asked for it and something failed and it is small, else its header
        (RFC 3461 §6.2); of a damaged one nothing. Raises Unavailable when it cannot be read now."""
        assert envelope.sender is not None
        assert told
        sender = ascii_form(envelope.sender)  # SMTPUTF8 only where nothing else will do
        failed = any(one.action == "failed" for one in told)
        whole = failed and envelope.ret == "FULL" and letter.size <= RETURNED
        octets = await _read(letter, RETURNED if whole else RETURNED_HEADER + 1)
        header = header_part(octets)
        now, language = self._clock.now(), self._language
        story = Story(
            self._host,
            str(self._postmaster),
            letter_id,
            _first(header, "Subject"),
            arrived,
            told,
            upcoming,
            until,
            not any(recipient.notify for recipient in envelope.recipients),
            "whole" if whole and octets else "header" if header else "",
            self._zone,
        )
        notice = Notice(
            Mailbox(language.name, self._postmaster),
            sender,
            subject_of(language, told),
            now,
            f"<{int(now):x}.{self._random.octets(12).hex()}@{self._host}>",
            tell(language, story),
            Report(self._host, [_fate(one, until) for one in told], envelope.envid or "", arrived),
            _first(header, "Message-ID"),
            octets if whole else header,
            whole,
        )
        content = write_notice(notice, self._random.octets(16).hex())
        return Composed(None, sender, content, self._letter_id(now), _envelope(notice, content))

    def _letter_id(self, now: float) -> str:
        """As the reception gives them: it sorts by time and cannot be guessed."""
        return f"{int(now * 1000) << 43 | int.from_bytes(self._random.octets(8)) >> 21:022x}"


def _fate(one: Told, until: float | None) -> Fate:
    """Only what a host really said is its diagnostic code (RFC 3461 §6.3)."""
    return Fate(
        one.recipient,
        one.action,
        one.status,
        one.orcpt or "",
        one.host if one.said else "",
        one.reply if one.said else "",
        tried=one.at,
        until=until if one.action == "delayed" else None,
    )


def _envelope(notice: Notice, content: bytes) -> Envelope:
    """RFC 3461 §6.1: from nobody, and no notice about it."""
    body = None if content.isascii() else "8BITMIME"
    recipient = Recipient(notice.to, notify=("NEVER",))
    return Envelope(None, [recipient], size=len(content), body=body, smtputf8=notice.utf8)


def _first(header: bytes, name: str) -> str:
    """The first field of this name, decoded, "" when there is none."""
    value = Header(header).get(name)
    return "" if value is None else decode_field(value)


async def _read(letter: Letter, most: int) -> bytes:
    """The beginning of a letter, at most so many octets; nothing of it when it is damaged."""
    if letter.octets is not None:
        return letter.octets[:most]
    found = bytearray()
    try:
        async with aclosing(cast(AsyncGenerator[bytes, None], letter.chunks())) as pieces:
            async for piece in pieces:
                found += piece[: most - len(found)]
                if len(found) >= most:
                    break
    except Unavailable as unavailable:
        if unavailable.fault is not Fault.DAMAGED:
            raise
        return b""
    return bytes(found)
