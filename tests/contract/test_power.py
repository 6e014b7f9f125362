"""A store in memory keeps what was committed when its power is cut, and nobody can use it afterwards."""

from __future__ import annotations

import pytest

from posthouse.mail.reply import Unavailable
from posthouse.ports.store import Delivery
from posthouse.store import open_memory_store, power_cut
from tests.contract.conftest import PREFIX, read


async def test_what_was_committed_is_there_again() -> None:
    store = open_memory_store()
    await store.add_domain("x.mail")
    account = await store.add_account("test@x.mail", "hash")
    draft = store.draft()
    await draft.write(b"Subject: kept\r\n\r\n")
    await store.deliver(draft, [Delivery(account.id, PREFIX)], letter="L")
    lost = store.draft()
    await lost.write(b"Subject: not complete\r\n")

    image = power_cut(store)
    with pytest.raises(Unavailable):
        await store.deliver(lost, [Delivery(account.id, PREFIX)], letter="L2")
    with pytest.raises(Unavailable):
        await store.fetch(account.inbox, [1])

    again = open_memory_store(image=image)
    assert await again.find_account("test@x.mail") == await again.find_account("test@x.mail")
    letters = await again.fetch(account.inbox, [1, 2])
    assert letters[0] is not None and letters[1] is None
    assert (await read(letters[0])).endswith(b"Subject: kept\r\n\r\n")
    assert again.secret() != b""
    await again.close()
