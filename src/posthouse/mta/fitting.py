"""A letter in the form that a host can take: with what it asks for, rewritten where the host is too old for it, and
refused where that cannot be (RFC 6152 §3, RFC 6531 §3.5)."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Final

from posthouse.clients.smtp import Letter
from posthouse.mail.envelope import Recipient
from posthouse.mail.mailboxes import ascii_form
from posthouse.mail.recode import Unconvertible, recode
from posthouse.mail.traits import Traits
from posthouse.mta.answers import ours
from posthouse.ports.queue import Parcel, Result, Status
from posthouse.smtp.client import Extensions

INLINE: Final = 32_768  # octets that are rewritten without a thread: about a millisecond
IN_MEMORY: Final = 1_048_576  # octets of a rewritten letter that stay in memory
PIECE: Final = 262_144


@dataclass(slots=True)
class Fitted:
    """The letter for one host; `refused` has the recipients whose addresses that host cannot be told (by their places),
    `everybody` why nobody can have it."""

    letter: Letter | None
    places: list[int]
    refused: dict[int, Result] = field(default_factory=dict)
    everybody: Result | None = None


class Fitting:
    """One letter, looked at and rewritten at most once however many hosts are tried. `close` when it is over."""

    def __init__(self, parcel: Parcel, *, send_eight_bit: bool, turn: asyncio.Semaphore) -> None:
        self._envelope = parcel.envelope
        self._source = parcel.letter
        self._octets = parcel.letter.octets
        self._send_eight_bit = send_eight_bit
        self._turn = turn  # one for all: rewriting takes memory and a processor
        self._traits: Traits | None = None
        self._rewritten: dict[bool, Letter | Unconvertible] = {}
        self._files: list[IO[bytes]] = []

    def close(self) -> None:
        """Lets go of what a rewritten letter took."""
        for file in self._files:
            file.close()

    async def fit(self, extensions: Extensions, places: Sequence[int]) -> Fitted:
        """The letter for those recipients and a host that offers this. Raises Unavailable when it cannot be read."""
        envelope = self._envelope
        traits = self._traits or await self._look()
        sender = envelope.sender
        recipients = [envelope.recipients[place] for place in places]
        fitted = Fitted(None, list(places))
        utf8 = envelope.smtputf8 or not all(one.address.is_ascii for one in recipients)
        utf8 = utf8 or not (sender is None or sender.is_ascii)
        if utf8 and "SMTPUTF8" not in extensions:
            if (envelope.smtputf8 and traits.header) or not (sender is None or sender.local.isascii()):
                fitted.everybody = _no_utf8()
                return fitted
            sender = sender if sender is None else ascii_form(sender)
            recipients = self._told_in_ascii(recipients, fitted)
            utf8 = False
        if not utf8:
            recipients = [_with_ascii_orcpt(one) for one in recipients]
        seven_bit = traits.eight_bit and "8BITMIME" not in extensions
        if not seven_bit and not traits.long_lines:
            letter: Letter | Result = self._as_it_is(traits)
        else:
            letter = await self._changed(traits, seven_bit=seven_bit)
        if isinstance(letter, Result):
            fitted.everybody = letter
            return fitted
        if recipients:
            letter.sender, letter.recipients, letter.utf8 = sender, recipients, utf8
            fitted.letter = letter
        return fitted

    def _told_in_ascii(self, recipients: Sequence[Recipient], fitted: Fitted) -> list[Recipient]:
        """The recipients that a host without SMTPUTF8 can be told: those with a domain beyond ASCII by its A-labels
        (RFC 5890 §2.3.2.1), those with a local part beyond ASCII not at all."""
        told: list[Recipient] = []
        places, fitted.places = fitted.places, []
        for place, one in zip(places, recipients, strict=True):
            if one.address.local.isascii():
                told.append(replace(one, address=ascii_form(one.address)))
                fitted.places.append(place)
            else:
                fitted.refused[place] = _no_utf8()
        return told

    # The content

    async def _look(self) -> Traits:
        if self._octets is not None:
            self._traits = Traits.of(self._octets)
        else:
            self._traits = Traits()
            async for piece in self._source.chunks():
                self._traits.add(piece)
        return self._traits

    async def _changed(self, traits: Traits, *, seven_bit: bool) -> Letter | Result:
        """A letter that is not taken as it is, rewritten if it can be."""
        if seven_bit not in self._rewritten:
            self._rewritten[seven_bit] = await self._rewrite(seven_bit=seven_bit, eight_bit=traits.eight_bit)
        rewritten = self._rewritten[seven_bit]
        if isinstance(rewritten, Letter):
            return replace(rewritten)
        if seven_bit and not self._send_eight_bit:
            text = f"the host does not take 8-bit content, and the letter cannot be rewritten: {rewritten}"
            return ours(Status.FAILED, "5.6.3", text, "mail")
        return self._as_it_is(traits)  # long lines in what is signed leave as they are (reliability F9)

    def _as_it_is(self, traits: Traits) -> Letter:
        envelope = self._envelope
        return Letter(
            None,
            (),
            self._source.size,
            eight_bit=traits.eight_bit or envelope.body == "8BITMIME",
            octets=self._octets,
            chunks=None if self._octets is not None else self._source.chunks,
            ret=envelope.ret,
            envid=envelope.envid,
            # Nobody vouches here for whom the sender of a letter logged in as: RFC 4954 §5 has "<>" said then.
            auth=None if envelope.auth is None else "",
        )

    async def _rewrite(self, *, seven_bit: bool, eight_bit: bool) -> Letter | Unconvertible:
        traits = Traits()
        traits.eight_bit = eight_bit and not seven_bit
        letter = self._as_it_is(traits)
        letter.eight_bit = traits.eight_bit
        try:
            async with self._turn:
                if self._octets is not None and len(self._octets) <= INLINE:
                    letter.octets, letter.chunks = b"".join(recode(self._octets, seven_bit=seven_bit)), None
                    letter.size = len(letter.octets)
                else:
                    await self._rewrite_large(letter, seven_bit)
        except Unconvertible as reason:
            return reason
        return letter

    async def _rewrite_large(self, letter: Letter, seven_bit: bool) -> None:
        """In files without a name, so that a large letter costs little memory."""
        source = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        target = tempfile.TemporaryFile()  # noqa: SIM115
        self._files += [source, target]
        async for piece in self._source.chunks():
            await asyncio.to_thread(source.write, piece)
        letter.size = await asyncio.to_thread(_recode_file, source, target, seven_bit)
        letter.octets, letter.chunks = None, partial(_read, target)
        if letter.size <= IN_MEMORY:
            target.seek(0)
            letter.octets, letter.chunks = target.read(), None


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, PIECE):
        yield piece


def _recode_file(source: IO[bytes], target: IO[bytes], seven_bit: bool) -> int:
    source.flush()
    size = 0
    with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        for piece in recode(octets, seven_bit=seven_bit):
            size += target.write(piece)
    source.close()
    target.flush()
    return size


def _no_utf8() -> Result:
    text = "the host does not take addresses and header fields beyond ASCII (SMTPUTF8), and the letter has some"
    return ours(Status.FAILED, "5.6.7", text, "mail")


def _with_ascii_orcpt(recipient: Recipient) -> Recipient:
    """An original recipient without characters beyond ASCII: RFC 6533 §3, utf-8-addr-xtext. Those of other types are
    encoded as xtext anyway."""
    orcpt = recipient.orcpt
    if orcpt is None or orcpt.isascii() or not orcpt.lower().startswith("utf-8;"):
        return recipient
    return replace(recipient, orcpt="".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in orcpt))
