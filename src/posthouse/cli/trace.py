"""`posthouse trace`: the path of a message."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from posthouse.cli.account import fill_in, find_account
from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.options import server_options

if TYPE_CHECKING:
    from posthouse.mail.path import Path as Journey

CHECKS: Final = ("spf", "dkim", "dmarc", "arc", "gap", "clocks")
MOST: Final = 16_777_216  # octets of a header that are read
PIECE: Final = 262_144


@click.command(cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", metavar="[FILE|-|N]", default="-", type=click.Path(allow_dash=True))
@click.option("--trusted", multiple=True, metavar="NAME", help="A server of ours, whose words count (repeat it).")
@click.option("--fail-on", default="", metavar="CHECKS", help=f"End with 1 when one fails: {','.join(CHECKS)}.")
@click.option("--raw", is_flag=True, help="Print the Received fields as they are, each on one line.")
@click.option("--svg", default="", metavar="FILE", help="Draw the path as a picture.")
@click.option("--resolve", is_flag=True, help="Ask DNS for the names that the addresses have today.")
@click.option("--offline", is_flag=True, help="Use no network: neither N nor --resolve.")
@server_options("with N, pop3://user@host:port or pop3s://")
def trace(**options: Any) -> None:
    """The path of a message: every server it passed, when, and how long each leg took.

    \b
    posthouse trace letter.eml                          a file
    posthouse trace < letter.eml                        standard input
    posthouse trace 3                                   message number 3 of your mailbox
    posthouse trace 3 --url pop3://anna@mx.example.org  message number 3 of another mailbox
    posthouse trace letter.eml --trusted mx1.example.org --fail-on dmarc,gap

    Anybody can write anything into a header. With --trusted you name your own servers; what they wrote is shown
    below a line, and only they are believed about SPF, DKIM, DMARC and ARC. Without it they are those of the line
    `trusted` in your account.

    Exit code 1: a check of --fail-on failed, or no server has stamped the letter. Only N and --resolve use the network.
    """
    finish("trace", options["as_json"], lambda: _run(options))


def _run(options: dict[str, Any]) -> int:
    checks = _checks(options["fail_on"])
    if options["raw"] and options["as_json"]:
        raise Problem(Exit.USAGE, "--raw and --json both want standard output.")
    if options["offline"] and options["resolve"]:
        raise Problem(Exit.USAGE, "--resolve asks DNS, and --offline forbids it.")
    account = find_account(options, needed=False)
    if account is not None and not options["trusted"]:
        options["trusted"] = account.trusted
    octets = _header(options)
    from posthouse.mail.path import read_path

    journey = read_path(octets, options["trusted"])
    if not journey.legs and not journey.fields:
        raise Problem(Exit.DATA, "This is no letter: it has none of the fields that a letter has.", stage="parse")
    if options["resolve"]:
        import asyncio

        asyncio.run(_resolve(journey))
    failed = [name for name in checks if not _passes(journey, name)]
    code = Exit.NOT_ALL if failed or not journey.legs else Exit.OK
    if options["svg"]:
        _draw(journey, Path(options["svg"]))
    if options["as_json"]:
        _print_json(journey, failed, code)
    elif options["raw"]:
        _print_raw(journey)
    elif not options["quiet"]:
        _print_text(journey, failed, plain=options["no_color"])
    return code


def _checks(text: str) -> list[str]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise Problem(Exit.USAGE, f"--fail-on knows {', '.join(CHECKS)}, not {unknown[0]!r}.")
    return names


def _passes(journey: Journey, name: str) -> bool:
    """Whether a check holds. What nobody trusted says has not passed."""
    if name == "gap":
        return not journey.left_out and not any(leg.gap for leg in journey.legs)
    if name == "clocks":
        return not any((leg.delay or 0) < 0 for leg in journey.legs)
    return journey.verdicts.result(name) == "pass"


# Where the letter comes from


def _header(options: dict[str, Any]) -> bytes:
    what = options["what"]
    if what != "-" and what.isascii() and what.isdigit() and (options["url"] or not Path(what).exists()):
        if len(what) > 9:  # no maildrop has so many, and the command would have no room for it (RFC 1939 §2)
            raise Problem(Exit.USAGE, f"{what[:20]} is too large for the number of a message.")
        return _fetch(int(what), options)
    if options["url"]:
        raise Problem(Exit.USAGE, f"With --url say the number of a message, not {what!r}.")
    if what == "-":
        if sys.stdin.isatty():
            raise Problem(Exit.USAGE, "Say which letter: a file, - for standard input, or a number with --url.")
        return _read(sys.stdin.buffer)
    try:
        with Path(what).open("rb") as file:
            return _read(file)
    except OSError as error:
        raise Problem(Exit.NO_INPUT, f"{what} cannot be read: {error.strerror}.", stage="open") from error


def _read(file: IO[bytes]) -> bytes:
    """The header of the letter, and no more than is needed of what follows it."""
    octets = bytearray()
    while len(octets) < MOST and (piece := file.read(PIECE)):
        octets += piece if octets else piece.lstrip(b"\r\n")
        tail = bytes(octets[-len(piece) - 4 :])
        if b"\n\n" in tail or b"\n\r\n" in tail:
            break
    return bytes(octets[:MOST])


def _fetch(number: int, options: dict[str, Any]) -> bytes:
    """The header of message `number` of a mailbox."""
    import asyncio

    from posthouse.cli.helpers import parse_url
    from posthouse.cli.read import SCHEMES
    from posthouse.cli.reading import access_of, fetch_header

    if options["offline"]:
        raise Problem(Exit.USAGE, f"There is no file {number}, and --offline forbids to look into a mailbox.")
    if not options["url"]:
        fill_in(options, find_account(options), "read")
    if not options["url"]:
        text = (
            f"There is no file {number}; for message {number} give --url pop3://user@host:port, or set up an account."
        )
        raise Problem(Exit.USAGE, text)
    server, login = parse_url(options["url"], SCHEMES)
    access = access_of(options, server, options["user"] or login)
    return asyncio.run(fetch_header(access, number, MOST))


async def _resolve(journey: Journey) -> None:
    """Asks for the name of each address; names that do not lead back to the address are none."""
    from posthouse.config.schema import DnsSettings
    from posthouse.net.dns import DnsResolver

    resolver = DnsResolver(DnsSettings())
    try:
        running = [(leg, resolver.reverse(leg.stamp.ip)) for leg in journey.legs if leg.stamp.ip is not None]
        for leg, lookup in running:
            leg.asked, leg.dns = True, await lookup.name()
            if leg.dns != (leg.stamp.rdns or "").lower():
                leg.notes.append(f"DNS: {leg.stamp.ip} is {leg.dns or 'without a name'} today")
    finally:
        resolver.close()


# How it is told


def _print_json(journey: Journey, failed: list[str], code: Exit) -> None:
    import json

    from posthouse.mail.charsets import escape_json
    from posthouse.mail.path import to_json

    answer = {"ok": code == Exit.OK, "code": int(code)} | to_json(journey) | {"failed": failed}
    print(escape_json(json.dumps(answer, ensure_ascii=False)))


def _print_raw(journey: Journey) -> None:
    from posthouse.mail.charsets import harmless_line

    for leg in reversed(journey.legs):
        text = f"Received: {leg.raw}"
        print(harmless_line(text.replace("\t", " ")) if sys.stdout.isatty() else text)


def _print_text(journey: Journey, failed: list[str], *, plain: bool) -> None:
    from posthouse.cli.tracing import lines

    terminal = sys.stdout.isatty()
    colour = terminal and not plain and not os.environ.get("NO_COLOR")
    for line in lines(journey, terminal=terminal, colour=colour):
        print(line)
    if not journey.legs:
        print("No server has stamped this letter: it has no Received field.", file=sys.stderr)
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)


def _draw(journey: Journey, file: Path) -> None:
    from posthouse.cli.picture import draw

    try:
        file.write_text(draw(journey), encoding="utf-8")
    except OSError as error:
        raise Problem(Exit.CANNOT_CREATE, f"{file} cannot be written: {error.strerror}.", stage="save") from error
