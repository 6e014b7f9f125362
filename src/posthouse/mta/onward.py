"""The way out of the reception: letters for mailboxes elsewhere, and notices that were asked for at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.limits import RETURNED_HEADER
from posthouse.mail.reply import Reply
from posthouse.mta.bounce import Told
from posthouse.mta.delivery import Head, Targets, failure_reply
from posthouse.mta.dispatch import Courier, Destinations
from posthouse.ports.queue import Notice, Queued, QueueStore
from posthouse.ports.store import Delivered, Draft
from posthouse.ports.system import Clock
from posthouse.queue.manager import LEASE, QueueManager

DELIVERED: Final = "2.0.0"


class Onward:
    """Hands letters to the queue in the transaction that accepts them. One for a server."""

    __slots__ = ("_clock", "_courier", "_host", "_manager", "router")

    def __init__(
        self, router: Destinations, manager: QueueManager, courier: Courier, clock: Clock, *, host: str
    ) -> None:
        self.router = router
        self._manager = manager
        self._courier = courier
        self._clock = clock
        self._host = host

    async def accept(
        self,
        store: QueueStore,
        draft: Draft,
        targets: Targets,
        prefix: bytes,
        path: int,
        letter: str,
        envelope: Envelope,
    ) -> list[Delivered]:
        """Copies, queue rows and notices of one letter in one transaction; one result per recipient. The first `path`
        octets of the prefix are for mailboxes only. What can leave at once is leased in the same transaction, and has
        begun to leave when this returns. Raises Unavailable."""
        now = self._clock.now()
        notices: Sequence[Notice] = ()
        if targets.accounts or targets.expanded:
            notices = await self._notices(targets, draft, letter, envelope, now)
        destinations = targets.destinations
        at_once = {name for name in destinations if self._manager.reserve(name)}
        queued = [
            Queued(
                destination,
                str(recipient.address),
                prefix[path:],
                now,
                now,
                recipient.notify,
                recipient.orcpt,
                destination in at_once,
            )
            for recipient, destination in targets.onward
        ]
        try:
            taken = await store.accept(
                draft,
                targets.copies(prefix),
                queued,
                letter=letter,
                envelope=envelope,
                notices=notices,
                until=now + LEASE,
            )
        except BaseException:
            for name in at_once:
                self._manager.cancel(name)
            raise
        for parcel in taken.parcels:
            self._manager.begin(parcel)
        for destination in destinations:
            if destination not in at_once:
                self._manager.wake(destination, now)
        for notice in notices:
            for one in notice.queued:
                self._manager.wake(one.destination, one.due)
        return targets.each(taken.delivered)

    async def _notices(
        self, targets: Targets, draft: Draft, letter: str, envelope: Envelope, now: float
    ) -> Sequence[Notice]:
        """What a sender hears at once: of mailboxes here that could not take the letter, and of those that did when it
        asked for that (RFC 3461 §5.2.2)."""
        told: dict[str, list[Told]] = {"failed": [], "delivered": [], "expanded": []}
        for recipient in targets.expanded:
            if self._courier.wanted("expanded", envelope, recipient.notify):
                told["expanded"].append(self._told("expanded", recipient, None, now))
        for recipient, account in targets.here():
            failure = targets.refused.get(account.id)
            action = "delivered" if failure is None else "failed"
            if self._courier.wanted(action, envelope, recipient.notify):
                told[action].append(self._told(action, recipient, failure_reply(failure), now))
        if not any(told.values()):
            return []
        head = Head(draft.read_header(RETURNED_HEADER + 1), draft.size)
        notices = [await self._courier.notice(envelope, letter, now, some, head) for some in told.values() if some]
        return [notice for notice in notices if notice is not None]

    def _told(self, action: str, recipient: Recipient, reply: Reply | None, now: float) -> Told:
        status, text = (DELIVERED, "") if reply is None else (reply.status, f"{reply.code} {reply.status} {reply.text}")
        return Told(str(recipient.address), recipient.orcpt, action, status, text, False, self._host, "", now)
