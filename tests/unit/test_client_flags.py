"""The same flag means the same in every client verb: each of them takes what all take, and tells failures in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from posthouse.cli.outbox import outbox
from posthouse.cli.probe import probe
from posthouse.cli.read import read
from posthouse.cli.send import send
from posthouse.cli.setup import setup
from posthouse.cli.trace import trace

SERVER = {"--account", "--config", "--user", "--password-stdin", "--insecure-auth", "--tls", "--pin", "--insecure"}
COMMON = {"--json", "--no-color"}
TALKING = {"--timeout", "--verbose", "--quiet"}
WANTED = {
    send: COMMON | TALKING | SERVER | {"--url", "--cacert", "--dry-run"},
    read: COMMON | TALKING | SERVER | {"--url", "--cacert", "--dry-run"},
    trace: COMMON | TALKING | SERVER | {"--url", "--cacert", "--offline"},
    setup: COMMON | TALKING | SERVER | {"--cacert", "--dry-run", "--offline"},
    probe: COMMON | TALKING | {"--cacert"},
    outbox.commands["run"]: COMMON | TALKING,
    outbox.commands["send"]: COMMON | TALKING,
}
WANTED |= {outbox.commands[word]: COMMON for word in ("list", "show", "hold", "release", "drop", "edit")}


@pytest.mark.parametrize("verb", WANTED, ids=lambda verb: str(verb.name))
def test_flags(verb: click.Command) -> None:
    taken = {name for parameter in verb.params for name in parameter.opts}
    assert not WANTED[verb] - taken
    shorts = {name: parameter.name for parameter in verb.params for name in parameter.opts if len(name) == 2}
    meanings = {"-A": "account", "-u": "user", "-k": "blind", "-v": "verbose", "-q": "quiet"}
    assert all(meanings.get(short, name) == name for short, name in shorts.items())


@pytest.mark.parametrize(
    ("verb", "words", "code"),
    [
        (send, "a@x -f b@x -m t --wait --url smtp://127.0.0.1:1", 75),
        (send, "a@x -f b@x -m t --wait --url smtp://u:secret@127.0.0.1:1", 64),
        (send, "--nope", 64),
        (read, "list --url pop3://u@127.0.0.1:1", 75),
        (read, "new --url pop3://u@127.0.0.1:1 --pin xyz", 64),
        (read, "list --url pop3://u@127.0.0.1:1 --cacert /nowhere", 66),
        (read, "list -A nobody", 78),
        (trace, "1 --url pop3://u@127.0.0.1:1", 75),
        (trace, "/nowhere", 66),
        (setup, "a@x.invalid --offline", 64),
        (probe, "127.0.0.1 --port smtp=1", 75),
        (outbox, "show aaaaaaaa", 66),
        (outbox, "send aaaaaaaa", 66),
        (outbox, "drop aaaaaaaa", 66),
    ],
)
def test_failures_in_json(
    verb: click.Command, words: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("POSTHOUSE_PASSWORD", "secret")
    done = CliRunner().invoke(verb, [*words.split(), "--json"])
    answer = json.loads(done.stdout)
    assert done.exit_code == answer["code"] == code and answer["ok"] is False
    assert "secret" not in done.output
    assert verb is probe or (answer["error"] and answer["stage"])


def test_k_warns_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("POSTHOUSE_PASSWORD", "secret")
    for verb, words in ((read, "list -k --url pop3s://u@127.0.0.1:1"), (trace, "1 -k --url pop3s://u@127.0.0.1:1")):
        assert "Warning: the server's certificate is not checked" in CliRunner().invoke(verb, words.split()).stderr
