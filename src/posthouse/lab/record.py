"""What happened in the box: every acceptance, every attempt with its transcript, every notice.

The recorder stands at the seams of a server and changes nothing: the port of the store shows what is accepted, the
callable that carries parcels shows attempts and what follows from them, and the observer shows what was said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Final, cast

from posthouse.lab.network import Machine
from posthouse.mail.encoded import decode_words
from posthouse.mail.envelope import Envelope
from posthouse.mail.header import Header
from posthouse.mail.report import read_report
from posthouse.mta.reception import Client
from posthouse.observe.transcript import Transcript
from posthouse.ports.queue import Carried, Notice, Parcel, Queued, QueueStore, Result, Settled, Taken
from posthouse.ports.store import Delivered, Delivery, Draft, Store
from posthouse.ports.system import Endpoint, SessionObserver

HEADER_SEEN: Final = 65_536  # octets of a header in which Message-ID and Subject are looked for
MOST_LINES: Final = 400  # of one attempt's transcript

ARRIVING: ContextVar[Client | None] = ContextVar("ARRIVING", default=None)
"""Whose letter the running code is accepting."""

ATTEMPT: ContextVar[Attempt | None] = ContextVar("ATTEMPT", default=None)
"""The attempt that the running code makes."""

Carry = Callable[[Parcel, Result | None], Awaitable[Carried]]


@dataclass(slots=True)
class Accepted:
    """A letter that a host took. `here` are the recipients with a mailbox there, `onward` the others with the names of
    their destinations."""

    host: str
    letter: str
    at: float
    message_id: str
    subject: str
    sender: str
    here: list[str]
    onward: list[tuple[str, str]]
    peer: str = ""  # the address it came from
    helo: str = ""
    mode: str = ""


@dataclass(slots=True)
class Outcome:
    """What an attempt came to for one recipient; `due` when it is tried again."""

    recipient: str
    reply: str
    status: str
    host: str
    due: float | None
    ended: str = ""  # "relayed" or "failed", when nothing comes after it


@dataclass(slots=True)
class Attempt:
    """An attempt with a letter. `made` is False when the host was known to be dead and nothing was tried."""

    host: str
    letter: str
    destination: str
    begin: float
    made: bool
    end: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def told_at(self) -> float:
        """The time under which it is told: of one that succeeded the beginning, so that it stands before what the next
        host did with the letter; of one that failed the end, when that was known."""
        return self.begin if any(one.ended == "relayed" for one in self.outcomes) else self.end


@dataclass(slots=True)
class Told:
    """A notice that a host wrote about a letter."""

    host: str
    letter: str
    about: str
    at: float
    message_id: str
    subject: str
    action: str
    to: list[str]
    content: bytes = field(repr=False, default=b"")


@dataclass(slots=True)
class Records:
    """Everything that happened, in the order in which it did. `open` counts recipients that wait in any queue."""

    accepted: list[Accepted] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    notices: list[Told] = field(default_factory=list)
    open: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, more: int) -> None:
        """So many recipients more wait, or fewer."""
        self.open += more
        if not self.open:
            self.changed.set()


class Witness:
    """Watches one host."""

    def __init__(self, machine: Machine, records: Records, *, transcripts: bool = True) -> None:
        self._machine = machine
        self._records = records
        self._transcripts = transcripts
        self._about: dict[str, str] = {}  # for each notice that is not on the disk yet, the letter it is about

    # The store

    def store(self, store: Store) -> Store:
        """The store, seen."""
        return cast(Store, _WatchedStore(store, self))

    def took(
        self,
        deliveries: Sequence[Delivery],
        delivered: Sequence[Delivered],
        queued: Sequence[Queued],
        letter: str,
        envelope: Envelope | None,
        names: tuple[str, str],
    ) -> None:
        """A letter is on the disk."""
        here = [one.recipient for one, result in zip(deliveries, delivered, strict=True) if result.failure is None]
        client = ARRIVING.get()
        self._records.accepted.append(
            Accepted(
                self._machine.name,
                letter,
                self._now(),
                *names,
                "" if envelope is None or envelope.sender is None else str(envelope.sender),
                here,
                [(one.recipient, one.destination) for one in queued],
                *(("", "", "") if client is None else (client.address, client.helo, client.mode)),
            )
        )
        self._records.count(len(queued))

    def noticed(self, notices: Sequence[Notice], about: str) -> None:
        """Notices were put on their way."""
        for notice in notices:
            report = read_report(notice.content)
            actions = {fate.action for fate in report.fates} if report is not None else set()
            to = [one.recipient for one in notice.deliveries] + [one.recipient for one in notice.queued]
            told = Told(
                self._machine.name,
                notice.letter,
                about,
                self._now(),
                *names_of(notice.content),
                ", ".join(sorted(actions)),
                to,
                notice.content,
            )
            self._records.notices.append(told)
            self._records.count(len(notice.queued))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # Attempts

    def carry(self, carry: Carry) -> Carry:
        """The callable that makes attempts, seen."""

        async def seen(parcel: Parcel, known: Result | None) -> Carried:
            attempt = Attempt(self._machine.name, parcel.id, parcel.destination, self._now(), made=known is None)
            self._records.attempts.append(attempt)
            token = ATTEMPT.set(attempt)
            try:
                carried = await carry(parcel, known)
            finally:
                ATTEMPT.reset(token)
                attempt.end = self._now()
            self._tell(attempt, parcel, carried)
            return carried

        return seen

    def _tell(self, attempt: Attempt, parcel: Parcel, carried: Carried) -> None:
        people = {item.id: item.recipient for item in parcel.items}
        for one in carried.settled:
            ended = "" if one.due is not None else ("relayed" if one.status.startswith("2") else "failed")
            attempt.outcomes.append(Outcome(people[one.item], one.reply, one.status, one.host, one.due, ended))
        self._about.update((notice.letter, parcel.id) for notice in carried.notices)

    def settled(self, settled: Sequence[Settled], notices: Sequence[Notice]) -> None:
        """What attempts came to is on the disk."""
        for notice in notices:
            self.noticed([notice], self._about.pop(notice.letter, ""))
        self._records.count(-sum(one.due is None for one in settled))

    # What was said

    def session(self, protocol: str, local: Endpoint, peer: Endpoint) -> SessionObserver | None:
        """Sees those sessions that this host opened for an attempt (`ports.Observer`)."""
        if not self._transcripts or ATTEMPT.get() is None:
            return None
        return Transcript(_write, clock=asyncio.get_running_loop().time)


def _write(line: str) -> None:
    attempt = ATTEMPT.get()  # a session may serve several letters, one after the other
    if attempt is not None and len(attempt.lines) < MOST_LINES:
        attempt.lines.append(line.rstrip("\n"))


def names_of(content: bytes) -> tuple[str, str]:
    """Message-ID and subject of a letter."""
    header = Header(content[:HEADER_SEEN])
    found: dict[str, str] = {}
    for one in header:
        name = one.name.lower()
        if name in ("message-id", "subject") and name not in found:
            found[name] = header.value(one).decode("utf-8", "replace").strip()
    # Every host of the journey has them: kept once.
    return intern(found.get("message-id", "")), intern(decode_words(found.get("subject", "")))


class _WatchedStore:
    """A store; what is accepted is told to the witness."""

    def __init__(self, store: Store, witness: Witness) -> None:
        self._store = store
        self._witness = witness
        self.queue = cast(QueueStore, _WatchedQueue(cast(Any, store).queue, witness))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        self.__dict__[name] = value  # asked once
        return value

    async def deliver(
        self, draft: Draft, deliveries: Sequence[Delivery], *, letter: str, envelope: Envelope | None = None
    ) -> list[Delivered]:
        names = names_of(draft.read_header(HEADER_SEEN))
        delivered = await self._store.deliver(draft, deliveries, letter=letter, envelope=envelope)
        self._witness.took(deliveries, delivered, (), letter, envelope, names)
        return delivered


class _WatchedQueue:
    """The same of its queue."""

    def __init__(self, queue: QueueStore, witness: Witness) -> None:
        self._queue = queue
        self._witness = witness

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._queue, name)
        self.__dict__[name] = value
        return value

    async def accept(
        self,
        draft: Draft,
        deliveries: Sequence[Delivery],
        queued: Sequence[Queued],
        *,
        letter: str,
        envelope: Envelope,
        notices: Sequence[Notice] = (),
        until: float = 0.0,
    ) -> Taken:
        names = names_of(draft.read_header(HEADER_SEEN))
        taken = await self._queue.accept(
            draft, deliveries, queued, letter=letter, envelope=envelope, notices=notices, until=until
        )
        self._witness.took(deliveries, taken.delivered, queued, letter, envelope, names)
        self._witness.noticed(notices, letter)
        return taken

    async def settle(self, settled: Sequence[Settled], notices: Sequence[Notice] = ()) -> list[list[Delivered]]:
        delivered = await self._queue.settle(settled, notices)
        self._witness.settled(settled, notices)
        return delivered
