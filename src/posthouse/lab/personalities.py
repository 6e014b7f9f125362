"""Hosts with manners of their own: they refuse for a time, or put off whom they do not know.

A host in the box receives letters with the same code as every server. A `Manner` only adds refusals to it, as an
administrator's policy would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final

from posthouse.lab.network import CALLED
from posthouse.lab.record import ARRIVING
from posthouse.lab.schema import RefusalSpec
from posthouse.mail.reply import Rejected, Smtp
from posthouse.mta.reception import Accepted, Client, Reception, Transaction
from posthouse.ports.store import Draft
from posthouse.smtp.commands import Mail, Rcpt

HERE: Final = "127."  # this machine's own people are never refused


@dataclass(slots=True)
class Manner:
    """How a host treats what comes from others. `greylist`: seconds for which the first letter of a sender to a
    recipient from a network is put off."""

    refusals: Sequence[RefusalSpec] = ()
    greylist: float = 0.0
    _seen: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def judge(self, stage: str, client: Client, recipient: str = "") -> None:
        """Raises Rejected when a refusal of the scenario holds now."""
        if client.address.startswith(HERE):
            return
        now = asyncio.get_running_loop().time()
        for one in self.refusals:
            if one.stage == stage and one.begin <= now < one.end and one.recipient in ("", recipient):
                raise Rejected(one.reply)

    def greet(self, client: Client, sender: str, recipient: str) -> None:
        """Raises Rejected as long as this sender is new to this recipient (RFC 6647 §4.1)."""
        if not self.greylist or client.address.startswith(HERE):
            return
        now = asyncio.get_running_loop().time()
        since = self._seen.setdefault((_network(client.address), sender, recipient), now)
        if now < since + self.greylist:
            minutes = int(-((now - since - self.greylist) // 60))
            raise Rejected(Smtp.GREYLISTED.fill(minutes=minutes))


def _network(address: str) -> str:
    return str(ip_network(f"{address}/{64 if ':' in address else 24}", strict=False))


class MannerlyReception(Reception):
    """The reception of a server in the box. It also says whose letter is being accepted, for the records."""

    __slots__ = ("_manner",)

    def __init__(self, *arguments: Any, manner: Manner, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._manner = manner

    def begin(self, mail: Mail, client: Client) -> Transaction:
        """MAIL."""
        self._manner.judge("mail", client)
        return super().begin(mail, client)

    async def recipient(self, transaction: Transaction, rcpt: Rcpt) -> None:
        """RCPT. Who does not exist is refused for good before anybody is put off."""
        client, sender = transaction.client, transaction.envelope.sender
        self._manner.judge("rcpt", client, rcpt.address.key)
        if self._manner.greylist:
            await self._target(client, rcpt.address)
            self._manner.greet(client, "" if sender is None else sender.key, rcpt.address.key)
        await super().recipient(transaction, rcpt)

    def open(self, transaction: Transaction) -> Draft:
        """DATA."""
        if transaction.draft is None:
            self._manner.judge("data", transaction.client)
        return super().open(transaction)

    async def accept(self, transaction: Transaction) -> Accepted:
        """The end of the letter."""
        self._manner.judge("end", transaction.client)
        token = ARRIVING.set(transaction.client)
        try:
            accepted = await super().accept(transaction)
        finally:
            ARRIVING.reset(token)
        if (call := CALLED.get()) is not None:
            call.taken()
        return accepted
