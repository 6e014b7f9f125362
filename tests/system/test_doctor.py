"""`posthouse doctor` on real servers, ports, disks, certificates and name servers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.machine import free_port

from posthouse.app.health import AREAS
from posthouse.cli import main
from posthouse.store import open_store
from tests.certificates import make
from tests.system.installation import NOBODY, office
from tests.system.nsd import nsd
from tests.system.programs import leave_out
from tests.system.raw import deliver
from tests.system.server import PASSWORD, READER, check_no_secret, find_command, run_posthouse, serving
from tests.torture.machine import LeftOut, small_disk

ZONES = {
    "example.org": """
@        MX 10 mail
@        TXT "v=spf1 mx -all"
_dmarc   TXT "v=DMARC1; p=none"
mail     A 5.9.1.1
alias    CNAME mail
other    A 5.9.1.2
elsewhere MX 10 other
elsewhere TXT "v=spf1 -all"
elsewhere TXT "v=spf1 mx -all"
none     MX 0 .
aliased  MX 10 alias
implicit A 5.9.1.1
bare     A 5.9.1.2
gone     MX 5 nowhere
gone     MX 10 mail
named    MX 10 5.9.1.1.
""",
    "1.9.5.in-addr.arpa": "1 PTR mail.example.org.\n",
}
PREPARED = "[[listener]]\nprotocol = {!r}\naddress = '127.0.0.1'\nport = {}\n"


def configure(data: Path, **listeners: int) -> None:
    """A configuration with these ports of loopback, and its own postmaster."""
    text = f"[server]\nhostname = 'mail.example.org'\n[accounts]\npostmaster = '{READER}'\n"
    (data / "posthouse.toml").write_text(text + "".join(PREPARED.format(*one) for one in listeners.items()))


def command(data: Path, *arguments: str) -> tuple[int, str]:
    """A command within this process, which spares loading everything anew."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main.main(["--data", str(data), *arguments])
    return int(ended.value.code or 0), said.getvalue()


def examine(data: Path, *options: str, code: int = 1) -> dict[str, dict[str, Any]]:
    """The findings by their ids; the answer has the form that the reference documents."""
    ended, said = command(data, "doctor", "--json", *options)
    check_no_secret(said)
    answer = json.loads(said)
    assert ended == answer["code"] == code and answer["ok"] is (code == 0) and answer["seconds"] < 16
    levels = [("error", "warning", "note", "ok").index(one["level"]) for one in answer["findings"]]
    assert levels == sorted(levels)
    for one in answer["findings"]:
        assert set(one) == {"id", "level", "area", "what", "meaning", "todo"}
        assert one["area"] in answer["areas"] or one["id"] == "store.unusable"
    return {one["id"]: one for one in answer["findings"]}


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def test_before_the_first_start(tmp_path: Path) -> None:
    """It says what to do, and makes no directory."""
    data, config = tmp_path / "data", tmp_path / "posthouse.toml"
    config.write_text("[server]\nhostname = 'mail.example.org'\n" + PREPARED.format("smtp", free_port()))
    call = [find_command(), "--config", str(config), "--data", str(data), "doctor", "--offline"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "There is no mail in" in said and "posthouse domain add NAME" in said
    assert not data.exists()


def test_a_sound_server_seen_by_root_and_by_its_own_user(prepared: Path) -> None:
    """Would catch a check that cries wolf, one that only root can make, and files of root's left behind."""
    with office(prepared) as here:
        ports = {protocol: free_port() for protocol in ("smtp", "submission", "submissions", "pop3", "pop3s", "lmtp")}
        configure(here.data, **ports)
        (here.data / "posthouse.toml").write_text("".join(here_config(here.data)))
        with here.serving():
            for user in (0, NOBODY):
                call = [*here.program, "--data", str(here.data), "doctor", "--offline", "-v"]
                done = subprocess.run(call, capture_output=True, text=True, timeout=30, user=user, cwd="/")
                assert done.returncode == 0, done.stdout + done.stderr
                for protocol, port in ports.items():
                    assert f"{protocol}=127.0.0.1:{port} answers" in done.stdout
                for text in ("The server runs (process", "tls/server.pem is good until", "Nothing waits in the queue"):
                    assert text in done.stdout
                assert "DNS was not asked" in done.stdout
            stranger = [
                *here.program,
                "--config",
                str(here.data.parent / "config.toml"),
                "doctor",
                "--offline",
                "--json",
            ]
            (here.data.parent / "config.toml").write_text(f"[server]\ndata = '{here.data}'\n")
            done = subprocess.run(stranger, capture_output=True, text=True, timeout=30, user=NOBODY - 1, cwd="/")
            assert done.returncode == 1, done.stdout + done.stderr
            assert "disk.closed" in [one["id"] for one in json.loads(done.stdout)["findings"]]
            # Root with an interpreter that the owner cannot read: everything must be loaded before.
            run_posthouse(here.data, "doctor", "--offline")
        assert all(file.stat().st_uid == NOBODY for file in here.data.rglob("*") if file.name != "posthouse.toml")
        os.chown(here.data / "posthouse.db", 0, 0)
        done = run_posthouse(here.data, "doctor", "--json", "--only", "disk", "--only", "store", code=1)
        found = {one["id"]: one for one in json.loads(done.stdout)["findings"]}
        assert "posthouse.db" in found["disk.foreign"]["what"] and "store.unusable" in found


def here_config(data: Path) -> Iterator[str]:
    yield (data / "posthouse.toml").read_text().replace("[server]\n", "[server]\nuser = 'nobody'\n", 1)


def test_a_port_in_other_hands(data: Path) -> None:
    """The program is named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        configure(data, smtp=port, pop3=free_port())
        found = examine(data, "--only", "ports", "--only", "server")
        assert f"process {os.getpid()}" in found["ports.taken"]["what"]
        assert str(port) in found["ports.taken"]["what"]
        assert found["ports.free"]["level"] == "ok"
        assert "server.down" in found


def test_a_server_with_other_listeners(data: Path) -> None:
    """It runs, and not where the configuration says."""
    configure(data, smtp=free_port())
    with serving(data, "smtp") as server:
        found = examine(data, "--only", "ports")
        assert list(found) == ["ports.not-listening"]
        configure(data, smtp=server.smtp.port)
        settings = (data / "posthouse.toml").read_text()
        (data / "posthouse.toml").write_text(settings.replace("mail.example.org", "mx.example.org"))
        found = examine(data, "--only", "ports")
        assert "greets as" in found["ports.greeting"]["what"]  # the name was changed, and it was not told


def test_certificates_that_end(data: Path, tmp_path: Path) -> None:
    """An expired one under a wrong name, with a key for everybody, and the server that still shows it."""
    made = make(tmp_path, "other.example.org", days_ago=500)
    made.pem.chmod(0o644)
    configure(data, pop3s=free_port())
    with (data / "posthouse.toml").open("a") as file:
        file.write(f"[[certificate]]\nchain = '{made.pem}'\n")
    with serving(data, options=()) as _:
        found = examine(data, "--only", "certificates", "--only", "ports")
    expected = {"certificates.expired", "certificates.name", "certificates.key-open", "certificates.chain"}
    assert expected <= set(found)
    assert "ports.answers" in found
    made.pem.unlink()
    assert "is not there" in examine(data, "--only", "certificates")["certificates.unusable"]["what"]


def add_domains(data: Path, names: list[str]) -> None:
    async def add() -> None:
        store = open_store(data, serve=False)
        for name in names:
            await store.add_domain(name)
        await store.close()

    asyncio.run(add())


def test_what_the_world_sees(data: Path) -> None:
    """A name server nobody here wrote, and domains in every kind of disorder."""
    domains = ("elsewhere", "none", "aliased", "implicit", "bare", "gone", "named", "missing")
    configure(data, smtp=free_port())
    add_domains(data, ["example.org", *(f"{one}.example.org" for one in domains)])
    with nsd(ZONES) as port:
        settings = (data / "posthouse.toml").read_text()
        (data / "posthouse.toml").write_text(f"{settings}[dns]\nservers = ['127.0.0.1:{port}']\n")
        code, said = command(data, "doctor", "--json", "--only", "dns")
        assert code == 1
        found = [(one["id"].partition(".")[2], one["what"]) for one in json.loads(said)["findings"]]
        for kind, domain in (
            ("domain", "Mail for example.org comes to mail"),
            ("not-ours", "elsewhere.example.org goes to other.example.org"),
            ("two-spf", "elsewhere.example.org"),
            ("null-mx", "none.example.org"),
            ("mx-alias", "aliased.example.org names alias.example.org"),
            ("implicit-mx", "implicit.example.org"),
            ("no-mx", "bare.example.org"),
            ("mx-nowhere", "gone.example.org names nowhere.example.org"),
            ("mx-address", "named.example.org"),
            ("no-domain", "missing.example.org"),
            ("found", "mail.example.org is in the DNS: 5.9.1.1"),
        ):
            assert any(kind == one and domain in what for one, what in found), (kind, found)
        assert not any(one in ("no-ptr", "other-ptr") for one, _ in found)
        about = [one for one, what in found if "for example.org" in what or what.startswith("example.org ")]
        assert about == ["domain"], found
        # Under another name the same address has no name that leads back to it.
        (data / "posthouse.toml").write_text(
            (data / "posthouse.toml").read_text().replace("'mail.example.org'", "'other.example.org'", 1)
        )
        assert "dns.no-ptr" in examine(data, "--only", "dns")
    assert "dns.no-resolver" in examine(data, "--only", "dns")


def test_a_queue_that_nobody_looks_after(data: Path) -> None:
    """Letters for a host that is not there, made old; then the server is gone."""
    configure(data, smtp=free_port())
    command(data, "network", "add", "127.0.0.0/8", "--allow", "relay,trusted")
    command(data, "route", "add", "example.net", "--to", f"127.0.0.1:{free_port()}", "--tls", "none")
    command(data, "route", "add", "example.com", "--to", "nowhere.invalid")
    with serving(data, "smtp") as server:
        recipients = [f"b{number}@example.net" for number in range(12)]
        assert deliver(server.smtp, recipients, b"Subject: old\r\n\r\nold\r\n").startswith(b"250")
    with sqlite3.connect(data / "posthouse.db") as store:
        store.execute("UPDATE queue SET accepted = accepted - 200000, dead = 1, reply = '450 4.4.1 not reached'")
    store.close()
    found = examine(data, "--offline", "--only", "queue")
    assert {"queue.old", "queue.waiting", "queue.unreached"} == set(found)
    assert "450 4.4.1 not reached" in found["queue.unreached"]["meaning"]
    assert "nowhere.invalid" in examine(data, "--only", "routes")["routes.unknown"]["what"]


def test_a_small_disk_in_memory(tmp_path: Path, prepared: Path) -> None:
    """Less room than 1.5 times the largest letter, on what is gone at the next start."""
    try:
        with small_disk(tmp_path / "disk", 32) as disk:
            data = Path(shutil.copytree(prepared, disk / "data"))
            found = examine(data, "--only", "disk")
            assert {"disk.full", "disk.in-memory"} <= set(found)
            assert "(50.0M)" in found["disk.full"]["what"]
    except LeftOut as lack:
        leave_out(str(lack))


def test_rights_and_owners(data: Path) -> None:
    (data / "posthouse.db").chmod(0o604)
    data.chmod(0o755)
    found = examine(data, "--only", "disk", "--only", "store", "--only", "accounts")
    assert {"disk.open", "disk.file-open", "store.unusable"} <= set(found)
    # What kept an area from being looked at is told, whatever was asked for.
    assert "store.unusable" in examine(data, "--only", "queue")


def test_a_damaged_store_and_a_clock_that_is_behind(data: Path) -> None:
    with (data / "posthouse.db").open("r+b") as file:
        file.seek(4 * 4096)
        file.write(b"\xff" * 3 * 4096)
    ahead = time.time() + 3 * 86_400
    os.utime(data / "posthouse.db", (ahead, ahead))
    found = examine(data, "--only", "store", "--only", "clock")
    assert {"store.damaged", "clock.behind"} <= set(found)
    assert "posthouse doctor --store" in found["store.damaged"]["todo"]


def test_a_configuration_with_mistakes(data: Path) -> None:
    """All of them are told, as findings, with the exit code of findings."""
    (data / "posthouse.toml").write_text("[sever]\n[smtp]\nmessage = 1\n")
    code, said = command(data, "doctor")
    assert code == 1 and "did you mean server?" in said and "smtp.message" in said
    assert "2 things are wrong" in said
    configure(data, submissions=free_port())
    with (data / "posthouse.toml").open("a") as file:
        file.write("[tls]\noffer = 'no'\n[log]\nfile = '/nowhere/mail.log'\n")
    assert {"configuration.needs-tls", "configuration.log"} <= set(examine(data, "--only", "configuration"))


def test_wrong_usage_and_no_secrets(data: Path) -> None:
    configure(data, smtp=free_port())
    code, said = command(data, "doctor", "-v", "--offline")
    assert code == 1 and PASSWORD not in said and "argon2" not in said
    for options in (("--quick",), ("--store", "--only", "dns"), ("--only", "nothing")):
        assert command(data, "doctor", *options)[0] == 64


def test_the_how_to(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/howto/what-doctor-says.md shows is what the program says ("..." stands for anything); it names every
    area."""
    configure(data, smtp=free_port())
    data.rename(data.with_name("mail"))
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("COLUMNS", "100")
    page = (Path(__file__).parents[2] / "docs" / "howto" / "what-doctor-says.md").read_text("utf-8")
    blocks = re.findall(r"```console\n\$ posthouse --data mail (.*?)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    settings = (Path("mail") / "posthouse.toml").read_text().partition("[accounts]")[0]  # nobody is postmaster
    (Path("mail") / "posthouse.toml").write_text(settings)
    for line, shown in blocks:
        _, said = command(Path("mail"), *line.split())
        form = ".*".join(re.escape(part) for part in shown.split("..."))
        assert re.fullmatch(form, said, re.DOTALL), (line, said)
    assert all(f"| `{area}` |" in page for area in AREAS)
