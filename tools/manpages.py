"""Man pages made from the command tree: one for `posthouse`, one for each verb (man-pages(7), groff_man(7))."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

import click

from posthouse.cli.main import VERBS, cli

CLIENTS = ("send", "read", "trace", "setup", "probe")
NO_REWRAP = "\b"  # click's mark: the paragraph stays as it is

_EXIT = """\
.SH EXIT STATUS
The codes are those of sysexits(3), the same for every command.
.TP
.B 0
All was done.
.TP
.B 1
It ran well, and the answer is "not all" or "none": some recipients were refused, there is no new mail, a check failed.
.TP
.BR 64 ", " 65 ", " 66 ", " 67
Wrong usage; a bad message or address; no such file; all recipients are unknown.
.TP
.BR 68 ", " 69 ", " 76 ", " 77
The host is not known; refused for good; a protocol error; login or certificate refused. Do not repeat it unchanged.
.TP
.B 75
Not now: repeat it later.
.TP
.BR 70 ", " 73 ", " 74 ", " 78
A bug of ours; cannot write; an error of input or output; the configuration.
"""

_ENVIRONMENT = """\
.SH ENVIRONMENT
.TP
.B POSTHOUSE_PASSWORD
The password of the clients, where no \\-\\-password\\-stdin is given.
.TP
.BR POSTHOUSE_DATA ", " POSTHOUSE_CONFIG
The data directory and the configuration of the server.
.TP
.B NO_COLOR
No colours on a terminal.
.TP
.BR LC_ALL ", " LC_MESSAGES ", " LANG
The language of the dialogues: Russian for ru, else English.
.SH FILES
.TP
.I ~/.config/posthouse/config.toml
The accounts of the clients.
.TP
.I posthouse.toml
The configuration of the server, in its data directory.
"""


def pages() -> dict[str, str]:
    """Each page by the name of its file."""
    root = click.Context(cli, info_name="posthouse")
    found = {"posthouse.1": _page(root, cli, "The whole of e-mail in one program")}
    for verb, (_, summary) in VERBS.items():
        command = cli.get_command(root, verb)
        assert command is not None, verb
        context = click.Context(command, info_name=verb, parent=root)
        found[f"posthouse-{verb}.1"] = _page(context, command, summary)
    return found


def _page(context: click.Context, command: click.Command, summary: str) -> str:
    name = context.command_path.replace(" ", "-")
    return "\n".join(
        [
            '.\\" Made from the program by tools/manpages.py (make docs); do not edit it.',
            f'.TH {_plain(name.upper())} 1 "" Posthouse "Posthouse Manual"',
            f".SH NAME\n{_plain(name)} \\- {_plain(summary.rstrip('.'))}",
            ".SH SYNOPSIS",
            *_usage(context, command),
            ".SH DESCRIPTION",
            *_text(command.help or ""),
            *_options(context, command, ".SH OPTIONS"),
            *_commands(context, command),
            (_EXIT + _ENVIRONMENT + _see_also(name)).rstrip("\n"),
            "",
        ]
    )


def _usage(context: click.Context, command: click.Command) -> Iterator[str]:
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f".B {_plain(context.command_path)}"
    yield _plain(pieces)


def _text(help: str) -> Iterator[str]:
    """The help as paragraphs; those that keep their lines as examples."""
    for number, paragraph in enumerate(cleandoc(help).split("\n\n")):
        lines = paragraph.split("\n")
        if lines[0] == NO_REWRAP:
            yield ".PP\n.RS 4\n.nf"
            yield from map(_plain, lines[1:])
            yield ".fi\n.RE"
            continue
        if number:
            yield ".PP"
        yield from map(_plain, lines)


def _options(context: click.Context, command: click.Command, title: str) -> Iterator[str]:
    records = [param.get_help_record(context) for param in command.params if isinstance(param, click.Option)]
    rows = [record for record in records if record is not None]
    if rows:
        yield title
    for names, text in rows:
        yield f".TP\n.B {_plain(names)}"
        yield _plain(" ".join(text.split()))


def _commands(context: click.Context, command: click.Command) -> Iterator[str]:
    if not isinstance(command, click.Group):
        return
    yield ".SH COMMANDS"
    if command is cli:
        for verb, (_, summary) in VERBS.items():
            yield f".TP\n.BR posthouse\\-{_plain(verb)} (1)\n{_plain(summary)}"
        return
    yield from _children(context, command)


def _children(context: click.Context, command: click.Group) -> Iterator[str]:
    """Each command of a group, and of groups within."""
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is None or child.hidden:
            continue
        inner = click.Context(child, info_name=name, parent=context)
        yield f".SS {_plain(inner.command_path)} {_plain(' '.join(child.collect_usage_pieces(inner)))}"
        yield from _text(child.help or "")
        yield from _options(inner, child, ".PP")
        if isinstance(child, click.Group):
            yield from _children(inner, child)


def _see_also(name: str) -> str:
    others = [f"posthouse-{verb}" for verb in CLIENTS] if name == "posthouse" else ["posthouse"]
    others += [f"posthouse-{verb}" for verb in CLIENTS if name.removeprefix("posthouse-") in CLIENTS]
    wanted = [other for other in dict.fromkeys(others) if other != name]
    lines = [f".BR {_plain(other)} (1){',' if other != wanted[-1] else ''}" for other in wanted]
    return ".SH SEE ALSO\n" + "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that roff takes as it is: no escapes, no requests, hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith(".") else text
