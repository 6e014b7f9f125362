"""The header reader gives every octet back; the downgrade gives ASCII that says the same, however it is cut."""

from __future__ import annotations

import base64
import email.header
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail import downgrade as module
from posthouse.mail.downgrade import NOBODY, Downgrade, downgrade, downgrade_field, encode_words
from posthouse.mail.header import Header, body_offset, unfold

lines = st.one_of(
    st.sampled_from(
        [
            b"Subject: x",
            b"Subject: \xd0\xbf\xd1\x80\xd0\xb8 x",
            b"From: \xd0\x98 <a@b>",
            b'To: \xd0\xb0@\xd0\xb1.\xd1\x80\xd1\x84, b@c, "Q, \xc3\xa9" <x@y>',
            b'Content-Type: text/plain; name="\xc3\xa9.txt"',
            b"Received: from a by b for <\xc3\xa9@x>; date",
            b" folded \xff",
            b"\tfolded",
            b"Message-ID: <\xc3\xa9@x>",
            b"no field \xc3\xa9",
            b": empty name",
            b"X\xc3\xa9: odd name",
            b"Return-Path: <\xc3\xa9@x>",
        ]
    ),
    st.binary(max_size=20),
)
messages = st.tuples(
    st.lists(lines, max_size=12), st.sampled_from([b"", b"\r\n", b"\r\n\xc3\xa9 body\r\n\r\nmore"])
).map(lambda parts: b"".join(line + b"\r\n" for line in parts[0]) + parts[1])


@given(messages)
def test_the_fields_are_the_header_octet_for_octet(message: bytes) -> None:
    header = Header(message)
    fields = list(header)
    assert [field.start for field in fields[1:]] == [field.end for field in fields[:-1]]
    octets = b"".join(header.octets(field) for field in fields)
    assert message.startswith(octets)
    assert message[len(octets) : header.body] in (b"", b"\r\n", b"\n")
    assert list(header) == fields, "asked again, the same"


@given(messages)
def test_the_downgrade_is_ascii_and_leaves_the_body(message: bytes) -> None:
    out = downgrade(message)
    end = body_offset(out)
    assert out[: end if end >= 0 else None].isascii()
    if end >= 0:
        start = body_offset(message)
        assert out[end:] == message[start:]


@given(messages, st.lists(st.integers(0, 300), max_size=12))
def test_any_cutting_gives_the_same_downgrade(message: bytes, cuts: list[int]) -> None:
    borders = sorted({min(cut, len(message)) for cut in cuts} | {0, len(message)})
    converter = Downgrade()
    out = b"".join(converter.add(message[a:b]) for a, b in itertools.pairwise(borders)) + converter.end()
    assert out == downgrade(message)
    assert converter.grown == len(out) - len(message)


@given(messages, st.lists(st.integers(0, 300), max_size=12))
def test_overlong_fields_are_cut_the_same_everywhere(message: bytes, cuts: list[int]) -> None:
    borders = sorted({min(cut, len(message)) for cut in cuts} | {0, len(message)})
    before, module.FIELD = module.FIELD, 12  # type: ignore[misc]
    try:
        converter = Downgrade()
        out = b"".join(converter.add(message[a:b]) for a, b in itertools.pairwise(borders)) + converter.end()
        assert out == downgrade(message)
        assert converter.grown == len(out) - len(message)
        end = body_offset(out)
        assert out[: end if end >= 0 else None].isascii()
    finally:
        module.FIELD = before  # type: ignore[misc]


@given(messages)
def test_ascii_stays_as_it_is(message: bytes) -> None:
    ascii_only = bytes(octet & 0x7F for octet in message)
    assert downgrade(ascii_only) == ascii_only


@given(st.binary(max_size=300))
def test_encoded_words_say_the_same_octets(text: bytes) -> None:
    words = encode_words(text)
    assert all(len(word) <= 75 for word in words)
    assert b"".join(base64.b64decode(word.split(b"?")[3]) for word in words) == text


texts = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=120
)


@given(texts.filter(lambda text: not text.isascii() and "=?" not in text and "  " not in text.strip()))
def test_the_standard_library_reads_an_encoded_subject(text: str) -> None:
    field = downgrade_field(f"Subject: {text}\r\n".encode())
    assert field.isascii() and field.endswith(b"\r\n")
    assert all(len(line) <= 76 or b"=?" not in line for line in field.split(b"\r\n"))
    value = unfold(field.partition(b":")[2]).strip(b" \t").decode()
    decoded = "".join(
        part.decode(charset or "ascii") if isinstance(part, bytes) else part
        for part, charset in email.header.decode_header(value)
    )
    assert re.sub(r"\s", "", decoded) == re.sub(r"\s", "", text)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("From: Иван <ivan@x.mail>", "From: =?utf-8?B?0JjQstCw0L0=?= <ivan@x.mail>"),
        ('From: "Иван" <ivan@x.mail>', "From: =?utf-8?B?0JjQstCw0L0=?= <ivan@x.mail>"),
        ("From: иван@x.mail", f"From: =?utf-8?B?0LjQstCw0L1AeC5tYWls?=\r\n {NOBODY.decode()}"),
        ("From: ivan@пример.рф", "From: ivan@xn--e1afmkfd.xn--p1ai"),
        ("To: a@b, Я <c@d>, e@f", "To: a@b, =?utf-8?B?0K8=?= <c@d>, e@f"),
        ("To: a@b (Я)", "To: a@b (=?utf-8?B?0K8=?=)"),
        ("To: Группа: a@b, c@d;", "To: =?utf-8?B?0JPRgNGD0L/Qv9Cw?=: a@b, c@d;"),
        ('Cc: "a, b" <c@d>, Я', 'Cc: "a, b" <c@d>, =?utf-8?B?0K8=?='),
        ("Return-Path: <я@x>", f"Return-Path: {NOBODY.decode()}"),
        ("Subject: ascii я ascii", "Subject: ascii =?utf-8?B?0Y8=?= ascii"),
        ("Subject: =?utf-8?Q?a?= я", "Subject: =?utf-8?Q?a?= =?utf-8?B?0Y8=?="),
        ("Subject: я =?utf-8?Q?a?=", "Subject: =?utf-8?B?0Y8g?= =?utf-8?Q?a?="),
        ("Message-ID: <я@x>", "Downgraded-Message-ID: =?utf-8?B?PNGPQHg+?="),
        ("Date: now (сейчас)", "Date: now (=?utf-8?B?0YHQtdC50YfQsNGB?=)"),
        ("Content-Type: text/plain; name=я.txt", "Content-Type: text/plain;\r\n name*=utf-8''%D1%8F.txt"),
        (
            'Content-Type: text/plain; name="я \\" z"; charset=utf-8',
            "Content-Type: text/plain;\r\n name*=utf-8''%D1%8F%20%22%20z; charset=utf-8",
        ),
        ("Received: by x for <я@x>; now", "Received: by x; now"),
        ("Received: by x for <a@x>; now (я)", "Received: by x for <a@x>; now (=?utf-8?B?0Y8=?=)"),
    ],
)
def test_fields(field: str, expected: str) -> None:
    assert downgrade_field(f"{field}\r\n".encode()).decode().rstrip("\r\n") == expected


def test_octets_that_are_no_utf8_keep_their_value() -> None:
    assert downgrade_field(b"Subject: caf\xe9\r\n") == b"Subject: =?unknown-8bit?B?Y2Fm6Q==?=\r\n"


def test_long_parameters_are_continued() -> None:
    field = downgrade_field(f"Content-Disposition: attachment; filename={'я' * 60}\r\n".encode())
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))
    assert b"filename*0*=utf-8''%D1%8F" in field and b"filename*1*=" in field


def test_values_of_fields() -> None:
    header = Header(b"A: 1\r\nB:\r\n 2\r\n\t3\r\na : 4\r\nbroken\r\n\r\nA: 5\r\n")
    assert header.get("a") == b"1"
    assert header.all("A") == [b"1", b"4"]
    assert header.get("b") == b"2\t3"
    assert header.get("c") is None
    assert [field.name for field in header] == ["A", "B", "a", ""]
    assert header.body == 35


@pytest.mark.parametrize(
    ("octets", "offset"),
    [
        (b"", -1),
        (b"\r\nx", 2),
        (b"\nx", 1),
        (b"A: b\r\n", -1),
        (b"A: b\r\n\r\nx", 8),
        (b"A: b\n\nx", 6),
        (b"A\n\r\nx", 4),
    ],
)
def test_where_the_body_begins(octets: bytes, offset: int) -> None:
    assert body_offset(octets) == offset


def test_a_header_beyond_all_bounds_loses_what_ascii_cannot_say() -> None:
    fields = [b"X-%d: " % number + "é".encode() * 10_000 + b"\r\n" for number in range(10)]
    out = downgrade(b"".join(fields) + b"\r\n\xff body").split(b"\r\nX-")
    assert b"=?utf-8?B?" in out[0] and b"=?utf-8?B?" in out[5]
    assert out[6] == b"6: " + b"?" * 20_000
    assert out[9] == b"9: " + b"?" * 20_000 + b"\r\n\r\n\xff body"


HOSTILE = [
    b"To: " + "é@é,".encode() * 13_000,
    b"To: " + b"<" * 30_000 + "é".encode(),
    b"To: " + b"(" * 30_000 + "é".encode(),
    b"To: " + b'"' * 30_001 + "é".encode(),
    b"To: " + "a@é.рф, ".encode() * 5_000,
    b"Subject: " + "é ".encode() * 20_000,
    b"Subject: " + "é a ".encode() * 12_000,
    b"Received: " + " for é".encode() * 9_000,
    b"Received: " + b" for" * 15_000 + "é".encode(),
    b"Content-Type: " + b"; a=" * 15_000 + "é".encode(),
    b"Content-Type: a" + b";" + b" " * 60_000 + "é".encode(),
    b'Content-Type: a; b="' + b"\\" * 60_000 + "é".encode(),
    b"Date: " + "(é".encode() * 20_000,
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("field", HOSTILE, ids=range(len(HOSTILE)))
def test_no_field_takes_long(field: bytes) -> None:
    out = downgrade(field + b"\r\n\r\nbody")
    assert out.endswith(b"\r\n\r\nbody") and out[:-8].isascii()
