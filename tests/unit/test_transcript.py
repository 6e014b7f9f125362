"""A transcript shows what was said, in order, and never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from posthouse.observe.transcript import MASK, Transcript, TranscriptFolder, masked


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("PASS secret word", f"PASS {MASK}"),
        ("pass secret", f"pass {MASK}"),
        ("AUTH PLAIN AHRlc3QAc2VjcmV0", f"AUTH PLAIN {MASK}"),
        ("AUTH LOGIN", "AUTH LOGIN"),
        ("APOP test 0123456789abcdef", f"APOP test {MASK}"),
        ("c2VjcmV0", MASK),
    ],
)
def test_masked(line: str, shown: str) -> None:
    assert masked(line) == shown


def lines_of(*calls: tuple[str, bytes, bool], most: int = 10_000) -> list[str]:
    written: list[str] = []
    transcript = Transcript(written.append, clock=lambda: 0.0, most=most)
    for method, octets, secret in calls:
        getattr(transcript, method)(octets, secret)
    transcript.closed()
    return [" ".join(line.split()[:-1]) for line in written]


def test_octets_cut_anywhere_become_lines_in_order() -> None:
    assert lines_of(
        ("sent", b"220 x.mail\r\n", False),
        ("received", b"EH", False),
        ("received", b"LO pc\r\n", False),
        ("sent", b"250-x.mail\r\n250 HELP\r\n", False),
    ) == ["-> 220 x.mail", "<- EHLO pc", "-> 250-x.mail", "-> 250 HELP", "=== closed"]


def test_refusals_carry_a_star_and_secrets_a_mask() -> None:
    assert lines_of(
        ("received", b"PASS secret\r\n", True),
        ("sent", b"-ERR [AUTH] no\r\n", False),
    ) == [f"<- PASS {MASK}", "*-> -ERR [AUTH] no", "=== closed"]


def test_control_characters_are_shown_not_obeyed() -> None:
    assert lines_of(("received", b"\x1b[2J\x07\r\n", False))[0] == "<- \\x1b[2J\\x07"


def test_a_transcript_is_bounded() -> None:
    shown = lines_of(*[("received", b"x" * 90 + b"\r\n", False)] * 1000, most=1000)
    assert len(shown) < 20
    assert "full" in shown[-1]


def test_a_folder_gets_a_private_file_per_session(tmp_path: Path) -> None:
    folder = TranscriptFolder(tmp_path / "t", now=lambda: 0.0)
    session = folder.session("smtp", "127.0.0.1:25", "[2001:db8::1]:4000")
    assert session is not None
    session.sent(b"220 hello\r\n")
    session.closed()
    (path,) = (tmp_path / "t").iterdir()
    assert path.name == "19700101T000000Z-00001-smtp-2001_db8__1.txt"
    assert path.stat().st_mode & 0o077 == 0
    assert "-> " in path.read_text()


def test_a_folder_that_vanished_stops_no_mail(tmp_path: Path) -> None:
    folder = TranscriptFolder(tmp_path / "t")
    (tmp_path / "t").rmdir()
    assert folder.session("smtp", "a:1", "b:2") is None
    assert folder.failures == 1
