"""Tracing never fails, whatever a header holds, and takes a bounded time (RFC 5321 §4.4)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.cli.picture import draw
from posthouse.cli.tracing import lines
from posthouse.mail.charsets import escape_json
from posthouse.mail.path import HOPS, read_path, to_json
from posthouse.mail.stamp import FIELD, read_stamp

SHAPES = [file.read_bytes() for file in sorted((Path(__file__).parents[1] / "unit" / "traces").glob("*.txt"))]
PIECES = [b"from", b"by", b"with", b"id", b"for", b"tls", b"(", b")", b"\\", b'"', b"<", b">", b"[", b"]", b";", b" "]
PIECES += [b"Mon, 2 Mar 2026 06:15:04 +0000", b"2026", b"192.0.2.1", b"[IPv6:", b"helo=", b"HELO", b"\xff", b"\x1b[2J"]


def tell(octets: bytes) -> str:
    path = read_path(octets, ["mx.example.org", "mx1.example.org"])
    text = "\n".join([*lines(path, terminal=True), draw(path)])
    shown = escape_json(json.dumps(to_json(path), ensure_ascii=False))
    assert json.loads(shown) == json.loads(json.dumps(to_json(path)))
    for harmful in "\x1b\x07\x00\x9b\u202e":
        assert harmful not in text and harmful not in shown
    return text


@given(st.binary(max_size=2000))
def test_any_octets(octets: bytes) -> None:
    tell(octets)
    tell(b"Received: " + octets.replace(b"\n", b" "))


@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_any_order_of_the_pieces(pieces: list[bytes]) -> None:
    tell(b"Received: " + b" ".join(pieces) + b"\r\nAuthentication-Results: mx.example.org; " + b"".join(pieces))


@given(st.sampled_from(SHAPES), st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(PIECES)), max_size=8))
def test_damaged_fields(shape: bytes, damage: list[tuple[int, bytes]]) -> None:
    for place, piece in damage:
        shape = shape[:place] + piece + shape[place + len(piece) :]
    tell(shape)


WORDS = st.text("abcdefgh ;\"'<>[].:=0123456789", max_size=40)


@given(WORDS, st.sampled_from(["from", "by", "via", "with", "id", "for"]))
def test_nothing_in_a_comment_is_a_clause(noise: str, word: str) -> None:
    """Would catch a comment that moves a letter to another server: `(by evil.example)`."""
    comment = f"({noise} {word} evil.example ({noise}) {word})"
    value = f"from a.example {comment} by b.example {comment} with LMTP {comment} id 1 {comment} for c@d.example; "
    stamp = read_stamp(f"{value}{comment} Mon, 2 Mar 2026 06:15:04 +0000 {comment}".encode())
    assert (stamp.source, stamp.by, stamp.protocol, stamp.id) == ("a.example", "b.example", "LMTP", "1")
    assert stamp.recipient == "c@d.example" and stamp.moment is not None and stamp.moment.seconds == 1772432104


@pytest.mark.parametrize(
    "piece", [b"(", b"()", b"((a)", b"<", b'"', b"[", b"\\", b";", b"; 1 ", b"a=(b ", b"2 Mar 26 1:2 "]
)
def test_a_hostile_field_takes_no_time(piece: bytes) -> None:
    """Would catch a search that begins anew at every parenthesis, which takes minutes. Four fields of the greatest
    length that is read take some tenths of a second of the thread's own time, and longer ones no more."""

    def cost(octets: int) -> float:
        field = b"Received: from x " + piece * (octets // len(piece)) + b"\r\n"
        begun = time.thread_time()
        read_path(field * 4)
        return time.thread_time() - begun

    assert cost(FIELD) < 2
    assert cost(4 * FIELD) < 2


def test_a_header_of_ten_megabytes() -> None:
    begun = time.process_time()
    path = read_path(b"Received: by x.example; Mon, 2 Mar 2026 06:15:04 +0000\r\n" * 180_000)
    assert len(path.legs) == HOPS and path.left_out > 90_000
    read_path(b"Received: " + b"(a" * 5_000_000)
    read_path(b"X: y\r\n" * 1_700_000)
    assert time.process_time() - begun < 15
