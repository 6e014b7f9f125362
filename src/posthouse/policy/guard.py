"""The guard: lets connections in, judges logins and letters of accounts, remembers across a restart, and tells the log.

One for all listeners of a server; lives on the event loop's thread. It decides from memory at once. What is to survive
a restart is written about once a second in a thread, without waiting for the disk: no login waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from posthouse.config.limits import LimitSettings, SendingSettings
from posthouse.mail.reply import Unavailable
from posthouse.observe.log import Log
from posthouse.policy.access import Access
from posthouse.policy.bans import moved
from posthouse.policy.logins import Attempt, LoginGuard
from posthouse.policy.places import Places
from posthouse.policy.ratelimit import Connections
from posthouse.policy.sending import Addressed, Excess, Sending
from posthouse.ports.bans import BanStore, Changes, Known, SentRow
from posthouse.ports.gate import Refusal
from posthouse.ports.system import Clock, Random

PAUSE: Final = 1.0  # seconds between two times of writing down
KEY: Final = 32  # octets of the key under which passwords are told apart


class Guard:
    """The guard of a server (`ports.Gate`, and what `servers` ask about logins). `access` says whom the limits pass
    over. Without a `store` it forgets all at its end."""

    def __init__(
        self,
        limits: LimitSettings,
        sending: SendingSettings,
        *,
        access: Access,
        clock: Clock,
        random: Random,
        log: Log,
        store: BanStore | None = None,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._log = log
        self._store = store
        self._places = Places(access.is_unlimited)
        self.connections = Connections(limits)
        self.logins = LoginGuard(limits, random.octets(KEY))
        self.sending = Sending(sending, self._sent)
        self._task: asyncio.Task[None] | None = None
        self._failing = ""

    def configure(self, limits: LimitSettings, sending: SendingSettings) -> None:
        """Goes by other settings from now on; what was counted stays."""
        self._limits = limits
        self.connections.configure(limits)
        self.logins.configure(limits)
        self.sending.configure(sending)

    # Connections

    def enter(self, host: str) -> Refusal | None:
        """Lets a peer in (None), which `leave` ends, or says why not."""
        self._look()
        place, now = self._places.of(host), self._clock.monotonic()
        if len(self.logins.bans) and (ban := self.logins.banned(place, now)) is not None:
            self._log.info("connection_refused", peer=host, reason="banned", ban=ban.place, why=ban.reason)
            return Refusal.BANNED
        reason = self.connections.enter(place, now)
        if reason:
            self._log.info("connection_refused", peer=host, reason="limit", limit=reason)
            return Refusal.CROWDED
        return None

    def leave(self, host: str) -> None:
        """The connection of a peer that was let in is over."""
        self.connections.leave(self._places.counted(host))

    # Logins

    def ask(self, protocol: str, host: str, login: str) -> Attempt:
        """What becomes of an attempt to log in; told in the log when it is anything but let through."""
        self._look()
        attempt = self.logins.ask(self._places.of(host), login, self._clock.monotonic())
        if attempt.busy:
            self._tell("login_put_off", protocol, host, login, reason="too many strangers try this account")
        elif attempt.refused is not None:
            ban = attempt.refused
            self._tell("login_refused", protocol, host, login, reason="banned", ban=ban.place, why=ban.reason)
        elif attempt.delay:
            self._tell("login_delayed", protocol, host, login, seconds=round(attempt.delay, 1))
        return attempt

    def failed(self, protocol: str, host: str, login: str, secret: str | None) -> None:
        """A login failed. `secret` is the password that was tried, None where the mechanism does not show it; it is
        not kept."""
        ban = self.logins.failed(self._places.of(host), login, secret, self._clock.monotonic())
        if ban is not None and ban.until is not None:
            seconds = round(ban.until - ban.since)
            account = ban.account[:100] or "all"
            self._log.warning(
                "banned", place=ban.place, account=account, seconds=seconds, why=ban.reason, by=ban.by, peer=host
            )

    def succeeded(self, host: str, login: str, account: str) -> None:
        """Somebody logged in."""
        self.logins.succeeded(self._places.of(host), login, account, self._clock.monotonic())

    def dropped(self, host: str, login: str) -> None:
        """An attempt ended before the password was looked at."""
        self.logins.dropped(self._places.of(host), login, self._clock.monotonic())

    def _tell(self, event: str, protocol: str, host: str, login: str, **fields: object) -> None:
        self._log.warning(event, protocol=protocol, login=login[:100], peer=host, **fields)

    # Letters of accounts

    def may_send(self, account: str) -> Excess | None:
        """Whether an account may send one letter more."""
        return self.sending.refuse_letter(account, self._clock.now())

    def may_send_to(self, account: str, recipient: str, letter: Addressed) -> Excess | None:
        """Whether it may send a letter to one recipient more (`Address.key`), who is added to `letter` then."""
        return self.sending.refuse_recipients(account, [recipient], self._clock.now(), letter)

    def send(self, account: str, recipients: Sequence[str]) -> Excess | None:
        """Counts a letter, or says why it is one too many."""
        return self.sending.count(account, recipients, self._clock.now())

    def unsend(self, account: str, recipients: int) -> None:
        """A letter that was counted was not accepted after all."""
        self.sending.take_back(account, recipients, self._clock.now())

    # Memory across a restart

    def start(self) -> None:
        """Takes up what was remembered, and begins to write down."""
        if self._store is None:
            return
        try:
            self._store.tidy(self._clock.now())
            offset = self._offset()
            for known in self._store.known():
                self.logins.remember(Known(known.account, known.network, known.seen + offset))
            self.logins.take_bans([moved(ban, offset) for ban in self._store.bans()])
        except Unavailable as problem:
            self._log.error("bans_unreadable", reason=str(problem))
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Writes down what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            await self._write()
        if self._store is not None:
            self._store.close()
            self._store = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            self._look()
            now = self._clock.monotonic()
            for ban in self.logins.bans.ended(now):
                self._log.info("unbanned", place=ban.place, account=ban.account[:100] or "all", by="its end")
            self.logins.forget_strangers(now)
            await self._write()

    async def _write(self) -> None:
        """Writes down what is fresh; what cannot be written stays fresh and is tried again."""
        logins, offset = self.logins, self._offset()
        bans, known = dict(logins.fresh_bans), dict(logins.fresh_known)
        sent, self.sending.fresh = self.sending.fresh, set()
        changes = Changes(
            bans=[moved(ban, -offset) for ban in bans.values()],
            known=[Known(one.account, one.network, one.seen - offset) for one in known.values()],
            sent=[replace(self.sending.row(account)) for account in sent],
        )
        if not changes or self._store is None:
            return
        now = self._clock.now()
        store, limits = self._store, self._limits
        try:
            await asyncio.get_running_loop().run_in_executor(
                None,
                lambda: store.merge(
                    changes, seen_before=now - limits.known_time, ended_before=now - limits.ban_longest
                ),
            )
        except Unavailable as problem:
            self.sending.fresh |= sent
            if not self._failing:
                self._log.error("bans_not_written", reason=str(problem))
            self._failing = str(problem)
            return
        self._failing = ""
        for key, ban in bans.items():
            if logins.fresh_bans.get(key) is ban:
                del logins.fresh_bans[key]
        for key, one in known.items():
            if logins.fresh_known.get(key) is one:
                del logins.fresh_known[key]

    def _look(self) -> None:
        """Notices at once what an administrator changed beside us."""
        if self._store is None or not self._store.changed():
            return
        try:
            bans = self._store.bans()
        except Unavailable as problem:
            self._log.error("bans_unreadable", reason=str(problem))
            return
        offset = self._offset()
        new, gone = self.logins.take_bans([moved(ban, offset) for ban in bans])
        for ban in new:
            self._log.warning("banned", place=ban.place, account=ban.account or "all", why=ban.reason, by=ban.by)
        for ban in gone:
            self._log.warning("unbanned", place=ban.place, account=ban.account or "all", by="administrator")

    def _offset(self) -> float:
        """What is added to wall time to get the time of the clock that never jumps."""
        return self._clock.monotonic() - self._clock.now()

    def _sent(self, account: str) -> SentRow | None:
        try:
            return None if self._store is None else self._store.sent(account)
        except Unavailable as problem:
            self._log.error("sent_unreadable", account=account, reason=str(problem))
            return None
