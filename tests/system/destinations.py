"""Mail servers nobody here wrote, as next hosts: Postfix that keeps letters for its domain and carries others on to us,
Dovecot that takes them by LMTP."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.machine import free_port, start, stop, wait_for_port
from bench.peers import MAIL_OWNER, POSTFIX_DAEMONS, Dovecot, Postfix

from tests.system.programs import find_program, leave_out
from tests.system.relays import folder_for_servers
from tests.system.server import PASSWORD, Endpoint, wait_for

DOMAIN = "next.example"


class Destination(Postfix):
    """Postfix that has the mailboxes boris@ and anna@next.example, and forwards letters for back@next.example to the
    lab's second account; what is for other domains, its notices above all, it carries to `back`, over TLS."""

    name = "Postfix"

    def __init__(self, folder: Path, certificate: Path, back: Endpoint, more: str) -> None:
        super().__init__(folder)
        self.certificate, self.back, self.more = certificate, back, more

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.smtp_port)

    def letters(self, name: str = "boris") -> list[bytes]:
        """What lies in a mailbox, with CRLF."""
        new = self.folder / "mail" / name / "new"
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in sorted(new.glob("*"))] if new.exists() else []

    def wait_letters(self, count: int = 1, name: str = "boris") -> list[bytes]:
        wait_for(lambda: len(self.letters(name)) >= count, self.log, 20)
        assert len(self.letters(name)) == count
        return self.letters(name)

    def log(self) -> str:
        file = self.folder / "mail.log"
        return file.read_text(errors="replace")[-3000:] if file.exists() else "(no log)"

    def before_master(self, mailboxes: int) -> None:
        (self.folder / "postfix" / "recipients").write_text(f"boris@{DOMAIN} boris/\nanna@{DOMAIN} anna/\n")
        (self.folder / "postfix" / "aliases").write_text(f"back@{DOMAIN} test2@x.mail\n")

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
maillog_file = {self.folder}/mail.log
maillog_file_prefixes = {self.folder}
myhostname = mx.{DOMAIN}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = may
smtpd_tls_cert_file = {self.certificate}
smtpd_tls_key_file = {self.certificate}
smtpd_tls_received_header = yes
alias_maps =
alias_database =
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_base = {self.folder}/mail
virtual_mailbox_maps = texthash:{self.folder}/postfix/recipients
virtual_alias_maps = texthash:{self.folder}/postfix/aliases
virtual_minimum_uid = 1
virtual_uid_maps = static:{owner.pw_uid}
virtual_gid_maps = static:{owner.pw_gid}
default_transport = smtp:[127.0.0.1]:{self.back.port}
relay_domains =
smtp_tls_security_level = encrypt
smtputf8_enable = yes
in_flow_delay = 0
{self.more}
"""


@contextlib.contextmanager
def postfix_destination(certificate: Path, back: Endpoint, more: str = "") -> Iterator[Destination]:
    """A Postfix on loopback, for the length of a `with` block; `more` are further lines of its main.cf."""
    find_program(str(POSTFIX_DAEMONS / "master"))
    if os.geteuid() != 0:
        leave_out("Postfix starts only as root")
    with folder_for_servers() as folder:
        owned = folder / "cert.pem"
        owned.write_bytes(certificate.read_bytes())
        destination = Destination(folder, owned, back, more)
        try:
            destination.start(0)
            yield destination
        finally:
            destination.stop()


class Lmtp(Dovecot):
    """Dovecot with a listener for LMTP on loopback, and one that tells Postfix whether a login is right."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, shared=False, scheme="PLAIN")
        self.lmtp_port = free_port()
        self.auth_socket = folder / "auth"

    def _configuration(self, mail: Path) -> str:
        return (
            super()._configuration(mail)
            + f"""
recipient_delimiter = +
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.lmtp_port}
  }}
}}
service auth {{
  unix_listener {self.auth_socket} {{
    mode = 0666
  }}
}}
"""
        )


@contextlib.contextmanager
def dovecot_lmtp(*accounts: str) -> Iterator[tuple[Lmtp, Path]]:
    """A Dovecot with these accounts, whose Maildirs lie below the folder that is returned with it."""
    find_program("dovecot")
    find_program("/usr/lib/dovecot/lmtp")
    if os.geteuid() != 0:
        leave_out("Dovecot needs root to start its processes")
    owner = pwd.getpwnam(MAIL_OWNER)
    with folder_for_servers() as folder:
        dovecot = Lmtp(folder)
        mail = folder / "mail"
        mail.mkdir()
        os.chown(mail, owner.pw_uid, owner.pw_gid)
        command = dovecot.write(mail, 0)
        users = [f"{name}:{{PLAIN}}{PASSWORD}:{owner.pw_uid}:{owner.pw_gid}::{mail}:\n" for name in accounts]
        (folder / "users").write_text("".join(users))
        process: subprocess.Popen[bytes] = start(command, folder / "dovecot.out")
        try:
            wait_for_port(dovecot.lmtp_port, process)
            yield dovecot, mail
        finally:
            stop(process)
