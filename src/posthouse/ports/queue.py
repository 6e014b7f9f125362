"""The queue as the other floors see it: what waits, what is taken to be carried on, and what became of it.

One `Item` is one recipient of one letter. Items of one letter that go to one destination are taken together, as a
`Parcel`, and leave in one transaction. A parcel is leased: nobody else can take it until the lease has ended, which
it does at the latest when the process that holds it dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from posthouse.mail.envelope import Envelope
from posthouse.ports.store import Delivered, Delivery, Draft, Letter


class State(StrEnum):
    """What an item waits for."""

    DUE = "due"  # its time
    HELD = "held"  # somebody's word


class Status(StrEnum):
    """What an attempt brought for one recipient."""

    RELAYED = "relayed"  # the next host took it, and answers for it from now on
    DEFERRED = "deferred"  # not now
    FAILED = "failed"  # never
    UNCERTAIN = "uncertain"  # the line was lost behind the final dot: it may have been taken (RFC 1047); tried again


@dataclass(slots=True)
class Result:
    """What an attempt brought for one recipient. `reply` is the host's reply ("450 4.2.1 Not now"), or what we say
    where no host said anything; `status` the enhanced status code (RFC 3463), always there; `host` whom it came from
    ("" when nobody was reached); `dsn` when that host promised to send the notices that were asked for."""

    state: Status
    reply: str
    status: str
    stage: str = ""  # "dns", "connect", "greeting", "ehlo", "tls", "auth", "mail", "rcpt", "data", "end of data"
    host: str = ""
    address: str = ""  # its IP address
    dsn: bool = False
    said: bool = False  # the reply is the host's own
    dead: bool = False  # nobody was reached: other letters for this destination need not be tried now


@dataclass(slots=True)
class Queued:
    """One recipient of a letter that is to be put into the queue. `destination` is the router's name for where it
    goes; `prefix` the header fields put before the content, without Return-Path (RFC 5321 §4.4)."""

    destination: str
    recipient: str
    prefix: bytes
    accepted: float
    due: float
    notify: tuple[str, ...] = ()
    orcpt: str | None = None
    now: bool = False  # leased with its acceptance, and carried on at once


@dataclass(slots=True)
class Item:
    """One recipient that waits. Times are wall time; `told` is set once its sender was told about the delay."""

    id: int
    letter: str
    sender: str  # the reverse-path, "" for the null one
    recipient: str
    destination: str
    size: int
    state: State
    attempts: int
    accepted: float
    due: float
    notify: tuple[str, ...] = ()
    orcpt: str | None = None
    told: bool = False
    busy: bool = False  # an attempt is under way
    tried: float | None = None  # when the last attempt ended
    dead: bool = False  # it reached nobody
    reply: str = ""  # what it was told
    status: str = ""
    host: str = ""


@dataclass(slots=True)
class Parcel:
    """A letter on its way to one destination, with those of its recipients that go there. `envelope` has their
    addresses, in the order of `items`, and what MAIL asked for."""

    destination: str
    envelope: Envelope
    items: list[Item]
    letter: Letter = field(repr=False)  # open for reading: prefix and content

    @property
    def id(self) -> str:
        """The id of the letter, as the log names it."""
        return self.items[0].letter


@dataclass(slots=True)
class Settled:
    """How an item goes on after an attempt: `due` None ends it. `destination` is where it waits from now on, empty for
    where it did."""

    item: int
    due: float | None
    told: bool = False
    dead: bool = False
    reply: str = ""
    status: str = ""
    host: str = ""
    destination: str = ""


@dataclass(slots=True)
class Notice:
    """A notice to be put on its way, in the transaction that settles what it tells about: into mailboxes here
    (`deliveries`) or into the queue (`queued`)."""

    letter: str
    envelope: Envelope
    content: bytes = field(repr=False)
    deliveries: list[Delivery] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)


@dataclass(slots=True)
class Taken:
    """A letter that is on the disk: what became of its copies for mailboxes here, and the parcels of those recipients
    that are carried on at once."""

    delivered: list[Delivered]
    parcels: list[Parcel]


@dataclass(slots=True)
class Claim:
    """What was taken for a destination, and when it has more to do (None: nothing that waits for its time)."""

    parcels: list[Parcel]
    due: float | None


@dataclass(slots=True)
class Carried:
    """What an attempt with a parcel comes to: how each item goes on, and the notices about it. `dead` is what to say
    to other letters for the same destination, which need not be tried now; `alive` when the destination took one."""

    settled: list[Settled]
    notices: list[Notice] = field(default_factory=list)
    dead: Result | None = None
    alive: bool = False


@dataclass(slots=True, frozen=True)
class Wanted:
    """Which items are meant: all that fit everything given. Texts are compared without regard to case."""

    ids: tuple[int, ...] = ()
    letter: str = ""
    sender: str = ""
    recipient: str = ""
    domain: str = ""  # of the recipient
    destination: str = ""
    state: State | None = None
    dead: bool = False  # only those whose last attempt reached nobody


@dataclass(slots=True, frozen=True)
class Waiting:
    """What waits for one destination: how many items, when the first of them is due, and how many have reached nobody
    with their last attempt."""

    destination: str
    items: int
    due: float
    dead: int = 0


class QueueStore(Protocol):
    """Where the queue is kept: the same store as the mailboxes, so that one transaction can change both."""

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
        """What `Store.deliver` does, and in the same transaction puts recipients into the queue and notices on their
        way; those recipients that are carried on at once are leased `until` then. Raises Unavailable."""
        ...

    async def waiting(self) -> list[Waiting]:
        """Every destination with items that wait for their time."""
        ...

    async def claim(self, destination: str, now: float, until: float, limit: int) -> Claim:
        """Takes letters for a destination that are due and not leased, the longest due first, at most `limit` of them
        with all their recipients there, and leases those `until` then, on the disk. Raises Unavailable."""
        ...

    async def renew(self, items: Sequence[int], until: float) -> None:
        """Makes leases last longer. Raises Unavailable."""
        ...

    async def settle(self, settled: Sequence[Settled], notices: Sequence[Notice] = ()) -> list[list[Delivered]]:
        """Writes down what became of items, ends their leases and puts the notices on their way, in one transaction;
        returns once it is on the disk: for each notice what became of its copies here. An item that is gone meanwhile
        is passed over. Raises Unavailable: then nothing of it happened, and the leases hold."""
        ...

    async def free_leases(self) -> int:
        """Ends all leases: at the start of the only process that takes any. Returns how many there were."""
        ...

    async def move_times(self, seconds: float) -> int:
        """Adds this to every time of every item: the wall clock was set by so much. Returns how many items there are.
        Raises Unavailable."""
        ...

    async def mend_times(self, now: float) -> int:
        """Items that were accepted or tried in the future, because the clock was set back while nobody looked, count as
        accepted or tried now and are due now; returns how many. Raises Unavailable."""
        ...

    async def items(self, wanted: Wanted, limit: int = 1000, after: int = 0) -> list[Item]:
        """The items that are meant, in the order of their ids, those with an id greater than `after`."""
        ...

    async def count(self, wanted: Wanted) -> int:
        """How many items are meant."""
        ...

    async def peek(self, item: int) -> Parcel | None:
        """An item with its letter, open for reading and not leased; None when there is no such item."""
        ...

    async def hold(self, wanted: Wanted) -> int:
        """Items that are meant wait for somebody's word; those under way too, once their attempt is over. Returns
        how many there are."""
        ...

    async def release(self, wanted: Wanted) -> int:
        """Held items that are meant are due now."""
        ...

    async def hasten(self, wanted: Wanted) -> int:
        """Items that are meant, not held and not under way are due now."""
        ...

    async def drop(self, wanted: Wanted) -> int:
        """Items that are meant are gone, without a notice; one under way may still leave."""
        ...

    def mark(self) -> bytes:
        """Octets that are others after `hold`, `release`, `hasten` or `drop`, by whatever process."""
        ...
