"""A short dialogue with each listener of the server: greeting, what it offers, TLS, goodbye. Logs in nowhere."""

from __future__ import annotations

import asyncio
from typing import Final

from posthouse.app.health.ports import Heard
from posthouse.clients.failure import Failure
from posthouse.clients.probetalk import Pop3Talk, SmtpTalk, open_talk, secure
from posthouse.config.schema import IMPLICIT_TLS, ListenerSettings
from posthouse.net.encryption import TlsFailed
from posthouse.net.sysfiles import parse_ip
from posthouse.net.tlsprobe import blind

PATIENCE: Final = 5.0  # seconds for one dialogue


def address_of(listener: ListenerSettings) -> str:
    """Where a program on this machine reaches it."""
    ip = parse_ip(listener.address)
    if ip is None:
        return "127.0.0.1"
    if ip.is_unspecified:
        return "127.0.0.1" if ip.version == 4 else "::1"
    return listener.address


async def talk_to(listener: ListenerSettings, host: str, *, tls: bool) -> Heard:
    """What a listener says. `host` is the name of the server for TLS (SNI), `tls` whether it should encrypt. Takes at
    most PATIENCE seconds; whatever goes wrong stands in `trouble`."""
    heard = Heard()
    try:
        async with asyncio.timeout(PATIENCE):
            await _talk(listener, host, heard, tls=tls)
    except TimeoutError:
        heard.trouble = f"nothing more came within {PATIENCE:.0f} s"
    except Failure as failure:
        heard.trouble = f"{failure} {failure.reply}".strip()
    except TlsFailed as failed:
        heard.trouble = f"no TLS: {failed}"
    return heard


async def _talk(listener: ListenerSettings, host: str, heard: Heard, *, tls: bool) -> None:
    kind = "pop3" if listener.protocol in ("pop3", "pop3s") else "smtp"
    talk = await open_talk(kind, address_of(listener), listener.port, PATIENCE)
    try:
        if listener.protocol in IMPLICIT_TLS:
            await _secure(talk, host, heard)
            heard.greeting = await talk.greet()
            await talk.farewell()
            return
        heard.greeting = await talk.greet()
        if listener.protocol == "lmtp":  # it knows no EHLO (RFC 2033 §4.1)
            await talk.farewell()
            return
        keyword = "STLS" if kind == "pop3" else "STARTTLS"
        heard.offers_tls = keyword in [line.split()[0].upper() for line in await talk.features() if line.strip()]
        if tls and heard.offers_tls:
            if not await talk.ask_for_tls():
                heard.trouble = f"it offers {keyword} and does not begin with it"
                return
            await _secure(talk, host, heard)
        await talk.farewell()
    finally:
        talk.close()


async def _secure(talk: SmtpTalk | Pop3Talk, host: str, heard: Heard) -> None:
    """Any certificate will do: it is judged from its file."""
    secured = await secure(talk, host, blind(), PATIENCE)
    heard.version, heard.certificate = secured.version, secured.certificate
