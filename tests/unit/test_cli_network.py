"""`posthouse network` and the senders of `posthouse account`, on a real store: what they do, say and write down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli.exits import Exit
from posthouse.observe.audit import Trail, system_user
from tests.unit.test_cli_admin import Shell, shell

__all__ = ["shell"]


def trail(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shell.data / "audit.log").read_text().splitlines()]


def test_a_network_is_named_listed_tested_and_removed(shell: Shell) -> None:
    done = shell(
        "network", "add", "::ffff:192.0.2.0/120", "--allow", "relay,clear", "--deny", "pop3", "--note", "office"
    )
    assert (done.code, done.err) == (Exit.OK, "")
    assert done.out == "Named the network 192.0.2.0/24. It may: smtp submission local relay login-relay clear.\n"
    listed = shell("network", "list", "--json").json["networks"]
    assert [(one["network"], one["note"], one["until"], one["expired"]) for one in listed] == [
        ("192.0.2.0/24", "office", None, False)
    ]
    tested = shell("network", "test", "192.0.2.7", "--json").json
    assert (tested["rule"], tested["built_in"]) == ("192.0.2.0/24", False)
    assert (tested["rights"]["relay"], tested["rights"]["pop3"]) == (True, False)
    assert "may      send passwords without encryption" in shell("network", "test", "192.0.2.7").out
    assert "everybody (built in)" in shell("network", "test", "198.51.100.1").out
    assert shell("network", "remove", "192.0.2.0/24").out == "192.0.2.0/24 has no name any more.\n"
    assert shell("network", "list").out == ""


def test_a_network_has_an_end(shell: Shell) -> None:
    assert shell("network", "add", "192.0.2.7", "--deny", "connect", "--for", "7d").code == Exit.OK
    [row] = shell("network", "list", "--json").json["networks"]
    assert row["until"] is not None
    assert row["rights"] == ["local", "login-relay"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["add", "10.0.0.1/8"], Exit.DATA, "Write 10.0.0.0/8"),
        (["add", "10.0.0.0/8", "--allow", "realy"], Exit.DATA, '"realy" is no right'),
        (["add", "10.0.0.0/8", "--allow", "relay", "--deny", "all"], Exit.DATA, "at once"),
        (["add", "10.0.0.0/8", "--for", "soon"], Exit.USAGE, "is not a time"),
        (["add", "192.0.2.0/24"], Exit.CANNOT_CREATE, "--replace"),
        (["remove", "10.0.0.0/8"], Exit.NO_USER, "is not named here"),
        (["test", "example.org"], Exit.DATA, "is not an IP address"),
    ],
)
def test_what_cannot_be_is_explained(shell: Shell, arguments: list[str], code: int, said: str) -> None:
    assert shell("network", "add", "192.0.2.0/24").code == Exit.OK
    done = shell("network", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert shell("network", *arguments, "--json").json["ok"] is False


def test_replacing_takes_nothing_over(shell: Shell) -> None:
    assert shell("network", "add", "192.0.2.0/24", "--allow", "relay", "--note", "old").code == Exit.OK
    assert shell("network", "add", "192.0.2.0/24", "--replace").code == Exit.OK
    [row] = shell("network", "list", "--json").json["networks"]
    assert ("relay" in row["rights"], row["note"]) == (False, "")


def test_senders_are_granted_shown_and_revoked(shell: Shell) -> None:
    assert shell("domain", "add", "x.mail").code == Exit.OK
    assert shell("account", "add", "test@x.mail", "--password-stdin", stdin=b"secret pass\n").code == Exit.OK
    assert shell("account", "grant-sender", "test@x.mail", "*@X.mail").out == "test@x.mail may send as *@x.mail.\n"
    assert "May send as: test@x.mail, *@x.mail" in shell("account", "show", "test@x.mail").out
    assert shell("account", "list", "--json").json["accounts"][0]["senders"] == ["*@x.mail"]
    assert shell("account", "grant-sender", "test@x.mail", "*@x.mail").code == Exit.CANNOT_CREATE
    assert shell("account", "grant-sender", "nobody@x.mail", "*@x.mail").code == Exit.NO_USER
    assert shell("account", "grant-sender", "test@x.mail", "*@").code == Exit.DATA
    assert shell("account", "revoke-sender", "test@x.mail", "*@x.mail").code == Exit.OK
    assert shell("account", "revoke-sender", "test@x.mail", "*@x.mail").code == Exit.NO_USER


def test_every_change_is_written_down_without_secrets(shell: Shell) -> None:
    """Catches a change that nobody can trace, and a password in the trail."""
    shell("domain", "add", "x.mail")
    shell("account", "add", "test@x.mail", "--password-stdin", stdin=b"secret pass\n")
    shell("account", "passwd", "test@x.mail", "--password-stdin", stdin=b"other pass\n")
    shell("account", "grant-sender", "test@x.mail", "info@x.mail")
    shell("account", "revoke-sender", "test@x.mail", "info@x.mail")
    made = shell("account", "app-password", "add", "test@x.mail", "phone", "--json").json
    shell("account", "app-password", "revoke", "test@x.mail", "phone")
    shell("account", "remove", "test@x.mail", "--yes")
    shell("domain", "remove", "x.mail")
    shell("network", "add", "192.0.2.0/24")
    shell("network", "remove", "192.0.2.0/24")
    shell("network", "list")
    shell("ban", "add", "192.0.2.7", "--why", "attacks")
    shell("ban", "remove", "192.0.2.7")
    shell("ban", "list")
    lines = trail(shell)
    assert [line["event"] for line in lines] == [
        "domain_added",
        "account_added",
        "password_changed",
        "sender_granted",
        "sender_revoked",
        "app_password_added",
        "app_password_revoked",
        "account_removed",
        "domain_removed",
        "network_added",
        "network_removed",
        "banned",
        "unbanned",
    ]
    assert made["app_passwords"][0]["password"] not in (shell.data / "audit.log").read_text()
    assert {(line["who"], line["from"]) for line in lines} == {(system_user(), "cli")}
    assert "pass" not in (shell.data / "audit.log").read_text().replace("password_", "")
    assert (shell.data / "audit.log").stat().st_mode & 0o777 == 0o600


def test_a_trail_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    said: list[OSError] = []
    Trail(tmp_path / "gone", who="root", origin="cli", failed=said.append).record("domain_added", domain="x.mail")
    assert [type(error) for error in said] == [FileNotFoundError]
