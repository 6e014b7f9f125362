"""HTML as plain text: tags out, blocks as lines, links with their addresses, entities as characters.

One pass over what any stranger wrote, in time that grows with its length alone. Nothing is fetched and nothing is run.
What comes out is not made harmless yet: an entity may stand for any character.
"""

from __future__ import annotations

import html
import re
from typing import Final

TAG: Final = 8_192  # characters of a tag that are looked at
LINK: Final = 300  # characters of a link's address that are shown
QUOTED: Final = 5  # levels of quotation that are marked
EMPTY: Final = 1  # empty lines that stand together

# HTML Living Standard §13.2.5: "<" begins a tag only before a letter, "/", "!" or "?".
_OPENING: Final = re.compile(r"<(?:(/?)([A-Za-z][A-Za-z0-9:-]{0,40})|(!--)|[!?/])")
# Possessive: quotation marks count behind "=" only, and a search never goes back.
_REST: Final = re.compile(r"(?:[^>=]++|=\s*+\"[^\"]*+\"|=\s*+'[^']*+'|=(?!\s*+[\"']))*+>")
_HREF: Final = re.compile(r"(?:^|[\s\"'])href\s{0,9}=\s{0,9}(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+))", re.IGNORECASE)
_ALT: Final = re.compile(r"(?:^|[\s\"'])alt\s{0,9}=\s{0,9}(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+))", re.IGNORECASE)
_ENTITY: Final = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z][A-Za-z0-9]{1,31};?)")
_BLANKS: Final = re.compile(r"[ \t\n\r\f]+")
_UNSHOWN: Final = {  # what stands in them is no text (§13.2.6.4)
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style", "title", "template")
}
_BLOCK: Final = re.compile(
    r"address|article|aside|blockquote|body|br|center|d[dlt]|details|div|fieldset|figure|footer|form|h[1-6]|header|hr|html"
    r"|li|main|nav|ol|p|pre|section|summary|table|tbody|tfoot|thead|tr|ul"
)
_CELLS: Final = ("td", "th")
_SHOWN_LINKS: Final = ("http://", "https://", "mailto:", "ftp://")


def html_to_text(source: str) -> str:
    """The text of HTML."""
    page = _Page()
    place = 0
    quotes = True  # whether quotation marks in tags are believed: not any more once one was never closed
    while (found := _OPENING.search(source, place)) is not None:
        page.text(source[place : found.start()])
        if found[3]:
            end = source.find("-->", found.end() - 2)
            if end < 0:
                return page.end()
            place = end + 3
            continue
        rest = _REST.match(source, found.end()) if quotes else None
        end = rest.end() if rest is not None else source.find(">", found.end()) + 1
        quotes = quotes and rest is not None
        if not end:  # no tag ends any more: this is text
            place = found.start()
            break
        place = end
        name = (found[2] or "").lower()
        if name == "plaintext" and not found[1]:
            page.preformatted += 1
            break
        if name in _UNSHOWN and not found[1]:
            closing = _UNSHOWN[name].search(source, end)
            if closing is None:
                return page.end()
            place = closing.start()
        elif name:
            page.tag(name, closing=bool(found[1]), attributes=source[found.end() : min(end - 1, found.end() + TAG)])
    page.text(source[place:])
    return page.end()


class _Page:
    """The lines so far."""

    __slots__ = ("_blank", "_empty", "_line", "_lines", "_link", "_linked", "_quoted", "preformatted")

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._blank = False  # a blank is due before the next word
        self._empty = 0  # empty lines at the end
        self._link = ""
        self._linked: list[str] = []  # the text of the link
        self._quoted = 0
        self.preformatted = 0

    def text(self, source: str) -> None:
        """Characters between two tags."""
        if not source:
            return
        text = _ENTITY.sub(_character, source)
        if self.preformatted:
            first, *others = text.replace("\r\n", "\n").split("\n")
            self._add(first)
            for line in others:
                self._end_line(forced=True)
                self._add(line)
            return
        words = _BLANKS.sub(" ", text)
        self._blank = self._blank or words.startswith(" ")
        stripped = words.strip(" ")
        if stripped:
            self._add(stripped)
            self._blank = words.endswith(" ")

    def _add(self, text: str) -> None:
        if not text:
            return
        if self._blank and self._line:
            self._line.append(" ")
        self._blank = False
        self._line.append(text)
        if self._link and len(self._linked) < LINK:
            self._linked.append(text)

    def tag(self, name: str, *, closing: bool, attributes: str) -> None:
        """A tag that is not hidden."""
        if name == "a":
            self._end_link()
            if not closing:
                self._link = _value(_HREF, attributes)
        elif name == "img":
            if alt := _value(_ALT, attributes):
                self._add(f"[{alt}]")
        elif name in _CELLS:
            if self._line and not closing:
                self._line.append("  ")
                self._blank = False
        elif _BLOCK.fullmatch(name):
            self._block(name, closing=closing)

    def _block(self, name: str, *, closing: bool) -> None:
        self._end_line(forced=name == "br")
        change = -1 if closing else 1
        if name == "blockquote":
            self._quoted = max(0, self._quoted + change)
        elif name == "pre":
            self.preformatted = max(0, self.preformatted + change)
        elif name == "li" and not closing:
            self._line.append("* ")
        elif name == "hr":
            self._line.append("---")
            self._end_line()
        if name in ("p", "table", "ul", "ol", "blockquote") or (name[0] == "h" and name[1:].isdigit()):
            self._end_line(forced=True)

    def _end_link(self) -> None:
        address, self._link = self._link, ""
        text = "".join(self._linked).strip()
        self._linked = []
        if address.lower().startswith(_SHOWN_LINKS) and text and text not in (address, address.removeprefix("mailto:")):
            self._blank = False
            self._add(f" <{address if len(address) <= LINK else address[:LINK] + '...'}>")

    def _end_line(self, *, forced: bool = False) -> None:
        """The line ends, if there is one. An empty one is kept where it is `forced`, and only so many together."""
        line = "".join(self._line)
        line = line.rstrip(" ") if self.preformatted else line.strip(" \t")
        self._line, self._blank = [], False
        if line:
            self._lines.append("> " * min(self._quoted, QUOTED) + line)
            self._empty = 0
        elif forced and self._lines and self._empty < EMPTY:
            self._lines.append("")
            self._empty += 1

    def end(self) -> str:
        """All of it."""
        self._end_link()
        self._end_line()
        return "\n".join(self._lines).strip("\n") + "\n"


def _value(pattern: re.Pattern[str], attributes: str) -> str:
    """The value of an attribute, on one line."""
    found = pattern.search(attributes)
    if found is None:
        return ""
    value = next((group for group in found.groups() if group is not None), "")
    return _BLANKS.sub(" ", _ENTITY.sub(_character, value[: 8 * LINK])).strip()


def _character(found: re.Match[str]) -> str:
    # Python refuses to read numbers of thousands of digits; no character has one.
    return html.unescape(found[0]) if len(found[0]) <= 40 else "\ufffd"
