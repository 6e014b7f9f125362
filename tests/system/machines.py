"""Two machines joined by a cable, on one: network namespaces, so that port 25 and addresses of the world are to be had.

What a server is told by DNS may not lead to loopback, and 25 is the only port that DNS can tell of: so the proofs of
routing need addresses of their own. This machine's own network stays as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.system.programs import find_program, leave_out
from tests.system.scripted import ScriptedServer, Talk

CLONE_NEWNET = 0x40000000
US = "192.0.2.1"  # the addresses are those kept for documentation (RFC 5737 §3, RFC 3849 §2)
THEM = tuple(f"192.0.2.{number}" for number in range(10, 20))


@dataclass(slots=True)
class Machine:
    """One of the two. Sockets made and programs started within `entered` live in its network."""

    holder: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, for the length of a `with` block."""
        mine, other = Path("/proc/thread-self/ns/net"), Path(f"/proc/{self.holder.pid}/ns/net")
        with mine.open("rb") as before, other.open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    @contextlib.contextmanager
    def mail_host(self, script: Callable[[Talk], None], address: str) -> Iterator[ScriptedServer]:
        """A scripted host that listens there on port 25."""
        with self.entered():
            host = ScriptedServer(script, address, 25)
            host.__enter__()
        try:
            yield host
        finally:
            with self.entered():
                host.__exit__()


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Ours, with the address `US`, and all others', with the addresses `THEM`. Only root can make them."""
    ip, unshare = find_program("ip"), find_program("unshare")
    if os.geteuid() != 0 or subprocess.run([unshare, "--net", "true"], capture_output=True).returncode != 0:
        leave_out("port 25 and networks of their own need root")
    with contextlib.ExitStack() as stack:
        here, there = (Machine(stack.enter_context(_holder(unshare))) for _ in range(2))
        with here.entered():
            words = f"link add cable type veth peer name cable netns {there.holder.pid}"
            if subprocess.run([ip, *words.split()], capture_output=True).returncode != 0:
                leave_out("this system has no cables between networks (veth)")
        for machine, addresses in ((here, (f"{US}/24", "2001:db8::1/64")), (there, [f"{one}/24" for one in THEM])):
            commands = ["link set lo up", "link set cable up"]
            commands += [f"addr add {one} dev cable{' nodad' if ':' in one else ''}" for one in addresses]
            with machine.entered():
                for command in commands:
                    subprocess.run([ip, *command.split()], check=True)
        yield here, there


@contextlib.contextmanager
def _holder(unshare: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps a network of its own until its input ends."""
    command = [unshare, "--net", "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(20)


__all__ = ["THEM", "US", "Machine", "two_machines"]
