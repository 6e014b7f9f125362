"""Lists of mailboxes as people write them, and encoded text in header fields."""

from __future__ import annotations

from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.address import AddressError
from posthouse.mail.charsets import decode, decoder, harmless, harmless_line
from posthouse.mail.encoded import (
    decode_field,
    decode_words,
    encode_parameter,
    encode_text,
    parse_parameters,
    unbase64,
)
from posthouse.mail.mailboxes import encode_mailboxes, parse_mailboxes

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=200)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@x.mail", ["a@x.mail"]),
        ("a@x.mail,b@x.mail ,, c@x.mail", ["a@x.mail", "b@x.mail", "c@x.mail"]),
        ("Anna Karenina <a@x.mail>", ["Anna Karenina <a@x.mail>"]),
        ('"Karenina, Anna" <a@x.mail>', ["Karenina, Anna <a@x.mail>"]),
        ('"An \\"na\\"" <a@x.mail>', ['An "na" <a@x.mail>']),
        ("a@x.mail (a comment (nested, deep) \\) here), b@x.mail", ["a@x.mail", "b@x.mail"]),
        ("Friends: a@x.mail, B <b@x.mail>; c@x.mail", ["a@x.mail", "B <b@x.mail>", "c@x.mail"]),
        ("undisclosed-recipients:;", []),
        ("=?koi8-r?B?4c7OwQ==?= <a@x.mail>", ["Анна <a@x.mail>"]),
        ('"a b, c"@x.mail', ['"a b, c"@x.mail']),
        ("Анна <анна@почта.рф>", ["Анна <анна@почта.рф>"]),
        ("a@[IPv6:2001:db8::1], b@x.mail", ["a@[IPv6:2001:db8::1]", "b@x.mail"]),
        ("", []),
    ],
)
def test_lists(text: str, found: list[str]) -> None:
    assert [str(mailbox) for mailbox in parse_mailboxes(text)] == found


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a@",
        "a@x.mail b@x.mail",
        '"open',
        "(open",
        "<a@x.mail",
        "a@x.mail>",
        "x <>",
        "(" * 1000,
        "a@x.mail\r\nX: y",
    ],
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(AddressError):
        parse_mailboxes(text)


@given(st.lists(texts.map(str.strip).map(lambda t: " ".join(t.split())), max_size=4))
def test_names_come_back(names: list[str]) -> None:
    text = ", ".join("a@x.mail" if not name else f'"{_quoted(name)}" <a@x.mail>' for name in names)
    mailboxes = parse_mailboxes(text)
    for utf8 in (False, True):
        again = parse_mailboxes(encode_mailboxes(mailboxes, utf8=utf8).replace("\r\n", ""))
        assert [mailbox.name for mailbox in again] == [mailbox.name for mailbox in mailboxes]
        assert encode_mailboxes(mailboxes, utf8=False).isascii()


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


@given(texts)
def test_subjects_come_back_here_and_in_python(text: str) -> None:
    encoded = encode_text(text, 9)
    assert encoded.isascii() and all(len(line) <= 998 for line in encoded.split("\r\n"))
    assert "\r" not in encoded.replace("\r\n ", "") and "\n" not in encoded.replace("\r\n ", "")
    assert decode_field(encoded.encode("ascii")) == text.strip()
    if text == text.strip():
        assert str(make_header(decode_header(encoded.replace("\r\n", "")))) == text


@given(texts.filter(lambda text: text.strip() != ""))
def test_parameters_come_back_here_and_in_python(text: str) -> None:
    value = f"attachment{encode_parameter('filename', text)}"
    assert value.isascii() and max(map(len, value.split("\r\n"))) < 120
    kind, parameters = parse_parameters(value.encode("ascii"))
    assert kind == "attachment"
    assert parameters == {"filename": text if "=?" not in text or not text.isascii() else decode_words(text)}
    if "=?" not in text:
        message = EmailMessage(policy=SMTP)
        message["Content-Disposition"] = value.replace("\r\n", "")
        assert message["Content-Disposition"].params["filename"] == text or not text.isprintable() or " " in text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"=?koi8-r?B?8NLJ18XU?=", "Привет"),
        (b"=?windows-1251?Q?=CF=F0=E8=E2=E5=F2?= !", "Привет !"),
        (b"=?utf-8?B?0J8=?= =?utf-8?B?0YA=?=", "Пр"),
        (b"=?utf-8?B?0J/R?= =?utf-8?B?gA==?=", "Пр"),  # a character cut between two words
        (b"=?utf-8?Q?a_b=3Dc?=", "a b=c"),
        (b"=?utf-8*ru?Q?a?=", "a"),
        (b"=?x-unknown?Q?=FF?=", "\\xff"),
        (b"=?zlib?B?eJw=?=", "x\\x9c"),  # not every codec of Python is a charset
        ("прямо".encode(), "прямо"),
        (b"plain =?broken", "plain =?broken"),
        (b"=?utf-8?B?####?=", ""),
        (b"a =?utf-8?Q?b?= c", "a b c"),
        (b"folded\r\n line", "folded line"),
    ],
)
def test_header_text(raw: bytes, text: str) -> None:
    assert decode_field(raw) == text


@pytest.mark.parametrize(
    ("raw", "parameters"),
    [
        (b'text/plain; charset="KOI8-R"; x=y', {"charset": "KOI8-R", "x": "y"}),
        (b"text/plain; charset = utf-8 ;;; x=1", {"charset": "utf-8", "x": "1"}),
        (b'a/b; name="a;b\\"c"', {"name": 'a;b"c'}),
        (b"a/b; name*=koi8-r''%F0%D2", {"name": "Пр"}),
        (b'a/b; name*0="one "; name*1=two; name*2*=%41', {"name": "one twoA"}),
        (b"a/b; name*1=two; name*0=one", {"name": "onetwo"}),
        (b'a/b; name="=?koi8-r?B?8NI=?="', {"name": "Пр"}),
        (b'a/b; boundary="open', {"boundary": "open"}),
        (b"a/b; " + b"x=1; x=2; " * 500, {"x": "1"}),
        (b"a/b; =; ;; \"; '", {}),
    ],
)
def test_parameters(raw: bytes, parameters: dict[str, str]) -> None:
    assert parse_parameters(raw) == (raw.split(b";")[0].decode(), parameters)


@given(st.binary(max_size=400))
def test_no_octets_break_the_readers(octets: bytes) -> None:
    decode_field(octets)
    parse_parameters(octets)
    unbase64(octets)
    for charset in ("utf-8", "koi8-r", "utf-16", "iso-2022-jp", "hz", "nonsense", "", "a" * 1000):
        text = decode(octets, charset)
        assert decoder(charset).decode(octets, True) is not None
        shown = harmless(text)
        assert not any(c in shown for c in "\x00\x07\x08\x0b\x1b\x7f\x85\x9b\u200f\u202e\u2028\ufeff")
        assert "\n" not in harmless_line(text)


@pytest.mark.parametrize(
    "octets",
    [
        b"a/b; " + b" " * 60_000,
        b"a/b" + b";" * 60_000,
        b'a/b; x="' + b"\\" * 60_000,
        b"a/b; " + b"x" * 60_000,
        b"a/b; x=" + b"y" * 60_000 + b'"',
        b"=?a?b?" * 10_000,
        b"=?utf-8?B?" + b"A" * 60_000,
        b"=?utf-8?Q?a?= " * 5_000,
    ],
)
@pytest.mark.timeout(5)
def test_long_fields_cost_little(octets: bytes) -> None:
    parse_parameters(octets)
    decode_field(octets)
