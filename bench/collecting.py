"""The workloads C1 and C2: ten thousand letters collected into a Maildir, by `posthouse read new`, mpop and getmail.

Here the programs that collect are what is measured, and the server is the same Dovecot for all: each has one of its
own, with the same letters.  Mail stays on the server, and each run begins with an empty Maildir and knows of nothing.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.generator import PASSWORD, user
from bench.machine import BenchError
from bench.peers import MAIL_OWNER, DovecotPop3, Server
from bench.workloads import Peer, Sample, Workload

LETTERS = 10_000
LONGEST = 900.0  # seconds of one run
PROGRAMS = {Peer.MPOP: "/usr/bin/mpop", Peer.GETMAIL: "/usr/bin/getmail"}


class Collecting(DovecotPop3):
    """A Dovecot with one full mailbox, and the program that empties it into a Maildir."""

    def __init__(self, folder: Path, peer: Peer | None, command: Sequence[str]) -> None:
        super().__init__(folder)
        self.name = peer.value if peer is not None else "Posthouse"
        self._peer = peer
        self._command = list(command)

    def collect(self, *, tls: bool) -> tuple[float, float, int]:
        """Collects everything anew: seconds, seconds of CPU, and how many letters lie in the Maildir then."""
        place = self.folder / "collected"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for part in ("", "new", "cur", "tmp"):
            (place / "maildir" / part).mkdir()
            if self._peer is Peer.GETMAIL:  # it writes no mail as root, so it is told to do so as somebody else
                shutil.chown(place / "maildir" / part, MAIL_OWNER, MAIL_OWNER)
        words = self._words(place, tls=tls)
        environment = os.environ | {"POSTHOUSE_PASSWORD": PASSWORD, "XDG_STATE_HOME": str(place), "HOME": str(place)}
        before, began = _cpu_of_children(), time.monotonic()
        with (self.folder / "collector.log").open("wb") as log:
            done = subprocess.run(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=LONGEST, check=False
            )
        seconds, cpu = time.monotonic() - began, _cpu_of_children() - before
        if done.returncode:
            said = (self.folder / "collector.log").read_text(errors="replace")[-2000:]
            raise BenchError(f"{self.name} ended with status {done.returncode}:\n{said}")
        return seconds, cpu, sum(1 for _ in os.scandir(place / "maildir" / "new"))

    def _words(self, place: Path, *, tls: bool) -> list[str]:
        port = self.pop3s_port if tls else self.pop3_port
        if self._peer is Peer.MPOP:
            return _mpop(place, port, self._fingerprint() if tls else "")
        if self._peer is Peer.GETMAIL:
            return _getmail(place, port, tls=tls)
        url = f"{'pop3s' if tls else 'pop3'}://{user(0).replace('@', '%40')}@127.0.0.1:{port}"
        pin = ["--pin", self._fingerprint()] if tls else []
        return [*self._command, "read", "new", "--quiet", "--to", f"maildir:{place}/maildir", "--url", url, *pin]

    def _fingerprint(self) -> str:
        certificate = (self.dovecot.folder / "tls.crt").read_text(encoding="ascii")
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


def _mpop(place: Path, port: int, fingerprint: str) -> list[str]:
    pin = ":".join(fingerprint[n : n + 2] for n in range(0, len(fingerprint), 2))
    tls = f"tls on\ntls_starttls off\ntls_fingerprint {pin}\n" if fingerprint else "tls off\n"
    settings = place / "mpoprc"
    settings.write_text(
        f"account x\nhost 127.0.0.1\nport {port}\n{tls}auth user\nuser {user(0)}\n"
        f'password "{PASSWORD}"\ndelivery maildir {place}/maildir\nreceived_header off\n'
        f"keep on\nuidls_file {place}/uidls\n",
        encoding="ascii",
    )
    settings.chmod(0o600)
    return [PROGRAMS[Peer.MPOP], f"--file={settings}", "--quiet", "x"]


def _getmail(place: Path, port: int, *, tls: bool) -> list[str]:
    (place / "getmailrc").write_text(
        f"[retriever]\ntype = {'SimplePOP3SSLRetriever' if tls else 'SimplePOP3Retriever'}\n"
        f"server = 127.0.0.1\nport = {port}\nusername = {user(0)}\npassword = {PASSWORD}\ntimeout = 150\n"
        f"[destination]\ntype = Maildir\npath = {place}/maildir/\nuser = {MAIL_OWNER}\n"
        "[options]\nread_all = false\ndelete = false\nreceived = false\ndelivered_to = false\nverbose = 0\n",
        encoding="ascii",
    )
    (place / "getmailrc").chmod(0o600)
    # On one core: it forks for each letter, and where the child runs beside it, it may miss the child's end and wait
    # until the time-out (6.18.11).  It loses nothing by that, as parent and child take turns anyway.
    return ["taskset", "-c", "0", PROGRAMS[Peer.GETMAIL], "--getmaildir", str(place), "--rcfile", "getmailrc"]


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def collector(peer: Peer | None, folder: Path, command: Sequence[str]) -> Server:
    """The server of a row: a Dovecot, and the program that collects from it; ours when `peer` is None."""
    return Collecting(folder, peer, command)


def measure(*, tls: bool) -> Callable[[Server, int], Sample]:
    """One run of a program over the whole mailbox, each letter looked for afterwards."""

    def run(server: Server, count: int) -> Sample:
        del count  # what lies in the mailbox is collected, all of it
        assert isinstance(server, Collecting)
        seconds, cpu, found = server.collect(tls=tls)
        expected = server.count(1)
        if found != expected:
            raise BenchError(f"{server.name} collected {found} of {expected} letters")
        return Sample(found / seconds, cpu / found * 1e6, own_cpu=cpu / seconds)

    return run


def warm(server: Server) -> object:
    """Dovecot writes its index when a mailbox is opened first; nobody is to pay for that."""
    assert isinstance(server, Collecting)
    return server.collect(tls=False)


def workloads(letters: int = LETTERS) -> list[Workload]:
    """Both workloads, in the order of the table."""
    return [
        Workload(
            key,
            f"{letters:,} letters of 4 KiB from Dovecot to a Maildir{', POP3S' if tls else ''}",
            "letters/s",
            (Peer.MPOP, Peer.GETMAIL),
            measure(tls=tls),
            1,
            1,
            (Peer.MPOP,),
            gate=1,
            reach=2,
            mailboxes=1,
            letters=letters,
            prepare=None if tls else warm,
            maker=collector,
            notes=["each syncs every letter; the CPU is that of the program that collects"],
        )
        for key, tls in (("C1", False), ("C2", True))
    ]
