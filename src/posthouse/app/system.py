"""The real clock, real randomness, and the words a service manager understands."""

from __future__ import annotations

import os
import secrets
import socket
import time


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()


class SystemRandom:
    """Unguessable octets from the operating system."""

    __slots__ = ()

    def octets(self, count: int) -> bytes:
        """`count` random octets."""
        return secrets.token_bytes(count)


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
