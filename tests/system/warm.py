"""Commands that are forked from a process which has loaded Posthouse already.

Most of what a short command costs is its interpreter and its imports, and the tests call some thousand of them only
to prepare or to look. Each still is a process of its own, with its own identity, locks, standard streams and exit
code; only the start of the interpreter is shared. The start itself is tested by those tests that run the installed
command: the servers, the clients, doctor.

The warm process runs no thread and no event loop, holds nothing open but its socket, and ends with the one that
started it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

ROOT = Path(__file__).parents[2]
LOADED = (
    "posthouse.accounts.directory",
    "posthouse.accounts.logins",
    "posthouse.cli.admin",
    "posthouse.cli.mailstore",
    "posthouse.cli.main",
    "posthouse.cli.network",
    "posthouse.cli.queue",
    "posthouse.cli.route",
    "posthouse.config.load",
    "posthouse.observe.audit",
    "posthouse.policy.access",
    "posthouse.queue.service",
    "posthouse.store",
    "posthouse.store.sqlite.engine",
)
"""What nearly every command of an administrator imports."""

_NUMBER = struct.Struct("!i")


class _Warm:
    """The warm process of this test run, started when the first command is wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def connect(self) -> socket.socket:
        """A connection for one command."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._start()
            assert self._folder is not None
            path = str(Path(self._folder.name) / "socket")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return connection

    def _start(self) -> None:
        self._owner = os.getpid()
        self._folder = tempfile.TemporaryDirectory(prefix="posthouse-warm-")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(Path(self._folder.name) / "socket"))
            listening.listen(64)
            number = listening.fileno()
            command = [sys.executable, "-m", "tests.system.warm", str(number)]
            # Its standard input is a pipe whose other end goes with this process: so it ends then, too.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, cwd=ROOT, pass_fds=[number], start_new_session=True
            )
        atexit.register(self._stop, self._process, self._folder)

    def _stop(self, process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
        if self._owner != os.getpid():
            return
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
        folder.cleanup()


_warm = _Warm()


def run_warm(arguments: Sequence[str], *, stdin: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs `posthouse` with these arguments, as subprocess.run() would with captured output. Raises
    subprocess.TimeoutExpired after the process was ended."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(_warm.connect())
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin.encode())
        given.seek(0)
        words = json.dumps([list(arguments), dict(os.environ), str(Path.cwd())]).encode()
        files = [given.fileno(), out.fileno(), err.fileno()]
        socket.send_fds(connection, [_NUMBER.pack(len(words))], files)
        connection.sendall(words)
        connection.settimeout(timeout)
        child = _receive_number(connection)
        try:
            code = _receive_number(connection)
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(arguments), timeout, _text(out), _text(err)) from None
        return subprocess.CompletedProcess(list(arguments), code, _text(out), _text(err))


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read())).read()


def _receive_number(connection: socket.socket) -> int:
    return int(_NUMBER.unpack(_receive(connection, _NUMBER.size))[0])


def _receive(connection: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        more = connection.recv(count - len(octets))
        if not more:
            raise AssertionError("the warm process closed the connection")
        octets += more
    return octets


def serve(listening: socket.socket) -> None:
    """The warm process: forks for each connection until its standard input ends."""
    for name in LOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a process with threads must not be forked"
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [], 1.0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if sys.stdin in ready:
            return
        if listening in ready:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _attend(connection)
            connection.close()


def _attend(connection: socket.socket) -> NoReturn:
    """The process of one connection: starts the command and reports its id and its exit code."""
    size, files, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
    arguments, environment, folder = json.loads(_receive(connection, _NUMBER.unpack(size)[0]))
    child = os.fork()
    if child == 0:
        connection.close()
        _become(files, environment, folder)
        _run(arguments)
    with contextlib.suppress(OSError):  # whoever asked may have given up
        connection.sendall(_NUMBER.pack(child))
        _, status = os.waitpid(child, 0)
        connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _become(files: list[int], environment: dict[str, str], folder: str) -> None:
    """Takes on the standard streams, the environment and the folder of the caller."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(  # type: ignore[misc]
        2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
    )


def _run(arguments: list[str]) -> NoReturn:
    """The command, to an end as an interpreter makes it: threads are waited for, what was written goes out."""
    from posthouse.cli.main import main

    sys.argv = ["posthouse", *arguments]
    code = 1
    try:
        code = _number(main)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - what the interpreter prints at its end
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _number(main: object) -> int:
    try:
        assert callable(main)
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        given.setblocking(True)
        serve(given)
