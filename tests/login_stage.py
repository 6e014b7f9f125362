"""What the stages of transcripts log in with: octets that are the same in every run, so that SCRAM and CRAM-MD5 have
transcripts, and what a directory keeps of one password."""

from __future__ import annotations

from collections.abc import Sequence

from posthouse.config.schema import AccountSettings
from posthouse.observe.log import Log
from posthouse.ports.directory import Candidates, Directory, Opened
from posthouse.ports.store import Account
from posthouse.ports.system import Clock
from posthouse.sasl.mechanisms import Secrets
from posthouse.sasl.scram import derive
from posthouse.servers.login import LoginService

SALT = b"sixteen octets.."
ITERATIONS = 4096


class Counted:
    """Octets 0, 1, 2 and so on, each time: the server's nonce is AAECAwQFBgcICQoLDA0ODxAR."""

    def octets(self, count: int) -> bytes:
        return bytes(range(count))


def candidates(account: Account | None, passwords: Sequence[str]) -> Candidates:
    """What a directory gives for this account, None for a name that nobody has."""
    if account is None:
        return Candidates(Secrets(SALT, ITERATIONS))
    keys = [derive(password.encode(), SALT, ITERATIONS) for password in passwords]
    opened = [Opened(account, f"app {number}" if number else "") for number in range(len(passwords))]
    secrets = Secrets(SALT, ITERATIONS, keys, [password.encode() for password in passwords])
    return Candidates(secrets, account, opened, opened)


def service(directory: Directory, clock: Clock, log: Log, options: dict[str, str], host: str) -> LoginService:
    """The logins of a stage. Options: scram=off, recoverable=on, failure_time (0 seconds)."""
    settings = AccountSettings(
        scram=options.get("scram", "on"),
        recoverable_passwords=options.get("recoverable", "off"),
        failure_time=float(options.get("failure_time", "0")),
    )
    return LoginService(directory, settings, clock, Counted(), log, host=host)
