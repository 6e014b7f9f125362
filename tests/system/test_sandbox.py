"""The server within the sandbox of its unit: everything it needs works there, and nothing else does."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from posthouse.app.unit import unit
from tests.system.installation import NOBODY, Office, office
from tests.system.letters import check_same, letter
from tests.system.raw import collect, deliver
from tests.system.sandbox import NOT_TESTED, command_in, settings_of
from tests.system.server import PASSWORD, READER, spawn_server, wait_for
from tests.system.test_identity import low_port, status

DATA = Path("/mnt/office/data")
HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "run-as-a-service.md"

# Run within the sandbox: every attempt that must fail, with the error it met; what may be seen.
_PROBE = """
import errno, json, os, socket
def attempt(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""
def make(path):
    return lambda: open(path, "w").close()
print(json.dumps({
    "etc": attempt(make("/etc/x")), "program": attempt(make("/mnt/office/site/x")), "usr": attempt(make("/usr/x")),
    "data": attempt(make("/mnt/office/data/x")), "tmp": attempt(make("/tmp/x")),
    "home": attempt(lambda: os.listdir("/root")), "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK)),
    "packet": attempt(lambda: socket.socket(socket.AF_PACKET)),
    "inet6": attempt(lambda: socket.socket(socket.AF_INET6)),
    "mount": attempt(lambda: os.chroot("/tmp")), "sysctl": attempt(make("/proc/sys/kernel/hostname")),
    "nice": attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, 5)),
    "devices": sorted(os.listdir("/dev")), "others": [n for n in os.listdir("/proc") if n.isdigit() and int(n) == 1],
    "tmp_files": os.listdir("/tmp"), "port": attempt(lambda: socket.create_server(("127.0.0.1", 0))),
}))
"""


def in_sandbox(here: Office, folder: Path, *more: str) -> list[str]:
    """The program of an office, in the sandbox of the unit; `more` in place of its own start."""
    text = unit(Path("/mnt/office/posthouse"), None, DATA, "nobody")
    outside = str(here.data.parent)
    program = [word.replace(outside, "/mnt/office") for word in here.program]
    return command_in(text, here.data.parent, NOBODY, [program[0], *more] if more else program, folder)


def test_a_letter_in_and_out_within_the_sandbox(prepared: Path, tmp_path: Path) -> None:
    """The real interpreter, ports below 1024, TLS, a login by argon2id, a reload, an orderly end: would catch a system
    call, a file, a device or executable memory that the unit takes away and a library needs."""
    with office(prepared) as here:
        smtp, pop3 = low_port(), low_port() - 1
        listeners = [("smtp", smtp), ("pop3", pop3)]
        text = "".join(f'[[listener]]\nprotocol = "{p}"\naddress = "127.0.0.1"\nport = {n}\n' for p, n in listeners)
        (here.data / "posthouse.toml").write_text(text)
        server = spawn_server(DATA, program=in_sandbox(here, tmp_path), logs=tmp_path)
        try:
            server.wait_ready(2)
            found = status(server.process.pid)
            assert set(found["Uid"].split()) == {str(NOBODY)}
            for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(found[name], 16) == 1 << 10, name
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
            content = letter("dots")
            assert deliver(server.smtp, [READER], content).startswith(b"250")
            [collected] = collect(server.pop3, READER)
            check_same(collected, content)
            curl = ["curl", "-sS", "--ssl-reqd", "--cacert", str(here.data / "tls" / "ca.crt"), "-u"]
            curl += [f"{READER}:{PASSWORD}", f"pop3://localhost:{pop3}/"]
            subprocess.run([*curl, "--resolve", f"localhost:{pop3}:127.0.0.1"], check=True, timeout=30)
            server.signal(signal.SIGHUP)
            wait_for(lambda: "reloaded" in server.log, lambda: server.log)
        except BaseException:
            server.kill()
            print(server.log[-3000:])
            raise
        server.stop()
        assert "failed" not in server.log, server.log


def test_what_the_sandbox_takes_away(prepared: Path, tmp_path: Path) -> None:
    """Would catch a test of a sandbox that is none."""
    with office(prepared) as here:
        command = in_sandbox(here, tmp_path, "-c", _PROBE)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        for name in ("etc", "usr", "program"):
            assert found[name] in ("EROFS", "EACCES"), (name, found)
        assert found["sysctl"] in ("EROFS", "EACCES", "ENOENT"), found
        for name in ("data", "tmp", "inet6", "port"):
            assert found[name] == "", (name, found)
        for name in ("netlink", "packet", "mount", "nice"):
            assert found[name] == "EPERM", (name, found)
        assert found["home"] == "EACCES"
        assert found["devices"] == ["full", "null", "random", "tty", "urandom", "zero"]
        assert found["others"] == [] and found["tmp_files"] == ["x"]


@pytest.mark.parametrize("setting", sorted(NOT_TESTED))
def test_the_how_to_says_what_was_not_tested(setting: str) -> None:
    """Whoever reads what was tested must not take it for more."""
    text = HOWTO.read_text("utf-8").partition("## How tight")[2]
    assert f"`{setting}`" in text
    assert setting in settings_of(unit(Path("/x"), None, Path("/var/lib/posthouse"), "posthouse"))
