"""What letters are carried on in which form: envelopes, extensions, old hosts, TLS, logins, many recipients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from posthouse.mail.address import Address
from posthouse.mail.envelope import Recipient
from posthouse.mail.limits import RelayLimits
from posthouse.mail.reply import Fault, Unavailable
from posthouse.mta.plan import Hop, NoRoute, Plan
from posthouse.mta.relay import Relay
from posthouse.net.system import SystemClock
from posthouse.net.tls import Trust
from posthouse.observe.transcript import Transcript
from posthouse.ports.queue import Result, Status
from posthouse.ports.system import Endpoint
from tests.carrying import LETTER, Lines, MemoryLetter, parcel, relay
from tests.certificates import Made, make
from tests.system.scripted import Act, ScriptedServer, Talk, host
from tests.system.server import wait_for

D, F, U, R = Status.DEFERRED, Status.FAILED, Status.UNCERTAIN, Status.RELAYED
CYRILLIC = b"Subject: x\r\n\r\n" + "Привет\r\n".encode()


def offer(*keywords: bytes) -> bytes:
    return b"\r\n250-".join([b"250-next.example", *keywords[:-1]]) + b"\r\n250 " + keywords[-1] + b"\r\n"


def said(server: ScriptedServer, verb: bytes) -> list[bytes]:
    return [line for line in server.heard if line.upper().startswith(verb)]


async def heard(server: ScriptedServer, verb: bytes) -> None:
    """Waits until the server has heard it, in its thread."""
    await asyncio.to_thread(wait_for, lambda: bool(said(server, verb)), lambda: repr(server.heard))


async def test_connections_serve_several_letters_and_not_too_many() -> None:
    with ScriptedServer(host()) as server:
        async with relay([server.port], letters=3) as one:
            for _ in range(5):
                (result,) = await one.deliver(parcel())
                assert result.state is R and result.status == "2.0.0" and result.said and result.address == "127.0.0.1"
    assert len(server.talks) == 2 and server.heard.count(LETTER) == 5
    assert [talk.heard[-1] for talk in server.talks] == [b"QUIT", b"QUIT"]
    assert not said(server, b"RSET")  # the end of a letter has cleared everything (RFC 5321 §4.1.1.4)


async def test_a_refused_envelope_is_forgotten_before_the_next_letter() -> None:
    """Catches a second MAIL within a transaction, which the host would refuse with 503."""
    with ScriptedServer(host(rcpt_bad=b"550 5.1.1 unknown\r\n", data=b"503 5.5.1 no recipient\r\n")) as server:
        async with relay([server.port]) as one:
            (bad,) = await one.deliver(parcel("bad@next.example"))
            await one.deliver(parcel("bad@next.example"))
    assert (bad.state, bad.status, bad.stage) == (F, "5.1.1", "rcpt")
    verbs = [line.split(b" ")[0].split(b":")[0] for line in server.talks[0].heard]
    assert verbs == [b"EHLO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"MAIL", b"RCPT", b"DATA", b"QUIT"]


async def test_a_connection_that_the_host_has_closed_costs_no_attempt() -> None:
    def once(talk: Talk) -> None:
        talk.say(b"250 2.0.0 taken\r\n")
        talk.hang_up()

    with ScriptedServer(host(end=once)) as server:
        async with relay([server.port]) as one:
            results = [(await one.deliver(parcel()))[0] for _ in range(3)]
    assert [result.state for result in results] == [R, R, R] and len(server.talks) == 3


async def test_a_host_that_went_away_is_dead_though_a_connection_waited() -> None:
    with ScriptedServer(host()) as server:
        async with relay([server.port]) as one:
            (first,) = await one.deliver(parcel())
            server.__exit__()
            (second,) = await one.deliver(parcel())
    assert first.state is R and (second.state, second.stage, second.dead) == (D, "connect", True)


async def test_a_connection_that_waits_says_goodbye_in_time() -> None:
    with ScriptedServer(host()) as server:
        async with relay([server.port], idle=0.1) as one:
            await one.deliver(parcel())
            await heard(server, b"QUIT")


async def test_a_connection_that_has_waited_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that was lost meanwhile is then lost before the letter is on it."""
    monkeypatch.setattr("posthouse.mta.relay.STILL", 0.0)
    with ScriptedServer(host()) as server:
        async with relay([server.port]) as one:
            results = [(await one.deliver(parcel()))[0].state for _ in range(2)]
    assert results == [R, R] and len(server.talks) == 1 and len(said(server, b"RSET")) == 1


async def test_an_attempt_that_is_broken_off_leaves_no_connection() -> None:
    gone: list[bool] = []

    def slow(talk: Talk) -> None:
        talk.rest()
        gone.append(True)

    with ScriptedServer(host(data=slow)) as server:
        async with relay([server.port], data=30.0) as one:
            task = asyncio.create_task(one.deliver(parcel()))
            await heard(server, b"DATA")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert gone


async def test_each_recipient_has_its_own_result() -> None:
    with ScriptedServer(host(rcpt_bad=b"450 4.2.1 not now\r\n")) as server:
        async with relay([server.port]) as one:
            results = await one.deliver(parcel("a@next.example", "bad@next.example", "c@next.example"))
    assert [(result.state, result.status) for result in results] == [(R, "2.0.0"), (D, "4.2.1"), (R, "2.0.0")]
    assert server.heard.count(LETTER) == 1


@pytest.mark.parametrize("many", [b"452 4.5.3 too many\r\n", b"552 too many\r\n"])
async def test_too_many_recipients_follow_in_further_transactions(many: bytes) -> None:
    """RFC 5321 §4.5.3.1.10: the rest goes at once, over the same connection, as long as it gets on."""

    def counting(talk: Talk) -> None:
        last = len(talk.heard) - 1 - max(n for n, line in enumerate(talk.heard) if line.startswith(b"MAIL"))
        talk.say(b"250 ok\r\n" if last <= 2 else many)

    with ScriptedServer(host(rcpt=counting)) as server:
        async with relay([server.port]) as one:
            results = await one.deliver(parcel(*(f"r{n}@next.example" for n in range(5))))
    assert {result.state for result in results} == {R} and len(server.talks) == 1
    assert server.heard.count(LETTER) == 3


async def test_a_host_that_takes_nobody_because_of_too_many_defers() -> None:
    with ScriptedServer(host(rcpt=b"452 too many\r\n", rcpt_bad=b"552 5.5.3 too many\r\n")) as server:
        async with relay([server.port]) as one:
            results = await one.deliver(parcel("a@next.example", "bad@next.example"))
    assert [(result.state, result.status) for result in results] == [(D, "4.5.3")] * 2
    assert len(said(server, b"MAIL")) == 1


async def test_a_hundred_recipients_a_transaction() -> None:
    with ScriptedServer(host()) as server:
        async with relay([server.port]) as one:
            results = await one.deliver(parcel(*(f"r{n}@next.example" for n in range(250))))
    assert {result.state for result in results} == {R} and len(results) == 250
    assert len(server.talks) == 1 and server.heard.count(LETTER) == 3


async def test_lmtp_answers_for_each_recipient() -> None:
    """RFC 2033 §4.2; and a line that is lost between two answers leaves a doubt only about the rest."""

    def answers(talk: Talk) -> None:
        talk.say(b"250 2.0.0 a has it\r\n452 4.2.2 b is full\r\n")
        talk.hang_up()

    with ScriptedServer(host(end=answers)) as server:
        async with relay([server.port], plan={"protocol": "lmtp"}) as one:
            results = await one.deliver(parcel("a@next.example", "bad@n.example", "b@next.example", "c@next.example"))
    assert [result.state for result in results] == [R, F, D, U]
    assert said(server, b"LHLO") == [b"LHLO here.example"] and not said(server, b"EHLO")


async def test_what_was_asked_for_goes_on_to_hosts_that_know_it() -> None:
    """RFC 3461 §5.2.1; AUTH= says nothing about whom we cannot vouch for (RFC 4954 §5)."""
    asked = Recipient(Address.parse("b@next.example"), ("SUCCESS", "DELAY"), "rfc822;b+c@here.example")
    wishes: dict[str, Any] = {"ret": "HDRS", "envid": "id =1", "auth": "anna@here.example"}
    with ScriptedServer(host(offer(b"DSN", b"AUTH PLAIN", b"PIPELINING"))) as knows, ScriptedServer(host()) as old:
        async with relay([knows.port]) as one, relay([old.port]) as other:
            (promised,) = await one.deliver(parcel(asked, **wishes))
            (silent,) = await other.deliver(parcel(asked, **wishes))
    assert promised.dsn and not silent.dsn and silent.state is R
    (mail,) = said(knows, b"MAIL")
    assert mail.endswith(b"RET=HDRS ENVID=id+20+3D1 AUTH=<>")
    assert said(knows, b"RCPT") == [b"RCPT TO:<b@next.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bc@here.example"]
    assert said(old, b"RCPT") == [b"RCPT TO:<b@next.example>"]
    assert said(old, b"MAIL") == [b"MAIL FROM:<anna@here.example> SIZE=%d" % len(LETTER)]


async def test_the_null_sender_and_a_size_that_is_too_large() -> None:
    with ScriptedServer(host(offer(b"SIZE 50"))) as server:
        async with relay([server.port]) as one:
            (result,) = await one.deliver(parcel(sender=None))
            (small,) = await one.deliver(parcel(sender=None, letter=b"Subject: x\r\n\r\n"))
    assert (result.state, result.status) == (F, "5.3.4") and result.reply.startswith("552 ")
    assert small.state is R and said(server, b"MAIL") == [b"MAIL FROM:<> SIZE=14"]


async def test_an_old_host_gets_helo() -> None:
    with ScriptedServer(host(ehlo=b"502 what?\r\n")) as server:
        async with relay([server.port]) as one:
            (result,) = await one.deliver(parcel())
    assert result.state is R and said(server, b"HELO") == [b"HELO here.example"]
    assert said(server, b"MAIL") == [b"MAIL FROM:<anna@here.example>"]


@pytest.mark.parametrize("piece", [0, 1000])
async def test_eight_bit_letters(piece: int) -> None:
    """Declared where the host offers 8BITMIME, rewritten where it does not (RFC 6152 §3)."""
    letter = MemoryLetter(CYRILLIC + b"x" * 2000 * bool(piece) + b"\r\n", piece=piece)
    with ScriptedServer(host(offer(b"8BITMIME"))) as new, ScriptedServer(host(offer(b"PIPELINING"))) as old:
        async with relay([new.port]) as one, relay([old.port]) as other:
            assert (await one.deliver(parcel(letter=letter)))[0].state is R
            assert (await other.deliver(parcel(letter=letter)))[0].state is R
    assert said(new, b"MAIL")[0].endswith(b" BODY=8BITMIME") and not said(old, b"MAIL")[0].endswith(b"BODY=8BITMIME")
    (got,) = [heard for heard in old.heard if heard.startswith(b"Subject: x")]
    assert (got.isascii() and b"=D0=9F" in got) or b"0J/RgNC40LLQtdGC" in got
    (untouched,) = [heard for heard in new.heard if heard.startswith(b"Subject: x")]
    assert "Привет".encode() in untouched or piece  # with a long line it is rewritten too


async def test_a_large_letter_is_rewritten_in_files() -> None:
    letter = MemoryLetter(b"Subject: x\r\n\r\n" + "Привет, мир\r\n".encode() * 150_000, piece=262_144)
    with ScriptedServer(host(offer(b"PIPELINING"))) as server:
        async with relay([server.port], content=20.0, end_of_data=20.0) as one:
            (result,) = await one.deliver(parcel(letter=letter))
    assert result.state is R and result.status == "2.0.0"
    (got,) = [heard for heard in server.heard if heard.startswith(b"Subject: x")]
    assert got.isascii() and len(got) > 3_000_000


async def test_a_signed_eight_bit_letter_is_returned_or_sent_as_the_administrator_has_it() -> None:
    signed = b"DKIM-Signature: v=1\r\n" + CYRILLIC
    with ScriptedServer(host(offer(b"PIPELINING"))) as server:
        async with relay([server.port]) as strict, relay([server.port], send_eight_bit=True) as lax:
            (returned,) = await strict.deliver(parcel(letter=signed))
            await strict.close()
            (sent,) = await lax.deliver(parcel(letter=signed))
    assert (returned.state, returned.status, returned.said) == (F, "5.6.3", False) and "signed" in returned.reply
    assert sent.state is R and server.heard.count(signed) == 1


async def test_long_lines_are_broken_but_in_signed_letters() -> None:
    long = b"Subject: x\r\n\r\n" + b"x" * 3000 + b"\r\n"
    signed = b"DKIM-Signature: v=1\r\n" + long
    with ScriptedServer(host()) as server:
        async with relay([server.port]) as one:
            assert (await one.deliver(parcel(letter=long)))[0].state is R
            assert (await one.deliver(parcel(letter=signed)))[0].state is R
    assert signed in server.heard and long not in server.heard
    assert all(len(line) <= 998 for one in server.heard if one.startswith(b"Subject") for line in one.split(b"\r\n"))


async def test_addresses_beyond_ascii() -> None:
    """RFC 6531 §3.5: a host without SMTPUTF8 gets what ASCII can say, and nothing else."""
    recipients = ("a@next.example", "b@пример.example", "д@next.example")
    with ScriptedServer(host(offer(b"SMTPUTF8", b"8BITMIME"))) as new, ScriptedServer(host()) as old:
        async with relay([new.port]) as one, relay([old.port]) as other:
            assert [r.state for r in await one.deliver(parcel(*recipients, smtputf8=True))] == [R, R, R]
            results = await other.deliver(parcel(*recipients, smtputf8=True))
            (header,) = await other.deliver(parcel(letter="Subject: ж\r\n\r\nx\r\n".encode(), smtputf8=True))
            (sender,) = await other.deliver(parcel(sender="анна@here.example"))
    assert said(new, b"MAIL")[0].endswith(b" SMTPUTF8")
    assert [(result.state, result.status) for result in results] == [(R, "2.0.0"), (R, "2.0.0"), (F, "5.6.7")]
    assert said(old, b"RCPT") == [b"RCPT TO:<a@next.example>", b"RCPT TO:<b@xn--e1afmkfd.example>"]
    assert (header.status, sender.status) == ("5.6.7", "5.6.7") and {header.state, sender.state} == {F}


async def test_a_letter_that_cannot_be_read_is_not_sent_in_part() -> None:
    """A torn letter must never have a final dot; and the sender does not learn our paths."""
    broken = MemoryLetter(LETTER * 3000, piece=10_000, broken=Unavailable(Fault.DAMAGED, "/var/lib/secret is damaged"))
    with ScriptedServer(host()) as server:
        async with relay([server.port]) as one:
            (result,) = await one.deliver(parcel(letter=broken))
    assert (result.state, result.status, result.said) == (D, "4.3.0", False) and "secret" not in result.reply
    assert not any(heard.endswith(b".\r\n.\r\n") for heard in server.heard)


async def test_no_route_and_faults_of_ours_are_results() -> None:
    none = Result(F, "550 5.1.10 takes no mail", "5.1.10", "dns")

    async def nowhere(destination: str) -> Plan:
        raise NoRoute(none) if destination == "next.example" else KeyError(destination)

    log = Lines()
    one = Relay(nowhere, log, SystemClock(), name="here.example")
    assert await one.deliver(parcel("a@n.example", "b@n.example")) == [none, none]
    wrong = parcel()
    wrong.destination = "other.example"
    (result,) = await one.deliver(wrong)
    assert (result.state, result.status) == (D, "4.3.0") and log.of("relay_failed")


async def test_a_silent_address_costs_a_quarter_of_a_second() -> None:
    """RFC 8305 §5; the connection that comes too late is closed."""
    with ScriptedServer(host()) as server:

        async def connect(address: str, port: int, timeout: float) -> Any:
            from posthouse.net.dial import open_address

            if address == "192.0.2.1":
                await asyncio.sleep(timeout)
            return await open_address("127.0.0.1", server.port, timeout)

        async def plan(destination: str) -> Plan:
            return Plan((Hop("mx.next.example", 25, ("192.0.2.1", "192.0.2.2")),))

        one = Relay(plan, Lines(), SystemClock(), name="here.example", connect=connect)
        begun = asyncio.get_running_loop().time()
        (result,) = await one.deliver(parcel())
        assert result.state is R and result.address == "192.0.2.2"
        assert 0.2 < asyncio.get_running_loop().time() - begun < 3
        await one.close()


# TLS and logins


TLS = offer(b"STARTTLS", b"AUTH PLAIN", b"PIPELINING")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A good certificate for localhost."""
    return make(tmp_path_factory.mktemp("certificates"))


async def attempt(
    server: ScriptedServer, tls: str, *, trust: Trust | None = None, name: str = "localhost", **plan: Any
) -> tuple[Result, str]:
    """One letter to a host with that way of TLS; the result, and the transcript of it all."""
    lines: list[str] = []

    class Watch:
        def session(self, protocol: str, local: Endpoint, peer: Endpoint) -> Transcript:
            assert protocol == "smtp" and peer.port == server.port
            return Transcript(lines.append)

    async def planned(destination: str) -> Plan:
        return Plan((Hop(name, server.port, ("127.0.0.1",)),), tls, **plan)

    limits = RelayLimits(tls_here=True, greeting=3.0, hello=3.0)
    one = Relay(planned, Lines(), SystemClock(), name="here.example", limits=limits, trust=trust, observer=Watch())
    (result,) = await one.deliver(parcel())
    await one.close()
    return result, "".join(lines)


def hang_up(talk: Talk) -> None:
    talk.say(b"220 go on\r\n")
    talk.peer_is_there(5.0)  # the handshake begins
    talk.hang_up()


@pytest.mark.parametrize(
    ("case", "tls", "state", "encrypted"),
    [
        ("offered", "none", R, False),
        ("offered", "opportunistic", R, True),
        ("offered", "required", R, True),
        ("offered", "verified", R, True),
        ("foreign", "opportunistic", R, True),
        ("foreign", "required", R, True),
        ("foreign", "verified", D, False),
        ("stripped", "opportunistic", R, False),
        ("stripped", "required", D, False),
        ("stripped", "verified", D, False),
        ("broken", "opportunistic", R, False),
        ("broken", "required", D, False),
        ("refused", "opportunistic", R, False),
        ("refused", "required", D, False),
        ("injected", "opportunistic", D, False),
        ("injected", "required", D, False),
    ],
)
async def test_ways_of_tls(made: Made, case: str, tls: str, state: Status, encrypted: bool) -> None:
    """Encrypted whenever that can be had, in the clear only where nobody insists, and never behind an injection."""
    starttls: dict[str, Act] = {
        "broken": hang_up,
        "refused": b"454 4.7.0 not now\r\n",
        "injected": b"220 go on\r\n250 injected\r\n",
    }
    acts = {"starttls": starttls[case]} if case in starttls else {}
    script = host(offer(b"PIPELINING") if case == "stripped" else TLS, made.pem, **acts)
    with ScriptedServer(script) as server:
        name = "mx.other.example" if case == "foreign" else "localhost"
        result, transcript = await attempt(server, tls, trust=Trust(made.authority), name=name)
    assert result.state is state, result
    assert ("TLSv1." in transcript and " ~> MAIL" in transcript) is encrypted
    assert (LETTER in server.heard) is (state is R)
    if state is D:
        assert result.stage == "tls" and result.status.startswith("4.") and result.dead


async def test_tls_with_the_first_octet(made: Made) -> None:
    usual = host(offer(b"PIPELINING"))

    def script(talk: Talk) -> None:
        if talk.start_tls(made.pem):
            usual(talk)

    with ScriptedServer(script) as server:
        result, transcript = await attempt(server, "implicit", trust=Trust(made.authority))
        unknown, _ = await attempt(server, "implicit")
    assert result.state is R and "<~  220" in transcript
    assert (unknown.state, unknown.status) == (D, "4.7.5") and "certificate" in unknown.reply


async def test_authorities_that_cannot_be_read_are_our_fault(tmp_path: Path, made: Made) -> None:
    """The letter waits; its sender does not learn the path."""
    with ScriptedServer(host(TLS, made.pem)) as server:
        result, _ = await attempt(server, "verified", trust=Trust(tmp_path / "gone.pem"))
    assert (result.state, result.status, result.stage) == (D, "4.3.0", "tls") and str(tmp_path) not in result.reply


@pytest.mark.parametrize("answer", [b"235 ok\r\n", b"535 5.7.8 wrong\r\n", b"454 4.7.0 later\r\n"])
async def test_the_login_of_a_route(made: Made, answer: bytes) -> None:
    """A login that is refused is the administrator's to mend: the letter waits meanwhile. The password is nowhere."""
    with ScriptedServer(host(TLS, made.pem, auth=answer)) as server:
        result, transcript = await attempt(server, "verified", trust=Trust(made.authority), login=("anna", "pa55word"))
    assert result.state is (R if answer.startswith(b"2") else D), result
    assert "AUTH PLAIN ********" in transcript and "pa55word" not in transcript + repr(result)
    assert (result.stage == "auth") is (result.state is D)


async def test_a_password_never_passes_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.clients.smtp.is_loopback", lambda host: False)
    with ScriptedServer(host(offer(b"AUTH PLAIN"))) as server:
        result, _ = await attempt(server, "opportunistic", login=("anna", "pa55word"))
    assert (result.state, result.status, result.stage) == (D, "4.7.4", "auth") and not said(server, b"AUTH")
