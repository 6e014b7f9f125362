"""A letter that waits in the outbox, as values, and how they are written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from posthouse.mail.schedule import USUAL, Schedule

ATTEMPTS: Final = 100  # attempts of one letter that are remembered; the timetable has some 40
FORMAT: Final = 1  # of the file


class State(StrEnum):
    """How it stands with a letter."""

    QUEUED = "queued"  # not tried yet
    SENDING = "sending"  # an attempt is under way
    DEFERRED = "deferred"  # tried, and tried again at its time
    UNCERTAIN = "uncertain"  # it may have been taken (RFC 1047): sent again only on request
    FAILED = "failed"  # refused for good, or given up
    HELD = "held"  # waits for somebody's word
    SENT = "sent"


class Damaged(Exception):
    """A letter of the outbox cannot be read."""


@dataclass(slots=True)
class Recipient:
    """One recipient: `status` is waiting, deferred, uncertain, failed or sent; `reply` what was last said about it."""

    address: str
    status: str = "waiting"
    reply: str = ""

    @property
    def open(self) -> bool:
        """Whether attempts are made for it."""
        return self.status in ("waiting", "deferred")


@dataclass(slots=True)
class Route:
    """How the server is reached. The password is nowhere in it: the account's source gives it, or a person."""

    url: str = ""
    user: str = ""
    account: str = ""
    config: str = ""  # the profile file, when it is not the usual one
    tls: bool = False
    cacert: str = ""
    pin: str = ""
    blind: bool = False
    insecure_auth: bool = False


@dataclass(slots=True)
class Attempt:
    """One attempt: when it began, how long it took, where it ended and with what words. `transcript` names a file."""

    at: float
    seconds: float = 0.0
    stage: str = ""
    text: str = ""
    reply: str = ""
    transcript: str = ""
    sent: int = 0  # recipients that were taken


@dataclass(slots=True)
class Waiting:
    """A letter of the outbox. Times are wall time. `due` None: no attempt is made by itself. `phase` is "begun" or
    "ended" (the final dot was about to leave) while an attempt is under way."""

    id: str
    sender: str | None
    recipients: list[Recipient]
    message_id: str
    subject: str
    size: int
    route: Route
    accepted: float
    due: float | None
    held: bool = False
    phase: str = ""
    eight_bit: bool = False
    utf8: bool = False
    notify: tuple[str, ...] = ()
    ret: str = ""
    envid: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    why: str = ""  # why it is held or waits, for people
    finished: float | None = None  # when the last recipient was settled
    file: str = "letter.eml"  # the name of the message

    @property
    def state(self) -> State:
        """Of the whole letter. What needs a person's eye comes before what goes on by itself."""
        status = {recipient.status for recipient in self.recipients}
        if self.phase:
            return State.SENDING
        if self.held:
            return State.HELD
        for name in ("uncertain", "deferred", "waiting", "failed"):
            if name in status:
                return State.QUEUED if name == "waiting" else State(name)
        return State.SENT

    @property
    def open(self) -> list[Recipient]:
        """The recipients that attempts are made for."""
        return [recipient for recipient in self.recipients if recipient.open]

    def count(self, status: str) -> int:
        """How many recipients stand so."""
        return sum(recipient.status == status for recipient in self.recipients)

    def is_due(self, now: float) -> bool:
        """Whether an attempt is to be made by itself."""
        return not self.held and not self.phase and self.due is not None and self.due <= now

    # What happens to it

    def begin(self, now: float, transcript: str) -> Attempt:
        """An attempt begins."""
        attempt = Attempt(now, transcript=transcript)
        self.attempts = [*self.attempts[-ATTEMPTS + 1 :], attempt]
        self.phase = "begun"
        return attempt

    def finish(self, now: float, schedule: Schedule = USUAL, jitter: float = 0.0) -> None:
        """The attempt is over, and the recipients say what came of it: it is settled when the next one is, and what
        was tried long enough is given up (RFC 5321 §4.5.4.1)."""
        self.phase = ""
        self.due = schedule.next(self.accepted, now, jitter) if self.open else None
        if self.due is None:
            for recipient in self.open:
                recipient.status = "failed"
        self.settle(now)

    def settle(self, now: float) -> None:
        """Notes when nothing more is to be done."""
        if self.open:
            self.finished = None
        elif self.finished is None:
            self.finished = now

    def recover(self, now: float) -> bool:
        """Puts right what a program left that died in the middle of an attempt. What stands for the recipients is true:
        before the final dot they are written down as uncertain. Returns whether there was something."""
        if not self.phase:
            return False
        if self.attempts and not self.attempts[-1].text:
            self.attempts[-1].text = "the program ended in the middle of the attempt"
        self.phase = ""
        self.due = now if self.open else None
        self.settle(now)
        return True

    def renew(self, now: float, statuses: Sequence[str]) -> int:
        """Recipients that stand so are tried again, and the timetable begins anew. Returns how many there are."""
        chosen = [recipient for recipient in self.recipients if recipient.status in statuses]
        for recipient in chosen:
            recipient.status = "waiting"
        if chosen:
            self.accepted = now
        if self.open:
            self.due, self.held, self.why, self.finished = now, False, "", None
        return len(chosen)


def write(waiting: Waiting) -> bytes:
    """The values as they stand in the file."""
    return json.dumps({"format": FORMAT} | asdict(waiting), ensure_ascii=False, indent=1).encode(
        "utf-8", "surrogateescape"
    )


def read(octets: bytes) -> Waiting:
    """The values that a file holds. Raises Damaged."""
    try:
        value: dict[str, Any] = json.loads(octets.decode("utf-8", "surrogateescape"))
        if value.pop("format") != FORMAT:
            raise Damaged("it was written by another version of Posthouse")
        value["recipients"] = [Recipient(**row) for row in value["recipients"]]
        value["attempts"] = [Attempt(**row) for row in value["attempts"]]
        value["route"] = Route(**value["route"])
        value["notify"] = tuple(value["notify"])
        return Waiting(**value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its state cannot be read: {error}") from error
