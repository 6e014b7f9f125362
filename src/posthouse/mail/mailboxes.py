"""Lists of mailboxes with names, as people and header fields write them (RFC 5322 §3.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from posthouse.mail.address import Address, AddressError, domain_key
from posthouse.mail.encoded import decode_words, encode_phrase

MOST: Final = 100_000  # addresses of one list
NESTING: Final = 50  # comments within comments

_TOKEN: Final = re.compile(r'[^"(),:;<>\\\[]+|.', re.DOTALL)


@dataclass(slots=True)
class Mailbox:
    """Somebody's name, which may be empty, and address."""

    name: str
    address: Address

    def encode(self, *, utf8: bool = False) -> str:
        """The mailbox as a header field holds it; with `utf8` beyond ASCII too (RFC 6532)."""
        address = self.address if utf8 else ascii_form(self.address)
        return f"{encode_phrase(self.name, utf8=utf8)} <{address}>" if self.name else str(address)

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>" if self.name else str(self.address)


def ascii_form(address: Address) -> Address:
    """The address with its domain as A-labels, when that makes it pass without SMTPUTF8 (RFC 5890 §2.3.2.1)."""
    if address.is_ascii or not address.local.isascii():
        return address
    return Address(address.local, domain_key(address.domain))


def parse_mailboxes(text: str, domain: str = "") -> list[Mailbox]:
    """The mailboxes of a list: `a@x.mail, Anna Karenina <anna@x.mail>, Friends: b@x.mail;`. Comments and the names of
    groups are left out; with a `domain`, `root` alone is that user there. Raises AddressError whose text names the part
    that is no address."""
    mailboxes = [_mailbox(words, domain) for words in _split(text) if "".join(words).strip()]
    if len(mailboxes) > MOST:
        raise AddressError(f"The list has more than {MOST} addresses")
    return mailboxes


def _split(text: str) -> Iterator[list[str]]:
    """The words of each mailbox of a list, quoted strings and bracketed addresses whole."""
    words: list[str] = []
    tokens = _tokens(text)
    for word in tokens:
        if word in (",", ";"):
            yield words
            words = []
        elif word == ":":
            words = []  # the name of a group
        else:
            words.append(word)
    yield words


def _tokens(text: str) -> Iterator[str]:
    """Words, separators, "quoted strings" and <addresses>; comments are blanks."""
    place = 0
    while place < len(text):
        opening = text[place]
        if opening == '"':
            end = _after_quoted(text, place)
        elif opening == "(":
            place = _after_comment(text, place)
            yield " "
            continue
        elif opening == "<":
            end = _after_angle(text, place)
        elif opening == "[":
            end = text.find("]", place) + 1 or len(text)
        else:
            found = _TOKEN.match(text, place)
            assert found is not None
            end = found.end()
        yield text[place:end]
        place = end


def _after_quoted(text: str, place: int) -> int:
    found = _QUOTED.match(text, place)
    if found is None:
        raise AddressError(f"A quotation mark is not closed: {text[place : place + 60]}")
    return found.end()


_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def _after_angle(text: str, place: int) -> int:
    end = place + 1
    while end < len(text) and text[end] != ">":
        end = _after_quoted(text, end) if text[end] == '"' else end + 1
    if end >= len(text):
        raise AddressError(f"An angle bracket is not closed: {text[place : place + 60]}")
    return end + 1


def _after_comment(text: str, place: int) -> int:
    depth = 0
    for found in _IN_COMMENT.finditer(text, place):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
        if depth > NESTING:
            break
    raise AddressError(f"A comment is not closed: {text[place : place + 60]}")


_IN_COMMENT: Final = re.compile(r"[()]|\\.", re.DOTALL)


def _mailbox(words: list[str], domain: str = "") -> Mailbox:
    angle = next((word for word in words if word.startswith("<")), None)
    if angle is None:
        return Mailbox("", _address("".join(words), domain))
    name = [_UNESCAPE.sub(r"\1", word[1:-1]) if word.startswith('"') else word for word in words if word is not angle]
    return Mailbox(decode_words(" ".join("".join(name).split())), _address(angle[1:-1], domain))


_UNESCAPE: Final = re.compile(r"\\(.)")


def _address(text: str, domain: str) -> Address:
    text = text.strip()
    try:
        return Address.parse(f"{text}@{domain}" if domain and text and "@" not in text else text)
    except AddressError as error:
        reason = str(error)
        text = f"{text or 'Nothing'} is not a mail address: {reason[:1].lower()}{reason[1:]}"
        raise AddressError(text, too_long=error.too_long) from error


def encode_mailboxes(mailboxes: Iterable[Mailbox], *, utf8: bool = False) -> str:
    """The value of a To or Cc field, one mailbox on a line."""
    return ",\r\n ".join(mailbox.encode(utf8=utf8) for mailbox in mailboxes)
