"""Our SMTP client core and our server core, face to face without a socket: what one prints the other parses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.mail.address import Address
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.lines import whole_lines
from posthouse.mail.reply import Reply, Smtp, Style
from posthouse.smtp.client import Answer, Answered, Extensions, SmtpClientCore, Stuffer
from posthouse.smtp.commands import Auth, Bdat, Data, Ehlo, Lhlo, Mail, Quit, Rcpt
from posthouse.smtp.events import ChunkEnded, ContentArrived, DataEnded, LoginStep, Settled
from posthouse.smtp.rules import Mode
from posthouse.smtp.server import SmtpServerCore


class Line:
    """A connection in memory. Everything travels in pieces of `cut` octets."""

    def __init__(self, cut: int, style: Style = Style.POSTHOUSE, mode: Mode = Mode.SUBMISSION) -> None:
        self.cut = cut
        self.client = SmtpClientCore()
        self.server = SmtpServerCore(mode, SmtpLimits(), host="x.mail", style=style, secure=True)
        self.content = b""
        self.seen: list[object] = []
        self._deliver_back(self.server.greeting())

    def say(self, octets: bytes) -> list[Answer]:
        """Sends octets, returns the answers that came."""
        answers: list[Answer] = []
        for place in range(0, len(octets), self.cut):
            self.server.feed(octets[place : place + self.cut])
            while (event := self.server.next_event()) is not None:
                if isinstance(event, ContentArrived):
                    self.content += event.octets
                    continue
                self.seen.append(event)
                reply = self._reply(event)
                many = sum(isinstance(seen, Rcpt) for seen in self.seen) if self._for_each(event) else 1
                answers += self._deliver_back(self.server.send(*[reply] * many))
        return answers

    def _for_each(self, event: object) -> bool:
        """Whether LMTP answers this once for each recipient (RFC 2033 §4.2)."""
        return isinstance(event, DataEnded | ChunkEnded) and self.server.mode is Mode.LMTP

    def _reply(self, event: object) -> Reply:
        if isinstance(event, Settled):
            return event.reply
        if isinstance(event, Ehlo | Lhlo):
            return self.server.hello(event)
        if isinstance(event, DataEnded | ChunkEnded):
            return event.failure or Smtp.QUEUED.fill(id="1", seconds="0.016")
        replies = {LoginStep: Smtp.AUTH_OK, Mail: Smtp.SENDER_OK, Rcpt: Smtp.RCPT_OK, Data: Smtp.START_DATA}
        return replies.get(type(event), Smtp.GOODBYE.fill(host="x.mail"))

    def _deliver_back(self, octets: bytes) -> list[Answer]:
        answers: list[Answer] = []
        for place in range(0, len(octets), self.cut):
            self.client.feed(octets[place : place + self.cut])
            while (event := self.client.next_event()) is not None:
                assert isinstance(event, Answered)
                answers.append(event.answer)
        return answers


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.sampled_from(Style),
    st.lists(st.sampled_from(["a@x.mail", '"a b"@x.mail', "b+c@[192.0.2.1]", "d@x.mail"]), min_size=1, max_size=4),
    st.lists(st.sampled_from([b".", b"\r\n", b"\n", b"\r", b"a", b"RSET", b"..", b"QUIT\r\n"]), max_size=30),
)
def test_a_whole_session(cut: int, style: Style, recipients: list[str], pieces: list[bytes]) -> None:
    line = Line(cut, style)
    client = line.client
    (hello,) = line.say(client.send(Ehlo("client.example")))
    extensions = Extensions.read(hello)
    assert extensions.size == SmtpLimits().message and "PIPELINING" in extensions
    assert extensions.mechanisms == ["PLAIN", "LOGIN"]
    (login,) = line.say(client.send(Auth("PLAIN", "AHRlc3QAc2VjcmV0")))
    assert login.code == 235
    mail = Mail(Address.parse("test@x.mail"), size=100, body="8BITMIME")
    rcpts = [Rcpt(Address.parse(text)) for text in recipients]
    answers = line.say(client.send(mail) + b"".join(map(client.send, rcpts)) + client.send(Data()))
    assert [answer.code for answer in answers] == [250] * (1 + len(recipients)) + [354]
    assert [event for event in line.seen if isinstance(event, Mail | Rcpt)] == [mail, *rcpts]
    stuffer = Stuffer()
    wire = b"".join([*map(stuffer.add, pieces), stuffer.end()])
    client.expect(None)
    (queued,) = line.say(wire)
    assert queued.code == 250 and queued.status == ("" if style is Style.CLASSIC else "2.0.0")
    message = whole_lines(b"".join(pieces))
    assert line.content == message + (b"" if not message or message.endswith(b"\r\n") else b"\r\n")
    (bye,) = line.say(client.send(Quit()))
    assert bye.code == 221 and line.server.closed and client.waiting == 0


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
NOTIFY = st.sampled_from([(), ("NEVER",), ("SUCCESS", "FAILURE"), ("DELAY",)])


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.booleans(),
    st.lists(st.tuples(NOTIFY, st.none() | TEXT.filter(bool)), min_size=1, max_size=3),
    TEXT,
    st.lists(st.sampled_from([b".\r\n", b"a\r\n", b"RSET\r\n", b"..\r\n", b"BDAT 5 LAST\r\n"]), max_size=20),
)
def test_what_is_carried_on(
    cut: int, lmtp: bool, asked: list[tuple[tuple[str, ...], str | None]], envid: str, lines: list[bytes]
) -> None:
    """DSN parameters arrive as they were meant, a counted letter is read to its last octet whatever it holds, and
    LMTP's replies are as many as its recipients."""
    line = Line(cut, mode=Mode.LMTP if lmtp else Mode.SMTP)
    client = line.client
    (hello,) = line.say(client.send(Lhlo("here.example") if lmtp else Ehlo("here.example")))
    extensions = Extensions.read(hello)
    assert "CHUNKING" in extensions and "PIPELINING" in extensions
    mail = Mail(None, body="8BITMIME", ret="HDRS", envid=envid or None)
    rcpts = [
        Rcpt(Address.parse(f"r{number}@x.mail"), notify, None if orcpt is None else f"rfc822;{orcpt}")
        for number, (notify, orcpt) in enumerate(asked)
    ]
    content = b"Subject: x\r\n\r\n" + b"".join(lines)
    chunk = client.send(Bdat(len(content), last=True)) + content
    for _ in rcpts[1:] if lmtp else ():
        client.expect(None)
    answers = line.say(client.send(mail) + b"".join(map(client.send, rcpts)) + chunk)
    assert [event for event in line.seen if isinstance(event, Mail | Rcpt)] == [mail, *rcpts]
    assert line.content == content
    assert [answer.code for answer in answers] == [250] * (1 + len(rcpts) + (len(rcpts) if lmtp else 1))
    assert client.waiting == 0 and not client.left_over
