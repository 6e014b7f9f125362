"""What the tests of backups share: a store with letters of both kinds, and backups of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.net.system import SystemClock, SystemRandom
from posthouse.ports.queue import Queued
from posthouse.ports.store import Delivery, Store
from posthouse.store import open_store
from posthouse.store.backup.create import Made, create
from posthouse.store.backup.letters import Returned, Wish, draw, put_back
from posthouse.store.backup.repository import Progress
from posthouse.store.backup.verify import Verified, verify
from posthouse.store.backup.whole import Restored, restore_all

ANNA, BORIS = "anna@x.mail", "boris@x.mail"
LARGE = b"Subject: large\r\n\r\n" + b"y" * 300_000 + b"\r\n"


def silent(done: int, total: int) -> None:
    """Nobody looks."""


def small(number: int) -> bytes:
    """A small letter."""
    return b"Subject: small %d\r\n\r\nx\xe9%d\r\n" % (number, number)


@dataclass(slots=True)
class Office:
    """A data directory, a backup directory, and an open store."""

    folder: Path
    store: Store

    @property
    def data(self) -> Path:
        """Where the mail lies."""
        return self.folder / "data"

    @property
    def backups(self) -> Path:
        """Where the backups lie."""
        return self.folder / "backups"

    @classmethod
    async def open(cls, folder: Path) -> Office:
        """Two accounts, who share a large letter and have two small ones each; one letter waits."""
        office = cls(folder, open_store(folder / "data", serve=True))
        await office.store.add_domain("x.mail")
        for address in (ANNA, BORIS):
            await office.store.add_account(address, "hash", 1_000_000)
        await office.deliver(LARGE, "L", ANNA, BORIS)
        for number in (1, 2):
            await office.deliver(small(number), f"A{number}", ANNA)
            await office.deliver(small(number), f"B{number}", BORIS)
        draft = office.store.draft()
        await draft.write(small(7))
        queued = [Queued("example.com", "far@example.com", b"Received: q\r\n", 1e9, 2e9)]
        await office.store.queue.accept(draft, [], queued, letter="Q", envelope=Envelope(Address.parse(ANNA)))
        return office

    async def deliver(self, content: bytes, letter: str, *addresses: str) -> None:
        """Delivers one letter."""
        draft = self.store.draft()
        await draft.write(content)
        deliveries = []
        for address in addresses:
            account = await self.store.find_account(address)
            assert account is not None
            prefix = f"Received: for {address}\r\n".encode()
            deliveries.append(Delivery(account.id, prefix, address, ("FAILURE",), f"rfc822;{address}"))
        await self.store.deliver(draft, deliveries, letter=letter, envelope=Envelope(Address.parse("from@x.example")))

    async def empty(self, address: str) -> None:
        """Deletes all letters of an account."""
        account = await self.store.find_account(address)
        assert account is not None
        maildrop = await self.store.maildrop(account.inbox)
        await self.store.update(account.inbox, [row[0] for row in maildrop.rows], [])

    async def create(self, progress: Progress = silent, configuration: Path | None = None) -> Made:
        """Makes a backup while the store is open, as a command does beside a server."""

        def work() -> Made:
            return create(
                self.data,
                self.backups,
                clock=SystemClock(),
                random=SystemRandom(),
                version="1",
                configuration=configuration,
                progress=progress,
            )

        return await asyncio.to_thread(work)

    async def verify(self, *names: str) -> Verified:
        """Verifies backups."""
        return await asyncio.to_thread(verify, self.backups, names)

    async def restore(self, data: Path, name: str = "", *, replace: bool = False) -> Restored:
        """Restores everything."""

        def work() -> Restored:
            return restore_all(data, self.backups, name, replace=replace, clock=SystemClock())

        return await asyncio.to_thread(work)

    async def bring_back(self, address: str, *, letter: str = "", message: int = 0, name: str = "") -> Returned:
        """Brings letters back beside the open store."""
        wish = Wish(address, letter, message)
        with draw(self.data, self.backups, name, wish, clock=SystemClock(), random=SystemRandom()) as drawn:
            beside = open_store(self.data, serve=False)
            try:
                return await put_back(beside, drawn)
            finally:
                await beside.close()


async def contents(store: Store, address: str) -> list[bytes]:
    """All letters of an account, whole, in the order of their UIDs."""
    account = await store.find_account(address)
    assert account is not None
    maildrop = await store.maildrop(account.inbox)
    letters = await store.fetch(account.inbox, [row[0] for row in maildrop.rows])
    return [b"".join([chunk async for chunk in letter.chunks()]) for letter in letters if letter is not None]
