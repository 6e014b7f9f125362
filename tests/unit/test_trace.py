"""The trace fields: what they say, and that nothing hostile gets into them (RFC 5321 §4.4)."""

from __future__ import annotations

import re

import pytest

from posthouse.mail.address import Address
from posthouse.mail.trace import Hop, date_time, protocol_keyword, received, return_path


def hop(**changes: object) -> Hop:
    values: dict[str, object] = {
        "helo": "client.example",
        "address": "192.0.2.7",
        "reverse": "mail.client.example",
        "host": "x.mail",
        "protocol": "ESMTP",
        "id": "1abc",
        "time": 1_700_000_000.9,
    }
    return Hop(**{**values, **changes})  # type: ignore[arg-type]  # the values fit, a dict cannot say so


def test_the_whole_field() -> None:
    assert received(hop(recipient=Address("test", "x.mail"))) == (
        "Received: from client.example (mail.client.example [192.0.2.7])\r\n"
        "\tby x.mail (Posthouse) with ESMTP id 1abc\r\n"
        "\tfor <test@x.mail>;\r\n"
        "\tTue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({"reverse": None}, "client.example ([192.0.2.7])"),
        ({"address": "2001:db8::1"}, "client.example (mail.client.example [IPv6:2001:db8::1])"),
        ({"helo": "[192.0.2.7]"}, "[192.0.2.7] (mail.client.example [192.0.2.7])"),
        ({"helo": "my_pc"}, "my_pc (mail.client.example [192.0.2.7])"),
        ({"helo": "[no.literal]"}, "[192.0.2.7] (mail.client.example [192.0.2.7])"),
        ({"helo": "a;b"}, "[192.0.2.7] (mail.client.example [192.0.2.7])"),
        ({"helo": "a\r\nEvil: x"}, "[192.0.2.7] (mail.client.example [192.0.2.7])"),
        ({"helo": "(comment"}, "[192.0.2.7] (mail.client.example [192.0.2.7])"),
        ({"helo": ""}, "[192.0.2.7] (mail.client.example [192.0.2.7])"),
        ({"address": "", "reverse": None}, "client.example"),
        ({"address": "", "reverse": None, "helo": "?"}, "unknown"),
    ],
)
def test_from(changes: dict[str, object], source: str) -> None:
    assert received(hop(**changes)).startswith(f"Received: from {source}\r\n\tby ")


def test_lines_are_short_enough_for_every_reader() -> None:
    """RFC 5322 §2.1.1: at most 998 octets a line, whatever the client called itself."""
    field = received(hop(helo="h" * 255, reverse="r" * 255, recipient=Address("l" * 64, "d" * 189)))
    assert max(map(len, field.split("\r\n"))) <= 998


@pytest.mark.parametrize(
    ("words", "keyword"),
    [
        ("", "SMTP"),
        ("extended", "ESMTP"),
        ("extended login", "ESMTPA"),
        ("extended tls", "ESMTPS"),
        ("extended tls login", "ESMTPSA"),
        ("extended utf8", "UTF8SMTP"),
        ("extended utf8 login", "UTF8SMTPA"),
        ("extended utf8 tls login", "UTF8SMTPSA"),
        ("extended lmtp", "LMTP"),
        ("extended lmtp tls", "LMTPS"),
        ("extended lmtp utf8", "UTF8LMTP"),
    ],
)
def test_protocol_keywords(words: str, keyword: str) -> None:
    """RFC 3848, RFC 6531 §4.3."""
    flags = {name: name in words.split() for name in ("extended", "lmtp", "utf8", "tls", "login")}
    assert protocol_keyword(**flags) == keyword


def test_return_path() -> None:
    assert return_path(None) == "Return-Path: <>\r\n"
    assert return_path(Address("a b", "x.mail")) == 'Return-Path: <"a b"@x.mail>\r\n'


@pytest.mark.parametrize("seconds", [0, 951_782_399.999, 4_102_444_800])
def test_dates_are_of_rfc_5322(seconds: float) -> None:
    assert re.fullmatch(
        r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000", date_time(seconds)
    )
    assert date_time(951_782_399.999) == "Mon, 28 Feb 2000 23:59:59 +0000"
