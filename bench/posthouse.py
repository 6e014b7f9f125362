"""Posthouse under test, driven by its command line alone, as an administrator's script would."""

from __future__ import annotations

import poplib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import generator
from bench.generator import DOMAIN, PASSWORD, user
from bench.machine import BenchError, free_port, start
from bench.peers import Server

# Thousands of logins at 20 ms each would take minutes; where connections are counted, hashes are not what is measured.
CHEAP_FROM = 1000
CHEAP_HASHES = '[accounts]\nhash_memory = "64K"\nhash_passes = 1\n'


class Posthouse(Server):
    """`posthouse serve` with its default durability, its limits raised where a workload needs more."""

    name = "Posthouse"

    def __init__(self, folder: Path, command: Sequence[str], templates: Path) -> None:
        super().__init__(folder)
        self.command = list(command)
        self.templates = templates
        self.data = folder / "data"

    def start(self, mailboxes: int, *, letters: int = 0, size: int = 4096, filled: int | None = None) -> None:
        template = self.templates / f"posthouse-{mailboxes}"
        if not template.exists():
            make_data(self.command, template, mailboxes)
        shutil.copytree(template, self.data)
        self.serve()
        if letters:
            self._fill(filled or mailboxes, letters, size)

    def serve(self) -> None:
        """Start the server and wait for its `ready`."""
        self.smtp_port, self.pop3_port, self.pop3s_port = free_port(), free_port(), free_port()
        words = [*self.command, "--data", str(self.data), "serve"]
        for protocol, port in (("smtp", self.smtp_port), ("pop3", self.pop3_port), ("pop3s", self.pop3s_port)):
            words += ["--listen", f"{protocol}=127.0.0.1:{port}"]
        process = start(words, self.log, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 30)
        if not readable or process.stdout.readline().strip() != b"ready":
            raise BenchError(f"Posthouse did not say `ready` within 30 seconds; see below.\n{self.last_words()}")

    def restart(self, settings: str = "") -> float:
        """Stop it and start it anew, with these settings if there are any; returns the seconds until `ready`."""
        self.stop()
        if settings:
            (self.data / "posthouse.toml").write_text(settings, encoding="ascii")
        began = time.monotonic()
        self.serve()
        return time.monotonic() - began

    @property
    def log(self) -> Path:
        return self.folder / "posthouse.log"

    def last_words(self) -> str:
        """The end of its log, for the person who reads why a run failed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""

    def _fill(self, mailboxes: int, letters: int, size: int) -> None:
        generator.run(
            "smtp",
            self.smtp_port,
            options={
                "messages": mailboxes * letters,
                "mailboxes": mailboxes,
                "size": size,
                "sessions": 8,
                "per_connection": 100,
            },
        )

    def wait_delivered(self) -> None:
        """Nothing to wait for: its 250 says that the letter lies in the mailbox."""

    def count(self, mailboxes: int) -> int:
        return sum(maildrop(self.pop3_port, number)[0] for number in range(mailboxes))

    def stop(self) -> None:
        pipes = [process.stdout for process in self.processes if process.stdout is not None]
        super().stop()
        for pipe in pipes:
            pipe.close()


def maildrop(port: int, number: int) -> tuple[int, int]:
    """Letters and octets of one maildrop, as POP3 tells them (STAT)."""
    client = poplib.POP3("127.0.0.1", port, timeout=60)
    try:
        client.user(user(number))
        client.pass_(PASSWORD)
        return client.stat()
    finally:
        client.quit()


def make_data(command: Sequence[str], data: Path, mailboxes: int) -> None:
    """A data directory with the domain and the accounts, made by the commands of the program."""
    began = time.monotonic()
    call(command, data, "domain", "add", DOMAIN)
    if mailboxes > CHEAP_FROM:
        (data / "posthouse.toml").write_text(CHEAP_HASHES, encoding="ascii")
    addresses = [user(number) for number in range(mailboxes)]
    call(command, data, "account", "add", *addresses, "--password-stdin", stdin=PASSWORD + "\n")
    print(f"  made {mailboxes} accounts in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def call(command: Sequence[str], data: Path, *words: str, stdin: str = "") -> str:
    """Run one administrator's command; its error is the bench's error."""
    full = [*command, "--data", str(data), *words]
    done = subprocess.run(full, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(full)}` failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
