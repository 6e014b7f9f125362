"""Reading messages of any form: the tree, the texts, the attachments, and the bounds."""

from __future__ import annotations

import base64
import io
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.cli.fetching import Fetched, OnDisk
from posthouse.mail.compose import Attachment, ComposeError, Letter, Part, base64_size, compose, encode_field
from posthouse.mail.htmltext import html_to_text
from posthouse.mail.mailboxes import parse_mailboxes
from posthouse.mail.message import Message
from posthouse.mail.mime import DEPTH, PARTS, decoded, parse, safe_name

ME = parse_mailboxes("Тест <test@x.mail>")[0]
TO = parse_mailboxes("Anna <anna@x.mail>, b@x.mail")


def part(octets: bytes) -> Part:
    return Part(len(octets), lambda: io.BytesIO(octets))


def attachment(name: str, octets: bytes) -> Attachment:
    return Attachment(len(octets), lambda: io.BytesIO(octets), name, "application/octet-stream")


def letter(text: bytes, *attachments: Attachment, subject: str = "s") -> bytes:
    composed = compose(
        Letter(ME, TO, subject, 1_700_000_000.0, "<1@x.mail>", part(text), attachments=attachments), "b0undary"
    )
    octets = b"".join(composed.content())
    assert len(octets) == composed.size  # the size is known before a single octet is made
    assert b"".join(composed.content()) == octets
    return octets


def text_of(octets: bytes) -> str:
    return "".join(Message(octets).body())


# Composing


@settings(max_examples=200)
@given(
    st.one_of(st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")), st.binary(max_size=300)),
    st.lists(st.binary(max_size=200), max_size=2),
)
def test_what_is_composed_comes_back(text: bytes, files: list[bytes]) -> None:
    octets = letter(text, *(attachment(f"файл {n}.bin", file) for n, file in enumerate(files)))
    assert octets.isascii() and b"\0" not in octets
    assert octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    message = Message(octets)
    assert [b"".join(message.content(found)) for found in message.attachments] == files
    python = message_from_bytes(octets, policy=policy.default)
    assert isinstance(python, EmailMessage)
    assert [found.get_payload(decode=True) for found in python.iter_attachments()] == files
    assert [found.get_filename() for found in python.iter_attachments()] == [f"файл {n}.bin" for n in range(len(files))]
    wanted = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")
    root = parse(octets)
    leaf = root.children[0] if files else root
    assert b"".join(decoded(octets, leaf)).replace(b"\r\n", b"\n").rstrip(b"\n") == wanted
    body = python.get_body()
    assert body is not None
    plain = body.get_payload(decode=True)
    assert isinstance(plain, bytes) and plain.replace(b"\r\n", b"\n").rstrip(b"\n") == wanted


@pytest.mark.parametrize("size", [0, 1, 2, 3, 56, 57, 58, 113, 114, 57 * 1024, 57 * 1024 + 1, 200_000])
def test_the_size_of_base64_is_known_beforehand(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    octets = letter(b"x", attachment("a", data[:size]))
    assert base64_size(size) == len(base64.encodebytes(data[:size]).replace(b"\n", b"\r\n"))
    message = Message(octets)
    assert b"".join(message.content(message.attachments[0])) == data[:size]


def test_a_file_that_changes_is_noticed() -> None:
    changing = Attachment(100, lambda: io.BytesIO(b"only a few"), "a", "text/plain")
    composed = compose(Letter(ME, TO, "s", 0.0, "<1@x.mail>", part(b"x"), attachments=[changing]), "b")
    with pytest.raises(ComposeError):
        b"".join(composed.content())


@pytest.mark.parametrize(
    ("name", "value"), [("X:", "v"), ("", "v"), ("Й", "v"), ("X", "a\r\nBcc: b"), ("X", "a\nb"), ("X", "\0")]
)
def test_no_field_smuggles_another(name: str, value: str) -> None:
    with pytest.raises(ComposeError):
        encode_field(name, value)


def test_names_are_encoded_and_addresses_are_not() -> None:
    assert encode_field("Reply-To", "Анна <a@x.mail>, b@x.mail") == (
        b"Reply-To: =?utf-8?B?0JDQvdC90LA=?= <a@x.mail>,\r\n b@x.mail\r\n"
    )
    assert encode_field("X-Note", "Анна <a@x.mail>").startswith(b"X-Note: =?utf-8?B?")
    with pytest.raises(ComposeError, match="is not a mail address"):
        encode_field("Reply-To", "nobody")


# Reading


def test_texts_in_every_charset() -> None:
    for charset, octets in (
        ("koi8-r", "Привет".encode("koi8-r")),
        ("windows-1251", "Привет".encode("cp1251")),
        ("UTF-8", "Привет".encode()),
        ("iso-8859-5", "Привет".encode("iso-8859-5")),
        ("cp866", "Привет".encode("cp866")),
    ):
        head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode()
        assert text_of(head + base64.b64encode(octets)) == "Привет\n"
    unknown = text_of(b"Content-Type: text/plain; charset=x-klingon\r\n\r\n\xff\xfe ok\r\n")
    assert unknown == "[the charset x-klingon is not known: what is not UTF-8 is shown as \\xNN]\n\\xff\\xfe ok\n"


def test_quoted_printable_and_its_damage() -> None:
    head = b"Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    assert text_of(head + b"=D0=9F=\r\n=D1=80 =3D =ZZ =\r\n") == "Пр = =ZZ \n"
    long = b"=D0=9F" * 40_000
    assert text_of(head + long) == "П" * 40_000 + "\n"


def test_alternatives_and_attachments() -> None:
    octets = (
        b"Content-Type: multipart/mixed; boundary=m\r\n\r\npreamble\r\n--m\r\n"
        b"Content-Type: multipart/alternative; boundary=mm\r\n\r\n"
        b"--mm\r\n\r\nplain\r\n--mm\r\nContent-Type: text/html\r\n\r\n<b>rich</b>\r\n--mm--\r\n"
        b"--m\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nforwarded text\r\n"
        b"--m\r\nContent-Type: text/html\r\n\r\n<p>only&nbsp;html</p><script>evil()</script>\r\n"
        b"--m\r\nContent-Type: image/png; name=a.png\r\n\r\nPNG\r\n--m--\r\nepilogue\r\n"
    )
    shown = text_of(octets)
    assert shown == "plain\n\n--- forwarded message ---\nSubject: inner\n\nforwarded text\nonly\xa0html\n"
    assert Message(octets).attachment_names() == ["a.png"]


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n",
        b"no header at all",
        b"Subject: no body",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\nnever begun",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nnever ended",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\n",
        b"Content-Type: multipart/mixed\r\n\r\n--\r\n",
        b"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n\r\nx",
        b"Content-Type: ;;;=\r\nContent-Transfer-Encoding: \xff\r\n\r\nx",
        b"\0\0\0\r\n\0\r\n\r\n\0",
        b"a" * 100_000,
    ],
)
def test_broken_messages_are_shown(octets: bytes) -> None:
    "".join(Message(octets).render())


PIECES = (
    *(b"--b\r\n", b"--b--\r\n", b"--bb\r\n", b"\r\n", b"\n", b"\r", b"text", b"\xff\0\x1b[2J", b"=?utf-8?B?", b"="),
    *(b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: multipart/digest; boundary=bb\r\n"),
    *(b"Content-Type: message/rfc822\r\n", b"Content-Transfer-Encoding: base64\r\n", b"QUJD\r\n", b": x\r\n"),
    *(b"Content-Type: text/html; charset=utf-16\r\n", b"Content-Disposition: attachment; filename=..\r\n"),
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_no_message_breaks_the_reader(octets: bytes) -> None:
    message = Message(octets)
    shown = "".join(message.render())
    assert not any(c in shown for c in "\x00\x1b\x9b\u202e")
    for found in message.attachments:
        b"".join(message.content(found))
    with Fetched() as fetched:
        fetched.add(octets)
        fetched._file.seek(0)
        assert "".join(Message(OnDisk(fetched._file, len(octets))).render()) == shown  # type: ignore[arg-type] # slices


@pytest.mark.timeout(20)
def test_equal_names_are_told_apart() -> None:
    head = b"Content-Disposition: attachment; filename=%b\r\n\r\n\r\n"
    octets = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    octets += b"".join(b"--b\r\n" + head % name for name in (b"a.txt", b"A.txt", b'"a (2).txt"', b"a.txt", b"b", b"b"))
    assert Message(octets).attachment_names() == ["a.txt", "A (2).txt", "a (2) (2).txt", "a (3).txt", "b", "b (2)"]
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + (b"--b\r\n" + head % b"a") * 9_000
    names = Message(many).attachment_names()
    assert len(set(names)) == len(names) == 9_000


@pytest.mark.timeout(20)
def test_bombs_are_bounded() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(2000))
    node, depth = parse(deep), 0
    while node.children:
        node, depth = node.children[0], depth + 1
    assert depth <= DEPTH
    "".join(Message(deep).render())
    wide = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 100_000
    assert len(parse(wide).children) <= PARTS
    nested = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 50_000
    parse(nested)
    parse(b"Content-Type: message/rfc822\r\n\r\n" * 50_000)
    parse(b"x:" + b" \r\n" * 300_000)
    parse(b"Subject: " + b"=?a?b?c?=" * 100_000)
    for bomb in (b"<" * 500_000, b"<!--" * 200_000, b"<script" * 100_000, b"&" * 500_000, b"<p>" * 300_000):
        html_to_text(bomb.decode())


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("mail.txt", "mail.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\evil.exe", "evil.exe"),
        ("/", "attachment-3.bin"),
        ("", "attachment-3.bin"),
        ("..", "attachment-3.bin"),
        (".bashrc", "bashrc"),
        ("con.txt", "attachment-3-con.txt"),
        ("a\x1b[2Jb\u202etxt.exe", "a_[2Jb_txt.exe"),
        ("отчёт.pdf", "отчёт.pdf"),
        ("x" * 500 + ".pdf", "x" * 115 + ".pdf"),
        ("Я" * 500 + ".pdf", "Я" * 57 + ".pdf"),
        ('a<>:"|?*b', "a_______b"),
    ],
)
def test_names_are_made_safe(name: str, safe: str, tmp_path: Path) -> None:
    assert safe_name(name, 3) == safe
    (tmp_path / safe).write_text("it can be a file")
