"""`posthouse quickstart`: from nothing to a server that is ready to be started."""

from __future__ import annotations

import os
import secrets
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.founding import Plan, configuration, make, unit_text
from posthouse.cli.invocation import CONFIG_NAME, Invocation, default_data
from posthouse.cli.output import succeed

if TYPE_CHECKING:
    from posthouse.config.schema import Config
    from posthouse.mail.publish import Record

CONFIG: Final = Path("/etc/posthouse.toml")
UNIT: Final = Path("/etc/systemd/system/posthouse.service")
STATE: Final = Path("/var/lib/posthouse")
USER: Final = "posthouse"
PASSWORD_OCTETS: Final = 15  # 120 random bits, 20 characters


@click.command(cls=Verb)
@click.argument("domain")
@click.option("--hostname", metavar="NAME", help="The server's own name in the DNS; mail.DOMAIN without it.")
@click.option("--address", metavar="ADDRESS", help="The first account; postmaster@DOMAIN without it.")
@click.option("--password-stdin", is_flag=True, help="Read its password from standard input, one line.")
@click.option("--user", default=USER, show_default=True, help="The system user that will run the server (root only).")
@click.option("--unit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Where the unit goes.")
@click.option("--dry-run", is_flag=True, help="Only show what would be made, and the DNS records.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.pass_obj
def quickstart(
    invocation: Invocation,
    domain: str,
    hostname: str | None,
    address: str | None,
    password_stdin: bool,
    user: str,
    unit: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set up a mail server for DOMAIN on this machine.

    Makes the data directory, the domain, a first account, certificates, a configuration and, as root on a system with
    systemd, a user and a unit for the service. Prints the DNS records to publish and what to do next. What is there
    already is kept as it is, so it may be run again.

    \b
    Examples:
      posthouse quickstart example.org
      posthouse quickstart example.org --hostname mx1.example.org --address anna@example.org
      posthouse --data mail quickstart x.mail --hostname localhost
    """

    def action() -> int:
        plan = _plan(invocation, domain, hostname, address, user, unit)
        if not dry_run:
            # Asked for first: who breaks off here has changed nothing.
            password = _password(plan, stdin=password_stdin)
            make(plan, password)
        return _tell(plan, dry_run=dry_run, as_json=as_json)

    finish("quickstart", as_json, action)


def _plan(
    invocation: Invocation, domain: str, hostname: str | None, address: str | None, user: str, unit: Path | None
) -> Plan:
    from posthouse.accounts.directory import account_name
    from posthouse.cli.mailstore import refusals
    from posthouse.config.values import is_host_name
    from posthouse.mail.address import AddressError, domain_key, parse_domain

    try:
        name = domain_key(parse_domain(domain))
    except AddressError as error:
        raise Problem(Exit.DATA, f"{domain!r} is no domain: {error}.", stage="check") from error
    if name.startswith("["):
        raise Problem(Exit.DATA, "A server is set up for a domain, not for an address.", stage="check")
    host = (hostname or f"mail.{name}").rstrip(".").lower()
    if not is_host_name(host):
        raise Problem(Exit.DATA, f"{host!r} is no host name.", stage="check")
    root = sys.platform != "win32" and os.geteuid() == 0
    data = invocation.data or (STATE if root else default_data())
    config = invocation.config_file or (CONFIG if root and invocation.data is None else data / CONFIG_NAME)
    with refusals():
        first = account_name(address or f"postmaster@{name}")
    if not first.endswith(f"@{name}"):
        raise Problem(Exit.DATA, f"The first account must be of the domain {name}.", stage="check")
    if unit is None and root and UNIT.parent.is_dir() and invocation.data is None:
        unit = UNIT
    return Plan(name, host, first, data.absolute(), config.absolute(), user if root else "", unit)


def _password(plan: Plan, *, stdin: bool) -> str:
    """From standard input, from the person, or made up where there is nobody to ask. Raises Problem."""
    from posthouse.accounts.credentials import check_new
    from posthouse.cli.mailstore import refusals

    password = _given(plan, stdin=stdin)
    if not password:
        password = plan.password = secrets.token_urlsafe(PASSWORD_OCTETS)
    with refusals():
        check_new(password)
    return password


def _given(plan: Plan, *, stdin: bool) -> str:
    if stdin:
        return sys.stdin.buffer.readline(4096).rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    if sys.stdin.isatty():
        import getpass

        while password := getpass.getpass(f"Password for {plan.address} [one is made up]: "):
            if getpass.getpass("The same again: ") == password:
                return password
            print("They differ. Once more.", file=sys.stderr)
    return ""


# Telling it


def _records(plan: Plan, config: Config) -> list[Record]:
    from posthouse.mail.publish import records_of
    from posthouse.net.sysfiles import machine_addresses

    public = [found for text in machine_addresses() if (found := ip_address(text)).is_global]
    ports = {one.protocol: one.port for one in config.listeners}
    return records_of(plan.domain, config.server.hostname or plan.host, public, ports)


def _tell(plan: Plan, *, dry_run: bool, as_json: bool) -> int:
    config = configuration(plan)
    records = _records(plan, config)
    steps = _steps(plan, records)
    if as_json:
        return succeed(
            True,
            "",
            domain=plan.domain,
            hostname=plan.host,
            account=plan.address,
            password=plan.password or None,
            data=str(plan.data),
            config=str(plan.config),
            unit=None if plan.unit is None else str(plan.unit),
            done=plan.done,
            records=[{"name": one.name, "type": one.type, "data": one.data, "why": one.why} for one in records],
            next=steps,
        )
    parts = []
    if dry_run:
        parts.append(f"Nothing was changed. {plan.config} would be:\n\n{plan.text}")
        if plan.unit is not None:
            parts.append(f"{plan.unit} would be:\n\n{unit_text(plan)}")
    else:
        parts.append("\n".join(plan.done))
    if plan.password:
        parts.append(f"The password of {plan.address}, shown only now: {plan.password}")
    width = max(len(str(one)) for one in records)
    zone = "\n".join(f"{one!s:<{width}}  ; {one.why}" for one in records)
    parts.append(f"DNS records to publish:\n\n{zone}")
    parts.append("Next:\n\n" + "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)))
    print("\n\n".join(part.rstrip() for part in parts))
    return Exit.OK


def _steps(plan: Plan, records: list[Record]) -> list[str]:
    """What is left to do, as sentences with commands."""
    own = f"posthouse --config {plan.config}"
    service = "systemctl daemon-reload && systemctl enable --now posthouse"
    steps = [f"Start it: {service if plan.unit is not None else f'{own} serve'}"]
    if not any(one.type in ("A", "AAAA") for one in records):
        steps.append(
            f"This machine has no public address of its own: publish that of your router for {plan.host}, and pass the "
            "ports on to this machine. On a network without the Internet no DNS record is needed."
        )
    if plan.user:
        steps.append(f"Have the provider of your address name it {plan.host} (PTR): others look whether it is so.")
        steps.append("Open the ports 25, 465, 587, 110 and 995 in the firewall.")
    steps.append(f"Give mail programs the certificate authority once: {own} cert export --mail-settings settings")
    steps.append(f"See whether it works: {own} doctor; posthouse send {plan.address}")
    return steps
