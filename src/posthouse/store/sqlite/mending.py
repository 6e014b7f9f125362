"""A salvaged database is made consistent: what is derived is reckoned anew, what was lost is made again or named.

Afterwards every rule of check.py holds, and no number that may have been given out before is given out again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from posthouse.ports.store import Damage
from posthouse.ports.system import Clock
from posthouse.store.model import UniqueIds
from posthouse.store.sqlite.asides import Asides
from posthouse.store.sqlite.jobs import INBOX, LAST_UID
from posthouse.store.sqlite.pages import Value
from posthouse.store.sqlite.salvage import Found
from posthouse.store.sqlite.tally import MOST_OF_COMMIT, Lost

UNKNOWN_UIDS: Final = 1_048_576
"""UIDs that are skipped where nobody knows how many were given out: 1024 commits of 1024 letters."""

UNKNOWN_IDS: Final = 1024
"""Ids of accounts and mailboxes likewise."""

_SEQUENCES: Final = {
    "mailbox": "SELECT max((SELECT ifnull(max(id), 0) FROM mailbox), (SELECT ifnull(max(id >> 32), 0) FROM message),"
    " (SELECT ifnull(max(id >> 32), 0) FROM tombstone))",
    "account": "SELECT max((SELECT ifnull(max(id), 0) FROM account), (SELECT ifnull(max(account), 0) FROM mailbox))",
    "domain": "SELECT max((SELECT ifnull(max(id), 0) FROM domain), (SELECT ifnull(max(domain), 0) FROM account))",
    "credential": "SELECT ifnull(max(id), 0) FROM credential",
}
_DEPENDENTS: Final = (
    ("grants of senders", "DELETE FROM sender WHERE account NOT IN (SELECT id FROM account)"),
    ("passwords", "DELETE FROM credential WHERE account NOT IN (SELECT id FROM account)"),
    ("aliases", "DELETE FROM alias WHERE domain NOT IN (SELECT id FROM domain)"),
    ("targets of aliases", "DELETE FROM alias_target WHERE alias NOT IN (SELECT address FROM alias)"),
)
_HAVE: Final = "message.id BETWEEN (mailbox.id << 32) AND (mailbox.id << 32) + 4294967295"


class Mending:
    """One run on a salvaged database. `told` is the report."""

    def __init__(
        self, db: sqlite3.Connection, asides: Asides, clock: Clock, unique_ids: UniqueIds, told: list[Damage]
    ) -> None:
        self._db = db
        self._asides = asides
        self._clock = clock
        self._unique_ids = unique_ids
        self._told = told
        self._doubtful = False

    def run(self, found: Found, lost: Lost | None, *, doubtful: bool) -> None:
        """Does it all. `doubtful`: nobody knows which UIDs were given out."""
        self._doubtful = doubtful or lost is not None
        self._db.execute("CREATE INDEX mending ON message (content)")
        self._state(found, lost)
        self._losses()
        self._remembered(found.kept)
        self._mailboxes()
        self._accounts()
        self._asides.broken(found)
        self._asides.adopt(found)
        self._asides.missing()
        self._asides.wrong_sizes()
        self._renew_unique_ids()
        self._db.execute(
            "DELETE FROM tombstone WHERE content NOT IN (SELECT id FROM content)"
            " OR id >> 32 NOT IN (SELECT id FROM mailbox) OR id IN (SELECT id FROM message)"
        )
        self._references()
        self._asides.unused()
        self._counters()
        self._sequences(found, 0 if lost is None else lost.commits)
        self._db.execute("DROP INDEX mending")

    def _rows(self, sql: str, *parameters: object) -> list[Any]:
        return self._db.execute(sql, parameters).fetchall()

    def _tell(self, what: str, where: str, text: str, whose: Sequence[str] = ()) -> None:
        self._told.append(Damage(what, where, text, list(whose)))

    # The store's own numbers

    def _state(self, found: Found, lost: Lost | None) -> None:
        commits = 0 if lost is None else lost.commits
        if not self._rows("SELECT 1 FROM state"):
            self._doubtful = True
            self._db.execute("INSERT INTO state VALUES (1, 0, 0, 0, ?)", (self._clock.now(),))
            self._tell("mended", "state", "The store's counters were lost and are made anew.")
        self._db.execute(
            "UPDATE state SET content = ? + max(content, ifnull((SELECT max(id) FROM content), 0),"
            " ifnull((SELECT max(content) FROM message), 0), ifnull((SELECT max(content) FROM queue), 0), ?),"
            " uidvalidity = min(max(uidvalidity, ifnull((SELECT max(uidvalidity) FROM mailbox), 0)) + ?, 4294967295),"
            " commits = commits + ?",
            (
                max(UNKNOWN_UIDS, commits * MOST_OF_COMMIT) if self._doubtful else 0,
                max([one.content for one in found.broken], default=0),
                min(commits, UNKNOWN_IDS),
                commits,
            ),
        )
        if not self._rows("SELECT 1 FROM secret WHERE name = 'login'"):
            self._db.execute("INSERT INTO secret VALUES ('login', ?)", (os.urandom(32),))
            self._tell("lost", "secret", "The key of the app passwords was lost: none of them works. Make new ones.")

    def _sequences(self, found: Found, commits: int) -> None:
        """Ids that never come twice, those included that only rows of other tables still name."""
        self._db.execute("DELETE FROM sqlite_sequence")
        for name, least in _SEQUENCES.items():
            last = self._rows(least)[0][0]
            if name in found.sequences and found.sequences[name] < 1 << 30:
                last = max(last, found.sequences[name])
            elif last:
                last += UNKNOWN_IDS
            if last:
                last = max(last, min(last + commits, 1 << 30))
                self._db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, last))

    def _new_uidvalidity(self) -> int:
        """RFC 9051 §2.3.1.1: greater than all before."""
        now = int(self._clock.now())
        self._db.execute("UPDATE state SET uidvalidity = max(uidvalidity + 1, min(?, 4294967295))", (now,))
        return int(self._rows("SELECT uidvalidity FROM state")[0][0])

    # Domains, accounts, mailboxes

    def _losses(self) -> None:
        """Says how many letters a mailbox has lost with their rows, as its own count tells, before any is put aside."""
        for mailbox, address, counted, octets, there, room in self._rows(
            "SELECT mailbox.id, account.address, messages, octets, (SELECT count(*) FROM message WHERE "  # noqa: S608
            f"{_HAVE}), (SELECT ifnull(sum(size), 0) FROM message WHERE {_HAVE})"
            " FROM mailbox LEFT JOIN account ON account.id = mailbox.account"
        ):
            whose = [address] if address else []
            if there < counted:
                text = f"The mailbox counted {counted} letters, and {there} are there: the others could not be found."
                self._tell("lost", f"mailbox {mailbox}", text, whose)
            elif (counted, octets) != (there, room):
                text = "The letters of the mailbox, or their octets, were counted wrongly, and so was its quota."
                self._tell("mended", f"mailbox {mailbox}", text, whose)

    def _remembered(self, kept: dict[str, dict[int, list[Value]]]) -> None:
        """Rows that were lost and whose names the indexes have kept."""

        def lost(table: str) -> list[tuple[int, list[Value]]]:
            there = {row for (row,) in self._rows(f"SELECT rowid FROM {table}")}  # noqa: S608 (a name of ours)
            return [(row, values) for row, values in sorted(kept.get(table, {}).items()) if row not in there]

        for row, (name, *_) in lost("domain"):
            if self._insert("INSERT INTO domain VALUES (?, ?, ?)", row, name, self._clock.now()):
                self._tell("mended", f"domain {name!s}", f"The domain {name!s} was lost and is made anew.")
        for row, (address, *_) in lost("account"):
            self._make_account(row, str(address))
        for row, values in lost("mailbox"):
            sql = "INSERT INTO mailbox VALUES (?, ?, ?, ?, 1, 1, 0, 0)"
            if len(values) == 2 and self._insert(sql, row, *values, self._new_uidvalidity()):
                self._doubtful = True
                self._tell("mended", f"mailbox {row}", "A mailbox was lost and is made anew around its letters.")
        for table, words in (("alias", "The alias {}"), ("route", "The route of {}"), ("network", "The network {}")):
            for _, (name, *_) in lost(table):
                self._tell("lost", f"{table} {name!s}", f"{words.format(str(name))} was lost: add it anew.")

    def _insert(self, sql: str, *values: object) -> bool:
        """Inserts a row if it can be one."""
        with contextlib.suppress(sqlite3.IntegrityError, OverflowError):
            self._db.execute(sql, values)
            return True
        return False

    def _make_account(self, account: int, address: str) -> bool:
        """An account that was lost; its domain may be lost likewise. It has no password."""
        local, _, name = address.rpartition("@")
        if not local or not name or self._rows("SELECT 1 FROM alias WHERE address = ?", address):
            return False
        self._insert("INSERT INTO domain (name, created) VALUES (?, ?)", name, self._clock.now())
        made = self._insert(
            "INSERT INTO account (id, domain, local, address, password, quota, created)"
            " VALUES (?, (SELECT id FROM domain WHERE name = ?), ?, ?, '', 0, ?)",
            *(account, name, local, address, self._clock.now()),
        )
        if made:
            text = (
                f"The account {address} was lost and is made anew. It has no password and no quota: "
                f"posthouse account password {address}"
            )
            self._tell("lost", f"account {address}", text, [address])
        return made

    def _mailboxes(self) -> None:
        """Letters whose mailbox was lost get it back when their recipients say whose it was."""
        for (mailbox,) in self._rows(
            "SELECT DISTINCT id >> 32 FROM message WHERE id >> 32 NOT IN (SELECT id FROM mailbox) ORDER BY 1"
        ):
            letters = (mailbox << 32, (mailbox << 32) + LAST_UID)
            owners = self._rows(
                "SELECT account.id, account.address, count(*) FROM message JOIN account"
                " ON account.address IN (lower(recipient), recipient) WHERE message.id BETWEEN ? AND ?"
                " AND account.id NOT IN (SELECT account FROM mailbox) GROUP BY 1 ORDER BY 3 DESC LIMIT 1",
                *letters,
            )
            if not owners or mailbox >= 1 << 31:
                self._put_aside_all(mailbox, "its mailbox was lost, and nobody knows whose it was")
                continue
            account, address, _ = owners[0]
            self._make_inbox(account, mailbox)
            text = f"The INBOX of {address} was lost and is made anew around its letters, with a new UIDVALIDITY."
            self._tell("mended", f"mailbox {mailbox}", text, [address])

    def _make_inbox(self, account: int, mailbox: int | None = None) -> None:
        self._db.execute(
            "INSERT INTO mailbox (id, account, name, uidvalidity, uidnext, highestmodseq, messages, octets)"
            " VALUES (?, ?, ?, ?, 1, 1, 0, 0)",
            (mailbox, account, INBOX, self._new_uidvalidity()),
        )

    def _put_aside_all(self, mailbox: int, reason: str) -> None:
        for message, content in self._rows(
            "SELECT id, content FROM message WHERE id BETWEEN ? AND ?", mailbox << 32, (mailbox << 32) + LAST_UID
        ):
            self._asides.letter(message, content, reason)

    def _accounts(self) -> None:
        """What depends on an account or a domain that was lost."""
        self._domains()
        self._split_addresses()
        for mailbox, account in self._rows(
            "SELECT id, account FROM mailbox WHERE account NOT IN (SELECT id FROM account) ORDER BY id"
        ):
            self._account_of(mailbox, account)
        self._domains()
        for account, address in self._rows(
            "SELECT id, address FROM account WHERE id NOT IN (SELECT account FROM mailbox WHERE name = 'INBOX')"
        ):
            if not self._db.execute("UPDATE mailbox SET name = 'INBOX' WHERE account = ?", (account,)).rowcount:
                self._make_inbox(account)
                text = f"The INBOX of {address} was lost; it has an empty one now."
                self._tell("lost", f"account {address}", text, [address])
        for what, sql in _DEPENDENTS:
            if count := self._db.execute(sql).rowcount:
                self._tell("lost", what, f"{count} {what} belong to what was lost, and are removed.")

    def _domains(self) -> None:
        """Domains that accounts or aliases name and that were lost."""
        missing = "domain NOT IN (SELECT id FROM domain)"
        for domain, address in self._rows(
            f"SELECT domain, min(address) FROM (SELECT domain, address FROM account WHERE {missing}"  # noqa: S608
            f" UNION ALL SELECT domain, address FROM alias WHERE {missing}) GROUP BY domain"
        ):
            name = address.rpartition("@")[2]
            found = self._rows("SELECT id FROM domain WHERE name = ?", name)
            for table in ("account", "alias") if found else ():
                sql = f"UPDATE {table} SET domain = ? WHERE domain = ?"  # noqa: S608 (two names of ours)
                self._db.execute(sql, (found[0][0], domain))
            if not found:
                self._db.execute("INSERT INTO domain VALUES (?, ?, ?)", (domain, name, self._clock.now()))
                text = f"The domain {name} was lost and is made anew: an address names it."
                self._tell("mended", f"domain {name}", text)

    def _split_addresses(self) -> None:
        """An address and its parts must agree; what names a domain that is here is taken for right."""
        for account, address, whole in self._rows(
            "SELECT account.id, address, local || '@' || name FROM account JOIN domain ON domain.id = account.domain"
            " WHERE address <> local || '@' || name"
        ):
            local, _, name = address.rpartition("@")
            domain = self._rows("SELECT id FROM domain WHERE name = ?", name)
            if local and domain:
                parts = (local, domain[0][0], account)
                self._db.execute("UPDATE account SET local = ?, domain = ? WHERE id = ?", parts)
            elif not self._rows("SELECT 1 FROM account WHERE address = ?", whole):
                self._db.execute("UPDATE account SET address = ? WHERE id = ?", (whole, account))
            now = self._rows("SELECT address FROM account WHERE id = ?", account)[0][0]
            text = f"One account was called {address} here and {whole} there. It is {now} now: see whether it is."
            self._tell("mended", f"account {now}", text, [now])

    def _account_of(self, mailbox: int, account: int) -> None:
        """A mailbox whose account was lost: its letters say who that was, as far as nobody else is called so."""
        names = self._rows(
            "SELECT lower(recipient), count(*) FROM message JOIN domain"
            " ON lower(recipient) LIKE '%_@' || domain.name WHERE message.id BETWEEN ? AND ?"
            " AND lower(recipient) NOT IN (SELECT address FROM account UNION SELECT address FROM alias)"
            " GROUP BY 1 ORDER BY 2 DESC LIMIT 1",
            mailbox << 32,
            (mailbox << 32) + LAST_UID,
        )
        if names and self._make_account(account, names[0][0]):
            return
        self._put_aside_all(mailbox, "its account was lost, and nobody knows who it was")
        self._db.execute("DELETE FROM mailbox WHERE id = ?", (mailbox,))
        text = f"Account number {account} was lost, and nothing says who it was. Add it anew."
        self._tell("lost", f"account {account}", text)

    # Letters

    def _renew_unique_ids(self) -> None:
        """Each letter has a unique-id of its own; one that was damaged gets a new one (RFC 1939 §7)."""
        for (message,) in self._rows(
            "SELECT id FROM message WHERE length(unique_id) <> 16 OR unique_id GLOB '*[^0-9a-f]*' UNION"
            " SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY unique_id ORDER BY id) AS n FROM message)"
            " WHERE n > 1"
        ):
            self._db.execute("UPDATE message SET unique_id = ? WHERE id = ?", (self._unique_ids.next(), message))
            text = "The unique-id of a letter was damaged. It has a new one: clients collect it once more."
            self._tell("mended", f"message {message >> 32}/{message & LAST_UID}", text)

    def _references(self) -> None:
        self._db.execute("CREATE TEMP TABLE used (id INTEGER PRIMARY KEY, times INTEGER)")
        self._db.execute(
            "INSERT INTO used SELECT content, count(*) FROM (SELECT content FROM message UNION ALL"
            " SELECT content FROM tombstone WHERE content IS NOT NULL UNION ALL SELECT content FROM queue) GROUP BY 1"
        )
        times = "ifnull((SELECT times FROM used WHERE used.id = content.id), 0)"
        wrong = self._db.execute(f"UPDATE content SET refs = {times} WHERE refs <> {times}").rowcount  # noqa: S608
        if wrong:
            self._tell("mended", "posthouse.db, content", f"The references to {wrong} contents are counted anew.")
        self._db.execute("DROP TABLE used")

    def _counters(self) -> None:
        """What a mailbox counts, and its next UID: where that may have been given out, all UIDs get a new validity."""
        for mailbox, address, uidnext, there, gone in self._rows(
            "SELECT mailbox.id, account.address, uidnext, ifnull((SELECT max(message.id) FROM message WHERE "  # noqa: S608
            f"{_HAVE}) & 4294967295, 0), ifnull((SELECT max(tombstone.id) FROM tombstone WHERE"
            f" {_HAVE.replace('message', 'tombstone')}) & 4294967295, 0)"
            " FROM mailbox JOIN account ON account.id = mailbox.account"
        ):
            last = max(there, gone)
            if uidnext > last and not self._doubtful:
                continue
            fresh = self._new_uidvalidity()
            following = min(max(uidnext, last + 1) + UNKNOWN_UIDS, LAST_UID)
            self._db.execute(
                "UPDATE mailbox SET uidnext = ?, uidvalidity = ? WHERE id = ?", (following, fresh, mailbox)
            )
            text = "Nobody knows which UIDs were given out: the mailbox has a new UIDVALIDITY, and UIDs are skipped."
            self._tell("mended", f"mailbox {mailbox}", text, [address])
        messages, octets, modseq = (
            f"(SELECT ifnull({what}, 0) FROM message WHERE {_HAVE})"  # noqa: S608 (fixed texts)
            for what in ("count(*)", "sum(size)", "max(modseq)")
        )
        self._db.execute(
            f"UPDATE mailbox SET messages = {messages}, octets = {octets},"  # noqa: S608 (fixed texts)
            f" highestmodseq = max(highestmodseq, {modseq}) + 1"
            f" WHERE messages <> {messages} OR octets <> {octets} OR highestmodseq < {modseq}"
        )
