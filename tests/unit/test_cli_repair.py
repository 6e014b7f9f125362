"""`posthouse doctor --store --repair` on a real store; what the how-to shows is what is run here."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from posthouse.cli.exits import Exit
from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.ports.store import Delivery
from posthouse.store import open_store
from tests.unit.test_cli_admin import Shell, shell

__all__ = ["shell"]

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "the-store-is-damaged.md"
WHERE = "/var/lib/posthouse"
STAMP = re.compile(r"damaged-[0-9TZ-]+")


async def fill(data: Path) -> None:
    """Two letters for anna; the first is large, and its file is altered."""
    store = open_store(data, serve=True)
    account = await store.find_account("anna@example.org")
    assert account is not None
    for letter, lines in (("JK7QZ2M4", 20_000), ("JK7QZ2M5", 3)):
        draft = store.draft()
        await draft.write(b"Subject: hello\r\n\r\n" + b"a line of it\r\n" * lines)
        envelope = Envelope(Address("bob", "example.com"))
        await store.deliver(draft, [Delivery(account.id, b"", "anna@example.org")], letter=letter, envelope=envelope)
    await store.close()
    (file,) = (data / "content").glob("*/*")
    file.write_bytes(file.read_bytes().replace(b"of it", b"of IT", 1))


@pytest.fixture
def office(shell: Shell) -> Shell:
    """An account with a whole letter and a damaged one."""
    assert shell("domain", "add", "example.org").code == Exit.OK
    assert shell("account", "add", "anna@example.org", "--password-stdin", stdin=b"secret-Word-1\n").code == Exit.OK
    asyncio.run(fill(shell.data))
    return shell


def test_the_how_to_shows_what_happens(office: Shell) -> None:
    shown = [block for block in PAGE.read_text("utf-8").split("```")[1::2] if "$ posthouse" in block]
    count = 0
    for block in shown:
        for part in block.strip().split("$ posthouse ")[1:]:
            command, _, output = part.partition("\n")
            done = office(*command.split())
            said = STAMP.sub("damaged-2026-03-01T081500Z", done.out.replace(str(office.data), WHERE))
            said = re.sub(r"\(\d+\.\d s\)", "(0.1 s)", said)
            assert said.rstrip() == output.rstrip(), command
            count += 1
    assert count == 4


def test_it_is_not_repaired_beside_a_server(office: Shell) -> None:
    async def beside() -> None:
        store = open_store(office.data, serve=True)
        try:
            for options in (["--yes"], ["--dry-run"]):
                done = await asyncio.to_thread(office, "doctor", "--store", "--repair", *options)
                assert done.code == Exit.IO
                assert "Stop the server first" in done.err
        finally:
            await store.close()

    asyncio.run(beside())


def test_nobody_is_asked_without_a_terminal(office: Shell) -> None:
    done = office("doctor", "--store", "--repair")
    assert done.code == Exit.USAGE
    assert "--yes" in done.err
    assert not list(office.data.glob("*.damaged-*"))
    assert office("doctor", "--store", "--yes").code == Exit.USAGE


@pytest.mark.parametrize("answer", ["n", "y"])
def test_a_person_is_asked(office: Shell, answer: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "posthouse.cli.main", "--data", str(office.data), "doctor", "--store", "--repair"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.write(ours, answer.encode() + b"\n")
    out, err = process.communicate(timeout=30)
    os.close(ours)
    assert "file checksum: content 1" in out
    assert "Repair it now? [y/N]" in out
    if answer == "y":
        assert process.returncode == Exit.OK
        assert "is repaired and holds 1 letter of 1 account" in out
    else:
        assert process.returncode == Exit.NOT_ALL
        assert "Nothing was changed." in err
        assert not list(office.data.glob("*.damaged-*"))


def test_a_program_is_told_everything(office: Shell) -> None:
    dry = office("doctor", "--store", "--repair", "--dry-run", "--json")
    assert (dry.code, dry.json["dry_run"], dry.json["count"]) == (1, True, 1)
    assert [one["what"] for one in dry.json["done"]] == ["set aside"]
    assert not (office.data / "lost+found").exists()
    done = office("doctor", "--store", "--repair", "--yes", "--json")
    assert done.code == 0
    assert done.json["done"] == dry.json["done"]
    assert (done.json["remains"], done.json["letters"], done.json["accounts"]) == ([], 1, 1)
    assert (office.data / done.json["kept"]).exists()
    facts = json.loads(next((office.data / "lost+found").glob("*.json")).read_text())
    assert (facts["letter"], facts["deliveries"][0]["account"]) == ("JK7QZ2M4", "anna@example.org")
    again = office("doctor", "--store", "--repair", "--yes", "--json")
    assert (again.code, again.json["done"]) == (0, [])
    assert len(list(office.data.glob("*.damaged-*"))) == 1


def test_a_lost_database_is_named_by_every_command(office: Shell) -> None:
    """Would catch `domain add` that begins a new store over the letters of the old one."""
    (office.data / "posthouse.db").unlink()
    for command in (["account", "list"], ["domain", "add", "new.example"]):
        done = office(*command)
        assert done.code == Exit.IO
        assert "doctor --store --repair" in done.err
    assert office("doctor", "--store").code == 1
    wide = office("doctor", "--only", "store", "--json")
    assert [one["id"] for one in wide.json["findings"]] == ["store.unusable"]
    assert not (office.data / "posthouse.db").exists()
