"""What `send` does with a letter that is composed: hand it over, keep it in the outbox, or first one and then the
other."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.helpers import stderr_line
from posthouse.cli.origins import Keys, outbox_folder, route_of, span

if TYPE_CHECKING:
    from posthouse.cli.sending import Plan, Report
    from posthouse.clients.outbox import Taken
    from posthouse.clients.smtp import Letter
    from posthouse.clients.waiting import Route, Waiting

LONGEST_HOLD: Final = 30 * 86_400.0  # seconds


def check(options: dict[str, Any]) -> float:
    """The seconds of --hold. Raises Problem where the options of the outbox contradict each other."""
    if options["no_queue"] and (options["queue"] or options["hold"]):
        raise Problem(Exit.USAGE, "--wait keeps nothing in the outbox, which --queue and --hold do.")
    if options["stop_after"] and (options["queue"] or options["hold"]):
        raise Problem(Exit.USAGE, "--stop-after sends nothing, so there is nothing to keep.")
    seconds = span(options["hold"]) if options["hold"] else 0.0
    if seconds > LONGEST_HOLD:
        raise Problem(Exit.USAGE, "--hold takes 30 days at most.")
    return seconds


@dataclass(slots=True)
class Desk:
    """Where letters are handed in. `keeps`: what cannot be sent now goes into the outbox."""

    route: Route
    keeps: bool = True

    def agree(self, consent: bool) -> bool:
        """Remembers that the password may pass in clear, for later attempts too."""
        self.route.insecure_auth = self.route.insecure_auth or consent
        return consent

    def keep(self, plan: Plan, report: Report, lines: Iterable[str]) -> Report:
        """Puts what was not taken for now into the outbox, with what was said so far."""
        if not self.keeps or plan.stop_after or not _is_worth_keeping(report):
            return report
        from posthouse.cli.outboxing import note

        waiting = self.describe(plan.letter, plan.message_id, time.time())
        try:
            with self._add(waiting, plan.letter) as taken:
                attempt = waiting.begin(time.time() - report.seconds, taken.add_transcript("".join(lines)))
                note(waiting, attempt, report)
                _saved(taken)
        except Problem as problem:  # what was said of the attempt stays true, and nothing more
            text = str(problem).removesuffix(" It was not sent.")
            return replace(report, text=f"{report.text} {text}")
        return _kept(report, waiting)

    def queue(self, letter: Letter, message_id: str, due: float) -> Waiting:
        """Puts a letter into the outbox untried. Raises Problem."""
        waiting = self.describe(letter, message_id, due)
        with self._add(waiting, letter):
            return waiting

    def describe(self, letter: Letter, message_id: str, due: float) -> Waiting:
        """A letter in the words of the outbox."""
        from posthouse.clients.waiting import Recipient, Waiting

        return Waiting(
            id="",
            sender=None if letter.sender is None else str(letter.sender),
            recipients=[Recipient(str(recipient.address)) for recipient in letter.recipients],
            message_id=message_id,
            subject=_subject(letter),
            size=letter.size,
            route=self.route,
            accepted=time.time(),
            due=due,
            eight_bit=letter.eight_bit,
            utf8=letter.utf8,
            notify=letter.recipients[0].notify,
            ret=letter.ret or "",
            envid=letter.envid or "",
        )

    def _add(self, waiting: Waiting, letter: Letter) -> Taken:
        from posthouse.clients.outbox import Outbox
        from posthouse.mail.compose import ComposeError

        folder = outbox_folder()
        try:
            return Outbox(folder).add(waiting, letter.content())
        except (OSError, ComposeError) as error:
            why = getattr(error, "strerror", None) or error
            text = f"The letter cannot be kept in the outbox {folder}: {why}. It was not sent."
            raise Problem(Exit.CANNOT_CREATE, text, stage="outbox") from error


def _subject(letter: Letter) -> str:
    """The subject, for the list."""
    from posthouse.mail.message import Message

    octets = bytearray()
    for piece in letter.content():
        octets += piece
        if len(octets) > 65_536 or b"\r\n\r\n" in octets:
            break
    return Message(bytes(octets[:65_536])).get("Subject")[:200]


def _saved(taken: Taken) -> None:
    try:
        taken.save()
    except OSError as error:
        text = f"The outbox cannot be written: {error.strerror or error}."
        raise Problem(Exit.IO, text, stage="outbox") from error


def _is_worth_keeping(report: Report) -> bool:
    """Whether a later attempt may bring something, or nobody knows what this one brought."""
    if any(result.status in ("deferred", "uncertain") for result in report.results):
        return True
    return report.code is Exit.TEMPORARY


def _kept(report: Report, waiting: Waiting) -> Report:
    """The report with what became of the rest: what is queued is safe (exit code 0), what is uncertain is not."""
    code = Exit.OK
    if waiting.count("uncertain"):
        code = Exit.TEMPORARY
    elif waiting.count("failed"):
        code = Exit.NOT_ALL
    if waiting.count("deferred"):
        text = f"The letter waits in the outbox as {waiting.id}: posthouse outbox run sends it when its time has come."
    else:
        text = f"posthouse outbox send {waiting.id} sends it again under the same Message-ID, drop forgets it."
    for result, recipient in zip(report.results, waiting.recipients, strict=True):
        result.status = recipient.status
    return replace(report, code=code, text=f"{report.happened} {text}", outbox=waiting.id)


class Recorder:
    """Keeps the transcript of an attempt that may have to be written down, and shows it with -v."""

    def __init__(self, verbose: int) -> None:
        from posthouse.observe.transcript import Transcript

        self.lines: list[str] = []
        self._verbose = verbose
        self.transcript = Transcript(self._write)

    def _write(self, line: str) -> None:
        self.lines.append(line)
        if self._verbose:
            stderr_line(line)


class Keeper:
    """What the dialogue needs to keep its letter; the server is known only once it was asked for."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.recorder = Recorder(options["verbose"])
        self._options = options
        self._agreed = False

    def agree(self, consent: bool) -> bool:
        """Remembers that the password may pass in clear, for later attempts too."""
        self._agreed = self._agreed or consent
        return consent

    def keep(self, plan: Plan, report: Report) -> Report:
        """As Desk.keep."""
        route = route_of(self._options | {"url": self._options["url"] or f"smtp://{plan.server}"}, plan.login)
        route.insecure_auth = route.insecure_auth or self._agreed
        return Desk(route).keep(plan, report, self.recorder.lines)


def hand_over(desk: Desk, plan: Plan, recorder: Recorder) -> Report:
    """Sends the letter, and keeps what was not taken for now. Raises Problem when it cannot be kept."""
    import asyncio

    from posthouse.cli.sending import deliver

    return desk.keep(plan, asyncio.run(deliver(plan)), recorder.lines)


def sit_out(desk: Desk, plan: Plan, seconds: float) -> Report:
    """--hold: the letter waits in the outbox, and leaves when nobody took it back meanwhile. Ctrl-C takes it back:
    then it is held. Returns what became of it."""
    from posthouse.cli.outboxing import Runner
    from posthouse.clients.outbox import Outbox

    waiting = desk.queue(plan.letter, plan.message_id, time.time() + seconds)
    name = waiting.id
    text = f"It leaves in {seconds:g} s as {name}. Ctrl-C, or posthouse outbox drop {name}, takes it back."
    print(text, file=sys.stderr)
    try:
        time.sleep(max(0.0, (waiting.due or 0.0) - time.time()))
    except KeyboardInterrupt:
        return _taken_back(name, waiting, plan)
    keys = Keys(False, {(desk.route.url, desk.route.user): plan.password})
    runner = Runner(Outbox(outbox_folder()), keys, plan.timeout, on_progress=plan.on_progress, consent=plan.consent)
    trials = runner.run([name])
    if not trials or trials[0].report is None:
        text = f"The letter {name} was taken out of our hands: posthouse outbox list shows where it is."
        return _report(Exit.OK, waiting, plan, text)
    report = trials[0].report
    return report if report.code is Exit.OK else _kept(report, trials[0].waiting)


def _taken_back(name: str, waiting: Waiting, plan: Plan) -> Report:
    from posthouse.clients.outbox import Busy, Missing, Outbox

    text = f"Taken back. It is held in the outbox as {name}: posthouse outbox edit, send or drop {name}."
    try:
        with Outbox(outbox_folder()).take(name, time.time()) as taken:
            taken.waiting.held, taken.waiting.why = True, "taken back within --hold"
            _saved(taken)
    except Missing:
        text = "It was dropped already."
    except Busy:
        text = "It was too late: another posthouse is sending it."
    return _report(Exit.INTERRUPTED, waiting, plan, text)


def _report(code: Exit, waiting: Waiting, plan: Plan, text: str) -> Report:
    from posthouse.cli.sending import Report
    from posthouse.clients.smtp import Result

    results = [Result(recipient) for recipient in plan.letter.recipients]
    return Report(code, "outbox", results, plan.message_id, 0.0, text=text, outbox=waiting.id)


def queued(waiting: Waiting, letter: Letter) -> Report:
    """What `send --queue` tells."""
    from posthouse.cli.sending import Report
    from posthouse.clients.smtp import Result

    results = [Result(recipient, "queued") for recipient in letter.recipients]
    return Report(Exit.OK, "outbox", results, waiting.message_id, 0.0, outbox=waiting.id)
