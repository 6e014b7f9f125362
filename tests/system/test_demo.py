"""`posthouse demo`, which `make run` starts: the whole system in one go, with the dialogues of the lab."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.system.raw import logged_in
from tests.system.scripted import terminal
from tests.system.server import READER, find_command, serving
from tests.system.test_send_dialogue import finish

SENDER_SAYS = [
    r"220 x\.mail ESMTP",
    r"250-x\.mail Hello\.",
    r"250 OK",
    r"250 OK",
    r"354 OK, send\.",
    r"250 Queued \(\d+\.\d{3} seconds\)",
    r"221 goodbye",
    r"Sent to 1 of 1 recipients; id <[^>]+@x\.mail>; \d+\.\d+ s",
]
READER_SAYS = [
    r"\+OK POP3",
    r"\+OK Send your password",
    r"\+OK Mailbox locked and ready",
    r"\+OK 1 messages \((?P<size>\d+) octets\)",
    r"1 (?P=size)",
    r"\+OK (?P=size) octets",
    r"\+OK msg deleted",
    r"\+OK 0 messages \(0 octets\)",
    r"\+OK POP3 server saying goodbye\.\.\.",
]


def test_without_a_terminal() -> None:
    """It sends and collects the letter, shows both dialogues word for word, ends with 0 and shows no password."""
    done = subprocess.run(
        [find_command(), "demo"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    words = r"(?:.*\n)*?".join(rf".*{line}\s*\n" for line in SENDER_SAYS + READER_SAYS)
    assert re.search(words, done.stdout), done.stdout
    assert "Subject: Message 1" in done.stdout
    assert "mail.txt" in done.stdout
    assert re.search(r"Input password: *(?!\n)\S", done.stdout) is None, "the password is shown"


def test_on_a_terminal(tmp_path: Path) -> None:
    """It stays up, and what it tells people to type works as it stands; Ctrl-C ends it with 0 and the letters vanish
    unless they were to be kept."""
    kept = tmp_path / "kept"
    with terminal([find_command(), "demo", "--keep", str(kept)], tmp_path) as demo:
        demo.expect_exact("Ctrl-C")
        demo.expect(r"posthouse send[^\r\n]*")
        send = str(demo.after)
        demo.expect(r"POSTHOUSE_PASSWORD=[^\r\n]*")
        read = str(demo.after)
        path = f"{Path(find_command()).parent}:{os.environ['PATH']}"
        for line, said in ((send, "Sent to 1 of 1"), (read, "Hello again")):
            done = subprocess.run(
                line,
                shell=True,
                env={"PATH": path, "HOME": str(tmp_path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=40,
            )
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            assert said in done.stdout + done.stderr, f"{line}: {done.stdout}{done.stderr}"
        demo.sendintr()
        finish(demo)
        assert demo.exitstatus == 0
    with serving(kept, "pop3") as server, logged_in(server.pop3, READER, "secret") as session:
        assert session.pop(b"STAT").startswith(b"+OK 1 ")
