"""The composition root: makes a running server of a configuration. The only room that knows every part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path

from posthouse.accounts.credentials import Credentials
from posthouse.accounts.directory import AccountDirectory
from posthouse.accounts.kept import Vault
from posthouse.accounts.logins import Logins
from posthouse.app.certificates import CertificateKeeper
from posthouse.app.ground import THIS_MACHINE, Ground
from posthouse.app.outbox import OutboxRunner
from posthouse.app.relaying import Relaying
from posthouse.app.routing import make_router
from posthouse.config.schema import IMPLICIT_TLS, Config, ListenerSettings
from posthouse.mail.address import Address
from posthouse.mail.budget import Budget
from posthouse.mail.reply import Pop3, Smtp, Style, Unavailable
from posthouse.mta.routing import Router
from posthouse.net.listener import Listener, ListenError, Service, Sessions
from posthouse.net.sysfiles import machine_name
from posthouse.net.system import SystemClock, SystemRandom
from posthouse.net.tls import BadCertificate, ServerTls
from posthouse.net.wire import Wire
from posthouse.observe.log import Log
from posthouse.policy.access import Access
from posthouse.policy.guard import Guard
from posthouse.ports.store import Store
from posthouse.ports.system import Clock, Endpoint, Observer, Random
from posthouse.servers.login import LoginService
from posthouse.servers.pop3 import Pop3Server
from posthouse.servers.smtp import SmtpServer
from posthouse.store import Options, StoreError


@dataclass(slots=True, frozen=True)
class Listening:
    """One address that accepts connections."""

    protocol: str
    address: Endpoint


class App:
    """A server: built by `start`, ended by `stop`, changed by `reload`. One per process and data directory."""

    def __init__(
        self,
        config: Config,
        data: Path,
        log: Log,
        *,
        observer: Observer | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        ground: Ground = THIS_MACHINE,
    ) -> None:
        self._config = config
        self._data = data
        self._log = log
        self._ground = ground
        self._observer = observer
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom()
        self._listeners: dict[ListenerSettings, Listener] = {}
        self._buffers = ground.buffers(config.server.memory // 2, self._tell_short)
        self._letters = Budget(config.server.memory // 2)
        self._sessions = Sessions(config.server.connections, log, buffers=self._buffers)
        self._resolver = ground.names(config.dns)
        self._store: Store | None = None
        self._access: Access | None = None
        self._credentials: Credentials | None = None
        self._logins: Logins | None = None
        self._directory: AccountDirectory | None = None
        self._relaying: Relaying | None = None
        self._certificates = CertificateKeeper(data, self._clock, log, self._domains)
        self._guard: Guard | None = None
        self._outbox = OutboxRunner(log)

    @property
    def directory(self) -> AccountDirectory:
        """The domains and accounts, while the app runs."""
        assert self._directory is not None, "the app is started"
        return self._directory

    async def start(self) -> list[Listening]:
        """Opens the store, then the listeners; returns where they are. Raises ListenError, BadCertificate,
        or StoreError when the data directory is in use or cannot be read: then nothing is left open."""
        config = self._config
        self._store = self._ground.open_store(
            self._data,
            self._clock,
            self._random,
            Options(
                message_limit=config.smtp.limits.message,
                small=config.store.small,
                jobs=config.store.jobs,
                waiting_octets=config.store.waiting_octets,
                busy_timeout=config.store.busy_timeout,
                reserve=config.store.reserve,
                budget=self._letters,
                undelete=config.store.undelete,
            ),
            self._log,
        )
        self._access = Access(self._store, self._clock)
        try:
            self._guard = self._open_guard(config)
        except StoreError:
            await self.stop()
            raise
        self._credentials = Credentials(config.accounts, self._clock, self._random)
        self._logins = Logins(
            self._store,
            self._credentials,
            self._clock,
            scram=config.accounts.scram == "on",
            vault=Vault(self._data, self._random) if config.accounts.recoverable_passwords == "on" else None,
        )
        self._directory = self._make_directory(config)
        self._relaying = Relaying(
            config,
            self._store.queue,
            self._directory,
            self._make_router(config),
            self._clock,
            self._random,
            self._log,
            host=_host(config),
            postmaster=await self._postmaster(config),
            buffers=self._buffers,
            observer=self._observer,
            poll=self._ground.poll,
            carry=self._ground.carry,
            zone=self._ground.zone,
        )
        try:
            await self._certificates.configure(config)
            listening = await self._listen(config)
            await self._relaying.start()
        except (ListenError, BadCertificate):
            await self.stop()
            raise
        await self._outbox.configure(config.server)
        return listening

    async def _postmaster(self, config: Config) -> Address:
        """Who writes notices, and gets what is answered to them: an address that exists."""
        if config.accounts.postmaster:
            return Address.parse(config.accounts.postmaster)
        domains = await self._domains()
        return Address("postmaster", domains[0] if domains else _host(config))

    def _make_router(self, config: Config) -> Router:
        assert self._store is not None and self._directory is not None, "the app is started"
        return make_router(config, self._store, self._data, self._resolver.mail, self._random, self._directory)

    def _open_guard(self, config: Config) -> Guard:
        assert self._access is not None, "the rights of networks come first"
        guard = Guard(
            config.limits,
            config.sending,
            access=self._access,
            clock=self._clock,
            random=self._random,
            log=self._log,
            store=self._ground.open_bans(self._data, self._log),
        )
        guard.start()
        self._sessions.gate = guard
        return guard

    async def reload(self, config: Config) -> None:
        """Takes a new configuration: new sessions follow it, running ones end as they began. Listeners that are no
        longer named stop accepting, new ones start; one that cannot is logged and left out."""
        self._config = config
        self._directory = self._make_directory(config)
        self._sessions.most = config.server.connections
        self._buffers.budget.most = self._letters.most = config.server.memory // 2
        if self._guard is not None:
            self._guard.configure(config.limits, config.sending)
        self._resolver.close()
        self._resolver = self._ground.names(config.dns)
        if self._relaying is not None:
            postmaster = await self._postmaster(config)
            self._relaying.configure(config, self._directory, self._make_router(config), _host(config), postmaster)
        try:
            await self._certificates.configure(config)
        except BadCertificate as error:
            self._log.error("certificate_failed", reason=str(error))
        old, self._listeners = self._listeners, {}
        services = self._services(config)
        for settings in config.listeners:
            if settings.protocol in services and (listener := old.pop(settings, None)) is not None:
                listener.serve(services[settings.protocol])
                self._listeners[settings] = listener
        for listener in old.values():
            listener.close()
        for settings in config.listeners:
            if settings not in self._listeners:
                try:
                    await self._open(settings, services)
                except ListenError as error:
                    self._log.error("listener_failed", protocol=settings.protocol, reason=str(error))
        await self._outbox.configure(config.server)
        self._log.info("reloaded", listeners=len(self._listeners))

    def _tell_short(self, dropped: int) -> None:
        self._log.warning("memory_short", held=self._buffers.budget.used, dropped=dropped)

    def _make_directory(self, config: Config) -> AccountDirectory:
        assert self._store is not None and self._credentials is not None, "the app is started"
        return AccountDirectory(
            self._store,
            self._credentials,
            quota=config.accounts.quota,
            postmaster=config.accounts.postmaster,
            logins=self._logins,
        )

    async def stop(self) -> None:
        """Stops accepting, lets running sessions end, closes the store. Harmless when called again."""
        relaying, self._relaying = self._relaying, None
        seconds = self._config.server.stop_timeout
        ending = [self._outbox.stop(seconds)] + ([] if relaying is None else [relaying.stop(seconds)])
        cut, *_ = await asyncio.gather(self._sessions.stop(seconds), *ending)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        if cut:
            self._log.warning("sessions_cut_off", count=cut, seconds=self._config.server.stop_timeout)
        await self._certificates.stop()
        self._resolver.close()
        if self._logins is not None:
            await self._logins.close()
            self._logins = None
        if self._credentials is not None:
            self._credentials.close()
            self._credentials = None
        if self._guard is not None:
            await self._guard.stop()
            self._guard = None
        if self._store is not None:
            await self._store.close()
            self._store = self._directory = None

    async def _listen(self, config: Config) -> list[Listening]:
        services = self._services(config)
        found: list[Listening] = []
        for settings in config.listeners:
            found += await self._open(settings, services)
        return found

    async def _domains(self) -> list[str]:
        """Our domains; none while they cannot be read, since mail goes on as far as it can."""
        try:
            return [domain.name for domain in await self.directory.domains()]
        except Unavailable as error:
            self._log.error("domains_unreadable", reason=str(error), advice="run posthouse doctor --store")
            return []

    async def _open(self, settings: ListenerSettings, services: dict[str, Service]) -> list[Listening]:
        service = services.get(settings.protocol)
        if service is None:
            raise ListenError(f'{settings} needs TLS, and tls.offer is "no". Leave one of the two out')
        listener = Listener(settings.protocol, self._sessions, service)
        addresses = await listener.open(settings.address, settings.port)
        self._listeners[settings] = listener
        for address in addresses:
            self._log.info("listening", protocol=settings.protocol, address=address.host, port=address.port)
        return [Listening(settings.protocol, address) for address in addresses]

    def _services(self, config: Config) -> dict[str, Service]:
        store, directory, access = self._store, self.directory, self._access
        assert store is not None and access is not None, "the app is started"
        host = _host(config)
        style = Style(config.server.style)
        tls = self._certificates.tls
        logins = LoginService(
            directory, config.accounts, self._clock, self._random, self._log, host=host, guard=self._guard
        )
        reception = self._ground.reception(
            store,
            directory,
            self._clock,
            self._random,
            self._log,
            host=host,
            limits=config.smtp.limits,
            sender=config.submission.sender,
            guard=self._guard,
            onward=None if self._relaying is None else self._relaying.onward,
            budget=self._letters,
        )
        services = {
            mode: Service(
                SmtpServer(
                    mode,
                    config.smtp,
                    host=host,
                    style=style,
                    reception=reception,
                    access=access,
                    logins=logins,
                    clock=self._clock,
                    log=self._log,
                    resolver=self._resolver,
                    observer=self._observer,
                    tls=tls,
                ).session,
                Smtp.TOO_MANY_SESSIONS.encode(style),
                Smtp.STOPPING.fill(host=host).encode(style),
                banned=Smtp.BANNED.encode(style),
            )
            for mode in ("smtp", "submission", "lmtp")
        }
        pop3 = Pop3Server(
            host=host,
            store=store,
            access=access,
            logins=logins,
            log=self._log,
            observer=self._observer,
            limits=config.pop3.limits,
            style=style,
            tls=tls,
        )
        refusal, stopped = Pop3.TOO_MANY_SESSIONS.encode(style), Pop3.STOPPING.encode(style)
        services["pop3"] = Service(pop3.session, refusal, stopped, banned=Pop3.BANNED.encode(style))
        if tls is not None:
            for name, inner in IMPLICIT_TLS.items():
                services[name] = _within_tls(services[inner], tls, name)
        return services


def _host(config: Config) -> str:
    return config.server.hostname or machine_name()


def _within_tls(service: Service, tls: ServerTls, name: str) -> Service:
    """The same within TLS from the first octet."""

    def protect(wire: Wire) -> Awaitable[bool]:
        return tls.protect(wire, name, at_once=True)

    return replace(service, protect=protect)
