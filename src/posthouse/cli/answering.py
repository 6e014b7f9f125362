"""Replies and forwards: the letter that is answered, from a file or a mailbox, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

from posthouse.cli import letters
from posthouse.cli.account import PROFILE, fill_in
from posthouse.cli.exits import Exit, Problem, problem_of
from posthouse.cli.fetching import Fetched, OnDisk
from posthouse.mail import thread
from posthouse.mail.compose import LINE, Attachment, Part, with_line_ends
from posthouse.mail.header import Header
from posthouse.mail.mailboxes import Mailbox
from posthouse.mail.message import Message
from posthouse.mail.mime import Octets, safe_name

QUOTED: Final = 262_144  # characters of a letter that are quoted


@dataclass(slots=True)
class Parent:
    """The letter that is answered or passed on."""

    source: Part
    header: Header
    message: Message
    file: IO[bytes] | None = None  # that the message is read from, when it is large

    def close(self) -> None:
        """No more is read of it; its source stays."""
        if self.file is not None:
            self.file.close()

    @property
    def subject(self) -> str:
        """Its subject, decoded."""
        return self.message.get("Subject")


@dataclass(slots=True)
class Answer:
    """What an answer takes from its parent."""

    subject: str = ""
    to: list[Mailbox] = field(default_factory=list)
    cc: list[Mailbox] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)
    quoted: str = ""
    attachments: list[Attachment] = field(default_factory=list)


def find_parent(what: str, options: dict[str, Any]) -> Parent:
    """The letter that --reply or --forward names: a file, or the number of a message in the mailbox. Raises Problem."""
    path = Path(what)
    if what.isascii() and what.isdigit() and len(what) <= 9 and not path.exists():
        source = _from_mailbox(int(what), options)
    else:
        source = letters.attachment(path)
    return _parent(source)


def _parent(source: Part) -> Parent:
    with source.open() as begun:
        head = begun.read(letters.HEADER)
    file = source.open() if source.size > letters.IN_MEMORY else None
    octets = head if file is None else cast(Octets, OnDisk(file, source.size))
    header = Header(head, limit=letters.HEADER)
    if not any(item.name for item in header):
        raise Problem(Exit.DATA, "What is to be answered is no letter: it has no header. Nothing was sent.")
    return Parent(source, header, Message(octets), file)


def _from_mailbox(number: int, options: dict[str, Any]) -> Part:
    """Message `number` of the mailbox. Raises Problem."""
    from posthouse.cli.helpers import parse_url
    from posthouse.cli.read import SCHEMES
    from posthouse.cli.reading import access_of

    options = dict(options)
    url, account = options["mailbox"], options.get(PROFILE)
    if url:
        options[PROFILE] = None  # another server: nothing of the account belongs there
        options["user"] = ""
    elif account is not None:
        options["user"] = ""
        fill_in(options, account, "read")
        url = options["url"]
    else:
        text = f"There is no file {number}; for message {number} give --mailbox pop3://user@host:port."
        raise Problem(Exit.USAGE, text)
    server, login = parse_url(url, SCHEMES)
    login = options["user"] or login
    if options["password_stdin"]:
        raise Problem(Exit.USAGE, "--password-stdin goes to the server that sends; --mailbox asks for its own.")
    access = access_of(options | {"url": url}, server, login)
    fetched = Fetched()
    asyncio.run(_fetch(access, number, fetched))
    with fetched:
        return letters.spool(cast("IO[bytes]", _Pieces(fetched.pieces())))


async def _fetch(access: Any, number: int, fetched: Fetched) -> None:
    from posthouse.cli.reading import Job, Session
    from posthouse.clients.failure import Failure
    from posthouse.clients.pop3 import refusal

    session = Session(access, Job("show", [number]), None)
    try:
        await session.open()
        answer = await session.client.retrieve(number, fetched.add)
        if not answer.positive:
            raise refusal(answer, "retr")
        await session.leave()
    except Failure as failure:
        raise problem_of(failure, "Nothing was sent.") from failure
    finally:
        session.close()


class _Pieces:
    """Pieces as something to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most so many octets."""
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        octets, self._rest = self._rest[:size], self._rest[size:]
        return octets


def reply(parent: Parent, me: Mailbox, *, everybody: bool, quote: bool) -> Answer:
    """To whom a reply goes, and how it is tied to its parent (RFC 5322 §3.6.2, §3.6.4)."""
    header = parent.header
    answered = letters.all_mailboxes(header, "reply-to") or letters.all_mailboxes(header, "from")
    if answered and all(box.address.key == me.address.key for box in answered):
        answered = letters.all_mailboxes(header, "to")  # to a letter of our own: to whom that went
    if not answered:
        raise Problem(Exit.DATA, "The letter does not say whom to answer: name somebody. Nothing was sent.")
    answer = Answer(thread.reply_subject(parent.subject), answered)
    if everybody:
        seen = {me.address.key, *(box.address.key for box in answered)}
        for name in ("to", "cc"):
            for box in letters.all_mailboxes(header, name):
                if box.address.key not in seen:
                    seen.add(box.address.key)
                    answer.cc.append(box)
    own, references = thread.parent_ids(header)
    if own:
        answer.fields.append(("In-Reply-To", own))
    if references:
        answer.fields.append(("References", " ".join(references)))
    answer.quoted = _quoted(parent) if quote else ""
    return answer


def forward(parent: Parent) -> Answer:
    """The letter itself goes with the new one, unchanged (RFC 2046 §5.2.1). It belongs to the thread, but it is no
    reply: References, and no In-Reply-To (RFC 5322 §3.6.4)."""
    answer = Answer(thread.forward_subject(parent.subject), attachments=[_as_attachment(parent)])
    _, references = thread.parent_ids(parent.header)
    if references:
        answer.fields.append(("References", " ".join(references)))
    return answer


def _as_attachment(parent: Parent) -> Attachment:
    """As a message within the message where that can pass, else as a file: base64 is forbidden for messages."""
    longest = column = 0
    ascii_only, nul = True, False
    for piece in with_line_ends(parent.source):
        lines = piece.split(b"\n")
        longest = max(longest, column + len(lines[0]), *map(len, lines[1:]))
        column = len(lines[-1]) + (column if len(lines) == 1 else 0)
        ascii_only = ascii_only and piece.isascii()
        nul = nul or b"\0" in piece
    name = f"{safe_name(parent.subject, 1, '') or 'letter'}.eml"
    source = parent.source
    if longest > LINE or nul:
        return Attachment(source.size, source.open, name, "application/octet-stream")
    encoding = "7bit" if ascii_only else "8bit"
    return Attachment(source.size, source.open, name, "message/rfc822", encoding=encoding)


def _quoted(parent: Parent) -> str:
    """The text of the parent, each line behind a ">"."""
    text = ""
    for piece in parent.message.body():
        text += piece
        if len(text) > QUOTED:
            text = text[:QUOTED] + "\n[...]"
            break
    when, who = parent.message.get("Date"), parent.message.get("From")
    head = f"On {when}, {who} wrote:" if when else f"{who} wrote:"
    lines = [f">{line}" if line.startswith(">") else f"> {line}".rstrip() for line in text.rstrip("\n").split("\n")]
    return "\n".join(["", head, *lines, ""])
