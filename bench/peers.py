"""The servers that Posthouse is compared with, as Debian packages them, each in a folder of its own.

Nothing of the system's configuration is read or written and no service is started: every daemon runs in
the foreground below this process, on loopback, and ends with it.  Durability is the packages' own default
(Postfix syncs its queue files and Maildirs; Dovecot `mail_fsync = optimized`), which is full for deliveries.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from bench.generator import DOMAIN, PASSWORD, user
from bench.letters import letter
from bench.machine import BenchError, free_port, start, stop, wait_for_port
from bench.sink import Sink

POSTFIX_DAEMONS = Path("/usr/lib/postfix/sbin")
DOVECOT = Path("/usr/sbin/dovecot")
MAIL_OWNER = "mail"  # the Unix account to which the Maildirs belong
PACKAGES = Path(__file__).with_name("packages.txt")
INSTALLER = Path(__file__).parent.parent / "tools" / "packages.sh"


def missing_packages() -> list[str]:
    """The Debian packages whose programs are not here."""
    lines = [line.split() for line in PACKAGES.read_text(encoding="ascii").splitlines()]
    return [words[1] for words in lines if words and words[0] != "#" and not Path(words[0]).exists()]


def install() -> None:
    """Install what is missing with apt, so that no service starts."""
    if (wanted := missing_packages()) and os.geteuid() == 0:
        environment = {**os.environ, "APT": "1", "PACKAGES": str(PACKAGES)}
        subprocess.run(["sh", str(INSTALLER)], env=environment, stdout=sys.stderr, check=False)
    if missing := missing_packages():
        raise BenchError(
            f"The peers need {', '.join(missing)}: install them on Debian with `apt-get install {' '.join(wanted)}`"
            " (the bench does it as root), or leave the peers out with --peers none."
        )
    if os.geteuid() != 0:
        raise BenchError("Postfix and Dovecot start only as root. Run as root, or leave them out with --peers none.")


class Server(ABC):
    """One server under test: started in an empty folder, driven by the generator, stopped."""

    name: str
    smtp_port: int = 0
    pop3_port: int = 0
    pop3s_port: int = 0
    sink: Sink | None = None  # where letters go that are carried on

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def start(self, mailboxes: int, *, letters: int = 0, size: int = 4096, filled: int | None = None) -> None:
        """Bring it up with `mailboxes` accounts; the first `filled` (or all) hold `letters` letters each."""

    @abstractmethod
    def count(self, mailboxes: int) -> int:
        """How many letters lie in the first `mailboxes` mailboxes, asked from what is really there."""

    @abstractmethod
    def wait_delivered(self) -> None:
        """Return when nothing accepted is still under way to its mailbox."""

    def roots(self) -> list[int]:
        """The processes at the root of everything this server runs."""
        return [process.pid for process in self.processes]

    def stop(self) -> None:
        """End every process; the folder stays for its owner to remove."""
        for process in reversed(self.processes):
            stop(process)
        self.processes.clear()
        if self.sink is not None:
            self.sink.stop()


class MaildirServer(Server):
    """What the peers have in common: Maildirs of one Unix account below `folder/mail`."""

    def make_maildirs(self, mailboxes: int, letters: int, size: int, filled: int | None) -> None:
        """Make the Maildirs and write letters into the first of them, as Dovecot's LMTP would name them."""
        self.folder.chmod(0o755)
        owner = pwd.getpwnam(MAIL_OWNER)
        (self.folder / "mail").mkdir()
        for number in range(mailboxes):
            box = self.maildir(number)
            for part in (box, box / "cur", box / "new", box / "tmp"):
                part.mkdir(mode=0o700)
                os.chown(part, owner.pw_uid, owner.pw_gid)
            if filled is None or number < filled:
                _fill(box / "new", number, letters, size, owner)
        os.chown(self.folder / "mail", owner.pw_uid, owner.pw_gid)

    def maildir(self, number: int) -> Path:
        return self.folder / "mail" / user(number).partition("@")[0]

    def wait_delivered(self) -> None:
        """Nothing is ever under way in a server that only hands out."""

    def count(self, mailboxes: int) -> int:
        return sum(
            1
            for number in range(mailboxes)
            for part in ("cur", "new")
            for entry in os.scandir(self.maildir(number) / part)
            if not entry.name.startswith(".")
        )


def _fill(new: Path, number: int, letters: int, size: int, owner: pwd.struct_passwd) -> None:
    for serial in range(letters):
        data = letter(number, serial, size)
        on_disk = data.replace(b"\r\n", b"\n")
        path = new / f"1700000000.M{serial:06d}P{number}.bench,S={len(on_disk)},W={len(data)}"
        path.write_bytes(on_disk)
        os.chown(path, owner.pw_uid, owner.pw_gid)


def make_certificate(folder: Path) -> None:
    """A key on P-256, as Posthouse makes it, and a certificate for it: `tls.key`, `tls.crt`."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "30", "-subj", "/CN=localhost"]
    command += ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr}")


class Dovecot:
    """A Dovecot with its own configuration, POP3 on loopback and LMTP on a Unix socket."""

    def __init__(self, folder: Path, *, shared: bool, scheme: str, idle: int = 0) -> None:
        self.folder = folder
        self.shared = shared
        self.scheme = scheme
        self.idle = idle
        self.port, self.tls_port = free_port(), free_port()
        self.lmtp_socket = folder / "lmtp"

    def write(self, mail: Path, mailboxes: int) -> list[str]:
        """Write the configuration; return the command that runs it in the foreground."""
        for part in ("run", "state"):
            (self.folder / part).mkdir()
        owner = pwd.getpwnam(MAIL_OWNER)
        secret = PASSWORD
        if self.scheme == "ARGON2ID":
            from argon2 import PasswordHasher

            secret = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)
        (self.folder / "users").write_text(
            "".join(
                f"{user(number)}:{{{self.scheme}}}{secret}:{owner.pw_uid}:{owner.pw_gid}::{mail}:\n"
                for number in range(mailboxes)
            ),
            encoding="ascii",
        )
        (self.folder / "users").chmod(0o644)
        make_certificate(self.folder)
        (self.folder / "dovecot.conf").write_text(self._configuration(mail), encoding="ascii")
        return [str(DOVECOT), "-F", "-c", str(self.folder / "dovecot.conf")]

    def _configuration(self, mail: Path) -> str:
        clients = max(1000, self.idle + 100)
        if self.shared:  # its best: a few processes with many sessions each
            pop3 = f"service_count = 0\n  client_limit = {max(100, clients // 4)}\n  process_min_avail = 2"
        else:
            pop3 = f"service_count = 1000\n  process_limit = {clients}\n  process_min_avail = 2"
        return f"""
base_dir = {self.folder}/run
state_dir = {self.folder}/state
protocols = pop3 lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <{self.folder}/tls.crt
ssl_key = <{self.folder}/tls.key
disable_plaintext_auth = no
auth_mechanisms = plain
log_path = {self.folder}/dovecot.log
info_log_path = /dev/null
mail_location = maildir:{mail}/%n
first_valid_uid = 1
mail_fsync = optimized
mail_max_userip_connections = 1000
default_client_limit = {4 * clients}
default_process_limit = {clients}
default_vsz_limit = 0
passdb {{
  driver = passwd-file
  args = username_format=%u {self.folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {self.folder}/users
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {self.port}
  }}
  inet_listener pop3s {{
    port = {self.tls_port}
    ssl = yes
  }}
  service_count = 0
  process_min_avail = 2
}}
service pop3 {{
  {pop3}
}}
service lmtp {{
  process_min_avail = 5
  unix_listener {self.lmtp_socket} {{
    mode = 0666
  }}
}}
"""


class DovecotPop3(MaildirServer):
    """Dovecot's POP3 in its high-performance login mode, one process a session or shared ones."""

    def __init__(self, folder: Path, *, shared: bool = False, scheme: str = "PLAIN", idle: int = 0) -> None:
        super().__init__(folder)
        self.name = "Dovecot, shared POP3 processes" if shared else "Dovecot, logins tuned"
        if scheme != "PLAIN":
            self.name += f", {scheme.lower()}"
        self.dovecot = Dovecot(folder, shared=shared, scheme=scheme, idle=idle)

    def start(self, mailboxes: int, *, letters: int = 0, size: int = 4096, filled: int | None = None) -> None:
        self.make_maildirs(mailboxes, letters, size, filled)
        command = self.dovecot.write(self.folder / "mail", mailboxes)
        self.pop3_port, self.pop3s_port = self.dovecot.port, self.dovecot.tls_port
        self.processes.append(start(command, self.folder / "out.log"))
        wait_for_port(self.pop3_port, self.processes[-1])


class Postfix(MaildirServer):
    """Postfix that takes letters by SMTP; who delivers them is for the two classes below."""

    transport: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.smtp_port = free_port()

    def start(self, mailboxes: int, *, letters: int = 0, size: int = 4096, filled: int | None = None) -> None:
        self.make_maildirs(mailboxes, letters, size, filled)
        configuration = self.folder / "postfix"
        configuration.mkdir()
        for part in ("spool", "data"):
            (self.folder / part).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        _write_all(
            configuration,
            {
                "main.cf": self._main_cf(),
                "master.cf": _master_cf(self.smtp_port),
                "recipients": "".join(f"{user(number)} {self.maildir(number).name}/\n" for number in range(mailboxes)),
            },
        )
        _make_spool(self.folder / "spool")
        self.before_master(mailboxes)
        # -d: stay in the foreground and below us, so that its processes can be counted.
        command = [str(POSTFIX_DAEMONS / "master"), "-c", str(configuration), "-d"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MAIL_CONFIG": str(configuration)}
        self.processes.append(start(command, self.folder / "postfix.log", env=environment))
        wait_for_port(self.smtp_port, self.processes[-1])

    def before_master(self, mailboxes: int) -> None:
        """Start what Postfix needs beside it."""

    def wait_delivered(self) -> None:
        """Until the queue is empty.  A letter that was deferred would wait for minutes: an error here."""
        spool = self.folder / "spool"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if _any_file(spool / "deferred"):
                raise BenchError(f"{self.name} deferred a letter; see {self.folder}")
            if not (_any_file(spool / "incoming") or _any_file(spool / "active")):
                return
            time.sleep(0.01)
        raise BenchError(f"{self.name} has not delivered everything after 300 seconds")

    def _main_cf(self) -> str:
        owner = pwd.getpwnam(MAIL_OWNER)
        return f"""
compatibility_level = 3.6
queue_directory = {self.folder}/spool
data_directory = {self.folder}/data
daemon_directory = {POSTFIX_DAEMONS}
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.bench.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
alias_database =
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_base = {self.folder}/mail
virtual_mailbox_maps = texthash:{self.folder}/postfix/recipients
virtual_minimum_uid = 1
virtual_uid_maps = static:{owner.pw_uid}
virtual_gid_maps = static:{owner.pw_gid}
virtual_transport = {self.transport}
in_flow_delay = 0
initial_destination_concurrency = 20
default_process_limit = 150
"""


class PostfixVirtual(Postfix):
    """Postfix with its own `virtual` delivery agent into Maildirs."""

    name = "Postfix virtual"
    transport = "virtual"


class PostfixDovecot(Postfix):
    """Postfix that delivers by LMTP to Dovecot: the usual pair, and the one the gates speak of."""

    name = "Postfix + Dovecot LMTP"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dovecot = Dovecot(folder / "dovecot", shared=False, scheme="PLAIN")
        self.transport = f"lmtp:unix:{self.dovecot.lmtp_socket}"

    def before_master(self, mailboxes: int) -> None:
        self.dovecot.folder.mkdir()
        command = self.dovecot.write(self.folder / "mail", mailboxes)
        self.processes.append(start(command, self.folder / "dovecot.log"))
        wait_for_port(self.dovecot.port, self.processes[-1])


def _write_all(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")


def _any_file(folder: Path) -> bool:
    """Whether a queue holds a letter; queues may be spread over folders with names of one character."""
    return any((_any_file(Path(entry)) if entry.is_dir() else True) for entry in _entries(folder))


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        return os.scandir(folder)
    except FileNotFoundError:
        return ()


def _make_spool(spool: Path) -> None:
    """The queue folders with the owners that postfix-files gives them."""
    queues = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private")
    for name in (*queues, "saved", "trace"):
        (spool / name).mkdir(mode=0o700)
        shutil.chown(spool / name, "postfix")
    (spool / "pid").mkdir(mode=0o755)
    for name, mode in (("public", 0o710), ("maildrop", 0o730)):
        (spool / name).mkdir()
        shutil.chown(spool / name, "postfix", "postdrop")
        (spool / name).chmod(mode)


def _master_cf(port: int) -> str:
    services = [f"127.0.0.1:{port} inet n - n - - smtpd"]
    for name, kind, wakeup, limit, program in (
        ("pickup", "unix", "60", "1", "pickup"),
        ("cleanup", "unix", "-", "0", "cleanup"),
        ("qmgr", "unix", "300", "1", "qmgr"),
        ("tlsmgr", "unix", "1000?", "1", "tlsmgr"),
        ("rewrite", "unix", "-", "-", "trivial-rewrite"),
        ("bounce", "unix", "-", "0", "bounce"),
        ("defer", "unix", "-", "0", "bounce"),
        ("trace", "unix", "-", "0", "bounce"),
        ("verify", "unix", "-", "1", "verify"),
        ("flush", "unix", "1000?", "0", "flush"),
        ("proxymap", "unix", "-", "-", "proxymap"),
        ("proxywrite", "unix", "-", "1", "proxymap"),
        ("smtp", "unix", "-", "-", "smtp"),
        ("relay", "unix", "-", "-", "smtp"),
        ("showq", "unix", "-", "-", "showq"),
        ("error", "unix", "-", "-", "error"),
        ("retry", "unix", "-", "-", "error"),
        ("discard", "unix", "-", "-", "discard"),
        ("local", "unix", "-", "-", "local"),
        ("virtual", "unix", "-", "-", "virtual"),
        ("lmtp", "unix", "-", "-", "lmtp"),
        ("anvil", "unix", "-", "1", "anvil"),
        ("scache", "unix", "-", "1", "scache"),
        ("postlog", "unix-dgram", "-", "1", "postlogd"),
    ):
        private = "n" if name in ("pickup", "cleanup", "qmgr", "flush", "showq", "postlog") else "-"
        unprivileged = "n" if name in ("local", "virtual") else "-"
        services.append(f"{name} {kind} {private} {unprivileged} n {wakeup} {limit} {program}")
    return "\n".join(services) + "\n"
