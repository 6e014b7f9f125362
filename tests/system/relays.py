"""Mail servers nobody here wrote that hand letters on to ours: Postfix as installed, OpenSMTPD as unpacked."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.machine import free_port, start, stop, wait_for_port
from bench.peers import POSTFIX_DAEMONS, Postfix, PostfixVirtual

from tests.system.programs import find_program, leave_out
from tests.system.server import Endpoint

UNPACKED = Path(__file__).parents[2] / ".cache" / "unpacked"


class Relay(Postfix):
    """Postfix that gives everything for the lab's domain to our LMTP listener."""

    name = "Postfix relay"

    def __init__(self, folder: Path, to: Endpoint, host: str) -> None:
        super().__init__(folder)
        self.transport = f"lmtp:inet:{to.url}"
        self.host = host

    def _main_cf(self) -> str:
        return f"""
compatibility_level = 3.6
queue_directory = {self.folder}/spool
data_directory = {self.folder}/data
daemon_directory = {POSTFIX_DAEMONS}
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = {self.host}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
alias_database =
relay_domains = x.mail
relay_transport = {self.transport}
"""


@contextlib.contextmanager
def postfix(to: Endpoint, host: str) -> Iterator[Endpoint]:
    """A Postfix on loopback that hands letters for the lab's domain on to `to` by LMTP."""
    find_program(str(POSTFIX_DAEMONS / "master"))
    if os.geteuid() != 0:
        leave_out("Postfix starts only as root")
    with folder_for_servers() as folder:
        relay = Relay(folder, to, host)
        try:
            relay.start(0)
            yield Endpoint("127.0.0.1", relay.smtp_port)
        finally:
            relay.stop()


class NextHop(PostfixVirtual):
    """Postfix that takes letters for mailboxes of its own, with TLS."""

    name = "Postfix next hop"
    certificate: Path

    def _main_cf(self) -> str:
        tls = f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {self.certificate}\n"
        # One letter too many for a transaction and for a session makes the client divide and begin anew.
        return super()._main_cf() + tls + "smtpd_recipient_limit = 3\nsmtputf8_enable = yes\n"


@contextlib.contextmanager
def postfix_next(certificate: Path, mailboxes: int) -> Iterator[NextHop]:
    """A Postfix on loopback that is the end of the way: letters lie in its Maildirs."""
    find_program(str(POSTFIX_DAEMONS / "master"))
    if os.geteuid() != 0:
        leave_out("Postfix starts only as root")
    with folder_for_servers() as folder:
        key = folder / "certificate.pem"
        key.write_bytes(certificate.read_bytes())
        key.chmod(0o600)
        hop = NextHop(folder)
        hop.certificate = key
        try:
            hop.start(mailboxes)
            yield hop
        finally:
            hop.stop()


@contextlib.contextmanager
def opensmtpd(to: Endpoint, host: str) -> Iterator[Endpoint]:
    """An OpenSMTPD on loopback that hands every letter on to `to` by SMTP.

    Its package conflicts with Postfix, so it is only unpacked (tools/unpack.sh). It wants users and folders that an
    installation would make: it finds them in a mount namespace of its own, and this machine stays as it is.
    """
    root = UNPACKED / "opensmtpd"
    if not (root / "usr" / "sbin" / "smtpd").exists():
        if os.environ.get("CI"):
            pytest.fail("OpenSMTPD is not unpacked: tools/unpack.sh failed")
        leave_out("OpenSMTPD is not unpacked (as root: make test APT=1)")
    unshare = find_program("unshare")
    if os.geteuid() != 0 or subprocess.run([unshare, "--mount", "true"], capture_output=True).returncode != 0:
        leave_out("OpenSMTPD needs root and a mount namespace")
    with folder_for_servers() as folder:
        port = free_port()
        for name, lines in (("passwd", _USERS), ("group", _GROUPS)):
            (folder / name).write_text(Path("/etc", name).read_text() + lines)
        (folder / "smtpd.conf").write_text(
            f'listen on 127.0.0.1 port {port} hostname {host}\naction "on" relay host smtp://{to.url} helo {host}\n'
            'match from any for any action "on"\n'
        )
        (folder / "smtpd.conf").chmod(0o600)
        (folder / "run.sh").write_text(_NAMESPACE)
        command = [unshare, "--mount", "sh", str(folder / "run.sh"), str(root), str(folder)]
        process = start(command, folder / "smtpd.log", env={"PATH": os.environ["PATH"]})
        try:
            wait_for_port(port, process)
            yield Endpoint("127.0.0.1", port)
        finally:
            stop(process)


_USERS = (
    "opensmtpd:x:64998:64998::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n"
    "opensmtpq:x:64999:64999::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n"
)
_GROUPS = "opensmtpd:x:64998:\nopensmtpq:x:64999:\n"
_NAMESPACE = """\
set -eu
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
for folder in /var/spool /var/lib /run; do mount -t tmpfs -o mode=755 none "$folder"; done
mkdir -p -m 711 /var/spool/smtpd
mkdir -p -m 755 /var/lib/opensmtpd/empty
LD_LIBRARY_PATH=$(find "$1" -type f -name 'lib*.so*' -exec dirname {} + | sort -u | paste -s -d :)
export LD_LIBRARY_PATH
exec "$1/usr/sbin/smtpd" -d -f "$2/smtpd.conf"
"""


@contextlib.contextmanager
def folder_for_servers() -> Iterator[Path]:
    """A folder that the servers' own users may enter, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="relay-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
