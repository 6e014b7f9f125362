"""Addresses: what is one, what is none, what is equal (RFC 5321 §4.1.2, RFC 6531 §3.3)."""

from __future__ import annotations

import pytest

from posthouse.mail.address import Address, AddressError, domain_key, domain_text, literal_of, parse_domain

VALID = [
    # written, key, printed
    ("test@x.mail", "test@x.mail", "test@x.mail"),
    ("Test@X.Mail", "test@x.mail", "Test@X.Mail"),
    ("a.b+c@x.mail", "a.b+c@x.mail", "a.b+c@x.mail"),
    ("!#$%&'*+/=?^_`{|}~-@x.mail", "!#$%&'*+/=?^_`{|}~-@x.mail", "!#$%&'*+/=?^_`{|}~-@x.mail"),
    ('"test"@x.mail', "test@x.mail", "test@x.mail"),
    ('"T\\est"@x.mail', "test@x.mail", "Test@x.mail"),
    ('"a b"@x.mail', '"a b"@x.mail', '"a b"@x.mail'),
    ('"a..b"@x.mail', '"a..b"@x.mail', '"a..b"@x.mail'),
    ('".a"@x.mail', '".a"@x.mail', '".a"@x.mail'),
    ('"a@b"@x.mail', '"a@b"@x.mail', '"a@b"@x.mail'),
    ('"a\\"b\\\\c"@x.mail', '"a\\"b\\\\c"@x.mail', '"a\\"b\\\\c"@x.mail'),
    ('""@x.mail', '""@x.mail', '""@x.mail'),
    ("a@[192.0.2.1]", "a@[192.0.2.1]", "a@[192.0.2.1]"),
    ("a@[IPv6:2001:DB8:0:0::1]", "a@[IPv6:2001:db8::1]", "a@[IPv6:2001:DB8:0:0::1]"),
    ("a@[ipv6:::ffff:192.0.2.1]", "a@[IPv6:::ffff:192.0.2.1]", "a@[ipv6:::ffff:192.0.2.1]"),
    ("a@[Tag:what-Ever]", "a@[tag:what-ever]", "a@[Tag:what-Ever]"),
    ("a@localhost", "a@localhost", "a@localhost"),
    ("a@1.2.3", "a@1.2.3", "a@1.2.3"),
    ("Иван@Почта.РФ", "иван@xn--80a1acny.xn--p1ai", "Иван@Почта.РФ"),
    ("иван@xn--80a1acny.xn--p1ai", "иван@xn--80a1acny.xn--p1ai", "иван@xn--80a1acny.xn--p1ai"),
    ("e\u0301@x.mail", "\u00e9@x.mail", "e\u0301@x.mail"),
    ('"я и ты"@x.mail', '"я и ты"@x.mail', '"я и ты"@x.mail'),
    ("l" * 64 + "@x.mail", "l" * 64 + "@x.mail", "l" * 64 + "@x.mail"),
    ('"' + "l" * 64 + '"@x.mail', "l" * 64 + "@x.mail", "l" * 64 + "@x.mail"),
]


@pytest.mark.parametrize(("written", "key", "printed"), VALID)
def test_valid(written: str, key: str, printed: str) -> None:
    address = Address.parse(written)
    assert (address.key, str(address)) == (key, printed)
    assert Address.parse(str(address)) == address
    assert Address.parse(key).key == key


INVALID = [
    "",
    "test",
    "@",
    "@x.mail",
    "test@",
    "a..b@x.mail",
    ".a@x.mail",
    "a.@x.mail",
    "a b@x.mail",
    "a@b@c",
    "a(c)@x.mail",
    "a,b@x.mail",
    "<a@x.mail>",
    '"a@x.mail',
    '"a"b@x.mail',
    'a"b"@x.mail',
    '"a\tb"@x.mail',
    '"a\x00b"@x.mail',
    "a@x..mail",
    "a@.x",
    "a@x.",
    "a@-x.mail",
    "a@x-.mail",
    "a@x_y.mail",
    "a@" + "d" * 64 + ".mail",
    "a@[192.0.2]",
    "a@[192.0.2.256]",
    "a@[192.0.2.01]",
    "a@[IPv6:2001:db8::1%eth0]",
    "a@[IPv6:]",
    "a@[]",
    "a@[192.0.2.1",
    "a@[a[b]",
    "a@[tag:]",
    "a@192.0.2.1]",
    "a\u2028b@x.mail",
    "a\u0085b@x.mail",
    "a@\u200bx.mail",
    "a@пример..рф",
    "a@\u2488x",
    "a@xn--.рф",
]


@pytest.mark.parametrize("written", INVALID)
def test_invalid(written: str) -> None:
    with pytest.raises(AddressError) as error:
        Address.parse(written)
    assert not error.value.too_long


@pytest.mark.parametrize(
    "written",
    [
        "l" * 65 + "@x.mail",
        "я" * 33 + "@x.mail",
        '"' + "l" * 62 + ' "@x.mail',
        "a@" + ".".join(["d" * 63] * 4),
        "a@" + ".".join(["d" * 63] * 4) + ".d",
        "l" * 64 + "@" + ".".join(["d" * 61] * 3) + ".dddd",
    ],
)
def test_too_long(written: str) -> None:
    with pytest.raises(AddressError) as error:
        Address.parse(written)
    assert error.value.too_long


def test_longest() -> None:
    address = "l" * 64 + "@" + ".".join(["d" * 61] * 3) + ".ddd"
    assert len(address) == 254
    assert str(Address.parse(address)) == address


def test_postmaster_without_a_domain() -> None:
    address = Address("Postmaster", "")
    assert (str(address), address.key) == ("Postmaster", "postmaster")


def test_domains() -> None:
    assert parse_domain("X.Mail") == "X.Mail"
    assert domain_key("X.Mail") == "x.mail"
    assert domain_key("ПОЧТА.рф") == "xn--80a1acny.xn--p1ai"
    assert domain_text("xn--80a1acny.xn--p1ai") == "почта.рф"
    assert domain_text("xn--broken-\u00fc") == "xn--broken-\u00fc"
    assert literal_of("2001:db8::1") == "[IPv6:2001:db8::1]"
    assert literal_of("192.0.2.1") == "[192.0.2.1]"


def test_hostile_lengths_take_no_time() -> None:
    """Catches a grammar that backtracks: each of these is refused at once (pytest-timeout would tell)."""
    for text in (
        "a" * 100_000,
        "a." * 50_000 + "@x",
        "a@" + "a-" * 100_000,
        '"' + "\\a" * 100_000,
        "a@" + "я" * 100_000,
    ):
        with pytest.raises(AddressError):
            Address.parse(text)
