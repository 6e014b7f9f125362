"""The systemd unit: the words of its command line come back as they went in, and the how-to shows it as it is."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from posthouse.app.unit import unit

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "run-as-a-service.md"


def read(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep capitals
    parser.read_string(text)
    return parser


def test_the_how_to_shows_the_unit() -> None:
    text = unit(
        Path("/opt/posthouse/bin/posthouse"), Path("/etc/posthouse.toml"), Path("/var/lib/posthouse"), "posthouse"
    )
    shown = HOWTO.read_text("utf-8").split("```ini\n")[1].split("```")[0]
    assert "\n".join(line.removeprefix("   ") for line in shown.splitlines()).strip() == text.strip()


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/srv/mail", "/srv/mail"),
        ("/srv/our mail", '"/srv/our mail"'),
        ("/srv/100%", "/srv/100%%"),
        ("/srv/$HOME", "/srv/$$HOME"),
        ('/srv/"x"', '"/srv/\\"x\\""'),
    ],
)
def testword_ofs_that_systemd_would_change(path: str, written: str) -> None:
    """Would catch a path that systemd takes for several words, a specifier or a variable."""
    start = read(unit(Path("/bin/posthouse"), None, Path(path), "mail"))["Service"]["ExecStart"]
    assert start == f"/bin/posthouse --data {written} serve"


def test_only_the_data_directory_is_written_to() -> None:
    own = read(unit(Path("/bin/posthouse"), None, Path("/srv/our mail"), "mail"))["Service"]
    assert own["ReadWritePaths"] == "/srv/our\\x20mail"
    assert "StateDirectory" not in own
    usual = read(unit(Path("/bin/posthouse"), None, Path("/var/lib/posthouse"), "mail"))["Service"]
    assert usual["StateDirectory"] == "posthouse"
    assert "ReadWritePaths" not in usual
