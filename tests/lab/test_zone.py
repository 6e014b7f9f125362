"""The names in the box: what a zone file says, aliases, names that do not exist, and servers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from posthouse.lab.loop import MovableLoop
from posthouse.lab.zone import PATIENCE, NameOutage, Zone, ZoneError
from posthouse.ports.dns import DnsFailed, DnsProblem, MailHost, NoRecords, NoSuchDomain

TEXT = """
a.example.      MX 10 mx1.a.example.
                MX 20 mx2.a.example
null.example.   MX 0 .
mx1.a.example   A 192.0.2.1
                AAAA 2001:db8::1
mx2.a.example   IN 60 A 192.0.2.2
alias.example.  CNAME a.example.
circle.example. CNAME circle.example.
a.example.      TXT "v=spf1 -all"
1.2.0.192.in-addr.arpa.  PTR mx1.a.example.
2.2.0.192.in-addr.arpa.  PTR mx1.a.example.
"""


def zone() -> Zone:
    found = Zone()
    found.read(TEXT)
    return found


def ask(work: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    """What comes of a question, and how long it took."""

    async def main() -> tuple[Any, float]:
        try:
            answer = await work()
        except DnsProblem as error:
            answer = error
        return answer, asyncio.get_running_loop().time()

    return MovableLoop().run(main())


def test_records_are_found_by_name() -> None:
    found = zone()
    assert ask(lambda: found.mail_hosts("a.example"))[0] == [
        MailHost(10, "mx1.a.example"),
        MailHost(20, "mx2.a.example"),
    ]
    assert ask(lambda: found.addresses("MX1.a.example."))[0] == ["2001:db8::1", "192.0.2.1"]
    assert ask(lambda: found.addresses("mx2.a.example"))[0] == ["192.0.2.2"]
    assert ask(lambda: found.texts("a.example"))[0] == ['"v=spf1 -all"']
    assert ask(lambda: found.mail_hosts("null.example"))[0] == [MailHost(0, "")]  # RFC 7505 §3


def test_aliases_are_followed_and_do_not_go_round_for_ever() -> None:
    found = zone()
    assert ask(lambda: found.mail_hosts("alias.example"))[0] == ask(lambda: found.mail_hosts("a.example"))[0]
    assert isinstance(ask(lambda: found.addresses("circle.example"))[0], DnsFailed)


def test_what_is_not_there_is_told_apart() -> None:
    found = zone()
    assert isinstance(ask(lambda: found.addresses("b.example"))[0], NoSuchDomain)
    assert isinstance(ask(lambda: found.mail_hosts("mx1.a.example"))[0], NoRecords)
    assert isinstance(ask(lambda: found.addresses("example"))[0], NoRecords)  # names lie below it (RFC 8020 §2)


def test_a_name_counts_only_when_it_leads_back() -> None:
    found = zone()

    async def names() -> list[str | None]:
        return [await found.reverse(f"192.0.2.{number}").name() for number in (1, 2, 9)]

    assert ask(names)[0] == ["mx1.a.example", None, None]  # the PTR of 192.0.2.2 names another host


@pytest.mark.parametrize(("silent", "seconds"), [(False, 0.0), (True, PATIENCE)])
def test_servers_fail_for_a_time(silent: bool, seconds: float) -> None:
    found = zone()
    found.fail([NameOutage("a.example", 0.0, 100.0, silent)])
    answer, took = ask(lambda: found.mail_hosts("a.example"))
    assert isinstance(answer, DnsFailed)
    assert took == seconds
    assert isinstance(ask(lambda: found.addresses("mx1.a.example"))[0], DnsFailed)
    assert ask(lambda: found.mail_hosts("null.example"))[0] == [MailHost(0, "")]

    async def later() -> Any:
        await asyncio.sleep(100.0)
        return await found.addresses("mx1.a.example")

    assert ask(later)[0] == ["2001:db8::1", "192.0.2.1"]


def test_names_of_addresses_fail_with_their_servers() -> None:
    found = zone()
    found.fail([NameOutage("", 0.0, 100.0, silent=True)])

    async def name() -> str | None:
        return await found.reverse("192.0.2.1").name()

    answer, took = ask(name)
    assert (answer, took) == (None, 1.0)


@pytest.mark.parametrize(
    "text", ["a.example. MX ten mx.example.", "a.example. SOA b. c. 1 2 3 4 5", "nonsense", "a. NS b."]
)
def test_bad_zone_files_are_refused(text: str) -> None:
    with pytest.raises(ZoneError):
        Zone().read(text)
