"""What a provider writes for mail programs in `config-v1.1.xml`, the format that Thunderbird made common.

It comes from a stranger's web server. Expat reads it, without document types and entities (no "billion laughs"), and
depth, number and length of what it holds are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

DEPTH: Final = 12  # elements within elements; the format has five
ELEMENTS: Final = 2000
TEXT: Final = 1024  # characters of one value
SERVERS: Final = 20

WAYS: Final[Mapping[str, str]] = {"pop3": "pop3", "imap": "imap", "smtp": "smtp"}
OURS: Final = frozenset({"", "password-cleartext", "password-encrypted", "plain", "secure"})  # logins by password


class BadConfig(Exception):
    """The document is not what it should be. The text says why and repeats nothing of it."""


@dataclass(slots=True)
class ServerEntry:
    """One server that the document names; `kind` is pop3, imap or smtp, `socket` "ssl", "starttls" or "plain"."""

    kind: str
    host: str = ""
    port: int = 0
    socket: str = ""
    user: str = ""
    logins: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether it can be used with a password, encrypted."""
        by_password = not self.logins or any(login.lower() in OURS for login in self.logins)
        return by_password and self.socket in ("ssl", "starttls") and bool(self.host) and 0 < self.port < 65_536


def parse(octets: bytes, address: str) -> list[ServerEntry]:
    """The servers of the document's first provider, in its order, with what stands for the parts of the address filled
    in. Raises BadConfig."""
    reader = _Reader()
    try:
        reader.parser.Parse(octets, True)
    except expat.ExpatError as error:
        raise BadConfig(f"it is no XML at line {error.lineno}") from error
    except (ValueError, LookupError, UnicodeError) as error:  # an encoding that Python does not know or cannot read
        raise BadConfig("its characters cannot be read") from error
    if not reader.known:
        raise BadConfig("it is some other document")
    for server in reader.servers:
        server.host = _fill(server.host, address).lower().rstrip(".")
        server.user = _fill(server.user, address)
    return reader.servers


def _fill(text: str, address: str) -> str:
    local, _, domain = address.rpartition("@")
    for mark, value in (("%EMAILADDRESS%", address), ("%EMAILLOCALPART%", local), ("%EMAILDOMAIN%", domain)):
        text = text.replace(mark, value)
    return text


class _Reader:
    """Collects the servers while expat calls."""

    def __init__(self) -> None:
        self.servers: list[ServerEntry] = []
        self.known = False
        self._path: list[str] = []
        self._count = 0
        self._text = ""
        self._providers = 0
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _doctype(self, *_: object) -> None:
        raise BadConfig("it has a document type, which this format has not")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > ELEMENTS or len(self._path) >= DEPTH:
            raise BadConfig("it holds too much")
        self._path.append(name)
        self._text = ""
        if self._path == ["clientConfig"]:
            self.known = True
        elif self._path == ["clientConfig", "emailProvider"]:
            self._providers += 1
        elif self._at_server() and (kind := WAYS.get(attributes.get("type", "").lower())) is not None:
            self.servers.append(ServerEntry(kind))
            if len(self.servers) > SERVERS:
                raise BadConfig("it holds too much")
        elif self._at_server():
            self._path[-1] = "another"  # a server of a kind that we do not know: its values are nobody's

    def _at_server(self) -> bool:
        return (
            self._providers == 1
            and len(self._path) == 3
            and self._path[:2] == ["clientConfig", "emailProvider"]
            and self._path[2] in ("incomingServer", "outgoingServer")
        )

    def _characters(self, text: str) -> None:
        if len(self._text) + len(text) > TEXT:
            raise BadConfig("it holds a value that is too long")
        self._text += text

    def _end(self, name: str) -> None:
        path, value = self._path, self._text.strip()
        self._text = ""
        if len(path) == 4 and path[2] in ("incomingServer", "outgoingServer") and self._providers == 1 and self.servers:
            _take(self.servers[-1], path[3], value)
        path.pop()


def _take(server: ServerEntry, name: str, value: str) -> None:
    """The first value of each kind counts; of logins all do."""
    if name == "hostname":
        server.host = server.host or value
    elif name == "port":
        server.port = server.port or (int(value) if value.isascii() and value.isdigit() and len(value) <= 5 else -1)
    elif name == "socketType":
        server.socket = server.socket or value.lower()
    elif name == "username":
        server.user = server.user or value
    elif name == "authentication":
        server.logins.append(value)
