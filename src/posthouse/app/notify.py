"""The words a service manager understands."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Tells systemd about our state, such as "READY=1" or "STOPPING=1" (sd_notify(3)); False when no service
    manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)
    except OSError:
        return False
    return True
