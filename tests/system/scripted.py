"""A server that does what a test says, however badly: for the clients."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

pexpect: Any = importlib.import_module("pexpect")  # it comes without types

SEND = [sys.executable, "-m", "posthouse.cli.send"]
READ = [sys.executable, "-m", "posthouse.cli.read"]


class Talk:
    """One connection, seen by the server. `heard` collects every line and message that came."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        self.heard: list[bytes] = []

    def say(self, octets: bytes) -> None:
        """Sends octets as they are."""
        with contextlib.suppress(OSError):
            self._socket.sendall(octets)

    def say_slowly(self, octets: bytes) -> None:
        """Sends each octet in a packet of its own."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in octets:
            self.say(bytes([octet]))

    def line(self) -> bytes:
        """The next line without its end; b"" at the end of the connection."""
        line = self._until(b"\r\n").removesuffix(b"\r\n")
        if line:
            self.heard.append(line)
        return line

    def message(self) -> bytes:
        """A message up to the lone dot, dots unstuffed."""
        self._rest = b"\r\n" + self._rest  # the lone dot may stand on the first line
        octets = self._until(b"\r\n.\r\n").removesuffix(b".\r\n")
        message = octets.replace(b"\r\n.", b"\r\n")[2:]
        self.heard.append(message)
        return message

    def swallow(self) -> int:
        """Reads a message of any size up to the lone dot; returns how many octets came."""
        count, tail = len(self._rest), self._rest[-5:]
        while not tail.endswith(b"\r\n.\r\n") and (piece := self._socket.recv(262_144)):
            count += len(piece)
            tail = (tail + piece)[-5:]
        self._rest = b""
        return count

    def read_some(self) -> int:
        """Reads some octets of a message, which are forgotten; returns how many."""
        piece = self._socket.recv(65_536)
        self._rest = (self._rest + piece)[-5:]
        return len(piece)

    def start_tls(self, certificate: Path) -> bool:
        """Goes over to TLS with this certificate and key; False when the client did not take part."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        try:
            self._socket.getpeername()  # one that is gone already would leave a half-made socket behind
        except OSError:
            return False
        secured = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = secured
        try:
            secured.do_handshake()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def hang_up(self) -> None:
        """Ends the connection from another thread: whoever reads it sees its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def peer_is_there(self, seconds: float) -> bool:
        """Whether the client still listens, after so many seconds."""
        ready, _, _ = select.select([self._socket], [], [], seconds)
        try:
            return not ready or bool(self._socket.recv(65_536))
        except OSError:
            return False

    def rest(self) -> bytes:
        """Everything until the client closes."""
        octets, self._rest = self._rest, b""
        with contextlib.suppress(OSError):
            while piece := self._socket.recv(65_536):
                octets += piece
        return octets

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            try:
                piece = self._socket.recv(65_536)
            except OSError:
                piece = b""
            if not piece:
                octets, self._rest = self._rest, b""
                return octets
            self._rest += piece
        octets, _, self._rest = self._rest.partition(mark)
        return octets + mark


class ScriptedServer:
    """Listens on loopback and plays the script for each connection, in a thread of its own."""

    def __init__(self, script: Callable[[Talk], None], host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self._script = script
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.talks: list[Talk] = []
        self.port: int = self._listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A connection of our own ends the wait for the next one.
        self._script = lambda talk: None
        self._closing = True
        for talk in self.talks:
            talk.hang_up()
        with contextlib.suppress(OSError), socket.create_connection(self._listener.getsockname()[:2]):
            pass
        self._thread.join(20)
        self._listener.close()

    _closing = False

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._closing:
                    return
                talk = Talk(connection)
                self.talks.append(talk)
                try:
                    self._script(talk)
                finally:
                    talk.close()

    @property
    def heard(self) -> list[bytes]:
        """What all connections said."""
        return [line for talk in self.talks for line in talk.heard]


def smtp(
    greeting: bytes = b"220 x.mail ESMTP\r\n",
    ehlo: bytes = b"250-x.mail Hello.\r\n250-SIZE 104857600\r\n250 AUTH LOGIN PLAIN\r\n",
    **answers: bytes,
) -> Callable[[Talk], None]:
    """A script: an SMTP server with these answers. `rcpt_bad` answers for addresses that begin with "bad"."""

    def script(talk: Talk) -> None:
        talk.say(greeting)
        while line := talk.line():
            verb = line.split(b" ")[0].split(b":")[0].lower().decode("ascii", "replace")
            if verb == "ehlo":
                talk.say(answers.get("ehlo_refusal", ehlo))
            elif verb == "data":
                answer = answers.get("data", b"354 OK, send.\r\n")
                talk.say(answer)
                if answer.startswith(b"354"):
                    talk.message()
                    talk.say(answers.get("end", b"250 Queued (0.016 seconds)\r\n"))
            elif verb == "rcpt" and b"<bad" in line:
                talk.say(answers.get("rcpt_bad", b"550 Unknown user\r\n"))
            elif verb == "quit":
                talk.say(answers.get("quit", b"221 goodbye\r\n"))
                return
            else:
                talk.say(answers.get(verb, {"auth": b"235 authenticated.\r\n"}.get(verb, b"250 OK\r\n")))

    return script


Act = bytes | Callable[[Talk], None]
"""What a host does instead of a proper answer."""


def silence(talk: Talk) -> None:
    """Says nothing any more, until the client goes."""
    talk.rest()


def half(talk: Talk) -> None:
    """Begins a reply and does not end it."""
    talk.say(b"250-half a rep")
    talk.rest()


def drip(talk: Talk) -> None:
    """A reply that comes an octet at a time, and never to its end."""
    talk.say(b"250-")
    while talk.peer_is_there(0.02):
        talk.say(b"x")


def babble(talk: Talk) -> None:
    """Says what is no SMTP."""
    talk.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    talk.rest()


def endless(talk: Talk) -> None:
    """A reply of more lines than anybody reads."""
    while talk.peer_is_there(0):
        talk.say(b"250-and so on\r\n" * 1000)


PIPELINING = b"250-next.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000\r\n"


def host(offer: bytes = PIPELINING, certificate: Path | None = None, **acts: Act) -> Callable[[Talk], None]:
    """A script: a host that takes letters, and does what it is told at each stage: greeting, ehlo, lhlo, helo,
    starttls, auth, mail, rcpt, data, end (of the letter), rset, quit. `rcpt_bad` is for addresses that begin with
    "bad". With a certificate it can go over to TLS."""
    usual: dict[str, Act] = {
        "greeting": b"220 next.example ESMTP\r\n",
        "ehlo": offer,
        "lhlo": offer,
        "starttls": b"220 go on\r\n",
        "auth": b"235 2.7.0 welcome\r\n",
        "data": b"354 go on\r\n",
        "quit": b"221 bye\r\n",
        "rcpt_bad": b"550 5.1.1 unknown\r\n",
    }

    def script(talk: Talk) -> None:
        def act(stage: str) -> bool:
            """Whether the stage went as usual."""
            what = acts.get(stage, usual.get(stage, b"250 2.0.0 ok\r\n"))
            talk.say(what) if isinstance(what, bytes) else what(talk)
            return stage not in acts

        act("greeting")
        while line := talk.line():
            verb = line.split(b" ")[0].split(b":")[0].lower().decode("ascii", "replace")
            if verb == "rcpt" and b"<bad" in line:
                act("rcpt_bad")
            elif verb == "data":
                if act("data"):
                    talk.message()
                    act("end")
            elif act(verb) and verb == "starttls" and certificate is not None and not talk.start_tls(certificate):
                return
            if verb == "quit":
                return

    return script


def stuffed(status: bytes, lines: bytes) -> bytes:
    """A reply of POP3 with lines."""
    return status + (b"\r\n" + lines).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


USUAL = {
    "user": b"+OK Send your password\r\n",
    "pass": b"+OK Mailbox locked and ready\r\n",
    "dele": b"+OK msg deleted\r\n",
    "quit": b"+OK POP3 server saying goodbye...\r\n",
}


def pop3(messages: Sequence[bytes] = (), **answers: bytes) -> Callable[[Talk], None]:
    """A script: a POP3 server with these messages (as they are to be read) and these answers."""
    usual = USUAL | answers
    sizes = b"".join(b"%d %d\r\n" % (n, len(m)) for n, m in enumerate(messages, 1))
    ids = b"".join(b"%d id-%d-%d\r\n" % (n, n, len(m)) for n, m in enumerate(messages, 1))
    total = sum(map(len, messages))
    usual.setdefault("list", stuffed(b"+OK %d messages (%d octets)\r\n" % (len(messages), total), sizes))
    usual.setdefault("uidl", stuffed(b"+OK\r\n", ids))

    def script(talk: Talk) -> None:
        talk.say(answers.get("greeting", b"+OK POP3\r\n"))
        while line := talk.line():
            words = line.split(b" ")
            verb = words[0].lower().decode("ascii", "replace")
            if verb in usual:
                talk.say(usual[verb])
            elif verb in ("retr", "top") and int(words[1]) <= len(messages):
                message = messages[int(words[1]) - 1]
                talk.say(stuffed(b"+OK %d octets\r\n" % len(message), message))
            else:
                talk.say(b"-ERR No such message\r\n")
            if verb == "quit":
                return

    return script


def run(
    command: Sequence[str],
    *,
    given: bytes = b"",
    password: str = "secret word",
    home: Path | None = None,
    timeout: float = 30.0,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a client to its end, without a terminal."""
    return subprocess.run(
        command, input=given, capture_output=True, timeout=timeout, env=environment(password, home), check=False
    )


def environment(password: str = "", home: Path | None = None) -> dict[str, str]:
    """What a client finds around it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "POSTHOUSE"))}
    variables |= {"LANG": "C.UTF-8", "TERM": "dumb", "PYTHONWARNINGS": "error"}
    variables |= {"POSTHOUSE_PASSWORD": password} if password else {}
    return variables | ({"XDG_STATE_HOME": str(home), "HOME": str(home)} if home else {"XDG_STATE_HOME": _state.name})


_state = tempfile.TemporaryDirectory(prefix="posthouse-state-")
"""Where the letters go that a test has kept without looking at them."""


@contextlib.contextmanager
def terminal(command: Sequence[str], cwd: Path | None = None) -> Iterator[Any]:
    """A client on a terminal of its own."""
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        env=environment(home=cwd),
        cwd=str(cwd) if cwd else None,
        encoding="utf-8",
        timeout=15,
        dimensions=(40, 200),
    )
    child.delaybeforesend = None  # every answer waits for its question, which stands there when we are listened to
    child.delayafterclose = child.delayafterterminate = 0.01
    try:
        yield child
    finally:
        child.close(force=True)
