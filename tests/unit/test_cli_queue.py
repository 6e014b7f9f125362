"""`posthouse queue` on a real store: what it shows, does and writes down."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli.exits import Exit
from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.ports.queue import Queued, Settled, Wanted
from posthouse.store import open_store
from tests.unit.test_cli_admin import Shell, shell

__all__ = ["shell"]

FIRST = "0635d1b2c3f00a7be49c12"
SECOND = "0635d1b2c3f00a7be49c13"


async def fill(data: Path) -> None:
    """Two letters: one for two people, of whom one was refused for now."""
    store = open_store(data, serve=True)
    now = time.time()
    for letter, sender, recipients in (
        (FIRST, "test@x.mail", ("boris@example.com", "anna@example.org")),
        (SECOND, "", ("test@far.example",)),
    ):
        draft = store.draft()
        await draft.write(b"Subject: Hello \x1b[31m\r\nFrom: test@x.mail\r\n\r\nText\r\n")
        envelope = Envelope(Address.parse(sender) if sender else None)
        queued = [Queued(one.rpartition("@")[2], one, b"Received: x\r\n", now, now + 900) for one in recipients]
        await store.queue.accept(draft, [], queued, letter=letter, envelope=envelope)
    (item,) = await store.queue.items(Wanted(recipient="anna@example.org"))
    reply = "450 4.2.1 not\x1b[2J now"
    await store.queue.settle([Settled(item.id, now + 900, reply=reply, status="4.2.1", host="mx.example.org")])
    await store.close()


@pytest.fixture
def filled(shell: Shell) -> Shell:
    """A shell on a store with a queue."""
    assert shell("domain", "add", "x.mail").code == Exit.OK
    asyncio.run(fill(shell.data))
    return shell


def listed(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    """The items that a list shows."""
    items: list[dict[str, Any]] = shell("queue", "list", *arguments, "--json").json["items"]
    return items


def test_the_list_shows_who_waits_and_why(filled: Shell) -> None:
    done = filled("queue", "list")
    assert (done.code, done.err) == (Exit.OK, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["LETTER", "FOR", "FROM", "SIZE", "TRIED", "NEXT", "LAST", "ANSWER"]
    assert len(lines) == 4
    assert lines[2].startswith(f"{FIRST}  anna@example.org")
    assert "450 4.2.1 not" in lines[2]
    assert "\x1b" not in done.out
    assert "<>" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "recipients"),
    [
        (["--domain", "example.com"], ["boris@example.com"]),
        (["--domain", "@EXAMPLE.org"], ["anna@example.org"]),
        (["--sender", "<TEST@x.mail>"], ["boris@example.com", "anna@example.org"]),
        (["--recipient", "test@far.example"], ["test@far.example"]),
        (["--state", "held"], []),
        (["--destination", "far.example"], ["test@far.example"]),
        ([SECOND, "--domain", "example.org"], []),
        ([SECOND], ["test@far.example"]),
        (["--limit", "1"], ["boris@example.com"]),
    ],
)
def test_filters_choose(filled: Shell, arguments: list[str], recipients: list[str]) -> None:
    assert [item["recipient"] for item in listed(filled, *arguments)] == recipients


def test_a_letter_is_shown_with_its_header_and_whole(filled: Shell) -> None:
    done = filled("queue", "show", FIRST)
    assert done.code == Exit.OK
    assert "For       anna@example.org" in done.out
    assert "mx.example.org: 450 4.2.1 not" in done.out
    assert "Subject: Hello" in done.out
    assert "\x1b" not in done.out
    shown = filled("queue", "show", FIRST, "--json").json["letters"]
    assert [one["letter"] for one in shown] == [FIRST]
    assert len(shown[0]["items"]) == 2
    assert filled("queue", "show", "0" * 22).code == Exit.NO_USER


def test_letters_are_held_released_hurried_and_dropped(filled: Shell) -> None:
    assert filled("queue", "hold", "--domain", "example.com").out == "1 item held.\n"
    assert [item["state"] for item in listed(filled)] == ["held", "due", "due"]
    assert filled("queue", "retry", "--all").out == "2 items will be tried now.\n"
    assert filled("queue", "release", "--state", "held").out == "1 item released.\n"
    number = str(listed(filled)[0]["item"])
    assert filled("queue", "drop", number, SECOND).out == "2 items dropped.\n"
    assert [item["recipient"] for item in listed(filled)] == ["anna@example.org"]
    events = [json.loads(line)["event"] for line in (filled.data / "audit.log").read_text().splitlines()]
    assert events[-5:] == ["queue_hold", "queue_retry", "queue_release", "queue_drop", "queue_drop"]


def test_what_fits_nothing_ends_with_1(filled: Shell) -> None:
    done = filled("queue", "retry", "--domain", "else.example")
    assert (done.code, done.out) == (Exit.NOT_ALL, "")
    assert "nothing in the queue fits" in done.err
    assert filled("queue", "drop", "--domain", "else.example", "--json").json["count"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["drop"], Exit.USAGE, "--all"),
        (["drop", "what"], Exit.DATA, "neither the id of a letter"),
        (["list", "--sender", "nobody"], Exit.DATA, "is no address"),
        (["list", "--sender", "<>"], Exit.DATA, "Notices have no sender"),
        (["list", "--domain", "a b"], Exit.DATA, "is no domain"),
        (["list", "--state", "lost"], Exit.DATA, "due and held"),
    ],
)
def test_what_cannot_be_is_explained(filled: Shell, arguments: list[str], code: int, said: str) -> None:
    done = filled("queue", *arguments)
    assert done.code == code
    assert said in done.err
