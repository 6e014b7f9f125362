"""The real server as a subprocess: started from the command line, watched through its log, ended by its id."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.warm import run_warm

PASSWORD = "stage-coach-7Kx9"
SENDER = "test@x.mail"
READER = "test2@x.mail"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0

_LISTENING = re.compile(r"\blistening\b.*?\bprotocol=(\w+)\s+address=(\S+)\s+port=(\d+)")


@dataclass(slots=True, frozen=True)
class Endpoint:
    """Where a listener accepts."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """host:port as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def wait_for(condition: Callable[[], bool], said: Callable[[], str], seconds: float = 10.0) -> None:
    """Waits until something has come about, looking again and again; fails with `said()` when it does not."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {said()}")
        time.sleep(0.01)


class ServerFailed(AssertionError):
    """The server did not start, or did not end as it should."""


def find_command() -> str:
    """The `posthouse` command of the environment that runs the tests."""
    return str(Path(sys.executable).with_name("posthouse"))


def run_posthouse(
    data: Path, *arguments: str, stdin: str = "", code: int | None = 0, timeout: float = 50
) -> subprocess.CompletedProcess[str]:
    """Runs one command on a data directory and checks its exit code (None: any). A process of its own, forked from one
    that is warm."""
    done = run_warm(["--data", str(data), *arguments], stdin=stdin, timeout=timeout)
    if code is not None and done.returncode != code:
        raise AssertionError(
            f"posthouse {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
    return done


def add_account(data: Path, address: str, password: str = PASSWORD) -> str:
    """Adds an account from the command line, also beside a running server."""
    run_posthouse(data, "account", "add", address, "--password-stdin", stdin=password + "\n")
    return address


def prepare_data(data: Path) -> Path:
    """A new data directory with the lab's domain and its two accounts."""
    run_posthouse(data, "domain", "add", "x.mail")
    for address in (SENDER, READER):
        add_account(data, address)
    return data


@dataclass(slots=True)
class Server:
    """One run of `posthouse serve`."""

    data: Path
    process: subprocess.Popen[bytes]
    log_file: Path
    listeners: dict[str, list[Endpoint]] = field(default_factory=dict)

    @property
    def smtp(self) -> Endpoint:
        """The first listener for SMTP."""
        return self.listeners["smtp"][0]

    @property
    def submission(self) -> Endpoint:
        """The first listener for submission."""
        return self.listeners["submission"][0]

    @property
    def pop3(self) -> Endpoint:
        """The first listener for POP3."""
        return self.listeners["pop3"][0]

    @property
    def lmtp(self) -> Endpoint:
        """The first listener for LMTP."""
        return self.listeners["lmtp"][0]

    @property
    def submissions(self) -> Endpoint:
        """The first listener for submission within TLS."""
        return self.listeners["submissions"][0]

    @property
    def pop3s(self) -> Endpoint:
        """The first listener for POP3 within TLS."""
        return self.listeners["pop3s"][0]

    @property
    def authority(self) -> Path:
        """The certificate of its own authority, as mail programs are given it."""
        return self.data / "tls" / "ca.crt"

    @property
    def log(self) -> str:
        """Everything it has said on standard error so far."""
        return self.log_file.read_text(errors="replace")

    def memory(self, name: str = "VmRSS") -> int:
        """Octets of memory from /proc: VmRSS now, VmHWM at its highest."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found, status
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Makes VmHWM begin anew at what is used now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def wait_ready(self, listeners: int) -> None:
        """Returns once `ready` was said and the log has named every listener. Raises ServerFailed."""
        assert self.process.stdout is not None
        end = time.monotonic() + START_TIMEOUT
        said = b""
        while b"ready\n" not in said:
            if not select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                self.kill()
                raise ServerFailed(f"not ready after {START_TIMEOUT:.0f} s: {self.log[-3000:]}")
            piece = os.read(self.process.stdout.fileno(), 4096)
            if not piece:
                code = self.process.wait(STOP_TIMEOUT)
                self.process.stdout.close()
                raise ServerFailed(f"ended with {code} before it was ready: {self.log[-3000:]}")
            said += piece
        assert said == b"ready\n", f"standard output holds more than the one line: {said!r}"
        # The log has a thread of its own that collects lines for some milliseconds.
        wait_for(lambda: self._read_listeners() >= listeners, lambda: f"the log lacks a listener: {self.log}")

    def _read_listeners(self) -> int:
        self.listeners = {}
        found = _LISTENING.findall(self.log)
        for protocol, host, port in found:
            self.listeners.setdefault(protocol, []).append(Endpoint(host.strip("\"'[]"), int(port)))
        return len(found)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process and no other."""
        self.process.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Waits for its end and returns the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"still running after {timeout:.0f} s: {self.log[-3000:]}") from None
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        """The ordinary end: SIGTERM, exit code 0, nothing went wrong inside, no secret in the log."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.wait()
        log = self.log
        assert code == 0, f"the server ended with {code}: {log[-3000:]}"
        assert "Traceback" not in log, log[log.index("Traceback") :][:5000]
        check_no_secret(log)


def start_server(
    data: Path,
    *listeners: str,
    options: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    logs: Path | None = None,
    program: Sequence[str] = (),
) -> Server:
    """Starts the server on a data directory. A listener is "smtp" or "pop3=[::1]:0"; a name alone means any free
    port of 127.0.0.1. Its log goes to a file beside the data directory, or into `logs`. Returns once it is ready."""
    server = spawn_server(data, *listeners, options=options, environment=environment, logs=logs, program=program)
    server.wait_ready(len(listeners))
    return server


def spawn_server(
    data: Path,
    *listeners: str,
    options: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    logs: Path | None = None,
    program: Sequence[str] = (),
) -> Server:
    """The same, without waiting for anything. `program` is how to call another installation."""
    command = [*(program or [find_command()]), "--data", str(data), "serve", *options]
    for listener in listeners:
        command += ["--listen", listener if "=" in listener else f"{listener}=127.0.0.1:0"]
    log_file = (logs or data.parent) / f"{data.name}-{time.monotonic_ns()}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | (environment or {}),
            # A terminal's Ctrl-C is for the tests; they end the server themselves.
            start_new_session=True,
        )
    return Server(data, process, log_file)


@contextlib.contextmanager
def serving(
    data: Path,
    *listeners: str,
    options: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    program: Sequence[str] = (),
) -> Iterator[Server]:
    """A server for the length of a `with` block; at its end it is stopped and its last words are checked."""
    server = start_server(data, *listeners, options=options, environment=environment, program=program)
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.stop()


def check_no_secret(text: str) -> None:
    """Fails when the password of the tests stands there, as it is or in any base64 of a login."""
    for secret in _disguises():
        assert secret not in text, (
            f"the password stands in clear ({secret}): {text[max(0, text.index(secret) - 200) :][:400]}"
        )


def _disguises() -> set[str]:
    plain = [f"\0{name}\0{PASSWORD}" for name in (SENDER, READER, "test", "test2")]
    plain += [f"{name}\0{name}\0{PASSWORD}" for name in (SENDER, READER)]
    # base64 of a text within other octets: its inner part for each of the three ways it can be aligned.
    inner = {base64.b64encode(b" " * shift + PASSWORD.encode()).decode()[4:-4] for shift in (0, 1, 2)}
    return {PASSWORD, *inner, *(base64.b64encode(text.encode()).decode() for text in plain)}
