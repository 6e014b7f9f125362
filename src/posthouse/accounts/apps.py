"""App passwords: one for each program or device, made by us, shown once, taken back one by one.

25 characters of 32 are 125 random bits. Nobody guesses them, so a fast keyed hash keeps them as safe as argon2id
would, and a login costs microseconds (docs/adr/0051).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

from posthouse.mail.reply import Unavailable
from posthouse.ports.system import Random

ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 letters and digits that no reader mistakes: no l, o, 0, 1
LENGTH: Final = 25
GROUP: Final = 5
MOST: Final = 50  # of one account
PROTOCOLS: Final = ("smtp", "pop3", "imap")
MERGE: Final = 1.0  # seconds between a login and the note of it in the store
_APP: Final = re.compile(f"(?:[{ALPHABET}]{{{GROUP}}}-){{{LENGTH // GROUP - 1}}}[{ALPHABET}]{{{GROUP}}}")
_LOOSE: Final = re.compile(f"[{ALPHABET}]{{{LENGTH}}}")


def make(random: Random) -> str:
    """A new app password, in groups of five."""
    letters = "".join(ALPHABET[octet & 31] for octet in random.octets(LENGTH))
    return "-".join(letters[at : at + GROUP] for at in range(0, LENGTH, GROUP))


def read(password: str) -> str | None:
    """The form in which an app password is hashed, None for what cannot be one. Hyphens and blanks may be missing or
    stand elsewhere, and capital letters are small ones: it is copied from a screen."""
    if not LENGTH <= len(password) <= 2 * LENGTH or not password.isascii():
        return None
    if _APP.fullmatch(password):
        return password
    bare = password.replace("-", "").replace(" ", "").lower()
    if not _LOOSE.fullmatch(bare):
        return None
    return "-".join(bare[at : at + GROUP] for at in range(0, LENGTH, GROUP))


def digest(secret: bytes, account: int, password: str) -> bytes:
    """What is kept of an app password: bound to the store's own key and to the account."""
    return blake2b(b"%d\0%b" % (account, password.encode("ascii")), key=secret, digest_size=32).digest()


def allows(protocols: str, protocol: str) -> bool:
    """Whether a credential for these protocols opens this one."""
    return not protocols or not protocol or protocol in protocols.split(",")


class LastUsed:
    """When app passwords were last used: kept in memory, merged into the store about once a second, and no login
    waits for that. `merge` gets what came together."""

    __slots__ = ("_merge", "_noted", "_task", "_timer")

    def __init__(self, merge: Callable[[dict[int, float]], Awaitable[None]]) -> None:
        self._merge = merge
        self._noted: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def note(self, credential: int, now: float) -> None:
        """A login with this credential succeeded."""
        self._noted[credential] = now
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MERGE, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        noted, self._noted = self._noted, {}
        if noted:
            try:
                await self._merge(noted)
            except Unavailable:
                return  # what was forgotten is told by the next login

    async def close(self) -> None:
        """Merges what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await self._task
        await self._flush()
