"""`posthouse queue` beside a running server: what is said counts at once."""

from __future__ import annotations

import json

from tests.system.next_host import Act, next_host, taken
from tests.system.outgoing import add_route, is_empty, queued, submit, wait_gone, wait_queue, wait_tried
from tests.system.raw import collect
from tests.system.server import Server, run_posthouse, wait_for

LATER: dict[str, Act] = {"mail": b"451 4.3.2 not now\r\n"}
AT_ONCE = 5.0  # seconds; the server looks every two


def queue(server: Server, *words: str, code: int = 0) -> str:
    return run_posthouse(server.data, "queue", *words, code=code).stdout


def test_hold_and_release(server: Server, sender: str, domain: str) -> None:
    """What is held does not leave, not even when everything is tried; released it leaves at once."""
    with next_host(LATER, {}) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        wait_tried(server.data, letter)
        assert queue(server, "hold", "--sender", sender) == "1 item held.\n"
        assert [item["state"] for item in queued(server.data, letter)] == ["held"]
        # Whatever is not held leaves on that word, this letter does not.
        assert queue(server, "retry", "--domain", domain, code=1) == ""
        other = submit(server.submission, sender, f"anna@{domain}")
        wait_gone(server.data, other)
        assert [item["attempts"] for item in queued(server.data, letter)] == [1]
        assert queue(server, "release", letter) == "1 item released.\n"
        wait_for(lambda: len(taken(host)) == 2, lambda: server.log[-2000:], AT_ONCE)
        wait_gone(server.data, letter)


def test_retry(server: Server, sender: str, domain: str) -> None:
    with next_host(LATER, {}) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        wait_tried(server.data, letter)
        queue(server, "retry", "--domain", domain)
        wait_for(lambda: len(taken(host)) == 1, lambda: server.log[-2000:], AT_ONCE)
        wait_gone(server.data, letter)


def test_drop(server: Server, sender: str, domain: str) -> None:
    """Gone without a word to anybody, one recipient or the whole letter."""
    with next_host(LATER) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}", f"anna@{domain}")
        items = wait_queue(server.data, letter, lambda items: [item["attempts"] for item in items] == [1, 1])
        assert queue(server, "drop", str(items[0]["item"])) == "1 item dropped.\n"
        assert [item["recipient"] for item in queued(server.data, letter)] == [items[1]["recipient"]]
        assert queue(server, "drop", letter) == "1 item dropped.\n"
        assert queued(server.data, letter) == []
        assert queue(server, "drop", letter, code=1) == ""
        assert taken(host) == []
    assert is_empty(server, sender)


def test_show(server: Server, sender: str, domain: str) -> None:
    """Everything about a letter, and the letter itself as it will leave."""
    with next_host(LATER) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        wait_tried(server.data, letter)
        text = queue(server, "show", letter)
        raw = queue(server, "show", letter, "--raw")
        values = json.loads(queue(server, "show", letter, "--json"))
    for wanted in (letter, sender, f"boris@{domain}", "451 4.3.2 not now", "Subject: Hello", "tried once so far"):
        assert wanted in text, (wanted, text)
    assert raw.startswith("Received: ") and raw.endswith("\n\nHello, Boris.\n"), raw
    assert "Return-Path" not in raw
    assert values["letters"][0]["items"][0]["status"] == "4.3.2"


def test_list(server: Server, sender: str, domain: str) -> None:
    """One line for each recipient, chosen by who it is for."""
    with next_host(LATER) as host:
        add_route(server.data, domain, host.address)
        letter = submit(server.submission, sender, f"boris@{domain}")
        item = wait_tried(server.data, letter)
        listed = run_posthouse(server.data, "queue", "list", "--recipient", f"boris@{domain}").stdout
        assert letter in listed and "451 4.3.2 not now" in listed and f"boris@{domain}" in listed
        assert item["due"].endswith("Z")
    assert collect(server.pop3, sender) == []
