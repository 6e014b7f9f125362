"""The account of a client command: the one that `-A` names, else the default one of the profile file.

An account fills the places of options that were not given (`fill_in`), so that a command needs to know nothing else
of it; its password comes from where the account says (`find_password`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.helpers import PASSWORD_VARIABLE

if TYPE_CHECKING:
    from posthouse.config.profiles import Account, Profiles

PROFILE: Final = "profile"  # where `fill_in` leaves the account among the options


def find_account(options: dict[str, Any], *, needed: bool = True) -> Account | None:
    """The account that the options mean. None where there is no profile file, where --url names a server for once, and,
    unless an account is `needed`, where nobody can say which one of several. Raises Problem."""
    name = options["account"]
    if options["url"]:
        if name:
            raise Problem(Exit.USAGE, "--url names a server for once, so it goes without an account (-A).")
        return None
    path = _named_file(options)
    usual = path is None
    path = path or default_path()
    if usual and not path.is_file():
        if name:
            raise Problem(Exit.CONFIG, f"There is no profile {path} yet: posthouse setup ADDRESS makes one.")
        return None
    return _choose(load_profiles(path), name, path, needed=needed)


def _named_file(options: dict[str, Any]) -> Path | None:
    """The file of --config, which may stand before the command as well."""
    if options.get("config") is not None:
        return Path(options["config"])
    context = click.get_current_context(silent=True)
    parent = None if context is None else context.parent
    if parent is not None and parent.get_parameter_source("config_file") is ParameterSource.COMMANDLINE:
        return Path(parent.params["config_file"])
    return None


def profile_path(options: dict[str, Any]) -> Path:
    """The profile file that the options mean, whether it is there or not."""
    return _named_file(options) or default_path()


def default_path() -> Path:
    """The usual place of the file on this system."""
    try:
        if sys.platform == "win32":
            folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "Posthouse"
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Application Support" / "Posthouse"
        else:
            base = os.environ.get("XDG_CONFIG_HOME", "")
            folder = (Path(base) if base.startswith("/") else Path.home() / ".config") / "posthouse"
    except RuntimeError:  # a user without a home, as in some containers, has no profile either
        folder = Path("/nonexistent")
    return folder / "config.toml"


def load_profiles(path: Path) -> Profiles:
    """What the file says. Raises Problem."""
    from posthouse.config.load import ConfigError
    from posthouse.config.profiles import load

    try:
        return load(path)
    except ConfigError as error:
        count = len(error.problems)
        head = "The profile has an error" if count == 1 else f"The profile has {count} errors"
        raise Problem(Exit.CONFIG, f"{head}:\n{error}", stage="configuration") from error


def _choose(profiles: Profiles, name: str, path: Path, *, needed: bool) -> Account | None:
    names = list(profiles.accounts)
    chosen = name or profiles.default or (names[0] if len(names) == 1 else "")
    if chosen in profiles.accounts:
        return profiles.accounts[chosen]
    listed = ", ".join(names[:20]) or "none"
    if name:
        raise Problem(Exit.CONFIG, f"There is no account {name!r} in {path}; there are {listed}.")
    if names and needed:
        raise Problem(Exit.USAGE, f"Say which account, -A NAME ({listed}), or give {path} a line default = NAME.")
    return None


def fill_in(options: dict[str, Any], account: Account | None, way: str) -> None:
    """Puts what the account knows where no option was given; `way` is "send" or "read". Raises Problem when the account
    has no server for it."""
    options[PROFILE] = account
    if account is None:
        return
    url = getattr(account, way)
    if not url:
        raise Problem(Exit.CONFIG, f"The account {account.name} has no line `{way}`: there is no server for that.")
    user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    options["url"] = url
    options["user"] = options["user"] or ("" if at and user else str(account.address.address))
    if not options["blind"]:
        options["cacert"] = options["cacert"] or (Path(account.cacert) if account.cacert else None)
        options["pin"] = options["pin"] or account.pin


def is_given(name: str) -> bool:
    """Whether an option stands on the command line, rather than its default."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


# Passwords


def find_password(options: dict[str, Any], login: str) -> str:
    """The password: from standard input, the environment, where the account says, or the person. Raises Problem."""
    from posthouse.cli import helpers

    account: Account | None = options.get(PROFILE)
    own = options["password_stdin"] or PASSWORD_VARIABLE in os.environ
    if account is not None and not own and not account.password.prompt:
        return stored_password(account)
    return helpers.find_password(login, stdin=options["password_stdin"])


def needs_person(account: Account) -> bool:
    """Whether a person is asked for the password of this account."""
    return account.password.prompt and PASSWORD_VARIABLE not in os.environ


def stored_password(account: Account) -> str:
    """The password from the environment or from where the account says; the person is not asked. Raises Problem."""
    return os.environ[PASSWORD_VARIABLE] if PASSWORD_VARIABLE in os.environ else own_password(account)


def own_password(account: Account) -> str:
    """The password from where the account says; "" where it has a person asked. Raises Problem."""
    from posthouse.cli import passwords

    source = account.password
    if source.command:
        return passwords.from_command(source.command, account.name)
    if source.keyring:
        return passwords.from_keyring(account.name)
    if source.file:
        return passwords.from_file(Path(source.file))
    return source.plain
