"""The outbox itself: what is durable, who may have a letter, and how it stands with it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import IO

import pytest

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.origins import outbox_folder
from posthouse.clients.outbox import Busy, Missing, Outbox
from posthouse.clients.waiting import Damaged, Recipient, Route, State, Waiting, read, write
from posthouse.mail.schedule import CLASSIC, DAY, HOUR, USUAL
from posthouse.net.files import try_lock

NOW = 1_800_000_000.0


def letter(*recipients: str) -> Waiting:
    found = [Recipient(address) for address in recipients or ("anna@x.mail",)]
    return Waiting("", "me@x.mail", found, "<1@x.mail>", "Привет \udcff", 0, Route("smtp://x.mail", "me"), NOW, NOW)


def put(box: Outbox) -> str:
    with box.add(letter(), [b"x"]) as taken:
        return taken.waiting.id


@pytest.fixture
def box(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "state" / "outbox")


def test_a_letter_is_there_as_it_was_put_in(box: Outbox) -> None:
    with box.add(letter("anna@x.mail", "b@x.mail"), [b"Subject: x\r\n", b"\r\n", b"text\r\n"]) as taken:
        name = taken.waiting.id
    found = box.look(name, NOW)
    assert found == taken.waiting and found.state is State.QUEUED and found.size == 20
    with box.take(name, NOW) as again:
        assert b"".join(again.content()) == b"Subject: x\r\n\r\ntext\r\n"
    for path in [box.path, *box.path.rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, f"others can read {path}"


def test_one_letter_is_in_one_hand(box: Outbox) -> None:
    with box.add(letter(), [b"x"]) as taken:
        name = taken.waiting.id
        with pytest.raises(Busy):
            box.take(name, NOW)
        assert box.look(name, NOW).id == name
    with box.take(name, NOW) as again:
        again.drop()
    with pytest.raises(Missing):
        box.take(name, NOW)
    assert box.ids() == []


def test_who_waited_for_a_letter_finds_what_became_of_it(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is had only after the other one dropped the letter: it must not come back."""
    from posthouse.clients import outbox

    name = put(box)

    def late(file: IO[bytes]) -> bool:
        shutil.rmtree(box.path / name)
        return try_lock(file)

    monkeypatch.setattr(outbox, "try_lock", late)
    with pytest.raises(Missing):
        box.take(name, NOW)


def test_what_was_not_finished_is_no_letter(box: Outbox) -> None:
    def broken() -> object:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        box.add(letter(), broken())  # type: ignore[arg-type]
    assert list(box.path.iterdir()) == []


def test_what_a_crash_left_is_swept_but_not_what_is_being_written(box: Outbox) -> None:
    box.path.mkdir(parents=True)
    for name in (".new-dead", ".gone-k3f9a2x7-dead", ".new-young"):
        (box.path / name).mkdir()
        (box.path / name / "letter.eml").write_bytes(b"x")
        if name != ".new-young":
            os.utime(box.path / name, (NOW - 7200, NOW - 7200))
    os.utime(box.path / ".new-young", (NOW - 10, NOW - 10))
    box.sweep(NOW)
    assert [path.name for path in box.path.iterdir()] == [".new-young"]


def test_the_beginning_of_an_id_is_enough(box: Outbox) -> None:
    names = [put(box) for _ in range(40)]
    assert all(box.find(name) == name for name in names)
    assert box.find(names[0].upper()) == names[0]
    with pytest.raises(Missing, match="no letter"):
        box.find("zzzzzzzzz")
    with pytest.raises(Missing, match="no letter"):
        box.find("")
    first = min(names)[0]
    if sum(name.startswith(first) for name in names) > 1:
        with pytest.raises(Missing, match="beginning of"):
            box.find(first)


@pytest.mark.parametrize("octets", [b"", b"{}", b"[]", b"\xff", b'{"format": 2}', b'{"format": 1, "id": "x"}'])
def test_a_damaged_letter_is_told_and_can_be_dropped(box: Outbox, octets: bytes) -> None:
    name = put(box)
    (box.path / name / "state.json").write_bytes(octets)
    letters, damaged = box.list(NOW)
    assert letters == [] and list(damaged) == [name]
    with pytest.raises(Damaged):
        box.take(name, NOW)
    box.drop_damaged(name)
    assert box.list(NOW) == ([], {})


def test_another_text_comes_with_its_state_or_not_at_all(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from posthouse.clients import outbox

    with box.add(letter(), [b"old"]) as taken:
        name = taken.waiting.id

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(outbox, "write_whole", full)
            with pytest.raises(OSError, match="No space"):
                taken.replace([b"new one"])
    with box.take(name, NOW) as again:
        assert b"".join(again.content()) == b"old" and again.waiting.size == 3
        again.replace([b"new one"])
    with box.take(name, NOW) as again:
        assert b"".join(again.content()) == b"new one" and again.waiting.size == 7
        assert [path.name for path in again.folder.glob("*.eml")] == [again.waiting.file]


def test_sent_letters_leave_their_record_for_a_week(box: Outbox) -> None:
    with box.add(letter(), [b"x"]) as taken:
        taken.waiting.recipients[0].status = "sent"
        taken.waiting.finish(NOW)
        taken.save()
    box.sweep(NOW + 5)
    with box.take(taken.waiting.id, NOW) as again:
        assert not again.message.exists() and again.waiting.state is State.SENT
    box.sweep(NOW + 8 * DAY)
    assert box.ids() == []


def test_a_failed_letter_is_never_swept(box: Outbox) -> None:
    with box.add(letter(), [b"x"]) as taken:
        taken.waiting.recipients[0].status = "failed"
        taken.waiting.finish(NOW)
        taken.save()
    box.sweep(NOW + 1000 * DAY)
    with box.take(taken.waiting.id, NOW) as again:
        assert again.message.exists()


# States


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        (["waiting"], State.QUEUED),
        (["sent", "waiting"], State.QUEUED),
        (["sent", "sent"], State.SENT),
        (["sent", "deferred", "failed"], State.DEFERRED),
        (["sent", "failed"], State.FAILED),
        (["deferred", "uncertain"], State.UNCERTAIN),
    ],
)
def test_the_state_of_a_letter_is_that_of_its_recipients(statuses: list[str], state: State) -> None:
    waiting = letter(*(f"{n}@x.mail" for n in range(len(statuses))))
    for recipient, status in zip(waiting.recipients, statuses, strict=True):
        recipient.status = status
    assert waiting.state is state
    assert read(write(waiting)) == waiting
    waiting.held = True
    assert waiting.state is State.HELD and not waiting.is_due(NOW)


def test_the_timetable_is_followed_to_its_end() -> None:
    waiting = letter()
    now, times = NOW, 0
    while waiting.due is not None:
        now = waiting.due
        assert waiting.is_due(now) and not waiting.is_due(now - 1)
        waiting.begin(now, "")
        assert waiting.state is State.SENDING and not waiting.is_due(now)
        waiting.recipients[0].status = "deferred"
        waiting.finish(now)
        times += 1
    assert waiting.state is State.FAILED and now == NOW + USUAL.lifetime
    assert len(waiting.attempts) == times > 30
    assert waiting.renew(now, ("failed",)) == 1 and waiting.is_due(now)
    waiting.recipients[0].status = "deferred"
    waiting.finish(now, CLASSIC)
    assert waiting.due == now + HOUR


def test_a_crash_before_the_final_dot_repeats_and_one_behind_it_does_not(box: Outbox) -> None:
    for phase, status, state, due in (
        ("begun", "waiting", State.QUEUED, NOW + 7),
        ("ended", "uncertain", State.UNCERTAIN, None),
    ):
        with box.add(letter(), [b"x"]) as taken:
            taken.waiting.begin(NOW, "001.txt")
            taken.waiting.phase, taken.waiting.recipients[0].status = phase, status
            taken.save()
            assert box.look(taken.waiting.id, NOW + 7).state is State.SENDING
        found = box.look(taken.waiting.id, NOW + 7)
        assert (found.state, found.due) == (state, due)
        assert "ended in the middle" in found.attempts[-1].text
        assert box.look(taken.waiting.id, NOW + 9) == found


def test_nothing_secret_has_a_place() -> None:
    assert not [name for name in (*Route.__slots__, *Waiting.__slots__) if "pass" in name or "secret" in name]


def test_where_the_outbox_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert outbox_folder() == tmp_path / "posthouse" / "outbox"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification: to be passed over
    monkeypatch.setenv("HOME", "/home/anna")
    assert outbox_folder() == Path("/home/anna/.local/state/posthouse/outbox")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(Problem, match="has no home for an outbox") as problem:
        outbox_folder()
    assert problem.value.code is Exit.CANNOT_CREATE
