"""Our SMTP client core and our server core, face to face without a socket: what one prints the other parses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.mail.address import Address
from posthouse.mail.limits import SmtpLimits
from posthouse.mail.lines import whole_lines
from posthouse.mail.reply import Reply, Smtp, Style
from posthouse.smtp.client import Answer, Answered, Extensions, SmtpClientCore, Stuffer
from posthouse.smtp.commands import Auth, Data, Ehlo, Mail, Quit, Rcpt
from posthouse.smtp.events import ContentArrived, DataEnded, LoginStep, Settled
from posthouse.smtp.rules import Mode
from posthouse.smtp.server import SmtpServerCore


class Line:
    """A connection in memory. Everything travels in pieces of `cut` octets."""

    def __init__(self, cut: int, style: Style = Style.POSTHOUSE) -> None:
        self.cut = cut
        self.client = SmtpClientCore()
        self.server = SmtpServerCore(Mode.SUBMISSION, SmtpLimits(), host="x.mail", style=style, secure=True)
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
                answers += self._deliver_back(self.server.send(self._reply(event)))
        return answers

    def _reply(self, event: object) -> Reply:
        if isinstance(event, Settled):
            return event.reply
        if isinstance(event, Ehlo):
            return self.server.hello(event)
        if isinstance(event, DataEnded):
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
