"""`posthouse serve`: the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posthouse.cli.exits import Exit, Problem
from posthouse.cli.invocation import Invocation, explained

if TYPE_CHECKING:
    from posthouse.app import Listening
    from posthouse.config.schema import Config
    from posthouse.observe.log import LogFile


@click.command()
@click.option(
    "--listen",
    "listen",
    multiple=True,
    metavar="PROTOCOL=HOST:PORT",
    help="Listen here instead of where the configuration says; may be given several times. PROTOCOL is smtp, "
    "submission, submissions, pop3, pop3s or lmtp, HOST an address or * for all, PORT 0 any free port.",
)
@click.option(
    "--transcript",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write every session down, one file each, secrets masked.",
)
@click.pass_obj
def serve(invocation: Invocation, listen: tuple[str, ...], transcript: Path | None) -> None:
    """Run the server until it is stopped with Ctrl-C or SIGTERM.

    \b
    It prints `ready` when every listener accepts. SIGHUP reads the configuration anew.
    Examples:
      posthouse serve
      posthouse --data mail serve --listen smtp=127.0.0.1:2525 --listen pop3=127.0.0.1:2110
      posthouse --config /etc/posthouse.toml serve --transcript transcripts
    """
    from posthouse.app.identity import IdentityError, become, is_root
    from posthouse.config.load import listen_options
    from posthouse.config.values import Wrong
    from posthouse.observe.log import LogFile

    def configured() -> Config:
        config, _ = invocation.load()
        return listen_options(listen, config, Wrong)

    with explained():
        config = configured()
        _, data = invocation.load()
        if config.server.user:
            try:
                become(config.server.user, data)  # before the log is opened, which is then that user's
            except IdentityError as error:
                raise Problem(Exit.CONFIG, f"{error}.", stage="identity") from error
        logging = LogFile(config.log)
    logging.adopt_standard()
    if is_root():
        logging.log.warning("running_as_root", advice="set server.user, or start the service as a user of its own")
    try:
        _serve(config, data, logging, transcript, configured)
    finally:
        logging.close()


def _serve(
    config: Config, data: Path, logging: LogFile, transcript: Path | None, configured: Callable[[], Config]
) -> None:
    from posthouse.app import App
    from posthouse.app.run import run
    from posthouse.app.run import serve as run_server
    from posthouse.cli.mailstore import refusals
    from posthouse.net.listener import ListenError
    from posthouse.net.tls import BadCertificate
    from posthouse.observe.transcript import TranscriptFolder

    def reconfigure() -> Config:
        changed = configured()
        logging.configure(changed.log)
        return changed

    async def ready(_: list[Listening]) -> bool:
        logging.flush()  # who waits for this word then reads where the listeners are
        click.echo("ready")
        return True

    with explained(), refusals():
        observer = None if transcript is None else TranscriptFolder(transcript)
        app = App(config, data, logging.log, observer=observer)
        try:
            run(run_server(app, logging.log, ready=ready, reconfigure=reconfigure))
        except ListenError as error:
            raise Problem(Exit.UNAVAILABLE, f"{error}.", stage="listen") from error
        except BadCertificate as error:
            advice = 'Put it right, or set offer = "no" in [tls] to serve without encryption.'
            raise Problem(Exit.CONFIG, f"There is no encryption: {error}. {advice}", stage="certificate") from error
