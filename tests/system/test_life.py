"""The server's life as an administrator sees it: start, listeners, commands beside it, signals, end."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.letters import check_same, letter
from tests.system.programs import leave_out
from tests.system.raw import Raw, collect, deliver, greeted, logged_in, stuffed
from tests.system.server import (
    PASSWORD,
    READER,
    SENDER,
    Endpoint,
    Server,
    add_account,
    check_no_secret,
    run_posthouse,
    serving,
    spawn_server,
    start_server,
    wait_for,
)

ALL = ("smtp", "submission", "pop3", "lmtp")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_both_event_loops(data: Path, loop: str) -> None:
    """Would catch something that works on one event loop only."""
    content = letter("dots")
    with serving(data, "smtp", "pop3", environment={"POSTHOUSE_LOOP": loop}) as server:
        assert deliver(server.smtp, [READER], content).startswith(b"250")
        [collected] = collect(server.pop3, READER)
        check_same(collected, content)


def test_letters_outlive_the_server(data: Path) -> None:
    """Would catch letters, unique-ids or sizes that change from one run to the next."""
    with serving(data, "smtp", "pop3") as server:
        for kind in ("1 KiB", "10 MiB"):
            assert deliver(server.smtp, [READER], letter(kind)).startswith(b"250")
        before = _listing(server)
    with serving(data, "smtp", "pop3") as server:
        assert _listing(server) == before
        small, large = collect(server.pop3, READER)
        check_same(small, letter("1 KiB"))
        check_same(large, letter("10 MiB"))
    run_posthouse(data, "doctor", "--store")


def _listing(server: Server) -> tuple[bytes, bytes]:
    with logged_in(server.pop3, READER) as session:
        session.pop(b"UIDL")
        ids = session.multiline()
        session.pop(b"LIST")
        return ids, session.multiline()


def test_several_listeners(data: Path) -> None:
    """Two of each kind, all of them work."""
    with serving(data, "smtp", "smtp", "pop3", "pop3") as server:
        for endpoint in server.listeners["smtp"]:
            assert deliver(endpoint, [READER], letter("1 KiB")).startswith(b"250")
        for endpoint in server.listeners["pop3"]:
            assert len(collect(endpoint, READER, delete=False)) == 2


def test_ipv6(data: Path) -> None:
    """The same over ::1, beside IPv4."""
    if not _has_ipv6():
        leave_out("this machine has no address ::1")
    with serving(data, "smtp=[::1]:0", "smtp", "pop3=[::1]:0") as server:
        by_host = {endpoint.host: endpoint for endpoint in server.listeners["smtp"]}
        assert sorted(by_host) == ["127.0.0.1", "::1"]
        for endpoint in by_host.values():
            assert deliver(endpoint, [READER], letter("1 KiB")).startswith(b"250")
        letters = collect(server.pop3, READER)
        assert b"[IPv6:::1]" in letters[list(by_host).index("::1")]  # RFC 5321 §4.1.3


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_busy_port(data: Path) -> None:
    """The error names the port and what to do; nothing else is printed and nothing stays open."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = spawn_server(data, f"smtp=127.0.0.1:{port}", "pop3")
        code = server.wait()
    assert code not in (0, 1), code
    assert str(port) in server.log
    assert "in use" in server.log
    assert "Traceback" not in server.log


def test_second_server_is_refused(data: Path) -> None:
    """Two servers on one data directory would damage it: the second says so and the first does not notice."""
    with serving(data, "smtp", "pop3") as first:
        second = spawn_server(data, "smtp", "pop3")
        code = second.wait()
        assert code not in (0, 1), code
        assert "Traceback" not in second.log
        assert str(data) in second.log, second.log
        assert deliver(first.smtp, [READER], letter("1 KiB")).startswith(b"250")
        assert len(collect(first.pop3, READER)) == 1


def test_accounts_change_beside_it(server: Server) -> None:
    """Accounts added, changed and removed by the command line work at once, without a signal."""
    with greeted(server.smtp) as session:
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<late@x.mail>", b"550")
        add_account(server.data, "late@x.mail")
        session.ask(b"RCPT TO:<late@x.mail>", b"250")
    assert collect(server.pop3, "late@x.mail") == []
    run_posthouse(server.data, "account", "passwd", "late@x.mail", "--password-stdin", stdin="another one\n")
    with Raw(server.pop3) as session:
        session.line()
        session.pop(b"USER late@x.mail")
        session.pop(b"PASS " + PASSWORD.encode(), b"-ERR")
        session.pop(b"USER late@x.mail")
        session.pop(b"PASS another one")
        session.pop(b"QUIT")
    run_posthouse(server.data, "account", "remove", "late@x.mail")
    with greeted(server.smtp) as session:
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<late@x.mail>", b"550")


def test_files_keep_their_owner(prepared: Path) -> None:
    """A command run by root beside a server of another user leaves no file of root's in the data directory."""
    if os.geteuid() != 0:
        leave_out("only root can act for another user")
    owner = 65534
    # Not below pytest's own folder, which only root may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(shutil.copytree(prepared, Path(folder) / "data"))
        for file in [data, *data.rglob("*")]:
            os.chown(file, owner, owner)
        add_account(data, "third@x.mail")
        run_posthouse(data, "doctor", "--store")
        wrong = [str(file) for file in [data, *data.rglob("*")] if file.stat().st_uid != owner]
    assert wrong == []


def test_a_configuration_that_only_root_may_read(prepared: Path) -> None:
    """Would catch a command that reads its configuration once more after it has given up root's rights."""
    if os.geteuid() != 0:
        leave_out("only root can act for another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(shutil.copytree(prepared, Path(folder) / "data"))
        for file in [data, *data.rglob("*")]:
            os.chown(file, 65534, 65534)
        config = Path(folder) / "posthouse.toml"
        config.write_text("")
        config.chmod(0o600)
        run_posthouse(
            data, "--config", str(config), "account", "add", "third@x.mail", "--password-stdin", stdin="pw-7Kx9-pw\n"
        )
        run_posthouse(data, "--config", str(config), "network", "add", "192.0.2.0/24")
        run_posthouse(data, "--config", str(config), "ban", "add", "192.0.2.7")


def test_transcripts(data: Path, tmp_path: Path) -> None:
    """Every session is written down with what was said, and no password stands in any file."""
    folder = tmp_path / "transcripts"
    with serving(data, *ALL, options=["--transcript", str(folder)]) as server:
        _log_in_every_way(server)
        assert deliver(server.smtp, [READER], b"Subject: seen in the transcript\r\n\r\nHello\r\n").startswith(b"250")
        collect(server.pop3, READER)
    texts = {file: file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file()}
    whole = "\n".join(texts.values())
    for said in ("AUTH PLAIN", "AUTH LOGIN", "USER test2@x.mail", "PASS ", "RCPT TO:<test2@x.mail>", "235 ", "RETR 1"):
        assert said in whole, f"{said!r} stands in no transcript: {whole[:3000]}"
    for file, text in texts.items():
        check_no_secret(text)
        assert file.stat().st_mode & 0o077 == 0, f"others can read {file}"
    for file in data.rglob("*"):
        if file.is_file():
            check_no_secret(file.read_bytes().decode("latin-1"))


def _log_in_every_way(server: Server) -> None:
    plain = base64.b64encode(f"\0{SENDER}\0{PASSWORD}".encode())
    user, password = (base64.b64encode(text.encode()) for text in (SENDER, PASSWORD))
    for commands in ([b"AUTH PLAIN " + plain], [b"AUTH PLAIN", plain], [b"AUTH LOGIN", user, password]):
        with greeted(server.smtp) as session:
            for command in commands:
                session.ask(command, b"235" if command is commands[-1] else b"334")
            session.ask(b"QUIT", b"221")
    with greeted(server.smtp) as session:  # a login that fails, and one in the wrong state
        session.ask(b"AUTH PLAIN " + base64.b64encode(f"\0nobody@x.mail\0{PASSWORD}".encode()), b"535")
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"AUTH PLAIN " + plain, b"503")
    with logged_in(server.pop3, READER) as session:
        session.pop(b"PASS " + PASSWORD.encode(), b"-ERR")
        session.pop(b"QUIT")
    with Raw(server.pop3) as session:
        session.line()
        session.pop(b"AUTH PLAIN " + plain)
        session.pop(b"QUIT")
    with Raw(server.pop3) as session:
        session.line()
        session.pop(b"PASS " + PASSWORD.encode(), b"-ERR")


def test_sigterm_under_load(data: Path) -> None:
    """Whoever sends may finish, whoever waits is told 421, every 250 is kept, and the end comes within seconds."""
    content = letter("1 KiB")
    server = start_server(data, "smtp", "pop3")
    try:
        with _senders(server.smtp, content, count=4) as accepted:
            idle = greeted(server.smtp)
            busy = greeted(server.smtp)
            busy.ask(b"MAIL FROM:<>", b"250")
            busy.ask(b"RCPT TO:<%s>" % READER.encode(), b"250")
            busy.ask(b"DATA", b"354")
            busy.send(stuffed(content)[:500])
            wait_for(lambda: len(accepted) >= 20, lambda: f"only {len(accepted)} letters were accepted")
            server.signal(signal.SIGTERM)
            assert idle.reply().startswith(b"421")
            assert idle.rest() == b""
            busy.send(stuffed(content)[500:])
            assert busy.reply().startswith(b"250")
            idle.close()
            busy.close()
            server.stop()
    except BaseException:
        server.kill()
        raise
    with serving(data, "pop3") as server:
        letters = collect(server.pop3, READER)
    # One that was stored may have lost its 250 on the way; none that had it may be missing.
    assert len(accepted) + 1 <= len(letters) <= len(accepted) + 1 + 4
    for collected in letters:
        check_same(collected, content)


@contextmanager
def _senders(endpoint: Endpoint, content: bytes, count: int) -> Iterator[list[bytes]]:
    """Threads that send letters until the server goes away; yields the list of its 250 replies."""
    accepted: list[bytes] = []

    def send() -> None:
        try:
            with greeted(endpoint) as session:
                while True:
                    session.send(b"MAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n" % READER.encode())
                    if [session.reply()[:3] for _ in range(3)] != [b"250", b"250", b"354"]:
                        return
                    session.send(stuffed(content))
                    reply = session.reply()
                    if not reply.startswith(b"250"):
                        return
                    accepted.append(reply)
        except OSError:
            return

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield accepted
    finally:
        for thread in threads:
            thread.join(30)


def test_silent_client_cannot_hold_the_end(data: Path) -> None:
    """A message that never ends is cut off after the bounded time of a graceful stop."""
    server = start_server(data, "smtp")
    with greeted(server.smtp) as session:
        session.ask(b"MAIL FROM:<>", b"250")
        session.ask(b"RCPT TO:<%s>" % READER.encode(), b"250")
        session.ask(b"DATA", b"354")
        server.stop()  # waits 20 s at most; 10 s are promised
        assert session.rest()[:3] in (b"", b"421")


def test_sighup(data: Path) -> None:
    """SIGHUP reads the configuration again; sessions go on."""
    with serving(data, "smtp", "pop3") as server:
        with greeted(server.smtp) as session:
            server.signal(signal.SIGHUP)
            wait_for(lambda: re.search("reload|configuration", server.log) is not None, lambda: server.log)
            session.ask(b"NOOP", b"250")
        assert deliver(server.smtp, [READER], letter("1 KiB")).startswith(b"250")
        assert len(collect(server.pop3, READER)) == 1


def test_service_manager_is_told(data: Path, tmp_path: Path) -> None:
    """READY=1 and STOPPING=1 arrive at systemd's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with serving(data, "smtp", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}):
            assert b"READY=1" in manager.recv(4096)
        assert b"STOPPING=1" in manager.recv(4096)
