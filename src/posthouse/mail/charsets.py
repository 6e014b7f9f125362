"""Characters: octets of any declared charset as text, and text that cannot harm a terminal."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Only these names reach Python's codecs: among the others are codecs that unpack, and one of quadratic cost.
_KNOWN: Final = re.compile(
    r"(?:us-?ascii|ascii|ansi_x3\.4-1968|utf-?8|utf-?16(?:[bl]e)?|utf-?32(?:[bl]e)?"
    r"|iso[-_]?8859-?\d{1,2}|latin-?\d{1,2}|l1|(?:windows|cp)-?\d{3,4}|ibm-?\d{3}|koi8-?[rut]"
    r"|mac-?(?:roman|cyrillic|greek|turkish|latin2|iceland)|macintosh|x-mac-cyrillic"
    r"|gb2312|gbk|gb18030|hz(?:-gb-2312)?|big5(?:-?hkscs)?|euc-?(?:jp|kr)|ks_c_5601-1987|johab"
    r"|shift[-_]?jisx?|sjis|iso-2022-(?:jp(?:-[123])?|kr)|tis-?620|ptcp154|kz1048)"
)
_OTHER_NAMES: Final = {
    "macintosh": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "ks_c_5601-1987": "cp949",
    "hz-gb-2312": "hz",
    "gb2312": "gbk",  # what is declared so often holds characters of the larger set
    "iso-8859-1": "cp1252",  # the same, as every browser reads it
    "latin1": "cp1252",
    "us-ascii": "ascii",
    "ansi_x3.4-1968": "ascii",
}
LONGEST_NAME: Final = 40


def codec(charset: str) -> codecs.CodecInfo | None:
    """The codec of a charset that mail uses, None when the name is not one of those."""
    name = charset.strip().lower().replace(" ", "")
    if len(name) > LONGEST_NAME or not _KNOWN.fullmatch(name):
        return None
    name = _OTHER_NAMES.get(name, name)
    name = re.sub(r"^windows-?", "cp", name)
    try:
        return codecs.lookup(name)
    except LookupError:
        return None


def decode(octets: bytes, charset: str) -> str:
    """The octets as text. What does not fit the charset becomes U+FFFD. Without a charset that is known, UTF-8 is
    tried, and octets that are not UTF-8 are shown as \\xNN."""
    info = codec(charset)
    if info is None or info.name == "ascii":
        return octets.decode("utf-8", "backslashreplace")
    if info.name in ("utf-16", "utf-32"):
        return _WithoutMark(info).decode(octets, True)
    return info.decode(octets, "replace")[0]


def decoder(charset: str) -> codecs.IncrementalDecoder:
    """The same for a text that comes in pieces."""
    info = codec(charset)
    if info is None or info.name == "ascii" or info.incrementaldecoder is None:
        return codecs.getincrementaldecoder("utf-8")("backslashreplace")
    if info.name in ("utf-16", "utf-32"):
        return _WithoutMark(info)
    return info.incrementaldecoder("replace")


class _WithoutMark(codecs.IncrementalDecoder):
    """UTF-16 or UTF-32 that is big-endian when no byte order mark says otherwise (RFC 2781 §4.3)."""

    def __init__(self, info: codecs.CodecInfo) -> None:
        super().__init__("replace")
        self._name = info.name
        self._inner: codecs.IncrementalDecoder | None = None
        self._held = b""

    def decode(self, input: ReadableBuffer, final: bool = False) -> str:
        octets = self._held + bytes(input)
        if self._inner is None:
            if len(octets) < 4 and not final:
                self._held = octets
                return ""
            marked = octets.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
            self._inner = codecs.getincrementaldecoder(self._name if marked else f"{self._name}-be")("replace")
            self._held = b""
        try:
            return self._inner.decode(octets, final)
        except UnicodeError:  # a mark of UTF-16 before UTF-32
            self._inner = codecs.getincrementaldecoder("latin-1")()
            return octets.decode("latin-1")


# C0 and C1 controls drive the terminal; the rest reorders, hides or imitates text (Unicode TR 36 and TR 9).
_CONTROLS: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_HIDDEN: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
HARMFUL: Final = f"[{_CONTROLS}{_HIDDEN}\ud800-\udfff]"
"""A regular expression for one character that could drive a terminal or deceive an eye; line ends and tabs are none."""
_HARMFUL: Final = re.compile(HARMFUL)
_HARMFUL_IN_LINE: Final = re.compile(f"[\n\t{_CONTROLS}{_HIDDEN}\ud800-\udfff]")


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20 or code == 0x7F:
        return "^" + chr(code ^ 0x40)
    return f"\\x{code:02x}" if code < 0xA0 else f"<U+{code:04X}>"


def harmless(text: str) -> str:
    """The text with everything that could drive a terminal or deceive an eye made visible. Line ends and tabs stay."""
    return _HARMFUL.sub(_shown, text)


def harmless_line(text: str) -> str:
    """The same for what must stay one line."""
    return _HARMFUL_IN_LINE.sub(_shown, text)


def escape_json(text: str) -> str:
    """A JSON text, the same in meaning, that drives no terminal and deceives no eye: escapes instead of characters."""
    return _HARMFUL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    octets = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{octets[place]:02x}{octets[place + 1]:02x}" for place in range(0, len(octets), 2))
