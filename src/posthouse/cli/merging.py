"""One letter for each row of a table (`send --merge`): the table, and sending many letters in few sessions."""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.composing import Recipe
from posthouse.cli.exits import Exit, Problem, print_json
from posthouse.cli.keeping import Desk, Recorder, check, queued
from posthouse.cli.rich import Row
from posthouse.cli.sending import Plan, Report, open_session, report_of
from posthouse.clients.failure import Failure
from posthouse.clients.smtp import Letter, Outcome, SmtpClient
from posthouse.mail.charsets import harmless_line

if TYPE_CHECKING:
    from posthouse.net.dial import Server

ROWS: Final = 100_000
TABLE: Final = 67_108_864  # octets
CELL: Final = 1_048_576  # characters
SESSION: Final = 100  # letters of one session; Postfix and Exim close at about so many


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file in UTF-8, by the names of its first line in small letters. Commas, semicolons and tabs
    part the cells. Raises Problem."""
    try:
        if path.stat().st_size > TABLE:
            raise Problem(Exit.DATA, f"{path} is larger than 64 MB. Nothing was sent.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Problem(Exit.NO_INPUT, f"{path} cannot be read: {error.strerror}. Nothing was sent.") from error
    except UnicodeDecodeError:
        raise Problem(Exit.DATA, f"{path} is not in UTF-8. Nothing was sent.") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(CELL)
    try:
        lines = [line for line in csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True) if line]
    except csv.Error as error:
        raise Problem(Exit.DATA, f"{path} is no table that can be read: {error}. Nothing was sent.") from error
    return _named(lines, path)


def _named(lines: list[list[str]], path: Path) -> list[Row]:
    names = [name.strip().lower() for name in (lines[0] if lines else [])]
    if not names or "" in names or len(set(names)) != len(names):
        text = f"The first line of {path} must name the columns, each once. Nothing was sent."
        raise Problem(Exit.DATA, text)
    if len(lines) - 1 > ROWS:
        raise Problem(Exit.DATA, f"{path} has more than {ROWS} rows. Nothing was sent.")
    rows: list[Row] = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(names):
            text = f"Row {number} of {path} has {len(cells)} cells, the first line names {len(names)}."
            raise Problem(Exit.DATA, f"{text} Nothing was sent.")
        rows.append(dict(zip(names, cells, strict=True)))
    if not rows:
        raise Problem(Exit.DATA, f"{path} has no rows below its first line. Nothing was sent.")
    return rows


@dataclass(slots=True)
class Mailing:
    """All letters of one table."""

    recipe: Recipe
    rows: list[Row]
    reports: list[Report] = field(default_factory=list)

    def check(self) -> None:
        """Composes every letter once, so that nothing leaves when one of them cannot be made. Raises Problem."""
        for number, row in enumerate(self.rows, 2):
            try:
                self.recipe.compose(row)
            except Problem as problem:
                text = str(problem).removesuffix(" Nothing was sent.")
                raise Problem(problem.code, f"Row {number}: {text} Nothing was sent.") from problem

    def letters(self) -> Iterator[tuple[Letter, str]]:
        """The letters, one after the other."""
        for row in self.rows:
            yield self.recipe.compose(row)

    def queue(self, desk: Desk, due: float) -> None:
        """All into the outbox."""
        for letter, message_id in self.letters():
            self.reports.append(queued(desk.queue(letter, message_id, due), letter))

    def send(self, plan: Plan, desk: Desk, verbose: int) -> None:
        """Sends all, and keeps what is not taken for now."""
        asyncio.run(_Line(plan, desk, verbose).send(self))

    def tell(self, options: dict[str, Any]) -> int:
        """What became of all. Returns the exit code."""
        code = code_of(self.reports)
        done = sum(report.code is Exit.OK and not report.outbox for report in self.reports)
        kept = sum(bool(report.outbox) for report in self.reports)
        if options["as_json"]:
            rows = [report.as_json() for report in self.reports]
            print_json({"ok": code is Exit.OK, "code": int(code), "sent": done, "kept": kept, "letters": rows})
            return code
        for number, report in enumerate(self.reports, 2):
            if report.text:
                to = ", ".join(str(result.address) for result in report.results)
                print(harmless_line(f"Row {number}, {to}: {report.text}"), file=sys.stderr)
        if not options["quiet"]:
            print(f"Sent {done} of {len(self.reports)} letters{f'; {kept} wait in the outbox' if kept else ''}")
        return code


def merge(
    recipe: Recipe,
    options: dict[str, Any],
    server: Server | None,
    login: str,
    password: str,
    consent: Callable[[], bool],
) -> int:
    """Carries out --merge. Returns the exit code. Raises Problem; then nothing was sent."""
    from posthouse.cli.origins import route_of
    from posthouse.cli.security import security_of
    from posthouse.cli.send import dry_run

    if options["stop_after"] or (options["hold"] and not options["queue"]):
        raise Problem(Exit.USAGE, "--merge goes without --stop-after, and with --hold only when --queue is given too.")
    mailing = Mailing(recipe, read_rows(Path(options["merge"])))
    mailing.check()
    if options["dry_run"]:
        return max(dry_run(letter, options) for letter, _ in mailing.letters())
    assert server is not None
    desk = Desk(route_of(options, login), keeps=not options["no_queue"])
    if options["queue"]:
        mailing.queue(desk, time.time() + check(options))
        return mailing.tell(options)
    letter, message_id = recipe.compose(mailing.rows[0])
    plan = Plan(server, letter, message_id, login, password, timeout=options["timeout"])
    plan.security, plan.consent = security_of(options, options["url"]), lambda: desk.agree(consent())
    mailing.send(plan, desk, options["verbose"])
    return mailing.tell(options)


def code_of(reports: list[Report]) -> Exit:
    """0 when every letter was sent or is kept, 1 when some were, else why the first was not."""
    good = [report.code is Exit.OK for report in reports]
    if all(good):
        return Exit.OK
    return Exit.NOT_ALL if any(good) or any(report.sent for report in reports) else reports[0].code


class _Line:
    """Letters one after the other over one session, and over a new one where that ended."""

    def __init__(self, plan: Plan, desk: Desk, verbose: int) -> None:
        self._plan = plan
        self._desk = desk
        self._verbose = verbose
        self._client: SmtpClient | None = None
        self._count = 0
        self._away: Failure | None = None  # why no session can be had any more
        self._recorder = Recorder(verbose)

    async def send(self, mailing: Mailing) -> None:
        """All letters. Raises Problem when one that waits cannot be kept."""
        try:
            for letter, message_id in mailing.letters():
                plan = replace(self._plan, letter=letter, message_id=message_id)
                report = await self._one(plan)
                mailing.reports.append(self._desk.keep(plan, report, self._recorder.lines))
        finally:
            await self._end()

    async def _one(self, plan: Plan) -> Report:
        begun = time.monotonic()
        self._recorder.lines.clear()
        outcome = Outcome.of(plan.letter)
        try:
            client = await self._session(plan)
            outcome = await client.send(plan.letter)
            self._count += 1
        except Failure as failure:
            outcome.failure, outcome.stage = failure, failure.stage
            self._away = failure
        closing = outcome.answer is not None and outcome.answer.code == 421  # RFC 5321 §3.8
        if outcome.failure is not None or closing or self._count >= SESSION:
            await self._end()
        return report_of(plan, outcome, time.monotonic() - begun)

    async def _session(self, plan: Plan) -> SmtpClient:
        if self._away is not None:
            raise self._away
        if self._client is None:
            session = replace(plan, observer=self._recorder.transcript)
            self._client, self._count = await open_session(session), 0
        return self._client

    async def _end(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if not client.wire.lost:
            await client.quit()
        client.close()
