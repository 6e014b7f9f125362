"""The classic ways to talk a mail server into carrying a stranger's letter, against a running server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.raw import Raw, collect, greeted, stuffed
from tests.system.server import SENDER, Server, run_posthouse, serving

STRANGER = b"spam@stranger.example"

FORMS = {
    "plain": b"<victim@other.example>",
    "domain in capitals": b"<victim@OTHER.EXAMPLE>",
    "percent hack": b"<victim%other.example@x.mail>",
    "percent hack with literal": b"<victim%other.example@[127.0.0.1]>",
    "quoted percent hack": b'<"victim%other.example"@x.mail>',
    "at sign in quotes": b'<"victim@other.example"@x.mail>',
    "two at signs": b"<victim@other.example@x.mail>",
    "two at signs, ours first": b"<victim@x.mail@other.example>",
    "source route": b"<@x.mail:victim@other.example>",
    "source route of two": b"<@x.mail,@other.example:victim@third.example>",
    "source route of literals": b"<@[127.0.0.1]:victim@other.example>",
    "bang path": b"<other.example!victim>",
    "bang path at ours": b"<other.example!victim@x.mail>",
    "bang path at a literal": b"<other.example!victim@[127.0.0.1]>",
    "foreign literal": b"<victim@[192.0.2.9]>",
    "our literal": b"<victim@[127.0.0.1]>",
    "quoted whole": b'<"victim@other.example">',
    "no brackets": b"victim@other.example",
    "UTF-8": "<жертва@другой.example>".encode(),
    "our domain as a beginning": b"<victim@x.mail.other.example>",
    "our domain as an end": b"<victim@otherx.mail>",
    "our domain above": b"<victim@sub.x.mail>",
    "no domain": b"<victim>",
    "dot at the end": b"<victim@other.example.>",
}


DENIED = "auth25,trusted,lmtp"  # clear stays, for the POP3 session that looks at the end


@pytest.fixture(scope="module")
def wary(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A data directory that gives this machine no more rights than the whole Internet."""
    data = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("relay") / "data"))
    run_posthouse(data, "network", "add", "127.0.0.0/8", "--deny", DENIED)
    return data


@pytest.fixture(scope="module")
def mistrusted(wary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that does not know this machine."""
    data = Path(shutil.copytree(wary, tmp_path_factory.mktemp("mistrusted") / "data"))
    with serving(data, "smtp", "submission", "pop3") as server:
        yield server


@pytest.mark.parametrize("sender", [STRANGER, b"", SENDER.encode(), b"postmaster@x.mail"])
@pytest.mark.parametrize("form", FORMS)
def test_no_form_is_relayed(mistrusted: Server, form: str, sender: bytes) -> None:
    """Would catch an open relay, whoever the sender claims to be (RFC 5321 §7.1)."""
    utf8 = b" SMTPUTF8" if not FORMS[form].isascii() else b""
    with greeted(mistrusted.smtp) as session:
        session.ask(b"MAIL FROM:<%s>%s" % (sender, utf8), b"250")
        session.send(b"RCPT TO:%s\r\n" % FORMS[form])
        reply = session.reply()
        assert reply[:1] == b"5", f"{form} is answered {reply!r}"
        session.send(b"DATA\r\n")
        assert session.reply()[:1] == b"5", "nobody is there to get a letter"
        session.ask(b"QUIT", b"221")


def test_those_for_elsewhere_are_told_why(mistrusted: Server) -> None:
    with greeted(mistrusted.smtp) as session:
        session.ask(b"MAIL FROM:<%s>" % STRANGER, b"250")
        session.send(b"RCPT TO:<victim@other.example>\r\n")
        assert session.reply().startswith(b"554 5.7.1 ")
        session.send(b"RCPT TO:<@x.mail:victim@other.example>\r\n")
        assert session.reply().startswith(b"554 5.7.1 ")


def test_this_machine_relays_only_by_login_or_by_a_word_of_the_administrator(data: Path) -> None:
    """Would catch a web form on the same machine that sends through us to the whole world, and a network that keeps
    its right after it was taken away."""
    with serving(data, "smtp", "submission", "pop3") as server:

        def ask(recipient: bytes = b"victim@other.example") -> bytes:
            with greeted(server.smtp) as session:
                session.ask(b"MAIL FROM:<%s>" % SENDER.encode(), b"250")
                return session.ask(b"RCPT TO:<%s>" % recipient)[:9]

        assert ask() == b"554 5.7.1"
        run_posthouse(data, "network", "add", "127.0.0.1", "--allow", "relay")
        assert ask() == b"250 2.1.5"
        run_posthouse(data, "network", "remove", "127.0.0.1")
        assert ask() == b"554 5.7.1"


@pytest.fixture(scope="module")
def with_routes(wary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with routes: they say where letters go, not who may send them; only `--local` says that a domain is
    ours."""
    data = Path(shutil.copytree(wary, tmp_path_factory.mktemp("routes") / "data"))
    routes = {
        "other.example": ("--to", "127.0.0.1:9"),
        "ours.example": ("--to", "127.0.0.1:9", "--local"),
        "*.below.example": ("--to", "127.0.0.1:9", "--local"),
        "nowhere.example": ("--local",),
    }
    with serving(data, "smtp") as server:
        for pattern, words in routes.items():
            run_posthouse(data, "route", "add", pattern, *words)
        yield server


LOCAL = {
    b"anna@ours.example": b"250 2.1.5",
    b"anna@OURS.example": b"250 2.1.5",
    b"anna@x.below.example": b"250 2.1.5",
    b"anna@nowhere.example": b"550 5.1.1",
    b"victim@other.example": b"554 5.7.1",
    b"victim@sub.ours.example": b"554 5.7.1",
    b"victim@below.example": b"554 5.7.1",
    b"victim@notours.example": b"554 5.7.1",
    b"victim@third.example": b"554 5.7.1",
    b"victim@ours.example.evil.example": b"554 5.7.1",
}


def test_strangers_may_write_to_domains_that_a_route_calls_ours_and_to_no_other(with_routes: Server) -> None:
    with greeted(with_routes.smtp) as session:
        for recipient, reply in LOCAL.items():
            session.ask(b"MAIL FROM:<%s>" % STRANGER, b"250")
            assert session.ask(b"RCPT TO:<%s>" % recipient).startswith(reply), recipient
            session.ask(b"RSET", b"250")


@pytest.mark.parametrize("form", FORMS)
def test_no_form_is_relayed_beside_routes(with_routes: Server, form: str) -> None:
    """Would catch a form that a route lets through, though plain it would not be."""
    utf8 = b" SMTPUTF8" if not FORMS[form].isascii() else b""
    with greeted(with_routes.smtp) as session:
        session.ask(b"MAIL FROM:<%s>%s" % (STRANGER, utf8), b"250")
        assert session.ask(b"RCPT TO:%s" % FORMS[form])[:1] == b"5"
        session.ask(b"DATA", b"5")


@pytest.mark.parametrize(
    "form", [b"<test@x.mail>", b"<TEST@X.MAIL>", b'<"test"@x.mail>', b"<@other.example:test@x.mail>"]
)
def test_legal_local_forms_are_still_taken(mistrusted: Server, form: bytes) -> None:
    """Would catch a defence that also turns away letters for people here."""
    with greeted(mistrusted.smtp) as session:
        session.ask(b"MAIL FROM:<%s>" % STRANGER, b"250")
        session.ask(b"RCPT TO:" + form, b"250")
        session.ask(b"DATA", b"354")
        session.send(stuffed(b"Subject: hello\r\n\r\nhello\r\n"))
        assert session.reply().startswith(b"250")
    assert any(b"Subject: hello" in one for one in collect(mistrusted.pop3, "test@x.mail"))


def test_a_network_is_shut_out_beside_the_running_server(data: Path) -> None:
    """Would catch a change of networks that counts only after a restart."""
    with serving(data, "smtp", "pop3") as server:
        with greeted(server.smtp) as session:
            session.ask(b"QUIT", b"221")
        run_posthouse(data, "network", "add", "127.0.0.1", "--deny", "connect")
        with Raw(server.smtp) as shut:
            assert shut.reply() == b"554 5.7.1 No service for your network here\r\n"
            assert shut.rest() == b""
        with Raw(server.pop3) as shut:
            assert shut.line() == b"-ERR [SYS/PERM] No service for your network here\r\n"
        run_posthouse(data, "network", "remove", "127.0.0.1")
        with greeted(server.smtp) as session:
            session.ask(b"QUIT", b"221")
