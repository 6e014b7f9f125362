"""What people do with the queue: look, hurry, hold, release and drop. The service behind `posthouse queue`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from posthouse.mail.address import Address, AddressError, domain_key, parse_domain
from posthouse.observe.audit import Record, no_record
from posthouse.ports.queue import Item, Parcel, QueueStore, State, Wanted
from posthouse.ports.store import Missing

_LETTER: Final = re.compile(r"[0-9a-f]{22}")
_ITEM: Final = re.compile(r"[0-9]{1,19}")

STATES: Final = tuple(state.value for state in State)


class BadChoice(ValueError):
    """What is meant is not clear. The text says what to write."""


def choose(
    ids: Sequence[str] = (),
    *,
    sender: str = "",
    recipient: str = "",
    domain: str = "",
    destination: str = "",
    state: str = "",
) -> list[Wanted]:
    """What a person means: everything that fits all filters and, if there are any, one of the ids, which are those of
    letters or the numbers of items. `<>` is the sender of notices. Raises BadChoice."""
    if sender == "<>":
        raise BadChoice("Notices have no sender to look for. Name their recipient.")
    filters = Wanted(
        sender=_address(sender),
        recipient=_address(recipient),
        domain=_domain(domain),
        destination=destination,
        state=_state(state),
    )
    items, chosen = [], []
    for id in ids:
        text = id.strip().lower()
        if _LETTER.fullmatch(text):
            chosen.append(replace(filters, letter=text))
        elif _ITEM.fullmatch(text):
            items.append(int(text))
        else:
            raise BadChoice(f'"{id}" is neither the id of a letter (22 digits from 0 to f) nor the number of an item.')
    if items:
        chosen.append(replace(filters, ids=tuple(items)))
    return chosen or [filters]


def _address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(Address.parse(text.strip().removeprefix("<").removesuffix(">")))
    except AddressError as error:
        raise BadChoice(f'"{text}" is no address: {error}.') from None


def _domain(text: str) -> str:
    if not text:
        return ""
    try:
        name = parse_domain(text.strip().removeprefix("@"))
        domain_key(name)
    except AddressError as error:
        raise BadChoice(f'"{text}" is no domain: {error}.') from None
    return name


def _state(text: str) -> State | None:
    if not text:
        return None
    if text not in STATES:
        raise BadChoice(f'"{text}" is no state. There are {" and ".join(STATES)}.')
    return State(text)


class QueueService:
    """The queue of one store, beside a running server too."""

    __slots__ = ("_record", "_store")

    def __init__(self, store: QueueStore, record: Record = no_record) -> None:
        self._store = store
        self._record = record

    async def find(self, chosen: Sequence[Wanted], limit: int) -> tuple[list[Item], int]:
        """The first items that are meant, and how many there are in all."""
        found: dict[int, Item] = {}
        count = 0
        for wanted in chosen:
            count += await self._store.count(wanted)
            for item in await self._store.items(wanted, limit - len(found)):
                found[item.id] = item
        return sorted(found.values(), key=lambda item: item.id), max(count, len(found))

    async def show(self, chosen: Sequence[Wanted]) -> list[Parcel]:
        """The letters that are meant, each with its items. Raises Missing when there is none."""
        items, _ = await self.find(chosen, 1000)
        parcels = []
        for item in items:
            parcel = await self._store.peek(item.id)
            if parcel is not None:
                parcels.append(parcel)
        if not parcels:
            raise Missing("there is nothing of that kind in the queue")
        return parcels

    async def retry(self, chosen: Sequence[Wanted]) -> int:
        """Has them tried now; those that are held stay so. Returns how many."""
        return await self._each("queue_retry", chosen)

    async def hold(self, chosen: Sequence[Wanted]) -> int:
        """Keeps them back until they are released."""
        return await self._each("queue_hold", chosen)

    async def release(self, chosen: Sequence[Wanted]) -> int:
        """Lets those that are held leave."""
        return await self._each("queue_release", chosen)

    async def drop(self, chosen: Sequence[Wanted]) -> int:
        """Forgets them, without a word to their senders."""
        return await self._each("queue_drop", chosen)

    async def _each(self, event: str, chosen: Sequence[Wanted]) -> int:
        acts = {
            "queue_retry": self._store.hasten,
            "queue_hold": self._store.hold,
            "queue_release": self._store.release,
            "queue_drop": self._store.drop,
        }
        count = 0
        for wanted in chosen:
            done = await acts[event](wanted)
            if done:
                self._record(event, items=done, **_fields(wanted))
            count += done
        return count


def _fields(wanted: Wanted) -> dict[str, object]:
    """What was chosen, for the audit trail."""
    fields = {
        "numbers": list(wanted.ids),
        "letter": wanted.letter,
        "sender": wanted.sender,
        "recipient": wanted.recipient,
        "domain": wanted.domain,
        "destination": wanted.destination,
        "state": "" if wanted.state is None else wanted.state.value,
    }
    return {name: value for name, value in fields.items() if value}
