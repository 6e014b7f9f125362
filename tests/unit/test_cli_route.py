"""`posthouse route`, on a real store: what it does, says and writes down."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from posthouse.accounts.kept import Vault
from posthouse.cli.exits import Exit
from posthouse.mta.routetable import sealed_for
from posthouse.net.system import SystemRandom
from posthouse.ports.store import Route
from posthouse.store import open_store
from tests.unit.test_cli_admin import Shell, shell

__all__ = ["shell"]

SMARTHOST = ("route", "add", "*", "--to", "smtp.provider.example", "--to", "B.provider.example:25")
LOGIN = ("--login", "anna", "--password-stdin")


def routes(data: Path) -> tuple[Route, ...]:
    async def work() -> tuple[Route, ...]:
        store = open_store(data, serve=False)
        try:
            return store.routes()
        finally:
            await store.close()

    return asyncio.run(work())


def test_a_route_is_added_listed_replaced_and_removed(shell: Shell) -> None:
    added = shell(*SMARTHOST, *LOGIN, "--note", "the provider", stdin=b"open sesame\r\n")
    assert added == (
        Exit.OK,
        "Letters for all other domains go to smtp.provider.example:587, b.provider.example:25 (by SMTP, TLS verified, "
        "with the login anna).\n",
        "",
    )
    assert shell("route", "add", "Partner.Example", "--tls", "required", "--schedule", "5m 1h").code == Exit.OK
    assert shell("route", "add", "*.пример.рф", "--to", "[2001:db8::1]:2525").code == Exit.OK
    rows = [line.split() for line in shell("route", "list").out.splitlines()]
    assert [" ".join(row) for row in rows[1:]] == [
        "* smtp.provider.example:587 b.provider.example:25 verified anna - the provider",
        "*.пример.рф [2001:db8::1]:2525 opportunistic - -",
        "partner.example DNS required - 5m 1h, until 1h, notice 4h",
    ]
    listed = shell("route", "list", "--json").json["routes"]
    assert [(one["pattern"], one["targets"], one["tls"], one["login"]) for one in listed] == [
        ("*", ["smtp.provider.example:587", "b.provider.example:25"], "verified", "anna"),
        ("*.xn--e1afmkfd.xn--p1ai", ["[2001:db8::1]:2525"], "opportunistic", ""),
        ("partner.example", [], "required", ""),
    ]
    assert listed[2]["schedule"] == "5m 1h, until 1h, notice 4h"
    assert shell("route", "add", "partner.example").code == Exit.CANNOT_CREATE
    assert shell("route", "add", "partner.example", "--replace").code == Exit.OK
    assert shell("route", "list", "--json").json["routes"][2]["schedule"] == "", "nothing is taken over"
    removed = shell("route", "remove", "*", "*.Пример.рф").out
    assert removed == "Removed the route for *.\nRemoved the route for *.пример.рф.\n"
    assert shell("route", "remove", "*").code == Exit.NO_USER
    assert [route.pattern for route in routes(shell.data)] == ["partner.example"]


def test_the_password_is_sealed_and_nowhere_else(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a password in the database, the trail, an answer or the command line."""
    added = shell(*SMARTHOST, *LOGIN, "--json", stdin=b"open sesame\n")
    assert added.code == Exit.OK
    said = added.out + shell("route", "list").out + shell("route", "list", "--json").out
    said += shell("route", "test", "a@example.org").out
    assert "sesame" not in said
    for file in shell.data.rglob("*"):
        if file.is_file():
            assert b"sesame" not in file.read_bytes(), file
    [route] = routes(shell.data)
    vault = Vault(shell.data, SystemRandom())
    assert vault.open(route.secret, sealed_for("*")) == b"open sesame"
    assert vault.open(route.secret, sealed_for("example.org")) is None, "moved to another row it stays closed"
    with closing(sqlite3.connect(shell.data / "posthouse.db")) as database:
        [(kept,)] = database.execute("SELECT secret FROM route")
        assert kept == route.secret and len(kept) > 28
    monkeypatch.setenv("POSTHOUSE_PASSWORD", "from outside")
    assert shell(*SMARTHOST, "--login", "anna", "--replace").code == Exit.OK
    assert vault.open(routes(shell.data)[0].secret, sealed_for("*")) == b"from outside"


def test_changes_are_written_down_without_secrets(shell: Shell) -> None:
    shell(*SMARTHOST, *LOGIN, stdin=b"open sesame\n")
    shell("route", "list")
    shell("route", "test", "a@gone.invalid")
    shell("route", "remove", "*")
    lines = [json.loads(line) for line in (shell.data / "audit.log").read_text().splitlines()]
    assert [(line["event"], line["pattern"], line.get("login")) for line in lines] == [
        ("route_added", "*", "anna"),
        ("route_removed", "*", None),
    ]
    assert lines[0]["targets"] == "smtp.provider.example:587 b.provider.example:25"
    assert "sesame" not in (shell.data / "audit.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "targets", "tls"),
    [
        (["--to", "h.example"], ("h.example:25",), "opportunistic"),
        (["--to", "h.example."], ("h.example:25",), "opportunistic"),
        (["--to", "h.example:465"], ("h.example:465",), "implicit"),
        (["--to", "h.example:465", "--to", "h.example:25"], ("h.example:465", "h.example:25"), "opportunistic"),
        (["--to", "h.example", "--tls", "implicit"], ("h.example:465",), "implicit"),
        (["--to", "h.example", *LOGIN], ("h.example:587",), "verified"),
        (["--to", "h.example", "--tls", "required", *LOGIN], ("h.example:587",), "required"),
        (["--to", "127.0.0.1:2525", "--tls", "none", *LOGIN], ("127.0.0.1:2525",), "none"),
        (["--to", "10.0.0.1", "--lmtp"], ("10.0.0.1:24",), "opportunistic"),
        (["--to", "::ffff:10.0.0.1"], ("10.0.0.1:25",), "opportunistic"),
        (["--to", "2001:DB8::0:1"], ("[2001:db8::1]:25",), "opportunistic"),
        (["--to", "почта.рф:26"], ("xn--80a1acny.xn--p1ai:26",), "opportunistic"),
        ([], (), "opportunistic"),
    ],
)
def test_what_is_not_said_is_what_fits(shell: Shell, arguments: list[str], targets: tuple[str, ...], tls: str) -> None:
    assert shell("route", "add", "example.org", *arguments, stdin=b"secret\n").code == Exit.OK
    [route] = routes(shell.data)
    assert (route.targets, route.tls) == (targets, tls)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["anna@example.org"], Exit.DATA, "write what follows the @"),
        ([".example.org"], Exit.DATA, "Write *.example.org"),
        (["*example.org"], Exit.DATA, "is no pattern of a route"),
        (["exa mple"], Exit.DATA, "is no pattern of a route"),
        (["*.[192.0.2.1]"], Exit.DATA, "is no pattern of a route"),
        (["*"], Exit.DATA, "Name the smarthost"),
        (["*", "--local"], Exit.DATA, "Not every domain is yours"),
        (["*.org", "--to", "h.example", "--local"], Exit.DATA, "everybody could send"),
        (["x.org", "--lmtp"], Exit.DATA, "LMTP needs a host"),
        (["x.org", "--tls", "implicit"], Exit.DATA, "--tls verified"),
        (["x.org", "--to", "h:0"], Exit.DATA, "is no port"),
        (["x.org", "--to", "h_x"], Exit.DATA, "is no host"),
        (["x.org", "--to", "1.2.3"], Exit.DATA, "is no host"),
        (["x.org", "--to", "smtp://h"], Exit.DATA, "Write a host such as"),
        (["x.org", "--to", "fe80::1%eth0"], Exit.DATA, "is no host. Write one such as"),
        (["x.org", "--to", "h.example", "--to", "H.example:25"], Exit.DATA, "named twice"),
        (["x.org", *[word for n in range(16) for word in ("--to", f"h{n}")]], Exit.DATA, "at most 15"),
        (["x.org", "--schedule", "soon"], Exit.DATA, "is no time: write 30s, 5m, 4h or 2d"),
        (["x.org", "--note", "a\nb"], Exit.DATA, "one line"),
        (["x.org", *LOGIN], Exit.DATA, "name it with --to"),
        (["x.org", "--to", "h.example", "--tls", "none", *LOGIN], Exit.DATA, "could read the password"),
        (["x.org", "--to", "h.example", "--tls", "opportunistic", *LOGIN], Exit.DATA, "could read the password"),
        (["x.org", "--to", "h.example", "--password-stdin"], Exit.USAGE, "needs a name"),
        (["x.org", "--to", "h.example", "--login", "anna"], Exit.USAGE, "nobody to ask"),
        (["x.org", "--tls", "maybe"], Exit.USAGE, "maybe"),
    ],
)
def test_what_cannot_be_is_explained(shell: Shell, arguments: list[str], code: int, said: str) -> None:
    done = shell("route", "add", *arguments, stdin=b"secret\n")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert shell("route", "add", *arguments, "--json", stdin=b"secret\n").json["ok"] is False
    assert not (shell.data / "posthouse.db").exists() or routes(shell.data) == ()


def test_an_empty_password_is_none(shell: Shell) -> None:
    done = shell(*SMARTHOST, *LOGIN, stdin=b"\n")
    assert (done.code, "A password has 1 to" in done.err) == (Exit.DATA, True)


def test_a_decision_is_shown_step_by_step(shell: Shell) -> None:
    """Without DNS: a route to addresses, and names that exist nowhere."""
    shell("domain", "add", "x.mail")
    shell("account", "add", "test@x.mail", "--password-stdin", stdin=b"secret pass\n")
    shell("route", "add", "*", "--to", "192.0.2.1", "--to", "gone.invalid", "--schedule", "classic")
    done = shell("route", "test", "boris@example.com")
    assert (done.code, done.out.splitlines()) == (
        Exit.OK,
        [
            "The domain of boris@example.com is example.com.",
            "example.com is none of the domains whose mail lies here.",
            'The route "*" fits: to 192.0.2.1:25, gone.invalid:25.',
            "192.0.2.1:25: 192.0.2.1.",
            "gone.invalid:25: left out, gone.invalid is kept free by the standards and exists nowhere.",
            "Tried in this order: 192.0.2.1:25. Protocol smtp, TLS opportunistic, no login. Timetable: classic.",
        ],
    )
    told = shell("route", "test", "boris@example.com", "--json").json
    assert (told["ok"], told["steps"][-1]["step"], told["steps"][-1]["destination"]) == (True, "plan", "*")
    assert shell("route", "test", "test@x.mail").out.endswith("test@x.mail is a mailbox here.\n")
    assert shell("route", "test", "nobody@x.mail").code == Exit.NOT_ALL
    shell("route", "remove", "*")
    done = shell("route", "test", "a@gone.invalid", "--json")
    assert (done.code, done.json["ok"], done.json["steps"][-1]["status"]) == (Exit.NOT_ALL, False, "5.1.2")
    assert shell("route", "test", "example.org").code == Exit.DATA


def test_a_command_that_only_looks_makes_no_store(shell: Shell) -> None:
    for arguments in (["list"], ["remove", "x.org"], ["test", "a@x.org"]):
        assert shell("route", *arguments).code == Exit.NO_INPUT
    assert not (shell.data / "posthouse.db").exists()
