"""Why a letter was not delivered, in words of a person: found from enhanced status code (RFC 3463) and stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """What went wrong, as far as it makes a difference for the sender."""

    UNKNOWN = "unknown address"
    SYNTAX = "no address"
    NO_HOST = "host not found"
    NO_MAIL = "takes no mail"
    DNS = "name service"
    NO_ANSWER = "does not answer"
    BROKEN = "connection lost"
    GREETING = "refused our greeting"
    TLS = "no encryption"
    LOGIN = "login refused"
    SENDER = "sender refused"
    DISABLED = "mailbox closed"
    FULL = "mailbox full"
    TOO_BIG = "too big"
    TOO_MANY = "too many recipients"
    GREYLISTED = "asked to wait"
    NOT_NOW = "not now"
    BLOCKED = "blocked"
    UNPROVEN = "sender not proven"
    FLOOD = "too much mail"
    CONTENT = "content refused"
    UTF8 = "international addresses"
    FORM = "cannot be converted"
    LOOP = "loop"
    PROTOCOL = "misunderstanding"
    OTHER = "other"


BY_STATUS: Final[Mapping[str, Cause]] = {
    # Addresses
    **dict.fromkeys(("1.0", "1.1", "1.4", "1.6"), Cause.UNKNOWN),
    "1.2": Cause.NO_HOST,
    "1.3": Cause.SYNTAX,
    "1.10": Cause.NO_MAIL,  # RFC 7505
    **dict.fromkeys(("1.7", "1.8"), Cause.SENDER),
    # Mailboxes
    "2.1": Cause.DISABLED,
    "2.2": Cause.FULL,
    "2.3": Cause.TOO_BIG,
    "2.4": Cause.DISABLED,
    # Their system
    **dict.fromkeys(("3.0", "3.1", "3.2", "3.5"), Cause.NOT_NOW),
    "3.4": Cause.TOO_BIG,
    # The way
    **dict.fromkeys(("4.0", "4.1"), Cause.NO_ANSWER),
    **dict.fromkeys(("4.3", "4.4"), Cause.DNS),
    "4.2": Cause.BROKEN,
    "4.5": Cause.NOT_NOW,
    "4.6": Cause.LOOP,
    # The dialogue
    **dict.fromkeys(("5.0", "5.1", "5.2", "5.4", "5.5"), Cause.PROTOCOL),
    "5.3": Cause.TOO_MANY,
    "5.6": Cause.LOGIN,
    # The content
    **dict.fromkeys(("6.0", "6.1", "6.2", "6.3", "6.4", "6.5"), Cause.FORM),
    **dict.fromkeys(("6.7", "6.8", "6.9", "6.10"), Cause.UTF8),  # RFC 6531 §3.5
    # Security and policy
    **dict.fromkeys(("7.0", "7.1", "7.2", "7.3", "7.6", "7.7"), Cause.BLOCKED),
    **dict.fromkeys(("7.4", "7.5", "7.10", "7.30"), Cause.TLS),
    **dict.fromkeys(("7.8", "7.9", "7.11", "7.12"), Cause.LOGIN),  # RFC 4954 §6
    **dict.fromkeys((*(f"7.{n}" for n in range(20, 27)), "7.29"), Cause.UNPROVEN),  # RFC 7372
    "7.27": Cause.SENDER,  # RFC 7505
    "7.28": Cause.FLOOD,
}

# What we found ourselves, where no host said anything, or said it before it had heard of the letter.
_BY_STAGE: Final[Mapping[str, Cause]] = {
    "connect": Cause.NO_ANSWER,
    "greeting": Cause.GREETING,
    "ehlo": Cause.GREETING,
    "tls": Cause.TLS,
    "auth": Cause.LOGIN,
    "mail": Cause.SENDER,
    "data": Cause.CONTENT,
    "end of data": Cause.CONTENT,
}
_EARLY: Final = ("tls", "auth")
_GREYLIST: Final = re.compile(r"gr[ae]y[- ]?list", re.IGNORECASE)
_CODE: Final = re.compile(r"([245][0-5][0-9])(?:[ -]|$)")
_STATUS: Final = re.compile(r"[245]\.([0-9]{1,3}\.[0-9]{1,3})")


def cause_of(status: str, reply: str, stage: str, *, said: bool) -> Cause:
    """The cause of a failure. `stage` is that of `ports.queue.Result`, "" when nobody knows it; `said`: a host said
    `reply`, and did not only keep silent."""
    temporary = status.startswith("4")
    if said and temporary and _GREYLIST.search(reply):
        return Cause.GREYLISTED
    if stage in _EARLY:
        return _BY_STAGE[stage]
    found = _STATUS.fullmatch(status)
    detail = found[1] if found else "0.0"
    if stage in ("greeting", "ehlo") and said:
        return Cause.BLOCKED if detail.startswith("7.") else Cause.NOT_NOW if temporary else Cause.GREETING
    if detail in BY_STATUS:
        return BY_STATUS[detail]
    if not said:
        return {"dns": Cause.DNS, "connect": Cause.NO_ANSWER, "": Cause.NO_ANSWER}.get(stage, Cause.BROKEN)
    return _by_code(reply, stage, temporary=temporary)


def _by_code(reply: str, stage: str, *, temporary: bool) -> Cause:
    """What a reply means that has no enhanced status code of use (RFC 5321 §4.2.3)."""
    found = _CODE.match(reply)
    code = found[1] if found else ""
    if code == "552":
        return Cause.FULL if stage == "rcpt" else Cause.TOO_BIG
    if temporary or code.startswith("4"):
        return Cause.NOT_NOW
    if code in ("550", "551", "553") and stage in ("rcpt", ""):
        return Cause.UNKNOWN
    if code in ("500", "501", "502", "503", "504", "555"):
        return Cause.PROTOCOL
    return _BY_STAGE.get(stage, Cause.OTHER)


@dataclass(slots=True, frozen=True)
class Sense:
    """What a cause means, and what the sender of a letter that failed can do. `{domain}` is the recipient's."""

    meaning: str
    advice: str


_ASK: Final = "Ask the recipient in another way, and show the words of that server to their administrator."
_AGAIN: Final = "Send the letter again later. If it fails again, tell the recipient in another way."

ENGLISH: Final[Mapping[Cause, Sense]] = {
    Cause.UNKNOWN: Sense(
        "There is no such address at {domain}.",
        "Look for a typing error in the part before the @, or ask the recipient for the right address.",
    ),
    Cause.SYNTAX: Sense(
        "The server of {domain} does not take this for a mail address.",
        "Look for blanks, commas and typing errors in the address.",
    ),
    Cause.NO_HOST: Sense(
        "There is no mail domain {domain} on the internet.",
        "Look for a typing error in the part behind the @.",
    ),
    Cause.NO_MAIL: Sense(
        "{domain} says that it takes no mail at all.",
        "Look for a typing error in the part behind the @, or ask the recipient for another address.",
    ),
    Cause.DNS: Sense(
        "The internet's directory of names (DNS) does not say now which server takes mail for {domain}.",
        _AGAIN,
    ),
    Cause.NO_ANSWER: Sense(
        "The mail server of {domain} does not answer: it is switched off or cannot be reached from here.",
        _AGAIN,
    ),
    Cause.BROKEN: Sense("The connection to the mail server of {domain} broke off.", _AGAIN),
    Cause.GREETING: Sense("The mail server of {domain} did not let our server begin.", _ASK),
    Cause.TLS: Sense(
        "No encrypted connection to the server of {domain} could be made, and the letter must not travel without one.",
        "Show this notice to your postmaster: the rules for this domain, or the certificate there, must be looked at.",
    ),
    Cause.LOGIN: Sense(
        "The next mail server refused the login of our server.",
        "Show this notice to your postmaster: it is nothing that you can change.",
    ),
    Cause.SENDER: Sense(
        "The server of {domain} does not accept letters from your address.",
        "Show this notice to your postmaster.",
    ),
    Cause.DISABLED: Sense("The mailbox exists but is closed.", "Reach the recipient in another way."),
    Cause.FULL: Sense(
        "The recipient's mailbox is full.",
        "Tell the recipient in another way, and send the letter again when there is room.",
    ),
    Cause.TOO_BIG: Sense(
        "The letter is bigger than the server of {domain} accepts.",
        "Send it again with smaller attachments, or in several letters.",
    ),
    Cause.TOO_MANY: Sense(
        "The letter has more recipients than the server of {domain} accepts.",
        "Send it to fewer recipients at a time.",
    ),
    Cause.GREYLISTED: Sense(
        "The server of {domain} asks every sender whom it does not know yet to come again later (greylisting).",
        _AGAIN,
    ),
    Cause.NOT_NOW: Sense("The server of {domain} cannot take letters now.", _AGAIN),
    Cause.BLOCKED: Sense(
        "The server of {domain} refused the letter by its rules, such as those against unwanted mail.",
        _ASK,
    ),
    Cause.UNPROVEN: Sense(
        "The server of {domain} does not believe that the letter comes from your domain (SPF, DKIM, DMARC).",
        "Show this notice to your postmaster: the DNS records of your domain must be looked at.",
    ),
    Cause.FLOOD: Sense("The server of {domain} has got more letters from here than it wants for now.", _AGAIN),
    Cause.CONTENT: Sense("The server of {domain} refused the letter after it had seen its content.", _ASK),
    Cause.UTF8: Sense(
        "The letter has addresses in letters beyond English, which the server of {domain} cannot handle yet.",
        "Use another address of the recipient, or another sender's address of your own.",
    ),
    Cause.FORM: Sense(
        "The letter's form is one that the server of {domain} cannot take, and it could not be converted.",
        "Send it again as plain text, with its attachments in an archive.",
    ),
    Cause.LOOP: Sense(
        "The letter goes in a circle: servers hand it to each other and nobody keeps it.",
        "Tell the recipient in another way: a forwarding of theirs leads back to itself.",
    ),
    Cause.PROTOCOL: Sense(
        "Our server and that of {domain} did not understand each other.",
        "Show this notice to your postmaster.",
    ),
    Cause.OTHER: Sense("The server of {domain} did not take the letter.", _ASK),
}

_ASK_RU: Final = "Свяжитесь с получателем иначе; слова того сервера покажите его администратору."
_AGAIN_RU: Final = "Отправьте письмо ещё раз позже. Если не получится снова, сообщите получателю иначе."
_SHOW_RU: Final = "Покажите это уведомление своему почтмейстеру (администратору почты)."

RUSSIAN: Final[Mapping[Cause, Sense]] = {
    Cause.UNKNOWN: Sense(
        "В домене {domain} нет такого адреса.",
        "Поищите опечатку в части до знака @ или спросите у получателя верный адрес.",
    ),
    Cause.SYNTAX: Sense(
        "Сервер домена {domain} не считает это почтовым адресом.",
        "Поищите в адресе пробелы, запятые и опечатки.",
    ),
    Cause.NO_HOST: Sense(
        "Почтового домена {domain} в интернете нет.",
        "Поищите опечатку в части после знака @.",
    ),
    Cause.NO_MAIL: Sense(
        "Домен {domain} объявил, что почту не принимает вовсе.",
        "Поищите опечатку в части после знака @ или спросите у получателя другой адрес.",
    ),
    Cause.DNS: Sense(
        "Справочная имён интернета (DNS) сейчас не отвечает, какой сервер принимает почту для {domain}.",
        _AGAIN_RU,
    ),
    Cause.NO_ANSWER: Sense(
        "Почтовый сервер домена {domain} не отвечает: он выключен или отсюда недоступен.",
        _AGAIN_RU,
    ),
    Cause.BROKEN: Sense("Связь с почтовым сервером домена {domain} оборвалась.", _AGAIN_RU),
    Cause.GREETING: Sense("Почтовый сервер домена {domain} не стал говорить с нашим сервером.", _ASK_RU),
    Cause.TLS: Sense(
        "С сервером домена {domain} не удалось установить шифрованную связь, а без неё письмо не передаётся.",
        f"{_SHOW_RU} Проверить нужно правила для этого домена или сертификат на той стороне.",
    ),
    Cause.LOGIN: Sense(
        "Следующий почтовый сервер не принял имя и пароль нашего сервера.",
        f"{_SHOW_RU} Сами Вы тут ничего изменить не можете.",
    ),
    Cause.SENDER: Sense("Сервер домена {domain} не принимает писем с Вашего адреса.", _SHOW_RU),
    Cause.DISABLED: Sense("Почтовый ящик есть, но он закрыт.", "Свяжитесь с получателем иначе."),
    Cause.FULL: Sense(
        "Почтовый ящик получателя переполнен.",
        "Сообщите получателю иначе и отправьте письмо снова, когда место появится.",
    ),
    Cause.TOO_BIG: Sense(
        "Письмо больше, чем принимает сервер домена {domain}.",
        "Отправьте его снова с меньшими вложениями или несколькими письмами.",
    ),
    Cause.TOO_MANY: Sense(
        "У письма больше получателей, чем принимает сервер домена {domain}.",
        "Отправьте его меньшему числу получателей за раз.",
    ),
    Cause.GREYLISTED: Sense(
        "Сервер домена {domain} просит всякого незнакомого отправителя прийти позже (серый список).",
        _AGAIN_RU,
    ),
    Cause.NOT_NOW: Sense("Сервер домена {domain} сейчас не может принимать писем.", _AGAIN_RU),
    Cause.BLOCKED: Sense(
        "Сервер домена {domain} отверг письмо по своим правилам, например против нежелательной почты.",
        _ASK_RU,
    ),
    Cause.UNPROVEN: Sense(
        "Сервер домена {domain} не верит, что письмо пришло из Вашего домена (SPF, DKIM, DMARC).",
        f"{_SHOW_RU} Проверить нужно записи Вашего домена в DNS.",
    ),
    Cause.FLOOD: Sense("Сервер домена {domain} получил отсюда больше писем, чем пока согласен принять.", _AGAIN_RU),
    Cause.CONTENT: Sense("Сервер домена {domain} отверг письмо, увидев его содержание.", _ASK_RU),
    Cause.UTF8: Sense(
        "В письме есть адреса не латинскими буквами, с которыми сервер домена {domain} ещё не умеет обращаться.",
        "Возьмите другой адрес получателя или другой свой адрес отправителя.",
    ),
    Cause.FORM: Sense(
        "Письмо составлено так, что сервер домена {domain} его не берёт, а преобразовать его не удалось.",
        "Отправьте его снова простым текстом, а вложения - в архиве.",
    ),
    Cause.LOOP: Sense(
        "Письмо ходит по кругу: серверы передают его друг другу, и никто не оставляет у себя.",
        "Сообщите получателю иначе: его пересылка ведёт к самой себе.",
    ),
    Cause.PROTOCOL: Sense("Наш сервер и сервер домена {domain} не поняли друг друга.", _SHOW_RU),
    Cause.OTHER: Sense("Сервер домена {domain} не принял письмо.", _ASK_RU),
}
