"""`posthouse domain`, `account` and `doctor`, on a real store: what they do, say and return."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from posthouse.accounts.credentials import Credentials
from posthouse.accounts.directory import AccountDirectory
from posthouse.cli import doctorstore, main
from posthouse.cli.exits import Exit
from posthouse.config.schema import AccountSettings
from posthouse.net.system import SystemClock, SystemRandom
from posthouse.ports.store import Damage, Store
from posthouse.store import Options, open_store

T = TypeVar("T")
CHEAP = "[accounts]\nhash_memory = 65536\nhash_passes = 1\n"


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands on one data directory, in this process."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = data
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Result:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main.main(["--data", str(self.data), *arguments])
        captured = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, captured.out, captured.err)

    def login(self, name: str, password: str) -> str | None:
        """The address of the account that a login opens."""

        async def work() -> str | None:
            store = open_store(self.data, serve=False)
            credentials = Credentials(AccountSettings(), SystemClock(), SystemRandom())
            directory = AccountDirectory(store, credentials)
            opened = await directory.authenticate(name, password)
            await directory.close()
            credentials.close()
            await store.close()
            return None if opened is None else opened.account.address

        return asyncio.run(work())


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("POSTHOUSE_CONFIG", raising=False)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "posthouse.toml").write_text(CHEAP)
    return Shell(data, capsys, monkeypatch)


@pytest.fixture
def filled(shell: Shell) -> Shell:
    assert shell("domain", "add", "x.mail").code == 0
    assert shell("account", "add", "test@x.mail", "--password-stdin", stdin=b"secret\n").code == 0
    return shell


def test_a_domain_and_an_account(shell: Shell) -> None:
    assert shell("domain", "add", "X.Mail") == (0, "Added the domain x.mail.\n", "")
    added = shell("account", "add", "Test@x.mail", "--password-stdin", "--quota", "500M", stdin=b"my secret \r\n")
    assert added == (0, "Added the account test@x.mail.\n", "")
    assert shell.login("test", "my secret ") == "test@x.mail"
    assert shell.login("test", "my secret") is None
    listed = shell("account", "list").out.splitlines()
    assert listed == ["ACCOUNT      LETTERS  SIZE   QUOTA", "test@x.mail        0     0  500.0M"]
    assert shell("domain", "list").out.splitlines()[1].split()[:2] == ["x.mail", "1"]


def test_everything_as_json(filled: Shell) -> None:
    assert filled("domain", "add", "пример.рф", "--json").json == {
        "ok": True,
        "code": 0,
        "domains": [{"name": "xn--e1afmkfd.xn--p1ai", "text": "пример.рф"}],
    }
    [first, second] = filled("domain", "list", "--json").json["domains"]
    assert (first["name"], first["accounts"], second["text"]) == ("x.mail", 1, "пример.рф")
    assert first["created"].endswith("Z")
    [account] = filled("account", "list", "x.mail", "--json").json["accounts"]
    assert account["address"] == "test@x.mail"
    assert (account["letters"], account["used"], account["quota"]) == (0, 0, 0)
    assert "argon2" not in json.dumps(account)
    assert filled("account", "remove", "test@x.mail", "--json").json["accounts"] == [
        {"address": "test@x.mail", "letters": 0}
    ]
    assert filled("domain", "remove", "x.mail", "--json").json["ok"]
    assert filled("doctor", "--store", "--json").json["damages"] == []


def test_a_changed_password(filled: Shell) -> None:
    assert filled("account", "passwd", "test@x.mail", "--password-stdin", stdin="нов".encode()).code == 0
    assert filled.login("test@x.mail", "secret") is None
    assert filled.login("test@x.mail", "нов") == "test@x.mail"


def test_a_login_renews_an_old_hash_in_the_store(filled: Shell) -> None:
    """The hash was made with cheap parameters; the login below has the real ones."""

    async def stored() -> str:
        store = open_store(filled.data, serve=False)
        account = await store.find_account("test@x.mail")
        await store.close()
        assert account is not None
        return account.password

    assert asyncio.run(stored()).startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert filled.login("test", "wrong") is None
    assert asyncio.run(stored()).startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert filled.login("test", "secret") == "test@x.mail"
    assert asyncio.run(stored()).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert filled.login("test", "secret") == "test@x.mail"


def test_one_password_line_for_all_or_one_each(filled: Shell) -> None:
    assert filled("account", "add", "a@x.mail", "b@x.mail", "--password-stdin", stdin=b"same").code == 0
    assert filled("account", "add", "c@x.mail", "d@x.mail", "--password-stdin", stdin=b"one\ntwo\n").code == 0
    assert [filled.login(*pair) for pair in (("a", "same"), ("b", "same"), ("c", "one"), ("d", "two"))] == [
        "a@x.mail",
        "b@x.mail",
        "c@x.mail",
        "d@x.mail",
    ]
    refused = filled("account", "add", "e@x.mail", "f@x.mail", "--password-stdin", stdin=b"1\n2\n3\n")
    assert refused.code == Exit.USAGE
    assert "one line for all, or 2 lines" in refused.err


def test_one_that_fails_does_not_stop_the_others(filled: Shell) -> None:
    result = filled("account", "add", "a@x.mail", "test@x.mail", "b@y.mail", "--password-stdin", "--json", stdin=b"p")
    assert result.code == Exit.NOT_ALL
    assert [(one["address"], one["status"]) for one in result.json["accounts"]] == [
        ("a@x.mail", "added"),
        ("test@x.mail", "failed"),
        ("b@y.mail", "failed"),
    ]
    assert not result.json["ok"]
    again = filled("account", "add", "a@x.mail", "c@x.mail", "--password-stdin", stdin=b"p")
    assert again.code == Exit.NOT_ALL
    assert again.out == "Added the account c@x.mail.\n"
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["domain", "add", "a b"], Exit.DATA, "is not a domain"),
        (["domain", "add", "x.mail"], Exit.CANNOT_CREATE, "exists already"),
        (["domain", "remove", "y.mail"], Exit.NO_USER, "posthouse domain add y.mail"),
        (["domain", "remove", "x.mail"], Exit.CANNOT_CREATE, "still has 1 account"),
        (["account", "add", "a@y.mail", "--password-stdin"], Exit.NO_USER, "posthouse domain add y.mail"),
        (["account", "add", "test@x.mail", "--password-stdin"], Exit.CANNOT_CREATE, "account passwd test@x.mail"),
        (["account", "add", "nonsense", "--password-stdin"], Exit.DATA, "is not a mail address"),
        (["account", "add", "a@x.mail", "--password-stdin", "--quota", "much"], Exit.USAGE, "is not a size"),
        (["account", "add", "a@x.mail"], Exit.USAGE, "--password-stdin"),
        (["account", "passwd", "a@x.mail", "--password-stdin"], Exit.NO_USER, "account list"),
        (["account", "list", "y.mail"], Exit.NO_USER, "domain add"),
        (["account", "remove", "a@x.mail"], Exit.NO_USER, "account list"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(filled: Shell, arguments: list[str], code: int, said: str) -> None:
    result = filled(*arguments, stdin=b"p\n")
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert result.err.startswith(f"posthouse {arguments[0]} {arguments[1]}: ")
    as_json = filled(*arguments, "--json", stdin=b"p\n")
    assert as_json.code == code
    assert as_json.json["ok"] is False
    assert as_json.json["code"] == code


@pytest.mark.parametrize(
    ("stdin", "code"),
    [(b"", Exit.USAGE), (b"\n", Exit.DATA), (b"\xff\n", Exit.DATA), (b"x" * 1001, Exit.DATA), (b"a\x00b", Exit.DATA)],
)
def test_passwords_that_cannot_be(filled: Shell, stdin: bytes, code: int) -> None:
    result = filled("account", "passwd", "test@x.mail", "--password-stdin", stdin=stdin)
    assert result.code == code
    assert filled.login("test", "secret") == "test@x.mail"


@pytest.mark.parametrize(
    "arguments", [["account", "list"], ["domain", "list"], ["doctor", "--store"], ["account", "remove", "a@b"]]
)
def test_looking_makes_no_directory(shell: Shell, arguments: list[str]) -> None:
    shell.data = shell.data / "none"
    result = shell(*arguments)
    assert result.code == Exit.NO_INPUT
    assert "posthouse domain add" in result.err
    assert not shell.data.exists()


def test_a_configuration_with_errors(shell: Shell) -> None:
    (shell.data / "posthouse.toml").write_text("[sever]\n[smtp]\nmessage = 1\n")
    result = shell("domain", "add", "x.mail")
    assert result.code == Exit.CONFIG
    assert "has 2 errors" in result.err
    assert "posthouse.toml:1: sever: there is no such section; did you mean server?" in result.err
    assert "posthouse.toml:3: smtp.message: 1 is out of bounds" in result.err


def test_the_data_directory_of_the_configuration(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.toml").write_text('[server]\ndata = "elsewhere"\n' + CHEAP)
    monkeypatch.delenv("POSTHOUSE_DATA", raising=False)
    with pytest.raises(SystemExit):
        main.main(["--config", str(tmp_path / "p.toml"), "domain", "add", "x.mail"])
    assert (tmp_path / "elsewhere" / "posthouse.db").exists()
    missing = shell("--config", str(tmp_path / "none.toml"), "domain", "list")
    assert missing.code == Exit.CONFIG
    assert "cannot be read" in missing.err


def test_a_directory_that_cannot_be_made(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shell.data = tmp_path / "file" / "data"
    result = shell("domain", "add", "x.mail")
    assert result.code == Exit.IO
    assert "--data" in result.err


def test_the_quota_of_the_configuration(shell: Shell) -> None:
    (shell.data / "posthouse.toml").write_text(CHEAP + 'quota = "10M"\n')
    shell("domain", "add", "x.mail")
    shell("account", "add", "a@x.mail", "--password-stdin", stdin=b"p")
    shell("account", "add", "b@x.mail", "--password-stdin", "--quota", "0", stdin=b"p")
    assert [one["quota"] for one in shell("account", "list", "--json").json["accounts"]] == [10_485_760, 0]


def test_damage_ends_with_1(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(path: Path, *, full: bool = True) -> Iterator[list[Damage]]:
        for number in range(doctorstore.MOST_SHOWN + 5):
            yield [Damage("content missing", f"letter {number}", "The file of the letter is gone.", ["test@x.mail"])]

    monkeypatch.setattr("posthouse.store.examine_store", examine)
    result = filled("doctor", "--store")
    assert result.code == 1
    assert result.out.startswith(f"{doctorstore.MOST_SHOWN + 5} damages were found")
    assert "content missing: letter 0\n    The file of the letter is gone.\n    Concerned: test@x.mail\n" in result.out
    assert "... and 5 more." in result.out
    as_json = filled("doctor", "--store", "--json")
    assert as_json.code == 1
    assert as_json.json["count"] == doctorstore.MOST_SHOWN + 5
    assert as_json.json["damages"][0]["whose"] == ["test@x.mail"]


def test_a_store_that_cannot_be_opened_is_damage(filled: Shell) -> None:
    with (filled.data / "posthouse.db").open("r+b") as file:
        file.write(b"x" * 4096)
    result = filled("doctor", "--store")
    assert result.code == 1
    assert result.out.startswith("One damage was found:\n\ncannot be opened: ")
    assert filled("doctor", "--store", "--json").json["count"] == 1
    assert filled("account", "list").code == Exit.IO


def test_a_damaged_table_is_said_to_be_so(filled: Shell) -> None:
    with (filled.data / "posthouse.db").open("r+b") as file:
        file.seek(4 * 4096)
        file.write(b"\xff" * 3 * 4096)
    assert filled("doctor", "--store").code == 1
    result = filled("account", "list")
    assert result.code == Exit.TEMPORARY
    assert "posthouse doctor --store" in result.err


def test_a_sound_store(filled: Shell) -> None:
    result = filled("doctor", "--store")
    assert result.code == 0
    assert "is sound" in result.out
    assert filled("doctor", "--store", "--quick").code == 0


def test_beside_a_server(filled: Shell) -> None:
    """What a command adds, the process that serves the directory sees at once."""

    async def serve_and_add() -> tuple[bool, bool]:
        store = open_store(filled.data, serve=True)
        before = await store.find_account("new@x.mail")
        command = [sys.executable, "-m", "posthouse.cli.main", "--data", str(filled.data)]
        process = await asyncio.create_subprocess_exec(
            *command, "account", "add", "new@x.mail", "--password-stdin", stdin=asyncio.subprocess.PIPE
        )
        await process.communicate(b"p\n")
        after = await store.find_account("new@x.mail")
        await store.close()
        return before is None, after is not None

    assert asyncio.run(serve_and_add()) == (True, True)


def test_files_keep_the_owner_of_the_directory(filled: Shell) -> None:
    """Would catch files of root's that the server cannot write. Where we are not root, all is ours anyway."""
    if os.geteuid() == 0:
        for path in [filled.data.parent, filled.data, *filled.data.rglob("*")]:
            os.chown(path, 12345, 12345)
        for path in filled.data.parents:
            if path.stat().st_uid == 0 and not path.stat().st_mode & 0o005:
                path.chmod(path.stat().st_mode | 0o055)
    owner = filled.data.stat().st_uid
    command = [sys.executable, "-m", "posthouse.cli.main", "--data", str(filled.data), "account", "add", "n@x.mail"]
    subprocess.run([*command, "--password-stdin"], input=b"p", check=True, timeout=30)
    assert {path.stat().st_uid for path in filled.data.rglob("*")} == {owner}


def test_passwords_are_asked_for_twice_on_a_terminal(filled: Shell) -> None:
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "posthouse.cli.main",
        "--data",
        str(filled.data),
        "account",
        "passwd",
        "test@x.mail",
    ]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    for answer in (b"one\n", b"two\n", b"three\n", b"three\n"):
        shown += _until_colon(ours, shown.count(b": ") + 1, shown)[len(shown) :]
        os.write(ours, answer)
    assert process.wait(timeout=30) == 0
    os.close(ours)
    assert b"two different passwords" in shown
    assert b"three" not in shown
    assert filled.login("test", "three") == "test@x.mail"


def _until_colon(fd: int, count: int, shown: bytes) -> bytes:
    while shown.count(b": ") < count:
        shown += os.read(fd, 1000)
    return shown


def test_a_hundred_accounts_take_no_minutes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a store opened, or a password hashed again, for each address, and hashes that run one by one."""
    at_once, running, hashes = Credentials.in_thread, 0, 0
    most = 0

    def counted(self: Credentials, work: Callable[[], T]) -> asyncio.Future[T]:
        nonlocal running, hashes, most

        def over(_: object) -> None:
            nonlocal running
            running -= 1

        future = at_once(self, work)
        future.add_done_callback(over)
        running, hashes = running + 1, hashes + 1
        most = max(most, running)
        return future

    opened: list[Path] = []

    def counting_open(data: Path, *, serve: bool = True, options: Options | None = None) -> Store:
        opened.append(data)
        return open_store(data, serve=serve, options=options or Options())

    shell("domain", "add", "x.mail")
    monkeypatch.setattr(Credentials, "in_thread", counted)
    monkeypatch.setattr("posthouse.store.open_store", counting_open)
    addresses = [f"user{number}@x.mail" for number in range(100)]
    assert shell("account", "add", *addresses, "--password-stdin", stdin=b"p").code == 0
    assert hashes == 2 * len(addresses), "one for the password, one for SCRAM"
    assert len(opened) == 1
    assert most > 10, "the passwords were hashed one by one"


def test_app_passwords(filled: Shell) -> None:
    made = filled("account", "app-password", "add", "test@x.mail", "phone", "--for", "pop3", "--json").json
    [one] = made["app_passwords"]
    assert (one["address"], one["name"], one["protocols"]) == ("test@x.mail", "phone", ["pop3"])
    assert filled.login("test", one["password"]) == "test@x.mail"
    shown = filled("account", "app-password", "add", "test@x.mail", "printer")
    assert shown.code == 0 and len(shown.out.strip()) == 29
    [phone, printer] = filled("account", "app-password", "list", "test@x.mail", "--json").json["app_passwords"]
    assert phone["used"] is not None and printer["used"] is None and printer["protocols"] == ["all"]
    assert "password" not in phone
    listed = filled("account", "app-password", "list", "test@x.mail").out.splitlines()
    assert [line.split()[:2] for line in listed] == [["NAME", "FOR"], ["phone", "pop3"], ["printer", "all"]]
    revoked = filled("account", "app-password", "revoke", "test@x.mail", "phone")
    assert revoked == (0, "Revoked the app password phone of test@x.mail.\n", "")
    assert filled.login("test", one["password"]) is None


def test_app_passwords_that_cannot_be(filled: Shell) -> None:
    group = ("account", "app-password")
    assert filled(*group, "add", "test@x.mail", "phone").code == 0
    assert filled(*group, "add", "test@x.mail", "phone").code == Exit.CANNOT_CREATE
    assert filled(*group, "add", "nobody@x.mail", "phone").code == Exit.NO_USER
    assert filled(*group, "add", "test@x.mail", "fax", "--for", "fax").code == Exit.DATA
    assert filled(*group, "revoke", "test@x.mail", "tablet").code == Exit.NO_USER
    failed = filled(*group, "revoke", "test@x.mail", "tablet", "--json").json
    assert failed["ok"] is False and "app-password list" in failed["error"]


def test_hashes_of_another_server(filled: Shell) -> None:
    """hMailServer's salted SHA-256 and Dovecot's MD5, each for its own address."""
    salted = "a1b2c3" + hashlib.sha256(b"a1b2c3one").hexdigest()
    lines = f"{salted}\n{{PLAIN-MD5}}{hashlib.md5(b'two').hexdigest()}\n".encode()
    assert filled("account", "add", "a@x.mail", "b@x.mail", "--hash-stdin", stdin=lines).code == 0
    for _ in range(2):
        assert filled.login("a", "one") == "a@x.mail" and filled.login("b", "two") == "b@x.mail"
        assert filled.login("a", "two") is None
    assert filled("account", "passwd", "a@x.mail", "--hash-stdin", stdin=lines.splitlines()[1]).code == 0
    assert filled.login("a", "two") == "a@x.mail"
    assert filled("account", "add", "c@x.mail", "d@x.mail", "--hash-stdin", stdin=b"one").code == Exit.USAGE
    bad = filled("account", "add", "c@x.mail", "--hash-stdin", stdin=b"{PLAIN}secret")
    assert bad.code == Exit.DATA and "--password-stdin" in bad.err and "secret" not in bad.err
    both = filled("account", "add", "c@x.mail", "--hash-stdin", "--password-stdin", stdin=b"x")
    assert both.code == Exit.USAGE


def test_recoverable_passwords_leave_one_key(shell: Shell) -> None:
    (shell.data / "posthouse.toml").write_text(CHEAP + 'recoverable_passwords = "on"\n')
    assert shell("domain", "add", "x.mail").code == 0
    assert shell("account", "add", "test@x.mail", "--password-stdin", stdin=b"secret\n").code == 0
    key = shell.data / "passwords.key"
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert shell("account", "passwd", "test@x.mail", "--password-stdin", stdin=b"other\n").code == 0
    assert key.read_bytes() == before
    assert b"other" not in (shell.data / "posthouse.db").read_bytes()
