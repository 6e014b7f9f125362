"""Failed logins: when they are delayed, and when they end in a ban.

The rules (each number is a setting of [limits]):

* Who fails for one account from one place waits longer each time, then is banned for this account from there.
  The same wrong password counts once: a telephone that tries an old one all night is no attacker.
* A whole place is banned only for failures with several accounts, or a great many different ones.
* An account that many places try is slowed for all places but those from which it was used not long ago, so that its
  owner always gets in.
* This machine and the networks that the administrator named are delayed, never banned.

Of a password only a keyed digest is kept, in memory, with a key that ends with the process. Nothing here looks at a
clock or waits: times are arguments, of a clock that never jumps. All tables are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from posthouse.config.limits import LimitSettings
from posthouse.mail.address import Address, AddressError
from posthouse.policy.bans import ADMINISTRATOR, FAILED_LOGINS, Bans
from posthouse.policy.places import Place
from posthouse.ports.bans import Ban, Known

LONGEST_LOGIN: Final = 320  # characters of a login name that are looked at: a local part, an @ and a domain
MOST: Final = 20_000  # entries of each table of failures; beyond them the one that failed longest ago is forgotten
MOST_KNOWN: Final = 200_000  # accounts and networks that belong together: some 40 MB
DAY: Final = 86_400.0  # how exactly it is known when a network was seen last
PACE: Final = 5.0  # seconds between two attempts of strangers at an account that many try
SLOWEST: Final = 30.0  # seconds that such an attempt may have to wait; further ones are told to come back


@dataclass(slots=True, frozen=True)
class Attempt:
    """What becomes of an attempt to log in: it waits, it is `refused` whatever the password, or put off (`busy`)."""

    delay: float = 0.0
    refused: Ban | None = None
    busy: bool = False


@dataclass(slots=True)
class _Tally:
    """Failures of one window."""

    since: float
    digests: set[int] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    waiting: int = 0
    next_slot: float = 0.0


K = TypeVar("K")


class _Tallies(Generic[K]):
    """Tallies by key, bounded, the one that was touched longest ago first."""

    __slots__ = ("_all", "_most", "window")

    def __init__(self, window: float, most: int) -> None:
        self.window = window
        self._most = most
        self._all: dict[K, _Tally] = {}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, key: K, now: float) -> _Tally | None:
        tally = self._all.get(key)
        if tally is not None and now - tally.since > self.window:
            del self._all[key]
            return None
        return tally

    def touch(self, key: K, now: float) -> _Tally:
        tally = self.get(key, now) or _Tally(now)
        self._all.pop(key, None)
        if len(self._all) >= self._most:
            del self._all[next(iter(self._all))]
        self._all[key] = tally
        return tally

    def forget(self, key: K) -> None:
        self._all.pop(key, None)

    def keys(self) -> list[K]:
        return list(self._all)


_FREE: Final = Attempt()


class LoginGuard:
    """Decides about attempts to log in: `ask` before one, then `failed` or `succeeded`, or `dropped` when it came to
    neither. `bans` are shared with whoever lets connections in."""

    __slots__ = (
        "_accounts",
        "_key",
        "_known",
        "_limits",
        "_networks",
        "_nobody",
        "_pairs",
        "_places",
        "bans",
        "fresh_bans",
        "fresh_known",
    )

    def __init__(self, limits: LimitSettings, key: bytes, *, most: int = MOST) -> None:
        self._limits = limits
        self._key = key
        self._nobody = 0
        self._pairs = _Tallies[tuple[str, str]](limits.failure_window, most)
        self._places = _Tallies[str](limits.failure_window, most)
        self._accounts = _Tallies[str](limits.failure_window, most)
        self._known: dict[tuple[str, str], float] = {}  # (account, network) -> when; the oldest first
        self._networks: dict[str, int] = {}  # network -> how many accounts are known there
        self.bans = Bans(limits.ban_longest)
        self.fresh_bans: dict[tuple[str, str], Ban] = {}  # not yet written down
        self.fresh_known: dict[tuple[str, str], Known] = {}

    def configure(self, limits: LimitSettings) -> None:
        """Goes by other numbers from now on."""
        self._limits = limits
        self.bans.memory = limits.ban_longest
        for tallies in (self._pairs, self._places, self._accounts):
            tallies.window = limits.failure_window

    # Connections

    def banned(self, place: Place, now: float) -> Ban | None:
        """The ban for which a connection from here is refused altogether. One for failed logins does not count where
        an account is known: its owner must get in, and all others are refused at the login."""
        ban = self.bans.find(place, "", now)
        if ban is None or ban.by == ADMINISTRATOR:
            return ban
        return None if place.exempt or place.network in self._networks else ban

    # Logins

    def ask(self, place: Place, login: str, now: float) -> Attempt:
        """What becomes of this attempt, before the password is looked at."""
        account = login_key(login)
        pair = self._pairs.get((place.house, account), now)
        known = self.is_known(place, account, now)
        refused = self._ban_of(place, account, known or place.exempt, now)
        if pair is None and refused is None and (known or place.exempt or not len(self._accounts)):
            return _FREE  # nearly every login
        if refused is not None:
            return Attempt(self._limits.delay_longest, refused)  # as slow as the attempt before the ban
        delay = 0.0 if pair is None else self._delay(pair)
        if not known and not place.exempt:
            slot = self._slot(account, now)
            if slot > SLOWEST:
                return Attempt(busy=True)
            delay = max(delay, slot)
        if pair is not None:
            pair.waiting += 1
        return Attempt(delay)

    def _ban_of(self, place: Place, account: str, exempt: bool, now: float) -> Ban | None:
        if not len(self.bans):
            return None
        for whom in (account, ""):
            ban = self.bans.find(place, whom, now)
            if ban is not None and (ban.by == ADMINISTRATOR or not exempt):
                return ban
        return None

    def _delay(self, pair: _Tally) -> float:
        """1, 2, 4, 8 ... seconds. Attempts under way count as if they had failed, so that nobody is spared by trying
        many at once."""
        steps = len(pair.digests) + pair.waiting - self._limits.delay_after
        return min(self._limits.delay_longest, float(2 ** min(steps, 30))) if steps >= 0 else 0.0

    def _slot(self, account: str, now: float) -> float:
        """How long a stranger waits for his turn at an account that many try."""
        tally = self._accounts.get(account, now)
        if tally is None or len(tally.digests) < self._limits.account_failures:
            return 0.0
        wait = max(0.0, tally.next_slot - now)
        if wait <= SLOWEST:
            tally.next_slot = now + wait + PACE
        return wait

    def dropped(self, place: Place, login: str, now: float) -> None:
        """An attempt ended without an answer about the password."""
        pair = self._pairs.get((place.house, login_key(login)), now)
        if pair is not None and pair.waiting:
            pair.waiting -= 1

    def succeeded(self, place: Place, login: str, account: str, now: float) -> None:
        """Somebody logged in: this place is known for the account, under the name that was given, too."""
        if not place.address:
            return
        name = login_key(login)
        self._pairs.forget((place.house, name))
        for whom in (account,) if name == account else (account, name):
            key = (whom, place.network)
            seen = self._known.get(key)
            if seen is None or now - seen > min(DAY, self._limits.known_time / 4):
                self.remember(Known(whom, place.network, now))
                self.fresh_known[key] = Known(whom, place.network, now)

    def failed(self, place: Place, login: str, secret: str | None, now: float) -> Ban | None:
        """Counts a wrong password (None where the mechanism does not show it); returns the ban that follows."""
        account = login_key(login)
        pair = self._pairs.touch((place.house, account), now)
        pair.waiting = max(0, pair.waiting - 1)
        digest = self._digest(account, secret)
        if digest in pair.digests:
            return None
        if len(pair.digests) <= self._limits.pair_failures:
            pair.digests.add(digest)
        if self.is_known(place, account, now):
            return None
        tally = self._accounts.touch(account, now)
        if len(tally.digests) < self._limits.account_failures:
            tally.digests.add(digest)
        return None if place.exempt or not place.address else self._judge(place, account, digest, secret, pair, now)

    def _judge(
        self, place: Place, account: str, digest: int, secret: str | None, pair: _Tally, now: float
    ) -> Ban | None:
        limits, tally = self._limits, self._places.touch(place.house, now)
        tally.digests.add(digest if secret is not None else self._digest(account, ""))
        tally.accounts.add(account)
        if len(tally.accounts) >= limits.address_accounts:
            return self._ban(place.house, "", f"failed logins to {len(tally.accounts)} accounts", now)
        if len(tally.digests) >= limits.address_failures:
            return self._ban(place.house, "", f"{len(tally.digests)} different failed logins", now)
        if len(pair.digests) >= limits.pair_failures:
            return self._ban(place.house, account, f"{len(pair.digests)} different wrong passwords", now)
        return None

    def _ban(self, house: str, account: str, reason: str, now: float) -> Ban:
        """Bans, twice as long as the last time, and begins to count anew."""
        last = self.bans.get(house, account)
        if last is not None and last.by == ADMINISTRATOR and (last.until is None or last.until > now):
            return last
        times = 1 if last is None else last.times + 1
        seconds = min(self._limits.ban_longest, self._limits.ban_time * 2 ** min(times - 1, 30))
        ban = Ban(house, account, now, now + seconds, reason, FAILED_LOGINS, times)
        self.bans.add(ban)
        self.fresh_bans[ban.key] = ban
        self._pairs.forget((house, account))
        if not account:
            self._places.forget(house)
        return ban

    def _digest(self, account: str, secret: str | None) -> int:
        """Tells two attempts apart without keeping either. One whose password is not seen is like no other."""
        if secret is None:
            self._nobody += 1
            secret = f"\0{self._nobody}"
        text = f"{account}\0{secret[:2000]}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, key=self._key, digest_size=7).digest(), "big")

    # What is known from before

    def is_known(self, place: Place, account: str, now: float) -> bool:
        """Whether somebody logged in to the account from this network not long ago."""
        seen = self._known.get((account, place.network))
        return seen is not None and now - seen <= self._limits.known_time

    def remember(self, known: Known) -> None:
        """A network from which an account was used."""
        key = (known.account, known.network)
        if self._known.pop(key, None) is None:
            self._networks[known.network] = self._networks.get(known.network, 0) + 1
        if len(self._known) >= MOST_KNOWN:
            self._forget(next(iter(self._known)))
        self._known[key] = known.seen

    def forget_strangers(self, now: float) -> None:
        """Drops networks that were seen too long ago (the oldest stand first)."""
        while self._known and now - self._known[oldest := next(iter(self._known))] > self._limits.known_time:
            self._forget(oldest)

    def _forget(self, key: tuple[str, str]) -> None:
        del self._known[key]
        left = self._networks[key[1]] - 1
        if left:
            self._networks[key[1]] = left
        else:
            del self._networks[key[1]]

    def take_bans(self, bans: Iterable[Ban]) -> tuple[list[Ban], list[Ban]]:
        """Takes the bans as they are written down, and those that are not yet; returns which are new and which are
        gone. Whoever is forgiven begins anew."""
        before = {ban.key: ban for ban in self.bans}
        now_banned = {ban.key: ban for ban in bans} | self.fresh_bans
        self.bans.replace(now_banned.values())
        gone = [ban for key, ban in before.items() if key not in now_banned]
        for ban in gone:
            self.forgive(ban)
        return [ban for key, ban in now_banned.items() if key not in before], gone

    def forgive(self, ban: Ban) -> None:
        """Forgets the failures behind a ban."""
        self._pairs.forget((ban.place, ban.account))
        if not ban.account:
            self._places.forget(ban.place)
            for key in [key for key in self._pairs.keys() if key[0] == ban.place]:  # noqa: SIM118 - no dict
                self._pairs.forget(key)

    @property
    def remembered(self) -> int:
        """Entries of all tables of failures, for whoever looks after memory."""
        return len(self._pairs) + len(self._places) + len(self._accounts)


def login_key(login: str) -> str:
    """One form for all ways of writing a login name. Nothing is looked up: a name that nobody has is treated alike."""
    return _login_key(login[: LONGEST_LOGIN + 1])


@lru_cache(maxsize=4096)  # the same names come again and again
def _login_key(login: str) -> str:
    try:
        return (Address.parse(login) if "@" in login else Address(login, "")).key
    except AddressError:
        return login.casefold()
