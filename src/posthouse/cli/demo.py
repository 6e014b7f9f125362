"""`posthouse demo`: the whole system on this machine in one go."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import explained

if TYPE_CHECKING:
    from posthouse.app import App, Listening
    from posthouse.config.schema import Config

DOMAIN: Final = "x.mail"
PASSWORD: Final = "secret"  # noqa: S105 - of two accounts that live as long as the demo, on this machine only
ATTACHMENT: Final = "This is the file of the laboratory work.\n.\nThe line above is a lone dot; it does not end me.\n"
PORTS: Final = {"smtp": 2525, "pop3": 2110}
TRIES: Final = 50  # ports that are tried, one after the other


@click.command()
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the data directory here; without it the letters vanish at the end.",
)
def demo(keep: Path | None) -> None:
    """Start a real server on this machine, send a letter and collect it.

    Both dialogues are printed. On a terminal the server then stays up for any mail program, until Ctrl-C.
    """
    from tempfile import TemporaryDirectory

    from posthouse.app.run import run

    if keep is not None and (keep / "posthouse.db").exists():
        raise Problem(Exit.CANNOT_CREATE, f"There is mail in {keep} already. Name a new directory with --keep.")
    with explained(), TemporaryDirectory(prefix="posthouse-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "mail.txt").write_text(ATTACHMENT, encoding="utf-8")
        stay = sys.stdin.isatty() and sys.stdout.isatty()
        code = run(_demo(keep or folder / "data", folder, stay=stay, kept=keep is not None))
    if code:
        raise Problem(Exit(code), "The demo did not come to its end; the lines above tell where it stopped.")


async def _demo(data: Path, folder: Path, *, stay: bool, kept: bool) -> int:
    from posthouse.app import App
    from posthouse.app.run import serve
    from posthouse.cli.mailstore import refusals
    from posthouse.config.schema import LogSettings
    from posthouse.net.listener import ListenError
    from posthouse.observe.log import LogFile

    code = int(Exit.SOFTWARE)
    logging = LogFile(LogSettings(level="warning"))

    async def ready(listening: list[Listening]) -> bool:
        nonlocal code
        places = {item.protocol: str(item.address) for item in listening}
        await _accounts(app)
        code = await _dialogues(places, folder)
        if stay and not code:
            _invite(places, data if kept else None)
        return stay and not code

    try:
        for attempt in range(TRIES):
            configured = functools.partial(_config, attempt if stay else None)
            app = App(configured(), data, logging.log)
            try:
                with refusals():
                    await serve(
                        app, logging.log, ready=ready, reconfigure=functools.partial(_config, attempt if stay else None)
                    )
                return code
            except ListenError as error:
                if not stay or attempt == TRIES - 1:
                    raise Problem(Exit.UNAVAILABLE, f"{error}.", stage="listen") from error
    finally:
        logging.close()
    return code


def _config(attempt: int | None) -> Config:
    """The lab's server: its name, its texts, its ports (the next ones at each attempt, any free ones with None)."""
    from posthouse.config.schema import Config, ListenerSettings, ServerSettings, TlsSettings

    listeners = tuple(
        ListenerSettings(protocol, "127.0.0.1", 0 if attempt is None else port + attempt)
        for protocol, port in PORTS.items()
    )
    return Config(
        server=ServerSettings(hostname=DOMAIN, style="classic", stop_timeout=2.0),
        listeners=listeners,
        tls=TlsSettings(offer="no"),  # the dialogues are those of the lab, and nothing leaves this machine
    )


async def _accounts(app: App) -> None:
    await app.directory.add_domain(DOMAIN)
    for name in ("test", "test2"):
        await app.directory.add_account(f"{name}@{DOMAIN}", PASSWORD)


async def _dialogues(places: dict[str, str], folder: Path) -> int:
    """Sends the lab's letter with the file mail.txt of this folder, and collects it; both dialogues are printed.
    Returns the exit code."""
    from posthouse.cli.dialogue import run_read, run_send

    _say(f"A server for {DOMAIN} runs on this machine: SMTP on {places['smtp']}, POP3 on {places['pop3']}.")
    _say(f"test@{DOMAIN} writes to test2@{DOMAIN}, with a file. Every reply of the server is shown.")
    _command("send")
    letter = [f"test@{DOMAIN}", "test", PASSWORD, f"test2@{DOMAIN}", "Message 1", "Hello", "mail.txt"]
    code = await run_send(["", *letter], sys.stdout, server=places["smtp"], directory=folder)
    if code:
        return code
    _say(f"\nThe letter lies in the mailbox of test2@{DOMAIN}, on the disk. Its owner collects it.")
    _command("read")
    words = ["Auth", f"test2@{DOMAIN}", PASSWORD, "List", "Read", "1", "Delete", "1", "List", "Quit"]
    return await run_read(["", *words], sys.stdout, server=places["pop3"], directory=folder)


def _invite(places: dict[str, str], kept: Path | None) -> None:
    smtp, pop3 = places["smtp"], places["pop3"]
    _say(f"""
The server stays up until Ctrl-C. Any mail program on this machine can use it:

  outgoing mail (SMTP)   {smtp}, no encryption
  incoming mail (POP3)   {pop3}, no encryption
  accounts               test@{DOMAIN} and test2@{DOMAIN}, both with the password "{PASSWORD}"

or, in another terminal:

  posthouse send test2@{DOMAIN} -f test@{DOMAIN} -s "Message 2" -m "Hello again" --url smtp://{smtp}
  POSTHOUSE_PASSWORD={PASSWORD} posthouse read latest --url pop3://test2%40{DOMAIN}@{pop3}
  posthouse read

{f"The letters are kept in {kept}." if kept else "The letters vanish at the end; --keep DIR keeps them."}""")


def _command(verb: str) -> None:
    _say(f"\n$ posthouse {verb}")


def _say(text: str) -> None:
    click.echo(text)
