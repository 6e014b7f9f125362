"""`posthouse setup` against a real name server, a real https server and a real mail server on their usual ports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.system.island import Island, island
from tests.system.scripted import ScriptedServer, environment, pexpect, pop3, smtp
from tests.system.server import PASSWORD, find_command, run_posthouse, spawn_server, wait_for

NAMES = ("srv", "auto", "moved", "mx", "plain", "strange", "denied", "fallback")
DOMAINS = ("example.org", *(f"{name}.test" for name in NAMES))
HOSTS = (
    "mail.example.org",
    "mail.srv.test",
    "mail.auto.test",
    "mail.moved.test",
    "mx.mx.test",
    "mail.plain.test",
    "mail.other.test",
)
A = "127.0.0.1"
AUTOCONFIG = """<?xml version="1.0" encoding="UTF-8"?>
<clientConfig version="1.1"><emailProvider id="{domain}"><domain>{domain}</domain>
<incomingServer type="imap"><hostname>mail.{domain}</hostname><port>993</port><socketType>SSL</socketType>
<authentication>password-cleartext</authentication><username>%EMAILADDRESS%</username></incomingServer>
<incomingServer type="pop3"><hostname>mail.{domain}</hostname><port>110</port><socketType>plain</socketType>
<authentication>password-cleartext</authentication><username>%EMAILADDRESS%</username></incomingServer>
<incomingServer type="pop3"><hostname>mail.{domain}</hostname><port>995</port><socketType>SSL</socketType>
<authentication>password-cleartext</authentication><username>%EMAILLOCALPART%@%EMAILDOMAIN%</username></incomingServer>
<outgoingServer type="smtp"><hostname>mail.%EMAILDOMAIN%</hostname><port>587</port><socketType>STARTTLS</socketType>
<authentication>password-cleartext</authentication><username>%EMAILADDRESS%</username></outgoingServer>
</emailProvider></clientConfig>
"""

ZONES = {
    "example.org": f"""\
mail A {A}
_submissions._tcp SRV 0 1 465 mail
_submission._tcp SRV 0 1 587 mail
_pop3s._tcp SRV 0 1 995 mail
_imaps._tcp SRV 0 1 993 mail
@ MX 10 mail
""",
    "srv.test": f"""\
mail A {A}
dead A 127.0.0.3
_submissions._tcp SRV 0 1 465 mail
_submission._tcp SRV 0 1 587 mail
_pop3s._tcp SRV 0 1 995 mail
_pop3._tcp SRV 0 1 110 mail
_imaps._tcp SRV 0 1 993 mail
""",
    # The first server is dead, its weight and priority make it the first nevertheless.
    "fallback.test": f"""\
dead A 127.0.0.3
mail A {A}
_submissions._tcp SRV 0 9 465 dead
_submissions._tcp SRV 0 1 465 mail.srv.test.
_pop3s._tcp SRV 0 0 995 dead
_pop3s._tcp SRV 5 9 995 mail.srv.test.
""",
    "auto.test": f"mail A {A}\nautoconfig A {A}\n",
    "moved.test": f"@ A {A}\nmail A {A}\nautoconfig A {A}\n",
    "mx.test": f"@ MX 10 mx\n@ MX 20 dead\nmx A {A}\ndead A 127.0.0.3\n",
    "plain.test": f"mail A {A}\n",
    "strange.test": "_submissions._tcp SRV 0 1 465 mail.other.test.\n_pop3s._tcp SRV 0 1 995 mail.other.test.\n",
    "other.test": f"mail A {A}\n",
    "denied.test": f"""\
mail A {A}
_pop3s._tcp SRV 0 0 0 .
_pop3._tcp SRV 0 0 0 .
_submissions._tcp SRV 0 1 465 mail.srv.test.
""",
    "none.test": "",
    "null.test": "@ MX 0 .\n",
    **{f"{name}.test": f"@ A {A}\nautoconfig A {A}\n" for name in ("clear", "circle", "bomb", "huge", "slow")},
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Island]:
    """The island with all servers; `ca.pem` in its folder is whom to believe."""
    data = tmp_path_factory.mktemp("setup") / "data"
    for domain in DOMAINS:
        run_posthouse(data, "domain", "add", domain)
        run_posthouse(data, "account", "add", f"anna@{domain}", "--password-stdin", stdin=PASSWORD + "\n")
    authority = trustme.CA()
    hosts = [f"{prefix}{zone}" for zone in ZONES for prefix in ("", "autoconfig.")]
    with island(ZONES) as made:
        authority.cert_pem.write_to_path(made.folder / "ca.pem")
        authority.issue_cert(*hosts).private_key_and_cert_chain_pem.write_to_path(made.folder / "web.pem")
        authority.issue_cert(*HOSTS).private_key_and_cert_chain_pem.write_to_path(made.folder / "mail.pem")
        for domain in ("auto.test", "moved.test"):
            (made.folder / f"{domain}.xml").write_text(AUTOCONFIG.format(domain=domain))
        web = Path(__file__).with_name("webserver.py")
        made.start([sys.executable, str(web), str(made.folder / "web.pem"), str(made.folder)], "web.log")
        wait_for(lambda: "ready" in (made.folder / "web.log").read_text(), lambda: "the web server is silent")
        (data / "posthouse.toml").write_text(f'[[certificate]]\nchain = "{made.folder}/mail.pem"\n')
        ports = {"submissions": 465, "submission": 587, "pop3s": 995, "pop3": 110}
        listeners = [f"{protocol}={A}:{port}" for protocol, port in ports.items()]
        server = spawn_server(data, *listeners, program=made.inside([find_command()]), logs=made.folder)
        try:
            server.wait_ready(len(listeners))
            yield made
        except BaseException:
            server.kill()
            raise
        server.stop()


Done = tuple[int, dict[str, Any]]


class Home:
    """A home of a test's own."""

    def __init__(self, net: Island, folder: Path) -> None:
        self.net = net
        self.folder = folder
        self.file = folder / "posthouse" / "config.toml"

    def env(self) -> dict[str, str]:
        return environment(home=self.folder) | {"XDG_CONFIG_HOME": str(self.folder)}

    def raw(self, *arguments: str, given: bytes = PASSWORD.encode() + b"\n") -> subprocess.CompletedProcess[bytes]:
        """`posthouse setup` on the island, believing its authority."""
        command = [find_command(), "setup", *arguments]
        command += ["--cacert", str(self.net.folder / "ca.pem"), "--password-stdin"]
        done = self.net.run(command, given=given, env=self.env())
        assert PASSWORD.encode() not in done.stdout + done.stderr, "the password was shown"
        return done

    def setup(self, *arguments: str, given: bytes = PASSWORD.encode() + b"\n") -> Done:
        """The same with --json: exit code and answer."""
        done = self.raw(*arguments, "--json", given=given)
        assert done.stderr == b""
        answer = json.loads(done.stdout)
        assert answer["code"] == done.returncode
        return done.returncode, answer

    def account(self, name: str = "anna") -> dict[str, Any]:
        account: dict[str, Any] = tomllib.loads(self.file.read_text())["account"][name]
        return account


@pytest.fixture
def home(net: Island, tmp_path: Path) -> Home:
    return Home(net, tmp_path)


def said(answer: dict[str, Any]) -> dict[str, str]:
    return {clue["source"]: clue["said"] for clue in answer["discovery"]}


def test_srv_records(home: Home) -> None:
    """RFC 6186 §3 and RFC 8314 §5.1: submissions and pop3s go before their kin with STARTTLS."""
    code, answer = home.setup("Анна <anna@srv.test>")
    assert code == 0, answer
    assert (answer["send"], answer["read"]) == ("smtps://mail.srv.test", "pop3s://mail.srv.test")
    assert said(answer)["_submissions._tcp.srv.test"] == "mail.srv.test:465" and answer["discovery_s"] < 5
    account = home.account()
    assert account["address"] == "Анна <anna@srv.test>" and account["password"] == {"prompt": True}
    assert account["trusted"] == ["mail.srv.test"] and tomllib.loads(home.file.read_text())["default"] == "anna"
    assert stat.S_IMODE(home.file.stat().st_mode) == 0o600
    # What was written is what the clients need.
    done = home.net.run(
        [find_command(), "read", "list", "--password-stdin"], given=PASSWORD.encode() + b"\n", env=home.env()
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("domain", ["auto.test", "moved.test"])
def test_autoconfig_over_https(home: Home, domain: str) -> None:
    """Also when a redirection leads to it; the server in clear and the one for IMAP are not taken."""
    code, answer = home.setup(f"anna@{domain}")
    assert code == 0, answer
    assert (answer["send"], answer["read"]) == (f"smtp://mail.{domain}:587", f"pop3s://mail.{domain}")
    assert any(domain in source and "smtp mail" in words for source, words in said(answer).items() if "https" in source)


@pytest.mark.parametrize(("domain", "host"), [("mx.test", "mx.mx.test"), ("plain.test", "mail.plain.test")])
def test_guesses_where_nobody_says_anything(home: Home, domain: str, host: str) -> None:
    code, answer = home.setup(f"anna@{domain}")
    assert code == 0, answer
    assert (answer["send"], answer["read"]) == (f"smtps://{host}", f"pop3s://{host}")
    assert answer["discovery_s"] < 5


def test_a_dead_server_is_passed_over(home: Home) -> None:
    """RFC 2782: the lowest priority first, in it the greatest weight; then the others."""
    code, answer = home.setup("anna@fallback.test", "--yes")
    assert code == 0, answer
    assert [trial["server"] for trial in answer["trials"]] == [
        *("dead.fallback.test:465", "mail.srv.test:465", "dead.fallback.test:995", "mail.srv.test:995")
    ]


def test_a_server_of_another_domain_needs_a_yes(home: Home) -> None:
    """RFC 6186 §6. Would catch a password that goes where a forged answer of DNS says."""
    code, answer = home.setup("anna@strange.test")
    assert (code, answer["trials"]) == (77, []) and "mail.other.test" in answer["error"] and not home.file.exists()
    code, answer = home.setup("anna@strange.test", "--yes")
    assert code == 0 and answer["send"] == "smtps://mail.other.test"


def test_services_that_the_domain_denies_are_not_guessed(home: Home) -> None:
    """RFC 2782: the target "." means that there is none; mail.denied.test has one all the same."""
    code, answer = home.setup("anna@denied.test", "--yes")
    assert code == 68 and "--read none" in answer["error"]
    assert said(answer)["_pop3s._tcp.denied.test"] == "the domain has no such service"
    code, answer = home.setup("anna@denied.test", "--yes", "--read", "none")
    assert code == 0 and "read" not in home.account()


@pytest.mark.parametrize("domain", ["none.test", "null.test", "absent.test"])
def test_nothing_is_found(home: Home, domain: str) -> None:
    code, answer = home.setup(f"anna@{domain}")
    assert code == 68 and answer["discovery_s"] < 5 and answer["stage"] == "discovery" and not home.file.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clear", "a place without https"),
        ("circle", "a circle of redirections"),
        ("bomb", "a document type"),
        ("huge", "larger than"),
        ("slow", "no answer in time"),
    ],
)
def test_what_a_bad_web_server_says_is_not_believed(home: Home, name: str, words: str) -> None:
    code, answer = home.setup(f"anna@{name}.test")
    assert code == 68 and answer["discovery_s"] < 5.5
    assert words in said(answer)[f"https://autoconfig.{name}.test/mail/config-v1.1.xml"]


def test_a_web_server_that_we_do_not_trust(home: Home) -> None:
    """Without --cacert its authority is a stranger."""
    command = [find_command(), "setup", "anna@auto.test", "--dry-run", "--json"]
    answer = json.loads(home.net.run(command, env=home.env()).stdout)
    assert "certificate is refused" in said(answer)["https://autoconfig.auto.test/mail/config-v1.1.xml"]


def test_silent_name_servers_cost_five_seconds_at_most(home: Home) -> None:
    silence = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('127.0.0.9', 53))\n"
    process = home.net.start([sys.executable, "-c", f"{silence}print('ready', flush=True)\ntime.sleep(60)"], "s.log")
    wait_for(lambda: "ready" in (home.net.folder / "s.log").read_text(), lambda: "no silence")
    home.net.name_servers("127.0.0.9")
    try:
        begun = time.monotonic()
        code, answer = home.setup("anna@srv.test")
        took = time.monotonic() - begun
    finally:
        home.net.name_servers(A)
        process.terminate()
    assert code == 68 and answer["discovery_s"] <= 5.2 and took < 7
    assert said(answer)["_submissions._tcp.srv.test"] == "the name servers do not answer"


def test_a_refused_login_writes_nothing_and_goes_to_no_other_server(home: Home) -> None:
    code, answer = home.setup("anna@srv.test", given=b"wrong word\n")
    assert (code, answer["stage"]) == (77, "auth") and not home.file.exists()
    assert {trial["server"] for trial in answer["trials"]} == {"mail.srv.test:465"}


def test_a_dry_run_writes_nothing_and_logs_in_nowhere(home: Home) -> None:
    done = home.raw("anna@srv.test", "--dry-run")
    assert done.returncode == 0 and not home.file.exists()
    assert b'[account.anna]\naddress  = "anna@srv.test"\nsend     = "smtps://mail.srv.test"\n' in done.stdout
    assert b"let in" not in done.stdout


def test_the_file_is_appended_to_and_never_rewritten(home: Home) -> None:
    home.file.parent.mkdir()
    before = '# mine\n[account.old]   # 1\naddress = "o@x.mail"\n\n\n# no line end'
    home.file.write_text(before)
    home.file.chmod(0o644)
    assert home.setup("anna@srv.test")[0] == 0
    assert home.setup("anna@srv.test")[0] == 0  # the name is taken: another is made
    assert home.setup("anna@srv.test", "-A", "old")[0] == 73
    text = home.file.read_text()
    assert text.startswith(before + "\n\n[account.anna]\n") and "\n\n[account.anna-srv]\n" in text
    assert list(tomllib.loads(text)["account"]) == ["old", "anna", "anna-srv"] and "default" not in text


def test_a_file_with_errors_is_left_alone(home: Home) -> None:
    home.file.parent.mkdir()
    home.file.write_text("[account.x]\n")
    code, answer = home.setup("anna@srv.test")
    assert code == 78 and home.file.read_text() == "[account.x]\n" and answer["discovery"] == []


def test_where_the_password_is_kept(home: Home) -> None:
    word = home.folder / "word"
    word.write_text(PASSWORD + "\n")
    word.chmod(0o600)
    assert home.setup("anna@srv.test", "-A", "a", "--keep-password", f"file:{word}")[0] == 0
    assert home.setup("anna@srv.test", "-A", "b", "--keep-password", f"command:cat '{word}'")[0] == 0
    assert home.setup("anna@srv.test", "-A", "c", "--keep-password", "plain")[0] == 0
    assert home.account("a")["password"] == {"file": str(word)}
    assert home.account("b")["password"] == {"command": ["cat", str(word)]}
    assert home.account("c")["password"] == {"plain": PASSWORD}
    for name in "abc":
        done = home.net.run([find_command(), "read", "list", "-A", name], env=home.env())
        assert (done.returncode, done.stderr) == (0, b"")
    home.file.chmod(0o644)
    home.file.write_text('[account.x]\naddress = "x@x.mail"\n')
    code, answer = home.setup("anna@srv.test", "--keep-password", "plain")
    assert code == 78 and "chmod 600" in answer["error"] and "anna" not in home.file.read_text()


HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "set-up-an-account.md"


def test_the_screen_of_the_how_to_page(home: Home) -> None:
    """What docs/howto/set-up-an-account.md shows is what the program says."""
    done = home.raw("Anna <anna@example.org>")
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode().replace(str(home.file), "/home/anna/.config/posthouse/config.toml")
    said = re.sub(r"looked for [\d.]+ s", "looked for 0.1 s", said)
    page = HOWTO.read_text()
    shown = re.search(r'^\$ posthouse setup "Anna.*?\n(.*?)```', page, re.DOTALL | re.MULTILINE)
    assert shown and shown[1].replace("Password for anna@example.org: \n", "") == said
    written = re.search(r"^```toml\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    cacert = f'cacert   = "{home.net.folder}/ca.pem"\n'
    assert written and written[1] == home.file.read_text().replace(cacert, "")


PROBE = HOWTO.with_name("what-does-that-server-offer.md")


def test_the_screen_of_the_page_on_probe(home: Home) -> None:
    """What docs/howto/what-does-that-server-offer.md shows is what the program says ("..." stands for anything)."""
    command = [find_command(), "probe", "mail.example.org", "--cacert", str(home.net.folder / "ca.pem")]
    done = home.net.run(command, env=home.env())
    assert (done.returncode, done.stderr) == (1, b"")
    shown = re.search(r"^\$ posthouse probe mail.example.org\n(.*?)```", PROBE.read_text(), re.DOTALL | re.MULTILINE)
    assert shown
    pattern = ".*?".join(re.escape(piece) for piece in shown[1].rstrip().split("..."))
    assert re.fullmatch(pattern, done.stdout.decode().rstrip(), re.DOTALL)


# On a terminal, and without discovery


def local(folder: Path, *arguments: str, given: bytes = b"word\n") -> subprocess.CompletedProcess[bytes]:
    env = environment(home=folder) | {"XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(
        [find_command(), "setup", *arguments], input=given, capture_output=True, timeout=30, env=env, check=False
    )


def refuse_addresses(talk: Any) -> None:
    """A server whose logins are local parts."""
    talk.say(b"220 x.mail\r\n")
    while line := talk.line():
        verb = line.split(b" ")[0].upper()
        if verb == b"EHLO":
            talk.say(b"250-x\r\n250 AUTH PLAIN\r\n")
        elif verb == b"AUTH":
            talk.say(b"235 yes\r\n" if line == b"AUTH PLAIN AHRlc3QAd29yZA==" else b"535 5.7.8 no\r\n")
        elif verb == b"QUIT":
            talk.say(b"221 bye\r\n")
            return


def test_the_local_part_is_tried_where_the_address_is_refused(tmp_path: Path) -> None:
    """RFC 6186 §4. The servers are named by hand, on this machine, in clear."""
    with ScriptedServer(refuse_addresses) as out, ScriptedServer(pop3()) as back:
        urls = ["--send", f"smtp://{out.address}", "--read", f"pop3://{back.address}"]
        done = local(tmp_path, "test@x.mail", *urls, "--password-stdin")
    assert done.returncode == 0, done.stderr
    account = tomllib.loads((tmp_path / "posthouse" / "config.toml").read_text())["account"]["test"]
    assert account["send"] == f"smtp://test@{out.address}" and account["read"] == f"pop3://{back.address}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("no address",), 65),
        (("a@x.mail, b@x.mail",), 65),
        (("a@x.mail", "--offline"), 64),
        (("a@x.mail", "-k", "--send", "none"), 64),
        (("a@x.mail", "--send", "none", "--read", "none"), 64),
        (("a@x.mail", "--send", "pop3://h", "--read", "none"), 64),
        (("a@x.mail", "--send", "smtp://u:secret@h", "--read", "none"), 64),
        (("a@x.mail", "--keep-password", "somewhere"), 64),
        (("a@[192.0.2.1]",), 64),
        (("a@x.mail", "-A", "no name"), 64),
        (("a@x.mail", "--send", "smtp://127.0.0.1:1", "--read", "none", "--password-stdin"), 75),
        (("a@x.mail", "--send", "smtp://127.0.0.1:1", "--read", "none"), 64),  # nobody to ask for the password
    ],
)
def test_what_cannot_be_set_up(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    done = local(tmp_path, *arguments)
    assert done.returncode == code and done.stderr.startswith(b"posthouse setup: "), done.stderr
    answer = json.loads(local(tmp_path, *arguments, "--json").stdout)
    assert (answer["ok"], answer["code"]) == (False, code) and not (tmp_path / "posthouse").exists()


def test_offline_writes_what_it_is_told(tmp_path: Path) -> None:
    done = local(tmp_path, "a@x.mail", "--offline", "--send", "smtps://mail.x.mail", "--read", "none", given=b"")
    assert done.returncode == 0, done.stderr
    assert 'send     = "smtps://mail.x.mail"' in (tmp_path / "posthouse" / "config.toml").read_text()


def test_the_keyring_gets_the_password(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(
        "import json, keyring.backend\n"
        "class Words(keyring.backend.KeyringBackend):\n"
        "    priority = 9\n"
        "    def get_password(self, service, username): return None\n"
        "    def set_password(self, service, username, password):\n"
        f"        open({str(tmp_path / 'kept')!r}, 'w').write(json.dumps([service, username, password]))\n"
    )
    os.environ |= {"PYTHON_KEYRING_BACKEND": "words.Words", "PYTHONPATH": str(tmp_path)}
    try:
        with ScriptedServer(smtp()) as out:
            options = ["--read", "none", "--keep-password", "keyring", "--password-stdin"]
            done = local(tmp_path, "test@x.mail", "--send", f"smtp://{out.address}", *options)
    finally:
        del os.environ["PYTHON_KEYRING_BACKEND"], os.environ["PYTHONPATH"]
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "kept").read_text()) == ["posthouse", "test", "word"]
    assert "keyring = true" in (tmp_path / "posthouse" / "config.toml").read_text()


ENGLISH = ("Send the password there? [n]: ", "Password for anna@strange.test: ", "The account anna stands in")
RUSSIAN = ("Послать пароль туда? [n]: ", "Пароль для anna@strange.test: ", "Учётная запись anna записана в")


@pytest.mark.parametrize(("language", "words"), [("C.UTF-8", ENGLISH), ("ru_RU.UTF-8", RUSSIAN)])
def test_the_dialogue_on_a_terminal(home: Home, language: str, words: tuple[str, str, str]) -> None:
    with talking(home, language) as child:
        for prompt, answer in zip(words[:2], ("y", PASSWORD), strict=True):
            child.expect_exact(prompt)
            child.sendline(answer)
        child.expect_exact(words[2])
        child.expect(pexpect.EOF)
        assert PASSWORD not in child.before
    assert home.account()["send"] == "smtps://mail.other.test"


def test_a_no_ends_it(home: Home) -> None:
    with talking(home, "C.UTF-8") as child:
        child.expect_exact(ENGLISH[0])
        child.sendline("")
        child.expect_exact("nothing was written")
        child.expect(pexpect.EOF)
    assert not home.file.exists()


def test_the_end_of_input_ends_it(home: Home) -> None:
    with talking(home, "C.UTF-8") as child:
        child.expect_exact(ENGLISH[0])
        child.sendeof()
        child.expect_exact("The input ended. Nothing was written.")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 64 and not home.file.exists()


@contextlib.contextmanager
def talking(home: Home, language: str) -> Iterator[Any]:
    """`posthouse setup` on a terminal of its own, for an address whose server only DNS names."""
    command = home.net.inside([find_command(), "setup", "anna@strange.test"])
    command += ["--cacert", str(home.net.folder / "ca.pem")]
    env = home.env() | {"LANG": language}
    child = pexpect.spawn(command[0], command[1:], env=env, encoding="utf-8", timeout=20, dimensions=(40, 250))
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


def test_setup_speaks_russian_to_people_and_english_to_programs(home: Home) -> None:
    arguments = ["anna@srv.test", "--cacert", str(home.net.folder / "ca.pem"), "--password-stdin"]
    env = home.env() | {"LANG": "ru_RU.UTF-8"}
    done = home.net.run([find_command(), "setup", *arguments], given=PASSWORD.encode() + b"\n", env=env)
    assert done.returncode == 0 and "Учётная запись anna записана в".encode() in done.stdout
    assert "вход anna@srv.test принят".encode() in done.stdout
    as_json = home.net.run([find_command(), "setup", *arguments, "--json"], given=PASSWORD.encode() + b"\n", env=env)
    assert "is let in" in json.loads(as_json.stdout)["trials"][0]["said"]
