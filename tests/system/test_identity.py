"""Root's rights: given up before anything is opened, and enough of them left to open port 25 again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.system.installation import NOBODY, Office, office
from tests.system.letters import check_same, letter
from tests.system.programs import find_program, leave_out, run_program
from tests.system.raw import collect, deliver
from tests.system.server import READER, ServerFailed, run_posthouse, serving, spawn_server, wait_for

BIND_SERVICE = 1 << 10  # CAP_NET_BIND_SERVICE


def configure(data: Path, *listeners: tuple[str, int], user: str = "nobody") -> None:
    text = f'[server]\nuser = "{user}"\n'
    for protocol, port in listeners:
        text += f'[[listener]]\nprotocol = "{protocol}"\naddress = "127.0.0.1"\nport = {port}\n'
    (data / "posthouse.toml").write_text(text)


def low_port() -> int:
    """A port below 1024 that nobody uses."""
    for port in range(1023, 600, -1):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    pytest.fail("every port below 1024 is in use")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_root_becomes_the_user_and_keeps_one_right(prepared: Path) -> None:
    """Would catch a server that goes on as root, keeps groups or rights of root's, or leaves root's files behind."""
    with office(prepared) as here:
        data = here.data
        configure(data, ("smtp", low_port()), ("pop3", low_port() - 1))
        content = letter("dots")
        with here.serving() as server:
            wait_for(lambda: server._read_listeners() == 2, lambda: server.log)
            for task in Path(f"/proc/{server.process.pid}/task").iterdir():
                found = status(int(task.name))
                assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(NOBODY)}, task
                assert found["Groups"].split() in ([], [str(NOBODY)])
                assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == BIND_SERVICE
                assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
                assert found["NoNewPrivs"] == "1"
            assert server.smtp.port < 1024
            assert deliver(server.smtp, [READER], content).startswith(b"250")
            [collected] = collect(server.pop3, READER)
            check_same(collected, content)
            assert "running_as_root" not in server.log
        files = [data, *(file for file in data.rglob("*") if file.name != "posthouse.toml")]
        assert [str(file) for file in files if file.stat().st_uid != NOBODY] == []


def test_a_reload_opens_a_port_below_1024(prepared: Path) -> None:
    """Would catch rights thrown away that a reload needs."""
    with office(prepared) as here:
        data, first = here.data, low_port()
        configure(data, ("smtp", first))
        with here.serving() as server:
            wait_for(lambda: server._read_listeners() == 1, lambda: server.log)
            configure(data, ("smtp", first), ("pop3", low_port()))
            server.signal(signal.SIGHUP)
            wait_for(lambda: server._read_listeners() == 2, lambda: server.log)
            assert server.pop3.port < 1024
            assert collect(server.pop3, READER) == []


def test_root_without_a_user_is_told_so(prepared: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        leave_out("only root can run as root")
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    with serving(data, "smtp") as server:
        wait_for(lambda: "running_as_root" in server.log, lambda: server.log)


def refusal(here: Office) -> str:
    """What a server says that must not start."""
    server = spawn_server(here.data, program=here.program)
    with pytest.raises(ServerFailed, match="ended with 78"):
        server.wait_ready(0)
    return server.log


def test_a_user_who_is_not_there(prepared: Path) -> None:
    with office(prepared) as here:
        configure(here.data, user="nobody-of-that-name")
        assert "useradd --system" in refusal(here)


def test_a_data_directory_of_somebody_else(prepared: Path) -> None:
    """Would catch a server that serves mail which its user may not own."""
    with office(prepared) as here:
        configure(here.data)
        os.chown(here.data, 0, 0)
        assert f"chown -R nobody {here.data}" in refusal(here)


def test_a_program_that_the_user_cannot_read(prepared: Path) -> None:
    """Would catch a server that starts and fails later, when it loads a part of itself."""
    with office(prepared) as here:
        configure(here.data)
        (here.data.parent / "site").chmod(0o700)
        assert "cannot read the program" in refusal(here)


def test_a_data_directory_open_to_everybody_is_refused(prepared: Path, tmp_path: Path) -> None:
    """Letters and hashes lie there: neither the server nor a command opens it, and both say what to do."""
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    data.chmod(0o755)
    server = spawn_server(data, "smtp")
    with pytest.raises(ServerFailed):
        server.wait_ready(1)
    done = run_posthouse(data, "account", "list", code=None)
    for said in (server.log, done.stderr):
        assert f"chmod 700 {data}" in said
    assert done.returncode not in (0, 70)
    data.chmod(0o750)  # a group of administrators may look
    run_posthouse(data, "account", "list")


def test_an_empty_directory_is_made_private(tmp_path: Path) -> None:
    """`mkdir mail` and then Posthouse: nobody should have to know about modes."""
    data = tmp_path / "mail"
    data.mkdir(mode=0o755)
    (data / "posthouse.toml").write_text("")
    run_posthouse(data, "domain", "add", "x.mail")
    assert data.stat().st_mode & 0o777 == 0o700


def test_the_unit_is_a_tight_sandbox(tmp_path: Path) -> None:
    """systemd's own judge: 10 is no sandbox at all. Ours was 1.4; other mail servers ship with 3 to 10."""
    from posthouse.app.unit import unit

    file = tmp_path / "posthouse.service"
    program = Path(sys.executable)
    file.write_text(unit(program, Path("/etc/posthouse.toml"), Path("/var/lib/posthouse"), "posthouse"))
    judge = find_program("systemd-analyze")
    run_program([judge, "verify", "--man=no", str(file)], folder=tmp_path)
    run_program([judge, "security", "--offline=true", "--no-pager", "--threshold=20", str(file)], folder=tmp_path)
