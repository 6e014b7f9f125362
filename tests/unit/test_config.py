"""The configuration: what is read, what is refused, and that everything wrong is told at once with its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.config import reference
from posthouse.config.load import ConfigError, listen_options, load, parse, parse_listen, places
from posthouse.config.schema import Config, ListenerSettings, StoreSettings
from posthouse.config.sections import LISTENER, SECTIONS
from posthouse.config.values import Wrong, read_octets, show_octets, split_host_port
from posthouse.mail.limits import Pop3Limits, SmtpLimits
from posthouse.store import Options

ROOT = Path(__file__).parents[2]


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "p.toml")
    return [(problem.line, problem.key, problem.text) for problem in caught.value.problems]


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse("") == Config()
    assert [str(listener) for listener in parse("").listeners] == [
        "smtp=*:25",
        "submission=*:587",
        "submissions=*:465",
        "pop3=*:110",
        "pop3s=*:995",
    ]


def test_every_limit_of_the_protocols_is_a_setting() -> None:
    assert {item.name for item in dataclasses.fields(SmtpLimits)} <= set(SECTIONS["smtp"].settings)
    assert {item.name for item in dataclasses.fields(Pop3Limits)} <= set(SECTIONS["pop3"].settings)


def test_the_settings_of_the_store_are_its_options() -> None:
    """So that `Options(message_limit=..., **asdict(config.store))` is all there is to it."""
    options = Options(message_limit=Config().smtp.limits.message, **dataclasses.asdict(StoreSettings()))
    assert options == Options()


def test_every_default_is_within_its_own_bounds() -> None:
    for section in SECTIONS.values():
        for name, setting in section.settings.items():
            default = section.defaults[name]
            value = list(default) if isinstance(default, tuple) else default
            assert setting.read(value) == default, f"{section.name}.{name}"


def test_every_setting_can_be_set_and_arrives() -> None:
    for section in SECTIONS.values():
        for name, setting in section.settings.items():
            part = getattr(parse(f"[{section.name}]\n{name} = {setting.show(section.defaults[name])}"), section.name)
            holder = part if hasattr(part, name) else part.limits
            assert getattr(holder, name) == section.defaults[name]


def test_values_in_human_forms() -> None:
    config = parse(
        """
        [server]
        hostname = "Mail.Example.ORG."
        stop_timeout = "1m"
        [smtp]
        message = "20 MiB"
        command_timeout = 301.5
        [dns]
        servers = ["192.0.2.53", "[2001:db8::53]:5353", "127.0.0.1:5300"]
        [accounts]
        quota = "1.5G"
        """
    )
    assert config.server.hostname == "mail.example.org"
    assert config.server.stop_timeout == 60.0
    assert config.smtp.limits.message == 20 * 1024 * 1024
    assert config.smtp.limits.recipients == 1000
    assert config.smtp.limits.command_timeout == 301.5
    assert config.dns.servers == ("192.0.2.53", "[2001:db8::53]:5353", "127.0.0.1:5300")
    assert config.accounts.quota == 3 * 512 * 1024 * 1024


@pytest.mark.parametrize(
    ("text", "name"),
    [("почта.Пример.рф", "xn--80a1acny.xn--e1afmkfd.xn--p1ai"), ("PC", "pc"), ("", ""), ("a.b.", "a.b")],
)
def test_host_names(text: str, name: str) -> None:
    assert parse(f'[server]\nhostname = "{text}"').server.hostname == name


def test_listeners() -> None:
    config = parse(
        """
        [[listener]]
        protocol = "smtp"
        address = "::1"
        port = 2525
        [[listener]]
        protocol = "smtp"
        [[listener]]
        protocol = "lmtp"
        address = "127.0.0.1"
        """
    )
    assert [str(listener) for listener in config.listeners] == ["smtp=[::1]:2525", "smtp=*:25", "lmtp=127.0.0.1:24"]


def test_all_errors_are_told_at_once_with_their_lines() -> None:
    text = '[server]\nconections = 3\nstop_timeout = "soon"\n\n[smtp]\nrecipients = 3\n[pop]\nx = 1\n'
    assert problems(text) == [
        (2, "server.conections", "there is no such setting; did you mean connections?"),
        (
            3,
            "server.stop_timeout",
            '"soon" is not a time; allowed is 0 to 600 seconds, or a text such as "90s", "5m" or "1h"',
        ),
        (6, "smtp.recipients", "3 is out of bounds; allowed is 100 to 100000"),
        (7, "pop", "there is no such section; did you mean pop3?"),
    ]


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        ("[server]\nhostname = 3", "server.hostname", "is not a text"),
        ('[server]\nhostname = "[192.0.2.1]"', "server.hostname", "is not a host name"),
        ('[server]\nhostname = "."', "server.hostname", "is not a host name"),
        ('[server]\nhostname = "a_b"', "server.hostname", "is not a host name"),
        ('[server]\nhostname = "a\\u0007"', "server.hostname", "control character"),
        ("[server]\nconnections = true", "server.connections", "is not a whole number"),
        ("[server]\nconnections = 1.5", "server.connections", "is not a whole number"),
        ('[server]\nstyle = "fancy"', "server.style", '"posthouse" or "classic"'),
        ("[server]\nstop_timeout = nan", "server.stop_timeout", "is not a time"),
        ("[server]\nstop_timeout = inf", "server.stop_timeout", "is not a time"),
        ("[smtp]\nmessage = -1", "smtp.message", "out of bounds"),
        ('[smtp]\nmessage = "9999T"', "smtp.message", "out of bounds"),
        ("[smtp]\nmessage = [1]", "smtp.message", "is not a size"),
        ('[smtp]\ntrusted = ["10.0.0.0/8"]', "smtp.trusted", "posthouse network add NETWORK --allow trusted"),
        (
            '[limits]\nnetworks = ["10.0.0.0/8"]',
            "limits.networks",
            "posthouse network add NETWORK --allow unlimited",
        ),
        ("[limits]\nlocal = []", "limits.local", "posthouse network add 127.0.0.0/8 --deny unlimited"),
        ('[dns]\nservers = "192.0.2.53"', "dns.servers", "is not a list"),
        ('[submission]\nsender = "refused"', "submission.sender", '"refuse" or "add-sender" or "off"'),
        ('[dns]\nservers = ["ns.example"]', "dns.servers", "is not an IP address"),
        ("server = 5", "server", "needs a line [server]"),
        ('[listener]\nprotocol = "smtp"', "listener", "two brackets"),
        ("[[listener]]\nport = 25", "listener[0]", "needs protocol"),
        ('[[listener]]\nprotocol = "imap"', "listener[0].protocol", '"smtp" or'),
        ('[[listener]]\nprotocol = "smtp"\nport = 70000', "listener[0].port", "out of bounds"),
        ('[[listener]]\nprotocol = "smtp"\naddress = "here"', "listener[0].address", "is not an IP address"),
        ('[[listener]]\nprotocol="smtp"\n[[listener]]\nprotocol="lmtp"\nport=25', "listener[1]", "already used"),
    ],
)
def test_what_cannot_be_is_refused(text: str, key: str, part: str) -> None:
    [(line, where, said)] = problems(text)
    assert where == key
    assert part in said
    assert line > 0


def test_broken_toml_is_told_with_its_line() -> None:
    [(line, _, said)] = problems('[server]\nhostname = "x\n')
    assert line == 2
    assert "not valid TOML" in said


def test_nesting_without_end_is_refused() -> None:
    assert "nested" in problems("a = " + "[" * 100_000)[0][2]


def test_lines_are_found_in_every_shape() -> None:
    text = '# [no]\na.b = 1\n[ "server" ]  # x\nx = [\n 1, # ]\n 2]\ny = """\n[z]\nq = 1\n"""\nw = 1\n'
    text += "[[l]]\np=1\n[[l]]\np=2"
    found = places(text)
    assert found["a.b"] == 2
    assert found["server"] == 3
    assert (found["server.x"], found["server.y"], found["server.w"]) == (4, 7, 11)
    assert "z" not in found
    assert (found["l[0].p"], found["l[1]"], found["l[1].p"]) == (13, 14, 15)


@given(st.text(alphabet="ab=[]{}\".#'\\ \n1", max_size=60))
def test_hostile_texts_give_a_configuration_or_a_clear_error(text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        assert error.problems


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[server]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin.toml:2: is not UTF-8"):
        load(tmp_path / "latin.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than"):
        load(tmp_path / "big.toml")


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(b'\xef\xbb\xbf[server]\ndata = "mail"\n[log]\nfile = "/var/log/p.log"\n')
    config = load(tmp_path / "p.toml")
    assert config.server.data == str(tmp_path / "mail")
    assert config.log.file == "/var/log/p.log"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("smtp=127.0.0.1:2525", ListenerSettings("smtp", "127.0.0.1", 2525)),
        ("pop3=[::1]:0", ListenerSettings("pop3", "::1", 0)),
        ("pop3=[::1]", ListenerSettings("pop3", "::1", 110)),
        ("lmtp=:2424", ListenerSettings("lmtp", "*", 2424)),
        ("submission=*:587", ListenerSettings("submission", "*", 587)),
        ("smtp=2525", ListenerSettings("smtp", "*", 2525)),
        ("smtp=localhost:2525", ListenerSettings("smtp", "127.0.0.1", 2525)),
    ],
)
def test_listen_options(text: str, meant: ListenerSettings) -> None:
    assert parse_listen(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smtp", "no protocol"),
        ("127.0.0.1:25", "no protocol"),
        ("imap=127.0.0.1:143", "not a protocol"),
        ("smtq=127.0.0.1:25", "did you mean smtp"),
        ("smtp=::1:25", "brackets"),
        ("smtp=[::1:25", "bracket"),
        ("smtp=[::1]25", "bracket"),
        ("smtp=host:25", "not an IP address"),
        ("smtp=127.0.0.1:x", "not a port"),
        ("smtp=127.0.0.1:65536", "not a port"),
    ],
)
def test_listen_options_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(Wrong, match=said):
        parse_listen(text)


def test_listen_options_replace_the_configured_listeners() -> None:
    config = parse('[[listener]]\nprotocol = "pop3"')
    assert listen_options([], config, ValueError) is config
    replaced = listen_options(["smtp=127.0.0.1:0"], config, ValueError)
    assert [str(listener) for listener in replaced.listeners] == ["smtp=127.0.0.1:0"]
    with pytest.raises(ValueError, match="--listen"):
        listen_options(["x"], config, ValueError)


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_sizes_come_back_as_they_were_shown(octets: int) -> None:
    assert read_octets(show_octets(octets)) == octets


def test_host_and_port() -> None:
    assert split_host_port("::1") == ("::1", None)
    assert split_host_port("a:1") == ("a", 1)


def test_the_reference_page_is_current() -> None:
    """Would catch a changed setting whose page was not generated again."""
    shown = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert shown == reference.page(), "run: make docs"


def test_the_reference_page_names_every_setting() -> None:
    page = reference.page()
    for section in [*SECTIONS.values(), LISTENER]:
        for name, setting in section.settings.items():
            assert f"### {section.name}.{name}\n" in page
            assert setting.help.endswith(".")
