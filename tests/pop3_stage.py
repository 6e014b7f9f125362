"""What POP3 transcripts are played on: the real session over a maildrop that exists in memory only.

Options (`!with`): style, host, idle, login, session (seconds), errors, failures, idle_commands, tls=on (offered; the
handshake needs a socket) and those of `login_stage`.
Directives:
    !network network [right ...]   names a network with just these rights
    !letter octets          a letter (escapes as in C+)
    !sized octets           a letter of so many octets: a subject, an empty line, one line of x
    !large count octets     a letter too large to come at once: the octets, count times, in pieces of 1000
    !old number             the letter was retrieved in an earlier session
    !fail what fault        update, fetch, batch (a fetch of several), maildrop, networks or login fail from now on
                            (fault: storage, busy, ...; none); maildrop says Missing for `missing`, and waits for `hang`
    !damage number          the letter's content does not match its checksum
    !gone number            the letter is removed behind the session's back
    !lock, !unlock          another session takes the lock, gives it back
    !left ids               the unique-ids that are still there, in order
    !retrieved ids          the unique-ids that are marked as retrieved
    !free                   nobody has the lock
    !read number octets     so much was read of a large letter
    !broken                 the connection was broken off in the middle of a reply
    !stop                   the server is being stopped
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from posthouse.mail.limits import Pop3Limits
from posthouse.mail.reply import Fault, Style, Unavailable
from posthouse.net.system import SystemClock
from posthouse.net.wire import Wire
from posthouse.observe.log import QuietLog
from posthouse.policy.access import Access
from posthouse.pop3.maildrop import EIGHT_BIT, RETRIEVED
from posthouse.ports.directory import Candidates, Directory, Opened
from posthouse.ports.store import Account, Letter, Maildrop, Missing, Network, Store
from posthouse.ports.system import Observer
from posthouse.servers.pop3 import Pop3Server
from tests.certificates import any_tls
from tests.login_stage import candidates, service
from tests.smtp_stage import StillClock
from tests.transcript_runner import MemoryTransport, Session, unescape

ADDRESS = "test@x.mail"
PASSWORD = "secret word"
PASSWORDS = (PASSWORD, "secret", "пароль")
INBOX = 7


@dataclass(slots=True)
class MemoryLetter:
    """A letter in memory; `damaged` ones fail as the store's do."""

    content: bytes
    large: bool = False
    damaged: bool = False
    read: int = 0

    @property
    def prefix(self) -> bytes:
        return b""

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def octets(self) -> bytes | None:
        return None if self.large or self.damaged else self.content

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        if self.damaged and not self.large:
            raise Unavailable(Fault.DAMAGED)
        for start in range(0, len(self.content), 1000):
            await asyncio.sleep(0)
            if self.damaged and start:
                raise Unavailable(Fault.DAMAGED)
            self.read = start + 1000
            yield self.content[start : start + 1000]


@dataclass(slots=True)
class MemoryStore:
    """One mailbox, its lock, and faults on demand."""

    letters: dict[int, MemoryLetter] = field(default_factory=dict)
    flags: dict[int, int] = field(default_factory=dict)
    locked: bool = False
    faults: dict[str, Fault] = field(default_factory=dict)
    fetched: list[list[int]] = field(default_factory=list)
    next_uid: int = 1
    named: tuple[Network, ...] = ()

    def networks(self) -> tuple[Network, ...]:
        self.fail("networks")
        return self.named

    def add(self, content: bytes, *, large: bool = False) -> int:
        uid, self.next_uid = self.next_uid, self.next_uid + 1
        self.letters[uid] = MemoryLetter(content, large)
        header = content.partition(b"\r\n\r\n")[0]
        self.flags[uid] = 0 if header.isascii() else EIGHT_BIT
        return uid

    def fail(self, what: str) -> None:
        if what in self.faults:
            raise Unavailable(self.faults[what])

    def lock(self, mailbox: int) -> bool:
        assert mailbox == INBOX
        taken, self.locked = self.locked, True
        return not taken

    def unlock(self, mailbox: int) -> None:
        assert mailbox == INBOX and self.locked
        self.locked = False

    async def maildrop(self, mailbox: int) -> Maildrop:
        await asyncio.sleep(0)
        self.fail("maildrop")
        if "missing" in self.faults:
            raise Missing
        if "hang" in self.faults:
            await asyncio.Event().wait()
        rows = [(uid, f"id{uid}", letter.size, self.flags[uid]) for uid, letter in self.letters.items()]
        return Maildrop(mailbox, rows, sum(row[2] for row in rows))

    async def fetch(self, mailbox: int, uids: Sequence[int]) -> list[Letter | None]:
        await asyncio.sleep(0)
        self.fail("fetch")
        if len(uids) > 1:
            self.fail("batch")
        self.fetched.append(list(uids))
        return [cast("Letter | None", self.letters.get(uid)) for uid in uids]

    async def update(self, mailbox: int, deleted: Iterable[int], retrieved: Iterable[int]) -> None:
        await asyncio.sleep(0)
        self.fail("update")
        for uid in deleted:
            self.letters.pop(uid, None)
        for uid in retrieved:
            self.flags[uid] |= RETRIEVED


@dataclass(slots=True)
class OneAccount:
    """A directory with one account, which its local part opens too."""

    store: MemoryStore

    async def _named(self, login: str) -> Account | None:
        await asyncio.sleep(0)
        self.store.fail("login")
        return Account(1, ADDRESS, "", INBOX) if login in (ADDRESS, "test") else None

    async def authenticate(self, login: str, password: str, protocol: str = "") -> Opened | None:
        account = await self._named(login)
        return Opened(account) if account is not None and password in PASSWORDS else None

    async def candidates(self, login: str, protocol: str = "") -> Candidates:
        return candidates(await self._named(login), PASSWORDS)

    async def note(self, opened: Opened) -> None:
        return None


class Pop3Stage:
    """The stage itself; `observer` watches every session."""

    def __init__(self, observer: Observer | None = None) -> None:
        self.store = MemoryStore()
        self.observer = observer
        self.server: Pop3Server | None = None
        self.wire: Wire | None = None

    async def session(self, options: dict[str, str]) -> Session:
        if self.server is None:
            self.server = self.build(options)
        return self._begin

    async def _begin(self, wire: Wire) -> None:
        assert self.server is not None
        self.wire = wire
        await self.server.session(wire)

    def build(self, options: dict[str, str]) -> Pop3Server:
        defaults = Pop3Limits()
        directory = cast(Directory, OneAccount(self.store))
        logins = service(directory, StillClock(), QuietLog(), options, options.get("host", "x.mail"))
        return Pop3Server(
            host=options.get("host", "x.mail"),
            store=cast(Store, self.store),
            access=Access(self.store, SystemClock()),
            logins=logins,
            log=QuietLog(),
            observer=self.observer,
            limits=Pop3Limits(
                errors=int(options.get("errors", defaults.errors)),
                login_failures=int(options.get("failures", defaults.login_failures)),
                idle_commands=int(options.get("idle_commands", defaults.idle_commands)),
                session_timeout=float(options.get("session", defaults.session_timeout)),
                login_timeout=float(options.get("login", defaults.login_timeout)),
                idle_timeout=float(options.get("idle", defaults.idle_timeout)),
            ),
            style=Style(options.get("style", "posthouse")),
            implementation="Posthouse-test",
            tls=any_tls() if options.get("tls") == "on" else None,
        )

    async def directive(self, name: str, argument: str) -> None:
        if (waiting := getattr(self, f"_{name}")(*([argument] if argument else []))) is not None:
            await waiting

    def _network(self, text: str) -> None:
        network, *words = text.split()
        self.store.named += (Network(network, tuple(words)),)

    def _letter(self, octets: str = "") -> None:
        self.store.add(unescape(octets))

    def _sized(self, octets: str) -> None:
        head = b"Subject: a letter\r\n\r\n"
        self.store.add(head + b"x" * (int(octets) - len(head) - 2) + b"\r\n")

    def _large(self, text: str) -> None:
        count, _, octets = text.partition(" ")
        self.store.add(unescape(octets) * int(count), large=True)

    def _old(self, number: str) -> None:
        self.store.flags[int(number)] |= RETRIEVED

    def _fail(self, text: str) -> None:
        what, _, fault = text.partition(" ")
        if fault == "none":
            self.store.faults.pop(what)
        else:
            self.store.faults[what] = Fault(fault or "storage")

    def _damage(self, number: str) -> None:
        self.store.letters[int(number)].damaged = True

    def _gone(self, number: str) -> None:
        del self.store.letters[int(number)]

    def _lock(self) -> None:
        assert self.store.lock(INBOX), "somebody has the lock"

    def _unlock(self) -> None:
        self.store.unlock(INBOX)

    def _free(self) -> None:
        assert not self.store.locked, "somebody has the lock"

    def _read(self, text: str) -> None:
        number, octets = text.split()
        assert self.store.letters[int(number)].read == int(octets)

    async def _broken(self) -> None:
        assert self.wire is not None
        transport = cast(MemoryTransport, self.wire._transport)
        while not transport.closed:
            transport.changed.clear()
            await transport.changed.wait()
        assert transport.out and not transport.out.endswith(b"\r\n.\r\n"), bytes(transport.out)
        transport.out.clear()
        await asyncio.sleep(0)

    def _stop(self) -> None:
        assert self.wire is not None
        self.wire.ask_to_stop()

    def _left(self, ids: str = "") -> None:
        left = [f"id{uid}" for uid in self.store.letters]
        assert left == ids.split(), f"left are {left}"

    def _retrieved(self, ids: str = "") -> None:
        marked = [f"id{uid}" for uid in self.store.letters if self.store.flags[uid] & RETRIEVED]
        assert marked == ids.split(), f"marked are {marked}"
