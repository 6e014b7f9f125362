"""What is weak about a server that was probed, each with a word for programs and a sentence for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from posthouse.clients.probe import PortReport
from posthouse.sasl.registry import CLEAR

SOON: Final = timedelta(days=14)


@dataclass(slots=True, frozen=True)
class Weakness:
    """One thing that should be better."""

    code: str
    text: str


def weaknesses(report: PortReport, now: datetime | None = None) -> list[Weakness]:
    """All that is known of one port."""
    if report.state != "open" or not report.service.kind:
        return []
    return [*_encryption(report), *_certificate(report, now or datetime.now(UTC)), *_openness(report)]


def _encryption(report: PortReport) -> Iterator[Weakness]:
    word = "STARTTLS" if report.service.kind == "smtp" else "STLS"
    if not report.service.at_once and report.greeting and not report.offers_tls:
        yield Weakness("no-starttls", f"it does not offer {word}: everything passes in clear")
    if mechanisms := _in_clear(report):
        yield Weakness(
            "login-in-clear", f"it takes passwords before anything is encrypted ({', '.join(mechanisms)}; RFC 8314 §3)"
        )
    if report.old:
        yield Weakness("old-tls", f"it accepts {' and '.join(report.old)}, which RFC 8996 forbids")
    if report.injectable:
        yield Weakness(
            "injection",
            f"it carries out within TLS what came in clear behind {word}: others can put commands into sessions",
        )


def _in_clear(report: PortReport) -> list[str]:
    """Ways to log in that show the password, offered before TLS."""
    if report.service.at_once:
        return []
    found: list[str] = []
    for line in report.features:
        words = line.upper().replace("=", " ").split()
        if words[:1] == ["AUTH"] or (words[:1] == ["SASL"] and report.service.kind == "pop3"):
            found += [word for word in words[1:] if word in CLEAR]
        elif words[:1] == ["USER"] and report.service.kind == "pop3":
            found.append("USER")
    return list(dict.fromkeys(found))


def _certificate(report: PortReport, now: datetime) -> Iterator[Weakness]:
    facts = report.certificate
    if facts is not None and facts.expired(now):
        when = "is not valid yet" if now < facts.not_before else f"expired on {facts.not_after:%Y-%m-%d}"
        yield Weakness("certificate-expired", f"its certificate {when}")
    elif facts is not None and facts.not_after - now < SOON:
        yield Weakness("certificate-expires-soon", f"its certificate is valid to {facts.not_after:%Y-%m-%d} only")
    if facts is not None and facts.self_signed:
        yield Weakness("certificate-self-signed", "its certificate is signed by nobody but itself")
    elif report.verified is False and not (facts is not None and facts.expired(now)):
        what = "certificate-not-verified" if facts is not None else "tls-failed"
        yield Weakness(what, f"a careful client does not take its TLS: {report.distrust}")


def _openness(report: PortReport) -> Iterator[Weakness]:
    if report.verifies_names:
        yield Weakness("vrfy", "VRFY tells strangers which mailboxes exist (RFC 5321 §7.3)")
    if report.expands_lists:
        yield Weakness("expn", "EXPN tells strangers who is behind an address (RFC 5321 §7.3)")
