"""What mail programs import so that nobody types server names: Thunderbird's autoconfig and Apple's profile."""

from __future__ import annotations

import plistlib
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from posthouse.config.schema import Config

SPACE: Final = uuid.UUID("b1fb5a52-5a36-4c4f-8f4e-0f5c4b0c5d11")
"""The space of the identifiers in profiles: the same server gives the same ones, so that a new profile replaces the
old one."""


@dataclass(slots=True, frozen=True)
class Place:
    """Where a mail program connects. `at_once`: TLS begins with the first octet, else with STARTTLS or STLS."""

    port: int
    at_once: bool


@dataclass(slots=True, frozen=True)
class MailSettings:
    """What a mail program must know of this server."""

    host: str
    domains: tuple[str, ...]
    incoming: Place
    outgoing: Place

    @classmethod
    def of(cls, config: Config, host: str, domains: Sequence[str]) -> MailSettings | None:
        """Those of a configuration, None when it has no listener for collecting or none for sending."""
        incoming, outgoing = _place(config, "pop3s", "pop3"), _place(config, "submissions", "submission")
        if incoming is None or outgoing is None:
            return None
        return cls(host, tuple(domains), incoming, outgoing)


def _place(config: Config, within_tls: str, plain: str) -> Place | None:
    """The first listener for it, one that begins with TLS before others (RFC 8314 §3)."""
    for protocol in (within_tls, plain):
        for listener in config.listeners:
            if listener.protocol == protocol and listener.port:
                return Place(listener.port, protocol == within_tls)
    return None


def autoconfig(settings: MailSettings) -> bytes:
    """The file `config-v1.1.xml` of Thunderbird and programs that do as it does."""
    root = ElementTree.Element("clientConfig", version="1.1")
    provider = ElementTree.SubElement(root, "emailProvider", id=settings.domains[0])
    for domain in settings.domains:
        ElementTree.SubElement(provider, "domain").text = domain
    ElementTree.SubElement(provider, "displayName").text = settings.host
    for tag, kind, place in (
        ("incomingServer", "pop3", settings.incoming),
        ("outgoingServer", "smtp", settings.outgoing),
    ):
        server = ElementTree.SubElement(provider, tag, type=kind)
        values = {
            "hostname": settings.host,
            "port": str(place.port),
            "socketType": "SSL" if place.at_once else "STARTTLS",
            "authentication": "password-cleartext",  # within TLS
            "username": "%EMAILADDRESS%",
        }
        for name, value in values.items():
            ElementTree.SubElement(server, name).text = value
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def apple_profile(settings: MailSettings, authority: bytes | None, address: str = "") -> bytes:
    """A `.mobileconfig` for iPhones, iPads and Macs: the authority's certificate (DER), and a mail account. Without an
    address the device asks for it; for the password it always does."""
    contents: list[dict[str, Any]] = []
    if authority is not None:
        contents.append(
            _payload("com.apple.security.root", f"{settings.host}.authority", f"Authority of {settings.host}")
            | {"PayloadCertificateFileName": "posthouse.crt", "PayloadContent": authority}
        )
    contents.append(_account(settings, address))
    profile = _payload("Configuration", settings.host, f"Mail at {settings.host}") | {"PayloadContent": contents}
    return plistlib.dumps(profile)


def _payload(kind: str, identifier: str, name: str) -> dict[str, Any]:
    return {
        "PayloadType": kind,
        "PayloadVersion": 1,
        "PayloadIdentifier": f"posthouse.{identifier}",
        "PayloadUUID": str(uuid.uuid5(SPACE, f"{kind} {identifier}")).upper(),
        "PayloadDisplayName": name,
    }


def _account(settings: MailSettings, address: str) -> dict[str, Any]:
    account = _payload("com.apple.mail.managed", f"{settings.host}.{address or 'mail'}", f"Mail at {settings.host}") | {
        "EmailAccountType": "EmailTypePOP",
        "EmailAccountDescription": settings.host,
        "OutgoingPasswordSameAsIncomingPassword": True,
    }
    if address:
        account |= {
            "EmailAddress": address,
            "IncomingMailServerUsername": address,
            "OutgoingMailServerUsername": address,
        }
    for direction, place in (("Incoming", settings.incoming), ("Outgoing", settings.outgoing)):
        account |= {
            f"{direction}MailServerHostName": settings.host,
            f"{direction}MailServerPortNumber": place.port,
            f"{direction}MailServerUseSSL": True,
            f"{direction}MailServerAuthentication": "EmailAuthPassword",
        }
    return account
