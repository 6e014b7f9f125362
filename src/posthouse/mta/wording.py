"""The part of a notice that people read: what happened, to whom, who said what, what comes next, what can be done."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Final

from posthouse.mail.address import Address, AddressError, domain_text
from posthouse.mail.charsets import harmless_line
from posthouse.mail.report import ACTIONS
from posthouse.mail.schedule import SOONEST
from posthouse.mta.causes import ENGLISH, RUSSIAN, Cause, Sense, cause_of

WIDTH: Final = 76  # columns
GROUPS: Final = 40  # groups of recipients that are told of one by one; the report for programs names all
TOGETHER: Final = 100  # recipients that are named in a group
REPLY_LINES: Final = 12  # of what the other server said
REPLY: Final = 1_000  # characters of it
NAME: Final = 255  # characters of a host or an address
DATES: Final = 8  # of further attempts


@dataclass(slots=True)
class Told:
    """What became of a letter for one recipient, as it is to be told. `reply` is the host's when `said`, else our own
    words; `host` and `address` are "" when nobody was reached; `at` is when it happened; `stage` is that of
    `ports.queue.Result`, "" when it is not known."""

    recipient: str
    orcpt: str | None
    action: str  # one of mail.report.ACTIONS
    status: str
    reply: str
    said: bool
    host: str
    address: str
    at: float
    stage: str = ""


@dataclass(slots=True)
class Story:
    """What a notice tells. `subject` is the letter's, "" for none; `upcoming` the times of the next attempts, in
    order, and `until` that of the last one, None when it is not known; `usual`: with no NOTIFY, so that
    we know what the sender will hear; `back` is "whole", "header" or ""."""

    host: str
    postmaster: str
    letter: str
    subject: str
    arrived: float
    told: Sequence[Told]
    upcoming: Sequence[float] = ()
    until: float | None = None
    usual: bool = False
    back: str = ""
    zone: tzinfo | None = None


@dataclass(slots=True, frozen=True)
class Language:
    """The texts of one language."""

    name: str
    days: tuple[str, ...]
    months: tuple[str, ...]
    senses: Mapping[Cause, Sense]
    subjects: Mapping[str, str]
    openings: Mapping[str, str]
    words: Mapping[str, str] = field(default_factory=dict)


EN: Final = Language(
    "Mail Delivery System",
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    ENGLISH,
    {
        "failed": "Failed delivery",
        "delayed": "Failed delivery (will be retried)",
        "delivered": "Successful delivery",
        "relayed": "Handed on to another server",
        "expanded": "Sent on to several addresses",
    },
    {
        "failed": "Your letter could not be delivered to:",
        "delayed": "Your letter could not be delivered yet. It is kept here and will be tried again by itself; there "
        "is no need to send it again. It waits for:",
        "delivered": "Your letter lies in the mailbox of:",
        "relayed": "Your letter was handed on to a server that sends no confirmations. You will hear again only if "
        "something goes wrong. It was for:",
        "expanded": "Your letter was sent on to all the addresses that stand behind:",
    },
    {
        "opening": "This notice was written by the mail server {host}, not by a person.",
        "subject": "Subject:",
        "no subject": "(none)",
        "arrived": "Handed in:",
        "number": "Number:",
        "what": "What happened: {text}",
        "said": "The server {host} said:",
        "detail": "In detail:",
        "in vain": "It was tried from {first} to {last}, in vain. It is given up now.",
        "advice": "What you can do: {text}",
        "next": "The next attempts:",
        "last": "If none of them succeeds, the letter is given up on {date}.",
        "promise": "If the letter is given up, you will be told; if an attempt succeeds, you will hear nothing more.",
        "more groups": "Further recipients ({count}) are named in the report for programs that goes with this notice.",
        "more": "... and {count} more",
        "whole": "The letter is attached.",
        "header": "The header of the letter is attached.",
        "postmaster": "Questions go to {postmaster}; please name the number.",
    },
)

RU: Final = Language(
    "Почтовая служба",
    ("пн", "вт", "ср", "чт", "пт", "сб", "вс"),
    (
        *("января", "февраля", "марта", "апреля", "мая", "июня"),
        *("июля", "августа", "сентября", "октября", "ноября", "декабря"),
    ),
    RUSSIAN,
    {
        "failed": "Письмо не доставлено",
        "delayed": "Письмо не доставлено (будут новые попытки)",
        "delivered": "Письмо доставлено",
        "relayed": "Письмо передано другому серверу",
        "expanded": "Письмо разослано по нескольким адресам",
    },
    {
        "failed": "Ваше письмо не удалось доставить. Получатели:",
        "delayed": "Ваше письмо пока не удалось доставить. Оно хранится здесь, новые попытки будут сделаны сами собой; "
        "отправлять его снова не нужно. Ждут:",
        "delivered": "Ваше письмо лежит в почтовом ящике. Получатели:",
        "relayed": "Ваше письмо передано серверу, который подтверждений не шлёт. Вы услышите о нём снова, только если "
        "что-нибудь случится. Получатели:",
        "expanded": "Ваше письмо разослано по всем адресам, которые стоят за этим:",
    },
    {
        "opening": "Это уведомление написал почтовый сервер {host}, а не человек.",
        "subject": "Тема:",
        "no subject": "(нет)",
        "arrived": "Принято:",
        "number": "Номер:",
        "what": "Что случилось: {text}",
        "said": "Сервер {host} сказал:",
        "detail": "Подробности:",
        "in vain": "Попытки шли с {first} до {last}, и все напрасно. Больше их не будет.",
        "advice": "Что можно сделать: {text}",
        "next": "Следующие попытки:",
        "last": "Если ни одна не удастся, попытки прекратятся: {date}.",
        "promise": "Если попытки прекратятся, Вам сообщат; если одна из них удастся, других уведомлений не будет.",
        "more groups": "Остальные получатели (число: {count}) названы в отчёте для программ, который приложен.",
        "more": "... и ещё {count}",
        "whole": "Письмо приложено.",
        "header": "Заголовок письма приложен.",
        "postmaster": "С вопросами обращайтесь к {postmaster}; назовите номер письма.",
    },
)

LANGUAGES: Final[Mapping[str, Language]] = {"en": EN, "ru": RU}


def subject_of(language: Language, told: Sequence[Told]) -> str:
    """The subject of a notice: that of the worst it tells."""
    actions = {one.action for one in told}
    return language.subjects[next(action for action in ACTIONS if action in actions)]


def tell(language: Language, story: Story) -> str:
    """The whole text, in lines of at most 76 columns where words allow it."""
    return "\n".join(_Teller(language, story).lines()) + "\n"


class _Teller:
    """One text under way."""

    __slots__ = ("_language", "_story", "_words")

    def __init__(self, language: Language, story: Story) -> None:
        self._language, self._story, self._words = language, story, language.words

    def lines(self) -> Iterator[str]:
        story, words = self._story, self._words
        yield from _wrapped(words["opening"].format(host=story.host))
        yield ""
        rows = (
            (words["subject"], harmless_line(story.subject)[:200] or words["no subject"]),
            (words["arrived"], self._date(story.arrived)),
            (words["number"], story.letter),
        )
        yield from (f"  {name:<11}{value}" for name, value in rows)
        for action in ACTIONS:
            told = [one for one in story.told if one.action == action]
            if told:
                yield from self._section(action, told)
        yield ""
        if story.back:
            yield words[story.back]
        yield from _wrapped(words["postmaster"].format(postmaster=story.postmaster))

    def _section(self, action: str, told: Sequence[Told]) -> Iterator[str]:
        yield ""
        yield from _wrapped(self._language.openings[action])
        groups = _grouped(told)
        for group in groups[:GROUPS]:
            yield ""
            yield from (f"  {harmless_line(one.recipient)[:NAME]}" for one in group[:TOGETHER])
            if len(group) > TOGETHER:
                yield "  " + self._words["more"].format(count=len(group) - TOGETHER)
            yield from self._group(action, group[0])
        if left := sum(map(len, groups[GROUPS:])):
            yield ""
            yield from _wrapped(self._words["more groups"].format(count=left))
        if action == "delayed":
            yield from self._timetable()

    def _group(self, action: str, one: Told) -> Iterator[str]:
        words = self._words
        if action not in ("failed", "delayed"):
            if action == "relayed" and one.host:
                yield f"    -> {_host(one)}"
            return
        sense = self._language.senses[cause_of(one.status, one.reply, one.stage, said=one.said)]
        yield from _wrapped(words["what"].format(text=sense.meaning.format(domain=self._domain(one))), "    ")
        if one.reply:
            place = _host(one) or self._domain(one)
            yield from _wrapped(words["said"].format(host=place) if one.said else words["detail"], "    ")
            yield from _quoted(one.reply)
        if action == "failed":
            if one.status.startswith("4") and one.at > self._story.arrived + SOONEST:
                first, last = self._date(self._story.arrived), self._date(one.at)
                yield from _wrapped(words["in vain"].format(first=first, last=last), "    ")
            yield from _wrapped(words["advice"].format(text=sense.advice), "    ")

    def _timetable(self) -> Iterator[str]:
        """The dates of the next attempts: all of them, or the first ones and the last."""
        story, words = self._story, self._words
        times = [*story.upcoming[:DATES]]
        if times:
            yield ""
            yield words["next"]
            yield from (f"    {self._date(time)}" for time in times)
            if story.until is not None and story.until > times[-1] + 1:
                yield "    ..."
                yield f"    {self._date(story.until)}"
        text = "" if story.until is None else words["last"].format(date=self._date(story.until))
        text += f" {words['promise']}" if story.usual else ""
        if text:
            yield ""
            yield from _wrapped(text.strip())

    def _domain(self, one: Told) -> str:
        try:
            domain = Address.parse(one.recipient).domain
        except AddressError:
            domain = self._story.host
        return harmless_line(domain_text(domain))[:NAME]

    def _date(self, seconds: float) -> str:
        """`Mon 2 Mar 2026, 09:14 +0300`; without a zone of ours in that of this machine."""
        zone = self._story.zone
        moment = datetime.fromtimestamp(seconds, zone) if zone else datetime.fromtimestamp(seconds).astimezone()
        day, month = self._language.days[moment.weekday()], self._language.months[moment.month - 1]
        return f"{day} {moment.day} {month} {moment:%Y, %H:%M %z}"


def _grouped(told: Sequence[Told]) -> list[list[Told]]:
    """Recipients for whom the same would be said, together."""
    groups: dict[tuple[object, ...], list[Told]] = {}
    for one in told:
        domain = one.recipient.rpartition("@")[2].lower()
        key = (domain, one.status, one.reply, one.said, one.host, one.address, one.stage)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _host(one: Told) -> str:
    name = harmless_line(one.host)[:NAME]
    return f"{name} [{one.address}]" if one.address and one.address not in name else name


def _quoted(reply: str) -> Iterator[str]:
    """What somebody else said, so marked that it cannot pass for words of ours."""
    count = 0
    for line in reply[:REPLY].splitlines():
        # Whatever a line breaks at for some reader of mail is gone before the mark is put before each line.
        for piece in textwrap.wrap(harmless_line(line.replace("\t", " ")), WIDTH - 8, break_on_hyphens=False):
            if count == REPLY_LINES:
                yield "      | ..."
                return
            yield f"      | {piece}"
            count += 1
    if len(reply) > REPLY:
        yield "      | ..."


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
