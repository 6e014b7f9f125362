"""How names and passwords are brought into one form before they are compared or hashed.

Two preparations exist. SASLprep (RFC 4013) is what SCRAM asks for, and what its clients do; OpaqueString (RFC 8265
§4.2.2) is its successor, which changes less. For a password in ASCII both give the password itself.
"""

from __future__ import annotations

import stringprep
import unicodedata
from typing import Final

_PROHIBITED: Final = (  # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Unprepared(ValueError):
    """A text that the preparation does not allow."""


def opaque(text: str) -> str:
    """OpaqueString: any blank becomes a plain blank, then Unicode form NFC; capital letters stay. RFC 8265 §4.2.2."""
    if text.isascii():
        return text
    blanks = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    return unicodedata.normalize("NFC", blanks)


def saslprep(text: str) -> str:
    """SASLprep: some characters vanish, blanks become plain ones, then Unicode form NFKC. Raises Unprepared for
    control characters, unassigned code points of Unicode 3.2 and mixed directions. RFC 4013 §2."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for char in prepared:
        if any(prohibited(char) for prohibited in _PROHIBITED):
            raise Unprepared("a character that no password or name may hold")
        if stringprep.in_table_a1(char):
            raise Unprepared("a character that Unicode 3.2 does not know")
    _check_directions(prepared)
    return prepared


def _check_directions(text: str) -> None:
    """RFC 3454 §6: a text with letters written from right to left has none of the others, and begins and ends so."""
    if any(stringprep.in_table_d1(char) for char in text):
        if any(stringprep.in_table_d2(char) for char in text):
            raise Unprepared("letters of both directions")
        if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
            raise Unprepared("letters of both directions")


def scram_password(password: str) -> bytes:
    """The octets of a password as SCRAM hashes them: SASLprep, and where that allows no such password (newer letters
    than Unicode 3.2 has), OpaqueString. RFC 5802 §2.2 (Normalize), RFC 8265 §8.2."""
    if password.isascii():
        return password.encode("ascii")
    try:
        return saslprep(password).encode("utf-8")
    except Unprepared:
        return opaque(password).encode("utf-8", "replace")
