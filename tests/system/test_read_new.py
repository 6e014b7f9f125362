"""`posthouse read new` against servers that do what a test says: rules, sessions, and everything hostile."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.system.scripted import READ, ScriptedServer, Talk, environment, pop3, run, stuffed
from tests.system.test_client_commands import peak_memory

Script = Callable[[Talk], None]
LETTERS = [b"Subject: %d\r\nMessage-ID: <%d@x>\r\n\r\n.text\0\r\n" % (number, number) for number in range(1, 4)]
CAPA = b"+OK\r\nUIDL\r\nTOP\r\nPIPELINING\r\n.\r\n"


class Maildrop:
    """A maildrop that deletes at QUIT, as RFC 1939 §6 says, for many sessions."""

    def __init__(self, letters: Sequence[bytes], **answers: bytes) -> None:
        self.letters = dict(enumerate(letters, 1))  # by their unique-ids
        self.answers = {"capa": CAPA, "user": b"+OK\r\n", "pass": b"+OK\r\n"} | answers
        self.sessions: list[list[bytes]] = []

    def __call__(self, talk: Talk) -> None:
        heard: list[bytes] = []
        self.sessions.append(heard)
        here, marked = list(self.letters.items()), set()
        talk.say(b"+OK\r\n")
        while line := talk.line():
            heard.append(line)
            verb, _, rest = line.decode().partition(" ")
            number = int(rest.split()[0]) - 1 if rest[:1].isdigit() else 0
            if verb.lower() in self.answers:
                talk.say(self.answers[verb.lower()])
            elif verb == "LIST":
                talk.say(stuffed(b"+OK\r\n", b"".join(b"%d %d\r\n" % (n, len(m)) for n, (_, m) in enumerate(here, 1))))
            elif verb == "UIDL":
                talk.say(stuffed(b"+OK\r\n", b"".join(b"%d u%d\r\n" % (n, u) for n, (u, _) in enumerate(here, 1))))
            elif verb in ("RETR", "TOP"):
                talk.say(stuffed(b"+OK\r\n", here[number][1]) if here[number][1] else b"-ERR damaged\r\n")
            elif verb == "DELE":
                marked.add(here[number][0])
                talk.say(b"+OK\r\n")
            elif verb == "QUIT":
                self.letters = {unique: letter for unique, letter in self.letters.items() if unique not in marked}
                talk.say(b"+OK\r\n")
                return


def new(script: Script, folder: Path, *more: str, kind: str = "maildir") -> tuple[int, dict[str, object]]:
    """Exit code and JSON answer of one run."""
    with ScriptedServer(script) as server:
        # One name for the server whatever its port: the state belongs to it.
        command = [*READ, "new", "--url", f"pop3://t@{server.address}", "--to", f"{kind}:{folder}/{kind}"]
        done = run([*command, "--json", "--timeout", "2", *more], home=folder)
    assert b"Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def letters_in(folder: Path) -> list[bytes]:
    return sorted(file.read_bytes().replace(b"\n", b"\r\n") for file in (folder / "maildir" / "new").iterdir())


def test_a_session_deletes_fifty_and_numbers_are_no_ids(tmp_path: Path) -> None:
    """Would catch one long session whose loss brings everything back, and numbers of the session before."""
    drop = Maildrop([b"Subject: %d\r\n\r\n" % number for number in range(120)])
    code, answer = new(drop, tmp_path, "--delete", "now")
    assert code == 0 and answer["deleted"] == 120 and drop.letters == {}
    assert [sum(line.startswith(b"DELE") for line in heard) for heard in drop.sessions] == [50, 50, 20]
    assert drop.sessions[1][-1] == b"QUIT" and b"DELE 1" in drop.sessions[1]
    assert len(set(letters_in(tmp_path))) == 120
    for heard in drop.sessions:  # every letter is safe before the first mark
        verbs = re.sub(r"(\w+ )\1+", r"\1", "".join(line.decode().split()[0] + " " for line in heard))
        assert verbs.endswith("RETR DELE QUIT ")


def test_who_lets_nobody_in_again_soon_gets_one_session(tmp_path: Path) -> None:
    drop = Maildrop(LETTERS * 20, capa=b"+OK\r\nLOGIN-DELAY 900\r\n.\r\n")
    assert new(drop, tmp_path, "--delete", "now")[0] == 0
    assert len(drop.sessions) == 1 and drop.letters == {}


def rounds(drop: Maildrop, folder: Path, *runs: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Several runs against one server: exit codes, and the unique-ids that were left on it."""
    found = []
    with ScriptedServer(drop) as server:
        for more in runs:
            where = ["--url", f"pop3://t@{server.address}", "--to", f"maildir:{folder}/maildir"]
            done = run([*READ, "new", *where, *more], home=folder)
            found.append((done.returncode, sorted(drop.letters)))
    return found


def test_the_rules(tmp_path: Path) -> None:
    large = b"Subject: large\r\n\r\n" + b"x" * 3000 + b"\r\n"
    drop = Maildrop([LETTERS[0], large, LETTERS[1]])
    done = rounds(
        drop,
        tmp_path,
        ["--limit", "1"],
        ["--max-size", "2K"],
        ["--delete", "after", "7d"],
        ["--delete", "bigger", "2K"],
        ["--delete", "after", "0"],
        [],
    )
    assert done == [(0, [1, 2, 3]), (0, [1, 2, 3]), (0, [1, 2, 3]), (1, [1, 3]), (1, []), (1, [])]
    assert letters_in(tmp_path) == sorted([LETTERS[0], large, LETTERS[1]])


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    """Would catch a folder, a state or a mark that a dry run makes, and an answer that the real run does not keep."""
    maildrop = Maildrop([*LETTERS, b"Subject: large\r\n\r\n" + b"x" * 5000 + b"\r\n"])
    with ScriptedServer(maildrop) as server:
        url = ["--url", f"pop3://t@{server.address}", "--json", "--timeout", "2"]
        where = ["new", "--to", f"maildir:{tmp_path}/m", "--max-size", "4K", "--limit", "2", "--delete", "bigger 40"]

        def read(*words: str) -> tuple[int, dict[str, Any]]:
            done = run([*READ, *words, *url], home=tmp_path)
            return done.returncode, json.loads(done.stdout)

        code, answer = read(*where, "--dry-run")
        assert code == 0 and answer["dry_run"] and answer["left"] == 1
        assert [(row["n"], row["subject"]) for row in answer["messages"]] == [(1, "1"), (2, "2")]
        assert [row["id"] for row in answer["would_delete"]] == ["u1", "u2"]
        assert not list(tmp_path.iterdir()), "neither a Maildir nor a state"
        code, real = read(*where)
        assert [row["id"] for row in real["messages"]] == ["u1", "u2"] and real["deleted"] == 2
        assert [row["id"] for row in read(*where, "--dry-run")[1]["messages"]] == ["u3"]
        assert read("new", "--to", f"maildir:{tmp_path}/m", "--max-size", "1", "--dry-run")[0] == 1
        code, answer = read("delete", "1", "9", "--dry-run")
        assert code == 1 and [row["would_delete"] for row in answer["messages"]] == [True, False]
        assert list(maildrop.letters) == [3, 4]
        assert read("list", "--dry-run")[0] == 64
        shown = run([*READ, "new", "--dry-run", *url[:2]], home=tmp_path)
        assert b"Would collect     1 " in shown.stdout and b"and delete 0. Nothing was done." in shown.stderr


def test_after_counts_from_when_it_was_collected(tmp_path: Path) -> None:
    drop = Maildrop(LETTERS)
    with ScriptedServer(drop) as server:
        command = [*READ, "new", "--url", f"pop3://t@{server.address}", "--to", f"maildir:{tmp_path}/maildir"]
        assert run([*command, "--delete", "after 7d"], home=tmp_path).returncode == 0
        (state,) = (tmp_path / "posthouse" / "collected").iterdir()
        aged = re.sub(rb"\+ (\d+) u1\n", lambda m: b"+ %d u1\n" % (int(m[1]) - 8 * 86_400), state.read_bytes())
        state.write_bytes(aged)
        assert run([*command, "--delete", "after 7d"], home=tmp_path).returncode == 1
    assert sorted(drop.letters) == [2, 3]


def test_one_letter_that_cannot_be_given_never_stops_the_others(tmp_path: Path) -> None:
    code, answer = new(Maildrop([LETTERS[0], b"", LETTERS[2]]), tmp_path, "--delete", "now")
    assert code == 1 and letters_in(tmp_path) == [LETTERS[0], LETTERS[2]]
    assert answer["refused"] == [{"n": 2, "id": "u2", "reply": "-ERR damaged"}]
    assert new(Maildrop([b""]), tmp_path / "other")[0] == 69


@pytest.mark.parametrize("top", [{}, {"top": b"-ERR what?\r\n"}])
def test_a_header_stands_for_a_missing_unique_id(tmp_path: Path, top: dict[str, bytes]) -> None:
    drop = Maildrop([*LETTERS, LETTERS[0]], uidl=b"-ERR\r\n", capa=b"-ERR\r\n", **top)
    assert rounds(drop, tmp_path, [], [])[0][0] == 0
    assert letters_in(tmp_path) == sorted([*LETTERS, LETTERS[0]])


def test_a_server_that_loses_its_unique_ids_does_not_double_everything(tmp_path: Path) -> None:
    drop = Maildrop(LETTERS)
    with ScriptedServer(drop) as server:
        command = [*READ, "new", "--url", f"pop3://t@{server.address}", "--to", f"maildir:{tmp_path}/maildir"]
        assert run(command, home=tmp_path).returncode == 0
        drop.answers |= {"uidl": b"-ERR ill\r\n", "capa": b"-ERR\r\n"}
        assert run(command, home=tmp_path).returncode == 69
    assert letters_in(tmp_path) == LETTERS


def test_watching_goes_on_when_the_line_is_lost(tmp_path: Path) -> None:
    drop = Maildrop([LETTERS[0]])
    count = 0

    def script(talk: Talk) -> None:
        nonlocal count
        count += 1
        if count != 2:
            drop(talk)
        if count == 2:
            drop.letters[9] = LETTERS[1]

    with ScriptedServer(script) as server:
        command = [*READ, "new", "--url", f"pop3://t@{server.address}", "--to", f"maildir:{tmp_path}/maildir"]
        child = subprocess.Popen(
            [*command, "--watch", "1"], env=environment("x", tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            first, second = child.stdout.readline(), child.stdout.readline()
        finally:
            child.terminate()
            _, said = child.communicate(timeout=10)
    assert first.startswith(b"1: ") and second.startswith(b"2: ") and b"closed the connection" in said
    assert letters_in(tmp_path) == LETTERS[:2]


# Hostile servers

STAGES = ("greeting", "capa", "user", "pass", "uidl", "list", "retr", "quit")


def whole(**answers: bytes) -> list[bytes]:
    """The replies of a session with one letter, by stage."""
    usual = {
        "capa": b"-ERR\r\n",
        "uidl": b"+OK\r\n1 u1\r\n.\r\n",
        "list": b"+OK\r\n1 42\r\n.\r\n",
        "retr": stuffed(b"+OK\r\n", LETTERS[0]),
    }
    return [(usual | answers).get(stage, b"+OK\r\n") for stage in STAGES]


def played(replies: Sequence[bytes], stop: int, how: str) -> Script:
    """Says these replies up to one, which it never says whole."""

    def script(talk: Talk) -> None:
        for number, reply in enumerate(replies):
            if number == stop:
                if how == "half":
                    talk.say(reply[: len(reply) // 2])
                elif how == "silent":
                    threading.Event().wait(3)
                elif how == "babble":
                    for _ in range(400):
                        talk.say(b"+ babble \0\x1b[2J" * 200)
                elif how == "refuse":
                    talk.say(b"-ERR no\r\n")
                    talk.rest()
                return
            talk.say(reply)
            talk.line()
        talk.rest()

    return script


@pytest.mark.parametrize("how", ["close", "half", "silent", "babble", "refuse"])
@pytest.mark.parametrize("stage", STAGES)
def test_whatever_stage_it_breaks_at_nothing_is_lost(tmp_path: Path, stage: str, how: str) -> None:
    code, answer = new(played(whole(), STAGES.index(stage), how), tmp_path, "--timeout", "0.8")
    if how == "refuse":
        assert code in {"user": (77,), "pass": (77,), "capa": (75, 76), "uidl": (69, 75, 76)}.get(stage, (69, 75))
    else:
        assert code == (76 if how == "babble" and stage != "retr" else code) and code in (75, 76)
    assert answer["ok"] is False and answer["error"]
    assert letters_in(tmp_path) == ([LETTERS[0]] if stage == "quit" else [])
    assert not list((tmp_path / "maildir" / "tmp").iterdir())


def test_replies_cut_at_every_octet(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        for reply in whole():
            talk.say_slowly(reply)
            talk.line()

    assert new(script, tmp_path)[0] == 0
    assert letters_in(tmp_path) == [LETTERS[0]]


@pytest.mark.parametrize("kind", ["maildir", "mbox"])
def test_a_hundred_megabytes_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    block = (b"QUJD" * 19 + b"\r\n") * 800

    def script(talk: Talk) -> None:
        for reply in whole()[:-2]:
            talk.say(reply)
            talk.line()
        talk.say(b"+OK\r\n\r\n")
        for _ in range(100_000_000 // len(block)):
            talk.say(block)
        talk.say(b".\r\n")
        talk.line()
        talk.say(b"+OK\r\n")

    with ScriptedServer(script) as server:
        where = ["--to", f"{kind}:{tmp_path}/{kind}"]
        peak, code = peak_memory([*READ, "new", "--url", f"pop3://t@{server.address}", *where])
    assert code == 0 and peak < 60_000_000


def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    """One of them is small enough: the lists are read whole, in bounded memory, and no number is mixed up."""
    count = 100_000
    sizes = b"".join(b"%d %d\r\n" % (n, 42 if n == 77_777 else 9_999) for n in range(1, count + 1))
    ids = b"".join(b"%d unique-id-of-message-%d\r\n" % (n, n) for n in range(1, count + 1))
    script = pop3(
        [LETTERS[0]],
        list=stuffed(b"+OK\r\n", sizes),
        uidl=stuffed(b"+OK\r\n", ids),
        retr=stuffed(b"+OK\r\n", LETTERS[0]),
    )
    with ScriptedServer(script) as server:
        where = ["--to", f"mbox:{tmp_path}/mbox", "--max-size", "1K"]
        peak, code = peak_memory([*READ, "new", "--url", f"pop3://t@{server.address}", *where])
        asked = [line for line in server.heard if line.startswith(b"RETR")]
    assert code == 0 and asked == [b"RETR 77777"] and peak < 200_000_000
    assert (tmp_path / "mbox").read_bytes().count(b"\nSubject: 1\n") == 1


# In use, or a wrong password


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("[IN-USE] Mailbox is locked by another POP3 session.", 75),  # Dovecot
        ("Mailbox is locked by another POP3 session.", 75),
        ("maildrop already locked", 75),  # RFC 1939
        ("Your mailbox is already locked", 75),  # hMailServer
        ("test lock busy!  Is another session active? (11)", 75),  # qpopper
        ("Can't get lock.  Mailbox in use", 75),  # UW ipop3d
        ("Unable to lock maildrop: Mailbox is locked by POP server", 75),  # Cyrus
        ("Maximum connection limit reached for your account.", 75),  # Courier
        ("Temporary problem, please try again later", 75),  # Courier
        ("[SYS/TEMP] Internal error occurred. Refer to server log for more information.", 75),  # Dovecot
        ("[AUTH] Authentication failed.", 77),  # Dovecot
        ("authorization failed", 77),  # qmail
        ("Login failed.", 77),  # Courier
        ("account is locked", 77),
        ("Invalid user name or password.", 77),  # hMailServer
        ("[AUTH] mailbox locked: wrong password", 77),
    ],
)
def test_in_use_is_told_apart_from_a_wrong_password(tmp_path: Path, said: str, code: int) -> None:
    done, answer = new(pop3(LETTERS, **{"pass": f"-ERR {said}\r\n".encode()}), tmp_path)
    assert (done, answer["reply"]) == (code, f"-ERR {said}")
    assert ("password" in str(answer["error"])) is (code == 77)
