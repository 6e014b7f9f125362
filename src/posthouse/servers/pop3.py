"""One POP3 session: a linear task that answers one command after the other.

The maildrop is a snapshot taken under an exclusive lock. What a client deletes is only marked; QUIT carries the
marks out in one transaction, and whatever else ends a session throws them away (RFC 1939 §3, §6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import lru_cache, partial
from typing import Any, Final, cast

from posthouse.mail.limits import Pop3Limits
from posthouse.mail.reply import Fault, Pop3, Rejected, Reply, Style, Unavailable
from posthouse.net.tls import ServerTls
from posthouse.net.wire import Stopping, Wire
from posthouse.observe.audit import refusal
from posthouse.observe.log import Log
from posthouse.policy.access import CLEAR, Access, Rights
from posthouse.pop3 import commands as asked
from posthouse.pop3.grammar import Stuffer, TopCut, capabilities, challenge, lines, stuff
from posthouse.pop3.maildrop import Snapshot
from posthouse.pop3.server import Pop3ServerCore, Refused, State
from posthouse.ports.directory import Opened
from posthouse.ports.store import Missing, Store
from posthouse.ports.system import Observer
from posthouse.sasl.mechanisms import SaslError
from posthouse.servers.letters import Letters, Pieces, Shelf
from posthouse.servers.login import Login, LoginService

TURNS: Final = 500  # commands answered at a stretch while other sessions wait: about two milliseconds
BURST: Final = 262_144  # octets written before the client must have read some, and before others get their turn
SLICE: Final = 2_000  # lines of a listing built at once: about half a millisecond
DISCARD: Final = 2.0  # seconds we listen on after a last reply that a client still sending would lose


class Texts:
    """The replies of the hot paths in one style, with places for numbers; made once for a server."""

    __slots__ = ("_capa", "last", "list", "list_one", "reset", "retr", "stat", "style", "uidl", "uidl_one")

    def __init__(self, style: Style, implementation: str) -> None:
        def form(reply: Reply, **places: bytes) -> bytes:
            octets = reply.encode(style).replace(b"%", b"%%")
            for name, place in places.items():
                octets = octets.replace(b"{%b}" % name.encode(), place)
            return octets

        self.style = style
        self.stat = form(Pop3.STAT, count=b"%d", size=b"%d")
        self.list = form(Pop3.LIST, count=b"%d", size=b"%d")
        self.list_one = form(Pop3.LIST_ONE, number=b"%d", size=b"%d")
        self.uidl = form(Pop3.UIDL, count=b"%d")
        self.uidl_one = form(Pop3.UIDL_ONE, number=b"%d", id=b"%b")
        self.retr = form(Pop3.RETR, size=b"%d")
        self.last = form(Pop3.LAST, number=b"%d")
        self.reset = form(Pop3.RESET, count=b"%d", size=b"%d")
        self._capa = lru_cache(maxsize=16)(partial(_capabilities, style, implementation))

    def capa(self, mechanisms: tuple[str, ...], tls: bool) -> bytes:
        """The reply to CAPA for a peer that may log in by these, or by none, and may go over to TLS or not."""
        return self._capa(mechanisms, tls)


def _capabilities(style: Style, implementation: str, mechanisms: tuple[str, ...], tls: bool) -> bytes:
    texts = capabilities(tls=tls, mechanisms=mechanisms, implementation=implementation)
    return Pop3.CAPA.encode(style) + lines(texts)


class Pop3Server:
    """The POP3 service: what all its sessions share. `session` serves one connection.

    `logins` verifies, `host` is the name in the greeting. Without encryption the login is open only to peers whose
    network may send passwords in clear: this machine itself, and those named for it (RFC 8314 §4.1). Without `tls` STLS
    is not offered.
    """

    __slots__ = (
        "_access",
        "_greeting",
        "_limits",
        "_log",
        "_logins",
        "_observer",
        "_shelf",
        "_store",
        "_texts",
        "_tls",
    )

    def __init__(
        self,
        *,
        host: str,
        store: Store,
        access: Access,
        logins: LoginService,
        log: Log,
        observer: Observer | None = None,
        limits: Pop3Limits | None = None,
        style: Style = Style.POSTHOUSE,
        implementation: str = "Posthouse",
        tls: ServerTls | None = None,
    ) -> None:
        self._tls = tls
        self._store = store
        self._access = access
        self._logins = logins
        self._log = log
        self._observer = observer
        self._limits = limits or Pop3Limits()
        self._texts = Texts(style, implementation)
        self._greeting = Pop3.GREETING.fill(host=host)
        self._shelf = Shelf()

    async def session(self, wire: Wire) -> None:
        """Serves one connection until it ends; the caller closes it then. Never raises for what a peer does."""
        try:
            rights = self._access.rights(wire.peer.host)
        except Unavailable as problem:
            self._log.error("rights_unknown", peer=wire.peer.host, reason=str(problem))
            wire.write(Pop3.RIGHTS_UNKNOWN.encode(self._texts.style))
            await wire.finish(DISCARD)
            return
        if not rights.may("pop3"):
            refusal(self._log, what="connect", why="no pop3 for this network", peer=wire.peer.host, rule=rights.rule)
            wire.write(Pop3.NOT_FROM_HERE.encode(self._texts.style))
            await wire.finish(DISCARD)
            return
        await _Session(self, wire, rights).run()


class _Session:
    __slots__ = (
        "_account",
        "_app",
        "_core",
        "_end",
        "_failures",
        "_letters",
        "_locked",
        "_login",
        "_login_allowed",
        "_name",
        "_over",
        "_removed",
        "_server",
        "_snapshot",
        "_texts",
        "_unsent",
        "_utf8",
        "_wire",
        "_word",
    )

    def __init__(self, server: Pop3Server, wire: Wire, rights: Rights) -> None:
        self._server = server
        self._wire = wire
        self._texts = server._texts
        self._core = Pop3ServerCore(server._limits)
        self._login_allowed = wire.encrypted or rights.may(CLEAR)
        self._name = ""
        self._login = Login(server._logins, wire, "pop3", str(wire.peer))
        self._word = server._logins.word() if self._login_allowed else ""  # of APOP
        self._app = ""
        self._failures = 0
        self._utf8 = False
        self._account = ""
        self._locked: int | None = None  # the mailbox whose lock we have
        self._snapshot = _NOTHING
        self._letters = cast(Letters, None)  # there is one in TRANSACTION
        self._unsent = 0
        self._over = False
        self._end = "lost"  # for the log: quit, lost, timeout, stopped, refused, broken off
        self._removed = 0  # letters that QUIT removed

    async def run(self) -> None:
        """The whole session. On every way out the lock is given back and nothing is deleted but by QUIT."""
        wire, server = self._wire, self._server
        wire.patience = server._limits.login_timeout
        wire.stall_timeout = server._limits.login_timeout
        wire.deadline(server._limits.login_timeout)
        watcher = None if server._observer is None else server._observer.session("pop3", wire.local, wire.peer)
        if watcher is not None:
            wire.tap, self._core.tap = watcher, watcher.received
            if wire.encryption is not None:
                watcher.secured(str(wire.encryption))
        try:
            self._greet()
            await self._serve()
        except TimeoutError:
            self._end = "timeout"
            if watcher is not None:
                watcher.note("waited too long")
            # RFC 1939 §3: after the login nothing is said, since a client could take it for its next answer.
            if self._locked is None:
                self._say(Pop3.TIMEOUT)
        except Stopping:
            self._end = "stopped"
            self._say(Pop3.STOPPING)
        finally:
            self._release()
            wire.close()
            self._tell()
            if watcher is not None:
                watcher.closed()

    def _greet(self) -> None:
        """The first line; the word behind it says that APOP is possible (RFC 1939 §7)."""
        greeting = self._server._greeting
        if self._word:
            classic = None if greeting.classic is None else f"{greeting.classic} {self._word}"
            greeting = Reply(greeting.code, greeting.status, f"{greeting.text} {self._word}", classic)
        self._say(greeting)

    async def _serve(self) -> None:
        wire, core, handlers = self._wire, self._core, _HANDLERS
        turns = 0
        while not self._over:
            event = core.next_event() or await wire.next_event(core)
            if event is None:
                return
            try:
                waiting = handlers[type(event)](self, event)
                if waiting is not None:
                    await waiting
            except Rejected as error:
                self._say(error.reply)
            except Unavailable as error:
                self._server._log.error("pop3_unavailable", account=self._account, reason=str(error))
                damaged = error.fault is Fault.DAMAGED and self._locked is None
                self._say(Pop3.MAILDROP_DAMAGED if damaged else Pop3.for_fault(error.fault))
            turns += 1
            if turns > TURNS or self._unsent > BURST:
                turns = 0
                await self._pause()

    def _tell(self) -> None:
        """One line in the log for each session that was logged in."""
        if self._account:
            self._server._log.info(
                "pop3_session",
                account=self._account,
                mechanism=self._login.mechanism,
                peer=str(self._wire.peer),
                tls=str(self._wire.encryption or ""),
                end=self._end,
                messages=len(self._snapshot.rows),
                retrieved=len(self._snapshot.retrieved),
                deleted=self._removed,
                **({"app": self._app} if self._app else {}),
            )

    def _say(self, reply: Reply) -> None:
        self._wire.write(reply.encode(self._texts.style))

    def _write(self, octets: bytes) -> None:
        self._wire.write(octets)
        self._unsent += len(octets)

    def _write_message(self, octets: bytes, head: bytes) -> None:
        self._wire.write_all(stuff(octets, head))
        self._unsent += len(octets)

    async def _pause(self) -> None:
        """Waits until the client has read most of what was written, and lets other sessions have their turn."""
        self._unsent = 0
        await self._wire.drain()
        await asyncio.sleep(0)

    def _release(self) -> None:
        if self._locked is not None:
            self._letters.forget()
            self._server._store.unlock(self._locked)
            self._locked = None

    async def _hang_up(self, reply: Reply) -> None:
        """Says a last word to a client that may still be sending, and ends the session."""
        self._over, self._end = True, "refused"
        self._release()
        self._say(reply)
        await self._wire.finish(DISCARD)

    # Before the login

    def _refused(self, event: Refused) -> Awaitable[None] | None:
        self._login.cancel()
        if event.fatal:
            return self._hang_up(event.reply)
        self._say(event.reply)
        return None

    def _capa(self, _: asked.Capa) -> None:
        self._write(self._texts.capa(self._mechanisms, self._tls_offered))

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        """What this peer may log in by now."""
        return self._server._logins.offered(self._wire) if self._login_allowed else ()

    def _user(self, command: asked.User) -> None:
        # The answer is the same for every name (RFC 1939 §13).
        if self._login_allowed:
            self._name = command.name
            self._core.state = State.NAMED
            self._say(Pop3.USER_OK)
        else:
            self._say(Pop3.LOGIN_NEEDS_TLS)

    async def _pass(self, command: asked.Pass) -> None:
        await self._judge(await self._login.password(self._name, command.password))

    async def _apop(self, command: asked.Apop) -> None:
        if not self._word:
            self._say(Pop3.NO_APOP)
        else:
            await self._judge(await self._login.apop(command.name, self._word, command.digest))

    @property
    def _tls_offered(self) -> bool:
        return self._server._tls is not None and not self._wire.encrypted

    def _stls(self, _: asked.Stls) -> Awaitable[None] | None:
        if self._tls_offered:
            return self._protect()
        self._say(Pop3.TLS_DONE if self._wire.encrypted else Pop3.NO_TLS)
        return None

    async def _protect(self) -> None:
        """Goes over to TLS. Octets behind STLS were not protected, and would be taken for what was: somebody put
        them there (CVE-2011-0411)."""
        server, wire, core = self._server, self._wire, self._core
        wire.pause()  # from here on nothing is read until the handshake reads it
        if core.left_over or wire.unread:
            server._log.warning("starttls_injection", protocol="pop3", peer=str(wire.peer))
            await self._hang_up(Pop3.PIPELINE_BROKEN)
            return
        self._say(Pop3.START_TLS)
        assert server._tls is not None, "STLS was offered"
        if not await server._tls.protect(wire, "pop3"):
            self._over, self._end = True, "no TLS"
            return
        core.restart()
        self._name, self._utf8, self._login_allowed = "", False, True

    def _utf8_mode(self, _: asked.Utf8) -> None:
        self._utf8 = True
        self._say(Pop3.UTF8_OK)

    def _auth(self, command: asked.Auth) -> Awaitable[None] | None:
        if not self._login_allowed:
            self._say(Pop3.LOGIN_NEEDS_TLS)
        elif command.mechanism is None:
            self._write(Pop3.AUTH_LIST.encode(self._texts.style) + lines(self._mechanisms))
        elif command.mechanism not in self._mechanisms:
            self._say(Pop3.AUTH_UNKNOWN)
        else:
            self._login.begin(command.mechanism)
            return self._step(command.initial)
        return None

    def _response(self, event: asked.SaslResponse) -> Awaitable[None] | None:
        if event.octets is None:
            self._login.cancel()
            self._say(Pop3.AUTH_CANCELLED)
            return None
        return self._step(event.octets)

    async def _step(self, response: bytes | None) -> None:
        try:
            result = await self._login.step(response)
        except SaslError:
            self._say(Pop3.AUTH_MALFORMED)
            return
        if isinstance(result, bytes):
            self._core.state = State.CHALLENGED
            self._wire.write(challenge(result), secret=True)
        else:
            await self._judge(result)

    async def _judge(self, opened: Opened | None) -> None:
        """What a login came to; too many failures end the session."""
        if opened is not None:
            await self._open(opened)
            return
        self._failures += 1
        if self._failures < self._server._limits.login_failures:
            self._say(Pop3.LOGIN_FAILED)
        else:
            await self._hang_up(Pop3.LOGIN_FAILED)

    async def _open(self, opened: Opened) -> None:
        """Locks the maildrop and takes the snapshot. RFC 1939 §4."""
        store, wire, account = self._server._store, self._wire, opened.account
        if not store.lock(account.inbox):
            self._server._log.info("maildrop_in_use", account=account.address, peer=str(wire.peer))
            self._say(Pop3.IN_USE)
            return
        try:
            maildrop = await store.maildrop(account.inbox)
        except BaseException as error:
            store.unlock(account.inbox)
            if not isinstance(error, Missing):
                raise
            self._say(Pop3.LOGIN_FAILED)  # removed this very moment
            return
        self._locked = account.inbox
        self._account, self._app = account.address, opened.app
        self._snapshot = Snapshot(maildrop.rows, maildrop.octets)
        self._letters = Letters(store, self._server._shelf, account.inbox, self._snapshot, utf8=self._utf8)
        self._core.state = State.TRANSACTION
        wire.deadline(self._server._limits.session_timeout)
        wire.patience = self._server._limits.idle_timeout
        wire.stall_timeout = self._server._limits.stall_timeout
        self._say(Pop3.LOGGED_IN)

    # After the login

    def _noop(self, _: asked.Noop) -> None:
        self._say(Pop3.NOOP)

    def _last(self, _: asked.Last) -> None:
        self._write(self._texts.last % self._snapshot.last)

    def _stat(self, _: asked.Stat) -> Awaitable[None] | None:
        if not self._letters.sized:
            return self._totals(self._texts.stat)
        self._write(self._texts.stat % (self._snapshot.count, self._snapshot.octets))
        return None

    async def _totals(self, form: bytes) -> None:
        if self._wire.lost:
            return
        await self._letters.reckon()
        self._write(form % (self._snapshot.count, self._snapshot.octets))

    def _rset(self, _: asked.Rset) -> Awaitable[None] | None:
        self._snapshot.reset()
        return self._totals(self._texts.reset)

    def _dele(self, command: asked.Dele) -> None:
        self._snapshot.delete(command.number)
        self._say(Pop3.DELETED)

    async def _list(self, command: asked.List) -> None:
        snapshot, number = self._snapshot, command.number
        if number is not None:
            size = await self._letters.size(number, snapshot.row(number))
            self._write(self._texts.list_one % (number, size))
            return
        await self._totals(self._texts.list)
        await self._listing(2)

    async def _uidl(self, command: asked.Uidl) -> None:
        snapshot, number = self._snapshot, command.number
        if number is not None:
            self._write(self._texts.uidl_one % (number, snapshot.row(number)[1].encode("ascii")))
            return
        self._write(self._texts.uidl % snapshot.count)
        await self._listing(1)

    async def _listing(self, column: int) -> None:
        snapshot = self._snapshot
        for start in range(0, len(snapshot.rows), SLICE):
            if start:
                await self._pause()
            if self._wire.lost:
                return  # nobody is there to read it; commands that came before are still obeyed, QUIT above all
            self._write(snapshot.listing(start, start + SLICE, column))
        self._write(b".\r\n")

    def _retr(self, command: asked.Retr) -> Awaitable[None] | None:
        number = command.number
        octets = self._letters.at_hand(number)
        if octets is None:
            return self._retr_waiting(number)
        self._wire.write_all(stuff(octets, self._texts.retr % len(octets)))
        self._unsent += len(octets)
        self._snapshot.retrieve(number)
        return None

    async def _retr_waiting(self, number: int) -> None:
        row = self._snapshot.row(number)
        if self._wire.lost:
            return
        source = await self._letters.open(number, row)
        if isinstance(source, bytes):
            self._write_message(source, self._texts.retr % len(source))
        else:
            await self._stream(self._texts.retr % self._snapshot.size(number), source, None)
        self._snapshot.retrieve(number)

    async def _top(self, command: asked.Top) -> None:
        if self._wire.lost:
            return
        source = await self._letters.open(command.number, self._snapshot.row(command.number))
        head, cut = Pop3.TOP.encode(self._texts.style), TopCut(command.lines)
        if isinstance(source, bytes):
            self._write_message(cut.add(source), head)
        else:
            await self._stream(head, source, cut)

    async def _stream(self, head: bytes, source: Pieces, cut: TopCut | None) -> None:
        """Sends a large message as the client reads it, in constant memory.

        The first piece is waited for before anything is said, so that what cannot be read at all is refused. When
        a later piece cannot be had, the connection is broken off: a reply never ends as if it were whole.
        """
        wire, stuffer = self._wire, Stuffer()
        async with aclosing(source):
            piece: bytes | None = await anext(source, None)
            self._write(head)
            wire.busy = True
            try:
                while piece is not None and not wire.lost:
                    self._write(stuffer.add(piece if cut is None else cut.add(piece)))
                    await self._pause()
                    piece = None if cut is not None and cut.done else await anext(source, None)
            except Unavailable as error:
                self._server._log.error("pop3_broken_off", account=self._account, reason=str(error))
                self._over, self._end = True, "broken off"
                wire.abort()
                return
            finally:
                wire.busy = False
            self._write(stuffer.end())

    # The end

    async def _quit(self, _: asked.Quit) -> None:
        """RFC 1939 §6: the lock is free before the answer, so that the next session may begin at once."""
        self._over, self._end = True, "quit"
        reply = await self._update() if self._locked is not None else Pop3.GOODBYE
        self._release()
        self._say(reply)
        await self._wire.finish()

    async def _update(self) -> Reply:
        """Carries out the marks in one transaction."""
        deleted, retrieved = self._snapshot.changes()
        if not deleted and not retrieved:
            return Pop3.GOODBYE
        assert self._locked is not None, "only a session that has the lock deletes"
        self._wire.busy = True
        try:
            await self._server._store.update(self._locked, deleted, retrieved)
        except Unavailable as error:
            self._server._log.error(
                "pop3_update_failed", account=self._account, deletions=len(deleted), reason=str(error)
            )
            # What LAST would have counted is no loss that a client must know of.
            return Pop3.UPDATE_FAILED if deleted else Pop3.GOODBYE
        finally:
            self._wire.busy = False
        self._removed = len(deleted)
        return Pop3.GOODBYE


_NOTHING: Final = Snapshot((), 0)
_HANDLERS: Final[dict[type[Any], Callable[[_Session, Any], Awaitable[None] | None]]] = {
    Refused: _Session._refused,
    asked.SaslResponse: _Session._response,
    asked.User: _Session._user,
    asked.Pass: _Session._pass,
    asked.Apop: _Session._apop,
    asked.Auth: _Session._auth,
    asked.Stat: _Session._stat,
    asked.List: _Session._list,
    asked.Retr: _Session._retr,
    asked.Dele: _Session._dele,
    asked.Noop: _Session._noop,
    asked.Last: _Session._last,
    asked.Rset: _Session._rset,
    asked.Top: _Session._top,
    asked.Uidl: _Session._uidl,
    asked.Capa: _Session._capa,
    asked.Stls: _Session._stls,
    asked.Utf8: _Session._utf8_mode,
    asked.Quit: _Session._quit,
}
