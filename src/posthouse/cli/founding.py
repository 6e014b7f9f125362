"""What `posthouse quickstart` makes: a user, a directory, a configuration, a unit, and what lies in the directory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import Invocation, explained

if TYPE_CHECKING:
    from posthouse.accounts.directory import AccountDirectory
    from posthouse.config.schema import Config

# Who is not root gets the same ports with 2000 added: nobody else may bind them below 1024.
OFFSET: Final = 2000
PROTOCOLS: Final = ("smtp", "submission", "submissions", "pop3", "pop3s")


@dataclass(slots=True)
class Plan:
    """What there will be. `user`, `unit` are empty for whoever is not root."""

    domain: str
    host: str
    address: str
    data: Path
    config: Path
    user: str = ""
    unit: Path | None = None
    done: list[str] = field(default_factory=list)  # a sentence for each thing that was made or found
    password: str = ""  # the one that was made up, to be told once

    @property
    def text(self) -> str:
        """The configuration."""
        lines = ["# Every setting, its default and its bounds: docs/reference/settings.md", "[server]"]
        lines += [f'hostname = "{self.host}"', f"data = {_toml(self.data)}"]
        if self.user:
            lines.append(f'user = "{self.user}"')
        from posthouse.config.schema import PORTS

        for protocol in PROTOCOLS:
            lines += ["", "[[listener]]", f'protocol = "{protocol}"', 'address = "*"']
            if not self.user:
                lines.append(f"port = {PORTS[protocol] + OFFSET}")
        return "\n".join(lines) + "\n"


def make(plan: Plan, password: str) -> None:
    """Makes all of it. Root's part comes first, for it is given up before the mail directory is opened. What is there
    already is kept. Raises Problem."""
    try:
        if plan.user:
            _make_user(plan)
            _require_readable_program(plan)
        _make_folder(plan)
        _write(plan, plan.config, plan.text, "the configuration", mode=0o640)
        if plan.unit is not None:
            _write(plan, plan.unit, unit_text(plan), "the unit of the service", mode=0o644)
    except OSError as error:
        raise Problem(
            Exit.CANNOT_CREATE, f"{error.filename} cannot be written: {error.strerror}.", stage="write"
        ) from error
    _make_mail(plan, password)


def _make_user(plan: Plan) -> None:
    import pwd

    try:
        pwd.getpwnam(plan.user)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--home-dir", str(plan.data), "--no-create-home"]
        command += ["--shell", "/usr/sbin/nologin", plan.user]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words, a checked name
        except FileNotFoundError as error:
            raise Problem(
                Exit.UNAVAILABLE, f"useradd is missing: make the user {plan.user} by hand.", stage="user"
            ) from error
        if done.returncode != 0:
            raise Problem(Exit.CANNOT_CREATE, f"useradd said: {done.stderr.strip()}", stage="user") from None
        plan.done.append(f"Made the system user {plan.user}.")
    else:
        plan.done.append(f"The system user {plan.user} is there already.")


def _require_readable_program(plan: Plan) -> None:
    from posthouse.app.identity import IdentityError, require_readable_program

    try:
        require_readable_program(plan.user)
    except IdentityError as error:
        raise Problem(Exit.CONFIG, f"{error}.", stage="identity") from error


def _make_folder(plan: Plan) -> None:
    if not plan.data.exists():
        plan.data.mkdir(mode=0o700, parents=True)
        if plan.user:
            os.chown(plan.data, *_ids(plan.user))
        plan.done.append(f"Made the data directory {plan.data}, which only its owner may enter.")
    else:
        plan.done.append(f"The data directory {plan.data} is there already.")


def _ids(user: str) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _write(plan: Plan, path: Path, text: str, what: str, *, mode: int) -> None:
    """Writes a file that is not there yet, readable for the service's group."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        plan.done.append(f"Kept {path}: {what} is there already.")
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if plan.user and hasattr(os, "fchown"):
            inside = path.is_relative_to(plan.data)
            os.fchown(descriptor, _ids(plan.user)[0] if inside else 0, _ids(plan.user)[1])
    plan.done.append(f"Wrote {path}, {what}.")


def unit_text(plan: Plan) -> str:
    """The unit of the service, which starts the program that is running now."""
    from posthouse.app.unit import unit

    program = Path(sys.argv[0]).absolute()
    return unit(program, plan.config, plan.data, plan.user)


def _make_mail(plan: Plan, password: str) -> None:
    """The domain, the account and the certificates, as the owner of the data directory."""
    from posthouse.app.certificates import local_authority
    from posthouse.cli.mailstore import run
    from posthouse.net.system import SystemClock
    from posthouse.ports.store import Conflict

    async def work(directory: AccountDirectory) -> None:
        try:
            await directory.add_domain(plan.domain)
            plan.done.append(f"Added the domain {plan.domain}.")
        except Conflict:
            plan.done.append(f"The domain {plan.domain} is there already.")
        try:
            await directory.add_account(plan.address, password)
            plan.done.append(f"Added the account {plan.address}.")
        except Conflict:
            plan.done.append(f"The account {plan.address} is there already, with the password it has.")
            plan.password = ""

    run(Invocation(plan.data, plan.config), work, create=True)
    config = configuration(plan)
    if config.tls.offer != "yes" or config.certificates:
        return
    with explained():
        if local_authority(config, plan.data, [plan.domain], SystemClock()).tend():
            plan.done.append("Made a certificate authority of its own, and a certificate for the server.")
        else:
            plan.done.append("The server's certificate is there already.")


def configuration(plan: Plan) -> Config:
    """The configuration as the server will read it: a file that was kept may say other things than ours."""
    from posthouse.config.load import load, parse

    with explained():
        return load(plan.config) if plan.config.exists() else parse(plan.text)


def _toml(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
