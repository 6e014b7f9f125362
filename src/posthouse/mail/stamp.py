"""Reading one Received field, whoever wrote it (RFC 5321 §4.4, and what servers really write).

A lexer first takes the value apart into words, comments and semicolons; the clauses are then found among the words, so
that nothing within a comment can be mistaken for one. Every step is linear in the length, which is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Final

from posthouse.mail.moment import Moment, read_moment

FIELD: Final = 20_000  # octets of one field that are looked at
CLAUSES: Final = ("from", "by", "via", "with", "id", "for", "tls")  # `tls` is of RFC 8314 §4.3
_PLAIN: Final = re.compile(r'[^\s()<>;"\[\]\\]+')


@dataclass(slots=True)
class Token:
    """A word, a comment without its outer parentheses, or a semicolon; `kind` is "word", "comment" or ";"."""

    kind: str
    text: str


@dataclass(slots=True)
class Stamp:
    """What a Received field says; what it does not say is None."""

    source: str | None = None
    helo: str | None = None
    rdns: str | None = None
    ip: str | None = None
    by: str | None = None
    protocol: str | None = None
    id: str | None = None
    recipient: str | None = None
    tls: tuple[str | None, str | None] | None = None
    moment: Moment | None = None
    notes: list[str] = field(default_factory=list)


def tokens(text: str) -> list[Token]:
    """The value as tokens. What is opened and never closed is taken for an ordinary character from then on."""
    found: list[Token] = []
    word, place = "", 0
    hopeless: set[str] = set()  # openings for which no closing follows: not looked for again
    while place < len(text):
        char = text[place]
        if char in '("<[' and char not in hopeless:
            end = (
                _after_comment(text, place)
                if char == "("
                else _after(text, place, {'"': '"', "<": ">", "[": "]"}[char])
            )
            if end < 0:
                hopeless.add(char)
                continue
            if char == "(":
                word = _flush(found, word)
                found.append(Token("comment", text[place + 1 : end - 1]))
            else:
                word += text[place:end]
            place = end
        elif char.isspace() or char in ";()":
            word = _flush(found, word)
            if char == ";":
                found.append(Token(";", char))
            place += 1
        else:
            plain = _PLAIN.match(text, place)
            end = plain.end() if plain is not None else place + 1
            word += text[place:end]
            place = end
    _flush(found, word)
    return found


_CLOSING: Final = {'"': '"', "<": ">", "[": "]"}


def _flush(found: list[Token], word: str) -> str:
    if word:
        found.append(Token("word", word))
    return ""


def _after(text: str, place: int, closing: str) -> int:
    end = place + 1
    while end < len(text):
        if text[end] == "\\":
            end += 1
        elif text[end] == closing:
            return end + 1
        elif text[end].isspace() and closing != '"':
            return -1
        end += 1
    return -1


_IN_COMMENT: Final = re.compile(r"[()\\]")


def _after_comment(text: str, place: int) -> int:
    depth = 0
    while found := _IN_COMMENT.search(text, place):
        place = found.end()
        if found[0] == "\\":
            place += 1
            continue
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return place
    return -1


def read_stamp(value: bytes) -> Stamp:
    """What an unfolded Received value says. Never raises."""
    stamp = Stamp()
    if len(value) > FIELD:
        stamp.notes.append(f"only the first {FIELD} octets were read")
    found = tokens(value[:FIELD].decode("utf-8", "backslashreplace"))
    body, date = _cut(found)
    _read_date(stamp, date)
    clauses = _clauses(body)
    _read_from(stamp, clauses.get("from", []), body)
    for name, words in (("by", "by"), ("id", "id"), ("for", "recipient")):
        said = [token.text for token in clauses.get(name, []) if token.kind == "word"]
        if said and getattr(stamp, words) is None:
            setattr(stamp, words, said[0])
    stamp.by = stamp.by.rstrip(".").strip("[]") or None if stamp.by else None
    if stamp.recipient and stamp.recipient.startswith("<"):
        stamp.recipient = stamp.recipient.strip("<>") or None
    stamp.protocol = " ".join(token.text for token in clauses.get("with", []) if token.kind == "word") or None
    stamp.tls = _tls(found, clauses)
    if stamp.by is None and not any(token.text.startswith("qmail ") for token in body if token.kind == "comment"):
        stamp.notes.append("it does not say which server wrote it")
    return stamp


def _cut(found: list[Token]) -> tuple[list[Token], list[Token]]:
    """What stands before the date, and the date with all behind it: after the last bare `;` that words follow."""
    last = len(found)
    for place in range(len(found) - 1, -1, -1):
        if found[place].kind == "word":
            last = place
        elif found[place].kind == ";" and last < len(found) and last > place:
            return found[:place], found[place + 1 :]
    for place, token in enumerate(found):  # no `;` at all happens
        words = [token.text for token in found[place : place + 8] if token.kind == "word"]
        if token.kind == "word" and read_moment(words) is not None:
            return found[:place], found[place:]
    return found, []


def _read_date(stamp: Stamp, date: Sequence[Token]) -> None:
    words = [token.text for token in date if token.kind == "word"]
    stamp.moment = read_moment(words)
    if stamp.moment is None:
        stamp.notes.append("it says no time" if not words else "its date cannot be read")
        return
    stamp.notes += stamp.moment.notes
    rest = words[stamp.moment.used :]
    if len(rest) >= 2 and rest[0].lower() == "id":  # Courier
        stamp.id = rest[1]


def _clauses(body: Sequence[Token]) -> dict[str, list[Token]]:
    """The tokens behind each clause word; a clause that comes twice counts once."""
    clauses: dict[str, list[Token]] = {}
    current: list[Token] = []
    for token in body:
        name = token.text.lower()
        if token.kind == "word" and name in CLAUSES:
            current = []
            clauses.setdefault(name, current)
        else:
            current.append(token)
    return clauses


def _read_from(stamp: Stamp, clause: Sequence[Token], body: Sequence[Token]) -> None:
    words = [token.text for token in clause if token.kind == "word"]
    stamp.source = words[0] if words else None
    stamp.helo = stamp.source
    stamp.ip = as_ip(stamp.source or "") if stamp.source and stamp.source.startswith("[") else None
    for comment in (token.text for token in clause if token.kind == "comment"):
        if comment.lower().startswith(("using ", "version=", "tls", "auth")):
            continue
        _read_peer(stamp, comment)


def _read_peer(stamp: Stamp, comment: str) -> None:
    """`mail.example.net [192.0.2.5]`, `HELO name`, `192.0.2.5`, `[192.0.2.5]:25 helo=name`."""
    words = comment.replace("(", " ").replace(")", " ").split()
    before = ""
    for word in words:
        key, equals, said = word.partition("=")
        bare = word.rpartition("@")[2]
        if equals and key.lower() in ("helo", "ehlo"):
            stamp.helo, stamp.rdns = said, stamp.rdns or _name(stamp.source)
        elif before.lower() in ("helo", "ehlo"):
            stamp.helo, stamp.rdns = word, stamp.rdns or _name(stamp.source)
        elif (ip := as_ip(bare)) is not None:
            if stamp.ip is None:
                stamp.ip = ip
                stamp.rdns = stamp.rdns or _name(before.rpartition("@")[2])
            elif stamp.ip != ip:
                stamp.notes.append("it names two addresses of the sender")
        before = word


def _name(word: str | None) -> str | None:
    """A name that DNS may have given; None for none."""
    word = (word or "").rstrip(".")
    known = "." in word or word == "localhost"
    return word if known and word[0] != "[" and "=" not in word and as_ip(word) is None else None


def as_ip(word: str) -> str | None:
    """An IP address as servers write it: bare, in brackets, with `IPv6:` or a port."""
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    if word[:5].lower() == "ipv6:":
        word = word[5:]
    if len(word) > 45 or not word:
        return None
    try:
        address = ip_address(word)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


_VERSION: Final = re.compile(r"(?:TLS|SSL)v?_?(\d)(?:[._](\d))?", re.IGNORECASE)
_CIPHER: Final = re.compile(r"(?:TLS_|ECDHE|DHE|AES|CHACHA|RSA|ADH|AECDH)[A-Z0-9_-]{3,60}")
_BETWEEN: Final = re.compile(r"[\s,:=()]+")


def _tls(found: Sequence[Token], clauses: dict[str, list[Token]]) -> tuple[str | None, str | None] | None:
    version = cipher = None
    peer = next((token for token in clauses.get("from", []) if token.kind == "comment"), None)
    texts = [token.text for token in found if token.kind == "comment" and token is not peer]
    if peer is not None and peer.text.lower().startswith(("using tls", "version=")):
        texts.append(peer.text)
    texts += [token.text for token in clauses.get("tls", []) if token.kind == "word"]
    for word in (word for text in texts for word in _BETWEEN.split(text)):
        if version is None and (said := _VERSION.fullmatch(word)):
            version = f"TLSv{said[1]}.{said[2] or 0}" if word[:1] in "Tt" else f"SSLv{said[1]}"
        elif cipher is None and _CIPHER.fullmatch(word):
            cipher = word
    return (version, cipher) if version or cipher else None
