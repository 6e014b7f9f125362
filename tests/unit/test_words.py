"""The two languages of the dialogues: nothing that is asked or told lacks its Russian."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from posthouse.cli import shell, words
from posthouse.cli.words import RUSSIAN, is_russian, phrase

CLI = Path(words.__file__).parent
CALLS = ("ask", "ask_secret", "ask_text", "tell", "phrase", "_ask_until", "_tried", "_say")


def texts() -> set[str]:
    """Every literal that our code asks or tells, or names as a constant that it tells."""
    found: set[str] = set()
    for file in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                literals = [item.value for item in node.args[:2] if isinstance(item, ast.Constant)]
                if name in CALLS:
                    found |= {text for text in literals if isinstance(text, str) and len(text) > 1}
    return found


def test_everything_that_is_asked_or_told_has_its_russian() -> None:
    missing = texts() - set(RUSSIAN) - {"anna@x.mail"}
    assert missing == set()
    assert set(shell.HELP.values()) | {shell.PROMPT, shell.INDEX} <= set(RUSSIAN)


def test_both_have_the_same_values_and_the_russian_has_russian_letters() -> None:
    for english, russian in RUSSIAN.items():
        assert names_of(english) == names_of(russian), english
        assert any("а" <= letter <= "я" for letter in russian.lower()) and english.isascii()


def names_of(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize(
    ("environment", "russian"),
    [
        ({}, False),
        ({"LANG": "ru_RU.UTF-8"}, True),
        ({"LANG": "ru"}, True),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "ru_RU.UTF-8"}, True),
        ({"LANG": "ru_RU.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "ru_RU.UTF-8", "LC_ALL": ""}, True),
        ({"LANG": "run_CD.UTF-8"}, False),
    ],
)
def test_which_variable_decides(environment: dict[str, str], russian: bool) -> None:
    assert is_russian(environment) is russian


def test_values_are_filled_in_and_braces_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a server's words, with braces in them, being taken for a template."""
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    assert phrase("Saved {path}", path="{x}") == "Сохранено: {x}"
    assert phrase("-ERR {0} {boom}") == "-ERR {0} {boom}"
