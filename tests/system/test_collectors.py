"""Letters come out by programs nobody here wrote; what they hand on is what is in the maildrop."""

from __future__ import annotations

import mailbox as mailboxes
import poplib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.letters import KINDS, check_same, check_same_lines, letter
from tests.system.programs import find_program, run_program
from tests.system.raw import collect, deliver
from tests.system.server import PASSWORD, READER, Server, serving

Collector = Callable[[Path, Server, str], list[bytes]]
"""Collects and deletes all letters of a maildrop with a program, and returns what it made of them."""

Keeper = Callable[[Path, Server, str, bool], list[bytes]]
"""The same for a program that may also leave letters on the server; it then collects each only once."""


def by_curl(folder: Path, server: Server, address: str) -> list[bytes]:
    command = [find_program("curl"), "--silent", "--show-error", "--max-time", "150", "--user", f"{address}:{PASSWORD}"]
    url = f"pop3://{server.pop3.url}"
    scan = run_program([*command, f"{url}/"], folder=folder).stdout
    letters = []
    for number in [int(line.split()[0]) for line in scan.splitlines()]:
        run_program([*command, "--output", str(folder / "out"), f"{url}/{number}"], folder=folder)
        letters.append((folder / "out").read_bytes())
    for number in range(1, len(letters) + 1):
        run_program([*command, "--list-only", "--request", "DELE", f"{url}/{number}"], folder=folder)
    return letters


def by_poplib(folder: Path, server: Server, address: str) -> list[bytes]:
    client = poplib.POP3(server.pop3.host, server.pop3.port, timeout=150)
    client.user(address)
    client.pass_(PASSWORD)
    count, octets = client.stat()
    letters = []
    for number in range(1, count + 1):
        _, lines, _ = client.retr(number)
        letters.append(b"".join(line + b"\r\n" for line in lines))
        client.dele(number)
    assert octets == sum(map(len, letters)), "STAT told another size than RETR sent"
    client.quit()
    return letters


def by_mpop(folder: Path, server: Server, address: str, keep: bool = False) -> list[bytes]:
    maildir = _new_maildir(folder)
    settings = folder / "mpoprc"
    settings.write_text(
        f"account x\nhost {server.pop3.host}\nport {server.pop3.port}\ntls off\nauth user\nuser {address}\n"
        f'password "{PASSWORD}"\ndelivery maildir {maildir}\nreceived_header off\n'
        f"keep {'on' if keep else 'off'}\nuidls_file {folder}/uidls\n"
    )
    settings.chmod(0o600)
    run_program([find_program("mpop"), f"--file={settings}", "x"], folder=folder)
    return _read_maildir(maildir)


def by_fetchmail(folder: Path, server: Server, address: str, keep: bool = False) -> list[bytes]:
    settings = folder / "fetchmailrc"
    settings.write_text(
        f'poll "{server.pop3.host}" protocol pop3 service {server.pop3.port} auth password uidl\n'
        f'  user "{address}" password "{PASSWORD}" sslproto "" no rewrite {"keep" if keep else "fetchall"}\n'
        f'  mda "cat > {folder}/fetched.$$"\n'
        # Without it fetchmail adds a Received field of its own.
        f'set invisible\nset idfile "{folder}/ids"\n'
    )
    settings.chmod(0o600)
    command = [
        find_program("fetchmail"),
        "--fetchmailrc",
        str(settings),
        "--pidfile",
        str(folder / "pid"),
        "--nosyslog",
    ]
    run_program(command, folder=folder, codes=(0, 1))
    return [file.read_bytes() for file in sorted(folder.glob("fetched.*"))]


def by_getmail(folder: Path, server: Server, address: str, keep: bool = False) -> list[bytes]:
    (folder / "getmailrc").write_text(
        f"[retriever]\ntype = SimplePOP3Retriever\nserver = {server.pop3.host}\nport = {server.pop3.port}\n"
        f"username = {address}\npassword = {PASSWORD}\ntimeout = 150\n"
        # The only destination that it gives to root, as whom CI runs.
        "[destination]\ntype = MDA_external\npath = /bin/sh\nallow_root_commands = true\n"
        f"arguments = ('-c', 'cat > {folder}/fetched.$$')\n"
        # It would add Received and Delivered-To otherwise.
        f"[options]\nread_all = {not keep}\ndelete = {not keep}\nreceived = false\ndelivered_to = false\nverbose = 0\n"
    )
    (folder / "getmailrc").chmod(0o600)
    run_program([find_program("getmail"), "--getmaildir", str(folder), "--rcfile", "getmailrc"], folder=folder)
    return [file.read_bytes() for file in sorted(folder.glob("fetched.*"))]


def by_s_nail(folder: Path, server: Server, address: str) -> list[bytes]:
    url = f"pop3://{address.replace('@', '%40')}:{PASSWORD}@{server.pop3.url}"
    command = [find_program("s-nail"), "-:/", "-S", "v15-compat=yes", "-S", "quiet", "-f", url]
    run_program(command, folder=folder, stdin=f"copy * {folder}/mbox\ndelete *\nquit\n".encode())
    box = mailboxes.mbox(folder / "mbox", create=False)
    try:
        return [box.get_bytes(key) for key in box.iterkeys()]
    finally:
        box.close()


def _new_maildir(folder: Path) -> Path:
    maildir = folder / "maildir"
    for part in ("cur", "new", "tmp"):
        (maildir / part).mkdir(parents=True, exist_ok=True)
    return maildir


def _read_maildir(maildir: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((maildir / "new").iterdir())]


EXACT: dict[str, Collector] = {"curl": by_curl, "poplib": by_poplib}
WITH_LF: dict[str, Collector] = {"mpop": by_mpop, "fetchmail": by_fetchmail, "getmail": by_getmail, "s-nail": by_s_nail}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", EXACT | WITH_LF)
def test_octets_stay(server: Server, mailbox: str, tmp_path: Path, program: str, kind: str) -> None:
    """Would catch any octet changed, lost or added between DATA and what the program writes, and a letter that
    stays although the program deleted it."""
    content = letter(kind)
    assert deliver(server.smtp, [mailbox], content).startswith(b"250")
    if program in EXACT:
        [collected] = EXACT[program](tmp_path, server, mailbox)
        check_same(collected, content)
    else:
        [collected] = WITH_LF[program](tmp_path, server, mailbox)
        if program == "s-nail" and kind == "0 B":
            # An mbox file, s-nail's only form, cannot tell how many empty lines end a message.
            collected = collected.rstrip(b"\n") + b"\n\n"
        check_same_lines(collected, content)
    assert collect(server.pop3, mailbox) == []


KEEPERS: dict[str, Keeper] = {"mpop": by_mpop, "fetchmail": by_fetchmail, "getmail": by_getmail}


@pytest.mark.parametrize("program", KEEPERS)
def test_kept_letters_come_once(data: Path, tmp_path: Path, program: str) -> None:
    """Leaving mail on the server rests on unique-ids that stay, also over a restart: what was collected is not
    collected again, what is new is."""
    collect_new = KEEPERS[program]
    with serving(data, "smtp", "pop3") as first:
        for subject in (b"one", b"two"):
            deliver(first.smtp, [READER], b"Subject: %s\r\n\r\nHello\r\n" % subject)
        assert len(collect_new(tmp_path, first, READER, True)) == 2
        assert len(collect_new(tmp_path, first, READER, True)) == 2
        ports = first.smtp.port, first.pop3.port
    # The same port again: these programs keep their notes by server and port.
    with serving(data, f"smtp=127.0.0.1:{ports[0]}", f"pop3=127.0.0.1:{ports[1]}") as second:
        deliver(second.smtp, [READER], b"Subject: three\r\n\r\nHello\r\n")
        letters = collect_new(tmp_path, second, READER, True)
        assert sorted(text.split(b"Subject: ")[1].split(b"\n")[0] for text in letters) == [b"one", b"three", b"two"]
        assert len(collect(second.pop3, READER)) == 3


def test_fetchmail_hands_on(server: Server, new_mailbox: Callable[[], str], tmp_path: Path) -> None:
    """fetchmail takes a letter from one mailbox and gives it by SMTP to another: both ends are ours."""
    first, second = new_mailbox(), new_mailbox()
    content = letter("dots")
    deliver(server.smtp, [first], content)
    (tmp_path / "fetchmailrc").write_text(
        f'poll "{server.pop3.host}" protocol pop3 service {server.pop3.port} auth password\n'
        f'  user "{first}" password "{PASSWORD}" is "{second}" here sslproto "" no rewrite fetchall\n'
        f'  smtphost "{server.smtp.host}/{server.smtp.port}" smtpname "{second}"\n'
    )
    (tmp_path / "fetchmailrc").chmod(0o600)
    command = [find_program("fetchmail"), "--nosyslog", "--pidfile", str(tmp_path / "pid")]
    run_program([*command, "--fetchmailrc", str(tmp_path / "fetchmailrc")], folder=tmp_path)
    assert collect(server.pop3, first) == []
    [collected] = collect(server.pop3, second)
    assert collected.endswith(content)
