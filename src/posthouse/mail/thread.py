"""Replies and forwards: the fields that tie a letter to the one it answers (RFC 5322 §3.6.4, §3.6.5)."""

from __future__ import annotations

import re
from typing import Final

from posthouse.mail.header import Header

MOST: Final = 100  # ids in References: the first, which names the thread, and the last ones
_ID: Final = re.compile(r"<[^<>\s]{1,250}>")
_RE: Final = re.compile(r"(?:\s*re(?:\[[0-9]{1,4}\])?:)+\s*", re.IGNORECASE)
_FORWARDED: Final = re.compile(r"\s*(?:fwd?|forwarded):", re.IGNORECASE)


def ids_of(value: bytes | None) -> list[str]:
    """The message ids of a field, in their order, each once."""
    text = (value or b"").decode("utf-8", "replace")
    return [found for found in dict.fromkeys(_ID.findall(text)) if found.isascii()]


def parent_ids(header: Header) -> tuple[str, list[str]]:
    """What a reply to this letter has in In-Reply-To ("": nothing) and in References (RFC 5322 §3.6.4)."""
    own = ids_of(header.get("message-id"))[:1]
    before = ids_of(header.get("references"))
    if not before:
        answered = ids_of(header.get("in-reply-to"))
        before = answered if len(answered) == 1 else []
    references = [found for found in before if found not in own] + own
    if len(references) > MOST:
        references = references[:1] + references[1 - MOST :]
    return (own[0] if own else ""), references


def reply_subject(subject: str) -> str:
    """The subject of a reply: one "Re: " before it, however many there were (RFC 5322 §3.6.5)."""
    found = _RE.match(subject)
    return f"Re: {subject[found.end() :] if found else subject}".rstrip()


def forward_subject(subject: str) -> str:
    """The subject of a letter that is passed on."""
    return subject if _FORWARDED.match(subject) else f"Fwd: {subject}".rstrip()
