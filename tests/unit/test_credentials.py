"""Passwords: what verifies, what does not, what is remembered and for how long, and that all of it is bounded."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator

import pytest
from argon2 import Parameters, Type, extract_parameters
from argon2.exceptions import VerificationError, VerifyMismatchError
from argon2.low_level import verify_secret

from posthouse.accounts import credentials as module
from posthouse.accounts.credentials import BadPassword, Credentials, Verdict, prepare
from posthouse.config.schema import AccountSettings
from posthouse.mail.reply import Fault, Unavailable

CHEAP = {"hash_memory": 65_536, "hash_passes": 1}


class StillClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class SystemOctets:
    """Random octets."""

    def octets(self, count: int) -> bytes:
        return os.urandom(count)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


def make(clock: StillClock, **settings: int | float) -> Credentials:
    return Credentials(AccountSettings(**{**CHEAP, **settings}), clock, SystemOctets())  # type: ignore[arg-type] # a mixed dict


@pytest.fixture
def credentials(clock: StillClock) -> Iterator[Credentials]:
    made = make(clock)
    yield made
    made.close()


async def test_the_right_password_and_no_other(credentials: Credentials) -> None:
    stored = await credentials.hash("secret with blanks ")
    assert stored.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert await credentials.verify("a@x.mail", stored, "secret with blanks ")
    for wrong in ("secret with blanks", "Secret with blanks ", "", "x" * 5000, "secret with blanks \x00"):
        assert not await credentials.verify("a@x.mail", stored, wrong)


async def test_the_default_parameters_are_those_of_the_design() -> None:
    made = Credentials(AccountSettings(), StillClock(), SystemOctets())
    assert (await made.hash("x")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    made.close()


async def test_two_hashes_of_one_password_differ(credentials: Credentials) -> None:
    assert await credentials.hash("same") != await credentials.hash("same")


@pytest.mark.parametrize(
    "stored", ["", "plain", "$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$AAAA$BBBB", "$2b$12$abc", "\udcff"]
)
async def test_what_is_no_hash_lets_nobody_in(credentials: Credentials, stored: str) -> None:
    for password in ("", "plain", "-", stored):
        assert not await credentials.verify("a@x.mail", stored, password)


async def test_the_same_password_typed_on_another_system(credentials: Credentials) -> None:
    """RFC 8265 §4.2.2: composed and decomposed letters, and every kind of blank, are the same."""
    stored = await credentials.hash("Zu\u0308rich\u00a0\u2003x")
    assert await credentials.verify("a@x.mail", stored, "Z\u00fcrich  x")
    assert not await credentials.verify("a@x.mail", stored, "z\u00fcrich  x")


@pytest.mark.parametrize("password", ["", "x" * 1001, "\u00fc" * 501, "a\nb", "a\x00", "a\x9b", "\ud800"])
async def test_passwords_that_cannot_be_set(credentials: Credentials, password: str) -> None:
    with pytest.raises(BadPassword):
        await credentials.hash(password)


def test_a_megabyte_of_password_costs_nothing() -> None:
    begin = time.thread_time()
    assert prepare("\u00fc" * 1_000_000) is None
    assert prepare("x" * 1_000_000) is None
    assert time.thread_time() - begin < 0.1


async def test_a_verified_login_is_remembered_for_its_time(credentials: Credentials, clock: StillClock) -> None:
    stored = await credentials.hash("p")
    for _ in range(3):
        assert await credentials.verify("a@x.mail", stored, "p")
    assert credentials.hashed == 1
    clock.time += 299
    assert await credentials.verify("a@x.mail", stored, "p")
    assert credentials.hashed == 1
    clock.time += 2
    assert await credentials.verify("a@x.mail", stored, "p")
    assert credentials.hashed == 2


async def test_a_changed_password_counts_at_once(credentials: Credentials) -> None:
    """The cache is bound to the stored hash."""
    before = await credentials.hash("old")
    assert await credentials.verify("a@x.mail", before, "old")
    after = await credentials.hash("new")
    assert not await credentials.verify("a@x.mail", after, "old")
    assert await credentials.verify("a@x.mail", after, "new")


async def test_the_cache_is_bound_to_the_account(credentials: Credentials) -> None:
    stored = await credentials.hash("p")
    assert await credentials.verify("a@x.mail", stored, "p")
    assert await credentials.verify("b@x.mail", stored, "p")
    assert credentials.hashed == 2


async def test_wrong_passwords_are_never_remembered(credentials: Credentials) -> None:
    stored = await credentials.hash("p")
    for _ in range(3):
        assert not await credentials.verify("a@x.mail", stored, "q")
    assert credentials.hashed == 3
    assert not credentials._cache


async def test_the_cache_is_bounded(clock: StillClock) -> None:
    made = make(clock, login_cache=3)
    stored = await made.hash("p")
    for number in range(10):
        assert await made.verify(f"{number}@x.mail", stored, "p")
    assert len(made._cache) == 3
    assert await made.verify("9@x.mail", stored, "p")
    assert made.hashed == 10
    made.close()


async def test_without_a_cache_every_login_is_hashed(clock: StillClock) -> None:
    made = make(clock, login_cache=0)
    stored = await made.hash("p")
    for _ in range(2):
        assert await made.verify("a@x.mail", stored, "p")
    assert made.hashed == 2
    made.close()


class Held:
    """Keeps the hashing threads busy until it is told to let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        real = module._matches

        def matches(stored: str, secret: bytes) -> bool:
            assert self.go.wait(30)
            return real(stored, secret)

        monkeypatch.setattr(module, "_matches", matches)


async def test_too_many_logins_at_once_are_put_off(clock: StillClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a queue without a bound; known and unknown accounts are put off alike."""
    made = make(clock, hash_threads=1, hash_queue=2)
    stored = await made.hash("p")
    held = Held(monkeypatch)
    waiting = [asyncio.create_task(made.verify(f"{n}@x.mail", stored, "p")) for n in range(3)]
    await asyncio.sleep(0)
    for late in (stored, ""):
        with pytest.raises(Unavailable) as caught:
            await made.verify("late@x.mail", late, "p")
        assert caught.value.fault is Fault.BUSY
    held.go.set()
    assert await asyncio.gather(*waiting) == [Verdict.VERIFIED] * 3
    assert await made.verify("late@x.mail", stored, "p")
    made.close()


async def test_the_same_login_many_times_at_once_is_one_hash(
    clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(clock, hash_threads=1, hash_queue=1)
    stored = await made.hash("p")
    held = Held(monkeypatch)
    waiting = [asyncio.create_task(made.verify("a@x.mail", stored, "p")) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # one who leaves takes nobody along
    held.go.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [Verdict.VERIFIED] * 49
    assert made.hashed == 1
    assert made._pending == 0
    made.close()


async def test_no_memory_for_a_hash_is_our_fault(credentials: Credentials) -> None:
    """Would catch an answer `wrong password` where there was only no memory."""
    stored = "$argon2id$v=19$m=4294967295,t=1,p=1$" + "A" * 22 + "$" + "A" * 43
    with pytest.raises(Unavailable):
        await credentials.verify("a@x.mail", stored, "p")


async def test_hashes_with_other_parameters_are_old(credentials: Credentials, clock: StillClock) -> None:
    other = make(clock, hash_passes=2)
    stored = await other.hash("p")
    assert await credentials.verify("a@x.mail", stored, "p")
    assert credentials.is_old(stored)
    assert not credentials.is_old(await credentials.hash("p"))
    assert not credentials.is_old("nonsense")
    other.close()


async def test_unknown_and_wrong_cost_the_same_time(clock: StillClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catalogue A4: would catch a way out before the hash, and a hash that costs less. The work is counted, not timed:
    each way runs one whole argon2id with the same memory, passes, lanes and length, and ends in a mismatch."""
    made = make(clock, hash_memory=4 * 1024 * 1024, hash_passes=2)
    stored = await made.hash("p")
    work: list[tuple[Parameters, type[Exception] | None]] = []

    def counted(hashed: bytes, secret: bytes, kind: Type) -> bool:
        parameters = extract_parameters(hashed.decode())
        try:
            right = verify_secret(hashed, secret, kind)
        except VerificationError as error:
            work.append((parameters, type(error)))
            raise
        work.append((parameters, None))
        return right

    monkeypatch.setattr(module, "verify_secret", counted)
    ways = {"wrong": (stored, "q"), "unknown": ("", "q"), "too long": (stored, "q" * 2000)}
    for kind, (hashed, password) in ways.items():
        work.clear()
        assert not await made.verify("a@x.mail", hashed, password)
        assert work == [(extract_parameters(stored), VerifyMismatchError)], kind
    assert made.hashed == 3
    made.close()
