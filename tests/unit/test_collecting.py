"""What `posthouse read new` stands on: what was collected before, and the places that whole messages go to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.cli.collected import Collected
from posthouse.cli.collecting import header_id
from posthouse.cli.exits import Problem
from posthouse.cli.fetching import PIECE
from posthouse.cli.rules import Rules, join_words, read_deletion
from posthouse.cli.targets import Maildir, Mbox, Target

MOMENT = 1_764_080_000


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def state(target: str = "mbox:x") -> Collected:
    return Collected.open("a@x.mail", "h", target)


def state_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "posthouse" / "collected").iterdir(), key=lambda path: -path.stat().st_size)


def remember(state: Collected, *identities: str, now: int = MOMENT) -> None:
    state.add(identities, now=now, moment=MOMENT, length=7)


# What was collected


def test_what_was_collected_is_remembered(tmp_path: Path) -> None:
    with state() as first:
        first.begin(MOMENT, 0)
        remember(first, "id-1", "id with blanks")
        with pytest.raises(Problem, match="Another posthouse"):
            state()
        first.end()
    with state() as again:
        assert "id-1" in again and "id with blanks" in again and "id-2" not in again
        assert again.since("id-1") == MOMENT and again.interrupted is None and len(again) == 2
    with state("") as other:  # what was only shown is not safe in a folder
        assert "id-1" not in other
    assert state_files(tmp_path)[0].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "torn", ["+ 1764080000 id-2", "+ 1764080000 id-2\n", "+ 1764080000 id-2\n= 17640", "junk\n\0\0"]
)
def test_a_torn_batch_does_not_count(tmp_path: Path, torn: str) -> None:
    """Would catch an id that is believed although its message may not be whole."""
    with state() as first:
        first.begin(MOMENT, 3)
        remember(first, "id-1")
    (file, *_) = state_files(tmp_path)
    with file.open("a") as more:
        more.write(torn)
    with state() as again:
        assert "id-1" in again and "id-2" not in again
        assert again.interrupted is not None
        assert (again.interrupted.moment, again.interrupted.length) == (MOMENT, 7)
        remember(again, "id-3")
        again.end()
    with state() as last:
        assert "id-1" in last and "id-3" in last and "id-2" not in last and last.interrupted is None


def test_ids_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with state() as first:
        for number in range(1500):
            remember(first, f"id-{number}", now=number)
        first.end()
        first.keep_only({"id-1", "id-new"})
        with pytest.raises(Problem, match="Another posthouse"):  # the lock went with the file
            state()
        remember(first, "id-last")
        first.end()
    with state() as again:
        assert "id-1" in again and again.since("id-1") == 1 and "id-last" in again and "id-7" not in again


# Places


def deliver(target: Target, *letters: bytes, token: str = "") -> None:
    for number, letter in enumerate(letters):
        target.begin(f"{token}{number}" if token else "")
        target.write(letter)
        target.end()
    target.sync()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([b"From ", b">From ", b"\r", b"\n", b"\r\n", b"x", b"." * PIECE]), max_size=12))
def test_places_write_the_same_however_a_letter_is_cut(parts: list[bytes]) -> None:
    """Would catch a CR that stays where a piece ended between CR and LF, and a "From " that begins a piece."""
    import tempfile

    whole = b"".join(parts)
    with tempfile.TemporaryDirectory() as name:
        for number, pieces in enumerate(([whole], parts)):
            maildir, mbox = Maildir(Path(name) / f"Mail{number}"), Mbox(Path(name) / f"box{number}")
            for target in (maildir, mbox):
                target.start(MOMENT)
                target.begin("Hx")
                for piece in pieces:
                    target.write(piece)
                target.end()
                target.sync()
                target.close()
        (one,), (other,) = ((Path(name) / f"Mail{number}" / "new").iterdir() for number in (0, 1))
        assert one.read_bytes() == other.read_bytes() == whole.replace(b"\r\n", b"\n")
        boxes = [(Path(name) / f"box{number}").read_bytes() for number in (0, 1)]
        assert boxes[0] == boxes[1] and b"\nFrom " not in boxes[0]


def test_mbox_escapes_what_would_begin_a_message(tmp_path: Path) -> None:
    octets = b"From: a\r\n\r\nFrom here\r\n>From there\r\n From\r\nno end"
    target = Mbox(tmp_path / "box")
    deliver(target, octets, octets)
    target.close()
    messages = (tmp_path / "box").read_bytes().split(b"From MAILER-DAEMON ")[1:]
    assert len(messages) == 2
    for message in messages:
        assert message.split(b"\n", 1)[1] == b"From: a\n\n>From here\n>>From there\n From\nno end\n\n"


@pytest.mark.parametrize(("before", "gap"), [(b"From x\n\nhi", b"\n\n"), (b"From x\n\nhi\n", b"\n"), (b"\n\n", b"")])
def test_a_message_begins_behind_an_empty_line(tmp_path: Path, before: bytes, gap: bytes) -> None:
    (tmp_path / "box").write_bytes(before)
    target = Mbox(tmp_path / "box")
    deliver(target, b"a\r\n")
    target.close()
    assert (tmp_path / "box").read_bytes().startswith(before + gap + b"From MAILER-DAEMON ")


def test_a_message_that_does_not_come_whole_leaves_nothing(tmp_path: Path) -> None:
    for target in (Maildir(tmp_path / "Mail"), Mbox(tmp_path / "box")):
        deliver(target, b"whole\r\n")
        target.begin()
        target.write(b"half" * PIECE)
        target.drop()
        target.drop()
        target.close()
    (letter,) = (tmp_path / "Mail" / "new").iterdir()
    assert letter.read_bytes() == b"whole\n" and not list((tmp_path / "Mail" / "tmp").iterdir())
    assert (tmp_path / "box").read_bytes().endswith(b"whole\n\n")


def test_a_maildir_has_whole_messages_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Maildir(tmp_path / "Mail")
    deliver(target, b"Subject: a\r\n\r\nb\r\n")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        deliver(target, b"c\r\n", b"d\r\n")
    target.close()
    (letter,) = (tmp_path / "Mail" / "new").iterdir()
    assert letter.read_bytes() == b"Subject: a\n\nb\n"
    assert not list((tmp_path / "Mail" / "tmp").iterdir())


# After a crash


def test_a_maildir_knows_what_the_broken_run_had_written(tmp_path: Path) -> None:
    target = Maildir(tmp_path / "Mail")
    target.start(MOMENT)
    deliver(target, b"a\r\n", b"b\r\n", token="Hours")
    deliver(target, b"of another account\r\n", token="Htheirs")
    deliver(target, b"by chance\r\n")
    for file in (tmp_path / "Mail" / "new").iterdir():
        if ".Hours1." in file.name:
            file.rename(tmp_path / "Mail" / "cur" / f"{file.name}:2,S")  # a mail program was faster
    target.begin("Hours7")
    target.write(b"half" * PIECE)  # and the kill comes now: nothing is dropped or closed
    assert len(list((tmp_path / "Mail" / "tmp").iterdir())) == 1
    after = Maildir(tmp_path / "Mail")
    assert after.recover(MOMENT, 0, "Hours") == {"Hours0", "Hours1"}
    assert not list((tmp_path / "Mail" / "tmp").iterdir())
    later = max(int(file.name.split(".")[0]) for file in (tmp_path / "Mail" / "new").iterdir()) + 1
    assert after.recover(later, 0, "Hours") == set()  # a unique-id may come again once its message is gone
    target.close()


@pytest.mark.parametrize("cut", [2, 10, 20, 60, 2000, 10_000])
def test_an_mbox_is_cut_back_to_what_is_remembered(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "box"
    path.write_bytes(b"From x\n\nof another program\n")
    before = path.read_bytes()
    broken = Mbox(path)
    broken.start(MOMENT)
    deliver(broken, b"a\r\n" * 300, b"From b\r\n" * 300)
    broken.close()
    with path.open("r+b") as file:
        file.truncate(min(len(before) + cut, path.stat().st_size))
    after = Mbox(path)
    after.recover(MOMENT, len(before), "H")
    with pytest.raises(Problem, match="Another program"):  # the look at it did not cost us the lock
        lock_of_another_process(path)
    after.close()
    assert path.read_bytes() == before


def lock_of_another_process(path: Path) -> None:
    """POSIX locks are of processes, so another one has to ask."""
    import subprocess
    import sys

    code = "import sys; from pathlib import Path; from posthouse.cli.targets import Mbox; Mbox(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise Problem(*(75, done.stderr))  # type: ignore[arg-type]


@pytest.mark.parametrize("ours_first", [False, True])
def test_an_mbox_is_never_cut_where_another_program_wrote(
    tmp_path: Path, ours_first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "box"
    target = Mbox(path)
    target.start(MOMENT)
    if ours_first:
        deliver(target, b"ours\r\n")
    with path.open("ab") as file:
        file.write(b"From them@x.mail Mon Mar  2 09:14:57 2026\n\ntheirs\n\n")
    before = path.read_bytes()
    target.recover(MOMENT, 0, "H")
    target.close()
    assert path.read_bytes() == before
    assert ("may come twice" in capsys.readouterr().err) is ours_first


# Rules


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ([], Rules()),
        (["never"], Rules()),
        (["now"], Rules(after=0.0)),
        (["after 7d"], Rules(after=7 * 86_400.0)),
        (["after  36h"], Rules(after=36 * 3600.0)),
        (["bigger 5M"], Rules(bigger=5 * 1024 * 1024)),
        (["after 7d", "bigger 100K"], Rules(after=7 * 86_400.0, bigger=102_400)),
        (["now", "never"], Rules()),
    ],
)
def test_what_delete_says(words: list[str], rules: Rules) -> None:
    assert read_deletion(Rules(), words) == rules


@pytest.mark.parametrize("word", ["", "later", "after", "after x", "bigger", "bigger -1", "now 5M", "after -7d", "Now"])
def test_what_delete_does_not_say(word: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_deletion(Rules(), [word])


def test_no_quotation_marks_are_needed() -> None:
    assert join_words(["new", "--delete", "after", "7d", "-q"]) == ["new", "--delete", "after 7d", "-q"]
    assert join_words(["new", "--delete=bigger", "5M"]) == ["new", "--delete=bigger 5M"]
    assert join_words(["--delete", "now", "new"]) == ["--delete", "now", "new"]
    assert join_words(["new", "--delete", "after"]) == ["new", "--delete", "after"]


def test_a_header_stands_for_a_unique_id() -> None:
    letter = b"From: a\r\nMessage-ID: <1@x>\r\n\r\nbody"
    assert header_id(letter) == header_id(letter.replace(b"body", b"other")) == header_id(b"Status: RO\r\n" + letter)
    assert header_id(letter) != header_id(letter.replace(b"<1@x>", b"<2@x>"))
