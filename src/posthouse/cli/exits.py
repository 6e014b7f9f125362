"""How a client command ends: exit codes (sysexits), words for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from posthouse.clients.failure import Failure


class Exit(IntEnum):
    """The codes every verb ends with."""

    OK = 0
    NOT_ALL = 1  # it ran well, and the answer is "not all" or "none"
    USAGE = 64
    DATA = 65  # a bad message or address
    NO_INPUT = 66  # a file cannot be read
    NO_USER = 67  # all recipients are unknown
    NO_HOST = 68
    UNAVAILABLE = 69  # refused for good
    SOFTWARE = 70  # our bug
    CANNOT_CREATE = 73
    IO = 74
    TEMPORARY = 75  # repeat later
    PROTOCOL = 76
    NO_PERMISSION = 77  # login or certificate refused
    CONFIG = 78
    INTERRUPTED = 130


class Problem(Exception):
    """The command cannot go on. `code` is its exit code, the text says what happened and what to do."""

    def __init__(self, code: Exit, text: str, *, stage: str = "start", reply: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.stage = stage
        self.reply = reply


ADVICE = {
    Exit.NO_HOST: "Check the name of the server.",
    Exit.UNAVAILABLE: "Do not repeat it unchanged: the server will refuse it again.",
    Exit.TEMPORARY: "Repeat it later.",
    Exit.PROTOCOL: "Is this the right server and the right port? Run again with -v to see the whole dialogue.",
    Exit.NO_PERMISSION: "Check the login name and the password.",
    Exit.IO: "Check the disk and the files.",
}


TRUST_ADVICE = (
    "Is this the right server under its right name? If its certificate is of an authority of your own, give that "
    "with --cacert FILE, or the certificate's SHA-256 with --pin."
)
PLAIN_ADVICE = "Without --tls, --cacert and --pin the session may go on unencrypted."


def advice_of(failure: Failure) -> str:
    """What to do about it."""
    from posthouse.clients.failure import Kind

    special = {Kind.CERTIFICATE: TRUST_ADVICE, Kind.INSECURE: PLAIN_ADVICE}
    return special.get(failure.kind) or ADVICE.get(exit_of(failure), "")


def exit_of(failure: Failure) -> Exit:
    """The exit code of a session that failed."""
    from posthouse.clients.failure import Kind

    return {
        Kind.UNKNOWN_HOST: Exit.NO_HOST,
        Kind.UNREACHABLE: Exit.TEMPORARY,
        Kind.PROTOCOL: Exit.PROTOCOL,
        Kind.LOGIN: Exit.NO_PERMISSION,
        Kind.CERTIFICATE: Exit.NO_PERMISSION,
        Kind.INSECURE: Exit.NO_PERMISSION,
        Kind.REFUSED: Exit.UNAVAILABLE,
        Kind.TEMPORARY: Exit.TEMPORARY,
        Kind.IN_USE: Exit.TEMPORARY,
        Kind.LOCAL: Exit.IO,
        Kind.UNCERTAIN: Exit.TEMPORARY,
    }[failure.kind]


def problem_of(failure: Failure, became: str) -> Problem:
    """The same with its words; `became` says what became of the letters."""
    code = exit_of(failure)
    text = " ".join(filter(None, [sentence(str(failure)), became, advice_of(failure)]))
    return Problem(code, text, stage=failure.stage, reply=failure.reply)


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def complain(verb: str, problem: Problem) -> None:
    """Tells a person on standard error."""
    from posthouse.mail.charsets import harmless

    lines = [f"posthouse {verb}: {problem}"]
    if problem.reply:
        lines.append(f"The server said: {problem.reply}")
    print(harmless("\n".join(lines)), file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """Tells a program on standard output, and a person who looks at it there: no server's words drive the terminal."""
    from posthouse.mail.charsets import escape_json

    print(escape_json(json.dumps(value, ensure_ascii=False)))


def json_of(problem: Problem) -> dict[str, Any]:
    """A problem as the fields every answer in JSON has."""
    fields = {"ok": False, "code": int(problem.code), "stage": problem.stage, "error": str(problem)}
    return fields | ({"reply": problem.reply} if problem.reply else {})


class WrongUsage(click.UsageError):
    """click's own code for wrong usage is 2; sysexits say 64."""

    exit_code = int(Exit.USAGE)


class Verb(click.Command):
    """A client command: wrong usage ends with 64, and with `--json` every failure is one JSON object."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Reads the arguments."""
        wants_json = "--json" in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if wants_json:
                print_json(json_of(Problem(Exit.USAGE, error.format_message(), stage="usage")))
                raise SystemExit(int(Exit.USAGE)) from error
            raise WrongUsage(error.format_message(), error.ctx) from error


def finish(verb: str, as_json: bool, action: Callable[[], int]) -> NoReturn:
    """Runs a command to its exit code; what goes wrong is told once, in the form that was asked for."""
    prepare_output()
    try:
        code = int(action())
        sys.stdout.flush()
    except Problem as problem:
        if as_json:
            print_json(json_of(problem))
        else:
            complain(verb, problem)
        code = int(problem.code)
    except BrokenPipeError:
        code = _mute()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        code = int(Exit.INTERRUPTED)
    raise SystemExit(code)


def prepare_output() -> None:
    """A terminal that knows few characters shows the others by their numbers instead of stopping us."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _mute() -> int:
    """Who read our output has left (`posthouse read list | head`): nothing more can be told."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(Exit.IO)


def join_words(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
