"""Man pages: one for each command, with all of its options, that groff takes without a word."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from tools.manpages import _plain, pages

from posthouse.cli.main import VERBS, cli
from tests.system.programs import find_program

ROOT = Path(__file__).parents[2]
MADE = pages()


def test_each_command_has_a_page_that_is_installed() -> None:
    assert set(MADE) == {"posthouse.1", *(f"posthouse-{verb}.1" for verb in VERBS)}
    (pattern,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"][
        "share/man/man1"
    ]
    assert {path.name for path in ROOT.glob(pattern)} == set(MADE)


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_stands_on_its_page(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    page = MADE[f"posthouse-{verb}.1"]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert all(_plain(name) in page for name in parameter.opts), parameter.opts


def test_groff_takes_them() -> None:
    """Would catch a help text whose quote, dot or backslash roff takes for its own."""
    for name, text in MADE.items():
        command = [find_program("groff"), "-man", "-Tutf8", "-wall", "-z"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, ""), name


def test_what_roff_would_take_for_its_own() -> None:
    shown = subprocess.run(
        [find_program("groff"), "-man", "-Tutf8"],
        input=f".TH X 1\n.SH X\n{_plain('.sp')}\n{_plain(chr(39) + 'a-b' + chr(92) + 'fB ^~`')}\n",
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    assert ".sp 'a-b\\fB ^~`" in shown
