"""What the server says of itself: the greeting, the reply to EHLO and HELP, all derived from the table of commands."""

from __future__ import annotations

from functools import lru_cache

from posthouse.mail.reply import Reply, Smtp, Style
from posthouse.smtp.commands import StartTls
from posthouse.smtp.rules import COMMANDS, REFUSED_ALWAYS, Mode


@lru_cache(maxsize=64)
def greeting_of(mode: Mode, host: str) -> Reply:
    """The first words, before anything was read (RFC 5321 §4.2, RFC 2033 §4)."""
    return (Smtp.LMTP_GREETING if mode is Mode.LMTP else Smtp.GREETING).fill(host=host)


@lru_cache(maxsize=256)  # the same clients come again and again
def hello_of(host: str, peer: str, extensions: tuple[str, ...]) -> Reply:
    """The positive reply to EHLO or LHLO (RFC 5321 §4.1.1.1)."""
    first = Smtp.EHLO.fill(host=host, peer=peer)
    more = "".join(f"\n{line}" for line in extensions)
    return Reply(first.code, first.status, first.text + more, None if first.classic is None else first.classic + more)


@lru_cache(maxsize=64)
def extensions_of(mode: Mode, style: Style, limit: int, tls: bool, mechanisms: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of that reply after the first. `tls`: STARTTLS is to be had now; `mechanisms` as AUTH names them."""
    lines = ["PIPELINING", f"SIZE {limit}", "8BITMIME", "SMTPUTF8", "DSN"]
    if style is not Style.CLASSIC:
        lines.append("ENHANCEDSTATUSCODES")  # the classic texts have none
    if tls:
        lines.append("STARTTLS")
    if mechanisms:
        lines.append(f"AUTH {' '.join(mechanisms)}")
    lines.extend(rule.extension for rule in COMMANDS.values() if rule.extension and mode in rule.modes)
    return tuple(lines)


def help_on(topic: str, mode: Mode, *, tls: bool) -> Reply:
    """The reply to HELP: the commands, or how one of them is written (RFC 5321 §4.1.1.8)."""
    known = {
        verb: rule
        for verb, rule in COMMANDS.items()
        if mode in rule.modes and verb not in REFUSED_ALWAYS and (rule.event is not StartTls or tls)
    }
    rule = known.get(topic.upper())
    if rule is not None:
        return Smtp.HELP.fill(lines=getattr(rule.event, "syntax", topic.upper()))
    return Smtp.NO_HELP if topic else Smtp.HELP.fill(lines=f"Commands: {' '.join(known)}")
