"""The systemd unit of the server: what it may do, and above all what it may not (systemd.exec(5))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_UNIT: Final = """\
[Unit]
Description=Posthouse mail server
Wants=network-online.target
After=network-online.target nss-lookup.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={start}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2s
TimeoutStopSec=30s
LimitNOFILE=65536

# Whose process it is. Ports below 1024 are the one right of root's that it keeps.
User={user}
Group={user}
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
UMask=0077

# What it may see: the system to read, its data directory to write, nobody's home, no device.
ProtectSystem=strict
{state}
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateIPC=yes
ProtectProc=invisible
ProcSubset=pid

# What it may change of the system: nothing.
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes

# What it may ask of the kernel: sockets of the Internet and of this machine, and what an ordinary service needs.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

STATE: Final = Path("/var/lib")
"""Where systemd keeps the directories of its services (StateDirectory=)."""


def unit(program: Path, config: Path | None, data: Path, user: str) -> str:
    """The text of the unit for a server with this program, configuration, data directory and user.

    A data directory right below /var/lib is made by systemd; any other must be there and belong to the user.
    """
    words = [str(program), "--data", str(data)]
    if config is not None:
        words += ["--config", str(config)]
    state = f"ReadWritePaths={_path(data)}"
    if data.parent == STATE:
        state = f"StateDirectory={data.name}\nStateDirectoryMode=0700"
    return _UNIT.format(start=" ".join(word_of(word) for word in (*words, "serve")), user=user, state=state)


def _path(path: Path) -> str:
    return str(path).replace("%", "%%").replace(" ", "\\x20")


def word_of(word: str) -> str:
    """One word of a command line as systemd reads it back (systemd.service(5), Command lines)."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return '"' + word.replace('"', '\\"') + '"' if any(character in word for character in " \t'\";") else word
