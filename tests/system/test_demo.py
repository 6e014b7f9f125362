"""`posthouse demo`, which `make run` starts: the whole system in one go, with the dialogues of the lab."""

from __future__ import annotations

import re
import subprocess

from tests.system.server import find_command

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
