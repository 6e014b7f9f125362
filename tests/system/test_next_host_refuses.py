"""A next host that refuses, now or for good, at each stage of a session: what waits in the queue, and what its sender
hears."""

from __future__ import annotations

import pytest

from tests.system.next_host import Act, drop, next_host, taken
from tests.system.outgoing import add_route, is_empty, queued, submit, wait_gone, wait_notice, wait_tried
from tests.system.server import Server, run_posthouse, wait_for

STAGES = ("greeting", "ehlo", "mail", "rcpt", "data", "end")


def refusal(stage: str, reply: bytes) -> dict[str, Act]:
    # A host that refuses EHLO is greeted with HELO (RFC 5321 §3.2).
    return {stage: reply, "helo": reply} if stage == "ehlo" else {stage: reply}


@pytest.mark.parametrize("stage", STAGES)
def test_not_now(server: Server, sender: str, domain: str, stage: str) -> None:
    """4xx anywhere: it waits, with what was said; nobody is told; at the next attempt it leaves, once."""
    with next_host(refusal(stage, b"451 4.7.1 Greylisted, come back later\r\n"), {}) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        item = wait_tried(server.data, letter)
        assert item["attempts"] == 1 and item["state"] == "due" and item["destination"] == domain
        assert "451 4.7.1 Greylisted" in item["reply"] and item["status"] == "4.7.1" and item["host"] == "127.0.0.1"
        assert not item["told"] and item["due"] > item["tried"]
        assert run_posthouse(server.data, "queue", "retry", letter).stdout == "1 item will be tried now.\n"
        wait_gone(server.data, letter)
        assert [b"Hello, Boris." in one for one in taken(host)] == [True] * (2 if stage == "end" else 1)
    assert is_empty(server, sender), "greylisting is nothing that a sender wants to hear of"


@pytest.mark.parametrize("stage", STAGES)
def test_never(server: Server, sender: str, domain: str, stage: str) -> None:
    """5xx anywhere: nothing waits, and the sender is told at once, in the host's own words."""
    with next_host(refusal(stage, b"550 5.7.1 Not from you\r\n")) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        notice = wait_notice(server, sender)
        notice.check("failed", f"boris@{domain}", "5.7.1")
        assert queued(server.data, letter) == []
    assert notice.subject == "Failed delivery"
    assert notice.report.fates[0].diagnostic == "550 5.7.1 Not from you"
    assert notice.report.fates[0].remote == "127.0.0.1"
    assert "550 5.7.1 Not from you" in notice.text and f"boris@{domain}" in notice.text and letter in notice.text
    assert notice.message["In-Reply-To"] == "<hello@x.mail>"


def test_each_recipient_by_itself(server: Server, sender: str, domain: str) -> None:
    """One letter to three: one is taken, one is refused, one waits; the sender hears of the one."""
    never: dict[str, Act] = {"rcpt never": b"550 5.1.1 Unknown\r\n", "rcpt later": b"452 4.2.2 Full\r\n"}
    with next_host(never, {}) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"now@{domain}", f"never@{domain}", f"later@{domain}")
        item = wait_tried(server.data, letter)
        assert item["recipient"] == f"later@{domain}" and item["status"] == "4.2.2"
        notice = wait_notice(server, sender)
        notice.check("failed", f"never@{domain}", "5.1.1")
        assert f"now@{domain}" not in notice.text and f"later@{domain}" not in notice.text
        run_posthouse(server.data, "queue", "retry", letter)
        wait_gone(server.data, letter)
        assert len(taken(host)) == 2
        assert host.heard.count(f"RCPT TO:<now@{domain}>".encode()) == 1, "what was taken is not sent again"
    assert is_empty(server, sender)


def test_the_line_lost_behind_the_dot(server: Server, sender: str, domain: str) -> None:
    """Nobody knows whether it arrived: it is sent again with the same Message-ID, and the log says why it may have
    come twice (RFC 1047)."""
    with next_host({"end": drop}, {}) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        item = wait_tried(server.data, letter)
        assert item["status"] == "4.4.2" and "may have arrived" in item["reply"]
        run_posthouse(server.data, "queue", "retry", letter)
        wait_gone(server.data, letter)
        first, second = taken(host)
        assert first == second and first.count(b"Message-ID: <hello@x.mail>") == 1
    wait_for(lambda: f"letter={letter}" in server.log and "uncertain=1" in server.log, lambda: server.log[-2000:])
    [line] = [line for line in server.log.splitlines() if f"letter={letter}" in line and "uncertain=1" in line]
    assert " warning relay " in line
    assert is_empty(server, sender)
