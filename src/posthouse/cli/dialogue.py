"""A dialogue with a person: on a terminal, or with answers given beforehand.

`run_send` and `run_read` play the two dialogues of the teaching lab with given answers and show them as they would
stand on a terminal.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from posthouse.cli.words import phrase


class Person(Protocol):
    """Whom a dialogue is held with."""

    def ask(self, prompt: str, default: str = "") -> str:
        """One line; Enter alone takes the default, which stands in brackets. Raises EOFError at the end of input."""
        ...

    def ask_secret(self, prompt: str) -> str:
        """One line that is never shown."""
        ...

    def ask_text(self, prompt: str) -> str:
        """Several lines, up to an empty line or a lone dot."""
        ...

    def say(self, text: str) -> None:
        """Shows text as it is; the caller made it harmless."""
        ...

    def tell(self, text: str, **values: object) -> None:
        """Shows a line of ours, in the person's language; the caller made the values harmless."""
        ...


def prompt_of(prompt: str, default: str) -> str:
    """`Input your login [test@x.mail]: `."""
    return f"{prompt} [{default}]: " if default else f"{prompt}: "


class Terminal:
    """A person at a terminal. File names can be completed with Tab where the system knows how."""

    def __init__(self) -> None:
        with contextlib.suppress(ImportError):
            import readline

            readline.set_auto_history(False)
            readline.set_completer_delims(",")
            readline.parse_and_bind("tab: complete")

    def ask(self, prompt: str, default: str = "") -> str:
        """One line."""
        return self._line(prompt_of(phrase(prompt), default)).strip() or default

    def ask_secret(self, prompt: str) -> str:
        """One line without echo."""
        import getpass

        with _interruptible():
            return getpass.getpass(f"{phrase(prompt)}: ")

    def ask_text(self, prompt: str) -> str:
        """Several lines."""
        lines: list[str] = []
        with contextlib.suppress(EOFError):
            line = self._line(f"{phrase(prompt)}: ")
            while line not in ("", "."):
                lines.append(line)
                line = self._line("")
        return "\n".join(lines)

    def say(self, text: str) -> None:
        """Shows text."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def tell(self, text: str, **values: object) -> None:
        """A line of ours."""
        self.say(f"{phrase(text, **values)}\n")

    def _line(self, prompt: str) -> str:
        with _interruptible():
            return input(prompt)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """The event loop takes Ctrl-C for itself and would let the person wait: while we ask, it interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Scripted:
    """A person whose answers are known. Shows what a terminal would: passwords leave an empty place."""

    def __init__(self, answers: Sequence[str], output: TextIO) -> None:
        self._answers = iter(answers)
        self._output = output

    def ask(self, prompt: str, default: str = "") -> str:
        """The next answer; "" takes the default."""
        answer = self._next(prompt_of(prompt, default))
        self.say(f"{answer}\n")
        return answer or default

    def ask_secret(self, prompt: str) -> str:
        """The next answer, not shown."""
        answer = self._next(f"{prompt}: ")
        self.say("\n")
        return answer

    def ask_text(self, prompt: str) -> str:
        """The next answer, which may have several lines."""
        return self.ask(prompt)

    def say(self, text: str) -> None:
        """Shows text."""
        self._output.write(text)
        self._output.flush()

    def tell(self, text: str, **values: object) -> None:
        """A line of ours, in English: what is played is compared word for word."""
        self.say(f"{text.format(**values) if values else text}\n")

    def _next(self, prompt: str) -> str:
        self.say(prompt)
        answer = next(self._answers, None)
        if answer is None:
            self.say("\n")
            raise EOFError
        return answer


async def run_send(
    answers: Sequence[str], output: TextIO, *, server: str = "", directory: Path | None = None, timeout: float = 60.0
) -> int:
    """Plays the dialogue of `posthouse send`: server, address, login, password, destination, topic, message, file name.
    `server` is the default answer to the first, file names stand in `directory`. Returns the exit code."""
    from posthouse.cli.send import converse

    return await converse(Scripted(answers, output), server=server, directory=directory or Path(), timeout=timeout)


async def run_read(
    answers: Sequence[str], output: TextIO, *, server: str = "", directory: Path | None = None, timeout: float = 60.0
) -> int:
    """Plays the dialogue of `posthouse read`: the server, then words and what they ask for, to the word Quit. Returns
    the exit code."""
    from posthouse.cli.shell import converse

    return await converse(Scripted(answers, output), server=server, directory=directory or Path(), timeout=timeout)
