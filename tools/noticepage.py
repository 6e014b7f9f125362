"""Writes the reference page of notices from the tables that the notices are made of."""

from __future__ import annotations

from posthouse.mail.report import ACTIONS
from posthouse.mta.bounce import ASKED, UNASKED
from posthouse.mta.causes import BY_STATUS, ENGLISH, RUSSIAN, Cause
from posthouse.mta.wording import EN, RU

_BEGINNING = """\
# Notices

This page is generated from `posthouse.mta` (`make docs`); do not edit it. What notices are for, and what they look
like, tells [When mail cannot be delivered](../explanation/when-mail-cannot-be-delivered.md).

## Actions

The word of the field `Action` (RFC 3464 §2.3.3), who gets such a notice, and its subject.

| action | when | without NOTIFY | with NOTIFY | subject | Russian |
|---|---|---|---|---|---|
"""

_WHEN = {
    "failed": "a letter is given up for this recipient",
    "delayed": "it could not be delivered yet, and is tried again; told once",
    "delivered": "it lies in the recipient's mailbox",
    "relayed": "it was handed on to a server that sends no such notices",
    "expanded": "it was sent on to the several addresses behind this one",
}

_CAUSES = """
## What happened

What a *failed* or *delayed* notice says, by the enhanced status code (RFC 3463) without its first digit. Where a code
says nothing (`5.0.0`), the reply code and the stage of the dialogue decide.

| cause | codes | what is said | Russian |
|---|---|---|---|
"""


def page() -> str:
    """The page in Markdown."""
    rows = []
    for action in ACTIONS:
        silent = "told" if action in UNASKED else "not told"
        asked = f"`{ASKED[action]}`"
        rows.append(
            f"| {action} | {_WHEN[action]} | {silent} | {asked} | {EN.subjects[action]} | {RU.subjects[action]} |"
        )
    causes = []
    for cause in Cause:
        codes = ", ".join(f"x.{code}" for code, found in BY_STATUS.items() if found is cause)
        said, russian = (senses[cause].meaning.format(domain="…") for senses in (ENGLISH, RUSSIAN))
        causes.append(f"| {cause} | {codes} | {said} | {russian} |")
    return _BEGINNING + "\n".join(rows) + "\n" + _CAUSES + "\n".join(causes) + "\n"
