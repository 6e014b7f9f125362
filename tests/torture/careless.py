"""A mail server that is careless on purpose: the control of the power cuts, which must lose letters.

It takes letters by SMTP and puts each into a Maildir with Python's own `mailbox`, which syncs the file and not the
directory that names it, and says 250 then. `python -m tests.torture.careless FOLDER PORT`.
"""

from __future__ import annotations

import mailbox
import re
import socketserver
import sys
import threading
from pathlib import Path

_RECIPIENT = re.compile(rb"RCPT TO:<([a-z0-9]+)@", re.IGNORECASE)


class Careless(socketserver.ThreadingTCPServer):
    """One Maildir below `folder` for each local part."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Session)
        self.folder = folder
        self.guard = threading.Lock()

    def keep(self, box: str, letter: bytes) -> None:
        """Writes a letter as that module does."""
        with self.guard:
            mailbox.Maildir(self.folder / box, create=False).add(letter.replace(b"\r\n", b"\n"))


class _Session(socketserver.StreamRequestHandler):
    server: Careless

    def handle(self) -> None:
        """One SMTP session."""
        boxes: list[str] = []
        self.wfile.write(b"220 careless.example\r\n")
        while line := self.rfile.readline(4096):
            verb = line[:4].upper()
            if verb == b"MAIL":
                boxes = []
            elif match := _RECIPIENT.match(line):
                boxes.append(match[1].decode())
            elif verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                letter = self._letter()
                if letter is None:
                    return
                for box in boxes:
                    self.server.keep(box, letter)
            self.wfile.write(b"250 ok\r\n")

    def _letter(self) -> bytes | None:
        lines = []
        while (line := self.rfile.readline(4096)) != b".\r\n":
            if not line:
                return None
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)


if __name__ == "__main__":
    Careless(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
