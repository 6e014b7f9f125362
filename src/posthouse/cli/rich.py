"""Letters with HTML: from a file, or made of Markdown, with pictures in them; and the text for those who want none."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from posthouse.cli.exits import Exit, Problem
from posthouse.mail.compose import Attachment, Part

MOST: Final = 16_777_216  # octets of a text that is worked on in memory
_PLACE: Final = re.compile(r"\{\{[ \t]*([^{}\r\n]{1,100}?)[ \t]*\}\}")
_IN_LINK: Final = re.compile(r"%7B%7B(?:%20)*([^{}\r\n\"'<>]{1,300}?)(?:%20)*%7D%7D", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_KEPT: Final = ":/?#[]@!$&'()*+,;=%~"  # RFC 3986 §2.2, and what is encoded already
_SOURCE: Final = re.compile(
    r"""(?P<before>\b(?:src|background)\s*=\s*)(?P<mark>["'])(?P<what>[^"'<>]*)(?P=mark)""", re.I
)


def whole(part: Part, what: str) -> str:
    """The text of a part, which must be UTF-8. Raises Problem."""
    if part.size > MOST:
        raise Problem(Exit.DATA, f"{what} is larger than 16 MB. Nothing was sent.")
    try:
        with part.open() as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(Exit.DATA, f"{what} is not in UTF-8. Nothing was sent.") from None
    except OSError as error:
        raise Problem(Exit.IO, f"{what} cannot be read: {error.strerror}. Nothing was sent.") from error


def from_markdown(source: str) -> str:
    """Markdown as an HTML document. HTML within it is shown as text: who pastes something sends no hidden markup."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body>\n{reader.render(source)}</body></html>\n'


def with_pictures(source: str, pictures: Sequence[Attachment], paths: Sequence[Path]) -> str:
    """The HTML with its references to the pictures: `src="cid:logo.png"`, the file's name or its path as it was given
    lead to them (RFC 2392). Raises Problem for a picture that nothing refers to."""
    places: dict[str, str] = {}
    for picture, path in zip(pictures, paths, strict=True):
        for name in (picture.name, str(path)):
            places[name] = places[f"cid:{name}"] = f"cid:{picture.cid}"
    used: set[str] = set()

    def refer(found: re.Match[str]) -> str:
        what = html.unescape(found["what"])
        place = places.get(what) or places.get(_unquoted(what))
        if place is None:
            return found[0]
        used.add(place)
        return f"{found['before']}{found['mark']}{place}{found['mark']}"

    source = _SOURCE.sub(refer, source)
    for picture in pictures:
        if f"cid:{picture.cid}" not in used:
            text = f'Nothing shows {picture.name}: write <img src="cid:{picture.name}"> or, in Markdown, '
            raise Problem(Exit.DATA, f"{text}![words]({picture.name}). Attach it with -a otherwise. Nothing was sent.")
    return source


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def new_cid(name: str, domain: str) -> str:
    """A Content-ID nobody else makes (RFC 2392 §2: an addr-spec that is unique in the world)."""
    stem = re.sub(r"[^A-Za-z0-9]", "", name)[:20]
    return f"{stem or 'part'}.{secrets.token_hex(8)}@{domain}"


# Placeholders


Row = Mapping[str, str]


def fill(text: str, row: Row | None, escape: Any = None) -> str:
    """The text with `{{column}}` replaced by what the row says. Raises Problem for a column that is not there."""
    if row is None:
        return text

    def value(found: re.Match[str]) -> str:
        found_value = look_up(row, found[1])
        return str(escape(found_value)) if escape is not None else found_value

    return _PLACE.sub(value, text)


def fill_html(text: str, row: Row | None) -> str:
    """The same in HTML, where values are text and not markup, and in the addresses of links."""
    if row is None:
        return text
    values = row

    def link(found: re.Match[str]) -> str:
        value = look_up(values, _unquoted(found[1]))
        # A whole address stays one; what is only a part of one is encoded.
        begins = found.string[found.start() - 1 : found.start()] in ('"', "'") and _ADDRESS.match(value)
        return html.escape(quote(value, safe=_KEPT if begins else ""))

    text = _IN_LINK.sub(link, text)
    return fill(text, row, html.escape)


def look_up(row: Row, name: str) -> str:
    """The value of a column, whatever the case of its name. Raises Problem."""
    value = row.get(name.strip().lower())
    if value is None:
        columns = ", ".join(row) or "none"
        raise Problem(Exit.DATA, f"There is no column {name.strip()!r} for {{{{{name}}}}}; there are {columns}.")
    return value
