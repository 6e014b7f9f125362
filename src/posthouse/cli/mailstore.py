"""How administration commands reach the store of a data directory, also beside a running server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import Invocation, explained

if TYPE_CHECKING:
    from posthouse.accounts.aliases import AliasService
    from posthouse.accounts.directory import AccountDirectory
    from posthouse.config.schema import Config
    from posthouse.mta.routes import RouteService
    from posthouse.mta.routing import Router
    from posthouse.observe.audit import Record
    from posthouse.policy.networks import NetworkService
    from posthouse.ports.store import Store
    from posthouse.queue.service import QueueService

T = TypeVar("T")


def run(invocation: Invocation, work: Callable[[AccountDirectory], Awaitable[T]], *, create: bool = False) -> T:
    """Runs `work` on the directory of the store, which only `create` may make."""

    async def open_and_work() -> T:
        async with _directory(invocation, create=create) as directory:
            return await work(directory)

    with explained(), refusals():
        return asyncio.run(open_and_work())


def run_networks(invocation: Invocation, work: Callable[[NetworkService], Awaitable[T]], *, create: bool = False) -> T:
    """Runs `work` on the named networks of the store, which only `create` may make."""

    async def open_and_work() -> T:
        from posthouse.net.system import SystemClock
        from posthouse.policy.networks import NetworkService

        async with _store(invocation, create=create) as (store, _, _, record):
            return await work(NetworkService(store, SystemClock(), record))

    with explained(), refusals():
        return asyncio.run(open_and_work())


def run_aliases(invocation: Invocation, work: Callable[[AliasService], Awaitable[T]], *, create: bool = False) -> T:
    """Runs `work` on the aliases of the store, which only `create` may make."""

    async def open_and_work() -> T:
        from posthouse.accounts.aliases import AliasService
        from posthouse.net.system import SystemClock

        async with _store(invocation, create=create) as (store, _, _, record):
            return await work(AliasService(store, SystemClock(), record))

    with explained(), refusals():
        return asyncio.run(open_and_work())


def run_queue(invocation: Invocation, work: Callable[[QueueService], Awaitable[T]]) -> T:
    """Runs `work` on the queue of the store."""

    async def open_and_work() -> T:
        from posthouse.queue.service import QueueService

        async with _store(invocation, create=False) as (store, _, _, record):
            return await work(QueueService(store.queue, record))

    with explained(), refusals():
        return asyncio.run(open_and_work())


def run_routes(invocation: Invocation, work: Callable[[RouteService], Awaitable[T]], *, create: bool = False) -> T:
    """Runs `work` on the route table of the store, which only `create` may make."""

    async def open_and_work() -> T:
        from posthouse.accounts.kept import Vault
        from posthouse.mta.routes import BadRoute, RouteService
        from posthouse.net.system import SystemClock, SystemRandom

        async with _store(invocation, create=create) as (store, _, data, record):
            try:
                return await work(RouteService(store, SystemClock(), Vault(data, SystemRandom()).seal, record))
            except BadRoute as error:
                raise Problem(Exit.DATA, str(error), stage="check") from error

    with explained(), refusals():
        return asyncio.run(open_and_work())


def run_router(invocation: Invocation, work: Callable[[Router], Awaitable[T]]) -> T:
    """Runs `work` on a router like the server's."""

    async def open_and_work() -> T:
        from posthouse.accounts.credentials import Credentials
        from posthouse.accounts.directory import AccountDirectory
        from posthouse.app.routing import make_router
        from posthouse.net.maildns import MailDns
        from posthouse.net.nameservers import NameServers
        from posthouse.net.system import SystemClock, SystemRandom

        async with _store(invocation, create=False) as (store, config, data, _):
            credentials = Credentials(config.accounts, SystemClock(), SystemRandom())
            directory = AccountDirectory(store, credentials, postmaster=config.accounts.postmaster)
            servers = NameServers(config.dns)
            try:
                return await work(
                    make_router(config, store, data, MailDns(servers, config.dns), SystemRandom(), directory)
                )
            finally:
                servers.close()
                await directory.close()
                credentials.close()

    with explained(), refusals():
        return asyncio.run(open_and_work())


@asynccontextmanager
async def _directory(invocation: Invocation, *, create: bool) -> AsyncIterator[AccountDirectory]:
    from dataclasses import replace

    from posthouse.accounts.credentials import Credentials, cores
    from posthouse.accounts.directory import AccountDirectory
    from posthouse.accounts.kept import Vault
    from posthouse.accounts.logins import Logins
    from posthouse.net.system import SystemClock, SystemRandom

    async with _store(invocation, create=create) as (store, config, data, record):
        settings = replace(config.accounts, hash_threads=config.accounts.hash_threads or cores())
        credentials = Credentials(settings, SystemClock(), SystemRandom())
        vault = Vault(data, SystemRandom()) if config.accounts.recoverable_passwords == "on" else None
        logins = Logins(store, credentials, SystemClock(), scram=config.accounts.scram == "on", vault=vault)
        try:
            yield AccountDirectory(store, credentials, quota=config.accounts.quota, record=record, logins=logins)
        finally:
            await logins.close()
            credentials.close()


@asynccontextmanager
async def _store(invocation: Invocation, *, create: bool) -> AsyncIterator[tuple[Store, Config, Path, Record]]:
    """The store, its configuration and directory, and what writes changes down in the name of the one who runs this."""
    from posthouse.observe.audit import Trail, system_user
    from posthouse.store import Options, become_owner, open_store

    config, data = invocation.load()
    if not create:
        require_store(data)
    who = system_user()
    become_owner(data)
    store = open_store(data, serve=False, options=Options(busy_timeout=config.store.busy_timeout))
    try:
        yield store, config, data, Trail(data, who=who, origin="cli", failed=not_recorded).record
    finally:
        await store.close()


def not_recorded(error: OSError) -> None:
    """Says that a change has no line in the audit log."""
    text = f"The change was made, but it is not in the audit log: {error.strerror or error}. Check the disk."
    print(f"posthouse: {text}", file=sys.stderr)


def require_store(data: Path) -> None:
    """Raises Problem where no mail lies: a command that only looks must make no directory."""
    from posthouse.store import is_gone

    if not (data / "posthouse.db").exists() and not is_gone(data):  # a lost database is told of when it is opened
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
    from posthouse.accounts.foreign import BadHash
    from posthouse.mail.reply import Unavailable
    from posthouse.policy.networks import BadNetwork
    from posthouse.ports.store import Conflict, Missing
    from posthouse.queue.service import BadChoice
    from posthouse.store import StoreError

    try:
        yield
    except (BadChoice, BadHash, BadName, BadNetwork, BadPassword) as error:
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
