"""What `send` makes of its options: HTML and Markdown, pictures, threads, tables; and the same for any content."""

from __future__ import annotations

import io
import json
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.cli.exits import Problem
from posthouse.cli.merging import read_rows
from posthouse.cli.rich import fill, fill_html, from_markdown
from posthouse.cli.send import send
from posthouse.mail.compose import Attachment, Letter, Part, compose
from posthouse.mail.header import Header
from posthouse.mail.mailboxes import parse_mailboxes
from posthouse.mail.message import Message
from posthouse.mail.mime import decoded, parse
from posthouse.mail.thread import MOST, forward_subject, parent_ids, reply_subject

ME = parse_mailboxes("Тест <test@x.mail>")[0]
TO = parse_mailboxes("Anna <anna@x.mail>, b@x.mail")


def dry(*arguments: str, given: bytes = b"") -> Result:
    """`send --dry-run`."""
    return CliRunner().invoke(send, ["-f", "Я <me@x.mail>", "--dry-run", "-q", *arguments], input=given)


def made(*arguments: str, given: bytes = b"") -> EmailMessage:
    """The letter that such a call would send, as Python reads it."""
    done = dry(*arguments, given=given)
    assert done.exit_code == 0, done.stderr
    return message_from_bytes(done.stdout_bytes, policy=policy.default)


def text_of(part: Any) -> str:
    return str(part.get_content()).replace("\r\n", "\n")


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return text_of(part)


# Any content comes back


def part(octets: bytes) -> Part:
    return Part(len(octets), lambda: io.BytesIO(octets))


def unified(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")


TEXTS = st.one_of(
    st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b".", b"\r\n.\r\n", b"From x\n", b"--=_alt_b\r\n", b"=_rel_b", b"=3D=\n", b" \t \n", b"x" * 2000]
    ),
)


@settings(max_examples=200)
@given(
    TEXTS, st.none() | TEXTS, st.lists(st.binary(max_size=99), max_size=2), st.lists(st.binary(max_size=99), max_size=2)
)
def test_every_kind_of_body_comes_back(
    text: bytes, html: bytes | None, pictures: list[bytes], files: list[bytes]
) -> None:
    """From Python's email and from our own parser, equal."""

    def attached(number: int, octets: bytes, cid: str) -> Attachment:
        return Attachment(len(octets), lambda: io.BytesIO(octets), f"файл {number}.png", "image/png", cid)

    inlines = [attached(n, octets, f"p{n}@x") for n, octets in enumerate(pictures)] if html is not None else []
    attachments = [attached(n, octets, "") for n, octets in enumerate(files)]
    written = Letter(ME, TO, "s", 0.0, "<1@x.mail>", part(text), attachments=attachments, inlines=inlines)
    written.html = part(html) if html is not None else None
    composed = compose(written, "b0undary")
    octets = b"".join(composed.content())
    assert len(octets) == composed.size and octets.isascii()
    assert octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    wanted = [unified(text), *([unified(html)] if html is not None else [])]
    python = message_from_bytes(octets, policy=policy.default)
    leaves = [found for found in python.walk() if not found.is_multipart()]
    texts = [found.get_payload(decode=True) for found in leaves if found.get_content_maintype() == "text"]
    assert [unified(found) for found in texts if isinstance(found, bytes)] == wanted
    images = [found for found in leaves if found.get_content_type() == "image/png"]
    assert [found.get_payload(decode=True) for found in images] == [p for p in pictures if html is not None] + files
    assert [found["content-id"] for found in images if found["content-id"]] == [f"<{inline.cid}>" for inline in inlines]
    assert all(not found.defects for found in python.walk())
    ours: list[Any] = []
    pending = [parse(octets)]
    while pending:
        node = pending.pop()
        pending += reversed(node.children)
        ours += [] if node.children else [node]
    contents = [b"".join(decoded(octets, node)) for node in ours]
    assert [unified(c) for c, node in zip(contents, ours, strict=True) if node.type.startswith("text/")] == wanted
    assert [c for c, node in zip(contents, ours, strict=True) if node.type == "image/png"] == [
        found.get_payload(decode=True) for found in images
    ]


@settings(max_examples=100)
@given(st.text(max_size=80), st.text(max_size=200))
def test_what_a_table_holds_is_text_in_the_html(value: str, around: str) -> None:
    """No cell becomes markup, whatever it holds; and the braces of a style sheet stay."""

    class Reader(HTMLParser):
        tags = 0
        text = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags += 1

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Reader()
    reader.feed(fill_html("<style>p { x: {y} }</style><p>{{ Column }}</p>", {"column": value}))
    reader.close()
    assert reader.tags == 2
    assert reader.text.replace("\r\n", "\n").replace("\r", "\n").startswith("p { x: {y} }")
    plain = around.replace("{", "(")
    assert fill(f"{plain}{{{{column}}}}", {"column": value}) == plain + value


# HTML and Markdown


def test_html_brings_a_text_with_it(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<h1>Привет</h1><p>one<br>two</p><script>no</script>")
    message = made("a@x.mail", "--html", str(page), given=b"")
    assert message.get_content_type() == "multipart/alternative"
    assert body(message, "html").rstrip("\n") == page.read_text()
    assert body(message, "plain").split() == ["Привет", "one", "two"]
    message = made("a@x.mail", "--html", str(page), "-m", "my own words")
    assert body(message, "plain") == "my own words\n"


def test_markdown_is_the_text_and_html_is_made_of_it() -> None:
    source = "# Привет\n\n* one\n* **two** ~~three~~\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    source += "<script>x</script> [l](javascript:x)\n"
    message = made("a@x.mail", "--md", given=source.encode())
    assert body(message, "plain") == source
    html = body(message, "html")
    for piece in ("<h1>Привет</h1>", "<strong>two</strong>", "<s>three</s>", "<td>1</td>", "&lt;script&gt;"):
        assert piece in html
    assert "<script" not in html and 'href="javascript' not in html
    assert from_markdown("x").startswith("<!DOCTYPE html>")


def test_pictures_are_shown_where_the_html_names_them(tmp_path: Path) -> None:
    picture = tmp_path / "мой logo.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    given = "![logo](<мой logo.png>)\n"
    message = made("a@x.mail", "--md", "--inline", str(picture), "-a", str(picture), given=given.encode())
    assert [p.get_content_type() for p in message.walk()] == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html"),
        *("image/png", "image/png"),
    ]
    shown, attached = (p for p in message.walk() if p.get_content_type() == "image/png")
    assert shown.get_content_disposition() == "inline" and attached.get_content_disposition() == "attachment"
    cid = re.search(r'<img src="cid:([^"]+)"', body(message, "html"))
    assert cid and shown["content-id"] == f"<{cid[1]}>" and shown.get_content() == picture.read_bytes()
    page = tmp_path / "page.html"
    for reference in ("cid:мой logo.png", str(picture), "мой logo.png"):
        page.write_text(f"<p><img alt=x SRC='{reference}'><img src='other.png'></p>")
        html = body(made("a@x.mail", "--html", str(page), "--inline", str(picture), "-m", "x"), "html")
        assert "SRC='cid:logopng." in html and "src='other.png'" in html


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--md", "--inline", "PICTURE", "-m", "nothing of it"], 65, "Nothing shows logo.png"),
        (["--inline", "PICTURE", "-m", "x"], 64, "--inline shows pictures"),
        (["--md", "--html", "PAGE", "-m", "x"], 64, "both make the HTML"),
        (["--html", "/nowhere", "-m", "x"], 66, "cannot be read"),
        (["--html", "PICTURE", "-m", "x"], 65, "not in UTF-8"),
        (["--reply", "PAGE", "--forward", "PAGE"], 64, "exclude each other"),
        (["--reply", "/nowhere"], 66, "cannot be read"),
        (["--reply", "7"], 64, "give --mailbox"),
        (["--quote", "-m", "x"], 64, "go with --reply"),
        (["--mailbox", "pop3://x", "-m", "x"], 64, "--mailbox goes with"),
        (["--ret", "full", "-m", "x"], 64, "--ret goes with --dsn"),
        (["--dsn", "sometimes", "-m", "x"], 64, "notices are wanted"),
        (["-t", "--md"], 64, "the message is whole"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    (tmp_path / "page.html").write_text("<p>x</p>")
    names = {"PICTURE": str(tmp_path / "logo.png"), "PAGE": str(tmp_path / "page.html")}
    done = dry("a@x.mail", *(names.get(word, word) for word in arguments))
    assert done.exit_code == code and said in done.stderr and done.stdout == ""


# Threads


def header(*lines: str) -> Header:
    return Header("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")


@pytest.mark.parametrize(
    ("fields", "answered", "references"),
    [
        (["Message-ID: <1@x>"], "<1@x>", ["<1@x>"]),
        (["Message-ID: <3@x>", "References: <1@x>\r\n\t<2@x>"], "<3@x>", ["<1@x>", "<2@x>", "<3@x>"]),
        (["Message-ID: <2@x>", "In-Reply-To: <1@x>"], "<2@x>", ["<1@x>", "<2@x>"]),
        (["Message-ID: <3@x>", "In-Reply-To: <1@x> <2@x>"], "<3@x>", ["<3@x>"]),
        (["References: <1@x>"], "", ["<1@x>"]),
        (["Subject: none"], "", []),
        (["Message-ID: <1@x>", "References: <1@x> junk <2@x>,<2@x>"], "<1@x>", ["<2@x>", "<1@x>"]),
        (["Message-ID: no id at all"], "", []),
    ],
)
def test_what_ties_a_reply_to_its_parent(fields: list[str], answered: str, references: list[str]) -> None:
    """RFC 5322 §3.6.4, case by case."""
    assert parent_ids(header(*fields)) == (answered, references)


def test_a_long_thread_keeps_its_first_and_its_last() -> None:
    ids = [f"<{n}@x>" for n in range(5000)]
    _, references = parent_ids(header("Message-ID: <last@x>", f"References: {' '.join(ids)}"))
    assert len(references) == MOST and references[0] == "<0@x>" and references[-2:] == ["<4999@x>", "<last@x>"]


@pytest.mark.parametrize(
    ("subject", "reply", "forward"),
    [
        ("Hello", "Re: Hello", "Fwd: Hello"),
        ("Re: Hello", "Re: Hello", "Fwd: Re: Hello"),
        ("RE: re[2]: Hello", "Re: Hello", "Fwd: RE: re[2]: Hello"),
        ("Fwd: Hello", "Re: Fwd: Hello", "Fwd: Hello"),
        ("Regards", "Re: Regards", "Fwd: Regards"),
        ("", "Re:", "Fwd:"),
    ],
)
def test_subjects(subject: str, reply: str, forward: str) -> None:
    assert (reply_subject(subject), forward_subject(subject)) == (reply, forward)


PARENT = (
    "From: =?utf-8?B?0JDQvdC90LA=?= <anna@x.mail>\nTo: me@x.mail, b@x.mail\nCc: C <c@x.mail>, anna@x.mail\n"
    "Date: Mon, 2 Mar 2026 09:14:57 +0300\nMessage-ID: <2@x.mail>\nReferences: <1@x.mail>\n"
    "Subject: =?utf-8?B?0J/RgNC40LLQtdGC?=\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n"
    "Как дела?\n> older\n"
)


@pytest.fixture
def parent(tmp_path: Path) -> str:
    path = tmp_path / "parent.eml"
    path.write_text(PARENT)
    return str(path)


def test_a_reply(parent: str) -> None:
    message = made("--reply", parent, "-m", "Хорошо!")
    assert (message["to"], message["cc"]) == ("Анна <anna@x.mail>", None)
    assert (message["subject"], message["in-reply-to"]) == ("Re: Привет", "<2@x.mail>")
    assert message["references"] == "<1@x.mail> <2@x.mail>"
    assert body(message, "plain") == "Хорошо!\n"
    message = made("--reply", parent, "--all", "--quote", "-m", "Хорошо!")
    assert message["cc"] == "b@x.mail, C <c@x.mail>"
    assert body(message, "plain") == (
        "Хорошо!\n\nOn Mon, 2 Mar 2026 09:14:57 +0300, Анна <anna@x.mail> wrote:\n> Как дела?\n>> older\n"
    )
    message = made("d@x.mail", "--reply", parent, "-s", "Own", "-H", "References: <9@x>", "-m", "x")
    assert (message["to"], message["subject"], message["references"]) == ("d@x.mail", "Own", "<9@x>")


def test_a_reply_goes_where_the_parent_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "p.eml"
    path.write_text("From: anna@x.mail\nReply-To: list@x.mail\nTo: me@x.mail\nSubject: x\n\ntext\n")
    assert made("--reply", str(path), "-m", "x")["to"] == "list@x.mail"
    path.write_text("From: me@x.mail\nTo: anna@x.mail\nSubject: our own\n\ntext\n")
    assert made("--reply", str(path), "-m", "x")["to"] == "anna@x.mail"
    path.write_text("no letter")
    assert "no letter" in dry("--reply", str(path), "-m", "x").stderr


def test_a_forward_takes_the_letter_along_unchanged(parent: str, tmp_path: Path) -> None:
    message = made("d@x.mail", "--forward", parent, "-m", "See below")
    assert (message["subject"], message["in-reply-to"]) == ("Fwd: Привет", None)
    assert message["references"] == "<1@x.mail> <2@x.mail>"
    within = next(p for p in message.walk() if p.get_content_type() == "message/rfc822")
    assert within["content-transfer-encoding"] == "8bit" and message["content-transfer-encoding"] == "8bit"
    octets = dry("d@x.mail", "--forward", parent, "-m", "See below").stdout_bytes
    assert PARENT.encode().replace(b"\n", b"\r\n") in octets
    assert "--- forwarded message ---\nFrom: Анна <anna@x.mail>\n" in "".join(Message(octets).body())
    awkward = tmp_path / "awkward.eml"
    awkward.write_bytes(b"Subject: x\n\n" + b"y" * 2000)
    message = made("d@x.mail", "--forward", str(awkward), "-m", "x")
    [attachment] = message.iter_attachments()
    assert attachment.get_content_type() == "application/octet-stream" and attachment.get_filename() == "x.eml"
    assert attachment.get_content() == awkward.read_bytes()


# Tables


def rows(tmp_path: Path, text: str) -> str:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8-sig")
    return str(path)


def test_one_letter_for_each_row(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("bill one")
    (tmp_path / "2.txt").write_text("bill two")
    table = rows(tmp_path, 'Name;Email;n\n"Анна; Мария";anna@x.mail;1\nBob & Co <b>;Bob <b@x.mail>;2\n')
    done = dry(
        *("--merge", table, "-s", "Bill {{N}} for {{name}}", "-a", f"{tmp_path}/{{{{n}}}}.txt", "-H", "X-N: {{n}}"),
        *("--md", "-m", "Dear {{name}},\n\nsee [here](https://x.mail/?who={{name}}) or {{ n }}. {not one}"),
    )
    assert done.exit_code == 0, done.stderr
    first, second = (
        message_from_bytes(b"Date:" + octets, policy=policy.default) for octets in done.stdout_bytes.split(b"Date:")[1:]
    )
    assert first["subject"] == "Bill 1 for Анна; Мария" and second["to"] == "Bob <b@x.mail>"
    assert first["x-n"] == "1" and [a.get_filename() for a in second.iter_attachments()] == ["2.txt"]
    assert "see [here](https://x.mail/?who=Bob & Co <b>) or 2. {not one}" in body(second, "plain")
    html = body(second, "html")
    assert "Dear Bob &amp; Co &lt;b&gt;," in html and 'href="https://x.mail/?who=Bob%20%26%20Co%20%3Cb%3E"' in html


def test_a_recipient_of_columns(tmp_path: Path) -> None:
    table = rows(tmp_path, "user,url\nanna,https://x.mail/a?b=c&d\n")
    message = made("{{user}}@x.mail", "-c", "boss@x.mail", "--merge", table, "--md", "-m", "[go]({{url}})")
    assert (message["to"], message["cc"]) == ("anna@x.mail", "boss@x.mail")
    assert 'href="https://x.mail/a?b=c&amp;d"' in body(message, "html")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must name the columns"),
        ("email\n", "no rows"),
        ("email,email\na@x,b@x\n", "each once"),
        ("email,\na@x,\n", "must name the columns"),
        ("email,n\na@x.mail\n", "Row 2 of"),
        ("who,n\na@x.mail,1\n", "Row 2: The row says nobody"),
        ("email,n\na@x.mail,1\nnobody,2\n", "Row 3: nobody is not a mail address"),
        ("email,name\na@x.mail,1\n", "Row 2: There is no column 'n'"),
        ('email,n\n"a@x.mail,1\n', "no table that can be read"),
        ('email,n\na@x.mail,"a\nb"\n', "Row 2: The field X-N may not hold a line break"),
    ],
)
def test_tables_that_cannot_be_used_send_nothing(tmp_path: Path, text: str, said: str) -> None:
    done = dry("--merge", rows(tmp_path, text), "-H", "X-N: {{n}}", "-m", "x")
    assert done.exit_code in (64, 65) and said in done.stderr and done.stdout == ""


def test_a_table_in_another_charset_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("имя\nАнна\n".encode("cp1251"))
    with pytest.raises(Problem, match="not in UTF-8"):
        read_rows(path)
    path.write_text("a\n" + "b\n" * 100_001)
    with pytest.raises(Problem, match="more than 100000 rows"):
        read_rows(path)


def test_json_tells_of_a_bad_row(tmp_path: Path) -> None:
    table = rows(tmp_path, "email\nnobody\n")
    done = CliRunner().invoke(send, ["--merge", table, "-f", "me@x.mail", "-m", "x", "--url", "smtp://x", "--json"])
    assert done.exit_code == 65 and "Row 2" in json.loads(done.stdout)["error"]
