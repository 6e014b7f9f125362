"""The profile file of the clients: who one is, where one's mail is sent from and collected, and where the password is.

`load` gives the accounts of a file; everything that is wrong with it is told at once, each with its line. No text
that may hold a password stands in an error.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from posthouse.config.load import Checker, ConfigError, Problem, nearest, places, read_tables, read_text
from posthouse.config.sections import Section
from posthouse.config.values import Kind, Setting, Wrong, split_host_port
from posthouse.mail.address import AddressError
from posthouse.mail.mailboxes import Mailbox, parse_mailboxes

SEND_SCHEMES: Final = ("smtp", "submission", "smtps", "submissions")
READ_SCHEMES: Final = ("pop3", "pop", "pop3s", "pops")
MOST_ACCOUNTS: Final = 1000
ACCOUNT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
WORDS: Final = 64  # of a password command
FOREVER: Final = "forever"


@dataclass(slots=True, frozen=True)
class PasswordSource:
    """Where the password of an account comes from. Exactly one is set; none of it is ever shown."""

    command: tuple[str, ...] = field(default=(), repr=False)
    keyring: bool = False
    prompt: bool = False
    file: str = field(default="", repr=False)
    plain: str = field(default="", repr=False)


@dataclass(slots=True)
class Account:
    """One account: who you are, and where your mail goes out and comes in.

    `send` and `read` are URLs without a password, or "". `keep` is how many seconds collected messages stay on the
    server, None for as long as the owner likes.
    """

    name: str
    address: Mailbox
    send: str = ""
    read: str = ""
    password: PasswordSource = field(default_factory=lambda: PasswordSource(prompt=True))
    keep: float | None = None
    store: str = ""
    trusted: tuple[str, ...] = ()
    cacert: str = ""
    pin: str = ""


@dataclass(slots=True)
class Profiles:
    """The accounts of a file, and the name of the one that is meant when none is named."""

    accounts: dict[str, Account] = field(default_factory=dict)
    default: str = ""


@dataclass(slots=True, frozen=True)
class ProfileSetting(Setting):
    """A setting of a profile: each has a kind of its own, with a `reader` and a `form` that tells what it may be."""

    reader: Callable[[object], object] = str
    form: str = ""

    def read(self, value: object) -> object:
        """The value the program uses. Raises Wrong."""
        return self.reader(value)

    @property
    def allowed(self) -> str:
        """What this setting may be, in words."""
        return self.form


def section(name: str) -> Section:
    """The table of one account."""

    def build(given: Mapping[str, Any]) -> Account:
        return Account(name, **given)

    defaults = {"password": "{ prompt = true }", "keep": '"forever"', "trusted": "[]"}
    return Section(f"account.{name}", Account.__doc__ or "", SETTINGS, defaults, build, required=("address",))


def load(path: Path) -> Profiles:
    """The accounts of a file. Relative paths count from the file. Raises ConfigError, also when the file cannot be read
    or others may do with it what only its owner should."""
    text = read_text(path)
    profiles = parse(text, str(path))
    if sys.platform != "win32":
        _check_mode(path, profiles)
    return profiles


def parse(text: str, source: str = "profile") -> Profiles:
    """The accounts in a TOML text. Raises ConfigError with every problem found."""
    tables = read_tables(text, source)
    checker = Checker(places(text))
    folder = Path(source).absolute().parent
    profiles = _profiles(tables, checker, folder)
    if checker.problems:
        raise ConfigError(source, checker.problems)
    return profiles


def _profiles(tables: Mapping[str, Any], checker: Checker, folder: Path) -> Profiles:
    for name in tables:
        if name not in ("default", "account"):
            checker.wrong(name, f"there is no such setting{nearest(name, ('default', 'account'))}")
    found = tables.get("account", {})
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
        checker.wrong("account", "needs a name: the line of an account is [account.NAME], such as [account.home]")
        return Profiles()
    profiles = Profiles()
    for number, (name, table) in enumerate(found.items()):
        path = f"account.{name}"
        if not ACCOUNT_NAME.fullmatch(name):
            checker.wrong(path, "is no name: letters, digits and . _ @ + - make one, at most 64 of them")
        if number == MOST_ACCOUNTS:
            checker.wrong(path, f"is one too many: a file has at most {MOST_ACCOUNTS} accounts")
            break
        account = checker.section(section(name), table, path)
        if account is not None:
            profiles.accounts[name] = _at_home(account, folder)
    profiles.default = _default(tables, found, checker)
    return profiles


def _default(tables: Mapping[str, Any], found: Mapping[str, Any], checker: Checker) -> str:
    default = tables.get("default", "")
    if not isinstance(default, str):
        checker.wrong("default", 'is the name of an account, such as default = "home"')
        return ""
    if default and default not in found:
        hint = nearest(default, found) if found else "; there is none at all"
        checker.wrong("default", f'there is no account "{default}"{hint}')
    return default


def _at_home(account: Account, folder: Path) -> Account:
    """Relative paths count from the file that has them."""
    if account.cacert:
        account.cacert = str(folder / account.cacert)
    if account.password.file:
        account.password = PasswordSource(file=str(folder / account.password.file))
    return account


def _check_mode(path: Path, profiles: Profiles) -> None:
    """A password in the file is for its owner; and who may write to it may have the password sent elsewhere."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(str(path), [Problem(0, "", f"cannot be read: {error.strerror or error}")]) from error
    secret = any(account.password.plain for account in profiles.accounts.values())
    if secret and mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"holds a password, and others may read it: run chmod 600 {path}"
    elif mode & stat.S_IWOTH:
        text = f"may be changed by everybody, who could have your password sent elsewhere: run chmod go-w {path}"
    else:
        return
    raise ConfigError(str(path), [Problem(0, "", text)])


# How each setting is read. What may hold a password is not repeated.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong('is not a text; texts stand in quotation marks, such as "abc"')
    if not value.isprintable():
        raise Wrong("holds a control character; only printable characters are allowed")
    return value


def _address(value: object) -> Mailbox:
    text = _text(value)
    try:
        mailboxes = parse_mailboxes(text)
    except AddressError as error:
        raise Wrong(f'"{text}" is no mail address ({error})') from None
    if len(mailboxes) != 1:
        raise Wrong(f'"{text}" is not one address; write it like "Anna <anna@example.org>"')
    return mailboxes[0]


def _url(schemes: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        url = _text(value)
        scheme, separator, rest = url.partition("://")
        user, _, host = rest.partition("/")[0].rpartition("@")
        if ":" in user:
            raise Wrong("holds a password after the user's name; take it out and use `password`")
        if not separator or scheme.lower() not in schemes:
            raise Wrong(f'"{url}" does not begin with {" or ".join(f"{word}://" for word in schemes[::2])}')
        _check_host(url, host)
        return url

    return read


def _check_host(url: str, text: str) -> None:
    host, port = split_host_port(text)
    if not host or len(host) > 255 or port == 0 or any(c <= " " or c in "@/\\<>" for c in host):
        raise Wrong(f'"{url}" names no server; write it like {url.partition(":")[0]}://user@mail.example.org')


def _password(value: object) -> PasswordSource:
    known = [item.name for item in fields(PasswordSource)]
    if not isinstance(value, dict):
        raise Wrong(f"is a table with one of {', '.join(known)}, such as {{ prompt = true }}")
    if len(value) != 1 or (name := next(iter(value))) not in known:
        raise Wrong(f"needs exactly one of {', '.join(known)}")
    given = value[name]
    if name == "command":
        return PasswordSource(command=_command(given))
    if name in ("keyring", "prompt"):
        if given is not True:
            raise Wrong(f"{name} can only be true")
    elif not isinstance(given, str) or not given:
        raise Wrong(f"{name} is a text in quotation marks that is not empty")
    elif name == "file":
        given = str(_home(given))
    return replace(PasswordSource(), **{name: given})


def _command(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not given or len(given) > WORDS or not all(isinstance(w, str) for w in given):
        raise Wrong('command is a list of texts, the program first, such as ["secret-tool", "lookup", "user", "anna"]')
    if not given[0] or any("\0" in word for word in given):
        raise Wrong("command names no program that could be run")
    return tuple(given)


_KEEP: Final = Setting(Kind.SECONDS, "", low=0, high=3650 * 86_400)


def _keep(value: object) -> float | None:
    if value == FOREVER:
        return None
    seconds = _KEEP.read(value)
    assert isinstance(seconds, float)
    return seconds


def _store(value: object) -> str:
    text = _text(value)
    kind, _, path = text.partition(":")
    if kind not in ("maildir", "mbox") or not path:
        raise Wrong(f'"{text}" is no place for mail; write maildir:DIR or mbox:FILE')
    _home(path)
    return text


def _trusted(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 1000 or not all(isinstance(item, str) and item for item in value):
        raise Wrong('is a list of host names, such as ["mx1.example.org"]')
    return tuple(value)


def _path(value: object) -> str:
    text = _text(value)
    if not text:
        raise Wrong("is the name of a file")
    return str(_home(text))


def _home(path: str) -> Path:
    """The path with `~` filled in."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise Wrong(f"begins with {path.partition('/')[0]}, which is nobody's home") from None


def _pin(value: object) -> str:
    text = _text(value)
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise Wrong("is no SHA-256: 64 hexadecimal digits, with or without colons")
    return digits


# What they are


def _setting(reader: Callable[[object], object], form: str, help: str, rfc: str = "") -> Setting:
    return ProfileSetting(Kind.TEXT, help, rfc=rfc, reader=reader, form=form)


SETTINGS: Final[Mapping[str, Setting]] = {
    "address": _setting(
        _address,
        'one address, with a name if you like: "Anna <anna@example.org>"',
        "Who you are: the From of what you send, and the login where the URLs name none.",
        "RFC 5322 §3.4",
    ),
    "send": _setting(
        _url(SEND_SCHEMES),
        'a URL such as "smtps://user@host" (TLS from the first octet, port 465) or "smtp://user@host:587" (STARTTLS)',
        "The server that takes your mail. A password passes in clear to this machine itself only, unless you agree.",
        "RFC 8314 §3.3",
    ),
    "read": _setting(
        _url(READ_SCHEMES),
        'a URL such as "pop3s://user@host" (TLS from the first octet, port 995) or "pop3://user@host:110" (STLS)',
        "The server that has your mailbox.",
        "RFC 8314 §3.2",
    ),
    "password": _setting(
        _password,
        '{ command = ["program", "argument"] }, { keyring = true }, { prompt = true }, { file = "path" } or '
        '{ plain = "the password" }',
        "Where the password comes from: the first line that a program prints (no shell, at most a minute), the keyring "
        "of the system, yourself each time, the first line of a file that only you may read, or this file itself. "
        "`--password-stdin` and the variable POSTHOUSE_PASSWORD go before it.",
    ),
    "keep": _setting(
        _keep,
        'a time such as "7d" or "36h", "0" (collected mail goes at once) or "forever"',
        "How long messages stay on the server once `posthouse read new` has kept them in `store`, counted from when "
        "they were collected; `--delete` says otherwise for once.",
    ),
    "store": _setting(
        _store,
        '"maildir:DIR" or "mbox:FILE"',
        "Where `posthouse read new` keeps messages; `--to` names another place for once.",
    ),
    "trusted": _setting(
        _trusted,
        'a list of host names, such as ["mx1.example.org"]',
        "Your own servers, whose words `posthouse trace` believes (the option `--trusted`).",
        "RFC 8601 §5",
    ),
    "cacert": _setting(
        _path,
        "a file of certificates in PEM",
        "Believe these authorities instead of the system's (the option `--cacert`).",
    ),
    "pin": _setting(
        _pin,
        "64 hexadecimal digits, with or without colons",
        "Believe only the certificate, or the public key, with this SHA-256 (the option `--pin`).",
    ),
}
