"""The pieces that SMTP commands are made of: paths, parameters, xtext (RFC 5321 §4.1.2, RFC 3461 §4).

Every parser takes text that holds no control characters (`decode` sees to that) and raises PeerError with the
reply for what is wrong. What is parsed here is printed here.
"""

from __future__ import annotations

import re
from typing import Final

from posthouse.mail.address import Address, AddressError, parse_domain
from posthouse.mail.reply import PeerError, Smtp

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
# esmtp-value = 1*(%d33-60 / %d62-126), RFC 5321 §4.1.2, with UTF-8 by RFC 6531 §3.3. A "=" inside it is taken
# too: many clients put one into ENVID or AUTH without harm.
_VALUE: Final = re.compile(r"[!-~\u0080-\U0010ffff]+")
_HEXCHAR: Final = re.compile(r"\+([0-9A-F]{2})")
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_NOT_QUCHAR: Final = re.compile(r"[\x00-\x20+=\x7f]")
_NOT_XCHAR: Final = re.compile(rb"[^!-*,-<>-~]")
# What real clients say in EHLO: names, literals, and also names with an underscore.
_HOST: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]+")


def decode(line: bytes) -> str:
    """The text of a command line without its CRLF; white space at its end is tolerated (RFC 5321 §4.1.1)."""
    try:
        text = line.decode("ascii" if line.isascii() else "utf-8")
    except UnicodeDecodeError as error:
        raise PeerError(Smtp.BAD_OCTETS) from error
    text = text.rstrip(" \t")
    if not text.isprintable() and _CONTROL.search(text):
        raise PeerError(Smtp.BAD_OCTETS)
    return text


def parse_host(text: str, syntax: str) -> str:
    """The name a client gives itself. ABNF: Domain / address-literal, RFC 5321 §4.1.1.1.

    Names that break the grammar of host names (underscores, odd literals) are common and harmless here: they are
    taken, and the trace shows the address beside them (RFC 5321 §4.1.4: a failed check refuses no mail).
    """
    if not _HOST.fullmatch(text) or len(text) > 255:
        raise PeerError(Smtp.SYNTAX.fill(syntax=syntax))
    return text


def split_path(text: str, keyword: str, syntax: str) -> tuple[str, str]:
    """Parts `FROM:<path> parameters` into the path without brackets and the parameters.

    ABNF: Path = "<" [ A-d-l ":" ] Mailbox ">", RFC 5321 §4.1.2. Blanks around the colon and a path without
    brackets are against the grammar and common; they are taken, as Postfix, Exim and Sendmail do.
    """
    head, colon, rest = text.partition(":")
    if not colon or head.rstrip(" ").upper() != keyword:
        raise PeerError(Smtp.SYNTAX.fill(syntax=syntax))
    rest = rest.lstrip(" ")
    if rest.startswith("<"):
        end = _closing(rest)
        path, rest = rest[1:end], rest[end + 1 :]
        if rest and not rest.startswith(" "):
            raise PeerError(Smtp.SYNTAX.fill(syntax=syntax))
        return path, rest
    path, _, rest = rest.partition(" ")
    if not path or ">" in path:
        raise PeerError(Smtp.SYNTAX.fill(syntax=syntax))
    return path, rest


def _closing(text: str) -> int:
    """The place of the bracket that closes the one at 0; a quoted local part may hold others."""
    end = text.find(">")
    if '"' not in text[: max(end, 0)]:
        if end < 0:
            raise PeerError(Smtp.BAD_ADDRESS)
        return end
    quoted = escaped = False
    for place, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == ">" and not quoted:
            return place
    raise PeerError(Smtp.BAD_ADDRESS)


def parse_mailbox(path: str) -> Address:
    """The mailbox of a path. A source route before it is read and forgotten (RFC 5321 §4.1.1.3, appendix C).

    Raises AddressError.
    """
    if path.startswith("@"):
        route, colon, path = path.partition(":")
        if not colon:
            raise AddressError("The source route has no end")
        for hop in route.split(","):
            if not hop.startswith("@"):
                raise AddressError("A source route is a list of @domains")
            parse_domain(hop[1:])
    return Address.parse(path)


def split_parameters(text: str) -> list[tuple[str, str | None]]:
    """The parameters after a path, keywords in capitals. ABNF, RFC 5321 §4.1.2:

    Mail-parameters = esmtp-param *(SP esmtp-param); esmtp-param = esmtp-keyword ["=" esmtp-value].
    """
    found: list[tuple[str, str | None]] = []
    seen: set[str] = set()
    for word in text.split():
        keyword, equals, value = word.partition("=")
        name = keyword.upper()
        if not _KEYWORD.fullmatch(keyword) or (equals and not _VALUE.fullmatch(value)):
            raise PeerError(Smtp.BAD_PARAMETER.fill(name=name))
        if name in seen:
            raise PeerError(Smtp.REPEATED_PARAMETER.fill(name=name))
        seen.add(name)
        found.append((name, value if equals else None))
    return found


def decode_xtext(text: str) -> str:
    """xtext = *( xchar / hexchar ), RFC 3461 §4. Raises ValueError, also when the octets are not UTF-8."""
    if "+" not in text and _XTEXT.fullmatch(text):
        return text
    if not _XTEXT.fullmatch(text):
        raise ValueError("not xtext")
    octets = _HEXCHAR.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")
    return octets.decode("utf-8")


def encode_unitext(text: str) -> str:
    """utf-8-addr-unitext of an address whose backslashes are escaped already: what ORCPT may not hold becomes \\x{HEX},
    which "+" of xtext would be read wrongly in (RFC 6533 §3)."""
    return _NOT_QUCHAR.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", text)


def encode_xtext(text: str) -> str:
    """xtext of any text; characters beyond ASCII go as the octets of UTF-8 (RFC 3461 §4)."""
    return _NOT_XCHAR.sub(lambda found: b"+%02X" % found[0][0], text.encode()).decode("ascii")
