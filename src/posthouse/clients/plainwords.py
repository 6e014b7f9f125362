"""What a refused login means where the server has no response codes (RFC 2449 §8): its words have to tell.

"Wrong password" stops a program that collects mail by itself, "in use" makes it come again; so a text counts as the
latter only when it speaks of the maildrop or of sessions, and not of the account ("account locked").
"""

from __future__ import annotations

import re
from typing import Final

from posthouse.clients.failure import Kind

_DROP: Final = r"(?:mail ?drop|mail ?box|mail ?file|spool|pop(?:3)?(?: mail)?|\w*inbox)"
IN_USE: Final = re.compile(
    "|".join(
        (
            rf"{_DROP}\b[^.]{{0,40}}\b(?:locked|lock|in use|busy|open(?:ed)?|active)\b",  # RFC 1939's and most others
            rf"\block(?:ed)?\b[^.]{{0,40}}\b{_DROP}",  # "can't lock maildrop", "unable to acquire lock on mailbox"
            r"\block busy\b",  # qpopper: "x lock busy!  Is another session active?"
            r"\b(?:another|other) (?:pop3? )?(?:session|connection|client|process)\b",
            r"\balready (?:logged in|connected|in use|locked)\b",
            r"\b(?:too many|maximum|max\.?)\b[^.]{0,30}\b(?:connections?|sessions?|logins)\b",  # Courier
        )
    ),
    re.IGNORECASE,
)
TEMPORARY: Final = re.compile(
    r"\btemporar(?:y|ily)\b|\btry (?:again|later)\b|\bwait\b|\bunavailable\b|\binternal (?:server )?error\b"
    r"|\bout of memory\b|\btimed? ?out\b|\btoo (?:often|frequent|soon)|\bnot responding\b",
    re.IGNORECASE,
)
# What speaks of the person stays a wrong login, whatever else it says: an account may be locked for good.
PERSON: Final = re.compile(
    r"\b(?:password|user ?name|credentials?|authenticat\w*|authoriz\w*|account|user)\b", re.IGNORECASE
)


def meaning(text: str) -> Kind:
    """IN_USE, TEMPORARY, or LOGIN for everything that does not clearly say one of them."""
    text = text[:500]
    if IN_USE.search(text):
        return Kind.IN_USE
    if TEMPORARY.search(text) and not (
        PERSON.search(text) and re.search(r"\b(?:invalid|wrong|bad|incorrect)\b", text, re.I)
    ):
        return Kind.TEMPORARY
    return Kind.LOGIN
