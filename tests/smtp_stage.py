"""What SMTP transcripts are played on: the real session and reception over a store that exists in memory only.

Two domains stand ready: x.mail with test, test2 and postmaster, and foo.com with Jones, Brown and Crispin (of RFC 5321
appendix D); every password is `secret`. The clock stands still unless it is moved.
Options (`!with`): mode (smtp, submission, lmtp), style, bare_lf, bare_lf_trusted, sender, login=off, host, tls=on
(offered; the handshake needs a socket), any limit by its name, and those of `login_stage`.
Directives:
    !network network [right ...]      names a network; `-right` takes one away from what is usual
    !grant login sender               lets a login name that sender
    !account address [quota [used]]   one more account, in a domain that is made when it is missing
    !stored address octets            the content of the newest letter in a mailbox, exactly (escapes as in C+)
    !letters address count            how many letters a mailbox has
    !content pattern                  the content of the newest letter, with "|" for each line end
    !prefix pattern                   what was put before the newest letter; lines are parted by "|"
    !envelope name value              a field of the newest letter's envelope
    !fault where fault                draft, write, deliver, networks or login fail from now on (storage ...; none)
    !clock seconds                    time goes on
    !reverse name                     the name of the clients' addresses ("-": none)
    !drafts count                     drafts that were neither delivered nor discarded
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import cast

from posthouse.config.schema import SmtpSettings
from posthouse.mail.address import Address, domain_key
from posthouse.mail.envelope import Envelope
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.reply import Fault, Unavailable
from posthouse.mta.reception import Reception
from posthouse.observe.log import Log, QuietLog
from posthouse.policy.access import EVERYBODY, Access
from posthouse.ports.directory import Candidates, Opened
from posthouse.ports.store import Account, Delivered, Delivery, Draft, Network, Store
from posthouse.ports.system import Observer
from posthouse.servers.smtp import SmtpServer
from tests.certificates import any_tls
from tests.login_stage import candidates, service
from tests.transcript_runner import Session, unescape

PASSWORD = "secret"
ACCOUNTS = ("test@x.mail", "test2@x.mail", "postmaster@x.mail", "jones@foo.com", "brown@foo.com", "crispin@foo.com")
START = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 UTC


class StillClock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = START

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Seeded:
    """Octets that look random and are the same in every run."""

    def __init__(self) -> None:
        self.random = random.Random(1)

    def octets(self, count: int) -> bytes:
        return self.random.randbytes(count)


@dataclass(slots=True)
class NamedAddresses:
    """A resolver that knows one name for all."""

    host: str | None = None

    def reverse(self, address: str) -> NamedAddresses:
        return self

    async def name(self) -> str | None:
        return self.host


@dataclass(slots=True)
class MemoryDraft:
    """A draft of `MemoryMail`."""

    store: MemoryMail
    content: bytearray = field(default_factory=bytearray)
    over: bool = False

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def head(self) -> bytes:
        return bytes(self.content[:1024])

    @property
    def tail(self) -> bytes:
        return bytes(self.content[-2:])

    async def write(self, octets: bytes) -> None:
        assert not self.over, "a draft that is over is not written"
        self.store.fail("write")
        self.content += octets

    def read_header(self, limit: int) -> bytes:
        end = self.content.find(b"\r\n\r\n")
        return bytes(self.content[:limit] if end < 0 else self.content[: min(end + 4, limit)])

    async def discard(self) -> None:
        self.over = True


@dataclass(slots=True)
class Stored:
    """A letter as it lies in one mailbox."""

    prefix: bytes
    content: bytes
    envelope: Envelope | None
    letter: str
    delivery: Delivery


@dataclass(slots=True)
class MemoryMail:
    """The part of a store that reception uses, and the directory on it."""

    accounts: dict[str, Account] = field(default_factory=dict)
    mailboxes: dict[int, list[Stored]] = field(default_factory=dict)
    drafts: list[MemoryDraft] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    last: Stored | None = None
    named: tuple[Network, ...] = ()
    noted: list[str] = field(default_factory=list)
    aliases: dict[str, list[Address]] = field(default_factory=dict)

    def networks(self) -> tuple[Network, ...]:
        self.fail("networks")
        return self.named

    def add(self, address: str, quota: int = 0, used: int = 0) -> None:
        key = Address.parse(address).key
        account = Account(len(self.accounts) + 1, key, PASSWORD, len(self.accounts) + 1, quota, used)
        self.accounts[key] = account
        self.mailboxes[account.id] = []

    def fail(self, where: str) -> None:
        if where in self.faults:
            raise Unavailable(self.faults[where], f"{where} in the test")

    def draft(self, expected: int | None = None) -> Draft:
        self.fail("draft")
        self.drafts.append(MemoryDraft(self))
        return self.drafts[-1]

    async def deliver(
        self, draft: Draft, deliveries: Sequence[Delivery], *, letter: str, envelope: Envelope | None = None
    ) -> list[Delivered]:
        assert isinstance(draft, MemoryDraft) and not draft.over
        self.fail("deliver")
        draft.over = True
        return [self._put(bytes(draft.content), delivery, letter, envelope) for delivery in deliveries]

    def _put(self, content: bytes, delivery: Delivery, letter: str, envelope: Envelope | None) -> Delivered:
        account = next(account for account in self.accounts.values() if account.id == delivery.account)
        size = len(delivery.prefix) + len(content)
        if account.quota and size > account.quota:
            return Delivered(account.id, failure="too big")
        if account.quota and account.used + size > account.quota:
            return Delivered(account.id, failure="quota")
        account.used += size
        self.last = Stored(delivery.prefix, content, envelope, letter, delivery)
        self.mailboxes[account.id].append(self.last)
        return Delivered(account.id, len(self.mailboxes[account.id]), "unique")

    async def is_local(self, domain: str) -> bool:
        return any(key.endswith(f"@{domain_key(domain)}") for key in self.accounts)

    async def alias(self, address: Address) -> list[Address]:
        return self.aliases.get(address.key, [])

    async def find(self, address: Address) -> Account | None:
        return self.accounts.get(address.key if address.domain else f"{address.key}@x.mail")

    def _named(self, login: str) -> Account | None:
        self.fail("login")
        return self.accounts.get(login.lower() if "@" in login else f"{login.lower()}@x.mail")

    async def authenticate(self, login: str, password: str, protocol: str = "") -> Opened | None:
        account = self._named(login)
        return Opened(account) if account is not None and password == PASSWORD else None

    async def candidates(self, login: str, protocol: str = "") -> Candidates:
        return candidates(self._named(login), [PASSWORD])

    async def note(self, opened: Opened) -> None:
        self.noted.append(opened.app)


class SmtpStage:
    """The stage itself; `observer` watches every session."""

    def __init__(self, observer: Observer | None = None, log: Log | None = None) -> None:
        self.mail = MemoryMail()
        self.clock = StillClock()
        self.resolver = NamedAddresses("client.example")
        self.observer = observer
        self.log = log or QuietLog()
        self.random = Seeded()
        for address in ACCOUNTS:
            self.mail.add(address)

    async def session(self, options: dict[str, str]) -> Session:
        return self.build(options).session

    def build(self, options: dict[str, str]) -> SmtpServer:
        limits = SmtpLimits()
        for limit in fields(limits):
            if limit.name in options:
                setattr(limits, limit.name, type(getattr(limits, limit.name))(options[limit.name]))
        settings = SmtpSettings(
            limits=limits,
            bare_lf=options.get("bare_lf", "reject"),
            bare_lf_trusted=options.get("bare_lf_trusted", "normalize"),
        )
        host = options.get("host", "x.mail")
        store = cast(Store, self.mail)
        return SmtpServer(
            options.get("mode", "smtp"),
            settings,
            host=host,
            style=options.get("style", "posthouse"),
            reception=Reception(
                store,
                self.mail,
                self.clock,
                self.random,
                self.log,
                host=host,
                limits=limits,
                sender=options.get("sender", "refuse"),
            ),
            access=Access(self.mail, self.clock),
            logins=service(self.mail, self.clock, self.log, options, host),
            clock=self.clock,
            log=self.log,
            resolver=self.resolver,
            observer=self.observer,
            login=options.get("login") != "off",
            tls=any_tls() if options.get("tls") == "on" else None,
        )

    async def directive(self, name: str, argument: str) -> None:
        getattr(self, f"_{name}")(*argument.split(" ", 1) if name in _TWO else [argument])

    def _newest(self, address: str) -> Stored:
        letters = self.mail.mailboxes[self.mail.accounts[address].id]
        assert letters, f"{address} has no letter"
        return letters[-1]

    def _last(self) -> Stored:
        assert self.mail.last is not None, "there is no letter"
        return self.mail.last

    def _account(self, text: str) -> None:
        address, *numbers = text.split()
        self.mail.add(address, *map(int, numbers))

    def _network(self, text: str) -> None:
        network, *words = text.split()
        rights = EVERYBODY | {word for word in words if word[0] != "-"}
        rights -= {word[1:] for word in words if word[0] == "-"}
        self.mail.named += (Network(network, tuple(sorted(rights))),)

    def _grant(self, login: str, sender: str) -> None:
        self.mail.accounts[login].senders += (sender,)

    def _stored(self, address: str, octets: str = "") -> None:
        content = self._newest(address).content
        assert content == unescape(octets), f"the content is {content!r}"

    def _letters(self, address: str, count: str) -> None:
        letters = self.mail.mailboxes[self.mail.accounts[address].id]
        assert len(letters) == int(count), f"{address} has {len(letters)} letters"

    def _prefix(self, pattern: str) -> None:
        prefix = self._last().prefix.decode().replace("\r\n", "|")
        assert re.fullmatch(pattern, prefix), f"the prefix is {prefix}"

    def _content(self, pattern: str) -> None:
        content = self._last().content.decode().replace("\r\n", "|")
        assert re.fullmatch(pattern, content), f"the content is {content}"

    def _envelope(self, name: str, value: str = "") -> None:
        envelope = self._last().envelope
        assert envelope is not None
        if name == "recipients":
            said = " ".join(str(recipient.address) for recipient in envelope.recipients)
        elif name in ("notify", "orcpt"):
            said = str(getattr(envelope.recipients[0], name))
        else:
            said = str(getattr(envelope, name))
        assert said == value, f"{name} is {said}"

    def _fault(self, where: str, fault: str) -> None:
        if fault == "none":
            self.mail.faults.pop(where)
        else:
            self.mail.faults[where] = Fault(fault)

    def _clock(self, seconds: str) -> None:
        self.clock.seconds += float(seconds)

    def _reverse(self, name: str) -> None:
        self.resolver.host = None if name == "-" else name

    def _drafts(self, count: str) -> None:
        live = [draft for draft in self.mail.drafts if not draft.over]
        assert len(live) == int(count), f"{len(live)} drafts are left"


_TWO = frozenset({"stored", "letters", "envelope", "fault", "grant"})
