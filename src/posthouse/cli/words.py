"""What the dialogues say, in the person's language: English, or Russian where LC_ALL, LC_MESSAGES or LANG says so.

The English text is the key. Words that a person types (Auth, List, ...) are the same in both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

RUSSIAN: Final[Mapping[str, str]] = {
    # send
    "Input server domain": "Введите домен сервера",
    "Input your address": "Введите ваш адрес",
    "Input your login": "Введите ваш логин",
    "Input your password": "Введите ваш пароль",
    "Input destination address": "Введите адрес получателя",
    "Input topic": "Введите тему",
    "Input message": "Введите сообщение",
    "Input file name": "Введите имя файла",
    "No encryption offered. Send the password in clear?": "Сервер не предлагает шифрования. Послать пароль открыто?",
    "One address is needed here, such as test@x.mail": "Здесь нужен один адрес, например test@x.mail",
    "At least one address is needed here, such as test2@x.mail": "Нужен хотя бы один адрес, например test2@x.mail",
    "Sent to {sent} of {count} recipients; id {id}; {seconds} s": (
        "Отправлено получателям: {sent} из {count}; id {id}; {seconds} с"
    ),
    # read
    "Select the command (Auth, List, Read, Delete, Quit)": "Выберите команду (Auth, List, Read, Delete, Quit)",
    "Select message index": "Выберите номер сообщения",
    "Input address": "Введите адрес",
    "Input password": "Введите пароль",
    "Input command": "Введите команду",
    "Input error": "Ошибка ввода",
    "Input error: a message index is a number, such as 1": "Ошибка ввода: номер сообщения - это число, например 1",
    "The words are: {words}": "Есть слова: {words}",
    "The password was not sent.": "Пароль не отправлен.",
    "The message has no attachment.": "В сообщении нет вложений.",
    "Saved {path}": "Сохранено: {path}",
    "A file cannot be written: {why}": "Файл не удаётся записать: {why}",
    "The input ended without Quit: nothing was deleted.": "Ввод закончился без Quit: ничего не удалено.",
    "log in: address and password": "войти: адрес и пароль",
    "number and size of each message, or of one: List 2": "номер и размер каждого сообщения или одного: List 2",
    "show a message: Read 2": "показать сообщение: Read 2",
    "mark a message; it goes when you say Quit: Delete 2": "пометить сообщение; оно удаляется по слову Quit: Delete 2",
    "carry out the deletions and leave": "выполнить удаления и выйти",
    "how many messages, how many octets": "сколько сообщений и октетов",
    "the header and the first lines: Top 2 10": "заголовок и первые строки: Top 2 10",
    "the unique-ids that never change": "постоянные уникальные номера",
    "the highest number read so far": "наибольший прочитанный номер",
    "take all deletion marks back": "снять все пометки удаления",
    "nothing; the server's timer begins anew": "ничего; сервер начинает отсчёт простоя заново",
    "what the server can do": "что умеет сервер",
    "the path of a message: Trace 2": "путь сообщения: Trace 2",
    "save the attachments of a message here: Save 2": "сохранить сюда вложения сообщения: Save 2",
    "send a command as it is: Raw STAT": "послать команду как есть: Raw STAT",
    "this list": "этот список",
    # setup, and passwords of single commands
    "Password for {login}": "Пароль для {login}",
    "DNS names {hosts}, which is not of {domain}, and DNS can be forged.": (
        "DNS называет {hosts}, что не принадлежит {domain}, а ответ DNS можно подделать."
    ),
    "Send the password there?": "Послать пароль туда?",
    "(looked for {seconds} s)": "(поиск занял {seconds} с)",
    "IMAP is offered at {server}; posthouse reads by POP3.": "По IMAP отвечает {server}; posthouse читает по POP3.",
    "{login} is let in ({how})": "вход {login} принят ({how})",
    "This would stand in {path}:": "Вот что было бы записано в {path}:",
    "The account {name} stands in {path} now.": "Учётная запись {name} записана в {path}.",
    "There are several now: say -A NAME, or put default = NAME at the top of the file.": (
        "Теперь их несколько: укажите -A ИМЯ или добавьте в начало файла строку default = ИМЯ."
    ),
    "Try: {command}": "Попробуйте: {command}",
}


def is_russian(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the person reads Russian: the first of the variables that is set decides (POSIX, Environment Variables
    §8.2), unless the terminal has no Cyrillic letters."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(name):
            return value.partition(".")[0].partition("_")[0].lower() == "ru" and _shows_cyrillic()
    return False


def _shows_cyrillic() -> bool:
    try:
        "я".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def phrase(text: str, **values: object) -> str:
    """One of our texts in the person's language, with its values filled in; a text that has no translation stays."""
    found = RUSSIAN.get(text, text) if is_russian() else text
    return found.format(**values) if values else found
