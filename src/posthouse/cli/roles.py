"""The program under other names: called as sendmail, mailq or mail it behaves as those do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import PurePath
from types import MappingProxyType
from typing import Final, NoReturn

ROLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sendmail": "posthouse.cli.sendmail:sendmail",
        "mailq": "posthouse.cli.sendmail:mailq",
        "newaliases": "posthouse.cli.sendmail:newaliases",
        "mail": "posthouse.cli.mail:mail",
        "mailx": "posthouse.cli.mail:mail",
    }
)


def role_of(program: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The role that is wanted, "" for none, and its arguments: `--as sendmail` before everything else, or the name that
    the program was called by."""
    first = arguments[0] if arguments else ""
    if first == "--as" and len(arguments) > 1:
        return arguments[1], list(arguments[2:])
    if first.startswith("--as="):
        return first.removeprefix("--as="), list(arguments[1:])
    name = PurePath(program).name.removesuffix(".exe")
    return (name if name in ROLES else ""), list(arguments)


def play(role: str, arguments: list[str]) -> NoReturn:
    """Runs a role to its exit code."""
    from posthouse.cli.exits import Exit, Problem, finish

    if role not in ROLES:

        def unknown() -> int:
            raise Problem(Exit.USAGE, f"There is no role {role!r}: --as takes {', '.join(ROLES)}.")

        finish("--as", False, unknown)
    module, _, name = ROLES[role].partition(":")
    action: Callable[[list[str]], int] = getattr(import_module(module), name)
    finish(f"--as {role}", False, lambda: action(arguments))
