"""A network of the tests' own: one machine with loopback only, every port free, and a name server that we write.

A process holds a network and a mount namespace (namespaces(7)); programs are started in them with nsenter. There
names are looked up by the system's own resolver in the zones of an NSD on port 53, and servers have their usual
ports, as on a real host. It needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.programs import find_program, leave_out
from tests.system.server import wait_for

HOLD = """\
set -eu
ip link set lo up
mount --bind "$1/resolv.conf" /etc/resolv.conf
echo ready
exec sleep 3600
"""
ASK = """\
import sys, dns.message, dns.query
query = dns.message.make_query(sys.argv[1], "SOA")
sys.exit(not dns.query.udp(query, "127.0.0.1", timeout=1).answer)
"""


@dataclass(slots=True)
class Island:
    """The namespaces, and the folder with what the programs in them read."""

    folder: Path
    holder: subprocess.Popen[bytes]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command, to be run on the island."""
        return [find_program("nsenter"), "--target", str(self.holder.pid), "--net", "--mount", *command]

    def start(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """Starts a program that runs until the island goes."""
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                self.inside(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self.running.append(process)
        return process

    def run(
        self, command: Sequence[str], *, given: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 50
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a program to its end."""
        return subprocess.run(
            self.inside(command), input=given, capture_output=True, timeout=timeout, env=env, check=False
        )

    def name_servers(self, *addresses: str) -> None:
        """Has the system's resolver ask these."""
        # The same file, for it is mounted over the system's.
        (self.folder / "resolv.conf").write_text("".join(f"nameserver {address}\n" for address in addresses))


@contextlib.contextmanager
def island(zones: Mapping[str, str]) -> Iterator[Island]:
    """An island with a name server for these zones: domain -> its records below the SOA."""
    if os.geteuid() != 0:
        leave_out("namespaces need root")
    unshare = find_program("unshare")
    nsd = find_program("nsd")
    if subprocess.run([unshare, "--mount", "--net", "true"], capture_output=True).returncode != 0:
        leave_out("this machine allows no namespaces")
    # Not in pytest's folder, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="island-"))
    folder.chmod(0o755)
    made: Island | None = None
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    holder = subprocess.Popen(
        [unshare, "--mount", "--net", "sh", "-c", HOLD, "hold", str(folder)], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n", "the namespaces could not be made"
        made = Island(folder, holder)
        _name_server(made, nsd, zones)
        yield made
    finally:
        for process in reversed(made.running if made is not None else []):
            process.terminate()
            process.wait(20)
        holder.terminate()
        holder.wait(20)
        if holder.stdout is not None:
            holder.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def _name_server(made: Island, nsd: str, zones: Mapping[str, str]) -> None:
    folder = made.folder
    parts = [_NSD.format(folder=folder)]
    for domain, records in zones.items():
        head = f"$ORIGIN {domain}.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n"
        (folder / f"{domain}.zone").write_text(head + records)
        parts.append(f"zone:\n  name: {domain}\n  zonefile: {folder}/{domain}.zone\n")
    (folder / "nsd.conf").write_text("".join(parts))
    process = made.start([nsd, "-d", "-c", str(folder / "nsd.conf")], "nsd.log")
    ask = [sys.executable, "-c", ASK, next(iter(zones))]

    def answers() -> bool:
        assert process.poll() is None, (folder / "nsd.log").read_text()
        return made.run(ask).returncode == 0

    wait_for(answers, lambda: (folder / "nsd.log").read_text(), seconds=20)


_NSD = """\
server:
  ip-address: 127.0.0.1
  username: ""
  chroot: ""
  zonesdir: ""
  database: ""
  pidfile: ""
  xfrdfile: {folder}/xfrd.state
  zonelistfile: {folder}/zone.list
  xfrdir: {folder}
  logfile: ""
remote-control:
  control-enable: no
"""
