"""Letters that go where DNS says: a running server, a real name server, and mail hosts on port 25."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.machines import THEM, US, Machine, two_machines
from tests.system.next_host import playing, taken
from tests.system.nsd import nsd
from tests.system.outgoing import is_empty, queued, submit, wait_gone, wait_notice, wait_tried
from tests.system.server import SENDER, Server, run_posthouse, serving

DEAD, FIRST, SECOND, LAST = THEM[:4]
ZONES = {
    "next.example": f"""
@        MX 10 dead
@        MX 20 first
dead     A {DEAD}
first    A {FIRST}
second   A {SECOND}
last     A {LAST}
implicit A {FIRST}
six      A {FIRST}
six      AAAA 2001:db8::99
nomail   MX 0 .
nomail   A {FIRST}
half     MX 5 mx.broken.example.
half     MX 10 first
alias    CNAME implicit
ours     MX 10 us
us       A {US}
loop     MX 5 dead
loop     MX 10 us
loop     MX 20 last
alldead  MX 10 dead
""",
    "broken.example": None,
}


@dataclass(slots=True)
class World:
    """A server, and the machine of the mail hosts."""

    server: Server
    there: Machine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[World]:
    """The tests of this module live on the server's machine."""
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(two_machines())
        stack.enter_context(here.entered())
        port = stack.enter_context(nsd(ZONES))
        data = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("dns") / "data"))
        (data / "posthouse.toml").write_text(f'[dns]\nservers = ["127.0.0.1:{port}"]\nmail_timeout = 3\n')
        server = stack.enter_context(serving(data, f"smtp={US}:25", "submission", "pop3"))
        yield World(server, there)


def test_the_second_host_when_the_first_is_dead(world: World) -> None:
    with world.there.mail_host(playing({}), FIRST) as first:
        letter = submit(world.server.submission, SENDER, "boris@next.example")
        wait_gone(world.server.data, letter)
        assert len(taken(first)) == 1
    assert is_empty(world.server, SENDER)


@pytest.mark.parametrize("domain", ["implicit", "alias"])
def test_a_domain_without_mx_is_its_own_host(world: World, domain: str) -> None:
    with world.there.mail_host(playing({}), FIRST) as first:
        letter = submit(world.server.submission, SENDER, f"boris@{domain}.next.example")
        wait_gone(world.server.data, letter)
        assert len(taken(first)) == 1
        assert f"RCPT TO:<boris@{domain}.next.example>".encode() in first.heard


def test_an_address_literal(world: World) -> None:
    with world.there.mail_host(playing({}), SECOND) as second:
        letter = submit(world.server.submission, SENDER, f"boris@[{SECOND}]")
        wait_gone(world.server.data, letter)
        assert len(taken(second)) == 1


def test_an_ipv6_address_that_does_not_answer_costs_a_moment(world: World) -> None:
    with world.there.mail_host(playing({}), FIRST) as first:
        begun = time.monotonic()
        letter = submit(world.server.submission, SENDER, "boris@six.next.example")
        wait_gone(world.server.data, letter)
        assert time.monotonic() - begun < 3 and len(taken(first)) == 1


@pytest.mark.parametrize(
    ("domain", "status", "words"),
    [
        ("nomail.next.example", "5.1.10", "takes no mail"),  # RFC 7505
        ("gone.next.example", "5.1.2", "There is no mail domain gone.next.example"),
        ("ours.next.example", "5.4.6", "goes in a circle"),
    ],
)
def test_no_way_and_there_will_be_none(world: World, domain: str, status: str, words: str) -> None:
    letter = submit(world.server.submission, SENDER, f"boris@{domain}")
    notice = wait_notice(world.server, SENDER)
    notice.check("failed", f"boris@{domain}", status)
    assert words in " ".join(notice.text.split()), notice.text
    assert queued(world.server.data, letter) == []


def test_a_letter_to_an_address_of_ours(world: World) -> None:
    """The literal of this server is no way out (and no mailbox here)."""
    submit(world.server.submission, SENDER, f"boris@[{US}]")
    wait_notice(world.server, SENDER).check("failed", f"boris@[{US}]", "5.4.6")


@pytest.mark.parametrize("domain", ["www.broken.example", "elsewhere.example"])
def test_a_name_server_that_fails_delays(world: World, domain: str) -> None:
    """SERVFAIL, and a server that is not asked about such names: nothing is certain, so nothing is given up."""
    letter = submit(world.server.submission, SENDER, f"boris@{domain}")
    item = wait_tried(world.server.data, letter)
    assert item["status"] == "4.4.3" and item["state"] == "due", item
    assert is_empty(world.server, SENDER)
    run_posthouse(world.server.data, "queue", "drop", letter)


def test_a_host_whose_name_cannot_be_looked_up_is_left_out(world: World) -> None:
    with world.there.mail_host(playing({}), FIRST) as first:
        letter = submit(world.server.submission, SENDER, "boris@half.next.example")
        wait_gone(world.server.data, letter)
        assert len(taken(first)) == 1


def test_hosts_behind_ours_are_never_tried(world: World) -> None:
    """They would hand the letter to us again (RFC 5321 §5.1)."""
    with world.there.mail_host(playing({}), LAST) as last:
        letter = submit(world.server.submission, SENDER, "boris@loop.next.example")
        item = wait_tried(world.server.data, letter)
        assert item["status"] == "4.4.1" and last.heard == [], item
        run_posthouse(world.server.data, "queue", "drop", letter)


def test_a_dead_domain_that_comes_back(world: World) -> None:
    """Two letters wait; the first that is taken wakes the other one."""
    letters = [submit(world.server.submission, SENDER, f"{name}@alldead.next.example") for name in ("anna", "boris")]
    for letter in letters:
        assert wait_tried(world.server.data, letter)["status"] == "4.4.1"
    with world.there.mail_host(playing({}), DEAD) as host:
        run_posthouse(world.server.data, "queue", "retry", letters[0])
        for letter in letters:
            wait_gone(world.server.data, letter)
        assert len(taken(host)) == 2
