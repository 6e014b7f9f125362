"""What the doctor concludes from facts: each finding by the facts that bring it about, and none without them."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from posthouse.app.health import (
    AREAS,
    Finding,
    Level,
    certificates,
    clock,
    disk,
    examine,
    kinds_of,
    people,
    ports,
    queue,
    server,
    talk,
)
from posthouse.cli import doctor, main
from posthouse.config.schema import Config, ListenerSettings
from posthouse.net import proc
from posthouse.net.proc import Bound, Process
from posthouse.ports.certificates import CertificateFiles
from posthouse.ports.queue import Item, State
from posthouse.ports.store import Account, Alias, Domain
from tests.certificates import make
from tests.system.programs import leave_out

KINDS = [kind for area in AREAS.values() for kind in kinds_of(area)]
NOW = datetime.now(UTC)


def ids(found: Sequence[Finding] | Iterator[Finding]) -> list[str]:
    return [finding.id for finding in found]


# The catalogue


def test_ids_are_unique_and_name_their_area() -> None:
    assert len({kind.id for kind in KINDS}) == len(KINDS)
    for area, catalogue in AREAS.items():
        assert all(kind.area == area for kind in kinds_of(catalogue)), area
    assert list(AREAS) == list(doctor.AREAS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.level > Level.OK], ids=lambda kind: kind.id)
def test_each_says_what_it_means_and_what_to_do(kind: object) -> None:
    """Would catch advice that names a command which does not exist."""
    from posthouse.app.health import Kind

    assert isinstance(kind, Kind)
    assert kind.what and kind.meaning and kind.todo
    for words in re.findall(r"posthouse ((?:[a-z]+ ?){1,2})", f"{kind.meaning} {kind.todo}"):
        first, *rest = words.split()
        command = main.cli.get_command(click.Context(main.cli), first)
        assert command is not None, words
        if isinstance(command, click.Group):
            assert rest and rest[0] in command.commands, words
    for option in re.findall(r"(--[a-z-]+)", kind.todo):
        assert option in _all_options() or "posthouse" not in kind.todo, option


def _all_options() -> set[str]:
    found: set[str] = set()
    waiting: list[click.Command] = [
        command for name in main.VERBS if (command := main.cli.get_command(click.Context(main.cli), name)) is not None
    ]
    while waiting:
        command = waiting.pop()
        found |= {option for parameter in command.params for option in parameter.opts} | {"--data", "--config"}
        waiting += command.commands.values() if isinstance(command, click.Group) else ()
    return found


# Ports

SMTP = ListenerSettings("smtp", "127.0.0.1", 4025)
AT = Bound("127.0.0.1", 4025, 1000, 77)


@pytest.mark.parametrize(
    ("bound", "holder", "refused", "pid", "expected"),
    [
        ([], None, 0, None, "ports.free"),
        ([], None, errno.EACCES, None, "ports.privileged"),
        ([], None, errno.EADDRNOTAVAIL, None, "ports.no-address"),
        ([], None, errno.EADDRINUSE, None, "ports.taken"),
        ([AT], Process(5, "exim4"), errno.EADDRINUSE, None, "ports.taken"),
        ([AT], Process(5, "exim4"), errno.EADDRINUSE, 9, "ports.taken"),
        ([AT], Process(9, "posthouse"), errno.EADDRINUSE, 9, None),
        ([AT], None, errno.EADDRINUSE, 9, None),  # nobody may be seen, but it belongs to the owner of the mail
        ([Bound("127.0.0.1", 4025, 33, 77)], None, errno.EADDRINUSE, 9, "ports.taken"),
        ([Bound("0.0.0.0", 4025, 1000, 77)], Process(9, ""), errno.EADDRINUSE, 9, None),
        ([], None, 0, 9, "ports.not-listening"),
        (None, None, errno.EADDRINUSE, 9, None),  # a system that tells nothing
        (None, None, 0, 9, "ports.not-listening"),
        ([AT], Process(9, "posthouse"), errno.EADDRINUSE, 0, None),  # a server of an unknown number
        ([Bound("127.0.0.1", 4025, 33, 77)], Process(9, ""), errno.EADDRINUSE, 0, "ports.taken"),
    ],
)
def test_who_holds_a_port(
    bound: list[Bound] | None, holder: Process | None, refused: int, pid: int | None, expected: str | None
) -> None:
    sockets = ports.Sockets(bound, {77: holder} if holder else {}, {SMTP: refused} if refused else {})
    found = ports.judge(SMTP, sockets, pid, owner=1000)
    assert (found and found.id) == expected
    if holder and found:
        assert f"{holder.name or 'a program'} (process {holder.pid})" in found.what


def test_the_holder_of_a_real_port_is_found() -> None:
    """Would catch addresses read in the wrong order of octets, and sockets that belong to nobody."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listener:
            listener.bind((address, 0))
            listener.listen()
            port = listener.getsockname()[1]
            [bound] = [one for one in proc.bound_sockets() or () if one.port == port]
            assert (bound.address, bound.uid) == (address, os.geteuid())
            assert proc.holders([bound.inode])[bound.inode].pid == os.getpid()
            settings = ListenerSettings("smtp", address, port)
            assert ports._try(settings) == errno.EADDRINUSE
        assert ports._try(settings) == 0


def test_who_has_locked_a_file(tmp_path: Path) -> None:
    from posthouse.net.files import try_lock

    if proc.file_system_of(tmp_path) in disk.LAYERS:
        leave_out("on layered file systems the kernel names locks by another inode")
    file = tmp_path / "lock"
    with file.open("wb") as one:
        assert proc.lock_holder(file) is None
        assert try_lock(one)
        assert proc.lock_holder(file) == os.getpid()
    assert proc.lock_holder(file) is None


@pytest.mark.parametrize("system", ["ext4", "overlay"])
def test_whether_a_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Also where the list of locks cannot be believed, as in containers."""
    from posthouse.net.files import try_lock

    monkeypatch.setattr(server, "file_system_of", lambda path: system)
    if system == "overlay":
        monkeypatch.setattr(server, "lock_holder", lambda path: None)
    assert server.running_server(tmp_path) is None
    with (tmp_path / "lock").open("wb") as lock:
        assert server.running_server(tmp_path) is None
        assert try_lock(lock)
        assert server.running_server(tmp_path) == (0 if system == "overlay" else os.getpid())
    assert server.running_server(tmp_path) is None


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (ports.Heard("220 mail.example.org ESMTP", True, "TLSv1.3", b"one"), ["ports.answers"]),
        (ports.Heard("220 mail.example.org ESMTP", False), ["ports.no-starttls", "ports.answers"]),
        (ports.Heard("220 other.example.org", True, "TLSv1.3", b"one"), ["ports.greeting", "ports.answers"]),
        (ports.Heard("220", True, "TLSv1.3", b"one"), ["ports.greeting", "ports.answers"]),
        (ports.Heard("220 mail.example.org", True, "TLSv1.3", b"two"), ["ports.old-certificate"]),
        (ports.Heard(trouble="the line was lost"), ["ports.silent"]),
    ],
)
def test_what_a_listener_says(heard: ports.Heard, expected: list[str]) -> None:
    found = ports.judge_talk(SMTP, heard, "mail.example.org", tls=True, expected=[b"one"])
    assert ids(found) == expected


async def test_one_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch an examination that hangs with the server."""
    monkeypatch.setattr(talk, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        heard = await asyncio.wait_for(
            talk.talk_to(ListenerSettings("pop3", "127.0.0.1", silent.getsockname()[1]), "mail", tls=True), 5
        )
    assert heard.trouble


async def test_what_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch an examination that waits for a network without end."""

    async def endless(*_: object) -> list[Finding]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(examine, "_dns", endless)
    monkeypatch.setattr(examine, "WITHIN", 0.2)
    case = examine.Case(Config(), tmp_path, "", only=("dns", "clock"))
    found = await asyncio.wait_for(examine.examine(case), 5)
    assert found[0].id == "server.unfinished" and "dns" in found[0].what
    assert "clock.right" in ids(found)


# Certificates


def certificate(
    folder: Path,
    *,
    begin: int = -1,
    end: int = 90,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    host: str = "mail.example.org",
) -> certificates.Loaded | Finding:
    """One that signs itself, from so many days ago until in so many."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=begin))
        .not_valid_after(NOW + timedelta(days=end, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(pem, form, plain) + made.public_bytes(pem))
    file.chmod(0o600)
    return certificates.load(CertificateFiles(file, file), own=False)


def judged(one: certificates.Loaded | Finding) -> list[str]:
    assert isinstance(one, certificates.Loaded), one
    return ids(certificates.judge(one, NOW))


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (-90, 90, []),
        (-90, 13, ["certificates.expires"]),
        (-90, -1, ["certificates.expired"]),
        (1, 90, ["certificates.early"]),
    ],
)
def test_dates(tmp_path: Path, begin: int, end: int, expected: list[str]) -> None:
    found = judged(certificate(tmp_path, begin=begin, end=end))
    assert found == [*expected, "certificates.private", *([] if expected else ["certificates.sound"])]


def test_weak_keys_are_not_taken(tmp_path: Path) -> None:
    """OpenSSL refuses some of them by itself; either way they are told."""
    one = certificate(tmp_path, key=rsa.generate_private_key(65537, 1024))
    found = [one.id] if isinstance(one, Finding) else judged(one)
    assert {"certificates.unusable", "certificates.weak"} & set(found)


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    one = certificate(tmp_path)
    (tmp_path / "server.pem").chmod(0o640)
    assert "certificates.key-open" not in judged(one)
    (tmp_path / "server.pem").chmod(0o644)
    assert "certificates.key-open" in judged(one)


def test_a_chain_with_a_hole(tmp_path: Path) -> None:
    """A certificate without the one between it and its authority: browsers hide the mistake, mail programs do not."""
    made = make(tmp_path, "mail.example.org")
    one = certificates.load(made.files(), own=False)
    assert "certificates.chain" in judged(one)
    made.pem.chmod(0o600)
    made.pem.write_bytes(made.pem.read_bytes() + made.authority.read_bytes())
    assert judged(certificates.load(made.files(), own=False)) == ["certificates.private", "certificates.sound"]
    other = make(tmp_path, "other.example.org")
    made.pem.write_bytes(made.identity.pem() + other.authority.read_bytes())
    assert "certificates.order" in judged(certificates.load(made.files(), own=False))


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        if content is not None:
            file.write_bytes(content)
        found = certificates.load(CertificateFiles(file, file), own=False)
        assert isinstance(found, Finding) and found.id == "certificates.unusable"


@pytest.mark.parametrize(
    ("names", "host", "good"),
    [
        (["mail.example.org"], "MAIL.example.org", True),
        (["*.example.org"], "mail.example.org", True),
        (["*.example.org"], "a.mail.example.org", False),
        (["*.example.org"], "example.org", False),
        (["*."], "localhost", False),
        (["192.0.2.1"], "192.0.2.1", True),
        ([], "mail.example.org", False),
    ],
)
def test_names(names: list[str], host: str, good: bool) -> None:
    assert certificates.is_for(names, host) is good


# Clock, disk


def test_a_clock_that_is_behind_its_files(tmp_path: Path) -> None:
    now = 1_790_000_000.0
    file = tmp_path / "posthouse.db"
    file.touch()
    assert ids(clock.judge(now, None, None)) == ["clock.right"]
    for ahead, expected in ((60, ["clock.right"]), (86_400 * 3, ["clock.behind"])):
        os.utime(file, (now + ahead, now + ahead))
        assert ids(clock.judge(now, clock.newest_file(tmp_path), True)) == expected
    assert ids(clock.judge(86_400.0, None, False)) == ["clock.old", "clock.alone"]


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("free", "total", "inodes", "expected"),
    [
        (100_000, 200_000, 10_000, ["disk.room"]),
        (74, 200_000, 10_000, ["disk.full"]),
        (100, 200_000, 10_000, ["disk.low"]),
        (1500, 200_000, 10_000, ["disk.low"]),  # less than a twentieth
        (1500, 2000, 10_000, ["disk.room"]),
        (100_000, 200_000, 900, ["disk.room", "disk.inodes"]),
        (100_000, 200_000, None, ["disk.room"]),
    ],
)
def test_room(free: int, total: int, inodes: int | None, expected: list[str]) -> None:
    room = disk.Room(free * MIB, total * MIB, inodes, 100_000)
    assert ids(disk.judge_room(Path("/m"), room, 50 * MIB, 16 * MIB, "ext4")) == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("ext4", []),
        ("tmpfs", ["disk.in-memory"]),
        ("nfs4", ["disk.network"]),
        ("9p", ["disk.network"]),
        ("overlay", ["disk.layered"]),
    ],
)
def test_file_systems(system: str, expected: list[str]) -> None:
    assert ids(disk.judge_system(Path("/m"), system)) == expected


def test_mount_points_are_found(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(
        "none / overlay rw 0 0\nnone /var ext4 rw 0 0\nnone /var/our\\040mail nfs4 rw 0 0\nnone /variant xfs rw 0 0\n"
    )
    for path, system in (
        ("/var/lib", "ext4"),
        ("/var/our mail/x", "nfs4"),
        ("/srv", "overlay"),
        ("/variants", "overlay"),
    ):
        assert proc.file_system_of(Path(path), tmp_path) == system


def test_rights_of_files(tmp_path: Path) -> None:
    """Would catch a readable key, and advice that names nothing."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for name, mode in (("passwords.key", 0o600), ("posthouse.toml", 0o644), ("posthouse.db", 0o600)):
        (data / name).touch()
        (data / name).chmod(mode)
    assert ids(disk.judge_rights(data, "")) == []
    (data / "passwords.key").chmod(0o604)
    data.chmod(0o755)
    found = list(disk.judge_rights(data, "nobody-of-that-name"))
    assert ids(found) == ["disk.open", "disk.owner", "disk.file-open"]
    assert "passwords.key" in found[2].todo


def test_quotas_and_the_log_of_the_database(tmp_path: Path) -> None:
    room = disk.Room(50, 100, None)
    assert ids(disk.judge_quotas([(60, 20), (0, 5)], room)) == []
    assert ids(disk.judge_quotas([(60, 20), (30, 5)], room)) == ["disk.quotas"]
    with (tmp_path / "posthouse.db-wal").open("wb") as file:
        assert ids(disk.judge_wal(tmp_path)) == []
        file.truncate(disk.LARGE_WAL + 1)
        assert ids(disk.judge_wal(tmp_path)) == ["disk.wal"]


# Queue, accounts


def item(number: int, *, age: float = 60, due: float = 600, dead: bool = False, busy: bool = False) -> Item:
    return Item(
        number,
        f"letter{number}",
        "anna@x.mail",
        f"b{number}@example.org",
        "example.org",
        100,
        State.DUE,
        1,
        1000_000 - age,
        1000_000 + due,
        dead=dead,
        busy=busy,
        reply="450 4.2.1 not now",
    )


@pytest.mark.parametrize(
    ("items", "held", "running", "expected"),
    [
        ([], 0, True, ["queue.empty"]),
        ([item(1)], 0, True, ["queue.moves"]),
        ([item(1)], 0, False, ["queue.waiting"]),
        ([item(1, age=200_000)], 0, True, ["queue.old"]),
        ([item(1, due=-1000)], 0, True, ["queue.overdue"]),
        ([item(1, due=-1000, busy=True)], 0, True, ["queue.moves"]),
        ([item(n, dead=True) for n in range(10)], 0, True, ["queue.unreached"]),
        ([item(n, dead=True) for n in range(9)], 0, True, ["queue.moves"]),
        ([item(n) for n in range(10)], 0, True, ["queue.deferred"]),
        ([], 3, True, ["queue.held"]),
    ],
)
def test_the_queue(items: list[Item], held: int, running: bool, expected: list[str]) -> None:
    assert ids(queue.judge(queue.Waits(items, len(items), held), 1000_000, running=running)) == expected


def account(address: str, *, password: str = "$argon2id$", quota: int = 0, used: int = 0) -> Account:
    return Account(hash(address), address, password, 1, quota=quota, used=used)


@pytest.mark.parametrize(
    ("accounts", "aliases", "postmaster", "expected"),
    [
        ([account("postmaster@x.mail")], [], "", ["accounts.there"]),
        ([account("anna@x.mail")], [Alias("postmaster@x.mail", ("anna@x.mail",))], "", ["accounts.there"]),
        ([account("anna@x.mail")], [], "anna@x.mail", ["accounts.there"]),
        ([account("anna@x.mail")], [], "", ["accounts.no-postmaster"]),
        ([account("anna@x.mail")], [], "boris@x.mail", ["accounts.bad-postmaster"]),
        ([account("postmaster@x.mail", password="")], [], "", ["accounts.no-password", "accounts.there"]),
        ([account("postmaster@x.mail", quota=100, used=96)], [], "", ["accounts.full", "accounts.there"]),
        ([], [], "", ["accounts.no-account"]),
        (
            [account("postmaster@x.mail")],
            [Alias("all@x.mail", ("gone@x.mail", "far@example.org"))],
            "",
            ["accounts.alias-nowhere"],
        ),
    ],
)
def test_people(accounts: list[Account], aliases: list[Alias], postmaster: str, expected: list[str]) -> None:
    found = list(people.judge(people.People([Domain(1, "x.mail")], accounts, aliases), postmaster))
    assert ids(found) == expected
    assert not any("argon2" in finding.what for finding in found)


def test_a_server_without_a_domain() -> None:
    assert ids(people.judge(people.People([], [], []), "")) == ["accounts.no-domain"]
