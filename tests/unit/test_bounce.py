"""Notices: who gets one, what they say, and whether programs that nobody here wrote understand them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from pathlib import Path
from typing import cast

import pytest
from flufl.bounce import all_failures

from posthouse.cli.notices import describe, shown, table
from posthouse.mail.address import Address
from posthouse.mail.envelope import Recipient
from posthouse.mail.limits import RETURNED, RETURNED_HEADER
from posthouse.mail.message import Message as Shown
from posthouse.mail.notice import header_part
from posthouse.mail.reply import Fault, Unavailable
from posthouse.mail.report import Report, read_report
from posthouse.mta.bounce import Told
from posthouse.mta.causes import ENGLISH, RUSSIAN, Cause, cause_of
from tests.notices.samples import (
    FOREIGN,
    LETTER,
    OURS,
    RECEIVED,
    SILENT,
    UNKNOWN,
    Stored,
    compose,
    envelope,
    notices,
    samples,
    told,
)
from tests.smtp_stage import START

MADE = samples()


def read(octets: bytes) -> EmailMessage:
    return message_from_bytes(octets, policy=policy.default)


def text_of(octets: bytes) -> str:
    body = read(octets).get_body()
    assert body is not None
    return cast(str, body.get_content())


def report_of(octets: bytes) -> Report:
    report = read_report(octets)
    assert report is not None
    return report


# Who is told


@pytest.mark.parametrize(
    ("notify", "actions"),
    [
        ((), {"failed", "delayed"}),
        (("NEVER",), set()),
        (("FAILURE",), {"failed"}),
        (("DELAY",), {"delayed"}),
        (("SUCCESS",), {"delivered", "relayed", "expanded"}),
        (("success", "failure"), {"failed", "delivered", "relayed", "expanded"}),
        (("SUCCESS", "FAILURE", "DELAY"), {"failed", "delayed", "delivered", "relayed", "expanded"}),
    ],
)
def test_notify_decides_who_is_told(notify: tuple[str, ...], actions: set[str]) -> None:
    """RFC 3461 §4.1: what was not asked for is never sent."""
    every = ("failed", "delayed", "delivered", "relayed", "expanded")
    assert {action for action in every if notices().wanted(action, envelope(), notify)} == actions
    assert not any(notices().wanted(action, envelope(None), notify) for action in every)  # about a notice, never


def test_a_notice_is_a_letter_about_which_nobody_is_told() -> None:
    """Would catch notices that answer each other for ever (RFC 5321 §4.5.5, RFC 3461 §6.1)."""
    made = compose("en", envelope(), [UNKNOWN])
    assert made.envelope.sender is None
    assert made.envelope.ret is None
    assert made.recipient == Address.parse("test@x.mail")
    [recipient] = made.envelope.recipients
    assert recipient == Recipient(made.recipient, notify=("NEVER",))
    assert not any(notices().wanted(action, made.envelope, recipient.notify) for action in ("failed", "delayed"))
    assert re.fullmatch("[0-9a-f]{22}", made.letter)
    assert b"\r\nAuto-Submitted: auto-replied\r\n" in made.content  # RFC 3834 §5


# What it says


@pytest.mark.parametrize("name", MADE)
def test_a_notice_is_the_one_that_was_looked_at(name: str) -> None:
    """The files are meant to be read by people: `python -m tests.notices.samples` writes them anew."""
    assert (OURS / f"{name}.eml").read_bytes() == MADE[name]


@pytest.mark.parametrize("name", MADE)
def test_python_reads_a_notice_without_complaint(name: str) -> None:
    message = read(MADE[name])
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message.defects == []
    first, second, third = message.iter_parts()
    assert first.get_content_type() == "text/plain"
    assert second.get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    assert third.get_content_type() in (
        *("text/rfc822-headers", "message/rfc822"),
        *("message/global-headers", "message/global"),
    )
    if third["Content-Transfer-Encoding"] != "base64":  # which it does not expect of message/global
        assert [defect for part in message.walk() for defect in part.defects] == []


EXPECTED = {
    "failed-en": (set(), {b"anna@example.org"}),
    "failed-ru": (set(), {b"anna@example.org"}),
    "delayed-en": ({b"boris@example.net"}, set()),
    "delayed-ru": ({b"boris@example.net"}, set()),
    "delayed-classic": ({b"boris@example.net"}, set()),
    "given-up": (set(), {b"boris@example.net", b"anna@example.org"}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_mailman_recognises_our_notices(name: str) -> None:
    """flufl.bounce, with which Mailman takes addresses off its lists: a notice it does not see is read by nobody."""
    delayed, failed = all_failures(message_from_bytes(MADE[name]))
    assert ({one.lower() for one in delayed}, {one.lower() for one in failed}) == EXPECTED[name]


@pytest.mark.parametrize("name", ["delivered", "relayed", "expanded"])
def test_mailman_takes_no_good_news_for_a_failure(name: str) -> None:
    assert all_failures(message_from_bytes(MADE[name])) == (frozenset(), frozenset())


def test_programs_find_every_field() -> None:
    """RFC 3461 §6.3 (a) to (i), RFC 3464 §2.2 and §2.3; read by the parser of the standard library."""
    parts = [part for part in read(MADE["failed-en"]).walk() if part.get_content_type() == "message/delivery-status"]
    about, anna = cast("list[Message]", parts[0].get_payload())
    assert dict(about.items()) == {
        "Original-Envelope-Id": "QQ314159",
        "Reporting-MTA": "dns; mx.x.mail",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:00 +0000",
    }
    assert dict(anna.items()) | {"Diagnostic-Code": ""} == {
        "Original-Recipient": "rfc822;Anna@example.org",
        "Final-Recipient": "rfc822; anna@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.org",
        "Diagnostic-Code": "",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    words = " ".join(anna["Diagnostic-Code"].split())
    assert words == "smtp; 550-5.1.1 <anna@example.org>: Recipient address rejected: 550 5.1.1 User unknown"


def test_what_no_host_said_is_no_diagnostic_code() -> None:
    """RFC 3464 §2.3.6: our own words for a silent host would pass for its own."""
    [fate] = report_of(MADE["delayed-en"]).fates
    assert (fate.remote, fate.diagnostic) == ("", "")
    assert "connect: connection refused" in text_of(MADE["delayed-en"])


def test_a_delay_names_the_dates_of_the_next_attempts() -> None:
    text = text_of(MADE["delayed-classic"])
    assert read(MADE["delayed-classic"])["Subject"] == "Failed delivery (will be retried)"
    for date in ("Wed 15 Nov 2023, 02:13 +0300", "Wed 15 Nov 2023, 05:13 +0300", "Thu 16 Nov 2023, 01:13 +0300"):
        assert date in text
    assert "is given up on Sun 19 Nov 2023, 01:13" in text
    [fate] = report_of(MADE["delayed-classic"]).fates
    assert fate.until == START - 20 + 4 * 86_400
    assert "ср 15 ноября 2023, 08:13 +0300" in text_of(MADE["delayed-ru"])


def test_nothing_is_promised_that_notify_forbids() -> None:
    """With NOTIFY=DELAY a failure is never told: the notice of the delay must not say that it will be."""
    one = envelope()
    one.recipients[0].notify = ("DELAY",)
    assert "you will be told" not in text_of(compose("en", one, [SILENT], upcoming=[START + 60]).content)
    assert "you will be told" in text_of(compose("en", envelope(), [SILENT], upcoming=[START + 60]).content)


def test_a_notice_answers_the_letter() -> None:
    message = read(MADE["failed-en"])
    assert message["In-Reply-To"] == message["References"] == "<1@x.mail>"
    assert message["Message-ID"] != "<1@x.mail>"
    assert message["To"] == "test@x.mail"
    assert message["From"] == "Mail Delivery System <postmaster@x.mail>"
    assert read(MADE["failed-ru"])["From"] == "Почтовая служба <postmaster@x.mail>"
    assert read(MADE["failed-ru"])["Subject"] == "Письмо не доставлено"


def test_beyond_ascii_only_where_the_sender_can_be_reached_by_nothing_else() -> None:
    """RFC 6533 §3, §4: utf-8 addresses; in ASCII with the \\x{} of utf-8-addr-xtext."""
    assert [name for name, octets in MADE.items() if not octets.isascii()] == ["utf8"]
    assert b"Final-Recipient: utf-8; \\x{430}\\x{43D}\\x{43D}\\x{430}@example.org\r\n" in MADE["utf8-to-ascii"]
    assert "Original-Recipient: utf-8;анна@пример.рф\r\n".encode() in MADE["utf8"]
    for name in ("utf8", "utf8-to-ascii"):
        [fate] = report_of(MADE[name]).fates
        assert fate.recipient.startswith("анна@")
    made = compose("en", envelope("тест@почта.рф"), [UNKNOWN])
    assert (made.envelope.smtputf8, made.envelope.body) == (True, "8BITMIME")
    made = compose("en", envelope("test@почта.рф"), [UNKNOWN])
    assert made.content.isascii()
    assert (str(made.recipient), made.envelope.smtputf8) == ("test@xn--80a1acny.xn--p1ai", False)


def test_recipients_with_the_same_fate_are_told_of_together() -> None:
    same = [told(reply="550 5.1.1 unknown", to=f"a{number}@example.org") for number in range(150)]
    others = [told(reply=f"550 5.1.1 <b{number}> unknown", to=f"b{number}@example.org") for number in range(150)]
    octets = compose("en", envelope(), [*same, *others]).content
    text = text_of(octets)
    assert text.count("There is no such address") == 40
    assert "... and 50 more" in text
    assert "Further recipients (111) are named in the report" in text
    assert len(report_of(octets).fates) == 300


def test_a_thousand_talkative_refusals_stay_within_bounds() -> None:
    """Would catch a notice that a host makes as large as it likes, and one that we write but do not read."""
    many = [told(reply=f"550-5.1.1 <b{n}>\n" * 30 + "é" * 5000, to=f"b{n}@example.org") for n in range(1000)]
    octets = compose("ru", envelope(), many).content
    assert len(octets) < 1_400_000
    assert len(report_of(octets).fates) == 1000


def test_the_words_of_another_server_cannot_pass_for_ours() -> None:
    """Would catch a reply that ends our text, drives a terminal, hides, or fills the notice."""
    reply = (
        "550 5.7.1 \x1b[2J\u202eevil\r\n\r\n--=_x\r\nWhat you can do: send money\u2028now\x85\x0b!\n" + "long " * 5000
    )
    octets = compose("en", envelope(), [told(reply=reply, status="5.7.1")]).content
    text = text_of(octets)
    assert "\x1b" not in text
    assert "\u202e" not in text
    quoted = [line for line in text.splitlines() if "send money" in line or "now" in line.split()]
    assert quoted
    assert all(line.startswith("      | ") for line in quoted)
    assert sum(line.startswith("      | ") for line in text.splitlines()) <= 13
    assert len(octets) < 10_000
    assert len(report_of(octets).fates) == 1


# What comes back


def returned(octets: bytes) -> Message:
    return list(read(octets).iter_parts())[-1]


def test_the_letter_comes_back_whole_only_where_asked_and_small_and_failed() -> None:
    """RFC 3461 §4.3, §6.2."""
    full, big = envelope(ret="FULL"), Stored(LETTER + b"x" * 900 + b"\r\n" * RETURNED)
    assert returned(compose("en", full, [UNKNOWN]).content).get_content_type() == "message/rfc822"
    for one, what, letter in (
        (envelope(), UNKNOWN, Stored(LETTER)),
        (envelope(ret="HDRS"), UNKNOWN, Stored(LETTER)),
        (full, SILENT, Stored(LETTER)),
        (full, UNKNOWN, big),
    ):
        content = compose("en", one, [what], letter).content
        assert returned(content).get_content_type() == "text/rfc822-headers"
        assert b"Hello" not in content
        assert b"Subject: Message 1\r\n" in content


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_letter_comes_back_as_it_was(in_pieces: bool) -> None:
    """Whatever octets it has: what ASCII cannot carry is encoded, in message/global (RFC 6532 §3.7)."""
    one = envelope(ret="FULL")
    plain = compose("en", one, [UNKNOWN], Stored(LETTER, in_pieces=in_pieces)).content
    assert RECEIVED + LETTER in plain
    junk = LETTER + bytes(range(256)) * 50 + b"y" * 5000
    octets = compose("en", one, [UNKNOWN], Stored(junk, in_pieces=in_pieces)).content
    part = returned(octets)
    assert part.get_content_type() == "message/global"
    assert octets.isascii()
    encoded = octets.partition(b"Returned message\r\n\r\n")[2].partition(b"\r\n--=_")[0]
    assert base64.b64decode(encoded) == RECEIVED + junk


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\nno header\r\n",
        b"From: \xff\xfe\r\nSubject: \x00\r\n\r\nbody",
        b"Subject: " + b"a" * 200_000 + b"\r\n\r\nbody",
        b"".join(b"X-%d: %s\r\n" % (number, b"b" * 60) for number in range(5000)) + b"\r\nbody",
        b"no colon at all\n\n",
    ],
)
def test_a_hostile_header_comes_back_bounded_and_encoded(content: bytes) -> None:
    octets = compose("en", envelope(), [UNKNOWN], Stored(content)).content
    assert octets.isascii()
    assert b"\0" not in octets
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert len(octets) < 2 * RETURNED_HEADER
    assert b"body" not in octets
    assert returned(octets).get_content_type() in ("text/rfc822-headers", "message/global-headers")
    assert len(header_part(content)) <= RETURNED_HEADER + 2


class Broken(Stored):
    """A letter that cannot be read."""

    fault = Fault.DAMAGED

    @property
    def octets(self) -> bytes | None:
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"Subject: ?\r\n"
        raise Unavailable(self.fault)


def test_of_a_damaged_letter_nothing_comes_back_but_its_sender_is_told() -> None:
    octets = compose("en", envelope(ret="FULL"), [UNKNOWN], Broken(LETTER)).content
    assert len(list(read(octets).iter_parts())) == 2
    assert "attached" not in text_of(octets)


def test_what_cannot_be_read_now_is_not_given_up() -> None:
    broken = Broken(LETTER)
    broken.fault = Fault.STORAGE
    with pytest.raises(Unavailable):
        compose("en", envelope(), [UNKNOWN], broken)


# Why


@pytest.mark.parametrize(
    ("status", "reply", "stage", "said", "cause"),
    [
        ("5.1.1", "550 5.1.1 User unknown", "rcpt", True, Cause.UNKNOWN),
        ("5.0.0", "550 No such user here", "rcpt", True, Cause.UNKNOWN),
        ("5.0.0", "550 Not today", "end of data", True, Cause.CONTENT),
        ("5.1.2", "no such domain", "dns", False, Cause.NO_HOST),
        ("5.1.10", "null MX", "dns", False, Cause.NO_MAIL),
        ("4.4.3", "the name servers do not answer", "dns", False, Cause.DNS),
        ("4.0.0", "servfail", "dns", False, Cause.DNS),
        ("4.4.1", "connection refused", "connect", False, Cause.NO_ANSWER),
        ("4.4.2", "the line was lost", "data", False, Cause.BROKEN),
        ("5.0.0", "554 No SMTP service here", "greeting", True, Cause.GREETING),
        ("5.7.1", "554 5.7.1 blocked by a list", "greeting", True, Cause.BLOCKED),
        ("4.0.0", "421 too many connections", "greeting", True, Cause.NOT_NOW),
        ("4.7.5", "the certificate is not trusted", "tls", False, Cause.TLS),
        ("5.7.8", "535 5.7.8 bad credentials", "auth", True, Cause.LOGIN),
        ("4.2.2", "452 4.2.2 over quota", "rcpt", True, Cause.FULL),
        ("5.0.0", "552 mailbox full", "rcpt", True, Cause.FULL),
        ("5.0.0", "552 too big", "mail", True, Cause.TOO_BIG),
        ("5.3.4", "too big for the host", "mail", False, Cause.TOO_BIG),
        ("4.7.1", "450 4.7.1 Greylisted, come again", "rcpt", True, Cause.GREYLISTED),
        ("4.0.0", "451 local error", "rcpt", True, Cause.NOT_NOW),
        ("5.7.26", "550 5.7.26 unauthenticated", "end of data", True, Cause.UNPROVEN),
        ("5.4.6", "too many hops", "", False, Cause.LOOP),
        ("5.6.7", "no SMTPUTF8", "mail", False, Cause.UTF8),
        ("5.0.0", "501 syntax", "mail", True, Cause.PROTOCOL),
        ("5.0.0", "550 go away", "mail", True, Cause.SENDER),
        ("4.4.7", "", "", False, Cause.NO_ANSWER),
        ("nonsense", "nonsense", "nonsense", True, Cause.OTHER),
    ],
)
def test_causes(status: str, reply: str, stage: str, said: bool, cause: Cause) -> None:
    assert cause_of(status, reply, stage, said=said) is cause


def test_every_cause_has_words_in_both_languages() -> None:
    assert set(ENGLISH) == set(RUSSIAN) == set(Cause)
    for senses in (ENGLISH, RUSSIAN):
        for sense in senses.values():
            assert sense.meaning.format(domain="x.mail").endswith(".")
            assert sense.advice.endswith((".", ")."))


# Reading the notices of others


@pytest.mark.parametrize(
    ("name", "reporter", "fates"),
    [
        (
            "postfix",
            "mail.example.com",
            [
                ("anna@example.org", "failed", "5.1.1", "mx.example.org", "smtp"),
                ("clara@example.net", "failed", "4.4.1", "", "x-postfix"),
            ],
        ),
        ("exim", "relay.example.com", [("anna@example.org", "failed", "5.0.0", "mx.example.org", "smtp")]),
        ("exchange", "EX01.corp.example.org", [("anna@corp.example.org", "failed", "5.1.10", "", "smtp")]),
        (
            "gmail",
            "googlemail.com",
            [
                (
                    "anna@example.org",
                    "delayed",
                    "4.4.1",
                    "mx.example.org. (192.0.2.2, the server for the domain example.org.)",
                    "smtp",
                )
            ],
        ),
        ("opensmtpd", "box.example.com", [("anna@example.org", "failed", "5.0.0", "", "smtp")]),
    ],
)
@pytest.mark.parametrize("crlf", [False, True])
def test_the_notices_of_others_are_read(name: str, reporter: str, fates: list[tuple[str, ...]], crlf: bool) -> None:
    octets = (FOREIGN / f"{name}.eml").read_bytes()
    report = report_of(octets.replace(b"\n", b"\r\n") if crlf else octets)
    assert report.reporter == reporter
    assert [(one.recipient, one.action, one.status, one.remote, one.transport) for one in report.fates] == fates
    if name == "postfix":
        assert report.envid == "QQ314159"
        assert report.arrived == 1_772_522_103
        assert report.fates[0].original == "rfc822;Anna@example.org"
        assert report.fates[0].diagnostic.endswith("User unknown in local recipient table")
    if name == "gmail":
        assert (report.fates[0].tried, report.fates[0].until) == (1_772_522_106, 1_772_684_105)


def test_other_letters_are_no_notices() -> None:
    assert read_report(LETTER) is None
    assert read_report(b"Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x--\r\n") is None
    forwarded = b"Content-Type: message/rfc822\r\n\r\n" + MADE["failed-en"]
    assert read_report(forwarded) is None


def test_a_report_of_a_million_recipients_is_read_within_bounds() -> None:
    head = b"Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\n"
    head += b"Content-Type: message/delivery-status\r\n\r\n"
    report = report_of(head + b"Final-Recipient: rfc822; a@x\r\n\r\n" * 200_000)
    assert len(report.fates) == 2000


def test_a_told_has_no_stage_until_somebody_says_it() -> None:
    assert Told("a@x", None, "failed", "5.0.0", "", False, "", "", START).stage == ""


# As our own reader shows them


def test_a_person_sees_the_text_and_a_table() -> None:
    text = "".join(shown(Shown(MADE["failed-en"])))
    assert text.startswith("From: Mail Delivery System <postmaster@x.mail>\nTo: test@x.mail\n")
    assert "There is no such address at example.org." in text
    assert "attachment" not in text  # the parts for programs are told, not listed
    assert "Hello" not in text  # nor what came back
    assert text.endswith(
        "Report of mx.x.mail:\n"
        "  failed     5.1.1    anna@example.org\n"
        "             mx.example.org: 550-5.1.1 <anna@example.org>: Recipient address rejected: "
        "550 5.1.1 User unknown\n"
    )
    assert "is tried until 2023-11-18T22:13:00Z" in "".join(shown(Shown(MADE["delayed-en"])))
    assert "".join(shown(Shown(LETTER))) == "".join(Shown(LETTER).render())


def test_a_report_beside_other_parts_hides_nothing() -> None:
    """OpenSMTPD writes multipart/mixed, and in such a letter anything may follow the report."""
    octets = (FOREIGN / "opensmtpd.eml").read_bytes()
    text = "".join(shown(Shown(octets)))
    assert "This is the MAILER-DAEMON" in text
    assert "[attachment 1: " in text
    assert "  failed     5.0.0    anna@example.org\n" in text


def test_a_hostile_report_drives_no_terminal() -> None:
    evil = "\x1b]0;x\x07\u202e\r\x9b31m"
    octets = MADE["failed-en"].replace(b"550-5.1.1", evil.encode()).replace(b"dns; mx.x", f"dns; {evil}".encode())
    lines = list(table(report_of(octets)))
    assert not any(c in line for line in lines for c in "\x1b\x07\u202e\r\x9b\n")
    assert json.loads(json.dumps(describe(report_of(octets))))["recipients"][0]["status"] == "5.1.1"


def test_programs_get_the_report_as_json() -> None:
    assert describe(report_of(MADE["given-up"])) == {
        "reporter": "mx.x.mail",
        "envelope_id": None,
        "arrived": "2023-11-14T22:13:00Z",
        "recipients": [
            {
                "to": "boris@example.net",
                "action": "failed",
                "status": "4.4.1",
                "host": None,
                "reply": None,
                "tried": "2023-11-18T22:13:20Z",
                "until": None,
            },
            {
                "to": "anna@example.org",
                "action": "failed",
                "status": "5.1.1",
                "host": "mx.example.org",
                "reply": "550-5.1.1 <anna@example.org>: Recipient address rejected: 550 5.1.1 User unknown",
                "tried": "2023-11-14T22:13:20Z",
                "until": None,
            },
        ],
    }


def test_the_documentation_shows_real_notices() -> None:
    page = (Path(__file__).parents[2] / "docs/explanation/when-mail-cannot-be-delivered.md").read_text(encoding="utf-8")
    for name in ("delayed-classic", "failed-en"):
        subject = read(MADE[name])["Subject"]
        text = text_of(MADE[name]).replace("\r\n", "\n")
        assert f"```\nSubject: {subject}\n\n{text}```\n" in page
    report = MADE["delayed-classic"].partition(b"Delivery report\r\n\r\n")[2].partition(b"\r\n\r\n--=_")[0]
    assert f"```\n{report.decode()}\n```\n".replace("\r\n", "\n") in page
    assert "".join(f"{line}\n" for line in table(report_of(MADE["failed-en"]))) in page
