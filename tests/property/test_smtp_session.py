"""A whole session against any octets: it never fails, never hangs, and leaves no draft behind."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.reply import Fault
from tests.smtp_stage import SmtpStage
from tests.transcript_runner import Client

lines = st.sampled_from(
    [
        b"EHLO pc\r\n",
        b"LHLO pc\r\n",
        b"HELO pc\r\n",
        b"MAIL FROM:<a@x.mail>\r\n",
        b"MAIL FROM:<> SIZE=99999999\r\n",
        "MAIL FROM:<я@x.mail> SMTPUTF8\r\n".encode(),
        b"RCPT TO:<test@x.mail>\r\n",
        b"RCPT TO:<nobody@x.mail>\r\n",
        b"MAIL FROM:<a@x.mail>\r\nRCPT TO:<test@x.mail>\r\nDATA\r\n",
        b"MAIL FROM:<a@x.mail>\r\nRCPT TO:<test@x.mail>\r\nBDAT 7\r\nline 1\n",
        b"Subject: x\r\n\r\n..\r\n.\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"bare\nline\r\n",
        b"x" * 3100 + b"\r\n",
        b"BDAT 5\r\na\r\nb\r",
        b"BDAT 6 LAST\r\nRSET\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 400\r\n",
        b"RSET\r\n",
        b"NOOP\n",
        b"NOOP\0\r\n",
        b"AUTH PLAIN AHRlc3QAc2VjcmV0\r\n",
        b"AUTH LOGIN\r\n",
        b"dGVzdA==\r\n",
        b"c2VjcmV0\r\n",
        b"*\r\n",
        b"VRFY a\r\n",
        b"HELP\r\n",
        b"\r\n",
        b"QUIT\r\n",
        b"\xff\r\n",
    ]
)
faults = st.dictionaries(st.sampled_from(["draft", "write", "deliver", "login"]), st.sampled_from(list(Fault)))
steps = st.tuples(lines | st.binary(max_size=40), st.integers(1, 60), st.none() | faults)


@given(
    st.lists(steps, max_size=25),
    st.sampled_from(["smtp", "submission", "lmtp"]),
    st.sampled_from(["127.0.0.1", "192.0.2.7", "::1"]),
    st.integers(0, 200),
)
def test_any_dialogue_is_survived(
    said: list[tuple[bytes, int, dict[str, Fault] | None]], mode: str, peer: str, stop: int
) -> None:
    async def play() -> None:
        stage = SmtpStage()
        options = {"mode": mode, "message": "3000", "errors": "30", "discard_timeout": "0.001"}
        client = Client(stage.build(options).session, peer)
        for number, (octets, piece, broken) in enumerate(said):
            if broken is not None:
                stage.mail.faults = broken
            for start in range(0, len(octets), piece * piece):
                client.send(octets[start : start + piece * piece])
                await asyncio.sleep(0)
            if number == stop:
                client.wire.ask_to_stop()
        await client.leave()
        assert all(draft.over for draft in stage.mail.drafts)

    asyncio.run(play())
