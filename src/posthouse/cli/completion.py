"""`posthouse completion`: what a shell needs to complete our commands with Tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from posthouse.cli.exits import Verb

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_POSTHOUSE_COMPLETE"  # click answers in place of the command when the shell sets it


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete commands, options, files and accounts with Tab.

    \b
    bash    posthouse completion bash > ~/.local/share/bash-completion/completions/posthouse
    zsh     posthouse completion zsh > ~/.zfunc/_posthouse   (with fpath+=~/.zfunc before compinit)
    fish    posthouse completion fish > ~/.config/fish/completions/posthouse.fish

    For this session alone: eval "$(posthouse completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(context.find_root().command, {}, "posthouse", VARIABLE).source(), nl=False)


def accounts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of accounts that begin so. A profile that cannot be read has none: Tab is no place for errors."""
    from click.shell_completion import CompletionItem

    from posthouse.cli.account import load_profiles, profile_path
    from posthouse.cli.exits import Problem

    try:
        found = load_profiles(profile_path(context.params)).accounts
    except Problem:
        return []
    return [
        CompletionItem(name, help=str(account.address))
        for name, account in found.items()
        if name.startswith(incomplete)
    ]
