"""What must hold for every input: round trips of addresses, commands and replies, and split invariance."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.address import Address, AddressError
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.lines import whole_lines
from posthouse.mail.reply import PeerError, Reply, Smtp, Style
from posthouse.smtp.commands import Auth, Bdat, Ehlo, Mail, Noop, Rcpt, parse_command
from posthouse.smtp.data import ChunkReader, Content, DataReader, _first_line_dot, clean
from posthouse.smtp.events import ChunkEnded, ContentArrived, DataEnded, LoginStep, Settled
from posthouse.smtp.grammar import decode_xtext, encode_xtext
from posthouse.smtp.rules import Mode
from posthouse.smtp.server import SmtpServerCore

label = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,8}[A-Za-z0-9])?", fullmatch=True)
name = st.lists(label, min_size=1, max_size=4).map(".".join)
literal = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"[{ip}]"),
    st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip}]"),
)
local = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12),
)
addresses = st.builds(Address, local, st.one_of(name, literal))


@given(addresses)
def test_addresses_survive_printing(address: Address) -> None:
    assert Address.parse(str(address)) == address


@given(addresses)
def test_a_key_is_its_own_key(address: Address) -> None:
    """Catches a canonical form that is not stable: the account could not be found again."""
    assert Address.parse(address.key).key == address.key
    assert unicodedata.is_normalized("NFC", address.key)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert Address.parse(str(address)) == address
    assert address.key


@given(st.text())
def test_xtext_round_trip(text: str) -> None:
    try:
        encoded = encode_xtext(text)
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert encoded.isascii()
    assert decode_xtext(encoded) == text


printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
mails = st.builds(
    Mail,
    st.none() | addresses,
    size=st.none() | st.integers(0, 10**19),
    body=st.sampled_from([None, "7BIT", "8BITMIME"]),
    smtputf8=st.just(True),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    envid=st.none() | printable,
    auth=st.none() | st.just("") | addresses.map(str),
)
recipients = st.builds(
    Rcpt,
    addresses,
    notify=st.sampled_from([(), ("NEVER",), ("SUCCESS",), ("FAILURE", "DELAY"), ("DELAY", "SUCCESS", "FAILURE")]),
    orcpt=st.none() | printable.map(lambda text: f"rfc822;{text}"),
)
commands = st.one_of(
    mails,
    recipients,
    st.builds(Bdat, st.integers(0, 10**19), st.booleans()),
    st.builds(Ehlo, name | literal),
    st.builds(Auth, st.sampled_from(["PLAIN", "LOGIN"]), st.none() | st.just("=") | st.just("AHQAcw==")),
    st.builds(Noop, printable),
)


@given(commands)
def test_commands_survive_printing(command: Mail | Rcpt | Bdat | Ehlo | Auth | Noop) -> None:
    line = command.encode()
    assert line.endswith(b"\r\n") and line.count(b"\n") == line.count(b"\r") == 1
    assert parse_command(line[:-2]) == command


@given(st.binary(max_size=100))
def test_any_line_is_a_command_or_a_peer_error(line: bytes) -> None:
    try:
        parse_command(line)
    except PeerError as error:
        assert error.reply.code in ("500", "501", "553", "555")


@given(st.text(), st.sampled_from(list(Style)))
def test_foreign_text_cannot_break_a_reply(text: str, style: Style) -> None:
    """Catches a name that ends the reply's line early, or makes it longer than RFC 5321 §4.5.3.1.5 allows."""
    for reply in (Smtp.EHLO.fill(host="x.mail", peer=text), Smtp.SYNTAX.fill(syntax=text)):
        octets = reply.encode(style)
        assert octets.endswith(b"\r\n") and octets.count(b"\n") == octets.count(b"\r") == 1
        assert octets.isascii() and len(octets) <= 512


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40), min_size=1, max_size=6))
def test_replies_of_many_lines(lines: list[str]) -> None:
    octets = Reply("250", "2.0.0", "\n".join(lines)).encode()
    said = octets.decode().split("\r\n")
    assert said.pop() == ""
    assert [line[4:] for line in said] == [f"2.0.0 {line}" for line in lines]
    assert [line[3] for line in said] == ["-"] * (len(lines) - 1) + [" "]


# Split invariance: any cutting of the octets gives the same events (style 14).

pieces = st.sampled_from(
    [b"\r\n", b".", b"..", b"a", b"\r\n.", b"\r\n..", b"\xff", b"\r", b"\n", b"\0", b"x" * 40, b"\r\n.\r\n"]
)
contents = st.lists(pieces, max_size=40).map(b"".join)
cuts = st.lists(st.integers(0, 2000), max_size=12)


def parts(octets: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(octets) + 1) for place in places)
    return [octets[start:end] for start, end in zip([0, *ends], [*ends, len(octets)], strict=True)]


def read(octets: bytes, places: list[int], *, limit: int, normalize: bool) -> tuple[object, int]:
    """The content (or what is wrong with it) and how many octets were used; -1 when there was no end."""
    reader = DataReader(Content(limit, normalize))
    kept, done = b"", 0
    for part in parts(octets, places):
        piece, used = reader.feed(part)
        kept += piece
        if used >= 0:
            return reader.content.failure or kept, done + used
        done += len(part)
    return None, -1


@given(contents, cuts, st.booleans(), st.sampled_from([20, 10_000]))
def test_data_is_the_same_however_it_is_cut(octets: bytes, places: list[int], normalize: bool, limit: int) -> None:
    whole = read(octets, [], limit=limit, normalize=normalize)
    assert read(octets, places, limit=limit, normalize=normalize) == whole


@given(contents)
def test_clean_means_crlf_only(octets: bytes) -> None:
    """The quick look agrees with the slow one."""
    assert clean(octets) == (re.search(rb"\0|\r(?!\n)|(?<!\r)\n", octets) is None)


@given(st.binary(max_size=400), cuts)
def test_stuffed_content_comes_out_as_it_went_in(octets: bytes, places: list[int]) -> None:
    """RFC 5321 §4.5.2, both directions, for any content of CRLF lines."""
    text = whole_lines(octets.replace(b"\0", b"")).removesuffix(b"\r\n") + b"\r\n"
    stuffed = text.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
    sent = stuffed + b".\r\nQUIT\r\n"
    assert read(sent, places, limit=10_000, normalize=False) == (text, len(sent) - len(b"QUIT\r\n"))


@given(contents, cuts, cuts, st.booleans())
def test_chunks_are_the_same_however_they_are_cut(
    octets: bytes, chunks: list[int], places: list[int], normalize: bool
) -> None:
    """Chunk borders and packet borders may fall anywhere, also between CR and LF."""

    def gather(sizes: list[bytes], inner: list[int]) -> object:
        reader = ChunkReader(Content(10_000, normalize))
        kept = b""
        for chunk in sizes:
            reader.begin(len(chunk))
            for part in parts(chunk, inner):
                piece, used = reader.feed(part)
                assert used == len(part)
                kept += piece
            assert reader.left == 0
        reader.end()
        return reader.content.failure or kept

    assert gather(parts(octets, chunks), places) == gather([octets], [])


@dataclass(slots=True)
class Played:
    """What a core said of a stream: its events with contents joined, and whether it closed."""

    events: list[object]
    closed: bool


def answer(event: object) -> list[Reply]:
    if isinstance(event, Settled):
        return [event.reply]
    if isinstance(event, DataEnded | ChunkEnded):
        return [event.failure or Smtp.QUEUED]
    if isinstance(event, LoginStep):
        asks = event.mechanism == "LOGIN" or event.response in (None, b"test")
        return [Smtp.AUTH_PROMPT if asks else Smtp.AUTH_OK]
    return [Smtp.START_DATA if type(event).__name__ == "Data" else Smtp.SENDER_OK]


def play(octets: bytes, places: list[int], mode: Mode) -> Played:
    limits = SmtpLimits(message=3000, command_line=100, auth_line=200, errors=6, idle_commands=12)
    core = SmtpServerCore(mode, limits, host="x.mail", secure=True, trusted=True)
    seen: list[object] = []
    for part in parts(octets, places):
        core.feed(part)
        while not core.closed and (event := core.next_event()) is not None:
            if isinstance(event, ContentArrived):
                if seen and isinstance(seen[-1], bytes):
                    seen[-1] += event.octets
                elif event.octets:
                    seen.append(event.octets)
                continue
            if getattr(event, "failure", None) is not None and seen and isinstance(seen[-1], bytes):
                seen.pop()  # what came before a failure is forgotten, however much it was
            seen.append((event, core.send(*answer(event))))
    return Played(seen, core.closed)


lines = st.sampled_from(
    [
        b"EHLO pc\r\n",
        b"LHLO pc\r\n",
        b"HELO pc\r\n",
        b"MAIL FROM:<a@x.mail>\r\n",
        b"RCPT TO:<b@x.mail>\r\n",
        b"MAIL FROM:<a@x.mail>\r\nRCPT TO:<b@x.mail>\r\n",
        b"DATA\r\n",
        b"DATA\r\nSubject: x\r\n\r\n..\r\n.\r\n",
        b"DATA\r\n.\r\n",
        b"DATA\r\nbare\nline\r\n.\r\n",
        b"DATA\r\n" + b"x" * 3100 + b"\r\n.\r\n",
        b"BDAT 5\r\na\r\nb\r",
        b"BDAT 6 LAST\r\nRSET\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 4000\r\n",
        b"BDAT\r\n",
        b"RSET\r\n",
        b"NOOP\n",
        b"NOOP\0\r\n",
        b"N" * 101 + b"\r\n",
        b"N" * 98 + b"\r\n",
        b"AUTH PLAIN AHRlc3QAc2VjcmV0\r\n",
        b"AUTH LOGIN\r\ndGVzdA==\r\nc2VjcmV0\r\n",
        b"AUTH LOGIN\r\n*\r\n",
        b"AUTH PLAIN " + b"A" * 200 + b"\r\n",
        b"VRFY a\r\n",
        b"\r\n",
        b"GET / HTTP/1.0\r\n",
        b"QUIT\r\n",
        b"\x16\x03\x01",
        b"\xff\r\n",
    ]
)


@given(st.lists(lines, max_size=14).map(b"".join), cuts, st.sampled_from(list(Mode)))
def test_a_session_is_the_same_however_it_is_cut(octets: bytes, places: list[int], mode: Mode) -> None:
    assert play(octets, places, mode) == play(octets, [], mode)


@given(st.binary(max_size=300), cuts)
def test_any_octets_are_survived(octets: bytes, places: list[int]) -> None:
    assert play(octets, places, Mode.SMTP) == play(octets, [], Mode.SMTP)


@given(st.text("\r\n.x", max_size=40).map(str.encode))
def test_the_first_line_dot_is_where_a_plain_search_finds_it(octets: bytes) -> None:
    assert _first_line_dot(octets) == octets.find(b"\r\n.")
