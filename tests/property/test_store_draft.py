"""However a letter is cut on its way in, the draft is the same and the same letter comes out."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.ports.store import Delivery
from posthouse.store import Options, open_store

pieces = st.lists(
    st.sampled_from([b"A: b\r\n", b"\r\n", b"\r", b"\n", b"x" * 7, b"\xd0\xbf", b"y" * 900, b"."]), max_size=40
)
cuts = st.lists(st.integers(min_value=1, max_value=600), min_size=1, max_size=30)


@settings(max_examples=40)
@given(pieces, cuts)
def test_a_draft_does_not_depend_on_how_it_is_cut(parts: list[bytes], sizes: list[int]) -> None:
    """Would catch a piece lost, doubled or torn where memory ends and the file begins (here after 1,024 octets)."""
    content = b"".join(parts)

    async def run(path: Path) -> None:
        store = open_store(path, serve=True, options=Options(small=0, reserve=0))
        await store.add_domain("x.mail")
        account = await store.add_account("test@x.mail", "")
        draft = store.draft()
        at = turn = 0
        while at < len(content):
            size = sizes[turn % len(sizes)]
            await draft.write(content[at : at + size])
            at, turn = at + size, turn + 1
            written = content[:at]
            assert draft.size == len(written)
            assert draft.head == written[:1024]
            assert draft.tail == written[-2:]
        end = content.find(b"\r\n\r\n")
        header = content[: end + 4] if end >= 0 else content
        if content.startswith(b"\r\n"):
            header = b"\r\n"
        assert draft.read_header(10_000) == header
        await store.deliver(draft, [Delivery(account.id, b"P: q\r\n")], letter="L")
        (letter,) = await store.fetch(account.inbox, [1])
        assert letter is not None
        lacking = b"" if not content or content.endswith(b"\r\n") else b"\r\n"
        whole = b"".join([chunk async for chunk in letter.chunks()])
        assert whole == b"P: q\r\n" + content + lacking
        ((_, _, size, marks),) = (await store.maildrop(account.inbox)).rows
        assert size == letter.size == len(whole)
        assert marks == (0 if header.isascii() else 2)
        assert [damage async for damage in store.check()] == []
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
