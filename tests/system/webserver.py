"""A real https server for autoconfig documents, run as a program: `python webserver.py CERTIFICATE FOLDER`.

What it answers hangs on the name it is asked by: good documents lie in the folder as `NAME.xml`; some names get what
no mail program should fall for.
"""

from __future__ import annotations

import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<clientConfig version="1.1"><emailProvider id="bomb.test"><outgoingServer type="smtp">
<hostname>&b;</hostname></outgoingServer></emailProvider></clientConfig>
"""


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    def do_GET(self) -> None:
        """One document."""
        host = (self.headers.get("Host") or "").partition(":")[0]
        domain = host.removeprefix("autoconfig.")
        file = Path(sys.argv[2], f"{domain}.xml")
        if domain == "clear.test":
            self._redirect("http://clear.test/config-v1.1.xml")
        elif domain == "circle.test":
            self._redirect(self.path)
        elif domain == "moved.test" and host.startswith("autoconfig."):
            self._redirect("https://moved.test/.well-known/autoconfig/mail/config-v1.1.xml")
        elif domain == "bomb.test":
            self._answer(BOMB)
        elif domain == "huge.test":
            self._answer(b"<clientConfig>" + b" " * 3_000_000)
        elif domain == "slow.test":
            self._slowly()
        elif file.exists():
            self._answer(file.read_bytes())
        else:
            self.send_error(404)

    def _redirect(self, url: str) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, octets: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def _slowly(self) -> None:
        """An octet now and then: no single wait is long."""
        self.send_response(200)
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b" ")
            time.sleep(0.2)


def main() -> None:
    """Serves on port 443 until it is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 443), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
