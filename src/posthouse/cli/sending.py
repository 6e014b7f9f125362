"""Sending one letter: from a plan to what became of it. Used by the dialogue and by the one-shot command."""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from posthouse.cli.exits import ADVICE, Exit, advice_of, exit_of, sentence
from posthouse.clients.failure import Failure, Kind
from posthouse.clients.login import KNOWN
from posthouse.clients.security import SUBMISSIONS, Security
from posthouse.clients.smtp import Letter, Outcome, Result, SmtpClient
from posthouse.net.dial import Server, Unreachable
from posthouse.sasl.registry import CLEAR, CRAM_MD5

if TYPE_CHECKING:
    from posthouse.ports.system import SessionObserver
    from posthouse.smtp.client import Answer

SUBMISSION: Final = 587  # RFC 6409 §3.1
SMTP: Final = 25  # RFC 5321 §4.5.4.2
SUMMARY: Final = "Sent to {sent} of {count} recipients; id {id}; {seconds} s"
STAGES: Final = {"EHLO": "ehlo", "AUTH": "auth", "MAIL": "mail", "RCPT": "rcpt", "DATA": "data"}


@dataclass(slots=True)
class Plan:
    """What is to be done. `login` "" means without one. `consent` is asked when the password would pass in clear."""

    server: Server
    letter: Letter
    message_id: str
    login: str = ""
    password: str = field(default="", repr=False)
    stop_after: str = ""
    timeout: float | None = None
    security: Security = field(default_factory=Security)
    consent: Callable[[], bool] = lambda: False
    observer: SessionObserver | None = None
    on_answer: Callable[[Answer], None] | None = None
    on_progress: Callable[[int, int], None] | None = None
    on_end: Callable[[Outcome], None] | None = None  # the final dot is about to leave


@dataclass(slots=True)
class Report:
    """What became of it."""

    code: Exit
    stage: str
    results: list[Result]
    message_id: str
    seconds: float
    reply: str = ""
    text: str = ""  # what happened, what became of the message, what to do
    happened: str = ""  # the first part of it
    kind: Kind | None = None  # of the failure that ended the session
    outbox: str = ""  # the letter of the outbox that keeps what was not handed over

    @property
    def sent(self) -> int:
        """How many recipients the server took."""
        return sum(result.status == "sent" for result in self.results)

    @property
    def is_uncertain(self) -> bool:
        """Whether nobody knows of some recipient if it has the message."""
        return any(result.status == "uncertain" for result in self.results)

    @property
    def counts(self) -> dict[str, str]:
        """What SUMMARY tells."""
        count, seconds = len(self.results), f"{self.seconds:.2f}"
        return {"sent": str(self.sent), "count": str(count), "id": self.message_id, "seconds": seconds}

    @property
    def summary(self) -> str:
        """The last line of the dialogue."""
        return SUMMARY.format(**self.counts)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        rows: list[dict[str, str]] = []
        for result in self.results:
            reply = {"reply": result.answer.said} if result.answer is not None else {}
            rows.append({"to": str(result.address), "status": result.status} | reply)
        value: dict[str, Any] = {"ok": self.code is Exit.OK, "code": int(self.code), "stage": self.stage}
        value |= {"reply": self.reply} if self.reply else {}
        value |= {"note" if self.code is Exit.OK else "error": self.text} if self.text else {}
        value |= {"outbox": self.outbox} if self.outbox else {}
        return value | {"recipients": rows, "message_id": self.message_id, "ms": round(self.seconds * 1000)}


async def deliver(plan: Plan) -> Report:
    """Connects, logs in, sends, says goodbye. Raises nothing that a server can cause."""
    begun = time.monotonic()
    outcome = Outcome.of(plan.letter)
    try:
        outcome = await _session(plan, outcome)
    except Failure as failure:
        outcome.failure, outcome.stage = failure, failure.stage
    return report_of(plan, outcome, time.monotonic() - begun)


async def _session(plan: Plan, outcome: Outcome) -> Outcome:
    client = await open_session(plan)
    try:
        if plan.stop_after not in ("ehlo", "auth"):
            outcome = await client.send(plan.letter, plan.stop_after)
        if outcome.failure is None and not (plan.stop_after == "data" and outcome.stage == ""):
            await client.quit()
    finally:
        client.close()
    return outcome


async def open_session(plan: Plan) -> SmtpClient:
    """A session in which letters can be sent: greeted and logged in. Raises Failure."""
    client = await _connect(plan)
    client.on_end = plan.on_end
    try:
        await client.greet()
        await client.hello(own_name(client))
        if plan.stop_after != "ehlo" and plan.login:
            _check_login(plan, client)
            await client.login(plan.login, plan.password)
        if any(one.notify for one in plan.letter.recipients) and "DSN" not in client.extensions:
            text = "the server does not know of notices (DSN), so they were not asked for"
            print(f"posthouse send: {text}", file=sys.stderr)
    except BaseException:
        client.close()
        raise
    return client


async def _connect(plan: Plan) -> SmtpClient:
    """To the port that was named; else to the one for submission, and to port 25 where nothing listens there."""

    async def open_at(port: int) -> SmtpClient:
        return await SmtpClient.connect(
            plan.server.host,
            port,
            timeout=plan.timeout,
            observer=plan.observer,
            on_answer=plan.on_answer,
            on_progress=plan.on_progress,
            security=plan.security,
        )

    if plan.security.at_once(plan.server.port, SUBMISSIONS):
        return await open_at(plan.server.port or SUBMISSIONS)
    if plan.server.port is not None:
        return await open_at(plan.server.port)
    try:
        return await open_at(SUBMISSION)
    except Failure as failure:
        if not (isinstance(failure.__cause__, Unreachable) and failure.__cause__.refused):
            raise
        return await open_at(SMTP)


def _check_login(plan: Plan, client: SmtpClient) -> None:
    if client.mechanism is None:
        offered = " ".join(client.extensions.mechanisms) or "none"
        text = f"the server offers no login that we know: we know {KNOWN}, it offers {offered}"
        raise Failure(Kind.LOGIN, "auth", text)
    if client.mechanism == CRAM_MD5:
        text = "the server offers neither encryption nor SCRAM-SHA-256: CRAM-MD5 hides the password from listeners only"
        print(f"posthouse send: {text}", file=sys.stderr)
    if client.mechanism in CLEAR and not client.private and not plan.consent():
        text = "the server offers no encryption that we can use, and the password was not sent in clear"
        raise Failure(Kind.LOGIN, "auth", text)


_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")


def own_name(client: SmtpClient) -> str:
    """What we call ourselves in EHLO: our full name, or our address when we have none (RFC 5321 §4.1.4)."""
    name = socket.gethostname()
    if "." in name and _HOST.fullmatch(name):
        return name
    host = client.wire.local.host.partition("%")[0]
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


# What to say about it


def report_of(plan: Plan, outcome: Outcome, seconds: float) -> Report:
    """What a session came to, with words for people and an exit code."""
    code = _code(plan, outcome)
    reply = ""
    if outcome.failure is not None:
        reply = outcome.failure.reply
    elif outcome.answer is not None:
        reply = outcome.answer.said
    elif code is not Exit.OK and code is not Exit.NOT_ALL:
        reply = next((result.answer.said for result in outcome.results if result.answer is not None), "")
    stage = outcome.stage or ("rcpt" if code else plan.stop_after or "end of data")
    report = Report(code, stage, outcome.results, plan.message_id, seconds, reply)
    report.kind = outcome.failure.kind if outcome.failure is not None else None
    if code is not Exit.OK:
        report.happened = _happened(outcome, report)
        report.text = " ".join(filter(None, [report.happened, _became(outcome, report)]))
    return report


def _code(plan: Plan, outcome: Outcome) -> Exit:
    if outcome.failure is not None:
        return exit_of(outcome.failure)
    results = outcome.results
    good = {"sent", "accepted"} if plan.stop_after else {"sent"}
    done = sum(result.status in good for result in results)
    if done == len(results) or plan.stop_after in ("ehlo", "auth"):
        return Exit.OK
    if plan.stop_after == "mail" and outcome.answer is None:
        return Exit.OK
    if done:
        return Exit.NOT_ALL
    if any(result.status == "deferred" for result in results):
        return Exit.TEMPORARY
    answers = [result.answer for result in results if result.answer is not None]
    if any(answer.code in (530, 534, 535, 538) for answer in answers):
        return Exit.NO_PERMISSION
    if outcome.answer is None and all(_unknown(answer) for answer in answers):
        return Exit.NO_USER
    return Exit.UNAVAILABLE


def _unknown(answer: Answer) -> bool:
    """Whether a refusal says that there is no such mailbox (RFC 3463 §3.2)."""
    if answer.status:
        return answer.status.startswith("5.1.")
    return answer.code in (550, 551, 553)


def _happened(outcome: Outcome, report: Report) -> str:
    """What happened, in one sentence."""
    if outcome.failure is not None:
        text = sentence(str(outcome.failure))
        if report.is_uncertain:
            text += " Nobody knows whether the message was taken: the line was lost after its end."
        return text
    refused = [result for result in report.results if result.status in ("failed", "deferred")]
    if report.code is Exit.NOT_ALL:
        who = ", ".join(str(result.address) for result in refused[:10])
        more = f" and {len(refused) - 10} more" if len(refused) > 10 else ""
        return f"The server did not take {who}{more}; the others have the message."
    if report.code is Exit.NO_USER:
        return "The server knows none of the recipients."
    what = "the message" if report.stage in ("data", "end of data", "content") else "the recipients"
    what = "the sender" if report.stage == "mail" else what
    return f"The server refused {what}."


def _became(outcome: Outcome, report: Report) -> str:
    """What became of the message, and what to do, where nobody keeps it."""
    if report.is_uncertain:
        return "Ask the recipients before you send it again."
    if report.code is Exit.NOT_ALL and outcome.failure is None:
        return ""
    advice = ADVICE.get(report.code, "") if outcome.failure is None else advice_of(outcome.failure)
    advice = "Check the addresses." if report.code is Exit.NO_USER else advice
    return f"Nothing was sent. {advice}".rstrip()


def refusals(report: Report) -> list[str]:
    """One line for each recipient that was refused, with the server's words."""
    return [
        f"{result.address}: {result.answer.said}"
        for result in report.results
        if result.status in ("failed", "deferred") and result.answer is not None
    ]
