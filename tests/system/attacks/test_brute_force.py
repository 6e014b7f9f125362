"""Guessing passwords from one address and from many, against the real server (reliability A4, A5)."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.attacks.conftest import Start
from tests.system.attacks.strangers import connect, first_line, pop3_login, smtp_login
from tests.system.server import PASSWORD, READER, SENDER, Server, run_posthouse, serving, wait_for

QUICK = "delay_longest = 0\n"  # the delays have a test of their own; the bans need none
WRONG = b"-ERR [AUTH]"
BANNED = b"-ERR [SYS/TEMP] Refused"


def bans(server: Server) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run_posthouse(server.data, "ban", "list", "--json").stdout)["bans"]
    return found


def told(server: Server, event: str) -> None:
    """The log has a line of this (its thread collects lines for some milliseconds)."""
    wait_for(lambda: event in server.log, lambda: f"no {event} in {server.log}")


def test_guessing_at_one_account_ends_for_this_address_and_nobody_else(start: Start) -> None:
    with start(QUICK) as server:
        answers = {pop3_login(server.pop3, "127.7.0.1", READER, f"guess{number}") for number in range(10)}
        right = pop3_login(server.pop3, "127.7.0.1", READER, PASSWORD)
        assert answers == {right}, "refused in the words of a wrong password: no hint"
        assert smtp_login(server.submission, "127.7.0.1", READER, PASSWORD).startswith(b"535")
        assert pop3_login(server.pop3, "127.7.0.2", READER, PASSWORD).startswith(b"+OK")
        assert pop3_login(server.pop3, "127.7.0.1", SENDER, PASSWORD).startswith(b"+OK")
        wait_for(lambda: len(bans(server)) == 1, lambda: str(bans(server)))
        assert (bans(server)[0]["place"], bans(server)[0]["account"]) == ("127.7.0.1", READER)
        for event in ("login_refused", " banned "):
            told(server, event)


def test_a_telephone_with_an_old_password_locks_nobody_out(start: Start) -> None:
    with start(QUICK) as server:
        for _ in range(60):
            assert pop3_login(server.pop3, "127.7.0.1", READER, "the old one").startswith(WRONG)
        assert pop3_login(server.pop3, "127.7.0.1", READER, PASSWORD).startswith(b"+OK")


def test_one_address_that_tries_many_accounts_is_not_let_in_any_more(start: Start) -> None:
    with start(QUICK) as server:
        for number in range(5):
            assert pop3_login(server.pop3, "127.7.0.1", f"user{number}@x.mail", "guess").startswith(WRONG)
        assert first_line(server.pop3, "127.7.0.1").startswith(BANNED)
        assert first_line(server.smtp, "127.7.0.1").startswith(b"421 4.7.0 ")
        assert first_line(server.smtp, "127.7.0.2").startswith(b"220")
        wait_for(lambda: len(bans(server)) == 1, lambda: str(bans(server)))
        kept = server.data
    with serving(kept, "smtp=0.0.0.0:0", "pop3=0.0.0.0:0") as server:
        assert first_line(server.pop3, "127.7.0.1").startswith(BANNED), "it survives a restart"
        run_posthouse(kept, "ban", "remove", "127.7.0.1")
        assert first_line(server.pop3, "127.7.0.1").startswith(b"+OK"), "noticed at once"
        run_posthouse(kept, "ban", "add", "127.8.0.0/16", "--for", "1h", "--why", "test")
        assert first_line(server.smtp, "127.8.3.4").startswith(b"421")
        assert first_line(server.smtp, "127.9.3.4").startswith(b"220")
        told(server, "by=administrator")


def test_the_owner_gets_in_while_many_addresses_guess(start: Start) -> None:
    """Would catch a lock-out of the owner by strangers, before and after a restart."""
    sources = [f"127.{100 + number // 200}.{number % 200}.1" for number in range(60)]
    with start(QUICK) as server:
        assert pop3_login(server.pop3, "127.5.0.1", READER, PASSWORD).startswith(b"+OK")
        _guess(server, sources[:20])
        assert _put_off(server, sources[20:40]), "strangers are slowed, then put off"
        assert pop3_login(server.pop3, "127.5.0.1", READER, PASSWORD).startswith(b"+OK")
        assert pop3_login(server.pop3, "127.5.0.77", READER, PASSWORD).startswith(b"+OK"), "his network is known"
        for event in ("login_delayed", "login_put_off"):
            told(server, event)
    with start(QUICK) as server:
        _guess(server, sources[:20])
        assert _put_off(server, sources[20:40]), "strangers begin anew, and are put off again"
        assert pop3_login(server.pop3, "127.5.0.77", READER, PASSWORD).startswith(b"+OK"), "his network still is"


def _guess(server: Server, sources: list[str]) -> None:
    """A wrong password from each, all of them different."""
    with ThreadPoolExecutor(8) as pool:
        work = [
            pool.submit(pop3_login, server.pop3, source, READER, f"guess{number}")
            for number, source in enumerate(sources)
        ]
        assert all(one.result().startswith(WRONG) for one in work)


def _put_off(server: Server, sources: list[str]) -> bool:
    """Whether of so many attempts at once one is answered at once, and told to come back."""
    with contextlib.ExitStack() as crowd:
        for source in sources:
            one = crowd.enter_context(connect(server.pop3, source))
            lines = crowd.enter_context(one.makefile("rb"))
            lines.readline()
            one.sendall(f"USER {READER}\r\n".encode())
            lines.readline()
            one.sendall(f"PASS at once {source}\r\n".encode())
        one.settimeout(20)  # the last one finds all turns of the next half minute taken
        return lines.readline().startswith(b"-ERR [SYS/TEMP]")


def test_this_machine_is_never_banned(start: Start) -> None:
    with start(QUICK) as server:
        for number in range(60):
            answer = pop3_login(server.pop3, "127.0.0.1", f"user{number % 10}@x.mail", f"guess{number}")
            assert answer.startswith(WRONG)
        assert pop3_login(server.pop3, "127.0.0.1", READER, PASSWORD).startswith(b"+OK")
        assert bans(server) == []


def test_a_known_and_an_unknown_name_are_told_the_same(start: Start) -> None:
    """User enumeration by text: the way to the ban looks the same for a name that exists and one that does not."""
    with start(QUICK) as server:
        heard = []
        for name, source in ((READER, "127.7.1.1"), ("nobody@x.mail", "127.7.2.1")):
            said = [pop3_login(server.pop3, source, name, f"guess{number}") for number in range(12)]
            said += [smtp_login(server.submission, source, name, f"guess{number}") for number in range(2)]
            assert len(set(said[:12])) == 1 and len(set(said[12:])) == 1
            heard.append(said)
        assert heard[0] == heard[1]


@pytest.mark.parametrize("source", ["127.7.0.1", "127.0.0.1"])
def test_different_wrong_passwords_are_delayed(start: Start, source: str) -> None:
    """Each but the first by a second here: would catch a delay that is only told in the log."""
    with start("delay_after = 1\ndelay_longest = 1\n") as server:
        times = []
        for number in range(3):
            began = time.monotonic()
            assert pop3_login(server.pop3, source, READER, f"guess{number}").startswith(WRONG)
            times.append(time.monotonic() - began)
        assert all(one >= 1.0 for one in times[1:]), times
        told(server, "login_delayed")
