"""How administration commands reach the store of a data directory, also beside a running server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import Invocation, explained

if TYPE_CHECKING:
    from posthouse.accounts.directory import AccountDirectory

T = TypeVar("T")


def run(invocation: Invocation, work: Callable[[AccountDirectory], Awaitable[T]], *, create: bool = False) -> T:
    """Runs `work` on the directory of the store, which only `create` may make."""

    async def open_and_work() -> T:
        async with _directory(invocation, create=create) as directory:
            return await work(directory)

    with explained(), refusals():
        return asyncio.run(open_and_work())


@asynccontextmanager
async def _directory(invocation: Invocation, *, create: bool) -> AsyncIterator[AccountDirectory]:
    from dataclasses import replace

    from posthouse.accounts.credentials import Credentials, cores
    from posthouse.accounts.directory import AccountDirectory
    from posthouse.net.system import SystemClock, SystemRandom
    from posthouse.store import Options, become_owner, open_store

    config, data = invocation.load()
    if not create:
        require_store(data)
    become_owner(data)
    settings = replace(config.accounts, hash_threads=config.accounts.hash_threads or cores())
    store = open_store(data, serve=False, options=Options(busy_timeout=config.store.busy_timeout))
    credentials = Credentials(settings, SystemClock(), SystemRandom())
    try:
        yield AccountDirectory(store, credentials, quota=config.accounts.quota)
    finally:
        credentials.close()
        await store.close()


def require_store(data: Path) -> None:
    """Raises Problem where no mail lies: a command that only looks must make no directory."""
    if not (data / "posthouse.db").exists():
        raise Problem(
            Exit.NO_INPUT,
            f"There is no mail in {data} yet. posthouse domain add NAME begins there; --data names another directory.",
            stage="store",
        )


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what the directory and the store refuse into Problems with an exit code."""
    from posthouse.accounts.credentials import BadPassword
    from posthouse.accounts.directory import BadName
    from posthouse.mail.reply import Unavailable
    from posthouse.ports.store import Conflict, Missing
    from posthouse.store import StoreError

    try:
        yield
    except (BadName, BadPassword) as error:
        raise Problem(Exit.DATA, str(error), stage="check") from error
    except Missing as error:
        raise Problem(Exit.NO_USER, str(error), stage="store") from error
    except Conflict as error:
        raise Problem(Exit.CANNOT_CREATE, str(error), stage="store") from error
    except StoreError as error:
        raise Problem(Exit.IO, str(error), stage="store") from error
    except Unavailable as error:
        raise Problem(Exit.TEMPORARY, _unavailable(error), stage="store") from error


def _unavailable(error: Any) -> str:
    from posthouse.mail.reply import Fault

    texts = {
        Fault.FULL: "The disk is full. Make room and try again.",
        Fault.BUSY: "Too much is being written now. Try again in a moment.",
    }
    advice = "Check the disk; posthouse doctor --store tells what is damaged."
    return texts.get(error.fault, f"The store cannot be read or written ({error.detail or error}). {advice}")
