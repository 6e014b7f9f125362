"""The role of mail (mailx): a letter from standard input to those named; without recipients, the reader.

The options are those that the mails of Debian, BSD and s-nail have in common. They differ in `-a`: a file that is there
is attached, anything with a colon is a header field.
"""

from __future__ import annotations

import getopt
import sys
from pathlib import Path
from typing import Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.submitting import Station, own_domain, take_long, with_variable

OPTIONS: Final = "s:c:b:a:A:r:q:S:EinNvdF"


def mail(arguments: list[str]) -> int:
    """Runs one call. Raises Problem."""
    station = Station()
    try:
        found, recipients = getopt.gnu_getopt(take_long(station, with_variable(arguments)), OPTIONS)
    except getopt.GetoptError as error:
        raise Problem(Exit.USAGE, f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
    if not recipients:
        from posthouse.cli.main import main

        main(["read"])
    given: dict[str, list[str]] = {}
    for option, value in found:
        given.setdefault(option, []).append(value)
    station.verbose = len(given.get("-v", []))
    return _send(station, given, recipients)


def _send(station: Station, given: dict[str, list[str]], recipients: list[str]) -> int:
    from posthouse.cli import letters

    domain = own_domain()
    to, cc, bcc = (
        [box for text in texts for box in letters.read_mailboxes(text, domain)]
        for texts in (recipients, given.get("-c", []), given.get("-b", []))
    )
    author = station.author("", domain)
    if "-r" in given:
        author = letters.read_mailboxes(given["-r"][-1], domain)[0]
    subject = given.get("-s", [""])[-1]
    if sys.stdin.isatty():
        subject = subject or _ask_subject()
        print("Type the message; Ctrl-D on a line of its own ends it.", file=sys.stderr)
    text = letters.spool(sys.stdin.buffer)
    if "-E" in given and not text.size:
        return Exit.OK
    fields, files = _sorted(given)
    draft = letters.Draft(author, subject, text, to, cc, bcc, fields, [letters.attachment(path) for path in files])
    letter, message_id = draft.compose()
    return station.hand(letter, message_id)


def _ask_subject() -> str:
    try:
        return input("Subject: ")
    except EOFError:
        print()
        return ""


def _sorted(given: dict[str, list[str]]) -> tuple[list[tuple[str, str]], list[Path]]:
    """The header fields and the files of -a and -A. Raises Problem."""
    from posthouse.cli.composing import read_field

    fields: list[tuple[str, str]] = []
    files = [Path(name) for name in given.get("-A", [])]
    for text in given.get("-a", []):
        if ":" in text and not Path(text).exists():
            fields.append(read_field(text))
        else:
            files.append(Path(text))
    return fields, files
