"""`posthouse cert`: the certificates of the server, also beside a running one."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run
from posthouse.cli.output import hint, succeed, table

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from posthouse.accounts.directory import AccountDirectory
    from posthouse.config.schema import Config
    from posthouse.net.localca import LocalAuthority

_HELP = {"help_option_names": ["-h", "--help"]}
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
NOTICED = "A running server takes it within half a minute, or at once on SIGHUP."


@dataclass(slots=True)
class Place:
    """What the commands work on. `authority` is None when the configuration names certificates."""

    config: Config
    data: Path
    domains: list[str]
    authority: LocalAuthority | None


@click.group(context_settings=_HELP)
def cert() -> None:
    """The certificates of the server, and the authority that mail programs import.

    \b
    posthouse cert show
    posthouse cert export authority.crt
    posthouse cert export --qr
    posthouse cert export --mail-settings settings
    posthouse cert renew
    """


@cert.command("show", cls=Verb)
@_json
@click.pass_obj
def cert_show(invocation: Invocation, as_json: bool) -> None:
    """Show the certificates: for which names, until when, with which fingerprints, and which is in use.

    \b
    posthouse cert show --json
    """

    async def work(place: Place) -> int:
        rows = _certificates(place)
        if not rows:
            hint("There is no certificate yet. The first `posthouse serve`, or posthouse cert renew, makes one.")
        values = [_values(kind, file, certificate) for kind, file, certificate in rows]
        missing = [] if place.authority is None else place.authority.missing()
        if missing:
            hint(f"The authority may not vouch for {' '.join(missing[:20])}: posthouse cert renew --authority")
        text = "\n\n".join(_shown(value) for value in values)
        in_use = place.config.tls.offer == "yes"
        return succeed(as_json, text, in_use=in_use, certificates=values, missing=missing)

    finish("cert show", as_json, lambda: _work(invocation, work))


@cert.command("export", cls=Verb)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--der", is_flag=True, help="Write DER, which Windows and some telephones want, instead of PEM.")
@click.option("--qr", is_flag=True, help="Draw the certificate (PEM) as a QR code on the terminal.")
@click.option(
    "--mail-settings",
    "settings",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write what Thunderbird and Apple's devices import, with the certificate, into this directory.",
)
@click.option("--address", default="", metavar="ADDRESS", help="With --mail-settings: whose account Apple's is for.")
@_json
@click.pass_obj
def cert_export(
    invocation: Invocation, file: Path | None, der: bool, qr: bool, settings: Path | None, address: str, as_json: bool
) -> None:
    """Hand out the authority's certificate, so that mail programs believe this server.

    Without a file it goes to standard output. It holds no secret.

    \b
    posthouse cert export authority.crt
    posthouse cert export --der authority.cer
    posthouse cert export --mail-settings settings --address anna@example.org
    """

    async def work(place: Place) -> int:
        _check_form(file, der, qr, settings, address, as_json)
        certificate = _authority_certificate(place)
        if settings is not None:
            return _export_settings(place, certificate, settings, address, as_json)
        if certificate is None:
            raise Problem(
                Exit.CONFIG,
                "The configuration names certificates of its own, so there is no authority here to export. Mail "
                "programs believe them if they come from an authority that they know.",
                stage="certificate",
            )
        _mark(place)
        if qr:
            return _draw(certificate)
        return _export_file(certificate, file, der, as_json)

    finish("cert export", as_json, lambda: _work(invocation, work))


@cert.command("renew", cls=Verb)
@click.option("--authority", is_flag=True, help="A new authority too. Every mail program must then import it again.")
@_json
@click.pass_obj
def cert_renew(invocation: Invocation, authority: bool, as_json: bool) -> None:
    """Make a new certificate for the server now, with the names of today.

    The server does that by itself in time, and when its names change. Its key stays the same.

    \b
    posthouse cert renew
    posthouse cert renew --authority
    """

    async def work(place: Place) -> int:
        if place.authority is None:
            raise Problem(
                Exit.CONFIG,
                "The configuration names certificates of its own; whoever issued them renews them. The server takes "
                "the new files by itself.",
                stage="certificate",
            )
        _guarded(lambda: place.authority is not None and place.authority.renew(authority=authority))
        values = [_values(kind, file, certificate) for kind, file, certificate in _certificates(place)]
        what = "a new authority and a new certificate" if authority else "a new certificate"
        return succeed(as_json, f"Made {what}. {NOTICED}", certificates=values)

    finish("cert renew", as_json, lambda: _work(invocation, work))


# What the commands share


def _work(invocation: Invocation, work: Callable[[Place], Awaitable[int]]) -> int:
    async def with_names(directory: AccountDirectory) -> int:
        from posthouse.app.certificates import local_authority
        from posthouse.net.system import SystemClock

        config, data = invocation.load()
        domains = [domain.name for domain in await directory.domains()]
        authority = None if config.certificates else local_authority(config, data, domains, SystemClock())
        return await work(Place(config, data, domains, authority))

    return run(invocation, with_names)


def _guarded(action: Callable[[], object]) -> None:
    try:
        action()
    except (OSError, ValueError) as error:
        raise Problem(Exit.IO, f"The certificate cannot be made or read: {error}.", stage="certificate") from error


def _certificates(place: Place) -> list[tuple[str, Path, Certificate]]:
    """What there is: its kind, its file and the certificate. Raises Problem."""
    from posthouse.net.localca import read_certificate

    found: list[tuple[str, Path, Certificate]] = []

    def read() -> None:
        if place.authority is None:
            for one in place.config.certificates:
                found.append(("server", Path(one.chain), read_certificate(Path(one.chain))))
        elif (both := place.authority.identities()) is not None:
            found.append(("authority", place.authority.certificate, both[0].certificate))
            found.append(("server", place.authority.files()[0].chain, both[1].certificate))

    _guarded(read)
    return found


def _values(kind: str, file: Path, certificate: Certificate) -> dict[str, Any]:
    from posthouse.net.localca import Permitted, der_of, key_fingerprint, names_of
    from posthouse.net.tls import fingerprint

    names = names_of(certificate)
    if kind == "authority":
        permitted = Permitted.of(certificate)
        names = [*permitted.domains, *map(str, permitted.networks)]
    der = der_of(certificate)
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {
        "kind": kind,
        "file": str(file),
        "names": names,
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": certificate.not_valid_before_utc.strftime(form),
        "not_after": certificate.not_valid_after_utc.strftime(form),
        "sha256": fingerprint(der),
        "key_sha256": key_fingerprint(der),
    }


def _shown(value: dict[str, Any]) -> str:
    names = value["names"]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    rows = [
        ("for", " ".join(names[:12]) + more),
        ("by", value["issuer"]),
        ("from", value["not_before"]),
        ("until", value["not_after"]),
        ("SHA-256", value["sha256"]),
        ("of its key", value["key_sha256"]),
    ]
    return table((value["kind"].upper(), value["file"]), rows)


def _authority_certificate(place: Place) -> Certificate | None:
    """The authority's certificate, made when it is not there yet; None where there is no authority."""
    authority = place.authority
    if authority is None:
        return None
    if not _certificates(place):
        _guarded(authority.tend)
    return next(certificate for kind, _, certificate in _certificates(place) if kind == "authority")


def _check_form(file: Path | None, der: bool, qr: bool, settings: Path | None, address: str, as_json: bool) -> None:
    """One thing is handed out at a time: an option that another one makes idle is a mistake, and said so."""
    ways = [name for name, given in (("a file", file), ("--qr", qr), ("--mail-settings", settings)) if given]
    if len(ways) > 1:
        raise Problem(Exit.USAGE, f"{' and '.join(ways)} are different ways to hand it out; take one at a time.")
    if der and (qr or settings):
        raise Problem(Exit.USAGE, f"--der is for a file or standard output, not for {ways[0]}.")
    if address and not settings:
        raise Problem(Exit.USAGE, "--address is for --mail-settings.")
    if qr and as_json:
        raise Problem(Exit.USAGE, "--qr draws on the terminal, and --json wants standard output for itself.")
    if der and file is None and as_json:
        raise Problem(Exit.USAGE, "JSON holds the certificate in PEM; give a file for DER.")
    if der and file is None and sys.stdout.isatty():
        raise Problem(Exit.USAGE, "DER is not for a terminal. Give a file: posthouse cert export --der authority.cer")


def _mark(place: Place) -> None:
    if place.authority is not None:
        _guarded(place.authority.mark_exported)


def _export_file(certificate: Certificate, file: Path | None, der: bool, as_json: bool) -> int:
    from posthouse.net.localca import der_of, pem_of
    from posthouse.net.tls import fingerprint

    octets = der_of(certificate) if der else pem_of(certificate)
    sha256 = fingerprint(der_of(certificate))
    if file is None and as_json:
        return succeed(True, "", pem=pem_of(certificate).decode("ascii"), sha256=sha256)
    if file is None:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()
        return Exit.OK
    _write(file, octets)
    text = f"Wrote the authority's certificate to {file}. Its SHA-256 is {sha256}."
    return succeed(as_json, text, file=str(file), sha256=sha256)


def _write(path: Path, octets: bytes) -> None:
    try:
        path.write_bytes(octets)
    except OSError as error:
        raise Problem(Exit.CANNOT_CREATE, f"{path} cannot be written: {error.strerror}.", stage="write") from error


def _draw(certificate: Certificate) -> int:
    import shutil

    import segno

    from posthouse.net.localca import pem_of

    code = segno.make(pem_of(certificate), error="l", micro=False)
    columns = code.symbol_size(border=2)[0]
    room = shutil.get_terminal_size((10_000, 24)).columns
    if sys.stdout.isatty() and room < columns:
        raise Problem(
            Exit.UNAVAILABLE,
            f"The QR code is {columns} columns wide, the terminal {room}. Make it wider or its letters smaller, or "
            "hand out the file: posthouse cert export authority.crt",
            stage="draw",
        )
    code.terminal(out=sys.stdout, border=2, compact=True)
    return Exit.OK


def _export_settings(place: Place, certificate: Certificate | None, folder: Path, address: str, as_json: bool) -> int:
    from posthouse.app.certificates import names_of_server
    from posthouse.app.mailsettings import MailSettings, apple_profile, autoconfig
    from posthouse.net.localca import der_of, pem_of

    if not place.domains:
        raise Problem(Exit.CONFIG, "There is no domain yet. posthouse domain add NAME adds one.", stage="settings")
    host = names_of_server(place.config, place.domains).host
    settings = MailSettings.of(place.config, host, place.domains)
    if settings is None or place.config.tls.offer != "yes":
        raise Problem(
            Exit.CONFIG,
            "Mail programs need TLS, a listener pop3s or pop3 and a listener submissions or submission, each on a "
            "port of its own, in the configuration.",
            stage="settings",
        )
    files = {
        "config-v1.1.xml": autoconfig(settings),
        "posthouse.mobileconfig": apple_profile(
            settings, None if certificate is None else der_of(certificate), address
        ),
    }
    if certificate is not None:
        files["authority.crt"] = pem_of(certificate)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(Exit.CANNOT_CREATE, f"{folder} cannot be made: {error.strerror}.", stage="write") from error
    _mark(place)
    for name, octets in files.items():
        _write(folder / name, octets)
    text = f"Wrote {', '.join(files)} into {folder}, for the server {host}."
    return succeed(as_json, text, folder=str(folder), files=list(files), host=host)
