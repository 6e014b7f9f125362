"""`posthouse probe`: what a mail server offers, its certificate, its weaknesses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish, problem_of
from posthouse.cli.options import TIMEOUT, VERBOSE, output_options

if TYPE_CHECKING:
    from posthouse.clients.probe import PortReport, Service
    from posthouse.net.tlsprobe import CertificateFacts

WITHIN: Final = 30.0
WIDEST: Final = 100  # columns
INDENT: Final = 14
MOST_LINES: Final = 12  # of one detail


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("host")
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="PROTOCOL=PORT",
    help="Look at this instead of the usual ports (repeat it): smtp=2525, pop3=2110.",
)
@click.option(
    "--within",
    type=click.FloatRange(min=0.5, max=600),
    default=WITHIN,
    metavar="S",
    help=f"Seconds for all of it ({WITHIN:g}); what was found until then is told.",
)
@click.option(
    "--cacert",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Believe the authorities in this PEM file instead of the system's.",
)
@TIMEOUT
@VERBOSE
@output_options
def probe(**options: Any) -> None:
    """What a mail server offers, its certificate, and what is weak about it.

    \b
    posthouse probe mail.example.org
    posthouse probe localhost --port smtp=2525 --port pop3=2110
    posthouse probe mail.example.org --json

    It looks at the ports 25, 465, 587, 110 and 995 (of IMAP, 143 and 993, only whether they are open), logs in
    nowhere and sends no letter. Weaknesses: passwords before encryption, TLS 1.0 or 1.1, a certificate that is expired,
    self-signed or not to be verified, VRFY or EXPN for strangers, no STARTTLS, commands carried over STARTTLS.

    Exit code 0: something is open and nothing is weak. 1: there are weaknesses. 68: the host is not known. 75: no port
    answers.
    """
    finish("probe", options["as_json"], lambda: _run(options))


def _run(options: dict[str, Any]) -> int:
    from posthouse.cli.helpers import transcript
    from posthouse.clients.failure import Failure
    from posthouse.clients.probe import PATIENCE
    from posthouse.clients.probe import probe as look
    from posthouse.mail.charsets import escape_json
    from posthouse.net.tlsprobe import verifying

    begun = time.monotonic()
    services = _services(options["ports"])
    host = _host(options["host"])
    try:
        context = verifying(options["cacert"])
    except OSError as error:
        text = f"{options['cacert']} is not there, or holds no certificates that can be read."
        raise Problem(Exit.NO_INPUT, text) from error
    watch = transcript if options["verbose"] else None
    patience = options["timeout"] or PATIENCE
    try:
        reports = asyncio.run(look(host, services, context, within=options["within"], patience=patience, watch=watch))
    except Failure as failure:
        raise problem_of(failure, "") from failure
    code = _code(reports)
    if options["as_json"]:
        answer = _json(host, reports, code) | {"ms": round((time.monotonic() - begun) * 1000)}
        print(escape_json(json.dumps(answer, ensure_ascii=False)))
    elif not options["quiet"]:
        for line in lines(host, reports):
            print(line)
    if code is Exit.TEMPORARY and not options["as_json"]:
        raise Problem(code, f"No port of {host} answers. Is it the right name, and is the server up?", stage="connect")
    return int(code)


def _host(text: str) -> str:
    from posthouse.cli.helpers import read_server

    server = read_server(text)
    if server.port is not None:
        raise Problem(Exit.USAGE, f"Give the port with --port, such as --port smtp={server.port}.")
    return server.host


def _services(texts: Sequence[str]) -> list[Service]:
    from dataclasses import replace

    from posthouse.clients.probe import SERVICES

    found = []
    for text in texts:
        name, equals, port = text.partition("=")
        if name not in SERVICES:
            raise Problem(Exit.USAGE, f"--port {text}: there are {', '.join(SERVICES)}.")
        if not (equals and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
            raise Problem(Exit.USAGE, f"--port {text}: write it like {name}=2525.")
        found.append(replace(SERVICES[name], port=int(port)))
    return found[:20] or list(SERVICES.values())


def _code(reports: Sequence[PortReport]) -> Exit:
    from posthouse.clients.weakness import weaknesses

    if not any(report.state == "open" for report in reports):
        return Exit.TEMPORARY
    return Exit.NOT_ALL if any(weaknesses(report) for report in reports) else Exit.OK


# For programs


def _json(host: str, reports: Sequence[PortReport], code: Exit) -> dict[str, Any]:
    from posthouse.clients.weakness import weaknesses

    found = [
        {"port": report.service.port, "code": one.code, "text": one.text}
        for report in reports
        for one in weaknesses(report)
    ]
    ports = [_port_json(report) for report in reports]
    return {"ok": code is Exit.OK, "code": int(code), "host": host, "ports": ports, "weaknesses": found}


def _port_json(report: PortReport) -> dict[str, Any]:
    tls = None
    if report.secured is not None or report.verified is False:
        tls = {
            "version": None if report.secured is None else report.secured.version,
            "cipher": None if report.secured is None else report.secured.cipher,
            "verified": bool(report.verified),
            "why_not": report.distrust or None,
            "old_versions": report.old,
            "certificate": None if report.certificate is None else _certificate_json(report.certificate),
        }
    return {
        "port": report.service.port,
        "protocol": report.service.name,
        "state": report.state or "silent",
        "greeting": report.greeting or None,
        "features": report.features,
        "starttls": report.offers_tls,
        "features_tls": report.inside,
        "tls": tls,
        "injection": report.injectable,
        "trouble": report.trouble or None,
        "finished": report.finished,
        "seconds": round(report.seconds, 2),
    }


def _certificate_json(facts: CertificateFacts) -> dict[str, Any]:
    return {
        "names": list(facts.names),
        "subject": facts.subject,
        "issuer": facts.issuer,
        "not_before": f"{facts.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{facts.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "sha256": facts.sha256,
        "key_sha256": facts.key_sha256,
        "self_signed": facts.self_signed,
    }


# For people


def lines(host: str, reports: Sequence[PortReport]) -> Iterator[str]:
    """The answer as lines, each harmless."""
    from textwrap import wrap

    from posthouse.cli.output import table
    from posthouse.clients.weakness import weaknesses
    from posthouse.mail.charsets import harmless_line

    rows = [_row(report) for report in reports]
    yield from table(("port", "protocol", "state", "encryption", "certificate"), rows, right=(0,)).split("\n")
    shown: set[str] = set()
    for report in reports:
        details = list(_details(report, shown))
        if details:
            yield ""
            yield f"{report.service.port} {report.service.name}"
        for name, text in details:
            pieces = wrap(harmless_line(text), WIDEST - INDENT, break_long_words=False, break_on_hyphens=False)
            for number, piece in enumerate(pieces[:MOST_LINES]):
                yield f"  {'' if number else name:<{INDENT - 2}}{piece}"
    found = [(report, one) for report in reports for one in weaknesses(report)]
    if any(report.state == "open" for report in reports):
        yield ""
        yield f"Weaknesses: {len(found)}" if found else "No weaknesses were found."
    for report, one in found:
        yield harmless_line(f"  {report.service.port:>5}  {one.code}: {one.text}")
    if any(one.code == "login-in-clear" and report.local for report, one in found):
        yield f"         ({host} is this machine itself, where many servers take passwords in clear.)"


def _row(report: PortReport) -> tuple[str, str, str, str, str]:
    service = report.service
    tls = "-"
    if report.secured is not None:
        how = "TLS" if service.at_once else ("STARTTLS" if service.kind == "smtp" else "STLS")
        tls = f"{how} {report.secured.version}"
    elif report.offers_tls:
        tls = "fails"
    certificate = "-"
    if report.certificate is not None:
        until = f"to {report.certificate.not_after:%Y-%m-%d}"
        certificate = f"verified, {until}" if report.verified else f"NOT verified, {until}"
    state = report.state or "silent"
    if state == "open" and not report.finished:
        state = "open, not finished in time"
    return str(service.port), service.name, state, tls, certificate


def _details(report: PortReport, shown: set[str]) -> Iterator[tuple[str, str]]:
    if report.greeting:
        yield "greeting", report.greeting
    if report.features:
        yield "offers", ", ".join(report.features)
    if report.inside and report.inside != report.features:
        yield "within TLS", ", ".join(report.inside)
    if report.secured is not None:
        yield "cipher", report.secured.cipher
    facts = report.certificate
    if facts is not None and facts.sha256 in shown:
        yield "certificate", f"the same ({facts.sha256[:16]}...)"
    elif facts is not None:
        shown.add(facts.sha256)
        yield "certificate", f"for {' '.join(facts.names[:8]) or facts.subject}"
        yield "", f"by {facts.issuer}, {facts.not_before:%Y-%m-%d} to {facts.not_after:%Y-%m-%d}"
        yield "", f"SHA-256 {facts.sha256}"
    if report.distrust:
        yield "refused", report.distrust
    if report.trouble:
        yield "trouble", report.trouble
