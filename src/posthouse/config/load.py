"""Reads a configuration file, and tells everything that is wrong with it at once.

Whoever starts a command calls `load`; what comes back is a `Config` in which every value is within its bounds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from posthouse.config.schema import PORTS, PROTOCOLS, CertificateSettings, Config, ListenerSettings
from posthouse.config.sections import CERTIFICATE, LISTENER, MOVED, SECTIONS, Section
from posthouse.config.values import Wrong, read_listen_address, split_host_port

FILE_LIMIT: Final = 1_000_000  # octets; a configuration of a thousand listeners has 60 KB


@dataclass(slots=True, frozen=True)
class Problem:
    """One thing that is wrong. `line` is 0 where the place is unknown."""

    line: int
    key: str
    text: str


class ConfigError(Exception):
    """A configuration that cannot be used, with all its problems. The text has one line for each."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.key))
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        place = f"{self.source}:{problem.line}" if problem.line else self.source
        return f"{place}: {problem.key + ': ' if problem.key else ''}{problem.text}"


def load(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError, also when the file cannot be read."""
    return _at_home(parse(read_text(path), str(path)), path.absolute().parent)


def read_text(path: Path) -> str:
    """The text of a file that is to be parsed. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(str(path), [Problem(0, "", f"cannot be read: {error.strerror or error}")]) from error
    if len(octets) > FILE_LIMIT:
        raise ConfigError(str(path), [Problem(0, "", f"is larger than {FILE_LIMIT} octets, so it is no configuration")])
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), [Problem(line, "", "is not UTF-8 text here; save the file as UTF-8")]) from error


def _at_home(config: Config, folder: Path) -> Config:
    """Relative paths count from the file that has them."""
    if config.server.data:
        config.server.data = str(folder / Path(config.server.data).expanduser())
    if config.log.file:
        config.log.file = str(folder / Path(config.log.file).expanduser())
    config.certificates = tuple(
        replace(
            one,
            chain=str(folder / Path(one.chain).expanduser()),
            key=one.key and str(folder / Path(one.key).expanduser()),
        )
        for one in config.certificates
    )
    return config


def parse(text: str, source: str = "configuration") -> Config:
    """The configuration in a TOML text. Raises ConfigError with every problem found."""
    tables = read_tables(text, source)
    reader = _Reader(places(text))
    config = reader.read(tables)
    if reader.problems:
        raise ConfigError(source, reader.problems)
    return config


def examine(tables: Mapping[str, Any]) -> tuple[Config, list[Problem]]:
    """The configuration in tables that were read already, and what is wrong with it."""
    reader = _Reader({})
    return reader.read(tables), reader.problems


def read_tables(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ConfigError when it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [_syntax(str(error))]) from error
    except RecursionError as error:
        raise ConfigError(source, [Problem(0, "", "is nested too deeply")]) from error


def _syntax(message: str) -> Problem:
    match = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if match is None:
        return Problem(0, "", f"is not valid TOML: {message}")
    said = message[: match.start()].strip()
    return Problem(int(match[1]), "", f"is not valid TOML at column {match[2]}: {said}")


class Checker:
    """Checks tables against settings and collects what is wrong, with its place."""

    def __init__(self, lines: Mapping[str, int]) -> None:
        self.problems: list[Problem] = []
        self._lines = lines

    def section(self, section: Section, table: object, path: str) -> Any:
        """The value of one table; None when something that it needs is missing or wrong."""
        if not isinstance(table, dict):
            self.wrong(path, f"is a section and needs a line [{section.name}] of its own")
            return None
        given: dict[str, Any] = {}
        for name, value in table.items():
            if (setting := section.settings.get(name)) is None:
                moved = MOVED.get(f"{path}.{name}")
                self.wrong(f"{path}.{name}", moved or f"there is no such setting{nearest(name, section.settings)}")
                continue
            try:
                given[name] = setting.read(value)
            except Wrong as wrong:
                self.wrong(f"{path}.{name}", str(wrong))
        missing = [name for name in section.required if name not in table]
        for name in missing:
            self.wrong(path, f"needs {name}; allowed is {section.settings[name].allowed}")
        return None if any(name not in given for name in section.required) else section.build(given)

    def wrong(self, key: str, text: str) -> None:
        """Notes that something is wrong with a key."""
        self.problems.append(Problem(self._line(key), key, text))

    def _line(self, key: str) -> int:
        while key not in self._lines and "." in key:
            key = key.rpartition(".")[0]
        return self._lines.get(key, 0)


class _Reader(Checker):
    """Reads the tables of the server's configuration."""

    def read(self, tables: Mapping[str, Any]) -> Config:
        known = [*SECTIONS, "listener", "certificate"]
        for name in tables:
            if name not in known:
                self.wrong(name, f"there is no such section{nearest(name, known)}")
        parts = {name: self.section(section, tables.get(name, {}), name) for name, section in SECTIONS.items()}
        config = Config(**{name: part for name, part in parts.items() if part is not None})
        config.certificates = self._certificates(tables.get("certificate", []))
        listeners = self._listeners(tables.get("listener", []))
        return replace(config, listeners=listeners) if listeners else config

    def _listeners(self, tables: object) -> tuple[ListenerSettings, ...]:
        if not isinstance(tables, list):
            self.wrong("listener", "may stand several times, so its line is [[listener]] with two brackets")
            return ()
        seen: dict[tuple[str, int], str] = {}
        listeners: list[ListenerSettings] = []
        for number, table in enumerate(tables):
            path = f"listener[{number}]"
            listener = self.section(LISTENER, table, path)
            if listener is None:
                continue
            place = (listener.address, listener.port)
            if listener.port and place in seen:
                self.wrong(path, f"{listener} is already used by {seen[place]}; give one of them another port")
            seen.setdefault(place, path)
            listeners.append(listener)
        return tuple(listeners)

    def _certificates(self, tables: object) -> tuple[CertificateSettings, ...]:
        if not isinstance(tables, list):
            self.wrong("certificate", "may stand several times, so its line is [[certificate]] with two brackets")
            return ()
        found = [self.section(CERTIFICATE, table, f"certificate[{number}]") for number, table in enumerate(tables)]
        return tuple(one for one in found if one is not None)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_WORD: Final = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY: Final = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")
_PIECE: Final = re.compile(_WORD)
_SKIP: Final = re.compile(r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)


def places(text: str) -> dict[str, int]:
    """The line of each section and setting in a TOML text that is valid. Best effort: what it does not find (keys
    inside an inline table) has no entry."""
    blank = _SKIP.sub(_blank, text)
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    depth = 0
    for number, (line, bare) in enumerate(zip(text.split("\n"), blank.split("\n"), strict=True), 1):
        if not bare.strip():  # blank, a comment, or the inside of a long text
            continue
        if depth == 0 and (header := _HEADER.match(line)) and not _KEY.match(line):
            name = _path(header[2])
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                found.setdefault(name, number)
                name = f"{name}[{counts[name]}]"
            prefix = name
            found.setdefault(name, number)
            continue
        if depth == 0 and (key := _KEY.match(line)):
            path = f"{prefix}.{_path(key[1])}" if prefix else _path(key[1])
            for cut in _beginnings(path):
                found.setdefault(cut, number)
        depth += sum(bare.count(mark) for mark in "[{") - sum(bare.count(mark) for mark in "]}")
    return found


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _path(text: str) -> str:
    return ".".join(piece.strip("\"'") for piece in _PIECE.findall(text))


def _beginnings(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def parse_listen(text: str) -> ListenerSettings:
    """What `--listen` says: `smtp=127.0.0.1:2525`, `pop3=[::1]:2110`, `submissions=*:465`, `lmtp=:2424`; port 0
    takes any free port, and without a port it is the standard's. Raises Wrong."""
    protocol, equals, place = text.partition("=")
    if not equals:
        raise Wrong(f'"{text}" has no protocol; write it like smtp=127.0.0.1:2525')
    if protocol not in PROTOCOLS:
        raise Wrong(f'"{protocol}" is not a protocol{nearest(protocol, PROTOCOLS)}')
    if place.isascii() and place.isdigit():
        place = f":{place}"
    if not place.startswith("[") and place.count(":") > 1:
        raise Wrong(f'"{place}" is ambiguous; an IPv6 address stands in brackets: {protocol}=[::1]:2525')
    host, port = split_host_port(place)
    return ListenerSettings(protocol, read_listen_address(host), PORTS[protocol] if port is None else port)


def listen_options(texts: Iterable[str], config: Config, wrong: Callable[[str], Exception]) -> Config:
    """The configuration with its listeners replaced by those of `--listen` options; as it is when there are none.
    `wrong` makes the exception for an option that cannot be read."""
    listeners = []
    for text in texts:
        try:
            listeners.append(parse_listen(text))
        except Wrong as error:
            raise wrong(f"--listen {text}: {error}") from error
    return replace(config, listeners=tuple(listeners)) if listeners else config
