"""The role of sendmail, as programs call it that send mail: cron, git send-email, mutt, PHP's mail().

The options are those that Sendmail, Postfix and Exim have in common. What only concerns the insides of a Sendmail is
taken and does nothing: `-O`, `-o` with whatever stands behind it, `-B`, `-C`, `-G`, `-L`, `-U`, `-X`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final, cast

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.submitting import Station, own_domain, take_long, with_variable

VALUES: Final = "ABCDFLMNOQRSVXdefhoprq"  # letters with a value, behind them or as the next word
ATTACHED: Final = "Aqdo"  # those whose value may be missing, and is never the next word
PLAIN: Final = "GIUcimnstvx"
MODES: Final = {
    "d": "it is no daemon: posthouse serve is one",
    "D": "it is no daemon: posthouse serve is one",
    "t": "it has no test mode: posthouse send --dry-run shows a message",
    "v": "it does not verify addresses: posthouse send --stop-after RCPT asks the server",
}
ENDED: Final = (b"\n.\n", b"\n.\r\n")


@dataclass(slots=True)
class Call:
    """What a call asks for."""

    mode: str = "m"
    from_header: bool = False
    dots: bool = False  # a lone dot is text
    sender: str | None = None
    name: str = ""
    notify: tuple[str, ...] = ()
    ret: str = ""
    envid: str = ""
    only_queue: bool = False
    run_queue: bool = False
    recipients: list[str] = field(default_factory=list)
    station: Station = field(default_factory=Station)


def sendmail(arguments: list[str]) -> int:
    """Runs one call. Raises Problem."""
    call = read_call(with_variable(arguments))
    if call.run_queue:
        return _run_queue(call)
    if call.mode == "p":
        return mailq([])
    if call.mode == "i":
        return newaliases([])
    if call.mode == "s":
        from posthouse.cli.stdio import serve

        return serve(call.station, sys.stdin.buffer, sys.stdout.buffer, own_domain())
    return _submit(call)


def read_call(arguments: list[str]) -> Call:
    """Reads a command line. Raises Problem."""
    call = Call()
    words = iter(take_long(call.station, arguments))
    for word in words:
        if word == "--":
            call.recipients += words
        elif word.startswith("-") and word != "-":
            _read_cluster(call, word[1:], words)
        else:
            call.recipients.append(word)
    return call


def _read_cluster(call: Call, cluster: str, words: Iterator[str]) -> None:
    """Reads `-ti`, `-fuser`, `-f user`."""
    place = 0
    while place < len(cluster):
        letter, rest = cluster[place], cluster[place + 1 :]
        if letter == "b":
            _set_mode(call, rest or next(words, ""))
            return
        if letter in VALUES:
            if not rest and letter not in ATTACHED:
                found = next(words, None)
                if found is None:
                    raise Problem(Exit.USAGE, f"-{letter} needs a value.")
                rest = found
            _set_value(call, letter, rest)
            return
        if letter not in PLAIN:
            raise Problem(Exit.USAGE, f"-{letter} is no option of a sendmail that is known here.")
        call.from_header |= letter == "t"
        call.dots |= letter == "i"
        call.station.verbose += letter == "v"
        place += 1


def _set_mode(call: Call, mode: str) -> None:
    if mode in MODES:
        raise Problem(Exit.USAGE, f"-b{mode}: {MODES[mode]}.")
    if mode not in ("m", "p", "s", "i"):
        raise Problem(Exit.USAGE, f"-b{mode} is not known here; there are -bm, -bs, -bp and -bi.")
    call.mode = mode


def _set_value(call: Call, letter: str, value: str) -> None:
    if letter in "fr":
        call.sender = value
    elif letter == "F":
        call.name = value
    elif letter == "q":
        call.run_queue = True
    elif letter == "N":
        call.notify = read_notify(value)
    elif letter == "R":
        call.ret = read_ret(value)
    elif letter == "V":
        call.envid = read_envid(value)
    elif letter in "oO" and value.lower() in ("i", "ignoredots", "ignoredots=true"):
        call.dots = True
    elif letter == "o" and value in ("dq", "dd"):
        call.only_queue = True


def read_notify(text: str) -> tuple[str, ...]:
    """`never`, or of `success`, `failure` and `delay` (RFC 3461 §4.1). Raises Problem."""
    words = tuple(dict.fromkeys(word.strip().upper() for word in text.split(",")))
    if words == ("NEVER",) or (words and set(words) <= {"SUCCESS", "FAILURE", "DELAY"}):
        return words
    raise Problem(Exit.USAGE, f"{text!r}: notices are wanted never, or of success, failure, delay.")


def read_ret(text: str) -> str:
    """`hdrs` or `full` (RFC 3461 §4.3). Raises Problem."""
    if text.upper() not in ("HDRS", "FULL"):
        raise Problem(Exit.USAGE, f"{text!r}: a notice brings back hdrs or full.")
    return text.upper()


def read_envid(text: str) -> str:
    """An envelope id (RFC 3461 §4.4). Raises Problem."""
    if not (text and text.isascii() and text.isprintable() and len(text) <= 100):
        raise Problem(Exit.USAGE, "An envelope id has 1 to 100 printable ASCII characters.")
    return text


# A letter


def _submit(call: Call) -> int:
    from posthouse.cli import letters
    from posthouse.mail.mailboxes import Mailbox

    domain = own_domain()
    more = [box for text in call.recipients for box in letters.read_mailboxes(text, domain)]
    if not more and not call.from_header:
        raise Problem(Exit.USAGE, "Recipients must be named, or read from the header with -t.")
    author = call.station.author(call.name, domain)
    null = call.sender is not None and call.sender.strip() in ("", "<>")
    if call.sender is not None and not null:
        found = letters.read_mailboxes(call.sender, domain)
        if len(found) != 1:
            raise Problem(Exit.DATA, f"-f takes one address, not {call.sender!r}.")
        author = Mailbox(call.name or found[0].name, found[0].address)
    if sys.stdin.isatty():
        print("Type the message; Ctrl-D on a line of its own ends it.", file=sys.stderr)
    source = sys.stdin.buffer if call.dots else cast("IO[bytes]", UntilDot(sys.stdin.buffer))
    part = letters.without_mbox_line(letters.spool(source))
    whole = letters.whole_message(part, author, more, listed=call.from_header, domain=domain)
    letter = whole.letter
    letter.sender = None if null else letter.sender
    letters.want_notices(letter, call.notify, call.ret or None, call.envid or None)
    return call.station.hand(letter, whole.message_id, only_queue=call.only_queue)


class UntilDot:
    """Standard input up to a line that holds only a dot, which ends it without -i."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._rest = b"\n"  # the dot may stand on the first line
        self._first = True
        self._over = False

    def read(self, size: int) -> bytes:
        """At most about so many octets; none at the end."""
        octets = self._rest
        while not self._over and len(octets) <= size + 4:
            piece = self._stream.read(size)
            self._over = not piece
            octets += piece
            cut = min((octets.find(mark) for mark in ENDED if mark in octets), default=-1)
            if cut < 0 and self._over and octets.endswith((b"\n.", b"\n.\r")):
                cut = octets.rindex(b"\n.")
            if cut >= 0:
                octets, self._over = octets[: cut + 1], True
        keep = 0 if self._over else 4  # what may be the beginning of the end
        self._rest = octets[len(octets) - keep :] if keep else b""
        octets = octets[: len(octets) - keep] if keep else octets
        if self._first and octets:
            self._first = False
            octets = octets[1:]
            return octets or (self.read(size) if not self._over else b"")
        return octets


# The queue


def _run_queue(call: Call) -> int:
    from posthouse.cli.outbox import run

    arguments = ["-q", *(["-v"] if call.station.verbose else [])]
    return _ran(run, arguments)


def _ran(command: object, arguments: list[str]) -> int:
    import click

    assert isinstance(command, click.Command)
    try:
        command.main(arguments, standalone_mode=False)
    except SystemExit as ended:
        return int(ended.code or 0) if not isinstance(ended.code, str) else Exit.SOFTWARE
    return Exit.OK


def mailq(arguments: list[str]) -> int:
    """The letters that wait, in the form that sendmail's users know."""
    import time

    from posthouse.cli.origins import outbox_folder
    from posthouse.clients.outbox import Outbox
    from posthouse.mail.charsets import harmless_line

    del arguments  # -Ac, -v and the like change nothing here
    letters = [waiting for waiting in Outbox(outbox_folder()).list(time.time())[0] if waiting.state != "sent"]
    if not letters:
        print("Mail queue is empty")
        return Exit.OK
    print("-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------")
    for waiting in letters:
        mark = {"sending": "*", "held": "!"}.get(waiting.state.value, " ")
        arrival = time.strftime("%a %b %d %H:%M:%S", time.localtime(waiting.accepted))
        print(
            f"{waiting.id}{mark}  {waiting.size:>8} {arrival:<20}  {harmless_line(waiting.sender or 'MAILER-DAEMON')}"
        )
        for recipient in waiting.recipients:
            if recipient.status != "sent":
                if recipient.reply:
                    print(harmless_line(f"({recipient.status}: {recipient.reply})"))
                print(f"{'':43}{harmless_line(recipient.address)}")
        print()
    total = (sum(waiting.size for waiting in letters) + 1023) // 1024
    print(f"-- {total} Kbytes in {len(letters)} Request{'' if len(letters) == 1 else 's'}.")
    return Exit.OK


def newaliases(arguments: list[str]) -> int:
    """There is no database of aliases here, so there is nothing to rebuild."""
    del arguments
    return Exit.OK
