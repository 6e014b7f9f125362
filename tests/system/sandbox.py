"""The sandbox of the systemd unit, made with what systemd makes it of: a mount namespace, capabilities, and a filter of
system calls. It needs root, and no running systemd.

`SANDBOXED` names the settings of the unit that are brought about here; a setting in neither list fails the test, so the
unit cannot grow behind it. `NOT_TESTED` is what only a running systemd does. The file runs as a program, too, within
the sandbox and without the rest of the tests.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SANDBOXED = {
    *("User", "Group", "AmbientCapabilities", "CapabilityBoundingSet", "NoNewPrivileges", "UMask"),
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC", "ProtectProc"),
    *("ProcSubset", "ProtectControlGroups", "ProtectKernelTunables", "ProtectKernelLogs", "ReadWritePaths"),
    *("MemoryDenyWriteExecute", "RestrictAddressFamilies", "SystemCallFilter", "SystemCallErrorNumber"),
    *("SystemCallArchitectures", "ExecStart", "Type", "NotifyAccess"),
}
NOT_TESTED = {
    *("ProtectClock", "ProtectHostname", "ProtectKernelModules", "RestrictNamespaces", "RestrictRealtime"),
    *("RestrictSUIDSGID", "LockPersonality", "KeyringMode", "RemoveIPC", "StateDirectory", "StateDirectoryMode"),
    *("ExecReload", "Restart", "RestartSec", "TimeoutStopSec", "LimitNOFILE"),
}

# As root, in a mount and an IPC namespace of its own. $1: the folder that the service may see below /mnt. The order is
# that of systemd: first what is hidden, then everything else read-only.
_ROOMS = """\
set -eu
office=$1; shift
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/office
mount --bind "$office" /mnt/office
for private in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 none "$private"; done
for closed in /home /root /run/user; do
    [ ! -d "$closed" ] || mount -t tmpfs -o mode=000,ro none "$closed"
done
devices=$(mktemp -d /mnt/XXXXXX)
mount -t tmpfs -o mode=755 none "$devices"
for device in null zero full random urandom tty; do
    touch "$devices/$device"
    mount --bind "/dev/$device" "$devices/$device"
done
mount --rbind "$devices" /dev
mount -t proc -o hidepid=invisible,subset=pid none /proc
while read -r _ _ _ _ point _; do
    case $point in
        /tmp | /var/tmp | /dev/?* | "$devices"/?* | /proc/* | /mnt/office) ;;
        *) mount -o remount,bind,ro "$point" 2>/dev/null || mount -o remount,ro "$point" 2>/dev/null || true ;;
    esac
done < /proc/self/mountinfo
mount --bind /mnt/office/data /mnt/office/data
mount -o remount,bind,ro /mnt/office
exec "$@"
"""


def settings_of(unit: str) -> dict[str, list[str]]:
    """The settings of the [Service] section, each with all its lines."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def allowed_calls(filters: Sequence[str]) -> list[str]:
    """The system calls that lines of SystemCallFilter leave, with systemd's own groups (`systemd-analyze
    syscall-filter`)."""
    groups = _groups()
    allowed: set[str] = set()
    for line in filters:
        calls = {call for name in line.removeprefix("~").split() for call in _members(groups, name)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return sorted(allowed)


@functools.cache
def _groups() -> dict[str, list[str]]:
    """What each group holds: calls, and other groups."""
    from tests.system.programs import find_program

    command = [find_program("systemd-analyze"), "--no-pager", "syscall-filter"]
    groups: dict[str, list[str]] = {}
    name = ""
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        word = line.strip().lstrip("#").strip() if line.startswith("# @") else line.strip()
        if word.startswith("@") and not line.startswith(" "):
            name = word
        elif line.startswith(" ") and word and not word.startswith("#"):
            groups.setdefault(name, []).append(word)
    return groups


def _members(groups: dict[str, list[str]], name: str) -> Iterator[str]:
    if not name.startswith("@"):
        yield name
        return
    for member in groups[name]:
        yield from _members(groups, member)


def command_in(unit: str, office: Path, user: int, program: Sequence[str], folder: Path) -> list[str]:
    """The command that runs a program within the sandbox of a unit. `office` becomes /mnt/office, of which only `data`
    may be written."""
    from tests.system.programs import find_program, leave_out

    if os.geteuid() != 0:
        leave_out("only root can build a sandbox")
    if ctypes.CDLL(None).prctl(_GET_MDWE, 0, 0, 0, 0) < 0:
        leave_out("a kernel before 6.3 cannot forbid memory that is written and carried out")
    settings = settings_of(unit)
    unknown = settings.keys() - SANDBOXED - NOT_TESTED
    assert not unknown, f"neither tested nor named as not tested: {unknown}"
    (folder / "rooms.sh").write_text(_ROOMS)
    rights = ",".join(["-all", *(f"+{one.removeprefix('CAP_').lower()}" for one in settings["AmbientCapabilities"])])
    families = ",".join(settings["RestrictAddressFamilies"][0].split())
    calls = allowed_calls(settings["SystemCallFilter"])
    shutil.copyfile(__file__, office / "sandbox.py")
    return [
        *(find_program("unshare"), "--mount", "--ipc", "--propagation", "private"),
        *("sh", str(folder / "rooms.sh"), str(office)),
        *(find_program("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set={rights}", f"--inh-caps={rights}", f"--ambient-caps={rights}"),
        *(program[0], "/mnt/office/sandbox.py", families, ",".join(calls), *program),
    ]


# What follows runs within the sandbox, as the last step before the program.

_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
_EQUAL = 4  # SCMP_CMP_EQ
_MDWE, _GET_MDWE = 65, 66  # PR_SET_MDWE: nothing that can be written can be carried out (Linux 6.3)


class _Compare(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("how", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def enter(families: Sequence[int], calls: Sequence[str]) -> None:
    """The filter of system calls, and memory that is written or carried out, never both."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare)),
    )
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    context = library.seccomp_init(_EPERM)
    for call in calls:
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # not of this architecture
            continue
        for family in families if call == "socket" else (None,):
            rule = None if family is None else ctypes.byref(_Compare(0, _EQUAL, family, 0))
            done = library.seccomp_rule_add_array(context, _ALLOW, number, 0 if rule is None else 1, rule)
            assert done == 0, (call, done)
    assert ctypes.CDLL(None).prctl(_MDWE, 1, 0, 0, 0) == 0
    assert library.seccomp_load(context) == 0


if __name__ == "__main__":
    import socket

    _, wanted, names, *start = sys.argv
    os.umask(0o077)
    enter([int(getattr(socket, name)) for name in wanted.split(",")], names.split(","))
    os.execv(start[0], start)
