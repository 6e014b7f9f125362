"""Whatever letter a notice is about and whatever was said: it is a valid message that says it again when it is read."""

from __future__ import annotations

from email import message_from_bytes, policy

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.mail.address import Address, AddressError
from posthouse.mail.mailboxes import ascii_form
from posthouse.mail.message import Message
from posthouse.mail.report import ACTIONS, read_report
from posthouse.mta.bounce import Told
from tests.notices.samples import Stored, compose, envelope
from tests.smtp_stage import START

LOCAL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
DOMAINS = st.sampled_from(["example.org", "пример.рф", "xn--e1afmkfd.xn--p1ai", "[192.0.2.1]", "[IPv6:2001:db8::1]"])


def _address(local: str, domain: str) -> str:
    """The address in the form in which an envelope holds it; one that is none becomes another."""
    try:
        return str(Address.parse(str(Address(local, domain))))
    except AddressError:
        return f"a.b@{domain}"


ADDRESSES = st.builds(_address, LOCAL, DOMAINS)
SAID = st.text(st.characters(codec="utf-8"), max_size=2000)
STATUS = st.from_regex(r"\A[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")
TOLD = st.builds(
    Told,
    ADDRESSES,
    st.none() | SAID.map(lambda text: f"rfc822;{text}"[:500]) | ADDRESSES.map(lambda text: f"utf-8;{text}"),
    st.sampled_from(ACTIONS),
    STATUS,
    SAID,
    st.booleans(),
    st.text(max_size=300),
    st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    st.floats(START, START + 10**7),
    st.sampled_from(["", "dns", "connect", "greeting", "ehlo", "tls", "auth", "mail", "rcpt", "data", "end of data"]),
)
HEADERS = st.lists(
    st.tuples(st.sampled_from([b"Subject", b"Message-ID", b"From", b"X-Long", b""]), st.binary(max_size=1500)),
    max_size=6,
).map(lambda fields: b"".join(name + b": " + value + b"\r\n" for name, value in fields))
LETTERS = st.binary(max_size=3000) | st.builds(
    lambda header, body: header + b"\r\n" + body, HEADERS, st.binary(max_size=3000)
)


@settings(max_examples=300, deadline=None)
@given(
    sender=ADDRESSES,
    told=st.lists(TOLD, min_size=1, max_size=5),
    letter=LETTERS,
    prefix=st.binary(max_size=200),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    envid=st.none() | SAID.map(lambda text: text[:100]),
    language=st.sampled_from(["en", "ru"]),
    upcoming=st.lists(st.floats(START, START + 10**7), max_size=20),
    until=st.none() | st.floats(START, START + 10**7),
)
def test_any_notice_is_a_valid_message(
    sender: str,
    told: list[Told],
    letter: bytes,
    prefix: bytes,
    ret: str | None,
    envid: str | None,
    language: str,
    upcoming: list[float],
    until: float | None,
) -> None:
    one = envelope(sender)
    one.ret, one.envid = ret, envid
    made = compose(language, one, told, Stored(letter, prefix), sorted(upcoming), until)
    octets = made.content
    # RFC 5322 §2.1, §2.1.1, §2.3
    assert b"\0" not in octets
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    # ASCII unless nothing else will do: RFC 6533 §4.5
    octets.decode("utf-8")
    assert made.envelope.smtputf8 == (not ascii_form(Address.parse(sender)).is_ascii)
    assert octets.isascii() or made.envelope.smtputf8
    # Its parts, for another reader and for ours
    parts = list(message_from_bytes(octets, policy=policy.compat32).walk())
    assert parts[0].get_content_type() == "multipart/report"
    assert parts[0].get_param("report-type") == "delivery-status"
    assert len(Message(octets).root.children) in (2, 3)
    report = read_report(octets)
    assert report is not None
    assert [(fate.action, fate.status) for fate in report.fates] == [(fate.action, fate.status) for fate in told]
    for fate, said in zip(report.fates, told, strict=True):
        assert Address.parse(fate.recipient).key == Address.parse(said.recipient).key
