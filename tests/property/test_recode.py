"""A letter rewritten for an old host: nothing over 127 and no long line is left, and every part says what it said.

The standard library's reader is the judge of what was written.
"""

from __future__ import annotations

import email
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.mail.mime import Part, decoded, parse
from posthouse.mail.recode import Unconvertible, recode
from posthouse.mail.traits import Traits

TEXT = st.lists(
    st.sampled_from(["привет", "a", "=", " ", ".", "From ", "\r\n", "\t", "é" * 40, "x" * 1200, "ж" * 600]), max_size=12
).map("".join)
OCTETS = st.lists(st.sampled_from([b"\xff\xfe", b"abc", b"\r\n", b"\xd0", b"z" * 1500]), max_size=10).map(b"".join)


def part(kind: bytes, body: bytes, encoding: bytes = b"8bit") -> bytes:
    return b"Content-Type: %b\r\nContent-Transfer-Encoding: %b\r\n\r\n%b" % (kind, encoding, body)


def mixed(parts: list[bytes]) -> bytes:
    inside = b"".join(b"\r\n--cut\r\n%b" % one for one in parts)
    return b"Subject: x\r\nMIME-Version: 1.0\r\n" + part(
        b'multipart/mixed; boundary="cut"', "пролог".encode() + inside + b"\r\n--cut--\r\n"
    )


def leaves(octets: bytes) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    pending: list[Part] = [parse(octets)]
    while pending:
        one = pending.pop()
        pending += reversed(one.children)
        if not one.children:
            found.append((one.type, b"".join(decoded(octets, one))))
    return found


def judged(octets: bytes) -> list[tuple[str, bytes]]:
    message: Message = email.message_from_bytes(octets)
    parts = [one for one in message.walk() if not one.is_multipart()]
    return [(one.get_content_type(), bytes(one.get_payload(decode=True) or b"")) for one in parts]


@settings(deadline=None)
@given(TEXT, OCTETS, TEXT)
def test_every_part_says_what_it_said(text: str, octets: bytes, inner: str) -> None:
    forwarded = b"Subject: \xd0\xb6\r\n\r\n" + inner.encode()
    source = mixed(
        [
            part(b"text/plain; charset=utf-8", text.encode()),
            part(b"application/octet-stream", octets, b"binary"),
            part(b"message/rfc822", forwarded),
            part(b"text/html; charset=utf-8", b"plain =3D\r\n", b"quoted-printable"),
        ]
    )
    done = b"".join(recode(source, seven_bit=True))
    assert done.isascii() and not Traits.of(done).long_lines
    assert done.count(b"\r\n") == done.count(b"\n") == done.count(b"\r")
    assert [(kind, body.rstrip(b"\r\n")) for kind, body in leaves(done)] == [
        (kind, body.rstrip(b"\r\n")) for kind, body in leaves(source)
    ]
    theirs = [(kind, body.rstrip(b"\r\n")) for kind, body in judged(done)]
    assert theirs[0] == ("text/plain", text.encode().rstrip(b"\r\n"))
    assert theirs[1] == ("application/octet-stream", octets.rstrip(b"\r\n"))
    assert b"".join(recode(done, seven_bit=True)) == done  # what may pass stays octet for octet


@settings(deadline=None)
@given(TEXT, st.integers(1, 90_000))
def test_a_letter_without_mime(text: str, times: int) -> None:
    """Octets over 127 without a declaration get one, and very long lines are broken so that they can be joined."""
    body = (text * (times // max(len(text), 1) + 1))[:times].replace("\r", "").replace("\n", "\r\n")
    done = b"".join(recode(b"Subject: x\r\n\r\n" + body.encode(), seven_bit=True))
    assert done.isascii() and not Traits.of(done).long_lines
    ((_, content),) = judged(done)
    assert content.rstrip(b"\r\n") == body.encode().rstrip(b"\r\n")
    if not body.isascii():
        assert email.message_from_bytes(done).get_content_charset() == "utf-8"


@settings(deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_octets_at_all(octets: bytes, seven_bit: bool) -> None:
    """Hostile input has some outcome: whole lines in, a fit letter or Unconvertible out."""
    source = octets.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    done = b"".join(recode(source, seven_bit=seven_bit))
    assert not Traits.of(done).long_lines and (not seven_bit or done.isascii())


def test_long_lines_alone_leave_the_rest_untouched() -> None:
    source = mixed([part(b"text/plain; charset=utf-8", "да\r\n".encode()), part(b"text/html", b"x" * 3000)])
    done = b"".join(recode(source, seven_bit=False))
    before, _, after = source.partition(b"Content-Type: text/html")
    assert done.startswith(before) and not done.isascii() and not Traits.of(done).long_lines
    assert leaves(done)[1] == ("text/html", b"x" * 3000) and after


def test_a_long_header_field_is_folded() -> None:
    source = b"Subject: " + b"word " * 400 + b"\r\nX-Long: " + b"y" * 2500 + b"\r\n\r\nbody\r\n"
    done = b"".join(recode(source, seven_bit=False))
    assert not Traits.of(done).long_lines and done.endswith(b"\r\n\r\nbody\r\n")
    subject = email.message_from_bytes(done)["Subject"].replace("\r\n", "")
    assert subject.split() == ["word"] * 400


@pytest.mark.parametrize(
    ("source", "signed"),
    [
        (b"DKIM-Signature: v=1\r\nSubject: x\r\n\r\n\xd0\xb6\r\n", True),
        (part(b"multipart/signed; boundary=b", b"\r\n--b\r\n\r\n\xd0\xb6\r\n--b--\r\n"), True),
        (part(b"text/plain", b"\xd0", b"x-uuencode"), False),
        (part(b"message/partial; id=1; number=1", b"\xd0"), False),
        (part(b"multipart/mixed", b"\xd0 without a boundary"), False),
        (b'Content-Type: multipart/mixed; boundary="\xd0\xb6"\r\n\r\n--\xd0\xb6\r\n\r\nx\r\n', False),
    ],
)
def test_what_rewriting_would_break_is_not_rewritten(source: bytes, signed: bool) -> None:
    with pytest.raises(Unconvertible) as raised:
        b"".join(recode(source, seven_bit=True))
    assert raised.value.signed is signed


def test_what_is_signed_and_may_pass_stays() -> None:
    inner = part(b"multipart/signed; boundary=b", b"\r\n--b\r\n\r\nx\r\n--b--\r\n", b"7bit")
    source = mixed([inner, part(b"text/plain", b"\xd0\xb6")])
    done = b"".join(recode(source, seven_bit=True))
    assert inner in done and done.isascii()


@given(st.lists(st.integers(0, 2100), max_size=8), st.integers(1, 700), st.sampled_from([b"", b"\xd0\xb6"]))
def test_traits_are_the_same_however_a_letter_is_cut(lengths: list[int], cut: int, beyond: bytes) -> None:
    octets = b"A: b" + beyond + b"\r\n\r\n" + b"".join(b"x" * length + b"\r\n" for length in lengths) + beyond
    whole, pieces = Traits.of(octets), Traits()
    for place in range(0, len(octets), cut):
        pieces.add(octets[place : place + cut])
    assert (whole.eight_bit, whole.header) == (bool(beyond), bool(beyond))
    assert whole.long_lines == any(length > 998 for length in lengths)
    assert (pieces.eight_bit, pieces.header, pieces.long_lines) == (whole.eight_bit, whole.header, whole.long_lines)
