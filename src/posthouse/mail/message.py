"""A message as people read it: its main header fields, its text, and what is attached."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

from posthouse.mail.charsets import codec, harmless, harmless_line
from posthouse.mail.mime import Octets, Part, decoded, parse, safe_name, text_of

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
    return part.type in ("text/plain", "text/html") and not _is_attachment(part)


def _is_attachment(part: Part) -> bool:
    if part.disposition == "attachment":
        return True
    if part.type.startswith("text/"):
        return bool(part.filename) and part.type not in ("text/plain", "text/html")
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


_BREAKS: Final = re.compile(r"/?(?:br|p|div|tr|li|ul|ol|table|blockquote|h[1-6]|hr)\b")
_BLANKS: Final = re.compile(r"[ \t\n]+")


def html_to_text(source: str) -> str:
    """The text of HTML: tags out, blocks as lines, entities as characters. One pass, whatever it holds."""
    pieces: list[str] = []
    place = 0
    lower = source.lower() if len(source.lower()) == len(source) else source
    while (opening := source.find("<", place)) >= 0:
        pieces.append(_BLANKS.sub(" ", source[place:opening]))
        tag = lower[opening + 1 : opening + 16]
        if tag.startswith("!--"):
            closing = source.find("-->", opening)
        else:
            hidden = next((word for word in ("script", "style", "head") if re.match(word + r"\b", tag)), "")
            closing = lower.find(f"</{hidden}", opening) if hidden else opening
            closing = source.find(">", closing) if closing >= 0 else -1
        if closing < 0:
            place = len(source)
            break
        if _BREAKS.match(tag):
            pieces.append("\n")
        place = source.index(">", closing) + 1
    pieces.append(_BLANKS.sub(" ", source[place:]))
    text = html.unescape("".join(pieces))
    lines = [line.strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def first_line(octets: bytes) -> str:
    """Some octets of a peer as one harmless line."""
    return harmless_line(octets.decode("utf-8", "replace"))
