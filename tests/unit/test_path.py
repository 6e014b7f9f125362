"""Who is believed: the boundary between claims and our own servers, verdicts, delays (RFC 5321 §4.4, RFC 8601)."""

from __future__ import annotations

import pytest

from posthouse.mail.path import Path, read_path

OURS = ["mx1.example.org", "store1.example.org"]
AT = "Mon, 2 Mar 2026 06:15:{:02} +0000"
STORE = "Received: from mx1.example.org by store1.example.org with LMTP; " + AT.format(8)
EDGE = "Received: from out.example.net (mail.example.net [192.0.2.25]) by mx1.example.org; " + AT.format(15)
FIRST = "Received: from pc ([192.0.2.77]) by smtp.example.net with ESMTPSA; " + AT.format(5)
PASS = "Authentication-Results: mx1.example.org; dmarc=pass header.from=example.com"


def read(*fields: str, trusted: list[str] | None = None) -> Path:
    return read_path("\r\n".join([*fields, "", ""]).encode(), OURS if trusted is None else trusted)


def test_the_boundary_and_the_clocks() -> None:
    path = read(STORE, EDGE, FIRST, "Date: Mon, 2 Mar 2026 06:15:00 +0000")
    assert [leg.trusted for leg in path.legs] == [False, True, True]
    assert [leg.delay for leg in path.legs] == [None, 10, -7]
    assert path.total == 8 and path.slowest is path.legs[1]
    assert "the clocks of the two servers disagree" in path.legs[2].notes
    assert read(STORE, EDGE, FIRST).total == 3


@pytest.mark.parametrize(
    ("edge", "believed"),
    [
        ("from out.example.net (mail.example.net [192.0.2.25])", False),
        ("from mx1.example.org (mail.example.net [192.0.2.25])", False),  # it only calls itself so
        ("from mx1.example.org ([203.0.113.5])", False),
        ("from mx1.example.org (unknown [192.0.2.9])", False),
        ("from x (mx1.example.org [192.0.2.25])", True),
        ("from localhost (localhost [127.0.0.1])", True),
        ("from mx1.example.org ([10.0.0.2])", True),
        ("", True),
    ],
)
def test_a_forged_field_of_ours_is_a_claim(edge: str, believed: bool) -> None:
    """Would catch a letter that brings `by mx1.example.org` along and is believed."""
    field = f"Received: {edge} by mx1.example.org; {AT.format(15)}"
    forged = f"Received: from bank.example by mx1.example.org; {AT.format(5)}"
    assert read(field, forged).legs[0].trusted is believed
    assert read(field, forged).legs[1].trusted


@pytest.mark.parametrize(
    ("fields", "dmarc"),
    [
        ([PASS, STORE, EDGE, FIRST], "pass"),
        ([STORE, EDGE, PASS, FIRST], "pass"),  # filters put it below the server's own field
        ([STORE, EDGE, FIRST, PASS], None),  # below what others wrote: forged
        ([PASS.replace("mx1", "mx9"), STORE, EDGE], None),
        (["Authentication-Results: mx1.example.org 1; (dmarc=pass) dmarc=fail", EDGE], "fail"),
        (["Authentication-Results: mx1.example.org; none", EDGE], None),
        (['Authentication-Results: mx1.example.org; dmarc=fail reason="a; dmarc=pass"', EDGE], "fail"),
        (["ARC-Authentication-Results: i=1; mx1.example.org; dmarc = pass", EDGE], "pass"),
        (["ARC-Authentication-Results: i=1; mx7.example.org; dmarc=pass", EDGE], None),
        ([PASS], "pass"),
        (["Authentication-Results: mx1.example.org; dmarc=fail", EDGE, PASS], "fail"),  # the latest counts
    ],
)
def test_verdicts_only_from_trusted_servers(fields: list[str], dmarc: str | None) -> None:
    assert read(*fields).verdicts.result("dmarc") == dmarc
    assert read(*fields, trusted=[]).verdicts.result("dmarc") is None


def test_details_of_verdicts() -> None:
    field = (
        "Authentication-Results: MX1.example.org.; dkim=fail (bad) header.d=a.example header.s=s1;\r\n"
        " dkim=pass header.d=b.example; spf=softfail smtp.mailfrom=x@c.example; unknown=pass"
    )
    auth = read(field, EDGE).verdicts.to_json()
    assert (auth["dkim"], auth["spf"], auth["dmarc"]) == ("pass", "softfail", None)
    assert [row["domain"] for row in auth["results"]] == ["a.example", "b.example", "c.example"]
    spf = 'Received-SPF: pass (x: y) client-ip=192.0.2.1; envelope-from="x@c.example"; receiver=mx1.example.org;'
    assert read(spf, EDGE).verdicts.to_json()["results"][0]["domain"] == "c.example"
    assert read(spf.replace("mx1", "mx9"), EDGE).verdicts.ignored == 1


@pytest.mark.parametrize(
    ("source", "gap"),
    [
        ("smtp.example.net", False),
        ("out.example.net (x [192.0.2.2])", False),
        ("x (out.example.net [192.0.2.2])", False),
        ("localhost (localhost [127.0.0.1])", False),
        ("out.example.com (x.example.com [192.0.2.2])", True),
        ("mynet", True),
    ],
)
def test_gaps(source: str, gap: bool) -> None:
    path = read(f"Received: from {source} by mx1.example.org; {AT.format(15)}", FIRST)
    assert path.legs[1].gap is gap


def test_the_rest_of_the_header() -> None:
    path = read(EDGE, "X-Mailer: a", "User-Agent: =?utf-8?q?b=C3=A4?=", "List-Id: <l.example>", "Message-ID: <1@x>")
    assert (path.mailer, path.first("list-id"), path.first("message-id")) == ("bä", "<l.example>", "<1@x>")
