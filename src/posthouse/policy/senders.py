"""Whose address a sender who logged in may name: in the envelope, and as author of the letter (RFC 6409 §6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from posthouse.mail.address import Address, AddressError, domain_key
from posthouse.mail.header import Header
from posthouse.mail.mailboxes import parse_mailboxes
from posthouse.ports.store import Account

AUTHORS: Final = frozenset({"from", "resent-from"})  # RFC 5322 §3.6.2, §3.6.6
CLAIMS: Final = 8192  # octets of such fields that are read, some 200 addresses; one beyond them belongs to nobody


def is_own(account: Account, sender: Address) -> bool:
    """Whether the sender is the account itself."""
    try:
        return sender.key == account.address
    except AddressError:
        return False


def owns(account: Account, sender: Address) -> bool:
    """Whether the sender is the account itself, or one that was granted to it."""
    try:
        key = sender.key
        if key == account.address or key in account.senders:
            return True
        return bool(account.senders) and f"*@{domain_key(sender.domain)}" in account.senders
    except AddressError:
        return False


def owns_one(account: Account, senders: Iterable[Address]) -> bool:
    """Whether at least one of them is."""
    return any(owns(account, sender) for sender in senders)


def claimed(header: Header, names: frozenset[str]) -> tuple[bool, list[Address]]:
    """Whether the header has fields of these names (small letters), and the addresses in them that can be read."""
    found, left = False, CLAIMS
    addresses: list[Address] = []
    for field in header:
        if field.name.lower() in names:
            found = True
            left -= field.end - field.start
            if left >= 0:
                addresses += addresses_in(header.value(field))
    return found, addresses


def addresses_in(value: bytes) -> Iterator[Address]:
    """The addresses of one field; none when it cannot be read."""
    try:
        mailboxes = parse_mailboxes(value.decode("utf-8", "replace"))
    except AddressError:
        return
    for mailbox in mailboxes:
        yield mailbox.address
