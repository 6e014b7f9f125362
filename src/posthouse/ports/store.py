"""The store of letters and accounts, as the other floors see it.

One accepted letter is one transaction: its content, its deliveries and the counters of the mailboxes are on the
disk together or not at all. Whatever fails on our side raises `Unavailable`; nothing is lost by it.
Every method may be called from the event loop's thread only, and none blocks it for longer than a point
look-up takes (tens of microseconds): longer work runs in the store's own threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from posthouse.mail.envelope import Envelope

if TYPE_CHECKING:
    from posthouse.ports.queue import QueueStore


class Conflict(Exception):
    """It exists already, or still has something in it."""


class Missing(Exception):
    """There is no such domain, account or mailbox."""


@dataclass(slots=True, frozen=True)
class Domain:
    """A domain whose mail lies here. `name` is lower case, A-labels."""

    id: int
    name: str
    accounts: int = 0
    created: float = 0.0


@dataclass(slots=True)
class Account:
    """Somebody with a mailbox. `address` is `Address.key`; `password` a hash in PHC string form, empty for none."""

    id: int
    address: str
    password: str = field(repr=False)
    inbox: int  # the id of its INBOX
    quota: int = 0  # octets that all its mailboxes may hold; 0: no limit
    used: int = 0  # octets they hold now
    messages: int = 0
    created: float = 0.0
    # Whom it may name as sender beside itself: `Address.key`, or *@ and a domain; also the aliases that stand for it.
    senders: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Network:
    """A network that the administrator named. `network` is canonical, `rights` are words of the policy."""

    network: str
    rights: tuple[str, ...]
    until: float | None = None  # wall time when it ends; None: never
    note: str = ""
    created: float = 0.0


@dataclass(slots=True, frozen=True)
class Route:
    """A row of the route table: where letters for some domains go. `pattern` is a domain (A-labels) or an address
    literal, `*.` and a domain (everything below it), or `*` (all else: the smarthost). `targets` are hosts in the order
    in which they are tried, each `host`, `host:port` or `[address]:port`; none: the hosts that DNS names."""

    pattern: str
    targets: tuple[str, ...] = ()
    protocol: str = "smtp"  # or "lmtp"
    tls: str = "opportunistic"  # none, opportunistic, required, verified, implicit
    login: str = ""
    secret: bytes = field(default=b"", repr=False)  # the login's password, sealed
    schedule: str = ""  # as mail.schedule reads it; empty: the server's
    local: bool = False  # these domains are ours: letters for them are taken from everybody
    note: str = ""
    created: float = 0.0


@dataclass(slots=True, frozen=True)
class Alias:
    """An address here that stands for others. All are `Address.key`."""

    address: str
    targets: tuple[str, ...]
    note: str = ""
    created: float = 0.0


@dataclass(slots=True, frozen=True)
class Credential:
    """What an account can log in with beside its hash. The one with an empty `name` belongs to its own password, the
    others are app passwords. `protocols` has them parted by commas, empty for all."""

    id: int
    name: str
    protocols: str = ""
    digest: bytes = field(default=b"", repr=False)
    scram: str = field(default="", repr=False)
    shared: bytes = field(default=b"", repr=False)
    created: float = 0.0
    used: float = 0.0


@dataclass(slots=True, frozen=True)
class Kept:
    """What is kept of a password beside its hash: `scram` in the form of RFC 5803, `shared` the password, sealed."""

    scram: str = field(default="", repr=False)
    shared: bytes = field(default=b"", repr=False)


@dataclass(slots=True)
class Delivery:
    """One copy of a letter for one mailbox. `prefix` holds the header fields put before the content (whole lines
    with CRLF). The size of the copy everywhere is len(prefix) + the content's size."""

    account: int
    prefix: bytes
    recipient: str = ""  # the address as RCPT gave it
    notify: tuple[str, ...] = ()
    orcpt: str | None = None


@dataclass(slots=True)
class Delivered:
    """Where a copy went. `failure` is None when it is on the disk; else why this one recipient has no copy
    ("missing": the account was removed meanwhile, "quota": it does not fit, "too big": it never can)."""

    account: int
    uid: int = 0
    unique_id: str = ""
    failure: str | None = None


@dataclass(slots=True)
class Buried:
    """A deleted message that can still be brought back, by the UID it had."""

    uid: int
    letter: str
    size: int
    received: float
    expunged: float
    recipient: str = ""
    sender: str = ""
    subject: str = ""


@dataclass(slots=True)
class Former:
    """What is known of a copy that was in a mailbox before: all but its UID, its unique-id and whether POP3 retrieved
    it, which it gets anew."""

    letter: str
    envelope: Envelope | None
    recipient: str
    prefix: bytes
    received: float
    flags: int = 0
    keywords: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()
    orcpt: str | None = None


class Draft(Protocol):
    """Octets of a letter on their way in. Memory stays constant: what is large goes to a file of its own."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        ...

    @property
    def head(self) -> bytes:
        """The first octets, at most 1024 of them."""
        ...

    @property
    def tail(self) -> bytes:
        """The last octets, at most two of them."""
        ...

    async def write(self, octets: bytes) -> None:
        """Adds octets as they are to be kept (unstuffed, CRLF lines). Raises Unavailable."""
        ...

    def read_header(self, limit: int) -> bytes:
        """The first octets up to and with the empty line that ends the header, at most about `limit` of them."""
        ...

    async def discard(self) -> None:
        """Forgets it all. Harmless when the draft was delivered or discarded already."""
        ...


class Spool(Protocol):
    """Where letters are collected before they are accepted."""

    def draft(self, expected: int | None = None) -> Draft:
        """A new empty draft; `expected` is the size the sender announced. Raises Unavailable(Fault.FULL) when the
        disk has too little room for it."""
        ...


Row = tuple[int, str, int, int]
"""One message of a maildrop: UID, unique-id, size in octets, and marks as bits: 1 when POP3 retrieved it before,
2 when an octet over 127 stands in its prefix or its content's header (to the empty line, however long it is)."""


@dataclass(slots=True)
class Maildrop:
    """What a mailbox held at one moment: its messages in the order of their UIDs. A value, not a transaction."""

    mailbox: int
    rows: list[Row]
    octets: int


class Letter(Protocol):
    """A stored message, open for reading. Its content is checked against its checksum as it is read."""

    @property
    def prefix(self) -> bytes:
        """The header fields put before the content."""
        ...

    @property
    def size(self) -> int:
        """Octets in all, prefix and content."""
        ...

    @property
    def octets(self) -> bytes | None:
        """Prefix and content together when the message is small and at hand, else None: use `chunks`."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Prefix and content in pieces of at most 256 KiB or so. Raises Unavailable (STORAGE or DAMAGED); an
        octet that fails the checksum may have been yielded before, so the caller must break off its reply."""
        ...


@dataclass(slots=True)
class Damage:
    """One thing that is wrong in a store. `what` is a short fixed word, `where` names the letter, file or table,
    `whose` the accounts concerned, `text` says it in a sentence for people."""

    what: str
    where: str
    text: str
    whose: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Repair:
    """What a repair came to. The damages in `told` are those it found: `what` says whether it was "mended", "set aside"
    or "lost". With `dry` nothing was changed."""

    told: list[Damage] = field(default_factory=list)
    remains: list[Damage] = field(default_factory=list)  # what the check still finds
    kept: str = ""  # the name that the old database has now
    letters: int = 0  # in mailboxes, whole
    accounts: int = 0
    dry: bool = False


class Store(Spool, Protocol):
    """The store of one data directory."""

    @property
    def queue(self) -> QueueStore:
        """What must be carried on."""
        ...

    # Letters

    async def deliver(
        self, draft: Draft, deliveries: Sequence[Delivery], *, letter: str, envelope: Envelope | None = None
    ) -> list[Delivered]:
        """Makes the draft's content a letter in the INBOX of each account, in one transaction, and returns once that
        is on the disk: one result per delivery, in order. The draft is used up. `letter` is the letter's id.

        A content without a final CRLF gets one (an empty one stays empty). Raises Unavailable when the transaction
        failed: then no mailbox has anything of it. When every delivery has a `failure`, nothing is stored.
        """
        ...

    def lock(self, mailbox: int) -> bool:
        """Takes the maildrop lock of a mailbox; False when another session has it. It ends with `unlock` or with
        the process."""
        ...

    def unlock(self, mailbox: int) -> None:
        """Gives the maildrop lock back."""
        ...

    async def maildrop(self, mailbox: int) -> Maildrop:
        """The messages of a mailbox now. Raises Missing, Unavailable."""
        ...

    async def fetch(self, mailbox: int, uids: Sequence[int]) -> list[Letter | None]:
        """The messages with these UIDs, None for each that is gone. Small contents come at once (for at most some
        1 MiB in all: later ones may come as `chunks`), so several small messages cost one look-up. A damaged letter
        has no `octets`, and its `chunks` raise."""
        ...

    async def update(self, mailbox: int, deleted: Iterable[int], retrieved: Iterable[int]) -> None:
        """Removes messages and marks others as retrieved by POP3, in one transaction; returns once that is on the
        disk (at once when there is nothing to do). Raises Unavailable: then nothing was removed. For a while, as the
        options say, they can be brought back."""
        ...

    async def buried(self, mailbox: int, since: float = 0.0) -> list[Buried]:
        """The messages deleted since then that can be brought back, in the order of their UIDs."""
        ...

    async def undelete(self, address: str, uids: Sequence[int]) -> dict[int, int]:
        """Brings messages back that had these UIDs, with new UIDs, which it returns by the old ones, and new
        unique-ids. Those that ended meanwhile are left out. Raises Missing, Unavailable, or Conflict when they do not
        fit into the quota: some hundreds are one transaction, those before them are back."""
        ...

    async def put_back(self, mailbox: int, letters: Sequence[tuple[Draft, Former]]) -> list[int]:
        """Makes letters messages of a mailbox again, at its end and whatever its quota says, in one transaction;
        returns their UIDs. The drafts are used up. Servers see them at once, also those of other processes. Raises
        Missing, Unavailable: then none of them is there."""
        ...

    # Domains and accounts

    async def add_domain(self, name: str) -> Domain:
        """Raises Conflict when it exists."""
        ...

    async def remove_domain(self, name: str) -> None:
        """Raises Missing, or Conflict while it has accounts."""
        ...

    async def domains(self) -> list[Domain]:
        """All domains in the order they were added."""
        ...

    async def find_domain(self, name: str) -> Domain | None:
        """A point look-up by the canonical name; sees what other processes committed."""
        ...

    async def add_account(self, address: str, password: str, quota: int = 0, *, kept: Kept | None = None) -> Account:
        """Adds an account with an empty INBOX. `address` is `Address.key`, `password` a hash, `kept` what else is
        kept of the password. Raises Conflict, or Missing when its domain is not here."""
        ...

    async def set_password(
        self, address: str, password: str, *, expected: str | None = None, kept: Kept | None = None
    ) -> bool:
        """Replaces the hash and what else is kept of the password; when `expected` is given only if that is the hash
        it has now, so that a renewed hash of the old password never undoes a change made meanwhile. Returns whether
        it did. Raises Missing."""
        ...

    async def remove_account(self, address: str) -> int:
        """Removes the account and its mail, returns the number of letters removed. Raises Missing, or Conflict while
        its maildrop is in use by a session of this process."""
        ...

    async def accounts(self, domain: str | None = None) -> list[Account]:
        """All accounts (of one domain), by address."""
        ...

    async def find_account(self, address: str) -> Account | None:
        """A point look-up by `Address.key`; sees what other processes committed."""
        ...

    async def find_local_part(self, local: str) -> list[Account]:
        """At most two accounts with this local part (canonical form) in any domain."""
        ...

    async def grant_sender(self, address: str, pattern: str) -> None:
        """Lets an account name this sender too (`Address.key`, or *@ and a domain). Raises Missing, Conflict."""
        ...

    async def revoke_sender(self, address: str, pattern: str) -> None:
        """Takes that back. Raises Missing."""
        ...

    # Aliases

    async def find_alias(self, address: str) -> Alias | None:
        """A point look-up by `Address.key`; sees what other processes committed."""
        ...

    async def put_alias(self, alias: Alias, *, replace: bool = False) -> None:
        """Adds an alias. Raises Missing when its domain is not here, Conflict when there is an account of this
        address, or an alias and it is not to be replaced."""
        ...

    async def remove_alias(self, address: str) -> None:
        """Raises Missing."""
        ...

    async def aliases(self, domain: str | None = None) -> list[Alias]:
        """All aliases (of one domain), by address."""
        ...

    # Networks

    def networks(self) -> tuple[Network, ...]:
        """The named networks, from memory, by name; sees what other processes committed. The same tuple as long as
        nothing changed."""
        ...

    async def put_network(self, network: Network, *, replace: bool = False) -> None:
        """Names a network. Raises Conflict when it has a name and is not to be replaced."""
        ...

    async def remove_network(self, network: str) -> None:
        """Takes the name away. Raises Missing."""
        ...

    # Routes

    def routes(self) -> tuple[Route, ...]:
        """The route table, from memory, by pattern; sees what other processes committed. The same tuple as long as
        nothing changed."""
        ...

    async def put_route(self, route: Route, *, replace: bool = False) -> None:
        """Adds a route. Raises Conflict when its pattern has one and that is not to be replaced."""
        ...

    async def remove_route(self, pattern: str) -> None:
        """Removes a route. Raises Missing."""
        ...

    async def credentials(self, account: int) -> list[Credential]:
        """What this account can log in with beside its hash; sees what other processes committed."""
        ...

    async def add_credential(self, address: str, credential: Credential) -> None:
        """Adds an app password (its `id` is given by the store). Raises Missing, or Conflict when the account has one
        of this name."""
        ...

    async def remove_credential(self, address: str, name: str) -> None:
        """Removes an app password. Raises Missing."""
        ...

    async def touch(self, used: Mapping[int, float]) -> None:
        """Notes when credentials were last used, by their ids. Not synced: after a crash some may be forgotten."""
        ...

    def secret(self) -> bytes:
        """32 random octets that are this store's own for ever."""
        ...

    # The store itself

    def check(self, *, full: bool = True) -> AsyncIterator[Damage]:
        """Looks for every kind of damage and yields each with a name; nothing yielded means sound."""
        ...

    async def glance(self, seconds: float) -> str:
        """What a look at the database finds within this time, empty when nothing."""
        ...

    async def close(self) -> None:
        """Waits for what was begun, writes back and lets go of everything."""
        ...
