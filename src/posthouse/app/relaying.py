"""How letters leave a server: the router, the deliverer, the notices and the queue's manager, built of its
configuration and changed with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import tzinfo
from functools import partial

from posthouse.config.schema import Config
from posthouse.mail.address import Address
from posthouse.mail.reply import Unavailable
from posthouse.mail.schedule import parse_schedule
from posthouse.mta.bounce import Notices
from posthouse.mta.dispatch import Courier, Dispatcher
from posthouse.mta.onward import Onward
from posthouse.mta.plan import Plan
from posthouse.mta.relay import Relay
from posthouse.mta.routing import Router
from posthouse.net.buffers import Buffers
from posthouse.net.dial import open_address
from posthouse.observe.log import Log
from posthouse.ports.directory import Directory
from posthouse.ports.queue import Carried, Parcel, QueueStore, Result
from posthouse.ports.store import Route
from posthouse.ports.system import Clock, Observer, Random
from posthouse.queue.manager import AGAIN, AGAIN_LONGEST, Carry, QueueManager
from posthouse.queue.steady import SteadyClock


class Relaying:
    """One for a server. `onward` is what its reception hands letters to."""

    def __init__(
        self,
        config: Config,
        queue: QueueStore,
        directory: Directory,
        router: Router,
        clock: Clock,
        random: Random,
        log: Log,
        *,
        host: str,
        postmaster: Address,
        buffers: Buffers,
        observer: Observer | None = None,
        poll: float | None,
        carry: Callable[[Carry], Carry],
        zone: tzinfo | None = None,
    ) -> None:
        """`postmaster` is who writes the notices, `zone` that of their dates; `buffers` are those of the connections;
        `poll`: see `queue.manager.QueueManager`; `carry` may put something around each attempt."""
        self._clock = SteadyClock(clock)
        self._random = random
        self._log = log
        self._observer = observer
        self._connect = partial(open_address, buffers=buffers)
        self._zone = zone
        self._former: set[asyncio.Task[None]] = set()
        self._beginning: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        settings = config.relay
        self._manager = QueueManager(
            queue,
            carry(self._carry),
            self._clock,
            log,
            places=settings.connections,
            destination_places=settings.destination_connections,
            poll=poll,
        )
        self.configure(config, directory, router, host, postmaster)

    def configure(self, config: Config, directory: Directory, router: Router, host: str, postmaster: Address) -> None:
        """Takes a new configuration; what is under way ends as it began."""
        notices = Notices(host, postmaster, config.relay.language, self._clock, self._random, self._zone)
        courier = Courier(notices, directory, router, self._clock)
        self._router = router
        if self._relay is not None:  # its connections were opened by the old settings
            closing = asyncio.get_running_loop().create_task(self._relay.close())
            self._former.add(closing)
            closing.add_done_callback(self._former.discard)
        limits = replace(config.relay.limits, send_eight_bit=config.relay.eight_bit == "send")
        self._relay = Relay(
            self._plan,
            self._log,
            self._clock,
            name=host,
            limits=limits,
            connect=self._connect,
            observer=self._observer,
            way=self._way,
        )
        self._dispatcher = Dispatcher(
            self._relay.deliver,
            courier,
            router,
            parse_schedule(config.relay.schedule),
            self._clock,
            self._random,
            self._log,
            since=lambda: self._manager.since,
        )
        self._manager.configure(config.relay.connections, config.relay.destination_connections)
        self.onward = Onward(router, self._manager, courier, self._clock, host=host)

    async def start(self) -> None:
        """Begins to carry letters on. While the queue cannot be read it tries again and again; other mail goes on."""
        if not await self._begin():
            self._beginning = asyncio.get_running_loop().create_task(self._begin_later())

    async def _begin(self) -> bool:
        try:
            await self._manager.start()
        except Unavailable as error:
            self._log.error("queue_unreadable", reason=str(error), advice="run posthouse doctor --store")
            return False
        return True

    async def _begin_later(self) -> None:
        wait = AGAIN
        while True:
            await asyncio.sleep(wait)
            if await self._begin():
                return
            wait = min(2 * wait, AGAIN_LONGEST)

    async def stop(self, seconds: float) -> None:
        """Waits so long for letters that are under way."""
        if self._beginning is not None:
            self._beginning.cancel()
        await self._manager.stop(seconds)
        with suppress(TimeoutError):  # a host that does not answer QUIT
            async with asyncio.timeout(seconds):
                if self._relay is not None:
                    await self._relay.close()
                await asyncio.gather(*self._former)

    def _plan(self, destination: str) -> Awaitable[Plan]:
        return self._router.plan(destination)

    def _way(self, destination: str) -> Route | None:
        return self._router.way(destination)

    def _carry(self, parcel: Parcel, known: Result | None) -> Awaitable[Carried]:
        return self._dispatcher.carry(parcel, known)
