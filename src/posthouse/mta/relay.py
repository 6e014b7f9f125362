"""Carrying letters on: one attempt to hand a letter to the hosts of its destination (RFC 5321 §5.1).

`Relay` keeps what outlives an attempt, the connections above all; `_Attempt` is one parcel on its way. What is told
to the queue is a result for each recipient, whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final

from posthouse.clients.failure import Failure, Kind
from posthouse.clients.smtp import Outcome
from posthouse.mail.limits import RelayLimits
from posthouse.mail.reply import Unavailable
from posthouse.mta.answers import at, of_answer, of_failure, ours, too_many
from posthouse.mta.fitting import Fitting
from posthouse.mta.links import STILL, Key, Link, Opener, Pool
from posthouse.mta.plan import Hop, NoRoute, Plan
from posthouse.net.dial import open_address
from posthouse.net.race import Connect, race
from posthouse.net.tls import Trust
from posthouse.observe.log import Log
from posthouse.ports.queue import Parcel, Result, Status
from posthouse.ports.system import Clock, Observer

REWRITING: Final = 2  # letters that are rewritten for old hosts at the same time
ELSEWHERE: Final = ("mail", "rcpt", "data", "rset")  # a session that ends there leaves the letter for another host
_STATES: Final = tuple((state, state.value) for state in Status)  # an enumeration computes both anew each time

Planner = Callable[[str], Awaitable[Plan]]
Way = Callable[[str], Hashable]
"""What decides how a destination is reached: when it is another one, no session serves any longer that was begun so."""


class Relay:
    """The deliverer: takes parcels, gives results. One for a server, made within its event loop."""

    def __init__(
        self,
        plan: Planner,
        log: Log,
        clock: Clock,
        *,
        name: str,
        limits: RelayLimits | None = None,
        connect: Connect = open_address,
        observer: Observer | None = None,
        trust: Trust | None = None,
        way: Way = hash,
    ) -> None:
        self.plan = plan
        self.way = way
        self.log = log
        self.limits = limits or RelayLimits()
        self.connect = connect
        self.opener = Opener(connect, self.limits, name=name, observer=observer, trust=trust)
        self.pool = Pool(self.limits)
        self.rewriting = asyncio.Semaphore(REWRITING)
        self._clock = clock

    async def deliver(self, parcel: Parcel) -> list[Result]:
        """Tries to hand over a letter: a result for each of `parcel.items`, in their order. Raises nothing but
        CancelledError; then the connection is dropped."""
        begun = self._clock.monotonic()
        attempt = _Attempt(self, parcel)
        try:
            await attempt.run()
        except NoRoute as none:
            attempt.rest(none.result)
        except Unavailable as error:
            self.log.warning("relay_unavailable", letter=parcel.id, reason=str(error))
            attempt.rest(ours(Status.DEFERRED, "4.3.0", "the letter cannot be read at the moment", "content"))
        except Exception:  # a defect defers the letter by its timetable: one that always meets it is given up some day
            self.log.exception("relay_failed", letter=parcel.id, destination=parcel.destination)
            attempt.rest(ours(Status.DEFERRED, "4.3.0", "the attempt failed through a fault of this server", ""))
        finally:
            attempt.close()
        results = attempt.settled()
        self._tell(parcel, attempt, results, self._clock.monotonic() - begun)
        return results

    async def close(self) -> None:
        """Says goodbye to the hosts whose connections wait. Attempts under way are ended by whoever began them."""
        await self.pool.close()

    def _tell(self, parcel: Parcel, attempt: _Attempt, results: Sequence[Result], seconds: float) -> None:
        states = [result.state for result in results]
        worst = next((result for result in results if result.state is not Status.RELAYED), results[0])
        fields: dict[str, object] = {
            "letter": parcel.id,
            "destination": parcel.destination,
            "host": worst.host,
            "address": worst.address,
            "tls": attempt.tls,
            "reused": attempt.reused,
            "recipients": len(results),
        }
        fields |= {name: count for state, name in _STATES if (count := states.count(state))}
        fields |= {"stage": worst.stage, "reply": worst.reply, "seconds": round(seconds, 3)}
        if Status.UNCERTAIN in states:
            self.log.warning("relay", **fields)  # it may arrive twice: somebody will ask
        else:
            self.log.info("relay", **fields)


class _Attempt:
    """One parcel on its way."""

    def __init__(self, relay: Relay, parcel: Parcel) -> None:
        self._relay = relay
        self._parcel = parcel
        self._results: list[Result | None] = [None] * len(parcel.items)
        self._fitting = Fitting(parcel, send_eight_bit=relay.limits.send_eight_bit, turn=relay.rewriting)
        self._refusals: list[Result] = []  # why hosts were of no use
        self._sessions = 0  # that failed
        self._begun: Key = ("", None)
        self._met = False  # a host was ready to hear of the letter
        limits = relay.limits
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + limits.attempt + parcel.letter.size / limits.data_rate
        self.reused = False
        self.tls = ""

    async def run(self) -> None:
        """Tries the connection that waits, then the hosts of the plan."""
        if (link := self._relay.pool.take(self._key())) is not None:
            self.reused = True
            await self._use(link)
            if not self._open():
                return
            self.reused = self._met = False
        self._key()
        plan = await self._relay.plan(self._parcel.destination)
        for hop in plan.hops[: self._relay.limits.hosts]:
            await self._try_host(hop, plan)
            if not self._open() or self._sessions >= self._relay.limits.sessions or self._seconds() <= 0:
                break
        self.rest(self._why())

    def _key(self) -> Key:
        """Under which sessions are kept that are begun now."""
        destination = self._parcel.destination
        self._begun = (destination, self._relay.way(destination))
        return self._begun

    def close(self) -> None:
        """Lets go of what the attempt took."""
        self._fitting.close()

    def rest(self, result: Result) -> None:
        """What becomes of the recipients that nothing has become of."""
        for place in self._open():
            self._results[place] = replace(result)

    def settled(self) -> list[Result]:
        """A result for each recipient."""
        return [result for result in self._results if result is not None]

    def _open(self) -> list[int]:
        return [place for place, result in enumerate(self._results) if result is None]

    def _why(self) -> Result:
        """What all the hosts together mean: final only when each of them was (RFC 5321 §5.1)."""
        deferred = [one for one in self._refusals if one.state is Status.DEFERRED]
        if deferred:
            result = next((one for one in reversed(deferred) if one.said), deferred[-1])
            result.dead = not self._met
            return result
        if self._refusals:
            return self._refusals[-1]
        return ours(Status.DEFERRED, "4.4.4", "the destination has no host that could be tried", "connect")

    # Hosts

    async def _try_host(self, hop: Hop, plan: Plan) -> None:
        limits = self._relay.limits
        addresses = list(hop.addresses[: limits.addresses])
        while addresses and self._open() and self._sessions < limits.sessions and self._seconds() > 0:
            raced = await race(addresses, hop.port, self._relay.connect, limits.connect)
            for address, error in raced.failures:
                addresses.remove(address)
                self._give_up(Failure(Kind.UNREACHABLE, "connect", str(error)), hop.host, address)
            if raced.wire is None:
                return
            addresses.remove(raced.address)
            try:
                link = await self._relay.opener.open(raced.wire, hop, raced.address, plan, self._seconds())
            except Failure as failure:
                self._sessions += 1
                self._give_up(failure, hop.host, raced.address)
                continue
            await self._use(link)

    def _seconds(self) -> float:
        """What is left for the attempt."""
        return self._until - self._loop.time()

    def _give_up(self, failure: Failure, host: str, address: str) -> None:
        result = at(of_failure(failure), host, address)
        self._refusals.append(result)
        self._relay.log.debug(
            "relay_host", letter=self._parcel.id, host=host, address=address, stage=result.stage, reply=result.reply
        )

    # Transactions

    async def _use(self, link: Link) -> None:
        """Hands over what is left, in one transaction for each hundred recipients; keeps the session if it is still
        good."""
        client, kept = link.client, False
        self.tls = str(client.wire.encryption or "")
        try:
            if self.reused:
                client.limit(self._seconds())
            left = len(self._results) + 1
            # Each transaction settles somebody, or it was the last one.
            good = True
            while good and (places := self._open()) and len(places) < left:
                left = len(places)
                good = await self._transact(link, places[: self._relay.limits.recipients])
            kept = good and not self._open() and link.alive
        finally:
            if not kept:
                client.close()
        if kept:
            self._relay.pool.put(self._begun, link)

    async def _transact(self, link: Link, places: Sequence[int]) -> bool:
        """One transaction for these recipients. True while the session is good for another."""
        client = link.client
        fitted = await self._fitting.fit(client.extensions, places)
        if fitted.everybody is not None:
            self._settle(self._open(), fitted.everybody, link)
            return True
        for place, refused in fitted.refused.items():
            self._settle([place], refused, link)
        if fitted.letter is None:
            return True
        if not await self._ready(link):
            return False
        client.note(f"letter {self._parcel.id}")
        link.dirty = True
        outcome = await client.send(fitted.letter)
        link.letters += 1
        link.dirty = outcome.stage != "end of data"
        self._take(outcome, fitted.places, link)
        return self._go_on(outcome, link)

    async def _ready(self, link: Link) -> bool:
        """Whether the session can take a letter. One that has waited, or has a transaction open, is asked first: what
        is lost then is lost before anything was sent."""
        client = link.client
        waited = self.reused and self._relay.pool.since(link) > STILL
        if not link.dirty and not waited:
            self._met = True
            return True
        try:
            if not (answer := await client.reset()).positive:
                raise Failure(Kind.PROTOCOL, "rset", "the host does not forget a transaction", answer.said)
        except Failure as failure:
            if not self.reused:
                self._give_up(failure, link.host, link.address)
            return False
        link.dirty = False
        self._met = True
        return True

    def _take(self, outcome: Outcome, places: Sequence[int], link: Link) -> None:
        dsn = "DSN" in link.client.extensions
        for place, result in zip(places, outcome.results, strict=True):
            answer = result.answer
            if result.status == "uncertain":
                text = "the connection was lost after the letter was sent: it may have arrived"
                lost = ours(Status.UNCERTAIN, "4.4.2", text, "end of data")
                self._results[place] = at(lost, link.host, link.address)
            elif result.status == "not sent" or answer is None:
                continue
            elif not (result.stage == "rcpt" and too_many(answer) and _sent(outcome)):
                self._results[place] = at(
                    of_answer(answer, result.stage), link.host, link.address, dsn=dsn and result.status == "sent"
                )

    def _go_on(self, outcome: Outcome, link: Link) -> bool:
        """What the end of a session means for those whose turn did not come."""
        failure = outcome.failure
        if failure is None:
            return outcome.answer is None or outcome.answer.code != 421
        if self.reused and failure.stage == "mail" and failure.kind is not Kind.REFUSED:
            return False  # the host had enough of us: a new connection tells more
        if failure.stage in ELSEWHERE and not (failure.kind is Kind.REFUSED and failure.answer is None):
            self._sessions += 1
            self._give_up(failure, link.host, link.address)
        else:
            self._settle(self._open(), of_failure(failure), link)
        return False

    def _settle(self, places: Sequence[int], result: Result, link: Link) -> None:
        for place in places:
            self._results[place] = at(result, link.host, link.address)


def _sent(outcome: Outcome) -> bool:
    return any(result.status == "sent" for result in outcome.results)
