"""What hosts answered, and what went wrong with them, as results for the queue (RFC 5321 §4.2.1, RFC 3463)."""

from __future__ import annotations

from typing import Final

from posthouse.clients.failure import Failure, Kind
from posthouse.mail.charsets import harmless_line
from posthouse.ports.queue import Result, Status
from posthouse.smtp.client import Answer

LONGEST: Final = 1_000  # characters of a reply that are kept

# The details of reply codes that say no more than RFC 5321 §4.2.3 has them say; what hangs on the command stands under
# its stage (RFC 3463 §3).
_DETAILS: Final = {
    421: "3.2",
    450: "2.0",
    451: "3.0",
    452: "3.1",
    454: "7.0",
    500: "5.2",
    501: "5.4",
    502: "5.1",
    503: "5.1",
    504: "5.4",
    521: "3.2",  # RFC 7504 §4
    530: "7.0",
    535: "7.8",
    551: "1.6",
    552: "3.4",
    553: "1.0",
    555: "5.4",
    556: "1.10",  # RFC 7505 §4.1
}
_STAGE_DETAILS: Final = {
    ("rcpt", 452): "5.3",
    ("rcpt", 552): "2.2",
    ("rcpt", 553): "1.3",
    ("mail", 553): "1.7",
}
_KINDS: Final = {
    Kind.UNREACHABLE: "4.4.2",
    Kind.UNKNOWN_HOST: "4.4.4",
    Kind.PROTOCOL: "4.5.0",
    Kind.CERTIFICATE: "4.7.5",
    Kind.INSECURE: "4.7.4",
    Kind.LOGIN: "4.7.8",
    Kind.LOCAL: "4.3.0",
    Kind.UNCERTAIN: "4.4.2",
    Kind.REFUSED: "5.3.4",  # without a reply: larger than the host says that it takes
}
TOO_MANY: Final = ((452, "4.5.3"), (452, ""), (552, "5.5.3"), (552, ""))


def too_many(answer: Answer) -> bool:
    """Whether a refused recipient may be named again in a further transaction: there were too many (RFC 5321
    §4.5.3.1.10, where 552 means the same)."""
    return (answer.code, answer.status) in TOO_MANY


def of_answer(answer: Answer, stage: str) -> Result:
    """A host's own word about a letter or a recipient."""
    status = answer.status or f"{answer.code // 100}.{_detail(answer, stage)}"
    if answer.positive:
        state = Status.RELAYED
    elif answer.temporary or (stage == "rcpt" and too_many(answer)):
        state = Status.DEFERRED
        status = "4" + status[1:]
    else:
        state = Status.FAILED
    return Result(state, harmless_line(answer.said)[:LONGEST], status, stage, said=True)


def _detail(answer: Answer, stage: str) -> str:
    if answer.positive:
        return {"rcpt": "1.5", "mail": "1.0"}.get(stage, "0.0")
    return _STAGE_DETAILS.get((stage, answer.code)) or _DETAILS.get(answer.code, "0.0")


def of_failure(failure: Failure) -> Result:
    """What it means for a letter that a session ended. A host that refuses to talk to us may be wrong about us and
    is one of several: only greeting and EHLO with 5xx are final, and only when no other host is better."""
    answer = failure.answer
    if answer is not None and answer.permanent and failure.stage not in ("tls", "auth"):
        return of_answer(answer, failure.stage)
    if failure.kind is Kind.LOCAL:
        what = "the authorities that vouch for hosts" if failure.stage == "tls" else "the letter"
        return ours(Status.DEFERRED, "4.3.0", f"{what} cannot be read at the moment", failure.stage)
    if answer is not None and answer.temporary:
        return of_answer(answer, failure.stage)
    status = "4.4.1" if failure.stage == "connect" else _KINDS.get(failure.kind, "4.0.0")
    if failure.kind is Kind.REFUSED and failure.stage in ("tls", "auth"):
        status = "4.7.0"
    said = f"{failure}: {failure.reply}" if failure.reply else str(failure)
    return ours(Status.FAILED if status[0] == "5" else Status.DEFERRED, status, said, failure.stage)


def ours(state: Status, status: str, text: str, stage: str) -> Result:
    """What we say where no host said anything, in the form of a reply."""
    code = {"5.3.4": "552", "5.6.7": "553"}.get(status, "554" if status[0] == "5" else "451")
    return Result(state, harmless_line(f"{code} {status} {text}")[:LONGEST], status, stage)


def at(result: Result, host: str, address: str, *, dsn: bool = False) -> Result:
    """The same, with whom it came from."""
    return Result(
        result.state,
        result.reply,
        result.status,
        result.stage,
        host,
        address,
        dsn,
        result.said,
        result.dead,
    )
