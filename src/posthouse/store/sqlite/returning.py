"""Putting letters back into a mailbox that were in it before, with all that was known of them but their numbers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from posthouse.mail.reply import Fault, Unavailable
from posthouse.ports.store import Draft, Former, Missing
from posthouse.store.content import Files, LetterDraft
from posthouse.store.model import encode_envelope, header_of
from posthouse.store.sqlite.jobs import LAST_UID, Batch, pages_of


@dataclass(slots=True)
class Content:
    """A content that is about to get its row: its octets, or the file that is in its place."""

    size: int
    checksum: int
    eight_bit: bool
    octets: bytearray | None = None
    file: str | None = None


async def settle(drafts: Sequence[Draft], files: Files) -> list[Content]:
    """What drafts hold, in its place when it is large; the drafts are used up. Raises Unavailable: then nothing of
    them is left."""
    contents: list[Content] = []
    try:
        for draft in drafts:
            contents.append(await _settled(draft, files))
    except BaseException:
        forget(contents, files)
        for draft in drafts:
            await draft.discard()
        raise
    return contents


def forget(contents: Sequence[Content], files: Files) -> None:
    """Removes the files of contents that got no row."""
    files.remove(content.file for content in contents if content.file is not None)


async def _settled(draft: Draft, files: Files) -> Content:
    assert isinstance(draft, LetterDraft), "a draft of this store"
    await draft.written()
    rest = draft.take()
    if draft.staged is None:
        eight_bit = not rest.isascii() and not (header_of(rest) or rest).isascii()
        return Content(len(rest), crc32(rest), eight_bit, rest)
    return await asyncio.get_running_loop().run_in_executor(files.pool, _settle, draft, rest)


def _settle(draft: LetterDraft, rest: bytearray) -> Content:
    staged = draft.staged
    assert staged is not None, "only large contents come here"
    try:
        staged.append(rest)
        eight_bit = staged.eight_bit_header()
        staged.settle()
    except Unavailable:
        staged.discard()
        raise
    return Content(staged.size, staged.checksum, eight_bit, file=staged.name)


def insert(
    mailbox: int,
    contents: Sequence[Content],
    copies: Sequence[Former],
    unique_ids: Sequence[str],
    now: float,
    cursor: sqlite3.Cursor,
    batch: Batch,
) -> list[int]:
    """Work of the writer: one message and one content for each letter; returns the UIDs."""
    found = cursor.execute(
        "SELECT uidnext, highestmodseq, (SELECT content FROM state) FROM mailbox WHERE id = ?", (mailbox,)
    ).fetchall()
    if not found:
        raise Missing(f"mailbox {mailbox}")
    uid, modseq, last = found[0]
    if uid + len(contents) - 1 > LAST_UID:
        raise Unavailable(Fault.STORAGE, f"mailbox {mailbox} has given out its last UID")
    last = max(last, batch.content)
    octets = 0
    for number, (content, former, unique_id) in enumerate(zip(contents, copies, unique_ids, strict=True)):
        last += 1
        size = content.size + len(former.prefix)
        octets += size
        cursor.execute(
            "INSERT INTO content (id, letter, envelope, size, checksum, refs, file, data)"
            " VALUES (?, ?, ?, ?, ?, 1, ?, ?)",
            (
                last,
                former.letter,
                encode_envelope(former.envelope),
                content.size,
                content.checksum,
                content.file,
                content.octets,
            ),
        )
        cursor.execute(
            "INSERT INTO message (id, unique_id, content, size, eight_bit, modseq, received, saved, recipient, notify,"
            " orcpt, prefix, flags, retrieved, keywords) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
            (
                (mailbox << 32) + uid + number,
                unique_id,
                last,
                size,
                int(content.eight_bit or not former.prefix.isascii()),
                modseq + number + 1,
                former.received,
                now,
                former.recipient,
                ",".join(former.notify),
                former.orcpt,
                former.prefix,
                former.flags,
                " ".join(former.keywords),
            ),
        )
        batch.pages += pages_of(0 if content.octets is None else content.size) + 2
    cursor.execute(
        "UPDATE mailbox SET uidnext = uidnext + :count, highestmodseq = highestmodseq + :count,"
        " messages = messages + :count, octets = octets + :octets WHERE id = :mailbox",
        {"count": len(contents), "octets": octets, "mailbox": mailbox},
    )
    batch.content = last
    batch.changed = True
    return list(range(uid, uid + len(contents)))
