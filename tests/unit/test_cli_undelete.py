"""`posthouse account undelete`, on a real store: what it does, says and returns."""

from __future__ import annotations

import asyncio

import pytest

from posthouse.cli.exits import Exit
from posthouse.cli.undelete import read_time
from posthouse.mail.address import Address
from posthouse.mail.envelope import Envelope
from posthouse.ports.store import Delivery
from posthouse.store import open_store
from tests.unit.test_cli_admin import Shell, filled, shell

__all__ = ["filled", "shell"]


def lose(shell: Shell, *letters: str) -> None:
    """Delivers letters to test@x.mail and deletes them."""

    async def work() -> None:
        store = open_store(shell.data, serve=False)
        account = await store.find_account("test@x.mail")
        assert account is not None
        uids = []
        for letter in letters:
            draft = store.draft()
            subject = b"=?utf-8?q?W=C3=BCste?=" if letter == "L3" else b"lost"
            await draft.write(b"Subject: " + subject + b"\r\n\r\n" + b"x\r\n" * (100_000 if letter == "L3" else 1))
            envelope = Envelope(Address("boris", "y.mail"))
            delivery = Delivery(account.id, b"", "test@x.mail")
            uids += [one.uid for one in await store.deliver(draft, [delivery], letter=letter, envelope=envelope)]
        await store.update(account.inbox, uids, [])
        await store.close()

    asyncio.run(work())


def test_deleted_letters_are_listed_and_come_back(filled: Shell) -> None:
    lose(filled, "L1", "L2", "L3")
    listed = filled("account", "undelete", "test@x.mail", "--list")
    assert listed.code == 0
    assert listed.out.splitlines()[0].split() == ["LETTER", "FROM", "SIZE", "RECEIVED", "DELETED", "SUBJECT"]
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [[f"L{n}", "boris@y.mail"] for n in (1, 2, 3)]
    back = filled("account", "undelete", "test@x.mail", "--letter", "L2", "--json")
    assert (back.code, [one["letter"] for one in back.json["letters"]]) == (0, ["L2"])
    assert filled("account", "undelete", "test@x.mail", "--since", "1h").out == (
        "Brought 2 letters back for test@x.mail.\n"
    )
    assert filled("account", "show", "test@x.mail", "--json").json["accounts"][0]["letters"] == 3
    none = filled("account", "undelete", "test@x.mail")
    assert (none.code, none.out) == (1, "Nothing that test@x.mail deleted can be brought back.\n")
    assert '"letters_undeleted"' in (filled.data / "audit.log").read_text()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--subject", "LOST"), ["L1", "L2"]),
        (("--subject", "wüste"), ["L3"]),
        (("--from", "Boris@", "--subject", "los"), ["L1", "L2"]),
        (("--from", "anna@"), []),
        (("--until", "1h"), []),
        (("--since", "1h", "--until", "2100-01-01"), ["L1", "L2", "L3"]),
    ],
)
def test_letters_are_chosen_by_sender_subject_and_time(
    filled: Shell, options: tuple[str, ...], wanted: list[str]
) -> None:
    lose(filled, "L1", "L2", "L3")
    listed = filled("account", "undelete", "test@x.mail", "--list", "--json", *options)
    assert [one["letter"] for one in listed.json["letters"]] == wanted
    back = filled("account", "undelete", "test@x.mail", "--json", *options)
    assert [one["letter"] for one in back.json["letters"]] == wanted


def test_what_cannot_be_is_said(filled: Shell) -> None:
    lose(filled, "L1")
    assert filled("account", "undelete", "nobody@x.mail").code == Exit.NO_USER
    assert filled("account", "undelete", "test@x.mail", "--since", "yesterday").code == Exit.USAGE
    late = filled("account", "undelete", "test@x.mail", "--since", "2100-01-01", "--json")
    assert (late.code, late.json["letters"]) == (1, [])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2h", 92_800.0), ("1970-01-01T01:00", 3600.0), ("1970-01-01T02:00+01:00", 3600.0), ("1970-01-02", 86_400.0)],
)
def test_since_is_a_length_of_time_or_a_date(text: str, wanted: float) -> None:
    assert read_time("--since", text, 100_000.0, 0.0) == wanted
