"""`posthouse alias` on a real store; the commands of the how-to are those that are run here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posthouse.cli.exits import Exit
from tests.unit.test_cli_admin import Shell, shell

__all__ = ["shell"]

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "one-address-for-several-people.md"


@pytest.fixture
def office(shell: Shell) -> Shell:
    """A domain with one account."""
    assert shell("domain", "add", "example.org").code == Exit.OK
    assert shell("account", "add", "anna@example.org", "--password-stdin", stdin=b"secret-Word-1\n").code == Exit.OK
    return shell


def test_the_how_to_shows_what_happens(office: Shell) -> None:
    shown = [block for block in PAGE.read_text("utf-8").split("```")[1::2] if "$ posthouse" in block]
    for block in shown:
        for part in block.strip().split("$ posthouse ")[1:]:
            command, _, output = part.partition("\n")
            done = office(*command.split())
            assert (done.code, done.err) == (Exit.OK, ""), command
            assert done.out.rstrip() == output.rstrip(), command
    events = [json.loads(line)["event"] for line in (office.data / "audit.log").read_text().splitlines()]
    assert events[-3:] == ["alias_added", "alias_added", "alias_removed"]


def test_a_member_may_send_as_the_alias(office: Shell) -> None:
    assert office("alias", "add", "info@example.org", "--to", "Anna@example.org", "--note", "office").code == Exit.OK
    assert "May send as: anna@example.org, info@example.org" in office("account", "show", "anna@example.org").out
    (one,) = office("alias", "list", "example.org", "--json").json["aliases"]
    assert (one["alias"], one["targets"], one["note"]) == ("info@example.org", ["anna@example.org"], "office")
    assert office("alias", "list", "else.example", "--json").json["aliases"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["add", "info@example.org", "--to", "x"], Exit.DATA, "is not a mail address"),
        (["add", "info@example.org", "--to", "a b@x.example"], Exit.DATA, "is not a mail address"),
        (["add", "info", "--to", "anna@example.org"], Exit.DATA, "is not a mail address"),
        (["add", "info@else.example", "--to", "anna@example.org"], Exit.NO_USER, "posthouse domain add"),
        (["add", "anna@example.org", "--to", "boris@example.com"], Exit.CANNOT_CREATE, "is an account"),
        (["add", "info@example.org", "--to", "info@example.org"], Exit.DATA, "stand for itself"),
        (["add", "info@example.org"], Exit.USAGE, "--to"),
        (["add", "all@example.org", *[w for n in range(101) for w in ("--to", f"p{n}@x.example")]], Exit.DATA, "100"),
        (["remove", "info@example.org"], Exit.NO_USER, "posthouse alias list"),
    ],
)
def test_what_cannot_be_is_explained(office: Shell, arguments: list[str], code: int, said: str) -> None:
    done = office("alias", *arguments)
    assert done.code == code
    assert said in done.err


def test_an_alias_and_an_account_exclude_each_other(office: Shell) -> None:
    assert office("alias", "add", "info@example.org", "--to", "anna@example.org").code == Exit.OK
    assert "--replace" in office("alias", "add", "info@example.org", "--to", "b@example.com").err
    done = office("account", "add", "info@example.org", "--password-stdin", stdin=b"secret-Word-1\n")
    assert (done.code, "is an alias" in done.err) == (Exit.CANNOT_CREATE, True)
