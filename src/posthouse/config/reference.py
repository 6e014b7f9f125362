"""Makes the reference pages of all settings and of the profile file from their schemas (`make docs` writes them)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from posthouse.config import profiles
from posthouse.config.schema import DEFAULT_LISTENERS
from posthouse.config.sections import CERTIFICATE, LISTENER, SECTIONS, Section
from posthouse.config.values import Setting

_INTRODUCTION = """\
# Settings

This page is generated from the program (`make docs`); do not edit it.

The configuration is a TOML file. `posthouse serve` reads `posthouse.toml` in its data directory, or the file that
`--config FILE` or the variable `POSTHOUSE_CONFIG` names. Every setting has a default, so no file is needed at all.
Errors are told all at once, each with its line.

* Times are seconds, or texts such as `"90s"`, `"5m"`, `"1h"`, `"7d"`.
* Sizes are octets, or texts such as `"64K"`, `"50M"`, `"2G"` (powers of 1024).
* A changed file is read again when the server gets the signal SIGHUP; what then is wrong leaves the old settings in
  force. `server.data`, all of `[store]`, and the hashes and the cache in `[accounts]` count from the next start.

```toml
[server]
hostname = "mail.example.org"

[[listener]]
protocol = "smtp"
address = "127.0.0.1"
port = 2525

[smtp]
message = "20M"
```
"""


def page() -> str:
    """The whole reference page in Markdown."""
    parts = [_INTRODUCTION]
    for section in SECTIONS.values():
        parts.append("\n".join(_section(section, f"[{section.name}]")))
    defaults = ", ".join(f"`{listener}`" for listener in DEFAULT_LISTENERS)
    after = f"Without any such table the server listens on {defaults}; `--listen` replaces them all.\n"
    parts.insert(2, "\n".join([*_section(LISTENER, "[[listener]]"), after]))
    parts.append("\n".join(_section(CERTIFICATE, "[[certificate]]")))
    return "\n".join(parts)


_PROFILE: Final = """\
# The profile file

This page is generated from the program (`make docs`); do not edit it.

`posthouse send`, `read` and `trace` take your accounts from a TOML file: `~/.config/posthouse/config.toml` (below
`XDG_CONFIG_HOME` where that is set), on macOS `~/Library/Application Support/Posthouse/config.toml`, on Windows
`%APPDATA%\\Posthouse\\config.toml`; `--config FILE` names another. `posthouse setup ADDRESS` writes it. Errors are told
all at once, each with its line, and end a command with the exit code 78.

```toml
default = "home"

[account.home]
address  = "Anna <anna@example.org>"
send     = "smtps://anna@mail.example.org"
read     = "pop3s://anna@mail.example.org"
password = { command = ["secret-tool", "lookup", "user", "anna"] }
keep     = "forever"
store    = "maildir:~/Mail/home"
trusted  = ["mail.example.org"]
```

* `default` is the account that is meant when `-A NAME` names none; a file with one account needs no such line.
* An option on the command line goes before the account. `--url` names a server for once, and then nothing is taken
  from the file, so that no password goes to a server it is not for.
* Relative paths of `cacert` and of a password file count from this file; `~` is your home.
* A file that holds a password (`plain`) is refused when its group or others may do anything with it, and any file that
  everybody may write to: `chmod 600` puts it right.
"""


def profile_page() -> str:
    """The reference page of the profile file in Markdown."""
    account = profiles.section("NAME")
    return "\n".join([_PROFILE, *_section(account, "[account.NAME]")])


def _section(section: Section, title: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{section.help.splitlines()[0]}\n"
    for name, setting in section.settings.items():
        yield f"### {section.name}.{name}\n"
        yield f"{setting.help}\n"
        yield from _facts(section, name, setting)
        yield ""


def _facts(section: Section, name: str, setting: Setting) -> Iterator[str]:
    written = section is LISTENER or isinstance(setting, profiles.ProfileSetting)
    if not isinstance(setting, profiles.ProfileSetting):
        yield f"* Kind: {setting.kind.value}{f', in {setting.unit}' if setting.unit else ''}"
    yield f"* Allowed: {setting.allowed}"
    if name in section.required:
        yield "* Required"
    elif name in section.defaults:
        default = section.defaults[name]
        means = f" ({setting.empty})" if setting.empty and not default else ""
        yield f"* Default: `{default if written else setting.show(default)}`{means}"
    if setting.rfc:
        yield f"* Standard: {setting.rfc}"
    if setting.source:
        yield f"* Why this number: {setting.source}"
