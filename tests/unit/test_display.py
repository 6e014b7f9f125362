"""What strangers put into messages, as a person sees it: readable, and harmless to terminals, eyes and folders."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posthouse.cli.exits import print_json
from posthouse.cli.fetching import save_attachments
from posthouse.cli.reading import JSON_TEXT, describe, list_line
from posthouse.mail.charsets import HARMFUL
from posthouse.mail.htmltext import html_to_text
from posthouse.mail.message import Message
from posthouse.mail.mime import safe_name

HARM = re.compile(HARMFUL)


def shown(octets: bytes) -> str:
    """A message as a person sees it. Nothing harmful may be in it, in no form of the answer."""
    message = Message(octets)
    text = "".join(message.render())
    row = {name.lower(): message.get(name) for name in ("From", "Subject", "Date")}
    answer = describe(message, JSON_TEXT)
    for told in (text, list_line({"n": 1, "size": len(octets)} | row), json.dumps(answer, ensure_ascii=False)):
        assert not HARM.search(told), ascii(HARM.search(told))
    return text


# What drives a terminal or deceives an eye, however it gets in

TRICKS = {
    "CSI": "\x1b[2J\x1b[31m",
    "OSC, ended by BEL": "\x1b]0;title\x07",
    "OSC 8 link": "\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\",
    "DCS": "\x1bP$q\x1b\\",
    "C1": "\x9b31m\x9d0;t\x9c",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "carriage return": "evil\rsafe",
    "NUL": "a\0b",
    "bidi override": "\u202etxt.exe",
    "bidi isolate": "\u2066\u2067\u2068x\u2069",
    "bidi marks": "\u200e\u200f\u061c",
    "zero width": "pay\u200bpal\u2060\ufeff",
    "tags": "\U000e0041\U000e0042\U000e007f",
    "line separators": "a\u2028b\u2029c",
    "fillers": "\u3164\u115f\uffa0\u180e\u17b4",
}


def word(text: str, kind: str = "B") -> bytes:
    octets = text.encode()
    if kind == "B":
        return b"=?utf-8?B?" + base64.b64encode(octets) + b"?="
    return b"=?utf-8?Q?" + b"".join(b"=%02X" % octet for octet in octets) + b"?="


def ways_in(text: str) -> Iterator[tuple[str, bytes]]:
    """Messages with a text in every place that is shown."""
    raw = text.encode().replace(b"\r", b"").replace(b"\n", b"")
    percent = "".join(f"%{octet:02X}" for octet in text.encode()).encode()
    head = b"Content-Type: application/x"
    for field in (b"From", b"To", b"Cc", b"Reply-To", b"Subject", b"Date"):
        yield f"raw {field.decode()}", field + b": " + raw + b"\r\n\r\n"
        for kind in "BQ":
            yield f"{kind} word in {field.decode()}", field + b": x " + word(text, kind) + b" y\r\n\r\n"
    yield "name", head + b'; name="' + raw.replace(b"\\", b"\\\\") + b'"\r\n\r\n'
    yield "word in name", head + b'; name="' + word(text) + b'"\r\n\r\n'
    yield "RFC 2231", b"Content-Disposition: attachment; filename*=utf-8''" + percent + b"\r\n\r\n"
    yield "RFC 2231 in parts", b"Content-Disposition: attachment; filename*0*=''" + percent + b"; filename*1=b\r\n\r\n"
    yield "charset", b"Content-Type: text/plain; charset*=utf-8''" + percent + b"\r\n\r\nx"
    yield "type", b"Content-Disposition: attachment\r\nContent-Type: application/" + raw + b"\r\n\r\n"
    plain = b"Content-Type: text/plain; charset=utf-8\r\n"
    yield "body", plain + b"\r\n" + text.encode()
    yield "base64", plain + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(text.encode())
    quoted = b"".join(b"=%02X" % octet for octet in text.encode())
    yield "quoted-printable", plain + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + quoted
    utf16 = base64.b64encode(text.encode("utf-16-be", "surrogatepass"))
    yield "utf-16", b"Content-Type: text/plain; charset=utf-16be\r\nContent-Transfer-Encoding: base64\r\n\r\n" + utf16
    rich = b"Content-Type: text/html; charset=utf-8\r\n\r\n"
    entities = "".join(f"&#{ord(c)};&#x{ord(c):x}" for c in text).encode()
    yield "HTML", rich + text.encode()
    yield "entities", rich + entities
    yield "link", rich + b'<a href="http://x/' + entities + b'">' + entities + b"</a><img alt='" + entities + b"'>"
    yield "forwarded", b"Content-Type: message/rfc822\r\n\r\nSubject: " + word(text) + b"\r\n\r\n" + text.encode()


@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_gets_through(trick: str, tmp_path: Path) -> None:
    for number, (way, octets) in enumerate(ways_in(TRICKS[trick])):
        shown(octets)
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in save_attachments(Message(octets), folder):
            assert not HARM.search(path.name), way
            assert path.parent == folder


def test_eight_bit_controls_in_old_charsets() -> None:
    """Would catch C1 that appears only once the charset is decoded, and raw 8-bit that a terminal takes as C1."""
    for charset in (b"iso-8859-1", b"iso-8859-5", b"koi8-r", b"windows-1251", b"cp437", b"shift_jis", b"hz", b"x-none"):
        head = b"Content-Type: text/plain; charset=" + charset + b"\r\n"
        shown(head + b"Subject: \x9b31m \x85\x90\r\n\r\n" + bytes(range(256)))
    shown(b"Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n\x1b[31m \x1b$B\x1b(B \x1b]0;x\x07")
    shown(b"Subject: =?iso-8859-5?B?" + base64.b64encode(bytes(range(256))) + b"?=\r\n\r\n")


def test_json_drives_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A server's words in an answer, as a person sees them who looks at it on a terminal."""
    said = "".join(TRICKS.values())
    print_json({"reply": said})
    out = capsys.readouterr().out
    assert not HARM.search(out) and json.loads(out)["reply"] == said


# Charsets


@pytest.mark.parametrize("charset", ["koi8-r", "windows-1251", "cp866", "iso-8859-5", "utf-8", "x-mac-cyrillic"])
def test_cyrillic_in_every_place(charset: str) -> None:
    codec = {"x-mac-cyrillic": "mac-cyrillic"}.get(charset, charset)
    name = charset.encode()
    octets = "Привет".encode(codec)
    coded = b"=?" + name + b"?B?" + base64.b64encode(octets) + b"?="
    file = name + b"''" + "".join(f"%{octet:02X}" for octet in "отчёт.txt".encode(codec)).encode()
    message = (
        b"Subject: " + coded + b"\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/plain; charset=" + name + b"\r\n\r\n" + octets + b"\r\n"
        b"--b\r\nContent-Type: application/x\r\nContent-Disposition: attachment; filename*=" + file + b"\r\n\r\nx\r\n"
        b"--b--\r\n"
    )
    text = shown(message)
    assert text.count("Привет") == 2 and "отчёт.txt" in text
    raw = shown(b"Content-Type: text/plain; charset=" + name + b"\r\nSubject: " + octets + b"\r\n\r\n")
    assert "Subject: Привет\n" in raw


def test_a_charset_that_is_not_the_one_declared() -> None:
    text = shown(b"Content-Type: text/plain; charset=utf-8\r\n\r\nabc " + "Привет".encode("cp1251") + b" xyz\r\n")
    assert text.startswith("\nabc ") and text.endswith(" xyz\n") and "\ufffd" in text
    assert "\\xcf\\xf0" in shown(b"\r\n" + "Пр".encode("cp1251"))
    assert "[the charset utf-7 is not known" in shown(b"Content-Type: text/plain; charset=utf-7\r\n\r\n+AGE-\r\n")
    # Codecs of Python that unpack or turn letters round are no charsets.
    for name in (b"zlib_codec", b"rot13", b"idna", b"punycode", b"unicode_escape", b"base64", b"hex"):
        assert "is not known" in shown(b"Content-Type: text/plain; charset=" + name + b"\r\n\r\nx\\u202e\r\n")


# Structure


def multipart(kind: str, *parts: bytes, boundary: bytes = b"b") -> bytes:
    head = f"Content-Type: multipart/{kind}; boundary=".encode() + boundary + b"\r\n\r\n"
    return head + b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


PLAIN = b"Content-Type: text/plain\r\n\r\nplain words"
RICH = b"Content-Type: text/html\r\n\r\n<p>rich words"
PICTURE = b"Content-Type: image/png\r\nContent-ID: <p>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo="


def test_the_tree_of_parts() -> None:
    related = multipart("related", RICH, PICTURE, boundary=b"r")
    text = shown(multipart("mixed", multipart("alternative", PLAIN, related, boundary=b"a"), PICTURE))
    assert "plain words" in text and "rich words" not in text and text.count("[attachment") == 2
    text = shown(multipart("alternative", b"Content-Type: text/x-other\r\n\r\nother words", RICH))
    assert "rich words" in text and "other words" not in text
    assert "rich words" in shown(multipart("alternative", related))
    text = shown(multipart("digest", b"\r\nSubject: one\r\n\r\nfirst", b"\r\nSubject: two\r\n\r\nsecond"))
    assert text.count("--- forwarded message ---") == 2 and "Subject: two\n" in text and "second" in text
    inner = b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n" + multipart(
        "mixed", PLAIN, PICTURE, boundary=b"i"
    )
    text = shown(multipart("mixed", PLAIN, inner))
    assert "Subject: inner\n" in text and "[attachment 1: attachment-1.bin, image/png, " in text
    assert "plain words" in shown(multipart("signed", PLAIN, b"Content-Type: application/pgp-signature\r\n\r\nx"))


@pytest.mark.parametrize(
    "octets",
    [
        b"Content-Type: multipart/mixed\r\n\r\nthe words\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\nthe words\r\n",
        b"Content-Type: multipart/mixed; boundary=" + b"b" * 500 + b"\r\n\r\nthe words\r\n",
        b"Content-Type: text/calendar\r\n\r\nthe words\r\n",
        b"Content-Type: text/enriched; charset=utf-8\r\n\r\nthe words\r\n",
        b"Content-Type: nonsense\r\n\r\nthe words\r\n",
        b"Content-Type: text/plain; name=a.txt\r\n\r\nthe words\r\n",
        b"Content-Type: text/html\r\n\r\n<p the words\r\n",
        b"Content-Transfer-Encoding: x-unknown\r\n\r\nthe words\r\n",
        b"the words\r\n",
    ],
)
def test_no_text_is_hidden_by_what_is_broken(octets: bytes) -> None:
    """Would catch content that is neither shown nor listed."""
    assert "the words" in shown(octets)


def test_a_text_with_a_name_is_read_and_saved(tmp_path: Path) -> None:
    octets = b"Content-Type: text/plain; name=patch.txt\r\nContent-Disposition: inline\r\n\r\n+ a line\r\n"
    assert "+ a line\n" in shown(octets) and "[attachment 1: patch.txt, text/plain, " in shown(octets)
    (path,) = save_attachments(Message(octets), tmp_path)
    assert path.read_bytes() == b"+ a line\r\n"


@pytest.mark.parametrize(
    ("encoding", "content", "read"),
    [
        ("base64", b"aGVs\r\n bG8=", b"hello"),
        ("base64", b"aGVsbG8", b"hello"),
        ("base64", b"aGV*sb\0G8=trailer", b"hello"),
        ("base64", b"a", b""),
        ("quoted-printable", b"=68ello=", b"hello"),
        ("quoted-printable", b"hel=\r\nlo =3", b"hello =3"),
    ],
)
def test_broken_encodings_give_what_they_hold(encoding: str, content: bytes, read: bytes) -> None:
    octets = b"Content-Type: application/x\r\nContent-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\n" + content
    message = Message(octets)
    assert b"".join(message.content(message.attachments[0])) == read
    shown(octets)


BOMBS = {
    "540 kB of encoded words": b"Subject: " + b"=?utf-8?q?=41?= " * 34_000 + b"\r\n\r\n",
    "words in a name": b'Content-Type: a/b; name="' + b"=?utf-8?b?QQ==?= " * 16_000 + b'"\r\n\r\n',
    "half words": b"Subject: " + b"=?" * 270_000 + b"\r\n\r\n",
    "parameters": b"Content-Type: a/b" + b"; a*0*=''%41" * 40_000 + b"\r\n\r\n",
    "quotes": b'Content-Type: a/b; name="' + b'\\"' * 250_000 + b"\r\n\r\n",
    "comments": b"From: " + b"(" * 500_000 + b"\r\n\r\n",
    "10,000 parts": multipart("mixed", *([b"Content-Type: a/b; name=x\r\n\r\nx"] * 10_000)),
    "100 levels": b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (level, level) for level in range(200)
    ),
    "letters in letters": b"Content-Type: message/rfc822\r\n\r\n" * 10_000,
    "one long line": b"Content-Type: text/html; charset=utf-8\r\n\r\n" + b"x" * 2_500_000,
    "fields": b"X: y\r\n" * 100_000 + b"\r\n",
    "digits": b"Content-Type: text/html\r\n\r\n" + b"&#" + b"1" * 1_000_000 + b"; &#x" + b"f" * 1_000_000,
    "tags": b"Content-Type: text/html\r\n\r\n" + b'<a href="' * 200_000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_cost_little(bomb: str) -> None:
    """Python's own parser takes twelve seconds for 540 kB of encoded words, and refuses long numbers in HTML."""
    begun = time.process_time()
    shown(BOMBS[bomb])
    assert time.process_time() - begun < 4


# HTML


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>one</p><p>two<br>three", "one\n\ntwo\nthree\n"),
        ("a<script>if (a < b) evil('</p>')</script >b<STYLE>x{}</STYLE>c", "abc\n"),
        ("<head><title>T</title><meta x></head><body>words", "words\n"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a  b\nc  d\n"),
        ('<a href="http://evil.example/">http://bank.example</a>', "http://bank.example <http://evil.example/>\n"),
        ("<a href='http://x.example'>http://x.example</a>", "http://x.example\n"),
        ('<a href="javascript:alert(1)">x</a> <a name=q>y</a>', "x y\n"),
        ("1 < 2 && 3 > 2 &amp;&lt;&eacute;&#1055;&#x41F;&nosuch;", "1 < 2 && 3 > 2 &<éПП&nosuch;\n"),
        ('<p title="a > b">x', "x\n"),
        ('<p title="a > b', "b\n"),
        ("x<plaintext><b>y", "x<b>y\n"),
        ("<!-- a > b -->x<!-->y<!DOCTYPE z>", "xy\n"),
        ("<ul><li>a<li>b</ul><pre>  two\n   lines</pre><hr>", "* a\n* b\n\n  two\n   lines\n---\n"),
        ("<blockquote>a<blockquote>b</blockquote></blockquote>c", "> a\n\n> > b\n\nc\n"),
        ("<img src=x alt='a cat'><img src=y>", "[a cat]\n"),
        ("   ", "\n"),
    ],
)
def test_html_is_text(source: str, text: str) -> None:
    assert html_to_text(source) == text


# Names of files


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../.ssh/authorized_keys", "authorized_keys"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\evil.exe", "evil.exe"),
        ("file.txt:stream:$DATA", "file.txt_stream_$DATA"),
        ("CON", "attachment-3-CON"),
        ("nul .txt", "attachment-3-nul .txt"),
        ("COM¹.log", "attachment-3-COM¹.log"),
        ("conin$", "attachment-3-conin$"),
        ("trailing. . .", "trailing"),
        ("-rf", "_-rf"),
        (".profile", "profile"),
        ("a\u200db\u2800c\ufe0f", "a_b_c_"),
        ("line\nbreak\ttab\0nul", "line_break_tab_nul"),
        ("x." * 300, ("x." * 300)[:119]),
        ("\U0001f600" * 100 + ".png", "\U0001f600" * 28 + ".png"),
    ],
)
def test_names_are_safe_on_every_system(name: str, safe: str) -> None:
    assert safe_name(name, 3) == safe
    assert len(safe.encode()) <= 120 and safe == safe.strip(" .")


def test_saving_follows_no_link_and_overwrites_nothing(tmp_path: Path) -> None:
    """A name that is there already, as a file, a folder, a link to elsewhere or a link to nowhere."""
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").write_text("mine")
    (folder / "folder").mkdir()
    parts = [b"Content-Type: a/b; name=" + name + b"\r\n\r\nevil" for name in (b"link", b"file", b"folder", b'"../x"')]
    saved = save_attachments(Message(multipart("mixed", *parts)), folder)
    assert [path.name for path in saved] == ["link (2)", "file (2)", "folder (2)", "x"]
    assert not outside.exists() and (folder / "file").read_text() == "mine" and not (tmp_path / "x").exists()
