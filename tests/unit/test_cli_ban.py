"""`posthouse ban`: what it does, says and returns."""

from __future__ import annotations

from tests.unit.test_cli_admin import Shell, filled, shell

__all__ = ["filled", "shell"]


def test_add_list_remove(filled: Shell) -> None:
    assert filled("ban", "list").out == ""
    assert filled("ban", "add", "192.0.2.7", "--account", "Test@X.mail", "--for", "1h", "--why", "a note").code == 0
    assert filled("ban", "add", "2001:db8::77").out == "Banned 2001:db8::/64 for good.\n"
    heads, first, second = filled("ban", "list").out.splitlines()
    assert heads.split() == ["PLACE", "ACCOUNT", "UNTIL", "BY", "WHY"]
    assert first.split()[:2] == ["192.0.2.7", "test@x.mail"] and first.endswith("administrator  a note")
    assert second.split()[:4] == ["2001:db8::/64", "all", "for", "good"]
    [one, _] = filled("ban", "list", "--json").json["bans"]
    assert (one["place"], one["account"], one["by"], one["why"]) == (
        "192.0.2.7",
        "test@x.mail",
        "administrator",
        "a note",
    )
    assert filled("ban", "remove", "2001:db8::1").code == 0
    assert filled("ban", "remove", "192.0.2.7").out == "Lifted the ban of 192.0.2.7 (test@x.mail).\n"
    assert filled("ban", "list", "--json").json == {"ok": True, "code": 0, "bans": []}


def test_what_cannot_be(filled: Shell, shell: Shell) -> None:
    assert filled("ban", "remove", "192.0.2.7").code == 67
    wrong = filled("ban", "add", "example.org")
    assert wrong.code == 65 and "is not an address or a network" in wrong.err
    wide = filled("ban", "add", "0.0.0.0/0", "--json")
    assert wide.code == 65 and "too wide" in wide.json["error"]
    span = filled("ban", "add", "192.0.2.7", "--for", "soon")
    assert span.code == 64 and "is not a time" in span.err


def test_nothing_is_made_where_no_mail_lies(shell: Shell) -> None:
    assert shell("ban", "list").code == 66
    assert not (shell.data / "bans.db").exists()
