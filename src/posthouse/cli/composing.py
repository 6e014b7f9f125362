"""From the options of `send` and standard input to letters: one, or one for each row of a table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from posthouse.cli import letters, rich
from posthouse.cli.exits import Exit, Problem
from posthouse.cli.rich import Row
from posthouse.clients.smtp import Letter
from posthouse.mail.compose import Attachment, Part
from posthouse.mail.mailboxes import Mailbox

BARRED: Final = ("bcc", "content-type", "content-transfer-encoding", "mime-version")
WHOLE: Final = ("html", "markdown", "inline", "reply", "forward", "merge", "attach", "message", "subject")


@dataclass(slots=True)
class Recipe:
    """What all letters of one call have in common; `compose` makes one of it."""

    options: dict[str, Any]
    login: str
    text: str | None = None  # when it is worked on; else it goes as it is
    part: Part | None = None
    html: str | None = None
    quoted: str = ""
    forwarded: list[Attachment] = field(default_factory=list)

    @classmethod
    def read(cls, options: dict[str, Any], login: str) -> Recipe:
        """Reads everything once: standard input, the HTML, the letter that is answered. Raises Problem."""
        _check(options)
        recipe = cls(dict(options), login)
        if options["from_header"]:
            recipe.part = standard_input()
            return recipe
        if options["reply"] or options["forward"]:
            recipe._answer()
        worked = options["markdown"] or options["html"] or options["merge"] or recipe.quoted
        if options["html"]:
            path = Path(options["html"])
            recipe.html = rich.whole(letters.attachment(path), str(path))
        recipe._read_text(worked=bool(worked))
        return recipe

    def _read_text(self, *, worked: bool) -> None:
        given = self.options["message"]
        if self.html is not None and given is None and sys.stdin.isatty():
            part = letters.text_part("")
        else:
            part = letters.text_part(given) if given is not None else standard_input()
        if not worked:
            self.part = part
            return
        self.text = rich.whole(part, "The text")
        if self.html is not None and not self.text.strip():
            from posthouse.mail.htmltext import html_to_text

            self.text = html_to_text(self.html)
        if self.quoted:
            self.text = f"{self.text.rstrip()}\n{self.quoted}"
        if self.options["markdown"]:
            self.html = rich.from_markdown(self.text)

    def _answer(self) -> None:
        """Fills in what follows from the letter that is answered, where the person said nothing else."""
        from posthouse.cli import answering

        options = self.options
        parent = answering.find_parent(options["reply"] or options["forward"], options)
        try:
            if options["reply"]:
                answer = answering.reply(parent, self._sender(None), everybody=options["all"], quote=options["quote"])
            else:
                answer = answering.forward(parent)
        finally:
            parent.close()
        options["to"] = options["to"] or tuple(box.encode(utf8=True) for box in answer.to)
        options["cc"] = options["cc"] or tuple(box.encode(utf8=True) for box in answer.cc)
        options["subject"] = options["subject"] or answer.subject
        given = {name.partition(":")[0].strip().lower() for name in options["header"]}
        made = [f"{name}: {value}" for name, value in answer.fields if name.lower() not in given]
        options["header"] = (*options["header"], *made)
        self.quoted, self.forwarded = answer.quoted, answer.attachments

    # One letter

    def compose(self, row: Row | None = None) -> tuple[Letter, str]:
        """The letter and its Message-ID. Raises Problem."""
        if self.options["from_header"]:
            letter, message_id = self._as_given()
        else:
            letter, message_id = self._composed(row)
        notify, ret = self.options["dsn"], self.options["ret"]
        if notify:
            from posthouse.cli.sendmail import read_notify

            # Notices name the envelope id, so that the letter can be found by it.
            letters.want_notices(
                letter, read_notify(notify), ret.upper() if ret else None, message_id.strip("<>")[:100]
            )
        return letter, message_id

    def _as_given(self) -> tuple[Letter, str]:
        assert self.part is not None
        boxes = [box for name in ("to", "cc", "bcc") for text in self.options[name] for box in _boxes(text)]
        sender = self.options["sender"] or (self.login if "@" in self.login else "")
        senders = _boxes(sender) if sender else []
        whole = letters.whole_message(self.part, senders[0] if senders else None, boxes)
        return whole.letter, whole.message_id

    def _composed(self, row: Row | None) -> tuple[Letter, str]:
        options = self.options
        sender = self._sender(row)
        to, cc, bcc = ([box for text in options[name] for box in _boxes(rich.fill(text, row))] for name in ADDRESSED)
        if row is not None and not (to or cc or bcc):
            to = _boxes(_column(row))
        if not (to or cc or bcc):
            raise Problem(Exit.USAGE, "There is no recipient: give one or more addresses, or -t.")
        attachments = [letters.attachment(Path(rich.fill(name, row))) for name in options["attach"]]
        domain = sender.address.domain if sender.address.domain.isascii() else "localhost"
        html, inlines = self._rich(row, domain)
        draft = letters.Draft(
            sender,
            rich.fill(options["subject"], row),
            self.part if self.part is not None else letters.text_part(rich.fill(self.text or "", row)),
            to,
            cc,
            bcc,
            [read_field(rich.fill(text, row)) for text in options["header"]],
            [*attachments, *self.forwarded],
            html,
            inlines,
        )
        return draft.compose()

    def _rich(self, row: Row | None, domain: str) -> tuple[Part | None, list[Attachment]]:
        if self.html is None:
            return None, []
        paths = [Path(rich.fill(name, row)) for name in self.options["inline"]]
        pictures = [letters.attachment(path) for path in paths]
        for picture in pictures:
            picture.cid = rich.new_cid(picture.name, domain.strip("[]").replace(":", "."))
        source = rich.with_pictures(self.html, pictures, paths) if pictures else self.html
        return letters.text_part(rich.fill_html(source, row)), pictures

    def _sender(self, row: Row | None) -> Mailbox:
        given = self.options["sender"] or (self.login if "@" in self.login else "")
        senders = _boxes(rich.fill(given, row)) if given else []
        if not senders:
            raise Problem(Exit.USAGE, "There is no sender: give -f ADDRESS.")
        return senders[0]


ADDRESSED: Final = ("to", "cc", "bcc")


def _boxes(text: str) -> list[Mailbox]:
    return letters.read_mailboxes(text)


def _column(row: Row) -> str:
    """The recipient of a row, when none was named otherwise. Raises Problem."""
    for name in ("to", "email", "e-mail", "address", "mail"):
        if row.get(name, "").strip():
            return row[name]
    text = "The row says nobody to send to: name a column to, email or address, or give '{{column}}' as recipient."
    raise Problem(Exit.DATA, f"{text} There are {', '.join(row)}.")


def _check(options: dict[str, Any]) -> None:
    """Raises Problem where options contradict each other."""
    rich_text = options["html"] or options["markdown"]
    answer = options["reply"] or options["forward"]
    clashes = [
        (options["html"] and options["markdown"], "--html and --md both make the HTML: give one of them."),
        (options["inline"] and not rich_text, "--inline shows pictures in --html or --md."),
        (options["reply"] and options["forward"], "--reply and --forward exclude each other."),
        ((options["all"] or options["quote"]) and not options["reply"], "--all and --quote go with --reply."),
        (options["mailbox"] and not answer, "--mailbox goes with --reply or --forward."),
        (options["ret"] and not options["dsn"], "--ret goes with --dsn."),
        (options["merge"] and answer, "--merge makes new letters, no replies."),
    ]
    if options["from_header"]:
        given = [name for name in WHOLE if options[name]]
        clashes.append((given, "With -t the message is whole: options that compose one do not go with it."))
    for clash, text in clashes:
        if clash:
            raise Problem(Exit.USAGE, text)


def read_field(text: str) -> tuple[str, str]:
    """Name and value of `Name: value`. Raises Problem."""
    name, colon, value = text.partition(":")
    if not colon:
        raise Problem(Exit.USAGE, f"-H needs a name, a colon and a value, not {text!r}")
    if name.strip().lower() in BARRED:
        raise Problem(Exit.USAGE, f"-H cannot set {name.strip()}: it would break the message.")
    return name.strip(), value.strip()


def standard_input() -> Part:
    """What standard input holds."""
    if sys.stdin.isatty():
        print("Type the message; Ctrl-D on a line of its own ends it.", file=sys.stderr)
    return letters.spool(sys.stdin.buffer)
