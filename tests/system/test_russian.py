"""The dialogues in Russian, on a real terminal; in English they are word for word what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.scripted import READ, SEND, ScriptedServer, pexpect, pop3, smtp, terminal

RUSSIAN = ["/usr/bin/env", "LANG=ru_RU.UTF-8"]
MESSAGE = b"From: a@x.mail\r\nSubject: Hi\r\n\r\ntext\r\n"


def test_the_senders_dialogue(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server, terminal([*RUSSIAN, *SEND], tmp_path) as child:
        for prompt, answer in (
            ("Введите домен сервера: ", server.address),
            ("Введите ваш адрес: ", "нет адреса"),
            ("Введите ваш адрес: ", "a@x.mail, b@x.mail"),
            ("Здесь нужен один адрес, например test@x.mail\r\nВведите ваш адрес: ", "test@x.mail"),
            ("Введите ваш логин [test@x.mail]: ", "test"),
            ("Введите ваш пароль: ", "se cret"),
            ("Введите адрес получателя: ", "test2@x.mail"),
            ("Введите тему: ", "Привет"),
            ("Введите сообщение: ", "Как дела?\n"),
            ("Введите имя файла: ", ""),
        ):
            child.expect_exact(prompt)
            child.sendline(answer)
        # What the server says is not ours to translate.
        child.expect_exact("220 x.mail ESMTP\r\n250-x.mail Hello.\r\n")
        child.expect(r"Отправлено получателям: 1 из 1; id <[^>]+>; \d+\.\d\d с\r\n")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    message = next(line for line in server.heard if b"\r\n" in line)
    assert b"Subject: =?utf-8?" in message


def test_the_readers_shell(tmp_path: Path) -> None:
    prompt = "Выберите команду (Auth, List, Read, Delete, Quit): "
    with ScriptedServer(pop3([MESSAGE])) as server, terminal([*RUSSIAN, *READ], tmp_path) as child:
        for expected, answer in (
            ("Введите домен сервера: ", server.address),
            (f"+OK POP3\r\n{prompt}", "Auth"),
            ("Введите адрес: ", "test2@x.mail"),
            ("Введите пароль: ", "word"),
            (f"+OK Mailbox locked and ready\r\n{prompt}", "Read"),
            ("Выберите номер сообщения: ", "1"),
            (prompt, "что-то"),
            ("Ошибка ввода\r\nЕсть слова: Auth, List, Read, ", ""),
            (prompt, "Help"),
            ("Auth     войти: адрес и пароль\r\n", ""),
            (prompt, "Save 1"),
            (f"В сообщении нет вложений.\r\n{prompt}", "Quit"),
        ):
            child.expect_exact(expected)
            if answer:
                child.sendline(answer)
        child.expect_exact("+OK POP3 server saying goodbye...")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    assert b"QUIT" in server.heard


@pytest.mark.parametrize("variables", [["LANG=ru_RU.UTF-8", "LC_ALL=en_GB.UTF-8"], ["LANG=de_DE.UTF-8"]])
def test_everybody_else_is_spoken_to_in_english(tmp_path: Path, variables: list[str]) -> None:
    with terminal(["/usr/bin/env", *variables, *SEND], tmp_path) as child:
        child.expect_exact("Input server domain: ")


def test_a_terminal_without_cyrillic_letters_gets_english(tmp_path: Path) -> None:
    """Would catch prompts of question marks or backslashes."""
    with terminal([*RUSSIAN, "PYTHONIOENCODING=iso8859-1", *SEND], tmp_path) as child:
        child.expect_exact("Input server domain: ")


def test_the_old_russian_encodings() -> None:
    command = ["LANG=ru_RU.KOI8-R", "PYTHONIOENCODING=koi8-r", *SEND]
    child = pexpect.spawn("/usr/bin/env", command, timeout=15)
    try:
        child.expect_exact("Введите домен сервера: ".encode("koi8-r"))
    finally:
        child.close(force=True)
