"""The sessions of SMTP, submission and LMTP: one linear task per connection.

The core reads and keeps the order of commands, reception decides, and this task stands between them: for each event
it chooses a reply. It writes no reply text of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from posthouse.config.schema import SmtpSettings
from posthouse.mail.reply import Fault, Rejected, Reply, Smtp, Style, Unavailable
from posthouse.mta.reception import Accepted, Client, Reception, Transaction
from posthouse.net.tls import ServerTls
from posthouse.net.wire import Stopping, Wire
from posthouse.observe.audit import audit, refusal
from posthouse.observe.log import Log
from posthouse.policy.access import AUTH25, CLEAR, TRUSTED, Access, Rights
from posthouse.ports.directory import Opened
from posthouse.ports.dns import Resolver
from posthouse.ports.system import Clock, Observer, SessionObserver
from posthouse.sasl.mechanisms import SaslError, encode_line
from posthouse.servers.login import Login, LoginService
from posthouse.smtp.commands import Data, Ehlo, Helo, Lhlo, Mail, Quit, Rcpt, Rset, StartTls
from posthouse.smtp.events import ChunkEnded, ContentArrived, DataEnded, Event, LoginStep, Settled
from posthouse.smtp.rules import Mode
from posthouse.smtp.server import SmtpServerCore

RATE_GRACE: Final = 600.0
"""Seconds of a message before its rate counts, so that a burst of loss is forgiven."""

FAIR_TURN: Final = 50
"""Recipients of one read after which the other sessions have their turn; each costs some 30 us."""

Replies = Sequence[Reply]
"""What is said to one event: one reply, or with LMTP one for each recipient."""


class SmtpServer:
    """What all sessions of one protocol share. `session` is what a listener of this mode is given.

    `mode` is "smtp", "submission" or "lmtp". `host` is our own name. `login` offers AUTH (never for LMTP). The
    `reception` has the same limits and host. `observer` and `resolver` may be None; without `tls` STARTTLS is not
    offered.
    """

    __slots__ = (
        "_access",
        "_bare_lf",
        "_bare_lf_trusted",
        "_login",
        "_mode",
        "_observer",
        "_protocol",
        "_resolver",
        "_style",
        "_tls",
        "clock",
        "goodbye",
        "host",
        "limits",
        "log",
        "logins",
        "reception",
    )

    def __init__(
        self,
        mode: str,
        settings: SmtpSettings,
        *,
        host: str,
        style: str,
        reception: Reception,
        access: Access,
        logins: LoginService,
        clock: Clock,
        log: Log,
        resolver: Resolver | None = None,
        observer: Observer | None = None,
        login: bool = True,
        tls: ServerTls | None = None,
    ) -> None:
        self._tls = tls
        self._mode = Mode(mode)
        self._protocol = self._mode.value  # asked for once: an enumeration computes it anew each time
        self.limits = settings.limits
        self._bare_lf = settings.bare_lf == "normalize"
        self._bare_lf_trusted = settings.bare_lf_trusted == "normalize"
        self._access = access
        self.host = host
        self.goodbye = Smtp.GOODBYE.fill(host=host)
        self._style = Style(style)
        self.reception = reception
        self.logins = logins
        self.clock = clock
        self.log = log
        self._resolver = resolver
        self._observer = observer
        self._login = login

    async def session(self, wire: Wire) -> None:
        """Serves one connection until it ends."""
        try:
            rights = self._access.rights(plain_address(wire.peer.host))
        except Unavailable as problem:
            self.log.error("rights_unknown", peer=wire.peer.host, reason=str(problem))
            wire.write(Smtp.RIGHTS_UNKNOWN.fill(host=self.host).encode(self._style))
            await wire.finish(self.limits.discard_timeout)
            return
        if not rights.may(self._protocol):
            await self._turn_away(wire, rights)
            return
        observer = None
        if self._observer is not None:
            observer = self._observer.session(self._protocol, wire.local, wire.peer)
        wire.tap = observer
        if observer is not None and wire.encryption is not None:
            observer.secured(str(wire.encryption))
        try:
            await self._begin(wire, observer, rights).run()
        finally:
            if observer is not None:
                observer.closed()

    def mends_bare_lf(self, *, trusted: bool) -> bool:
        """Whether bare LF is put right for such a peer, or refused (reliability F1)."""
        return self._bare_lf_trusted if trusted else self._bare_lf

    async def protect(self, wire: Wire) -> bool:
        """Goes over to TLS after STARTTLS; False when that failed and the connection is gone."""
        return self._tls is not None and await self._tls.protect(wire, self._protocol)

    async def _turn_away(self, wire: Wire, rights: Rights) -> None:
        """Says why in the place of a greeting (RFC 5321 §3.1)."""
        mode = self._protocol
        refusal(self.log, what="connect", why=f"no {mode} for this network", peer=wire.peer.host, rule=rights.rule)
        wire.write(Smtp.NOT_FROM_HERE.encode(self._style))
        await wire.finish(self.limits.discard_timeout)

    def _begin(self, wire: Wire, observer: SessionObserver | None, rights: Rights) -> _Session:
        address = plain_address(wire.peer.host)
        trusted = rights.may(TRUSTED)
        core = SmtpServerCore(
            self._mode,
            self.limits,
            host=self.host,
            style=self._style,
            login=self._login and (self._mode is not Mode.SMTP or rights.may(AUTH25)),
            mechanisms=self.logins.offered(wire),
            secure=wire.encrypted or rights.may(CLEAR),
            trusted=trusted,
            normalize=self.mends_bare_lf(trusted=trusted),
            tls=self._tls is not None,
            encrypted=wire.encrypted,
            tap=None if observer is None else observer.received,
        )
        client = Client(
            address, self._protocol, encrypted=wire.encrypted, tls=str(wire.encryption or ""), rights=rights
        )
        if self._resolver is not None and address:
            client.reverse = self._resolver.reverse(address)
        return _Session(self, wire, core, client)


@lru_cache(maxsize=1024)
def plain_address(host: str) -> str:
    """An IP address without zone, an IPv4 address as such also when it came over an IPv6 socket."""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or address)


class _Session:
    """One connection."""

    __slots__ = ("_began", "_client", "_core", "_fault", "_linger", "_login", "_server", "_transaction", "_wire")

    def __init__(self, server: SmtpServer, wire: Wire, core: SmtpServerCore, client: Client) -> None:
        self._server = server
        self._wire = wire
        self._core = core
        self._client = client
        self._transaction: Transaction | None = None
        self._fault: Unavailable | Rejected | None = None  # what befell the content; told when its end has come
        self._began = 0.0  # when the first octets of the present message came, 0 before
        self._linger = 0.0  # how long we listen on after the last reply
        self._login: Login | None = None

    async def run(self) -> None:
        """The whole session, from greeting to close."""
        wire, core = self._wire, self._core
        try:
            wire.patience = self._server.limits.command_timeout
            wire.deadline(self._server.limits.session_timeout)
            wire.write(core.greeting())
            await self._converse()
        except Stopping:
            self._say_last(Smtp.STOPPING)
        except TimeoutError:
            self._say_last(Smtp.TIMEOUT)
        except Exception:  # the top of the session: a bug of ours is told as 451, and logged by the listener
            self._say_last(Smtp.INTERNAL)
            raise
        finally:
            self._tell_interrupted()
            await self._forget()
        # The peer may still be sending: a close at once could destroy our last reply (RFC 1122 §4.2.2.13).
        await wire.finish(self._server.limits.discard_timeout if core.left_over else self._linger)

    async def _converse(self) -> None:
        core, wire = self._core, self._wire
        while not core.closed:
            event = core.next_event() or await wire.next_event(core)
            if event is None:
                return
            if type(event) is ContentArrived:
                await self._content(event.octets)
                continue
            replies = await self._answer(event)
            wire.write(core.send(*replies), core.challenged)
            if type(event) is StartTls and not core.closed and not await self._protect():
                return
        if type(event) is not Quit:
            self._linger = self._server.limits.discard_timeout
            self._tell_dropped(core.excess or replies[-1])

    async def _answer(self, event: Event) -> Replies:
        """What is said to one event; the one place where refusals and faults become replies."""
        try:
            said = _HANDLERS[type(event)](self, event)
            return said if isinstance(said, tuple) else await said
        except Rejected as rejected:
            self._tell_refused(event, rejected.reply)
            return (rejected.reply,)
        except Unavailable as unavailable:
            return (self._reply_to_fault(unavailable),)

    def _say_last(self, reply: Reply) -> None:
        self._wire.write(reply.fill(host=self._server.host).encode(self._core.style))
        if self._wire.tap is not None:
            self._wire.tap.note(reply.text.format(host=self._server.host))

    async def _forget(self) -> None:
        transaction, self._transaction = self._transaction, None
        self._fault = None
        self._began = 0.0
        self._wire.busy = False
        self._wire.patience = self._server.limits.command_timeout
        if transaction is not None:
            await transaction.discard()

    # Commands

    def _settled(self, event: Event) -> tuple[Reply]:
        assert isinstance(event, Settled)
        self._login = None  # an answer that was none ends a login
        if self._transaction is None:
            self._began = 0.0
        return (event.reply,)

    async def _hello(self, event: Event) -> Replies:
        assert isinstance(event, (Ehlo, Helo, Lhlo))
        await self._forget()
        self._client.helo = event.name
        self._client.extended = not isinstance(event, Helo)
        return (self._core.hello(event),)

    async def _rset(self, event: Event) -> Replies:
        await self._forget()
        return (Smtp.RESET,)

    def _quit(self, event: Event) -> tuple[Reply]:
        return (self._server.goodbye,)

    def _starttls(self, event: Event) -> tuple[Reply]:
        """Octets behind STARTTLS were not protected, and would be taken for what was: somebody put them there
        (CVE-2011-0411). From here on nothing is read until the handshake reads it."""
        self._wire.pause()
        if not self._core.left_over and not self._wire.unread:
            return (Smtp.START_TLS,)
        client = self._client
        self._server.log.warning("starttls_injection", protocol=client.mode, peer=client.address, helo=client.helo)
        return (Smtp.PIPELINE_BROKEN,)

    async def _protect(self) -> bool:
        """Goes over to TLS and forgets who the peer said it was (RFC 3207 §4.2)."""
        await self._forget()
        server, client, wire, core = self._server, self._client, self._wire, self._core
        if not await server.protect(wire):
            return False
        client.encrypted, client.tls = True, str(wire.encryption)
        client.helo, client.extended, client.account = "", False, None
        core.trusted = client.may(TRUSTED)
        core.normalize = server.mends_bare_lf(trusted=core.trusted)
        core.mechanisms = server.logins.offered(wire)
        return True

    def _mail(self, event: Event) -> tuple[Reply] | Awaitable[Replies]:
        assert isinstance(event, Mail)
        if self._server.reception.is_foreign(event, self._client):
            return self._mail_of_another(event)
        self._transaction = self._server.reception.begin(event, self._client)
        return (Smtp.SENDER_OK,)

    async def _mail_of_another(self, event: Mail) -> Replies:
        await self._server.reception.check_sender(event, self._client)
        self._transaction = self._server.reception.begin(event, self._client)
        return (Smtp.SENDER_OK,)

    async def _rcpt(self, event: Event) -> Replies:
        assert isinstance(event, Rcpt) and self._transaction is not None
        await self._server.reception.recipient(self._transaction, event)
        if not len(self._transaction.targets.recipients) % FAIR_TURN:
            await asyncio.sleep(0)
        return (Smtp.RCPT_OK,)

    async def _log_in(self, event: Event) -> Replies:
        """One step of a login; the exchange is forgotten on every way out but a challenge."""
        assert isinstance(event, LoginStep)
        login, self._login = self._login, None
        if event.mechanism or login is None:
            login = Login(self._server.logins, self._wire, self._client.mode, self._client.address)
            login.begin(event.mechanism)
        try:
            result = await login.step(event.response)
        except SaslError:
            return (Smtp.AUTH_MALFORMED,)
        except Unavailable as unavailable:
            reply = self._reply_to_fault(unavailable)
            return (Smtp.AUTH_BUSY if unavailable.fault is Fault.BUSY else reply,)
        if isinstance(result, bytes):
            self._login = login
            return (Reply(Smtp.AUTH_PROMPT.code, "", encode_line(result).decode("ascii")),)
        return (Smtp.AUTH_FAILED if result is None else self._logged_in(result, login.mechanism),)

    def _logged_in(self, opened: Opened, mechanism: str) -> Reply:
        client, server = self._client, self._server
        client.account = opened.account
        self._core.trusted = True
        self._core.normalize = server.mends_bare_lf(trusted=True)
        server.log.info(
            "login",
            protocol=client.mode,
            login=opened.account.address,
            mechanism=mechanism,
            peer=client.address,
            tls=client.tls,
            **({"app": opened.app} if opened.app else {}),
        )
        return Smtp.AUTH_OK

    # The message

    def _data(self, event: Event) -> tuple[Reply]:
        assert self._transaction is not None
        self._server.reception.open(self._transaction)
        self._began = self._server.clock.monotonic()
        self._receiving()
        return (Smtp.START_DATA,)

    def _receiving(self) -> None:
        self._wire.busy = True
        self._wire.patience = self._server.limits.data_timeout

    async def _content(self, octets: bytes) -> None:
        """Octets of the message go on to the store at once. A fault of ours is told at the end, when a reply is due."""
        self._check_rate()
        transaction = self._transaction
        if transaction is None or not octets or self._fault is not None:
            return  # a chunk or a message that will be refused
        try:
            if transaction.draft is None:
                self._server.reception.open(transaction)
                self._receiving()
            sink = transaction.sink
            assert sink is not None
            await sink.write(octets)
        except (Unavailable, Rejected) as fault:
            self._fault = fault
            await transaction.discard()

    def _check_rate(self) -> None:
        now = self._server.clock.monotonic()
        if not self._began:
            self._began = now
        elapsed = now - self._began
        if elapsed > RATE_GRACE and self._core.received < elapsed * self._server.limits.data_rate:
            raise TimeoutError

    def _data_ended(self, event: Event) -> Awaitable[Replies]:
        assert isinstance(event, DataEnded)
        return self._end(event.failure)

    async def _chunk_ended(self, event: Event) -> Replies:
        assert isinstance(event, ChunkEnded)
        if event.last:
            return await self._end(event.failure)
        if event.failure is not None:
            raise Rejected(event.failure)
        if self._fault is not None:
            raise self._fault
        return (Smtp.CHUNK_OK.fill(size=event.size),)

    async def _end(self, failure: Reply | None) -> Replies:
        """The message is complete: it lies in its mailboxes before anything good is said of it."""
        transaction = self._transaction
        assert transaction is not None
        try:
            if failure is not None:
                raise Rejected(failure)
            if self._fault is not None:
                raise self._fault
            return self._said_of(transaction, await self._server.reception.accept(transaction))
        except Rejected as rejected:
            self._tell_refused(None, rejected.reply)
            return self._for_each(transaction, rejected.reply)
        except Unavailable as unavailable:
            return self._for_each(transaction, self._reply_to_fault(unavailable))
        finally:
            await self._forget()

    def _for_each(self, transaction: Transaction, reply: Reply) -> Replies:
        """LMTP says it once for each recipient (RFC 2033 §4.2)."""
        return [reply] * len(transaction.targets.recipients) if self._core.mode is Mode.LMTP else (reply,)

    def _said_of(self, transaction: Transaction, accepted: Accepted) -> Replies:
        if self._core.mode is not Mode.LMTP:
            return (Smtp.QUEUED.fill(id=accepted.id, seconds=f"{accepted.seconds:.3f}"),)
        return [
            failure or Smtp.DELIVERED.fill(recipient=recipient.address, id=accepted.id)
            for recipient, failure in zip(transaction.targets.recipients, accepted.failures, strict=True)
        ]

    # The log

    def _reply_to_fault(self, unavailable: Unavailable) -> Reply:
        self._server.log.error(
            "unavailable", fault=unavailable.fault.value, detail=unavailable.detail, peer=self._client.address
        )
        return Smtp.for_fault(unavailable.fault)

    def _tell_dropped(self, reply: Reply) -> None:
        client = self._client
        self._server.log.info("dropped", reply=f"{reply.code} {reply.text}", peer=client.address, helo=client.helo)

    def _tell_interrupted(self) -> None:
        """A message of which only a part came: whoever looks for it finds out where it stayed."""
        transaction = self._transaction
        if transaction is not None and self._wire.busy:
            self._server.log.info(
                "interrupted",
                sender="" if transaction.envelope.sender is None else str(transaction.envelope.sender),
                octets=self._core.received,
                peer=self._client.address,
                helo=self._client.helo,
            )

    def _tell_refused(self, event: Event | None, reply: Reply) -> None:
        sender = None if self._transaction is None else self._transaction.envelope.sender
        if isinstance(event, Mail):
            sender = event.sender
        fields = dict[str, object](
            stage="data" if event is None else type(event).__name__.lower(),
            sender="" if sender is None else str(sender),
            recipient=str(event.address) if isinstance(event, Rcpt) else "",
            reply=f"{reply.code} {reply.status} {reply.text}",
            peer=self._client.address,
            helo=self._client.helo,
            login="" if self._client.account is None else self._client.account.address,
        )
        if reply.status.startswith("5.7."):  # a refusal by policy (RFC 3463 §3.8)
            audit(self._server.log, "refused", rule=self._client.rights.rule, **fields)
        else:
            self._server.log.info("refused", **fields)


_Handler = Callable[[_Session, Event], tuple[Reply] | Awaitable[Replies]]
_HANDLERS: Final[dict[type, _Handler]] = {
    Settled: _Session._settled,
    Ehlo: _Session._hello,
    Helo: _Session._hello,
    Lhlo: _Session._hello,
    Mail: _Session._mail,
    Rcpt: _Session._rcpt,
    Data: _Session._data,
    Rset: _Session._rset,
    StartTls: _Session._starttls,
    Quit: _Session._quit,
    LoginStep: _Session._log_in,
    DataEnded: _Session._data_ended,
    ChunkEnded: _Session._chunk_ended,
}
