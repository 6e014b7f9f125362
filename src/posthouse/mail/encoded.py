"""Text beyond ASCII in header fields: encoded words (RFC 2047) and encoded parameters (RFC 2231)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from posthouse.mail.charsets import decode

WORD: Final = 45  # octets of text in one encoded word: 60 in base64, and 75 with all around it (RFC 2047 §2)
LINE: Final = 76  # RFC 2047 §2; RFC 5322 §2.1.1 allows 78
LONGEST: Final = 900  # octets of an ASCII word that may stand as it is; a line has 998 at most (RFC 5322 §2.1.1)
FIELD: Final = 65_536  # octets of one field that are decoded
PARAMETERS: Final = 100  # of one field


# Printing


def encode_text(text: str, used: int, *, utf8: bool = False) -> str:
    """The value of an unstructured field, folded; `used` columns of the first line are taken by its name. Reading it
    gives the text back, whatever it holds (RFC 2047 §5). With `utf8` nothing is encoded but folded (RFC 6532)."""
    plain = (text.isascii() or utf8) and "=?" not in text and max(map(len, text.split()), default=0) < LONGEST / 4
    if plain and text == text.strip() and text.isprintable():
        return fold(text, used)
    return "\r\n ".join(encode_words(text))


def encode_phrase(text: str, *, utf8: bool = False) -> str:
    """A display name: as it is, quoted, or as encoded words (RFC 5322 §3.2.5, RFC 2047 §5)."""
    if not (text.isascii() or utf8) or not text.isprintable() or "=?" in text or len(text) > LONGEST / 4:
        return "\r\n ".join(encode_words(text))
    if _ATOMS.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def encode_words(text: str) -> list[str]:
    """The text as encoded words, none of which cuts a character."""
    words: list[str] = []
    octets = b""
    for char in text:
        encoded = char.encode("utf-8", "replace")
        if len(octets) + len(encoded) > WORD:
            words.append(_word(octets))
            octets = b""
        octets += encoded
    return [*words, _word(octets)]


def _word(octets: bytes) -> str:
    return f"=?utf-8?B?{base64.b64encode(octets).decode('ascii')}?="


def fold(text: str, used: int) -> str:
    """Breaks the line before blanks so that lines stay within 76 columns where they can (RFC 5322 §2.2.3)."""
    lines = []
    start, last = 0, -1
    for blank in re.finditer(r" (?=[^ ])", text):
        if blank.start() - start + used > LINE and last > start:
            lines.append(text[start:last])
            start, used = last, 0
        last = blank.start()
    if len(text) - start + used > LINE and last > start:
        lines.append(text[start:last])
        start = last
    return "\r\n".join([*lines, text[start:]])


def encode_parameter(name: str, value: str) -> str:
    """`; name=value` on lines of its own, encoded and cut where needed (RFC 2231 §3, §4)."""
    if value.isascii() and value.isprintable() and len(value) <= 60:
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return f';\r\n {name}="{text}"'
    encoded = quote(value.encode("utf-8", "replace"), safe="!#$&+-.^_`|~")
    if len(encoded) <= 60:
        return f";\r\n {name}*=utf-8''{encoded}"
    charset = "utf-8''"
    pieces = re.findall(r"(?:%..|[^%]){1,20}", encoded)
    lines = [f"{name}*{n}*={charset if n == 0 else ''}{piece}" for n, piece in enumerate(pieces)]
    return "".join(f";\r\n {line}" for line in lines)


# Reading

_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_ENCODED: Final = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?\r\n]{0,4000})\?=")
_HEX: Final = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64: Final = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def decode_field(octets: bytes, charset: str = "utf-8") -> str:
    """The value of a field as people read it: unfolded, encoded words decoded. Raw octets beyond ASCII are taken as
    UTF-8 (RFC 6532), else as `charset`."""
    octets = octets[:FIELD].replace(b"\r", b"").replace(b"\n", b"")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        text = decode(octets, charset if charset.lower() not in ("utf-8", "us-ascii") else "unknown")
    return decode_words(text).strip()


def decode_words(text: str) -> str:
    """The text with its encoded words decoded. Blanks between two of them vanish (RFC 2047 §6.2), and a character that
    was cut between two words of one charset is put together, which senders do against the rule."""
    if "=?" not in text:
        return text
    pieces: list[str] = []
    pending, charset, place = b"", "", 0
    for found in _ENCODED.finditer(text):
        between = text[place : found.start()]
        if pending and (between.strip() or found[1].lower() != charset):
            pieces.append(decode(pending, charset))
            pending = b""
            if between.strip():
                pieces.append(between)
        elif not pending:
            pieces.append(between if between.strip() or not pieces else "")
        pending += _unword(found[2], found[3])
        charset, place = found[1].lower(), found.end()
    if pending:
        pieces.append(decode(pending, charset))
    pieces.append(text[place:])
    return "".join(pieces)


def _unword(encoding: str, text: str) -> bytes:
    octets = text.encode("utf-8", "replace")
    if encoding in "bB":
        return unbase64(octets)
    return _HEX.sub(lambda found: bytes((int(found[1], 16),)), octets.replace(b"_", b" "))


def unbase64(octets: bytes) -> bytes:
    """What base64 holds, whatever stands between and however it ends."""
    digits = octets.translate(None, _NOT_BASE64)
    digits = digits[: len(digits) - 1] if len(digits) % 4 == 1 else digits
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))
    except binascii.Error:  # cannot happen with the digits counted; be safe where a peer decides
        return b""


def parse_parameters(value: bytes) -> tuple[str, dict[str, str]]:
    """The first word of a field such as Content-Type in small letters, and its parameters, decoded (RFC 2045 §5.1,
    RFC 2231). At most 100 parameters; a repeated one counts once."""
    text = decode_raw(value)
    head, _, rest = text.partition(";")
    raw: dict[str, str] = {}
    place = 0
    while place < len(rest) and len(raw) < PARAMETERS:
        found = _PARAMETER.match(rest, place)
        if found is None:
            place = rest.find(";", place) + 1
            if place == 0:
                break
            continue
        place = found.end()
        name = found[1].lower()
        quoted = found[2]
        raw.setdefault(name, _UNQUOTE.sub(r"\1", quoted) if quoted is not None else found[3].strip())
    return head.strip().lower(), _join(raw)


_PARAMETER: Final = re.compile(
    # Possessive quantifiers: what a peer writes must not make the search go back and forth.
    r'[ \t]*+([^\s=;"()<>]{1,80})[ \t]*+=[ \t]*+'
    r'(?:"((?:[^"\\]|\\.){0,10000}+)(?:"[^;"]{0,200}+|$)|([^;"]{0,10000}+))(?:;|$)'
)
_UNQUOTE: Final = re.compile(r"\\(.)")
_CONTINUED: Final = re.compile(r"(.+?)\*(\d{1,3})?(\*)?")


def decode_raw(value: bytes) -> str:
    """The octets of a structured field as text, unfolded; bounded."""
    return value[:FIELD].replace(b"\r", b"").replace(b"\n", b"").decode("utf-8", "surrogateescape")


def _join(raw: dict[str, str]) -> dict[str, str]:
    """Puts continued and encoded parameters together (RFC 2231 §3, §4)."""
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    for name, value in raw.items():
        found = _CONTINUED.fullmatch(name)
        if found is None:
            plain[name] = _plain(value)
        else:
            encoded = found[3] is not None or found[2] is None
            pieces.setdefault(found[1], {})[int(found[2] or 0)] = (value, encoded)
    for name, parts in pieces.items():
        plain[name] = _assemble(parts)
    return plain


def _assemble(parts: dict[int, tuple[str, bool]]) -> str:
    octets, charset = b"", "utf-8"
    for number in range(len(parts)):
        if number not in parts:
            break
        value, encoded = parts[number]
        if encoded and number == 0 and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
        raw = value.encode("utf-8", "surrogateescape")
        octets += unquote_to_bytes(raw) if encoded else raw
    return decode(octets, charset or "utf-8")


def _plain(value: str) -> str:
    text = decode(value.encode("utf-8", "surrogateescape"), "utf-8") if not value.isascii() else value
    return decode_words(text)  # against RFC 2047 §5 (3), and what most senders did for twenty years
