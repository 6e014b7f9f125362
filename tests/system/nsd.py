"""A name server nobody here wrote, on loopback: NSD, with zones as a test wants them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.machine import free_port, start, stop, wait_for_port

from tests.system.programs import find_program, run_program

_HEAD = """\
$TTL 3600
@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 60
@ IN NS ns.{zone}.
ns IN A 127.0.0.1
"""


@contextlib.contextmanager
def nsd(zones: Mapping[str, str | None]) -> Iterator[int]:
    """Serves zones, each given as the lines of its file without SOA and NS; None is a zone that cannot be loaded, for
    which NSD answers SERVFAIL. Other names are refused. Yields the port, of UDP and TCP."""
    program = find_program("nsd")
    # NSD's sockets and files lie in a short path of its own.
    with tempfile.TemporaryDirectory(prefix="nsd-") as name:
        folder = Path(name)
        port = free_port()
        lines = [
            "server:",
            f"  ip-address: 127.0.0.1@{port}",
            "  server-count: 1",
            '  username: ""',
            '  chroot: ""',
            f'  zonesdir: "{folder}"',
            '  database: ""',
            f'  pidfile: "{folder}/nsd.pid"',
            f'  xfrdfile: "{folder}/xfrd.state"',
            f'  xfrdir: "{folder}"',
            f'  zonelistfile: "{folder}/zone.list"',
            "  refuse-any: no",
            "  rrl-ratelimit: 0",
            "remote-control:",
            "  control-enable: no",
        ]
        for zone, text in zones.items():
            lines += ["zone:", f'  name: "{zone}"', f'  zonefile: "{zone}.zone"']
            if text is not None:
                (folder / f"{zone}.zone").write_text(_HEAD.format(zone=zone) + text)
        configuration = folder / "nsd.conf"
        configuration.write_text("\n".join(lines) + "\n")
        run_program(["nsd-checkconf", str(configuration)], folder=folder)
        process = start([program, "-d", "-c", str(configuration)], folder / "log")
        try:
            wait_for_port(port, process)
            yield port
        except BaseException:
            print((folder / "log").read_text(errors="replace")[-3000:])
            raise
        finally:
            stop(process)
