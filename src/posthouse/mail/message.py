"""A message as people read it: its main header fields, its text, and what is attached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from posthouse.mail.charsets import codec, harmless, harmless_line
from posthouse.mail.htmltext import html_to_text
from posthouse.mail.mime import Octets, Part, decoded, parse, safe_name, text_of

RETURNED: Final = "text/rfc822-headers"  # what a notice gives back of a letter (RFC 6522 §4): no word to its reader
SHOWN_FIELDS: Final = ("From", "To", "Cc", "Reply-To", "Date", "Subject")
HTML: Final = 2_097_152  # characters of HTML that are made into text
ADDRESS_LINE: Final = 2_000  # characters of one field that are shown


class Message:
    """One message, taken apart once. `root` is given when it was before, or when only some of its parts count."""

    __slots__ = ("octets", "root")

    def __init__(self, octets: Octets, root: Part | None = None) -> None:
        self.octets = octets
        self.root = parse(octets) if root is None else root

    def get(self, name: str) -> str:
        """The value of a header field, decoded, harmless, on one line."""
        value = harmless_line(self.root.get(name.lower()))
        return value if len(value) <= ADDRESS_LINE else value[:ADDRESS_LINE] + " ..."

    def render(self) -> Iterator[str]:
        """The message for a terminal, in pieces: decoded and harmless whatever it holds."""
        yield from self._header(self.root)
        yield "\n"
        yield from self.body()
        lines = list(self._attachment_lines())
        yield "\n" if lines else ""
        yield from (f"{line}\n" for line in lines)

    def body(self) -> Iterator[str]:
        """The text of the message, decoded and harmless, in pieces."""
        for part, shown in self._walk():
            if part.children:  # a message within the message
                yield "\n--- forwarded message ---\n"
                yield from self._header(part.children[0])
                yield "\n"
            elif shown:
                yield from self._text(part)

    def _header(self, part: Part) -> Iterator[str]:
        for name in SHOWN_FIELDS:
            value = harmless_line(part.get(name.lower()))
            if value:
                yield f"{name}: {value[:ADDRESS_LINE]}\n"

    def _walk(self) -> Iterator[tuple[Part, bool]]:
        """The leaves in the order of reading, each with whether its text is to be shown."""
        pending = [self.root]
        while pending:
            part = pending.pop()
            if part.children:
                if part.type == "message/rfc822":
                    yield part, False
                pending += reversed(_chosen(part))
            else:
                yield part, _is_text(part)

    def _text(self, part: Part) -> Iterator[str]:
        if codec(part.charset) is None:
            charset = harmless_line(part.charset)[:60]
            yield f"[the charset {charset} is not known: what is not UTF-8 is shown as \\xNN]\n"
        if part.type == "text/html":
            source = "".join(_limited(text_of(self.octets, part), HTML))
            yield harmless(html_to_text(source))
            return
        last = ""
        for piece in text_of(self.octets, part):
            if piece:
                yield harmless(piece)
                last = piece
        if last and not last.endswith("\n"):
            yield "\n"

    # Attachments

    @property
    def attachments(self) -> list[Part]:
        """The parts that are files, in order."""
        leaves = [part for part in _leaves(self.root) if not part.children]
        return [part for part in leaves if _is_attachment(part)]

    def attachment_names(self) -> list[str]:
        """A safe name for each attachment, no two alike."""
        names: list[str] = []
        taken: set[str] = set()
        counts: dict[str, int] = {}  # where to go on for a name that came before: ten thousand equal names cost little
        for number, part in enumerate(self.attachments, 1):
            name = unique = safe_name(part.filename, number, _extension(part.type))
            stem, dot, ending = name.rpartition(".")
            while unique.lower() in taken:
                counts[name] = count = counts.get(name, 1) + 1
                unique = f"{stem} ({count}).{ending}" if dot else f"{name} ({count})"
            taken.add(unique.lower())
            names.append(unique)
        return names

    def content(self, part: Part) -> Iterator[bytes]:
        """The octets of an attachment."""
        return decoded(self.octets, part)

    def _attachment_lines(self) -> Iterator[str]:
        for number, (part, name) in enumerate(zip(self.attachments, self.attachment_names(), strict=True), 1):
            yield f"[attachment {number}: {harmless_line(name)}, {harmless_line(part.type)}, {_size(part)}]"


def _chosen(part: Part) -> list[Part]:
    """The children that are shown. Of alternatives: the text, else the last one that we can show (RFC 2046 §5.1.4)."""
    if part.type != "multipart/alternative":
        return part.children
    plain = [child for child in part.children if child.type == "text/plain"]
    html_parts = [child for child in part.children if child.type == "text/html"]
    return plain[:1] or part.children[-1:] if not html_parts or plain else html_parts[:1]


def _leaves(root: Part) -> Iterator[Part]:
    pending = [root]
    while pending:
        part = pending.pop()
        yield part
        pending += reversed(part.children)


def _is_text(part: Part) -> bool:
    """Whether it is read in its place: a text, of a kind that we do not know too (RFC 2046 §4.1.4), and a multipart
    whose parts cannot be told apart, for that may be all there is."""
    if part.disposition == "attachment" or part.type == RETURNED:
        return False
    if part.type in ("text/plain", "text/html"):
        return True
    return part.type.startswith("multipart/") or (part.type.startswith("text/") and not part.filename)


def _is_attachment(part: Part) -> bool:
    """Whether it can be saved. A text that has a file name is both read and saved."""
    if part.disposition == "attachment" or part.type == RETURNED:
        return True
    if part.type.startswith("text/"):
        return bool(part.filename)
    return not part.type.startswith("multipart/")


def _extension(kind: str) -> str:
    return {"text/plain": ".txt", "text/html": ".html", "message/rfc822": ".eml"}.get(kind, ".bin")


def _size(part: Part) -> str:
    raw = part.end - part.body
    return readable_size(raw * 37 // 50 if part.encoding == "base64" else raw)


def readable_size(octets: int) -> str:
    """A size for people: `287 octets`, `12 kB`, `3.4 MB`."""
    if octets < 10_000:
        return f"{octets} octets"
    if octets < 1_000_000:
        return f"{octets / 1000:.0f} kB"
    return f"{octets / 1_000_000:.1f} MB"


def _limited(pieces: Iterator[str], most: int) -> Iterator[str]:
    for piece in pieces:
        yield piece[:most]
        most -= len(piece)
        if most <= 0:
            return


def first_line(octets: bytes) -> str:
    """Some octets of a peer as one harmless line."""
    return harmless_line(octets.decode("utf-8", "replace"))
