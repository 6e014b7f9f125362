"""`send`, `read` and `trace` with a profile: the account, its password wherever it is kept, the shorter dialogues."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.system.scripted import READ, SEND, ScriptedServer, environment, pexpect, pop3, smtp, terminal

TRACE = [sys.executable, "-m", "posthouse.cli.main", "trace"]
SECRET = "open sesame"
LETTER = (
    b"From: a@x.mail\r\nReceived: from a by mx.x.mail; Mon, 2 Mar 2026 09:14:57 +0000\r\nSubject: Hi\r\n\r\ntext\r\n"
)


def profile(folder: Path, lines: str, *, mode: int = 0o600) -> Path:
    file = folder / "posthouse" / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(textwrap.dedent(lines))
    file.chmod(mode)
    return file


def run(
    folder: Path, command: Sequence[str], given: bytes = b"", variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a client whose settings lie in `folder`, with no password in its environment."""
    surroundings = environment(home=folder) | {"XDG_CONFIG_HOME": str(folder)} | (variables or {})
    return subprocess.run(command, input=given, capture_output=True, timeout=30, env=surroundings, check=False)


def plain_login(heard: list[bytes]) -> list[bytes]:
    return [line for line in heard if line.startswith(b"AUTH PLAIN")]


def test_send_needs_nothing_but_the_recipient(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server:
        profile(
            tmp_path,
            f"""\
            [account.x]
            address = "Анна <anna@x.mail>"
            send = "smtp://anna@{server.address}"
            password = {{ plain = "{SECRET}" }}
            """,
        )
        done = run(tmp_path, [*SEND, "-m", "text", "b@x.mail"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert plain_login(server.heard) == [b"AUTH PLAIN AGFubmEAb3BlbiBzZXNhbWU="]
    message = next(line for line in server.heard if b"\r\n" in line)
    assert b"From: =?utf-8?" in message and b"<anna@x.mail>" in message


def test_the_login_is_the_address_where_the_url_names_none(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER])) as server:
        profile(
            tmp_path,
            f"""\
            [account.x]
            address = "anna@x.mail"
            read = "pop3://{server.address}"
            password = {{ plain = "{SECRET}" }}
            """,
        )
        done = run(tmp_path, [*READ, "list"])
    assert done.returncode == 0 and b"USER anna@x.mail" in server.heard
    assert f"PASS {SECRET}".encode() in server.heard


TWO = """\
{default}
[account.one]
address = "one@x.mail"
send = "smtp://one@{address}"
password = {{ plain = "first word" }}
[account.two]
address = "two@x.mail"
send = "smtp://two@{address}"
password = {{ plain = "second word" }}
"""


@pytest.mark.parametrize(
    ("default", "arguments", "who"),
    [
        ('default = "two"', (), "two"),
        ('default = "two"', ("-A", "one"), "one"),
        ("", ("-A", "two"), "two"),
        ("", (), ""),
        ("", ("-A", "three"), ""),
        ('default = "two"', ("-A", "one", "--url", "smtp://h"), ""),
    ],
)
def test_which_account_is_meant(tmp_path: Path, default: str, arguments: tuple[str, ...], who: str) -> None:
    with ScriptedServer(smtp()) as server:
        profile(tmp_path, TWO.format(default=default, address=server.address))
        done = run(tmp_path, [*SEND, "-m", "text", "b@x.mail", *arguments])
    senders = [line for line in server.heard if line.startswith(b"MAIL")]
    if who:
        assert done.returncode == 0 and senders[0].startswith(f"MAIL FROM:<{who}@x.mail>".encode())
    else:
        assert done.returncode in (64, 78) and not senders
        assert b"-A" in done.stderr or b"there are one, two" in done.stderr


def test_a_server_for_once_takes_nothing_from_the_profile(tmp_path: Path) -> None:
    """Would catch a password that goes to a server it is not for."""
    with ScriptedServer(smtp()) as server:
        profile(tmp_path, TWO.format(default='default = "two"', address="127.0.0.1:1"))
        done = run(tmp_path, [*SEND, "-m", "x", "-f", "c@x.mail", "b@x.mail", "--url", f"smtp://{server.address}"])
    assert done.returncode == 0 and not any(b"AUTH" in line for line in server.heard)


def test_config_names_another_file_on_both_sides_of_the_verb(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    program = [sys.executable, "-m", "posthouse.cli.main"]
    with ScriptedServer(smtp()) as server:
        file.write_text(TWO.format(default='default = "one"', address=server.address))
        file.chmod(0o600)
        for command in (["send", "--config", str(file)], ["--config", str(file), "send"]):
            done = run(tmp_path, [*program, *command, "-m", "x", "b@x.mail"])
            assert done.returncode == 0, done.stderr
    assert run(tmp_path, [*SEND, "--config", "/nowhere", "-m", "x", "b@x.mail"]).returncode == 78


def test_a_profile_with_errors_stops_every_client(tmp_path: Path) -> None:
    profile(tmp_path, 'defualt = "x"\n[account.x]\nadress = "a@x.mail"\n')
    for command in ([*SEND, "-m", "x", "b@x.mail"], [*READ, "list"], [*TRACE, "letter.eml"]):
        done = run(tmp_path, command)
        assert done.returncode == 78
        assert done.stderr.count(b"config.toml:") == 3 and b"The profile has 3 errors" in done.stderr
        answer = json.loads(run(tmp_path, [*command, "--json"]).stdout)
        assert (answer["code"], answer["ok"]) == (78, False)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    profile(tmp_path, TWO.format(default='default = "one"', address="127.0.0.1:1"), mode=0o644)
    done = run(tmp_path, [*SEND, "-m", "x", "b@x.mail"])
    assert done.returncode == 78 and b"run chmod 600" in done.stderr and b"first word" not in done.stderr


# Where passwords come from


def with_source(tmp_path: Path, source: str, *arguments: str, **variables: str) -> tuple[int, bytes, list[bytes]]:
    with ScriptedServer(smtp()) as server:
        profile(
            tmp_path,
            f"""\
            [account.x]
            address = "anna@x.mail"
            send = "smtp://anna@{server.address}"
            password = {source}
            """,
        )
        done = run(tmp_path, [*SEND, "-m", "text", "b@x.mail", "-vv", *arguments], variables=variables)
    everything = done.stdout + done.stderr
    assert SECRET.encode() not in everything and b"b3BlbiBzZXNhbWU" not in everything, "a password was shown"
    return done.returncode, done.stderr, plain_login(server.heard)


EXPECTED = [b"AUTH PLAIN AGFubmEAb3BlbiBzZXNhbWU="]


def script(tmp_path: Path, text: str) -> str:
    file = tmp_path / "word"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    return str(file)


def test_the_first_line_of_a_program(tmp_path: Path) -> None:
    word = script(tmp_path, f'cat; printf "%s\\nlogin: anna\\n" "{SECRET}"')
    assert with_source(tmp_path, f'{{ command = ["{word}"] }}')[::2] == (0, EXPECTED)


def test_a_program_runs_without_a_shell(tmp_path: Path) -> None:
    source = f'{{ command = ["printf", "%s", "{SECRET}", "; touch {tmp_path}/touched; $(touch {tmp_path}/touched)"] }}'
    code, _, _ = with_source(tmp_path, source)
    assert code == 0 and not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (f"echo {SECRET}; exit 3", 77, b"ended with 3"),
        ("exit 0", 77, b"gives no password"),
        (f"yes {SECRET}", 78, b"prints more than a password"),
    ],
)
def test_a_program_that_gives_no_password(tmp_path: Path, text: str, code: int, said: bytes) -> None:
    done, stderr, logins = with_source(tmp_path, f'{{ command = ["{script(tmp_path, text)}"] }}')
    assert (done, logins) == (code, []) and said in stderr


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    assert with_source(tmp_path, '{ command = ["/nowhere/pass"] }')[::2] == (78, [])


def test_a_program_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a wait for a child of the program, which keeps its output open after it was killed."""
    from posthouse.cli import passwords
    from posthouse.cli.exits import Exit, Problem

    begun = time.monotonic()
    with pytest.raises(Problem, match=r"did not end within 0\.3 s") as caught:
        passwords.from_command([script(tmp_path, "sleep 20 & sleep 20")], "x", patience=0.3)
    assert caught.value.code is Exit.TEMPORARY and time.monotonic() - begun < 5


def test_a_file(tmp_path: Path) -> None:
    word = tmp_path / "posthouse" / "word"
    word.parent.mkdir()
    word.write_text(f"{SECRET}\r\nmore\n")
    word.chmod(0o600)
    assert with_source(tmp_path, '{ file = "word" }')[::2] == (0, EXPECTED)
    word.chmod(0o640)
    code, said, logins = with_source(tmp_path, '{ file = "word" }')
    assert (code, logins) == (78, []) and b"run chmod 600" in said
    word.unlink()
    assert with_source(tmp_path, '{ file = "word" }')[::2] == (66, [])


KEYRING = """\
import keyring.backend
import keyring.errors

class Words(keyring.backend.KeyringBackend):
    priority = 9
    def get_password(self, service, username):
        if username == "locked":
            raise keyring.errors.KeyringLocked("open sesame is the secret of " + username)
        return {("posthouse", "x"): "open sesame"}.get((service, username))
    def set_password(self, service, username, password):
        raise keyring.errors.PasswordSetError("open sesame")
"""


def test_the_keyring(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(KEYRING)
    variables = {"PYTHON_KEYRING_BACKEND": "words.Words", "PYTHONPATH": str(tmp_path)}
    assert with_source(tmp_path, "{ keyring = true }", **variables)[::2] == (0, EXPECTED)
    file = tmp_path / "posthouse" / "config.toml"
    for name, said in (("empty", b"keyring set posthouse empty"), ("locked", b"KeyringLocked")):
        file.write_text(file.read_text().replace("account.x", f"account.{name}"))
        done = run(tmp_path, [*SEND, "-m", "text", "b@x.mail"], variables=variables)
        assert done.returncode == 77 and said in done.stderr and SECRET.encode() not in done.stderr
        file.write_text(file.read_text().replace(f"account.{name}", "account.x"))


def test_the_keyring_without_its_library(tmp_path: Path) -> None:
    (tmp_path / "keyring.py").write_text("raise ImportError")
    code, said, logins = with_source(tmp_path, "{ keyring = true }", PYTHONPATH=str(tmp_path))
    assert (code, logins) == (78, []) and b"pip install 'posthouse[keyring]'" in said


def test_the_environment_goes_before_the_profile(tmp_path: Path) -> None:
    source = '{ command = ["false"] }'
    assert with_source(tmp_path, source, POSTHOUSE_PASSWORD=SECRET)[::2] == (0, EXPECTED)


def test_nobody_is_asked_where_there_is_no_terminal(tmp_path: Path) -> None:
    code, said, _ = with_source(tmp_path, "{ prompt = true }")
    assert code == 64 and b"--password-stdin" in said


# read and trace


def reading(folder: Path, address: str, more: str = "") -> None:
    lines = f'[account.x]\naddress = "anna@x.mail"\nread = "pop3://anna@{address}"\n'
    profile(folder, f'{lines}password = {{ plain = "{SECRET}" }}\n{more}\n')


def test_new_mail_goes_where_the_profile_says(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER])) as server:
        reading(tmp_path, server.address, f'store = "maildir:{tmp_path}/Mail"\nkeep = "0"')
        assert run(tmp_path, [*READ, "new"]).returncode == 0
    assert [file.read_bytes() for file in (tmp_path / "Mail" / "new").iterdir()] == [LETTER.replace(b"\r\n", b"\n")]
    assert b"DELE 1" in server.heard  # keep = "0"


def test_an_option_goes_before_the_profile(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER])) as server:
        reading(tmp_path, server.address, f'store = "maildir:{tmp_path}/Mail"\nkeep = "0"')
        assert run(tmp_path, [*READ, "new", "--delete", "never"]).returncode == 0
        assert run(tmp_path, [*READ, "new", "--to", f"mbox:{tmp_path}/box"]).returncode == 0
    assert b"DELE 1" not in server.heard and b"Subject: Hi" in (tmp_path / "box").read_bytes()


def test_trace_believes_the_servers_of_the_profile(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER])) as server:
        reading(tmp_path, server.address, 'trusted = ["mx.x.mail"]')
        done = run(tmp_path, [*TRACE, "1", "--json"])
        assert json.loads(done.stdout)["hops"][0]["trusted"] is True
        given = run(tmp_path, [*TRACE, "--json"], given=LETTER)
        assert json.loads(given.stdout)["hops"][0]["trusted"] is True
        other = run(tmp_path, [*TRACE, "--json", "--trusted", "other.x.mail"], given=LETTER)
        assert json.loads(other.stdout)["hops"][0]["trusted"] is False
        assert run(tmp_path, [*TRACE, "1", "--offline"]).returncode == 64
        assert run(tmp_path, [*TRACE, "-q"], given=LETTER).stdout == b""


def test_a_profile_that_can_only_send(tmp_path: Path) -> None:
    profile(tmp_path, TWO.format(default='default = "one"', address="127.0.0.1:1"))
    done = run(tmp_path, [*READ, "list"])
    assert done.returncode == 78 and b"no line `read`" in done.stderr


# The dialogues


def on_terminal(folder: Path, command: Sequence[str], talk: Callable[[pexpect.spawn], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        with terminal(command, folder) as child:
            talk(child)
            child.expect(pexpect.EOF)
            child.wait()
            assert child.exitstatus == 0, child.before


@pytest.mark.parametrize("asked", [True, False])
def test_the_senders_dialogue_asks_only_what_the_profile_does_not_know(tmp_path: Path, asked: bool) -> None:
    source = "{ prompt = true }" if asked else f'{{ plain = "{SECRET}" }}'

    def talk(child: pexpect.spawn) -> None:
        if asked:
            child.expect_exact("Input your password: ")
            child.sendline(SECRET)
        for prompt, answer in (
            ("Input destination address: ", "b@x.mail"),
            ("Input topic: ", "Topic"),
            ("Input message: ", "Hello\n"),
            ("Input file name: ", ""),
        ):
            child.expect_exact(prompt)
            assert asked or "password" not in child.before
            child.sendline(answer)
        child.expect_exact("Sent to 1 of 1 recipients")

    with ScriptedServer(smtp()) as server:
        profile(
            tmp_path,
            f'[account.x]\naddress = "anna@x.mail"\nsend = "smtp://anna@{server.address}"\npassword = {source}\n',
        )
        on_terminal(tmp_path, SEND, talk)
    assert plain_login(server.heard) == EXPECTED


def test_the_readers_shell_offers_the_login_of_the_profile(tmp_path: Path) -> None:
    def talk(child: pexpect.spawn) -> None:
        for prompt, answer in (
            ("+OK POP3\r\nSelect the command (Auth, List, Read, Delete, Quit): ", "Auth"),
            ("Input address [anna]: ", ""),
            ("+OK Mailbox locked and ready\r\nSelect the command (Auth, List, Read, Delete, Quit): ", "Auth"),
            ("Input address [anna]: ", "boris"),
            ("Input password: ", "another"),
            ("Select the command (Auth, List, Read, Delete, Quit): ", "Quit"),
        ):
            child.expect_exact(prompt)
            child.sendline(answer)

    with ScriptedServer(pop3([LETTER])) as server:
        reading(tmp_path, server.address)
        on_terminal(tmp_path, READ, talk)
    logins = [line for line in server.heard if line.startswith((b"USER", b"PASS"))]
    assert logins == [b"USER anna", f"PASS {SECRET}".encode(), b"USER boris", b"PASS another"]
