"""Keeps the certificates of a running server: makes, loads, watches and renews them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from posthouse.config.schema import CertificateSettings, Config
from posthouse.net.sysfiles import machine_addresses, machine_name
from posthouse.net.tls import BadCertificate, ServerTls
from posthouse.observe.log import Log
from posthouse.ports.certificates import CertificateFiles, Certificates
from posthouse.ports.system import Clock

if TYPE_CHECKING:
    from posthouse.net.localca import LocalAuthority, Names

FOLDER = "tls"  # of the data directory

Domains = Callable[[], Awaitable[Sequence[str]]]


class OwnFiles:
    """The certificates that the configuration names. Whoever renews them does that elsewhere."""

    def __init__(self, settings: Sequence[CertificateSettings]) -> None:
        self._settings = settings

    def tend(self) -> bool:
        """Nothing is ours to renew."""
        return False

    def files(self) -> Sequence[CertificateFiles]:
        """All of them, each with the hosts it is for."""
        return [self._files(one) for one in self._settings]

    def _files(self, one: CertificateSettings) -> CertificateFiles:
        from posthouse.net.localca import names_of, read_certificate

        chain = Path(one.chain)
        hosts = [one.host] if one.host else []
        if not hosts:
            with suppress(OSError, ValueError):  # what cannot be read is told when it is loaded
                hosts = names_of(read_certificate(chain))
        return CertificateFiles(chain, Path(one.key or one.chain), tuple(host.lower() for host in hosts))


def names_of_server(config: Config, domains: Sequence[str]) -> Names:
    """What the server is called and where it may be reached."""
    from posthouse.net.localca import Names

    addresses = [one.address for one in config.listeners if one.address != "*"]
    if len(addresses) < len(config.listeners):
        addresses += machine_addresses()
    usable = [text for text in addresses if not ip_address(text.partition("%")[0]).is_unspecified]
    return Names(config.server.hostname or machine_name(), tuple(domains), tuple(usable))


def local_authority(config: Config, data: Path, domains: Sequence[str], clock: Clock) -> LocalAuthority:
    """The authority in a data directory. Nothing is made yet."""
    from posthouse.net.localca import LocalAuthority

    return LocalAuthority(data / FOLDER, names_of_server(config, domains), clock)


class CertificateKeeper:
    """One per server. `tls` is what its sessions use, None when TLS is not offered."""

    def __init__(self, data: Path, clock: Clock, log: Log, domains: Domains) -> None:
        self._data = data
        self._clock = clock
        self._log = log
        self._domains = domains
        self._config = Config()
        self._supplier: Certificates | None = None
        self._authority: LocalAuthority | None = None
        self._task: asyncio.Task[None] | None = None
        self._told = ""  # what was logged last, so that it is not repeated at every look
        self.tls: ServerTls | None = None

    async def configure(self, config: Config) -> None:
        """Takes a configuration, at the start and later. Raises BadCertificate; then all is as it was before."""
        tls: ServerTls | None = None
        supplier: Certificates | None = None
        authority: LocalAuthority | None = None
        if config.tls.offer == "yes":
            if config.certificates:
                supplier = OwnFiles(config.certificates)
            else:
                supplier = authority = local_authority(config, self._data, await self._domains(), self._clock)
            tls = await asyncio.to_thread(self._make, config, supplier)
        self.tls, self._supplier, self._authority, self._config = tls, supplier, authority, config
        self._tell_missing()
        await self.stop()
        if tls is not None:
            self._task = asyncio.get_running_loop().create_task(self._watch(config.tls.look_again))

    def _make(self, config: Config, supplier: Certificates) -> ServerTls:
        """Raises BadCertificate. A renewal that fails, on a full disk perhaps, is no reason not to serve with what
        there is."""
        failed: Exception | None = None
        try:
            supplier.tend()
        except (OSError, ValueError) as error:
            failed = error
        settings = config.tls
        try:
            tls = ServerTls(
                supplier.files(),
                minimum=settings.minimum,
                timeout=settings.handshake_timeout,
                most=settings.handshakes,
                log=self._log,
            )
        except BadCertificate as bad:
            if failed is None:
                raise
            place = self._data / FOLDER
            raise BadCertificate(f"the certificate in {place} cannot be made or read: {failed}") from bad
        if failed is not None:
            self._log.error("certificate_failed", reason=str(failed))
        return tls

    async def stop(self) -> None:
        """Watches no more. Harmless when called again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def look(self) -> None:
        """Renews what is due and loads what has changed. What goes wrong is logged; then the old certificates stay in
        use, and the next look tries again."""
        assert self._supplier is not None and self.tls is not None, "there are certificates to look after"
        try:
            if self._authority is not None:
                self._authority.names = names_of_server(self._config, await self._domains())
            renewed, loaded = await asyncio.to_thread(_refresh, self._supplier, self.tls)
        except (OSError, ValueError, BadCertificate) as error:
            if str(error) != self._told:
                self._log.error("certificate_failed", reason=str(error))
            self._told = str(error)
            return
        if renewed or loaded:
            self._log.info("certificate_loaded", renewed=renewed)
            self._told = ""
        self._tell_missing()

    def _tell_missing(self) -> None:
        missing: list[str] = []
        with suppress(OSError, ValueError):  # told elsewhere
            missing = [] if self._authority is None else self._authority.missing()
        text = " ".join(missing[:20])
        if text and text != self._told:
            self._log.warning(
                "certificate_lacks_names", names=text, advice="posthouse cert renew --authority makes one that has them"
            )
            self._told = text

    async def _watch(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the top of this task: one bad look must not be the last
                self._log.exception("certificate_failed", error=type(error).__name__)


def _refresh(supplier: Certificates, tls: ServerTls) -> tuple[bool, bool]:
    renewed = supplier.tend()
    return renewed, tls.refresh(supplier.files())
