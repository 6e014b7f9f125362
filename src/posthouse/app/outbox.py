"""The outbox of the person as whom the server runs: `posthouse outbox run --watch` beside it, in a process of its own.

That process has the server's user and environment and nothing else of it: no socket, no store. It ends with the server,
also when that is killed: it watches its standard input, the other end of which only the server holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Final

from posthouse.config.schema import ServerSettings
from posthouse.observe.log import Log

COMMAND: Final = (sys.executable, "-m", "posthouse.cli.main", "outbox", "run", "--watch", "--until-eof")
FIRST_PAUSE: Final = 1.0  # seconds before a runner that ended by itself is started again, then twice as long each time
LONGEST_PAUSE: Final = 600.0
LINE: Final = 2_000  # octets of one of its lines that are logged


class OutboxRunner:
    """Keeps the runner going while the settings want it. What goes wrong with it is logged and stops no server."""

    def __init__(self, log: Log, command: tuple[str, ...] = COMMAND) -> None:
        self._log = log
        self._command = command
        self._keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def configure(self, settings: ServerSettings) -> None:
        """Starts the runner or ends it, as the settings say."""
        wanted = settings.outbox == "on"
        if wanted and settings.user:
            reason = f"the server becomes {settings.user}, who has no outbox; posthouse outbox unit is for people"
            self._log.error("outbox_not_run", reason=reason)
            wanted = False
        if wanted and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())
        elif not wanted:
            await self.stop(settings.stop_timeout)

    async def stop(self, seconds: float) -> None:
        """Ends the runner: an attempt under way may take so long; one that is cut off leaves a letter that is tried
        again, or is uncertain, as after a crash. Harmless when called again."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await process.wait()
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                await self._run()
            except OSError as error:
                self._log.error("outbox_failed", reason=error.strerror or str(error))
            if asyncio.get_running_loop().time() - begun > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run(self) -> None:
        """One life of the runner."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE,
            start_new_session=True,  # no terminal: nothing can ask for a password, and Ctrl-C comes from us alone
        )
        self._process = process
        self._log.info("outbox_runs", process=process.pid)
        try:
            assert process.stdout is not None
            while line := await _line(process.stdout):
                self._log.info("outbox", said=line)
            code = await process.wait()
            self._log.warning("outbox_ended", status=code)
        finally:
            self._process = None
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                with contextlib.suppress(asyncio.CancelledError):
                    await process.wait()


async def _line(stream: asyncio.StreamReader) -> str:
    """The next line, of a very long one the beginning; "" at the end. An empty line is a blank."""
    try:
        octets = await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        octets = error.partial
    except asyncio.LimitOverrunError:
        octets = await stream.read(LINE)
    text = octets.decode("utf-8", "replace")
    return text.rstrip("\n") or (" " if text else "")
