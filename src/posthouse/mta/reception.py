"""Reception: whether a letter is taken, for whom, and what is written on it (RFC 5321 §3.3, §6).

A session asks step by step: `begin` at MAIL, `recipient` at RCPT, `open` when content is to come, `accept` at its
end. Each step raises Rejected or Unavailable with what to answer. What `accept` reports as delivered is on the disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from posthouse.mail.address import Address
from posthouse.mail.budget import FREE, Budget
from posthouse.mail.envelope import Envelope, Recipient
from posthouse.mail.limits import HOPS, SmtpLimits
from posthouse.mail.reply import Rejected, Reply, Smtp
from posthouse.mail.trace import Hop, protocol_keyword, received, return_path
from posthouse.mta.delivery import Targets, deliver, failure_reply, overfull, prefix_of
from posthouse.mta.onward import Onward
from posthouse.mta.submission import HeaderGate, Wishes
from posthouse.observe.log import Log
from posthouse.policy.access import ANYBODY, LOCAL, LOGIN_RELAY, RELAY, Rights
from posthouse.policy.guard import Guard
from posthouse.policy.senders import is_own, owns
from posthouse.policy.sending import Addressed, Excess
from posthouse.ports.directory import Directory
from posthouse.ports.dns import Reverse
from posthouse.ports.store import Account, Delivered, Draft, Store
from posthouse.ports.system import Clock, Random
from posthouse.smtp.commands import Mail, Rcpt

RECIPIENT: Final = 1024
"""Octets of memory that one recipient is counted as: a plain one takes 730, one with a long name and ORCPT 1,700."""

FREE_RECIPIENTS: Final = FREE // RECIPIENT
"""Recipients of a letter that are not counted."""

MEMORY: Final = 134_217_728
"""Octets that letters on their way in may hold in memory without another word: half of `server.memory`."""

HEADER_SEEN: Final = 1_048_576
"""Octets of a header that are searched for Received fields; the newest stand first, and 50 of them take 25,000."""


EXPANSION: Final = 10_000
"""Mailboxes and addresses elsewhere that one letter goes to at most, once its aliases were expanded."""

Member = tuple[Address, Account | str]
"""One of those an alias stands for: an account here, or an address with its destination."""


@dataclass(slots=True)
class Client:
    """Who is sending, as far as it is known. `address` is an IP address, "" for a local socket."""

    address: str
    mode: str
    helo: str = ""
    extended: bool = False
    encrypted: bool = False
    tls: str = ""  # version and cipher
    account: Account | None = None
    reverse: Reverse | None = None
    rights: Rights = ANYBODY

    def may(self, word: str) -> bool:
        """Whether the network it is in gives it a right."""
        return self.rights.may(word)


@dataclass(slots=True)
class Transaction:
    """One letter on its way in. `begun` is the monotonic time when its content began to come."""

    client: Client
    envelope: Envelope
    begun: float = 0.0
    targets: Targets = field(default_factory=Targets)
    draft: Draft | None = None
    gate: HeaderGate | None = None
    addressed: Addressed | None = None  # of a login's letter
    budget: Budget | None = None  # in which `held` octets are counted
    held: int = 0

    @property
    def sink(self) -> Draft | HeaderGate | None:
        """Where octets of the letter are written."""
        return self.gate or self.draft

    async def discard(self) -> None:
        """Forgets what was received. Harmless when the letter was delivered; every letter ends here."""
        if self.held and self.budget is not None:
            self.held = self.budget.change(self.held, 0)
        if self.gate is not None:
            self.gate.discard()
        if self.draft is not None:
            await self.draft.discard()
            self.draft = None


@dataclass(slots=True)
class Accepted:
    """A letter that is on the disk. `failures` has one place for each recipient, None where its copy is there."""

    id: str
    seconds: float
    failures: list[Reply | None]


class Reception:
    """Decides about letters that come in. One for all sessions of a server."""

    __slots__ = (
        "_budget",
        "_chances",
        "_clock",
        "_directory",
        "_guard",
        "_host",
        "_limits",
        "_log",
        "_onward",
        "_random",
        "_sender",
        "_store",
    )

    def __init__(
        self,
        store: Store,
        directory: Directory,
        clock: Clock,
        random: Random,
        log: Log,
        *,
        host: str,
        limits: SmtpLimits,
        sender: str = "refuse",
        guard: Guard | None = None,
        onward: Onward | None = None,
        budget: Budget | None = None,
    ) -> None:
        """`sender` is the setting `submission.sender`; without `onward` nothing is carried on to other servers; in
        `budget` is counted what all letters on their way in hold in memory."""
        self._store = store
        self._directory = directory
        self._clock = clock
        self._random = random
        self._log = log
        self._host = host
        self._limits = limits
        self._sender = sender
        self._guard = guard
        self._onward = onward
        self._budget = Budget(MEMORY) if budget is None else budget
        self._chances: list[int] = []

    def begin(self, mail: Mail, client: Client) -> Transaction:
        """MAIL: a new letter. Raises Rejected when it is announced as too big (RFC 1870 §6.1), or
        when the account has sent as many as it may."""
        if mail.size is not None and mail.size > self._limits.message:
            raise Rejected(Smtp.TOO_BIG.fill(limit=self._limits.message))
        self._check_sending(client)
        envelope = Envelope(
            mail.sender,
            size=mail.size,
            body=mail.body,
            smtputf8=mail.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
            auth=mail.auth,
        )
        addressed = None if client.account is None else Addressed()
        return Transaction(client, envelope, addressed=addressed, budget=self._budget)

    def is_foreign(self, mail: Mail, client: Client) -> bool:
        """Whether a sender who logged in names somebody else, so that `check_sender` must be asked. The null sender is
        everybody's (RFC 5321 §4.5.5)."""
        account, sender = client.account, mail.sender
        if account is None or sender is None or self._sender == "off":
            return False
        return not is_own(account, sender)

    async def check_sender(self, mail: Mail, client: Client) -> None:
        """MAIL of a foreign sender: it must have been granted to the login. Raises Rejected (RFC 6409 §6.1)."""
        assert client.account is not None and mail.sender is not None
        if not owns(await self._current(client.account), mail.sender):
            raise Rejected(Smtp.SENDER_NOT_YOURS)

    async def _current(self, account: Account) -> Account:
        """The account with the grants it has now. One that was removed meanwhile has none."""
        found = await self._directory.find(Address.parse(account.address))
        return replace(account, senders=()) if found is None or found.id != account.id else found

    async def recipient(self, transaction: Transaction, rcpt: Rcpt) -> None:
        """RCPT: one more recipient, which must have a mailbox here with room in it, or be somebody to whom this
        client's letters are carried on. Raises Rejected."""
        targets = transaction.targets
        if len(targets.recipients) >= self._limits.recipients:
            raise Rejected(Smtp.TOO_MANY_RCPTS.fill(limit=self._limits.recipients))
        if len(targets.recipients) >= FREE_RECIPIENTS:
            self._count(transaction)
        target = await self._target(transaction.client, rcpt.address)
        if isinstance(target, Account):
            reply = failure_reply(overfull(target, transaction.envelope.size or 0))
            if reply is not None:
                raise Rejected(reply)
        if transaction.addressed is not None:
            self._check_addressing(transaction.client, rcpt.address.key, transaction.addressed)
        recipient = Recipient(rcpt.address, rcpt.notify, rcpt.orcpt)
        if isinstance(target, Account):
            targets.add(recipient, target)
        elif isinstance(target, list):
            if len(targets.onward) + len(targets.accounts) + len(target) > EXPANSION:
                raise Rejected(Smtp.TOO_MANY_RCPTS.fill(limit=EXPANSION))
            self._count(transaction, len(target))
            targets.add_alias(recipient, target)
        else:
            targets.add_onward(recipient, target)
        transaction.envelope.recipients.append(recipient)

    def _count(self, transaction: Transaction, people: int = 1) -> None:
        """Counts further recipients in memory. Raises Rejected for now, when all letters together hold too much."""
        if self._budget.short:
            raise Rejected(Smtp.BUSY)
        transaction.held = self._budget.change(transaction.held, transaction.held + people * RECIPIENT)

    def _check_sending(self, client: Client) -> None:
        """Whoever logged in may send only so many letters. Raises Rejected."""
        if client.account is not None and self._guard is not None:
            self._refuse_excess(client, self._guard.may_send(client.account.address))

    def _check_addressing(self, client: Client, name: str, addressed: Addressed) -> None:
        """And to so many people, and to so many whom it never wrote to. Raises Rejected."""
        if client.account is not None and self._guard is not None:
            self._refuse_excess(client, self._guard.may_send_to(client.account.address, name, addressed))

    def _count_sent(self, transaction: Transaction) -> None:
        """Counts the letter at once, so that many sessions at a time do not all pass. Raises Rejected."""
        client = transaction.client
        if client.account is not None and self._guard is not None:
            self._refuse_excess(client, self._guard.send(client.account.address, _names(transaction)))

    def _uncount_sent(self, transaction: Transaction) -> None:
        client = transaction.client
        if client.account is not None and self._guard is not None:
            self._guard.unsend(client.account.address, len(transaction.envelope.recipients))

    def _refuse_excess(self, client: Client, excess: Excess | None) -> None:
        if excess is None:
            return
        assert client.account is not None, "only accounts are counted"
        self._log.warning(
            "sending_refused",
            login=client.account.address,
            peer=client.address,
            limit=f"{excess.count} {excess.what} a {excess.period}",
        )
        minutes = int(excess.seconds // 60) + 1
        raise Rejected(_EXCESS[excess.what].fill(count=excess.count, period=excess.period, minutes=minutes))

    async def _target(self, client: Client, address: Address) -> Account | str | list[Member]:
        """Where a recipient is: an account here, the name of a destination, or for an alias those it stands for. Raises
        Rejected."""
        ours = not address.domain or await self._directory.is_local(address.domain)
        welcome = client.account is not None or client.may(LOCAL)
        # Letters for elsewhere look for no account: every look-up in vain costs as much as parsing ten commands.
        account = await self._directory.find(address) if ours and welcome else None
        if account is not None:
            return account
        if ours and welcome and (members := await self._members(client, address)):
            return members
        if ours:  # who must log in first does not learn who is here
            raise Rejected(Smtp.NO_SUCH_USER if welcome else Smtp.AUTH_REQUIRED)
        return self._elsewhere(client, address, welcome=welcome)

    async def _members(self, client: Client, alias: Address) -> list[Member]:
        """Whom an alias stands for, through further aliases: each once, however they lead in circles."""
        found: dict[str, Member] = {}
        seen = {alias.key}
        waiting = list(await self._directory.alias(alias))
        while waiting and len(found) < EXPANSION:
            following: list[Address] = []
            for address in waiting:
                if address.key in seen:
                    continue
                seen.add(address.key)
                account = await self._directory.find(address)
                if account is not None:
                    found[address.key] = address, account
                elif await self._directory.is_local(address.domain):
                    following += await self._directory.alias(address)
                elif self._onward is not None:
                    found[address.key] = address, self._onward.router.destination(address)
            waiting = following
        if not found and len(seen) > 1:
            self._log.warning("alias_leads_nowhere", alias=alias.key, peer=client.address)
        return list(found.values())

    def _elsewhere(self, client: Client, address: Address, *, welcome: bool) -> str:
        """Where a letter goes on to whose recipient has no mailbox here. Raises Rejected for those whose letters are
        not carried on."""
        if self._onward is not None:
            router = self._onward.router
            ours = router.is_ours(address)
            if ours and not welcome:
                raise Rejected(Smtp.AUTH_REQUIRED)
            if ours and router.is_refused(address):
                raise Rejected(Smtp.NO_SUCH_USER)
            if ours or may_relay(client):
                return router.destination(address)
        raise Rejected(Smtp.NO_RELAY)

    def open(self, transaction: Transaction) -> Draft:
        """Content is to come: where it goes. Raises Unavailable when there is no room."""
        if transaction.draft is None:
            transaction.begun = self._clock.monotonic()
            transaction.draft = self._store.draft(transaction.envelope.size)
            if transaction.client.account is not None:
                transaction.gate = self._gate(transaction.draft, transaction.client, transaction.client.account)
        return transaction.draft

    def _gate(self, draft: Draft, client: Client, account: Account) -> HeaderGate | None:
        """Who looks at the header of a login's letter, None when nobody needs to."""
        wishes = Wishes(self._sender, client.mode == "submission", self._host)
        if wishes.sender == "off" and not wishes.complete:
            return None
        return HeaderGate(draft, account, self._current, wishes, self._clock, self._random, self._budget)

    async def accept(self, transaction: Transaction) -> Accepted:
        """The content is complete: puts it into the mailboxes and returns once it is on the disk.

        Raises Rejected when nobody gets it, Unavailable when it could not be stored.
        """
        draft = self.open(transaction)
        if transaction.gate is not None:
            await transaction.gate.end()
        if _hops(draft) > HOPS:
            raise Rejected(Smtp.TOO_MANY_HOPS)
        letter = self._letter_id()
        path, trace = await self._fields(transaction, letter)
        prefix = prefix_of(draft, path + trace)
        size = len(prefix) + draft.size
        self._check_room(transaction, size)
        self._count_sent(transaction)
        try:
            results = await self._store_it(transaction, draft, letter, prefix, len(path))
        except BaseException:
            self._uncount_sent(transaction)
            raise
        transaction.draft = None
        failures = [failure_reply(result.failure) for result in results]
        self._tell(transaction, letter, size, failures)
        if None not in failures and failures[0] is not None:
            self._uncount_sent(transaction)
            raise Rejected(failures[0])
        return Accepted(letter, self._clock.monotonic() - transaction.begun, failures)

    async def _store_it(
        self, transaction: Transaction, draft: Draft, letter: str, prefix: bytes, path: int
    ) -> list[Delivered]:
        """Puts the letter into mailboxes and the queue; one result per recipient. `path` octets of the prefix are the
        Return-Path, which belongs to mailboxes alone (RFC 5321 §4.4). Raises Unavailable."""
        targets, envelope = transaction.targets, transaction.envelope
        notices = targets.refused or any(one.notify for one in targets.recipients)
        if self._onward is not None and (targets.onward or notices):
            return await self._onward.accept(self._store.queue, draft, targets, prefix, path, letter, envelope)
        return await deliver(self._store, draft, targets, prefix, letter=letter, envelope=envelope)

    def _check_room(self, transaction: Transaction, size: int) -> None:
        """One reply stands for all recipients: where a letter is too much for some of them, the others get it and a
        notice tells its sender, in the same transaction. Where no notice can be sent (there is no sender, or nobody
        carries letters on), and where nobody would get it, the letter is refused as a whole. LMTP answers for each."""
        targets = transaction.targets
        if transaction.client.mode == "lmtp":
            return
        for account in targets.accounts:
            if (failure := overfull(account, size)) is not None:
                targets.refused[account.id] = failure
        if not targets.refused:
            return
        nobody = len(targets.refused) == len(targets.accounts) and not targets.onward
        if nobody or self._onward is None or transaction.envelope.sender is None:
            reply = failure_reply(next(iter(targets.refused.values())))
            assert reply is not None, "a failure has a reply"
            raise Rejected(reply)

    async def _fields(self, transaction: Transaction, letter: str) -> tuple[str, str]:
        """Return-Path and Received."""
        client, envelope = transaction.client, transaction.envelope
        reverse = None if client.reverse is None else await client.reverse.name()
        protocol = protocol_keyword(
            extended=client.extended,
            lmtp=client.mode == "lmtp",
            utf8=envelope.smtputf8,
            tls=client.encrypted,
            login=client.account is not None,
        )
        only = envelope.recipients[0].address if len(envelope.recipients) == 1 else None
        now = self._clock.now()
        hop = Hop(client.helo, client.address, reverse, self._host, protocol, letter, now, only, client.tls)
        return return_path(envelope.sender), received(hop)

    def _letter_id(self) -> str:
        """Sorts by time (milliseconds) and cannot be guessed (43 random bits): 22 hexadecimal digits."""
        if not self._chances:  # the system is asked for many at once: a call costs 20 us
            self._chances = list(struct.unpack(">256Q", self._random.octets(2048)))
        return f"{int(self._clock.now() * 1000) << 43 | self._chances.pop() >> 21:022x}"

    def _tell(self, transaction: Transaction, letter: str, size: int, failures: list[Reply | None]) -> None:
        client, envelope = transaction.client, transaction.envelope
        self._log.info(
            "accepted" if None in failures else "refused",
            id=letter,
            sender="" if envelope.sender is None else str(envelope.sender),
            recipients=len(failures),
            size=size,
            peer=client.address,
            helo=client.helo,
            login="" if client.account is None else client.account.address,
            tls=client.tls,
            seconds=round(self._clock.monotonic() - transaction.begun, 4),
        )
        for recipient, failure in zip(envelope.recipients, failures, strict=True):
            if failure is not None:
                self._log.warning("not_delivered", id=letter, recipient=str(recipient.address), reply=failure.text)


def may_relay(client: Client) -> bool:
    """Whether letters of this client for mailboxes elsewhere are carried on."""
    return client.may(RELAY) or (client.account is not None and client.may(LOGIN_RELAY))


_EXCESS: Final = {
    "letters": Smtp.TOO_MANY_LETTERS,
    "recipients": Smtp.TOO_MANY_SENT_TO,
    "new recipients": Smtp.TOO_MANY_STRANGERS,
}


def _names(transaction: Transaction) -> list[str]:
    return [recipient.address.key for recipient in transaction.envelope.recipients]


def _hops(draft: Draft) -> int:
    """How many Received fields the header has."""
    header = draft.read_header(HEADER_SEEN).lower()
    return header.count(b"\r\nreceived:") + header.startswith(b"received:")
