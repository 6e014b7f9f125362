"""Aliases: addresses here that stand for others. What the reception asks, and the service behind `posthouse alias`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from posthouse.accounts.directory import BadName, account_name, domain_name
from posthouse.mail.address import Address, AddressError, domain_text
from posthouse.observe.audit import Record, no_record
from posthouse.ports.store import Alias, Conflict, Missing, Store
from posthouse.ports.system import Clock

TARGETS: Final = 100  # of one alias; more is a mailing list
NOTE: Final = 200  # characters


class AliasService:
    """The aliases of one store."""

    __slots__ = ("_clock", "_record", "_store")

    def __init__(self, store: Store, clock: Clock, record: Record = no_record) -> None:
        self._store = store
        self._clock = clock
        self._record = record

    async def put(self, address: str, targets: Sequence[str], *, note: str = "", replace: bool = False) -> Alias:
        """Makes an address stand for others. Raises BadName, Conflict, Missing, Unavailable."""
        key = account_name(address)
        names = list(dict.fromkeys(target_name(target) for target in targets))
        if not names:
            raise BadName(f"For whom does {key} stand? Name at least one address with --to.")
        if len(names) > TARGETS:
            raise BadName(f"{len(names)} addresses are too many: an alias has at most {TARGETS}.")
        if key in names:
            raise BadName(f"{key} cannot stand for itself. An address with a mailbox is an account.")
        if len(note) > NOTE or not note.isprintable():
            raise BadName(f"A note is one line of at most {NOTE} characters.")
        alias = Alias(key, tuple(names), note, self._clock.now())
        try:
            await self._store.put_alias(alias, replace=replace)
        except Missing:
            name = domain_text(key.rpartition("@")[2])
            raise Missing(f"There is no domain {name} here. Add it with: posthouse domain add {name}") from None
        except Conflict:
            if await self._store.find_account(key) is not None:
                raise Conflict(f"{key} is an account: it has a mailbox of its own.") from None
            raise Conflict(f"There is an alias {key} already. --replace gives it other addresses.") from None
        self._record("alias_added", alias=key, targets=names)
        return alias

    async def remove(self, address: str) -> str:
        """Takes an alias away; returns its address. Raises BadName, Missing."""
        key = account_name(address)
        try:
            await self._store.remove_alias(key)
        except Missing:
            raise Missing(f"There is no alias {key} here. posthouse alias list shows those there are.") from None
        self._record("alias_removed", alias=key)
        return key

    async def list(self, domain: str | None = None) -> Sequence[Alias]:
        """All aliases, or those of one domain, by address. Raises BadName."""
        return await self._store.aliases(None if domain is None else domain_name(domain))


def target_name(text: str) -> str:
    """The one form of an address that an alias stands for; its domain may be anybody's. Raises BadName."""
    try:
        parsed = Address.parse(text.strip())
        key = parsed.key
    except AddressError as error:
        raise BadName(f'"{text}" is not a mail address ({error}). Write one such as anna@example.org.') from None
    if not parsed.domain:
        raise BadName(f'"{text}" has no domain. Write one such as {text}@example.org.')
    return key
