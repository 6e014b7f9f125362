"""Passwords: how they are hashed, verified off the event loop, and remembered for a while once they were right.

A stored password is an argon2id hash in PHC string form (RFC 9106), or for a while one that another server made
(`foreign`). Verifying costs 19 MiB and some 20 ms of a
core, so it runs in a few threads behind a bounded queue; a program that looks for mail every minute is spared by
a cache of verified logins.

Passwords are compared in the form of RFC 8265 §4.2.2 (OpaqueString, the successor of SASLprep): Unicode form NFC,
every kind of blank as a plain blank, nothing else changed. So the same password typed on two systems is the same,
and capital letters, wide forms and blanks inside it count. Control characters are refused when a password is set,
for no protocol can carry all of them.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final, TypeVar

from argon2 import Type, exceptions, extract_parameters
from argon2.low_level import error_to_str, hash_secret, verify_secret

from posthouse.accounts import foreign
from posthouse.config.schema import AccountSettings
from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.system import Clock, Random
from posthouse.sasl.prepare import opaque

LONGEST: Final = 1000  # octets of a password; RFC 4616 §2 lets a server set such a bound, and a hash must end
SALT: Final = 16  # octets; RFC 9106 §3.1
TAG: Final = 32  # octets; RFC 9106 §4
KEY: Final = 32  # octets of the key of the cache, made anew in each process


_OUR_FAULT: Final = frozenset({error_to_str(-22), error_to_str(-33)})  # no memory, no thread (argon2.h)

T = TypeVar("T")


class Verdict(IntEnum):
    """What a verification came to. Only WRONG is false."""

    WRONG = 0
    REMEMBERED = 1  # it was verified not long ago
    VERIFIED = 2


class BadPassword(ValueError):
    """A password that cannot be set. The text says why, and what to do."""


def prepare(password: str) -> bytes | None:
    """The octets that are hashed, or None for what can be nobody's password (empty or too long)."""
    octets = opaque(password[: LONGEST + 1]).encode("utf-8", "replace")
    return octets if 0 < len(octets) <= LONGEST else None


def check_new(password: str) -> bytes:
    """The octets of a password that is to be set. Raises BadPassword."""
    if not password:
        raise BadPassword("The password is empty. Choose one that nobody guesses.")
    octets = prepare(password)
    if octets is None:
        raise BadPassword(f"The password is longer than {LONGEST} octets. Choose a shorter one.")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in password):
        raise BadPassword("The password holds a control character, which mail programs cannot send. Leave it out.")
    return octets


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Credentials:
    """Hashes and verifies passwords. Lives on one event loop."""

    __slots__ = (
        "_cache",
        "_clock",
        "_dummy",
        "_key",
        "_most",
        "_pending",
        "_pool",
        "_random",
        "_running",
        "_settings",
        "hashed",
    )

    def __init__(self, settings: AccountSettings, clock: Clock, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._clock = clock
        threads = settings.hash_threads or max(1, cores() - 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="posthouse-hash")
        self._most = threads + settings.hash_queue
        self._pending = 0
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._cache: dict[bytes, float] = {}  # digest -> when it ends; in the order of their ends
        self._key = random.octets(KEY)
        self._dummy = self._dummy_hash()
        self.hashed = 0  # verifications that were not answered by the cache

    @property
    def clock(self) -> Clock:
        """The clock of the cache."""
        return self._clock

    @property
    def random(self) -> Random:
        """Where salts come from."""
        return self._random

    @property
    def together(self) -> int:
        """How many hashes may be asked for at once without any being refused."""
        return self._most

    def _dummy_hash(self) -> str:
        """A hash in the form of the real ones that no password has: its tag is random."""
        settings = self._settings
        parameters = f"m={settings.hash_memory // 1024},t={settings.hash_passes},p={settings.hash_lanes}"
        salt, tag = self._random.octets(SALT), self._random.octets(TAG)
        return f"$argon2id$v=19${parameters}${_base64(salt)}${_base64(tag)}"

    async def verify(self, account: str, stored: str, password: str) -> Verdict:
        """Whether the password is the one behind the `stored` hash of the account, and whether we remembered it.

        An empty `stored`, for an account that does not exist or has no password, costs the same time and is never
        true. Raises Unavailable(BUSY) when too many verifications are waiting.
        """
        secret = prepare(password)
        genuine = secret is not None and (stored.startswith("$argon2id$") or foreign.known(stored))
        if not genuine:
            stored, secret = self._dummy, secret or b"-"
        assert secret is not None
        digest = self._digest(account, stored, secret)
        if digest in self._cache:
            if self._cache[digest] > self._clock.monotonic():
                return Verdict.REMEMBERED
            del self._cache[digest]
        right = await self._verify_once(digest, stored, secret)
        if not right or not genuine:
            return Verdict.WRONG
        self._remember(digest)
        return Verdict.VERIFIED

    async def _verify_once(self, digest: bytes, stored: str, secret: bytes) -> bool:
        """Verifies in a thread; who asks the same at the same time shares the answer."""
        running = self._running.get(digest)
        if running is None:
            self.hashed += 1
            running = self.in_thread(lambda: _matches(stored, secret))
            self._running[digest] = running
            running.add_done_callback(lambda _: self._running.pop(digest, None))
        return await asyncio.shield(running)

    def in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Starts expensive work in a thread, or raises Unavailable(BUSY) when as much is waiting as may."""
        if self._pending >= self._most:
            raise Unavailable(Fault.BUSY, f"{self._pending} passwords are waiting to be verified")
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._pending += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # whoever waited may be gone; the event loop shall not complain of it

    def _digest(self, account: str, stored: str, secret: bytes) -> bytes:
        """Binds a login to the stored hash: after a change of password it is another."""
        digest = blake2b(key=self._key, digest_size=32)
        for part in (account.encode("utf-8", "replace"), stored.encode("utf-8", "replace"), secret):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.digest()

    def _remember(self, digest: bytes) -> None:
        now = self._clock.monotonic()
        cache = self._cache
        while cache:
            oldest = next(iter(cache))
            if len(cache) < self._settings.login_cache and cache[oldest] > now:
                break
            del cache[oldest]
        if self._settings.login_cache:
            cache[digest] = now + self._settings.login_cache_time

    async def hash(self, password: str) -> str:
        """The hash under which a new password is stored. Raises BadPassword, Unavailable(BUSY)."""
        secret = check_new(password)
        salt = self._random.octets(SALT)
        return await self.in_thread(lambda: self._hash(secret, salt))

    def _hash(self, secret: bytes, salt: bytes) -> str:
        settings = self._settings
        return hash_secret(
            secret,
            salt,
            time_cost=settings.hash_passes,
            memory_cost=settings.hash_memory // 1024,
            parallelism=settings.hash_lanes,
            hash_len=TAG,
            type=Type.ID,
        ).decode("ascii")

    def is_old(self, stored: str) -> bool:
        """Whether a stored hash was made with other parameters than those set now, or by another scheme."""
        settings = self._settings
        memory, passes, lanes = settings.hash_memory // 1024, settings.hash_passes, settings.hash_lanes
        if stored.startswith(f"$argon2id$v=19$m={memory},t={passes},p={lanes}$"):
            return False
        if foreign.known(stored):
            return True
        try:
            found = extract_parameters(stored)
        except exceptions.InvalidHashError:
            return False
        return (found.memory_cost, found.time_cost, found.parallelism) != (memory, passes, lanes)

    def close(self) -> None:
        """Ends the threads; who still waits is cancelled, and who comes later is told to come back."""
        self._most = 0
        self._pool.shutdown(wait=False, cancel_futures=True)


def _matches(stored: str, secret: bytes) -> bool:
    if foreign.known(stored):
        return foreign.matches(stored, secret)
    try:
        return verify_secret(stored.encode("ascii", "replace"), secret, Type.ID)
    except exceptions.VerificationError as error:
        if str(error) in _OUR_FAULT:
            raise Unavailable(Fault.BUSY, f"a password could not be verified: {error}") from error
        return False
    except exceptions.InvalidHashError:
        return False


def _base64(octets: bytes) -> str:
    """Base64 without padding, as PHC strings have it."""
    return b64encode(octets).rstrip(b"=").decode("ascii")
