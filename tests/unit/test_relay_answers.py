"""What replies and failures of next hosts mean to the queue: states, enhanced codes, nothing unbounded or harmful."""

from __future__ import annotations

import pytest

from posthouse.clients.failure import Failure, Kind, refusal
from posthouse.mta.answers import LONGEST, of_answer, of_failure, ours, too_many
from posthouse.ports.queue import Status
from posthouse.smtp.client import Answer, SmtpClientCore

D, F, R = Status.DEFERRED, Status.FAILED, Status.RELAYED


def answer(line: bytes) -> Answer:
    core = SmtpClientCore()
    core.feed(line + b"\r\n")
    event = core.next_event()
    assert event is not None
    return event.answer


@pytest.mark.parametrize(
    ("line", "stage", "state", "status"),
    [
        (b"250 ok", "end of data", R, "2.0.0"),
        (b"250 2.6.0 ok", "end of data", R, "2.6.0"),
        (b"550 no", "rcpt", F, "5.0.0"),
        (b"550 5.1.1 no", "rcpt", F, "5.1.1"),
        (b"550 4.1.1 the class does not fit", "rcpt", F, "5.0.0"),
        (b"450 greylisted", "rcpt", D, "4.2.0"),
        (b"452 full", "data", D, "4.3.1"),
        (b"452 too many", "rcpt", D, "4.5.3"),
        (b"552 full or too many", "rcpt", D, "4.2.2"),
        (b"552 5.5.3 too many", "rcpt", D, "4.5.3"),
        (b"552 5.2.2 full", "rcpt", F, "5.2.2"),
        (b"552 too big", "mail", F, "5.3.4"),
        (b"553 bad", "mail", F, "5.1.7"),
        (b"553 bad", "rcpt", F, "5.1.3"),
        (b"556 null MX", "mail", F, "5.1.10"),
        (b"599 unheard of", "data", F, "5.0.0"),
        (b"499 unheard of", "data", D, "4.0.0"),
    ],
)
def test_replies(line: bytes, stage: str, state: Status, status: str) -> None:
    """The state follows the code alone, and an enhanced code is always there (RFC 3463)."""
    result = of_answer(answer(line), stage)
    assert (result.state, result.status, result.stage, result.said) == (state, status, stage, True)


def test_too_many_is_not_a_full_mailbox() -> None:
    assert too_many(answer(b"452 x")) and too_many(answer(b"552 5.5.3 x"))
    assert not too_many(answer(b"452 4.2.2 x")) and not too_many(answer(b"552 5.2.2 x"))


@pytest.mark.parametrize(
    ("failure", "state", "status", "said"),
    [
        (Failure(Kind.UNREACHABLE, "connect", "nothing listens there"), D, "4.4.1", False),
        (Failure(Kind.UNREACHABLE, "rcpt", "closed"), D, "4.4.2", False),
        (Failure(Kind.PROTOCOL, "ehlo", "no SMTP"), D, "4.5.0", False),
        (Failure(Kind.CERTIFICATE, "tls", "refused"), D, "4.7.5", False),
        (Failure(Kind.INSECURE, "tls", "not offered"), D, "4.7.4", False),
        (Failure(Kind.LOCAL, "content", "/a/path"), D, "4.3.0", False),
        (Failure(Kind.REFUSED, "mail", "too large"), F, "5.3.4", False),
        (refusal(answer(b"554 no service here"), "greeting", "x"), F, "5.0.0", True),
        (refusal(answer(b"421 busy"), "rcpt", "x"), D, "4.3.2", True),
        (refusal(answer(b"554 no TLS"), "tls", "x"), D, "4.7.0", False),
        (Failure(Kind.LOGIN, "auth", "refused", "535 5.7.8 wrong"), D, "4.7.8", False),
    ],
)
def test_failures(failure: Failure, state: Status, status: str, said: bool) -> None:
    result = of_failure(failure)
    assert (result.state, result.status, result.said) == (state, status, said)
    assert result.reply[:4] in ("451 ", "552 ", "554 ", "421 ") and "/a/path" not in result.reply


def test_replies_are_harmless_and_bounded() -> None:
    """Catches a host that writes to the administrator's terminal, or fills the database."""
    long = SmtpClientCore()
    long.feed(b"550-\x1b[2J\x9b\r\n" + b"550-" + b"x" * 5000 + b"\r\n550 end\r\n")
    event = long.next_event()
    assert event is not None
    result = of_answer(event.answer, "rcpt")
    assert "\x1b" not in result.reply and "\n" not in result.reply and len(result.reply) <= LONGEST
    assert "\x1b" not in ours(D, "4.0.0", "\x1b[2J\r\n", "mail").reply
