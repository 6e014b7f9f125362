"""Runs a scenario: builds the hosts, lets people send, lets time pass, and returns what happened."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from posthouse.clients.failure import Failure
from posthouse.clients.smtp import Letter, SmtpClient
from posthouse.lab.box import PASSWORD, Box, Furnishing, House
from posthouse.lab.crowd import crowd
from posthouse.lab.network import How
from posthouse.lab.personalities import Manner, MannerlyReception
from posthouse.lab.record import Records, Witness
from posthouse.lab.scenario import HostPlan, Scenario
from posthouse.lab.schema import LetterSpec
from posthouse.lab.zone import NameOutage
from posthouse.mail.address import Address
from posthouse.mail.compose import Letter as Draft
from posthouse.mail.compose import Part, compose
from posthouse.mail.envelope import Recipient
from posthouse.mail.mailboxes import Mailbox
from posthouse.mail.trace import date_time
from posthouse.observe.log import QuietLog
from posthouse.policy.access import RELAY
from posthouse.ports.store import Alias, Network

SUBMISSION: Final = 587
SMTP: Final = 25
LINE: Final = 70  # characters of a line of filling
MOST_PROBLEMS: Final = 100


@dataclass(slots=True)
class Posted:
    """A letter that somebody in the scenario sent. `reply` is what the host said to it, `refused` what it said to
    recipients that it did not take; `failure` why it could not be given to the host at all."""

    number: int
    spec: LetterSpec
    at: float
    via: str
    message_id: str
    reply: str = ""
    refused: list[tuple[str, str]] = field(default_factory=list)
    failure: str = ""

    @property
    def recipients(self) -> list[str]:
        """Everybody to whom it goes."""
        return [*self.spec.to, *self.spec.cc, *self.spec.bcc]


@dataclass(slots=True)
class Run:
    """What happened. `ended` is the time of the box at the end, `took` the seconds that passed outside; `waiting` the
    recipients whose letters still wait then; `problems` what hosts logged as errors."""

    scenario: Scenario
    records: Records
    posted: list[Posted]
    ended: float = 0.0
    took: float = 0.0
    hosts_built: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """How many recipients still wait."""
        return self.records.open


class _ErrorLog(QuietLog):
    """Keeps errors: there should be none."""

    __slots__ = ("_host", "_problems", "muted")

    def __init__(self, host: str, problems: list[str]) -> None:
        self._host = host
        self._problems = problems
        self.muted = False  # the machine is off

    def error(self, event: str, /, **fields: object) -> None:
        if not self.muted and len(self._problems) < MOST_PROBLEMS:
            told = " ".join(f"{name}={value}" for name, value in fields.items())
            self._problems.append(f"{self._host}: {event} {told}")

    def exception(self, event: str, /, **fields: object) -> None:
        import traceback

        self.error(event, **fields, traceback=traceback.format_exc())

    def bind(self, **fields: object) -> _ErrorLog:
        return self


class Internet:
    """A scenario that is run once."""

    def __init__(self, scenario: Scenario, *, transcripts: bool = True) -> None:
        self.box = Box(seed=scenario.spec.seed, start=scenario.start)
        self._run = Run(scenario, Records(), [])
        self._transcripts = transcripts and scenario.crowd is None
        self._letters: Sequence[LetterSpec] = scenario.letters
        plans = dict(scenario.hosts)
        outages = [outage for spec in scenario.outages for outage in scenario.outages_of(spec)]
        if scenario.crowd is not None:
            among = crowd(scenario.crowd, scenario.spec.seed, taken=set(plans))
            plans |= among.hosts
            outages += among.outages
            self._letters = [*self._letters, *among.letters]
        self._plans = plans
        self.box.zone.read(scenario.spec.zone)
        for plan in plans.values():
            self._furnish(plan)
        self.box.network.spoil(outages)
        self._cuts = [outage for outage in outages if outage.how is How.OFF]
        self.box.zone.fail(NameOutage(one.name, one.begin, one.end, one.how == "silent") for one in scenario.names)

    def run(self) -> Run:
        """Runs it to its end. Raises Stuck when everybody waits for ever."""
        begun = time.perf_counter()
        self.box.loop.set_exception_handler(self._unhandled)
        try:
            self.box.run(self._main())
        finally:
            self._run.took = time.perf_counter() - begun
        return self._run

    # The hosts

    def _furnish(self, plan: HostPlan) -> House:
        spec, scenario = plan.spec, self._run.scenario
        manner = Manner([one for one in scenario.refusals if one.host == spec.name], spec.greylist)
        house = self.box.host(
            spec.name,
            spec.address,
            domains=spec.domains,
            users=plan.users,
            config=plan.config,
            latency=spec.latency,
            bandwidth=float(spec.bandwidth),
        )
        witness = Witness(house.machine, self._run.records, transcripts=self._transcripts)
        house.furnishing = Furnishing(
            _ErrorLog(spec.name, self._run.problems),
            witness if self._transcripts else None,
            partial(MannerlyReception, manner=manner),
            witness.store,
            witness.carry,
        )
        house.prepare = partial(self._prepare, house, plan)
        return house

    async def _prepare(self, house: House, plan: HostPlan) -> None:
        """What an administrator would type on the new host."""
        self._run.hosts_built += 1
        store, now = house.store, self.box.clock.now()
        for network in plan.spec.relays_for:
            await store.put_network(Network(network, ("smtp", "local", RELAY), None, "", now))
        for route in plan.routes:
            await store.put_route(replace(route, created=now))
        for alias in plan.aliases:
            targets = tuple(Address.parse(target).key for target in alias.to)
            await store.put_alias(Alias(alias.address, targets, created=now))

    def _plan_cuts(self) -> Iterator[asyncio.TimerHandle]:
        for cut in self._cuts:
            house = self.box.houses[cut.host]
            yield self.box.loop.call_at(cut.begin, self._switch_off, house)
            yield self.box.loop.call_at(cut.end, self.box.switch_on, house)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something raised where nobody listens: a defect, unless it was on a machine that was switched off."""
        task = context.get("task") or context.get("future")
        if task not in self.box.network.killed and len(self._run.problems) < MOST_PROBLEMS:
            self._run.problems.append(f"{context.get('message')} {context.get('exception')!r}")

    def _switch_off(self, house: House) -> None:
        log = house.furnishing.log
        assert isinstance(log, _ErrorLog), "made by _furnish"
        log.muted = True
        house.furnishing.log = _ErrorLog(house.machine.name, self._run.problems)
        self.box.switch_off(house)

    # The letters

    async def _main(self) -> None:
        records, end = self._run.records, self._run.scenario.spec.end
        timers = list(self._plan_cuts())
        try:
            async with asyncio.timeout(end):
                await self._post_all()
                while records.open:
                    records.changed.clear()
                    await records.changed.wait()
        except TimeoutError:
            pass  # what still waits is told
        for timer in timers:
            timer.cancel()
        self._run.ended = self.box.loop.time()

    async def _post_all(self) -> None:
        """Sends every letter at its time."""
        async with asyncio.TaskGroup() as group:
            for at, _, spec in sorted(_times(self._letters), key=lambda one: one[:2]):
                await asyncio.sleep(max(0.0, at - self.box.loop.time()))
                via = self._via(spec)
                number = len(self._run.posted) + 1
                posted = Posted(number, spec, at, via, f"<{number}.{self._run.scenario.spec.seed}@{via}>")
                self._run.posted.append(posted)
                house = self.box.houses[via]
                context = house.machine.context.copy()
                group.create_task(self._post(posted, house), context=context)

    def _via(self, spec: LetterSpec) -> str:
        return spec.via or self._run.scenario.via(spec)

    async def _post(self, posted: Posted, house: House) -> None:
        """Gives a letter to the host, from a program that runs there; its user logs in."""
        spec = posted.spec
        user = spec.sender in house.users
        posted.failure = "it was broken off when the power was cut"  # unless something else is told
        try:
            client = await SmtpClient.connect("127.0.0.1", SUBMISSION if user else SMTP)
            try:
                await client.greet()
                await client.hello("localhost")
                if user:
                    await client.login(spec.sender, PASSWORD)
                outcome = await client.send(self._letter(posted))
                posted.failure = "" if outcome.failure is None else str(outcome.failure)
                for result in outcome.results:
                    said = "" if result.answer is None else result.answer.said
                    if result.status == "sent":
                        posted.reply = said
                    elif said:
                        posted.refused.append((str(result.address), said))
                if outcome.answer is not None and not posted.reply:
                    posted.failure = posted.failure or outcome.answer.said
            finally:
                await client.quit()
        except Failure as failure:
            posted.failure = f"{failure} {failure.reply}".strip()

    def _letter(self, posted: Posted) -> Letter:
        spec = posted.spec
        notify = tuple(word.upper() for word in spec.notify)
        recipients = [Recipient(Address.parse(address), notify) for address in posted.recipients]
        content = _content(posted, self.box.clock.now())
        return Letter(
            Address.parse(spec.sender),
            recipients,
            len(content),
            lambda: [content],
            utf8=not content.isascii(),
            octets=content,
        )


def _content(posted: Posted, now: float) -> bytes:
    """The letter as its sender's program writes it. Bcc stands in it, as some programs leave it: the host where it is
    submitted takes it out (RFC 5322 §3.6.3)."""
    spec = posted.spec
    text = spec.text if spec.text.endswith("\n") else f"{spec.text}\n"
    octets = text.replace("\n", "\r\n").encode()
    missing = spec.size - len(octets)
    if missing > 0:
        octets += (b"-" * LINE + b"\r\n") * (missing // (LINE + 2) + 1)
    draft = Draft(
        Mailbox("", Address.parse(spec.sender)),
        [Mailbox("", Address.parse(one)) for one in spec.to],
        spec.subject,
        now,
        posted.message_id,
        Part(len(octets), lambda: io.BytesIO(octets)),
        [Mailbox("", Address.parse(one)) for one in spec.cc],
        [("Date", date_time(now))],  # in UTC, wherever the box stands
    )
    content = b"".join(compose(draft, "box").content())
    return b"".join(f"Bcc: {one}\r\n".encode() for one in spec.bcc) + content


def _times(letters: Sequence[LetterSpec]) -> Iterator[tuple[float, int, LetterSpec]]:
    for number, spec in enumerate(letters):
        for turn in range(spec.count):
            yield spec.at + turn * spec.every, number, spec
