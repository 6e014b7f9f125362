"""The small parts of the clients: names of servers, destinations, words, the progress bar."""

from __future__ import annotations

import io
import socket
import threading
import time
from pathlib import Path

import pytest

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.helpers import Progress, parse_url
from posthouse.cli.read import SCHEMES as READ_SCHEMES
from posthouse.cli.send import SCHEMES, read_destinations
from posthouse.cli.shell import HELP, Raw, match_word
from posthouse.net.dial import Server, UnknownHost, Unreachable, connect, is_loopback, parse_server


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("x.mail", Server("x.mail")),
        (" x.mail:2525 ", Server("x.mail", 2525)),
        ("192.0.2.1:25", Server("192.0.2.1", 25)),
        ("[2001:db8::1]:25", Server("2001:db8::1", 25)),
        ("[IPv6:2001:DB8::1]", Server("2001:db8::1")),
        ("::1", Server("::1")),
        ("почта.рф", Server("почта.рф")),
    ],
)
def test_names_of_servers(text: str, server: Server) -> None:
    assert parse_server(text) == server
    assert parse_server(str(server)) == server


@pytest.mark.parametrize(
    "text", ["", ":25", "h:", "h:0", "h:65536", "h:x", "[::1", "[::1]25", "a b", "u@h", "1:2:3", "h:²"]
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|has no"):
        parse_server(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo")),
        *((host, False) for host in ("192.0.2.1", "10.0.0.1", "::", "localhost.example.org", "")),
    ],
)
def test_where_a_password_may_pass_in_clear(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_what_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable) as refused:
        await connect("127.0.0.1", port, 5)
    assert refused.value.refused and "nothing listens there" in str(refused.value)
    with pytest.raises((UnknownHost, Unreachable)):
        await connect("no-such-host.invalid", 25, 5)
    with pytest.raises(UnknownHost):
        await connect("a..b", 25, 5)


async def test_connecting_takes_no_longer_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    answered: list[bool] = []

    def ask(*_: object, **__: object) -> list[object]:
        answered.append(over.wait(20))  # a resolver that hangs, in its own thread
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    try:
        with pytest.raises(Unreachable, match=r"did not answer within 0\.1 s"):
            await connect("slow.example.org", 25, 0.1)
        assert not answered, "it waited for the resolver"
    finally:
        over.set()


@pytest.mark.parametrize(
    ("url", "server", "user"),
    [
        ("smtp://test@x.mail:2525", Server("x.mail", 2525), "test"),
        ("smtp://test%40x.mail@[::1]:25/", Server("::1", 25), "test@x.mail"),
        ("smtp://x.mail", Server("x.mail"), ""),
        ("x.mail:25", Server("x.mail", 25), ""),
        ("SMTP://a@b@x.mail", Server("x.mail"), "a@b"),
    ],
)
def test_urls(url: str, server: Server, user: str) -> None:
    assert parse_url(url, SCHEMES) == (server, user)


@pytest.mark.parametrize("url", ["http://x", "smtp://u:p@h", "smtpss://h", "smtp://", "smtp://h:99999", "pop3://h"])
def test_urls_that_do_not_work(url: str) -> None:
    with pytest.raises(Problem) as problem:
        parse_url(url, SCHEMES)
    assert problem.value.code is Exit.USAGE
    with pytest.raises(Problem):
        parse_url(url.replace("smtp", "pop3"), [scheme for scheme in READ_SCHEMES if "3" not in scheme])


@pytest.mark.parametrize(
    ("text", "to", "cc", "bcc"),
    [
        ("a@x", ["a@x"], [], []),
        ("a@x, b@x", ["a@x", "b@x"], [], []),
        ("a@x, cc: b@x, c@x, BCC:d@x", ["a@x"], ["b@x", "c@x"], ["d@x"]),
        ("cc:b@x, to: a@x", ["a@x"], ["b@x"], []),
        ("acc@x, Bcc: b@x", ["acc@x"], [], ["b@x"]),
    ],
)
def test_destinations(text: str, to: list[str], cc: list[str], bcc: list[str]) -> None:
    assert [[str(box) for box in boxes] for boxes in read_destinations(text)] == [to, cc, bcc]


@pytest.mark.parametrize("text", ["", "   ", "cc:", "a", "a@x, cc: b"])
def test_no_destinations(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        read_destinations(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(("Auth", "Auth"), ("a", "Auth"), ("LIST", "List"), ("l", "List"), ("la", "Last"), ("r", "Read")),
        *(("res", "Reset"), ("ra", "Raw"), ("d", "Delete"), ("q", "Quit"), ("h", "Help")),
        *((text, "") for text in ("s", "x", "", "Lists")),
    ],
)
def test_words_of_the_shell(text: str, word: str) -> None:
    assert match_word(text) == word
    assert all(match_word(known) == known for known in HELP)


@pytest.mark.parametrize("text", ["", "NOOP\r\nDELE 1", "a\0", "a\x7f"])
def test_a_raw_command_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        Raw(text).encode()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar_shows_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    screen = Screen()
    bar = Progress("Sending", screen)
    bar(1_000_000, 10_000_000)
    assert screen.getvalue() == ""
    now[0] += 2
    bar(5_000_000, 10_000_000)
    assert "\rSending  50 % [###############...............] 5.0 MB, 2.5 MB/s" in screen.getvalue()
    bar.end()
    assert screen.getvalue().endswith("\r")
    quiet = io.StringIO()
    now[0] += 2
    Progress("Sending", quiet)(1, 2)
    assert quiet.getvalue() == ""


def test_the_words_stand_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "explanation" / "send-and-read.md").read_text("utf-8")
    assert all(word in text for word in HELP)
