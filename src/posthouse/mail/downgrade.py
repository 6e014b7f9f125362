"""Header fields in ASCII for a client that did not ask for UTF-8 (RFC 6855 §7, RFC 6856 §2.1).

What the client gets is a surrogate: it shows what is there, as well as ASCII can, and an address that cannot be
written in ASCII becomes one that belongs to nobody, as RFC 6858 §2.1 has it, with the real one as its name. Where
that simple standard drops a field, this keeps it, encoded (RFC 2047, RFC 2231). Bodies are left as they are.

Octets that are not UTF-8 are encoded too, under the charset name `unknown-8bit` (RFC 1428 §3).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Final

import idna

from posthouse.mail.header import split
from posthouse.mail.limits import DOMAIN

FIELD: Final = 65_536  # octets of a field that is encoded; in a longer one, octets beyond ASCII become "?"
LINE: Final = 76  # RFC 2047 §2: a line with encoded words has at most 76 characters
WORD: Final = 45  # octets of one encoded word before base64: 60 of its 75 characters
NOBODY: Final = b"<invalid@internationalized-address.invalid>"  # RFC 6858 §2.1, RFC 2606 §2

HEADER: Final = 131_072  # octets of all fields that are encoded; the further ones are treated as too long ones are
MAILBOXES: Final = 500  # addresses of a field whose domains are put into ASCII; the further ones become nobody's
ORIGINATORS: Final = ("from", "sender", "reply-to", "to", "cc", "bcc")
ADDRESSES: Final = frozenset(
    (
        *ORIGINATORS,
        *(f"resent-{name}" for name in ORIGINATORS),
        "delivered-to",
        "disposition-notification-to",
    )
)
PARAMETERS: Final = frozenset(("content-type", "content-disposition"))
IDENTIFIERS: Final = frozenset(("message-id", "resent-message-id", "in-reply-to", "references"))
STRUCTURED: Final = frozenset(
    (
        "date",
        "resent-date",
        "received",
        "mime-version",
        "content-id",
        "content-transfer-encoding",
        "content-language",
        "auto-submitted",
    )
)

_FIELD_END: Final = re.compile(rb"\n(?=[^ \t])")
_QUESTION: Final = bytes(c if c < 0x80 else 0x3F for c in range(256))
_LEXEMES: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|<[^>]*>?|[(),:;]|[^"<(),:;]+', re.DOTALL)
_FOR: Final = re.compile(rb"[ \t\n]for[ \t][^;()]*", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb'(;\s*)([!#-\'+.-9A-Z^-~-]+)\s*=\s*("(?:[^"\\]|\\.)*"?|[^;"]*)', re.DOTALL)
_ESCAPED: Final = re.compile(rb"(?:%..|[^%]){1,18}")  # what stands on a line: at most 54 characters
_QUOTED: Final = re.compile(rb'\\(.)|"', re.DOTALL)
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9!#$&+.^_`{|}~-]")  # RFC 2231 §7, attribute-char


class Downgrade:
    """Turns a message that comes in pieces cut anywhere into its surrogate, in constant memory."""

    __slots__ = ("_field", "_left", "_long", "grown", "in_body")

    def __init__(self) -> None:
        self._field = b""  # the field whose end has not come yet
        self._long = False  # it is longer than FIELD, its beginning was given out already
        self._left = HEADER  # octets that may still be encoded, which bounds the time this takes
        self.in_body = False
        self.grown = 0  # octets given out so far, less those taken

    def add(self, piece: bytes) -> bytes:
        """As much of the surrogate as is settled with this piece."""
        if self.in_body:
            return piece
        held = len(self._field)
        out = b"".join(self._convert(self._field + piece))
        self.grown += len(out) + len(self._field) - len(piece) - held
        return out

    def end(self) -> bytes:
        """What is left when no more comes."""
        if self.in_body or not self._field:
            return b""
        field, self._field = self._field, b""
        out = self._convert_field(field)
        self.grown += len(out) - len(field)
        return out

    def _convert(self, octets: bytes) -> Iterator[bytes]:
        start = 0
        while True:
            if not self._long and octets.startswith((b"\r\n", b"\n"), start):
                self.in_body, self._field = True, b""
                yield octets[start:]
                return
            found = _FIELD_END.search(octets, start, len(octets) if self._long else start + FIELD + 1)
            if found is not None:
                field, start = octets[start : found.end()], found.end()
                yield self._convert_field(field)
                self._long = False
            elif not self._long and len(octets) - start > FIELD:
                self._long = True
            else:
                break
        yield from self._hold(octets[start:])

    def _convert_field(self, field: bytes) -> bytes:
        if self._long or field.isascii() or len(field) > self._left:
            return field.translate(_QUESTION)
        self._left -= len(field)
        return downgrade_field(field)

    def _hold(self, rest: bytes) -> Iterator[bytes]:
        """Keeps the unfinished field; of an overlong one only what tells whether it ends."""
        if self._long and len(rest) > 1:
            yield rest[:-1].translate(_QUESTION)
            rest = rest[-1:]
        self._field = rest


def downgrade(message: bytes) -> bytes:
    """The surrogate of a whole message."""
    converter = Downgrade()
    return converter.add(message) + converter.end()


def downgrade_field(field: bytes) -> bytes:
    """One whole field, line end included, in ASCII. One that is ASCII already stays as it is."""
    if field.isascii():
        return field
    place = split(field, 0, len(field))
    converter = _CONVERTERS.get(place.name.lower(), _unstructured)
    out = (converter if place.name else _nothing)(field[: place.value], field[place.value :])
    # Whatever a converter leaves (a line that is no field, an odd name of a parameter) must not get out either.
    return out.translate(_QUESTION) if out.endswith(b"\n") else out.translate(_QUESTION) + b"\r\n"


def encode_words(text: bytes) -> list[bytes]:
    """The text as encoded words, none longer than 75 characters, no character parted. RFC 2047 §2."""
    utf8 = _is_utf8(text)
    head, most = (b"=?utf-8?B?", WORD) if utf8 else (b"=?unknown-8bit?B?", WORD - 6)
    words, start = [], 0
    while start < len(text):
        end = min(start + most, len(text))
        while utf8 and end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        words.append(head + base64.b64encode(text[start:end]) + b"?=")
        start = end
    return words


def encode_text(value: bytes) -> list[bytes]:
    """Unstructured text as tokens that blanks part: words of ASCII stay, runs of others are encoded."""
    tokens: list[bytes] = []
    run: list[bytes] = []
    held: list[bytes] = []  # ASCII words after the run: part of it when another such word follows
    for word in _one_line(value).split(b" "):
        if not word.isascii():
            run += [*held, word]
            held = []
        elif run and not (word.startswith(b"=?") and word.endswith(b"?=")):
            held.append(word)
        else:
            # The blank between two encoded words is not shown (RFC 2047 §6.2), so it goes into the first one.
            tokens += [*_run(run, b"" if held else b" "), *held, word]
            run, held = [], []
    return [*tokens, *_run(run, b""), *held]


def _run(words: list[bytes], blank: bytes) -> list[bytes]:
    return encode_words(b" ".join(words) + blank) if words else []


def _one_line(value: bytes) -> bytes:
    return value.replace(b"\r", b"").replace(b"\n", b"").strip(b" \t")


def _fold(head: bytes, tokens: list[bytes]) -> bytes:
    """A field of tokens, folded before lines grow longer than they may."""
    lines, line = [], head
    for token in tokens:
        if len(line) + 1 + len(token) > LINE and line.strip(b" \t"):
            lines.append(line)
            line = b""
        line += b" " + token
    return b"\r\n".join([*lines, line]) + b"\r\n"


def _unstructured(head: bytes, value: bytes) -> bytes:
    return _fold(head, encode_text(value))


def _nothing(head: bytes, value: bytes) -> bytes:
    return head + value


def _identifier(head: bytes, value: bytes) -> bytes:
    """An identifier that is encoded identifies nothing, so its field gets another name. RFC 6857 §3.2.4."""
    return _fold(b"Downgraded-" + head, encode_text(value))


def _structured(head: bytes, value: bytes) -> bytes:
    """Comments are encoded where they need it. RFC 2047 §5."""
    out, depth = [head], 0
    for part in re.split(rb"([()])", value):
        depth = max(depth + (part == b"(") - (part == b")"), 0)
        encoded = depth and not part.isascii()
        out.append(b"\r\n ".join(encode_words(_one_line(part))) if encoded else part)
    return b"".join(out)


def _received(head: bytes, value: bytes) -> bytes:
    """The clause "for" goes when ASCII cannot say it. RFC 6857 §3.2.5."""
    return _structured(head, _FOR.sub(lambda found: found[0] if found[0].isascii() else b"", value))


def _parameters(head: bytes, value: bytes) -> bytes:
    """A media type or disposition whose parameters are encoded where they need it. RFC 2231 §3, §4."""
    return head + _PARAMETER.sub(_parameter, value)


def _parameter(found: re.Match[bytes]) -> bytes:
    _, name, text = found.groups()
    if text.isascii() or name.endswith(b"*"):
        return found[0]
    if text.startswith(b'"'):
        text = re.sub(rb"\\(.)", rb"\1", text[1:].removesuffix(b'"'), flags=re.DOTALL)
    text = _one_line(text)
    escaped = _UNSAFE.sub(lambda octet: b"%%%02X" % octet[0][0], text)
    charset = b"utf-8" if _is_utf8(text) else b"unknown-8bit"
    pieces = _ESCAPED.findall(escaped)
    if len(pieces) == 1:
        return b";\r\n %b*=%b''%b" % (name, charset, pieces[0])
    lines = [b";\r\n %b*%d*=%b" % (name, i, (charset + b"''" if i == 0 else b"") + p) for i, p in enumerate(pieces)]
    return b"".join(lines)


def _address_list(head: bytes, value: bytes) -> bytes:
    """Mailboxes of ASCII stay as they are; names are encoded, addresses made safe. RFC 6858 §2.1."""
    tokens: list[bytes] = []
    lexemes: list[bytes] = []
    depth = count = 0
    for lexeme in _LEXEMES.findall(_one_line(value)):
        depth = max(depth + (lexeme == b"(") - (lexeme == b")"), 0)
        if depth or lexeme not in (b",", b":", b";"):
            lexemes.append(lexeme)
            continue
        count += 1
        mailbox = _mailbox(lexemes, group=lexeme == b":", domains=count <= MAILBOXES)
        tokens += [*mailbox[:-1], mailbox[-1] + lexeme] if mailbox else [lexeme]
        lexemes = []
    return _fold(head, [*tokens, *_mailbox(lexemes, group=False, domains=count < MAILBOXES)])


def _path(head: bytes, value: bytes) -> bytes:
    """A reverse-path has no room for a name beside it. RFC 5322 §3.6.7."""
    path = _one_line(value).strip(b"<>")
    safe = _ascii_domain(path)
    return head + b" " + (NOBODY if safe is None else b"<" + safe + b">") + b"\r\n"


def _mailbox(lexemes: list[bytes], *, group: bool, domains: bool) -> list[bytes]:
    """One mailbox, or the name of a group, as tokens."""
    text = b"".join(lexemes).strip(b" \t")
    if text.isascii():
        return [text] if text else []
    words, comments, route = _parts(lexemes)
    if group or (route is None and b"@" not in words):
        return [*encode_words(_unquote(words)), *_comment(comments)]
    name, address = (b"", words) if route is None else (words, route)
    safe = address if address.isascii() else _ascii_domain(address) if domains else None
    if safe is None:
        shown = _unquote(name) + b" (" + address + b")" if name else address
        return [*encode_words(shown), NOBODY, *_comment(comments)]
    if route is None:
        return [safe, *_comment(comments)]
    named = [name] if name and name.isascii() else encode_words(_unquote(name))
    return [*named, b"<" + safe + b">", *_comment(comments)]


def _parts(lexemes: list[bytes]) -> tuple[bytes, bytes, bytes | None]:
    """The words of a mailbox outside its comments and angle brackets, what stands in comments, and in brackets."""
    words, comments, route, depth = [], [], None, 0
    for lexeme in lexemes:
        if lexeme == b"(":
            depth += 1
        elif lexeme == b")":
            depth = max(depth - 1, 0)
        elif depth:
            comments.append(lexeme)
        elif route is None and lexeme.startswith(b"<"):
            route = lexeme.strip(b"<> \t")
        else:
            words.append(lexeme)
    return b"".join(words).strip(b" \t"), b" ".join(comments).strip(b" \t"), route


def _comment(text: bytes) -> list[bytes]:
    if not text:
        return []
    words = [text] if text.isascii() else encode_words(text)
    words[0], words[-1] = b"(" + words[0], words[-1] + b")" if len(words) > 1 else b"(" + words[0] + b")"
    return words


def _ascii_domain(address: bytes) -> bytes | None:
    """The address with its domain as A-labels, when nothing else in it is beyond ASCII. RFC 5891 §4.4."""
    local, at, domain = address.rpartition(b"@")
    if not at or not local.isascii() or len(domain) > DOMAIN:
        return None
    try:
        return local + b"@" + idna.encode(domain.decode("utf-8"), uts46=True)
    except ValueError:  # idna.IDNAError and UnicodeError are both ValueErrors
        return None


def _unquote(text: bytes) -> bytes:
    """A display name without its quotes; they have no meaning within an encoded word."""
    return _QUOTED.sub(lambda found: found[1] or b"", text)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_CONVERTERS: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {
    **dict.fromkeys(ADDRESSES, _address_list),
    **dict.fromkeys(PARAMETERS, _parameters),
    **dict.fromkeys(IDENTIFIERS, _identifier),
    **dict.fromkeys(STRUCTURED, _structured),
    "received": _received,
    "return-path": _path,
}
