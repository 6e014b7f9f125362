"""The certificates of a running server: made, watched, renewed, and what happens when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from posthouse.app.certificates import CertificateKeeper
from posthouse.config.schema import CertificateSettings, Config, ListenerSettings, ServerSettings, TlsSettings
from posthouse.net.localca import SERVER_DAYS, names_of, read_certificate
from posthouse.net.tls import BadCertificate
from posthouse.observe.log import QuietLog
from tests.certificates import make
from tests.smtp_stage import StillClock

HERE = (ListenerSettings("smtp", "127.0.0.1", 0),)


class Noted(QuietLog):
    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, /, **fields: object) -> None:
        self.events.append(event)

    warning = error = info


class Kept:
    """A keeper with a clock and a list of domains that can be changed."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clock = StillClock()
        self.clock.seconds = datetime.now(UTC).timestamp()
        self.log = Noted()
        self.domains = ["example.org"]
        self.config = Config(server=ServerSettings("mail.example.org"), listeners=HERE)
        self.keeper = CertificateKeeper(data, self.clock, self.log, self._domains)

    async def _domains(self) -> list[str]:
        return self.domains

    def names(self) -> list[str]:
        return names_of(read_certificate(self.data / "tls" / "server.pem"))


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    one = Kept(tmp_path)
    yield one
    await one.keeper.stop()


async def test_a_clock_that_is_moved_renews_on_the_running_server(kept: Kept) -> None:
    """Would catch a server that renews only when it is started."""
    await kept.keeper.configure(kept.config)
    tls = kept.keeper.tls
    assert tls is not None
    first = tls._default
    await kept.keeper.look()
    assert tls._default is first and kept.log.events == []
    kept.clock.seconds += SERVER_DAYS * 0.7 * 86_400
    await kept.keeper.look()
    assert kept.keeper.tls is tls and tls._default is not first
    assert kept.log.events == ["certificate_loaded"]


async def test_a_new_domain_is_noticed(kept: Kept) -> None:
    await kept.keeper.configure(kept.config)
    kept.domains.append("example.net")
    await kept.keeper.look()
    assert "mail.example.net" in kept.names()


async def test_a_name_that_cannot_be_had_is_told_once(kept: Kept) -> None:
    await kept.keeper.configure(kept.config)
    (kept.data / "tls" / "exported").touch()
    kept.domains.append("example.net")
    await kept.keeper.look()
    await kept.keeper.look()
    assert kept.log.events == ["certificate_lacks_names"]
    assert "mail.example.net" not in kept.names()


async def test_a_renewal_by_hand_is_taken(kept: Kept) -> None:
    """`posthouse cert renew` beside the server."""
    await kept.keeper.configure(kept.config)
    assert kept.keeper.tls is not None and kept.keeper._authority is not None
    first = kept.keeper.tls._default
    kept.keeper._authority.renew()
    await kept.keeper.look()
    assert kept.keeper.tls._default is not first


async def test_damage_is_told_once_and_the_old_certificate_serves(kept: Kept) -> None:
    await kept.keeper.configure(kept.config)
    assert kept.keeper.tls is not None
    first, path = kept.keeper.tls._default, kept.data / "tls" / "server.pem"
    whole = path.read_bytes()
    path.write_bytes(b"")
    await kept.keeper.look()
    await kept.keeper.look()
    assert kept.log.events == ["certificate_failed"] and kept.keeper.tls._default is first
    path.write_bytes(whole)
    await kept.keeper.look()
    assert kept.log.events == ["certificate_failed", "certificate_loaded"]


async def test_a_renewal_that_fails_does_not_stop_a_start(kept: Kept) -> None:
    """A full disk, a damaged authority: with a certificate that still counts the server comes up and says so."""
    await kept.keeper.configure(kept.config)
    (kept.data / "tls" / "ca.pem").write_bytes(b"")
    again = CertificateKeeper(kept.data, kept.clock, kept.log, kept._domains)
    await again.configure(kept.config)
    await again.stop()
    assert again.tls is not None and kept.log.events == ["certificate_failed"]
    (kept.data / "tls" / "server.pem").unlink()
    with pytest.raises(BadCertificate, match=r"cannot be made or read: .*ca\.pem holds no key"):
        await again.configure(kept.config)


async def test_the_watch_looks_by_itself(kept: Kept) -> None:
    """A replaced file counts without a signal."""
    made = make(kept.data)
    settings = CertificateSettings(str(made.pem))
    config = replace(kept.config, certificates=(settings,), tls=TlsSettings(look_again=0.1))
    await kept.keeper.configure(config)
    assert kept.keeper.tls is not None
    first = kept.keeper.tls._default
    make(kept.data)
    async with asyncio.timeout(10.0):
        while kept.keeper.tls._default is first:  # noqa: ASYNC110 - the watch tells nobody
            await asyncio.sleep(0.01)
    assert not (kept.data / "tls").exists(), "an authority of our own is not needed then"


async def test_hosts_come_from_the_certificate(kept: Kept) -> None:
    first, second = make(kept.data), make(kept.data, "mail.example.org")
    both = (CertificateSettings(str(first.pem)), CertificateSettings(str(second.pem)))
    await kept.keeper.configure(replace(kept.config, certificates=both))
    assert kept.keeper.tls is not None
    assert kept.keeper.tls._find("mail.example.org") is not kept.keeper.tls._default


async def test_a_bad_configuration_changes_nothing(kept: Kept) -> None:
    await kept.keeper.configure(kept.config)
    before = kept.keeper.tls
    missing = replace(kept.config, certificates=(CertificateSettings("/nowhere/chain.pem"),))
    with pytest.raises(BadCertificate, match="is not there"):
        await kept.keeper.configure(missing)
    assert kept.keeper.tls is before


async def test_without_tls_nothing_is_made(kept: Kept) -> None:
    await kept.keeper.configure(replace(kept.config, tls=TlsSettings(offer="no")))
    assert kept.keeper.tls is None and not (kept.data / "tls").exists()
