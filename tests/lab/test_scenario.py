"""Scenarios are read with all their errors at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from posthouse.config.load import ConfigError
from posthouse.lab.network import How, Outage
from posthouse.lab.scenario import load_scenario, parse_scenario, shipped
from posthouse.mail.reply import Reply

WHOLE = """
[scenario]
title = "All there is"
about = \"\"\"
Two lines
of text.\"\"\"
start = "2026-01-01T00:00:00Z"
seed = 7
until = "2d 12h"
zone = \"\"\"
c.example. MX 10 mx.b.example.
\"\"\"

[[host]]
name = "mx.a.example"
address = ["192.0.2.1", "2001:db8::1"]
domains = ["a.example"]
users = ["anna", "postmaster@a.example"]
latency = "5ms"
bandwidth = "1M"
relays_for = ["198.51.100.0/24"]

[host.settings.relay]
schedule = "classic"

[[host.route]]
pattern = "*"
to = "mx.b.example"
schedule = "1m 5m, until 1h"

[[host]]
name = "mx.b.example"
address = "198.51.100.1"
domains = "b.example"
users = "bert"
greylist = "5m"

[[outage]]
host = ["mx.a.example", "mx.b.example"]
how = "refused"
from = "1h"
until = "1h 30m"
every = "1d"

[[refusal]]
host = "mx.b.example"
stage = "data"
reply = "452 4.3.1 No room for the message now"
until = "10m"

[[names]]
name = "b.example"
how = "silent"
until = "1m"

[[letter]]
from = "anna@a.example"
to = "bert@b.example"
cc = ["anna@a.example"]
bcc = "postmaster@a.example"
subject = "Hello"
at = "30s"
count = 3
every = "1m"
notify = ["success", "delay"]
"""


def test_everything_that_can_be_said() -> None:
    scenario = parse_scenario(WHOLE)
    assert scenario.start == 1_767_225_600.0
    assert scenario.spec.end == 2.5 * 86_400
    first, second = scenario.hosts.values()
    assert first.users == ("anna@a.example", "postmaster@a.example")
    assert first.spec.address == ("192.0.2.1", "2001:db8::1")
    assert first.config.server.hostname == "mx.a.example"
    assert first.config.relay.schedule == "classic"
    assert first.config.tls.offer == "no"
    assert first.routes[0].targets == ("mx.b.example:25",)
    assert second.spec.greylist == 300.0
    (outage,) = scenario.outages
    hosts = [one.host for one in scenario.outages_of(outage)]
    assert hosts == ["mx.a.example", "mx.b.example"] * 3  # on the first, second and third day
    assert list(scenario.outages_of(outage))[2] == Outage("mx.a.example", How.REFUSED, 90_000.0, 91_800.0)
    assert scenario.refusals[0].reply == Reply("452", "4.3.1", "No room for the message now")
    assert scenario.via(scenario.letters[0]) == "mx.a.example"


def test_all_errors_are_told_at_once_with_their_lines() -> None:
    text = """
[scenario]
start = "yesterday"
zone = "a.example. MX ten mx."
speed = 3

[[host]]
name = "mx.a.example"
address = "192.0.2.1"
users = "anna"

[[host]]
name = "mx.b.example"
address = "192.0.2.1"
domains = "b.example"
users = ["bert@c.example"]
relays_for = "192.0.2.1/24"

[host.settings.relay]
schedule = "never"

[[host]]
name = "mx.a.example"
address = "192.0.2.3"

[[outage]]
host = "mx.c.example"
how = "sad"
from = "2h"
until = "1h"

[[refusal]]
host = "mx.a.example"
reply = "250 fine"

[[letter]]
from = "dora@d.example"
to = ["bert"]
notify = ["never", "delay"]
"""
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, "bad.toml")
    said = str(caught.value)
    for part in (
        'bad.toml:3: scenario.start: "yesterday" is no time',
        "bad.toml:4: scenario.zone: cannot be read",
        "bad.toml:5: scenario.speed: there is no such setting",
        'host[0].users: "anna" has no domain',
        "host[1].address: 192.0.2.1 is the address of mx.a.example already",
        "host[1].users: bert@c.example is in none of the domains",
        "host[1].relays_for: ",
        "host[1].settings.relay.schedule: ",
        "host[2].name: mx.a.example stands here twice",
        'outage[0].how: "sad" is not known',
        "refusal[0].reply: ",
        'letter[0].to: "bert" is not a mail address',
    ):
        assert part in said, (part, said)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[[outage]]\nhost = "mx.c.example"', "there is no host mx.c.example"),
        ('[[outage]]\nhost = "mx.a.example"\nfrom = "2h"\nuntil = "1h"', "it would end before it begins"),
        ('[[outage]]\nhost = "mx.a.example"\nuntil = "2h"\nevery = "1h"', "it would come again before it has ended"),
        ('[[outage]]\nhost = "mx.a.example"\nuntil = 0.001\nevery = 0.001', "more than"),
        ('[[letter]]\nfrom = "dora@d.example"\nto = "a@a.example"', "no host has the domain of dora@d.example"),
        ('[[letter]]\nfrom = "a@a.example"\nto = "a@a.example"\nnotify = ["never", "delay"]', "never alone"),
        ('[[letter]]\nfrom = "a@a.example"\nto = []', "a recipient at least"),
        ('[[letter]]\nfrom = "a@a.example"\nto = "a@a.example"\nat = "400d"', "out of bounds"),
        ('[letter]\nfrom = "a@a.example"', "with two brackets"),
        ('[[host.alias]]\naddress = "x@b.example"\nto = "a@a.example"', "in none of the domains"),
        ('[[host.alias]]\naddress = "x"\nto = []', "for an address at least"),
        ("[weather]", "there is no such table"),
        ('[host.settings.tls]\noffer = "yes"', "means nothing in the box"),
        ('[host.settings.accounts]\nrecoverable_passwords = "on"', "needs a file"),
        ("[host.settings.smtp]\nmesage = 5", "did you mean message"),
        ('[[host.route]]\npattern = "*"\nschedule = "soon"', "is no time"),
        ('[[host.route]]\npattern = "*"\nto = "a:b:c"', "a:b:c"),
        ('[[letter]]\nfrom = "a@a.example"\nto = "a@a.example"\nat = "20d"', "after the end of the scenario"),
    ],
)
def test_what_does_not_fit_together(table: str, said: str) -> None:
    head = '[[host]]\nname = "mx.a.example"\naddress = "192.0.2.1"\ndomains = "a.example"\n'
    with pytest.raises(ConfigError, match=said):
        parse_scenario(head + table)


def test_a_scenario_needs_a_host() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        parse_scenario("")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scenario(tmp_path / "missing.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_scenario(bad)


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios_are_right_and_say_what_they_show(name: str) -> None:
    scenario = parse_scenario(shipped()[name], name)
    assert scenario.spec.title
    assert scenario.spec.about.strip()
