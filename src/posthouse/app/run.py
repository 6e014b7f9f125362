"""Runs an app until somebody asks it to stop: the event loop, the signals, the service manager."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from posthouse.app import App, Listening
from posthouse.app.notify import notify
from posthouse.config.load import ConfigError
from posthouse.config.schema import Config
from posthouse.observe.log import Log

T = TypeVar("T")

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which the event loop's thread gives Python's lock to a waiting one (Python's own 5 ms would let the
writer thread wait that long after each sync; measured in bench/README.md)."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, asyncio's own loop elsewhere or when POSTHOUSE_LOOP is "asyncio"."""
    if os.environ.get("POSTHOUSE_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on a loop of its own and returns its result."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def raise_descriptor_limit() -> None:
    """Lets this process open as many files and connections as the system allows it to ask for: the usual soft limit
    of 1024 is for programs that use select(2)."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # macOS names an unlimited hard limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(
    app: App, log: Log, *, ready: Callable[[list[Listening]], Awaitable[bool]], reconfigure: Callable[[], Config]
) -> None:
    """Starts the app, awaits `ready` when every listener accepts, and if that says so runs until SIGTERM or SIGINT.
    SIGHUP reads the configuration anew with `reconfigure`; one with errors is logged and changes nothing. Raises what
    `App.start` raises."""
    stop = asyncio.Event()
    reload = asyncio.Event()
    with _signals({"SIGTERM": stop.set, "SIGINT": stop.set, "SIGHUP": reload.set}):
        try:
            raise_descriptor_limit()
            listening = await app.start()
            # What was loaded stays; and sessions leave hardly any cycles, so looking for them can wait longer.
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)
            sys.setswitchinterval(SWITCH_INTERVAL)
            notify("READY=1")
            if await ready(listening):
                await _until_stopped(app, log, stop, reload, reconfigure)
        finally:
            notify("STOPPING=1")
            log.info("stopping")
            await app.stop()
            log.info("stopped")


async def _until_stopped(
    app: App, log: Log, stop: asyncio.Event, reload: asyncio.Event, reconfigure: Callable[[], Config]
) -> None:
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        reloading = asyncio.create_task(reload.wait())
        await asyncio.wait([stopping, reloading], return_when=asyncio.FIRST_COMPLETED)
        reloading.cancel()
        if reload.is_set() and not stop.is_set():
            reload.clear()
            await _reload(app, log, reconfigure)


async def _reload(app: App, log: Log, reconfigure: Callable[[], Config]) -> None:
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        config = reconfigure()
    except ConfigError as error:
        for problem in error.problems:
            log.error("configuration_refused", line=problem.line, key=problem.key, reason=problem.text)
    else:
        await app.reload(config)
        # What was replaced hangs together in circles, TLS contexts among it: 22 KB that the thresholds of `serve` would
        # leave lying for millions of objects. What was there before `gc.freeze` is not looked at.
        gc.collect()
    notify("READY=1")


@contextmanager
def _signals(handlers: dict[str, Callable[[], None]]) -> Iterator[None]:
    """Calls a handler in the event loop when its signal comes; signals this system does not have are left out."""
    loop = asyncio.get_running_loop()
    numbers = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in numbers.items():
        # Loops of their own handle signals on POSIX; on Windows Python's way with a hand-over to the loop does.
        if sys.platform == "win32":
            signal.signal(number, lambda *_, handler=handler: loop.call_soon_threadsafe(handler))
        else:
            loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, previous)
