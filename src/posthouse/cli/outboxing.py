"""Attempts for letters of the outbox: one, those that are due, and again and again."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any, Final

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.helpers import stderr_line
from posthouse.cli.letters import with_notices
from posthouse.cli.origins import Keys, Way, way_of
from posthouse.cli.sending import Plan, Report, deliver
from posthouse.clients.failure import Kind
from posthouse.clients.outbox import Busy, Missing, Outbox, Taken
from posthouse.clients.smtp import Letter, Outcome, Result
from posthouse.clients.waiting import Attempt, Damaged, State, Waiting
from posthouse.mail.address import Address
from posthouse.observe.transcript import Transcript

TRANSCRIPT: Final = 262_144  # octets kept of one attempt
BARRED: Final = (Kind.LOGIN, Kind.CERTIFICATE, Kind.INSECURE)  # a person must mend something first
AWAY: Final = (Kind.UNREACHABLE, Kind.UNKNOWN_HOST)  # nobody was reached


@dataclass(slots=True)
class Trial:
    """What came of one letter."""

    waiting: Waiting
    report: Report | None = None  # None: no attempt was made
    text: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        row = row_of(self.waiting)
        if self.report is not None:
            row |= {"stage": self.report.stage, "reply": self.report.reply, "ms": round(self.report.seconds * 1000)}
        return row | ({"error": self.text} if self.text else {})


def row_of(waiting: Waiting) -> dict[str, Any]:
    """A letter of the outbox for programs."""
    from posthouse.cli.output import moment

    return {
        "id": waiting.id,
        "state": waiting.state.value,
        "from": waiting.sender or "",
        "recipients": [{"to": r.address, "status": r.status, "reply": r.reply} for r in waiting.recipients],
        "subject": waiting.subject,
        "message_id": waiting.message_id,
        "size": waiting.size,
        "accepted": moment(waiting.accepted),
        "due": None if waiting.due is None or waiting.held else moment(waiting.due),
        "attempts": len(waiting.attempts),
    }


def letter_of(taken: Taken) -> Letter:
    """The letter as it leaves now: to the recipients that are still open."""
    waiting = taken.waiting
    return Letter(
        None if waiting.sender is None else _address(waiting.sender),
        [with_notices(_address(recipient.address), waiting.notify) for recipient in waiting.open],
        waiting.size,
        taken.content,
        eight_bit=waiting.eight_bit,
        utf8=waiting.utf8,
        ret=waiting.ret or None,
        envid=waiting.envid or None,
    )


def _address(text: str) -> Address:
    return Address.parse(text) if "@" in text else Address(text, "")


@dataclass(slots=True)
class Runner:
    """Makes attempts. `patience` is that of each step of a session, None for the protocol's own. `jitter` spreads the
    attempts after one."""

    outbox: Outbox
    keys: Keys
    patience: float | None = None
    verbose: int = 0
    consent: Callable[[], bool] = lambda: False
    on_progress: Callable[[int, int], None] | None = None
    away: dict[str, str] = field(default_factory=dict)  # servers that could not be reached in this run, and why

    def run_due(self) -> list[Trial]:
        """Tries every letter whose time has come, the longest due first."""
        now = time.time()
        letters, _ = self.outbox.list(now)
        due = sorted((w for w in letters if w.is_due(now)), key=lambda w: w.due or 0.0)
        return self.run(w.id for w in due)

    def run(self, names: Iterable[str], *, asked: bool = False) -> list[Trial]:
        """Tries these letters. `asked`: a person wants it, whatever the timetable says. One that another process has
        in its hands, or that has gone, is passed over unless it was asked for."""
        trials = []
        for name in names:
            try:
                with self.outbox.take(name, time.time()) as taken:
                    if asked or taken.waiting.is_due(time.time()):
                        trials.append(self.attempt(taken))
            except (Busy, Missing, Damaged) as error:
                if asked:
                    raise Problem(Exit.TEMPORARY, f"{error}.", stage="outbox") from error
        return trials

    def attempt(self, taken: Taken) -> Trial:
        """One attempt for a letter in our hands. What came of it is on the disk when this returns. Raises Problem."""
        waiting = taken.waiting
        try:
            way = way_of(waiting.route, self.verbose)
            password = self.keys.password(waiting.route)
        except Problem as problem:
            return Trial(waiting, text=str(problem))
        if password is None:
            text = f"There is no password for {waiting.route.user}, and nobody to ask."
            return Trial(waiting, text=text)
        where = str(way.server)
        if where in self.away:
            waiting.finish(time.time(), jitter=_jitter())
            _save(taken)
            return Trial(waiting, text=self.away[where])
        if not waiting.open:
            return Trial(waiting, text="Nothing of it is to be sent.")
        report = self._try(taken, way, password)
        if report.kind in AWAY and report.stage == "connect":
            self.away[where] = report.happened
        return Trial(waiting, report, report.happened)

    def _try(self, taken: Taken, way: Way, password: str) -> Report:
        """The session, written down before and after."""
        name = taken.add_transcript("")
        attempt = taken.waiting.begin(time.time(), name)
        _save(taken)
        with (taken.folder / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
            observer = Transcript(_writer(file, self.verbose), most=TRANSCRIPT)
            plan = Plan(
                way.server,
                letter_of(taken),
                taken.waiting.message_id,
                way.login,
                password,
                timeout=self.patience,
                security=way.security,
                consent=lambda: way.insecure_auth or self.consent(),
                observer=observer,
                on_progress=self.on_progress,
                on_end=lambda outcome: _about_to_end(taken, outcome),
            )
            report = asyncio.run(deliver(plan))
            if report.happened:
                observer.note(report.happened)
        note(taken.waiting, attempt, report)
        _save(taken)
        return report


def _writer(file: IO[str], verbose: int) -> Callable[[str], None]:
    def write(line: str) -> None:
        file.write(line)
        if verbose:
            stderr_line(line)

    return write


def _about_to_end(taken: Taken, outcome: Outcome) -> None:
    """Writes down, before the final dot leaves, that nobody knows any more whether the letter was taken."""
    for recipient, result in zip(taken.waiting.open, outcome.results, strict=True):
        if result.status == "accepted":
            recipient.status, recipient.reply = "uncertain", ""
        elif result.status in ("failed", "deferred"):
            recipient.status, recipient.reply = result.status, _said(result)
    taken.waiting.phase = "ended"
    taken.save()


def note(waiting: Waiting, attempt: Attempt, report: Report) -> None:
    """Writes into the values what an attempt brought."""
    places = {recipient.address: recipient for recipient in waiting.recipients}
    barred = report.kind in BARRED
    for result in report.results:
        recipient = places[str(result.address)]
        status = result.status
        if status == "not sent":
            status = "failed" if report.kind is Kind.REFUSED else "deferred"
        recipient.status = status
        recipient.reply = _said(result) or report.reply or report.happened
    now = time.time()
    attempt.seconds, attempt.stage = round(report.seconds, 3), report.stage
    attempt.text, attempt.reply, attempt.sent = report.happened or "done", report.reply, report.sent
    waiting.finish(now, jitter=_jitter())
    if barred and waiting.open:
        waiting.held, waiting.why = True, report.happened


def _said(result: Result) -> str:
    return result.answer.said if result.answer is not None else ""


def _save(taken: Taken) -> None:
    try:
        taken.save()
    except OSError as error:
        text = f"The outbox cannot be written: {error.strerror}. The letter stays as it was written last."
        raise Problem(Exit.IO, text, stage="outbox") from error


def _jitter() -> float:
    return secrets.randbelow(1000) / 1000


def code_of(trials: list[Trial]) -> Exit:
    """The exit code of a run: 0 when all that was tried has left, or nothing was to be tried."""
    if not trials or all(trial.waiting.state is State.SENT for trial in trials):
        return Exit.OK
    states = {trial.waiting.state for trial in trials}
    if State.SENT in states or any(trial.report is not None and trial.report.sent for trial in trials):
        return Exit.NOT_ALL
    if all(trial.report is None for trial in trials) and any("password" in trial.text for trial in trials):
        return Exit.NO_PERMISSION
    if states == {State.HELD}:
        return Exit.NO_PERMISSION
    return Exit.UNAVAILABLE if states == {State.FAILED} else Exit.TEMPORARY
