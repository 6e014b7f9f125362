"""The profile file of the clients: what it may say, and everything that is wrong with it at once."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.cli.account import default_path
from posthouse.config.load import ConfigError
from posthouse.config.profiles import load, parse

GOOD = """\
default = "x"
[account.x]
address  = "Test <test@x.mail>"
send     = "smtps://test@mail.x.mail"
read     = "pop3s://test@mail.x.mail"
password = { command = ["secret-tool", "lookup", "user", "test"] }
keep     = "7d"
store    = "maildir:~/Mail/x"
trusted  = ["mail.x.mail"]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "p")
    return str(caught.value).splitlines()


def test_the_example_of_the_handbook() -> None:
    profiles = parse(GOOD)
    account = profiles.accounts[profiles.default]
    assert str(account.address) == "Test <test@x.mail>" and account.keep == 7 * 86_400
    assert account.password.command == ("secret-tool", "lookup", "user", "test")
    assert account.trusted == ("mail.x.mail",) and account.store == "maildir:~/Mail/x"


@pytest.mark.parametrize(
    ("text", "means"), [('"forever"', None), ('"0"', 0.0), ("0", 0.0), ('"36h"', 129_600.0), ("90", 90.0)]
)
def test_keep(text: str, means: float | None) -> None:
    assert parse(f'[account.x]\naddress = "a@x.mail"\nkeep = {text}').accounts["x"].keep == means


def test_all_errors_are_told_at_once_with_their_lines() -> None:
    """Would catch a reader that stops at the first error, or names no place."""
    text = """\
defualt = "x"
default = "y"
[account.x]
adress = "a@x.mail"
send = "pop3://a@x.mail"
keep = "soon"
store = "imap:there"
[account.z]
address = "no address"
read = "pop3://@"
trusted = "mx"
pin = "12:34"
"""
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in problems(text)] == [
        "p:1: defualt",
        "p:2: default",
        "p:3: account.x",
        "p:4: account.x.adress",
        "p:5: account.x.send",
        "p:6: account.x.keep",
        "p:7: account.x.store",
        "p:9: account.z.address",
        "p:10: account.z.read",
        "p:11: account.z.trusted",
        "p:12: account.z.pin",
    ]
    assert any("did you mean address?" in line for line in problems(text))


@pytest.mark.parametrize(
    "password",
    [
        '"sesame"',
        "{ }",
        '{ plain = "sesame", prompt = true }',
        "{ plain = 7 }",
        '{ plain = "" }',
        '{ sesame = "sesame" }',
        "{ keyring = false }",
        '{ command = "echo sesame" }',
        "{ command = [] }",
        '{ command = ["", "sesame"] }',
    ],
)
def test_a_wrong_password_source_is_refused_and_not_repeated(password: str) -> None:
    """Would catch an error text that carries a password into a terminal's history or a bug report."""
    lines = problems(f'[account.x]\naddress = "a@x.mail"\npassword = {password}\n')
    assert len(lines) == 1 and lines[0].startswith("p:3: account.x.password: ") and "sesame" not in lines[0]


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    (line,) = problems('[account.x]\naddress = "a@x.mail"\nsend = "smtps://a:sesame@h"\n')
    assert "sesame" not in line and "`password`" in line


@pytest.mark.parametrize(
    "text", ["account = 5", '[account]\naddress = "a@x.mail"', "[[account]]", 'account.x = "a"', "x = [[", "\0"]
)
def test_what_is_no_file_of_accounts(text: str) -> None:
    assert problems(text)


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[account.x]\naddress = "a@x.mail"\ncacert = "ca.pem"\npassword = { file = "word" }\n')
    account = load(file).accounts["x"]
    assert (account.cacert, account.password.file) == (str(tmp_path / "ca.pem"), str(tmp_path / "word"))
    assert str(tmp_path) not in repr(account.password)


def test_somebody_elses_home_that_is_not_there() -> None:
    for line in (
        'store = "maildir:~nobody-at-all/x"',
        'cacert = "~nobody-at-all/x"',
        'password = { file = "~no-one/x" }',
    ):
        (problem,) = problems(f'[account.x]\naddress = "a@x.mail"\n{line}\n')
        assert "nobody's home" in problem


KEYS = ["default", "account", "x", "address", "send", "read", "password", "keep", "store", "trusted", "plain"]
SCALARS = st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["a@x.mail", "smtp://h", "7d", "x"])


def nested(depth: int) -> st.SearchStrategy[object]:
    """Values with lists and tables in them, so deep."""
    if not depth:
        return SCALARS
    inner = nested(depth - 1)
    return SCALARS | st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=True) if not isinstance(value, int) else json.dumps(value)


@given(st.dictionaries(st.sampled_from(KEYS), nested(3), max_size=4) | st.text(max_size=100))
def test_whatever_stands_there_is_read_or_told(tables: dict[str, object] | str) -> None:
    """Would catch a kind of value that a reader did not expect, and a traceback in a client's face."""
    text = tables if isinstance(tables, str) else "\n".join(f"{key} = {toml(item)}" for key, item in tables.items())
    with contextlib.suppress(ConfigError):
        parse(text)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize(
    ("mode", "secret", "refused"),
    [
        (0o600, True, False),
        (0o640, True, True),
        (0o604, True, True),
        (0o644, False, False),
        (0o664, False, False),
        (0o646, False, True),
    ],
)
def test_what_others_may_do_with_the_file(tmp_path: Path, mode: int, secret: bool, refused: bool) -> None:
    file = tmp_path / "config.toml"
    source = '{ plain = "sesame" }' if secret else "{ prompt = true }"
    file.write_text(f'[account.x]\naddress = "a@x.mail"\npassword = {source}\n')
    file.chmod(mode)
    if not refused:
        assert load(file).accounts["x"].password.plain == ("sesame" if secret else "")
        return
    with pytest.raises(ConfigError, match="run chmod") as caught:
        load(file)
    assert "sesame" not in str(caught.value)


def test_the_place_of_the_file_on_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_path() == Path("/home/anna/.config/posthouse/config.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/anna")
    assert default_path() == Path("/etc/anna/posthouse/config.toml")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_path() == Path("/home/anna/Library/Application Support/Posthouse/config.toml")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", "/roaming")
    assert default_path() == Path("/roaming/Posthouse/config.toml")
