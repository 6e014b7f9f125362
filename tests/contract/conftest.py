"""The engines that must pass the contract suite, and what its tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.ports.store import Account, Delivered, Delivery, Letter, Store
from posthouse.store import Options, open_memory_store, open_store

PREFIX = b"Return-Path: <a@b.example>\r\nReceived: from here\r\n"


class StillClock:
    """A clock that tests move by hand."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.wall = now

    def now(self) -> float:
        """Wall time."""
        return self.wall

    def monotonic(self) -> float:
        """Never jumps."""
        return self.wall


@dataclass(slots=True)
class House:
    """A store under test that can be closed and opened again, and beside which another can be opened."""

    path: Path
    clock: StillClock
    options: Options = field(default_factory=Options)
    opened: list[Store] = field(default_factory=list)
    in_memory: bool = False

    @property
    def store(self) -> Store:
        """The store opened last."""
        return self.opened[-1]

    def open(self, *, serve: bool = True) -> Store:
        """Opens the store once more."""
        if self.in_memory:
            if self.opened:
                self.need_disk()
            store = open_memory_store(clock=self.clock, options=self.options)
        else:
            store = open_store(self.path, serve=serve, clock=self.clock, options=self.options)
        self.opened.append(store)
        return store

    def need_disk(self) -> None:
        """What follows is not promised of a store in memory."""
        if self.in_memory:
            pytest.skip("a store in memory is gone when it is closed, and nobody else can open it")

    async def reopen(self) -> Store:
        """Closes the store and opens it again."""
        self.need_disk()
        await self.opened.pop().close()
        return self.open()

    async def account(self, address: str = "test@x.mail", quota: int = 0) -> Account:
        """An account, and its domain when it is not there yet."""
        domain = address.rpartition("@")[2]
        if await self.store.find_domain(domain) is None:
            await self.store.add_domain(domain)
        return await self.store.add_account(address, "hash", quota)

    async def deliver(self, content: bytes, *accounts: int, prefix: bytes = PREFIX) -> list[Delivered]:
        """Delivers one letter to these accounts."""
        draft = self.store.draft()
        for start in range(0, len(content), 65_536):
            await draft.write(content[start : start + 65_536])
        deliveries = [Delivery(account, prefix, "test@x.mail") for account in accounts]
        return await self.store.deliver(draft, deliveries, letter="L1")

    async def octets(self, mailbox: int, uid: int) -> bytes | None:
        """The octets of one message, None when it is gone."""
        (letter,) = await self.store.fetch(mailbox, [uid])
        return None if letter is None else await read(letter)

    async def damages(self) -> list[str]:
        """The kinds of damage that the check finds."""
        return [damage.what async for damage in self.store.check()]


async def read(letter: Letter) -> bytes:
    """All octets of a letter."""
    return b"".join([chunk async for chunk in letter.chunks()])


async def refused(wanted: type[Exception], action: Callable[[], Awaitable[object]]) -> None:
    """Asserts that an action is refused in this way."""
    with pytest.raises(wanted):
        await action()


@pytest.fixture(params=["sqlite", "memory"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """An empty store of each engine."""
    house = House(tmp_path / "data", StillClock(), in_memory=request.param == "memory")
    house.open()
    yield house
    for store in reversed(house.opened):
        await store.close()
