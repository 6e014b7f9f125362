"""`posthouse trace` as people call it, and letters that really travelled: by Postfix and OpenSMTPD into our server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.system.raw import collect, deliver
from tests.system.relays import opensmtpd, postfix
from tests.system.scripted import pexpect
from tests.system.server import PASSWORD, Endpoint, Server, find_command
from tests.system.test_tutorial import BLOCK, commands, matches

LETTER = (
    "Received: from mx1.example.org by store1.example.org with LMTP; Mon, 2 Mar 2026 06:15:08 +0000\n"
    "Received: from out.example.net (out.example.net [192.0.2.25]) by mx1.example.org; Mon, 2 Mar 2026 06:15:15 +0000\n"
    "Received: from pc\x1b[2J ([192.0.2.77]) by smtp.example.net; Mon, 2 Mar 2026 06:15:05 +0000\n"
    "From: <b\u202e\x9b@example.net>\nDate: Mon, 2 Mar 2026 06:15:00 +0000\n\nbody\n"
)
OURS = ("--trusted", "mx1.example.org", "--trusted", "store1.example.org")


def trace(*arguments: str, stdin: str = "", code: int = 0) -> str:
    environment = {**os.environ, "POSTHOUSE_PASSWORD": PASSWORD}
    done = subprocess.run(
        [find_command(), "trace", *arguments], input=stdin.encode(), capture_output=True, timeout=50, env=environment
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


def test_text_json_raw_and_picture(tmp_path: Path) -> None:
    (tmp_path / "letter.eml").write_text(LETTER, encoding="utf-8")
    text = trace(str(tmp_path / "letter.eml"), *OURS, "--svg", str(tmp_path / "path.svg"))
    assert "above: claimed, below: our own servers" in text and "-7 s (clocks)" in text and "8 s, 3 hops" in text
    picture = (tmp_path / "path.svg").read_text("utf-8")
    assert ET.fromstring(picture).tag.endswith("svg") and "out.example.net [192.0.2.25]" in picture
    shown = trace("--json", *OURS, stdin=LETTER)
    answer = json.loads(shown)
    assert [hop["trusted"] for hop in answer["hops"]] == [False, True, True]
    assert answer["ok"] and answer["total_s"] == 8 and answer["from"] == "<b\u202e\x9b@example.net>"
    assert not any(harmful in text + picture + shown for harmful in "\x1b\x9b\u202e")
    assert trace("--raw", stdin=LETTER).splitlines() == LETTER.split("\n")[:3]
    assert "█" not in text  # bars are for terminals


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (["--fail-on", "clocks"], LETTER, 1),
        (["--fail-on", "gap,dmarc"], LETTER, 1),
        (["--fail-on", "gap"], LETTER, 0),
        (["--fail-on", "frob"], LETTER, 64),
        ([], "Subject: x\nFrom: a@example.org\n\n", 1),
        ([], "no letter at all", 65),
        (["missing.eml"], "", 66),
        (["7"], "", 64),
        (["--raw", "--json"], LETTER, 64),
    ],
)
def test_exit_codes(arguments: list[str], stdin: str, code: int) -> None:
    trace(*arguments, stdin=stdin, code=code)
    if "--raw" not in arguments:
        answer = json.loads(trace("--json", *arguments, stdin=stdin, code=code))
        assert (answer["ok"], answer["code"]) == (code == 0, code)


def test_colours_and_bars_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "letter.eml").write_text(LETTER, encoding="utf-8")
    for more, coloured in (([], True), (["--no-color"], False)):
        command = [*more, *OURS, str(tmp_path / "letter.eml")]
        child = pexpect.spawn(find_command(), ["trace", *command], encoding="utf-8", dimensions=(50, 200), timeout=30)
        text = child.read()
        child.close()
        assert "+10 s ██████" in text and ("\x1b[" in text) is coloured and "\x1b[2J" not in text


def test_dns_is_asked_only_on_request() -> None:
    """Loopback is in the hosts file, so that this needs no network."""
    letter = "Received: from x (y.example [127.0.0.1]) by z.example; Mon, 2 Mar 2026 06:15:05 +0000\n\n"
    (hop,) = json.loads(trace("--json", "--resolve", stdin=letter))["hops"]
    assert hop["dns"] == "localhost" and hop["notes"] == ["DNS: 127.0.0.1 is localhost today"]
    (hop,) = json.loads(trace("--json", stdin=letter))["hops"]
    assert "dns" not in hop and hop["notes"] == []


RELAYS: list[Callable[[Endpoint, str], AbstractContextManager[Endpoint]]] = [postfix, opensmtpd]


@pytest.mark.parametrize("relay", RELAYS)
def test_a_letter_that_really_travelled(
    server: Server, mailbox: str, relay: Callable[[Endpoint, str], AbstractContextManager[Endpoint]]
) -> None:
    """Postfix hands it on by LMTP, OpenSMTPD by SMTP; then it is traced in the mailbox, over POP3."""
    content = b"From: boris@example.net\r\nDate: %s\r\nMessage-ID: <1@example.net>\r\n\r\nHello\r\n"
    now = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime()).encode()
    url = f"pop3://{mailbox.replace('@', '%40')}@{server.pop3.url}"
    with relay(server.lmtp if relay is postfix else server.smtp, "relay.example.org") as port:
        assert deliver(port, [mailbox], content % now, "boris@example.net").startswith(b"250")
        end = time.monotonic() + 40
        while not collect(server.pop3, mailbox, delete=False):
            assert time.monotonic() < end, f"the letter did not arrive: {server.log[-2000:]}"
            time.sleep(0.05)
        answer = json.loads(trace("1", "--url", url, "--json", "--trusted", "x.mail"))
    first, second = answer["hops"]
    assert (first["by"], first["helo"], first["ip"]) == ("relay.example.org", "client.x.mail", "127.0.0.1")
    assert (second["helo"], second["ip"]) == ("relay.example.org", "127.0.0.1") and second["by"] != first["by"]
    assert second["with"] == ("LMTP" if relay is postfix else "ESMTPS") and first["with"] == "ESMTP"
    if relay is opensmtpd:  # it takes the STARTTLS that our server offers
        assert second["tls"]["version"] == "TLSv1.3" and second["tls"]["cipher"].startswith("TLS_")
    assert first["id"] and first["for"] == mailbox == second["for"]
    assert 0 <= second["delay_s"] < 60 and 0 <= answer["total_s"] < 60
    assert first["notes"] == [] == second["notes"]
    assert trace("1", "--url", url).count("relay.example.org") >= 2


def test_tracing_loads_nothing_heavy() -> None:
    code = "import sys; from posthouse.cli.main import main\ntry: main(['trace'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], input=LETTER.encode(), capture_output=True, check=True)
    loaded = done.stdout.decode().splitlines()[-1].split()
    for heavy in ("asyncio", "msgspec", "argon2", "dns", "sqlite3", "posthouse.config.schema", "email", "socket"):
        assert heavy not in loaded, heavy


DOCS = Path(__file__).parents[2] / "docs"


def test_the_documentation_shows_what_is_printed(tmp_path: Path) -> None:
    """The how-to's commands, the reference's JSON and the picture, made anew from the example letter."""
    (tmp_path / "held-up.eml").write_bytes((DOCS / "examples" / "held-up.eml").read_bytes())
    environment = {**os.environ, "PATH": f"{Path(find_command()).parent}{os.pathsep}{os.environ['PATH']}"}
    howto = (DOCS / "howto" / "where-was-it-held-up.md").read_text("utf-8")
    seen = 0
    for block in BLOCK.findall(howto):
        for command, shown in commands(block[1]):
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50
            )
            assert done.returncode == 0 and matches(shown, done.stdout), (command, done.stdout, done.stderr)
            seen += 1
    assert seen == 4
    assert (tmp_path / "path.svg").read_text("utf-8") == (DOCS / "images" / "trace.svg").read_text("utf-8")
    answer = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    reference = (DOCS / "reference" / "trace.md").read_text("utf-8")
    example = json.loads(reference.partition("```json\n")[2].partition("```")[0])
    assert example == {"hop": answer["hops"][2], "auth": answer["auth"]}
    for name in {*answer, *answer["hops"][0], "dns"}:
        assert f"`{name}`" in reference, name
