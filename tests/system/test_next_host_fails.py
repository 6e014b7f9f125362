"""A next host that fails: not there, silent, half dead, babbling. Each ends in the queue, in bounded time and memory,
and its sender is told by the timetable and not before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.next_host import Act, black_hole, drop, endless, next_host, silence, taken
from tests.system.outgoing import add_route, is_empty, submit, wait_gone, wait_notice, wait_tried
from tests.system.server import SENDER, Server, run_posthouse, serving, wait_for

MIB = 1024 * 1024
TIME = 1.0

# The time-outs of RFC 5321 §4.5.3.2 are minutes.
STAGES = ("connect", "greeting", "hello", "mail", "rcpt", "data", "content", "end_of_data")
IMPATIENT = "[relay]\n" + "".join(f"{stage} = {TIME}\n" for stage in STAGES) + "attempt = 10\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Server]:
    """A server that waits a second at most for a next host, and ten for a whole attempt."""
    data = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("impatient") / "data"))
    (data / "posthouse.toml").write_text(IMPATIENT)
    with serving(data, "submission", "pop3") as server:
        yield server


def attempt(server: Server, domain: str, target: str) -> dict[str, object]:
    """Hands in a letter and returns how it waits after its first attempt, which took a bounded time."""
    add_route(server.data, domain, target)
    begun = time.monotonic()
    item = wait_tried(server.data, submit(server.submission, SENDER, f"boris@{domain}"))
    assert time.monotonic() - begun < 15 * TIME, "the host was waited for without end"
    assert item["state"] == "due" and item["due"] > item["tried"] and not item["told"], item
    return item


def check(server: Server, domain: str, target: str, status: str, words: str) -> None:
    item = attempt(server, domain, target)
    assert item["status"] == status and words in str(item["reply"]), item
    assert is_empty(server, SENDER), "nobody is told of a delay before its time"
    run_posthouse(server.data, "queue", "drop", str(item["letter"]))


def test_nobody_listens(impatient: Server, domain: str) -> None:
    with next_host() as host:
        port = host.port
    check(impatient, domain, f"127.0.0.1:{port}", "4.4.1", "nothing listens there")


def test_packets_are_swallowed(impatient: Server, domain: str) -> None:
    with black_hole() as port:
        check(impatient, domain, f"127.0.0.1:{port}", "4.4.1", "")


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data"])
def test_silence(impatient: Server, domain: str, stage: str) -> None:
    with next_host({stage: silence}) as host:
        check(impatient, domain, host.address, "4.4.2", "")
        assert taken(host) == []


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data"])
def test_half_dead(impatient: Server, domain: str, stage: str) -> None:
    """It accepts connections and drops them."""
    with next_host({stage: drop}) as host:
        check(impatient, domain, host.address, "4.4.2", "")
        assert taken(host) == []


def test_silence_behind_the_dot(impatient: Server, domain: str) -> None:
    """It may have arrived, and is tried again."""
    with next_host({"end": silence}) as host:
        check(impatient, domain, host.address, "4.4.2", "may have arrived")
    wait_for(lambda: f"destination={domain} " in impatient.log, lambda: impatient.log[-2000:])
    [line] = [line for line in impatient.log.splitlines() if f" destination={domain} " in line]
    assert " warning relay " in line and "uncertain=1" in line


BABBLE: dict[str, Act] = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<html>\r\n",
    "a line without end": b"220 " + b"x" * 200_000,
    "a reply without end": endless,
    "octets": bytes(range(256)) * 40 + b"\r\n",
}


@pytest.mark.parametrize("babble", BABBLE)
def test_babble(impatient: Server, domain: str, babble: str) -> None:
    """Would catch a reply that is collected in memory for as long as it comes."""
    impatient.forget_peak()
    before = impatient.memory()
    with next_host({"greeting": BABBLE[babble], "ehlo": silence}) as host:
        item = attempt(impatient, domain, host.address)
    assert str(item["status"]).startswith("4."), item
    assert impatient.memory("VmHWM") - before < 20 * MIB
    assert is_empty(impatient, SENDER)
    run_posthouse(impatient.data, "queue", "drop", str(item["letter"]))


@pytest.mark.parametrize("stage", ["mail", "data", "end"])
def test_endless_replies_later(impatient: Server, domain: str, stage: str) -> None:
    before = impatient.memory()
    with next_host({stage: endless}) as host:
        item = attempt(impatient, domain, host.address)
    assert str(item["status"]).startswith("4.")
    assert impatient.memory("VmHWM") - before < 20 * MIB
    run_posthouse(impatient.data, "queue", "drop", str(item["letter"]))


def test_classic(impatient: Server, domain: str) -> None:
    """The classic timetable tells of the delay with the first failed attempt, and names the dates of the next ones."""
    with next_host({"greeting": drop}, {"greeting": drop}, {}) as host:
        add_route(impatient.data, domain, host.address, more=["--schedule", "classic"])
        letter = submit(impatient.submission, SENDER, f"boris@{domain}")
        notice = wait_notice(impatient, SENDER)
        notice.check("delayed", f"boris@{domain}", "4.4.2")
        assert notice.subject == "Failed delivery (will be retried)"
        item = wait_tried(impatient.data, letter)
        assert item["told"]
        # 1 h, 4 h and the days, none of them twice, and the last one is when it is over.
        dates = [line.strip() for line in notice.text.splitlines() if line.startswith("    ") and "20" in line]
        dates = [line for line in dates if line.endswith("+0000") or line[-5] in "+-"]
        assert len(dates) == len(set(dates)) == 6, notice.text
        assert notice.fields[1]["Will-Retry-Until"], notice.fields
        # It is told once.
        run_posthouse(impatient.data, "queue", "retry", letter)
        wait_tried(impatient.data, letter, 2)
        run_posthouse(impatient.data, "queue", "retry", letter)
        wait_gone(impatient.data, letter)
        assert len(taken(host)) == 1
    assert is_empty(impatient, SENDER)
