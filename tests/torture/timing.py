"""Whether a failed login tells by its time that the account exists (catalogue A4).

`python -m tests.torture.timing` logs in 200 times as somebody who exists with a wrong password and 200 times as
somebody who does not, in a random order, by each way there is. The best threshold of time may sort at most 60 % of
them right: half would be pure chance, and the best of many thresholds finds some more by luck.
"""

from __future__ import annotations

import argparse
import poplib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from posthouse.clients.login import Exchange
from posthouse.sasl.mechanisms import encode_line
from tests.system.server import SENDER, Server, prepare_data, serving

ALLOWED = 0.60
# Bans, delays and the other brakes are off: what is left is what a login itself tells.
SETTINGS = """\
[accounts]
failure_time = {seconds}
[pop3]
login_failures = 1000
login_timeout = 3600
idle_commands = 1000000
[limits]
delay_longest = 0
pair_failures = 10000
address_accounts = 10000
address_failures = 10000
account_failures = 10000
"""

Attempt = Callable[[poplib.POP3, str], float]


def by_user(client: poplib.POP3, login: str) -> float:
    """USER and PASS; the seconds until the refusal."""
    client.user(login)
    return _timed(client, "PASS wrong-password")


def by_plain(client: poplib.POP3, login: str) -> float:
    """AUTH PLAIN."""
    secret = encode_line(b"\0%b\0wrong-password" % login.encode()).decode()
    return _timed(client, f"AUTH PLAIN {secret}")


def by_scram_proof(client: poplib.POP3, login: str) -> float:
    """AUTH SCRAM-SHA-256, from the proof to the refusal."""
    return _scram(client, login)[1]


def by_scram_salt(client: poplib.POP3, login: str) -> float:
    """AUTH SCRAM-SHA-256, from the name to the salt."""
    return _scram(client, login)[0]


def _scram(client: poplib.POP3, login: str) -> tuple[float, float]:
    import asyncio

    async def steps() -> tuple[float, float]:
        exchange = Exchange("SCRAM-SHA-256", login, "wrong-password")
        first = await exchange.initial()
        assert first is not None
        begun = time.perf_counter()
        client._putcmd(f"AUTH SCRAM-SHA-256 {encode_line(first).decode()}")  # type: ignore[attr-defined] # as poplib's own methods do
        challenge = client.file.readline()
        salt = time.perf_counter() - begun
        return salt, _timed(client, encode_line(await exchange.answer(challenge[2:])).decode())

    return asyncio.run(steps())


def _timed(client: poplib.POP3, line: str) -> float:
    begun = time.perf_counter()
    try:
        client._shortcmd(line)  # type: ignore[attr-defined] # any line
    except poplib.error_proto as error:
        assert b"[AUTH]" in error.args[0], error
        return time.perf_counter() - begun
    raise AssertionError("a wrong password was accepted")


WAYS: dict[str, Attempt] = {
    "USER and PASS": by_user,
    "AUTH PLAIN": by_plain,
    "SCRAM, the salt": by_scram_salt,
    "SCRAM, the proof": by_scram_proof,
}


def best_threshold(known: Sequence[float], unknown: Sequence[float]) -> float:
    """The share that the best threshold sorts right, whichever side it calls known."""
    marked = sorted([(seconds, 1) for seconds in known] + [(seconds, -1) for seconds in unknown])
    below = best = 0
    for _, mark in marked:
        below += mark
        best = max(best, abs(below))
    return 0.5 + best / len(marked)


def measure(server: Server, attempt: Attempt, count: int, seed: int) -> float:
    """`count` logins of each kind in a random order on one connection; what the best threshold sorts right."""
    order = [SENDER] * count + ["nobody@x.mail"] * count
    random.Random(seed).shuffle(order)
    client = poplib.POP3(server.pop3.host, server.pop3.port)
    times: dict[str, list[float]] = {SENDER: [], "nobody@x.mail": []}
    for _ in range(3):
        attempt(client, "warm@x.mail")
    for login in order:
        times[login].append(attempt(client, login))
    client.quit()
    return best_threshold(times[SENDER], times["nobody@x.mail"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures every way; 1 when one of them tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="logins of each kind")
    parser.add_argument("--seconds", type=float, default=0.1, help="accounts.failure_time of the server")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}, {chosen.count} logins of each kind, failure_time {chosen.seconds} s")
    told = False
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        (data / "posthouse.toml").write_text(SETTINGS.format(seconds=chosen.seconds))
        with serving(prepare_data(data), "pop3") as server:
            for name, attempt in WAYS.items():
                right = measure(server, attempt, chosen.count, chosen.seed)
                told |= right > ALLOWED
                print(f"{name:20} {right:6.1%} {'TELLS' if right > ALLOWED else 'ok'}")
    return int(told)


if __name__ == "__main__":
    sys.exit(main())
