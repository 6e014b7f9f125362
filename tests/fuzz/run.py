"""Grows inputs for each target and keeps those that show something new: `make fuzz`, or
`python -m tests.fuzz.run --seconds 60 --only smtp-server,message --seed 7`.

Seeds are the transcripts and the notices of the tests. The corpus lies in .cache/fuzz/TARGET; an input that fails is
kept there as fail-*, told with the command that repeats it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
import tracemalloc
from hashlib import blake2b
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS, Target

ROOT: Final = Path(__file__).parents[2]
CORPUS: Final = ROOT / ".cache" / "fuzz"
LONGEST: Final = 30_000  # octets of an input
MEMORY: Final = 64 * 1024 * 1024  # octets that one input may take at most
SLOW: Final = 5.0  # seconds for one input, on a busy machine
KEPT: Final = 2000  # inputs of one target
WORDS: Final = (
    *(b"\r\n", b"\n", b"\r", b".\r\n", b"\r\n.\r\n", b"\0", b"\xff", b"=", b"*\r\n", b"@", b"<", b">", b'"', b"\\"),
    *(b"AUTH PLAIN ", b"AUTH LOGIN\r\n", b"BDAT 5 LAST\r\n", b"BDAT 99999\r\n", b"DATA\r\n", b"RSET\r\n", b"QUIT\r\n"),
    *(b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", b"EHLO x\r\n", b"LHLO x\r\n", b"USER a\r\n", b"PASS b\r\n"),
    *(b"STARTTLS\r\n", b"STLS\r\n", b"RETR 1\r\n", b"TOP 1 0\r\n", b"CAPA\r\n", b"UIDL\r\n", b"+OK\r\n", b"-ERR\r\n"),
    *(b"250-", b"250 ", b"354 go\r\n", b"334 \r\n", b"AGEAYg==\r\n", "я".encode(), b"=?utf-8?b?", b"?=", b"--b\r\n"),
    *(
        b"Final-Recipient: rfc822;",
        b"\r\nAction: failed\r\n",
        b"Status: 5.1.1\r\n",
        b"Diagnostic-Code: smtp; ",
        b"\\x{430}",
    ),
    *(b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Transfer-Encoding: base64\r\n", b"Subject: "),
    *(
        b"message/rfc822",
        b"filename*0*=utf-8''%41",
        b"(",
        b")",
        b";",
        b"\xe2\x80\xae",
        b"[IPv6:::1]",
        b"::ffff:1.2.3.4",
    ),
)


def seeds() -> list[bytes]:
    """What the peers of the transcripts say, and what they hear; notices."""
    found = []
    for path in sorted((ROOT / "tests" / "transcripts").glob("*/*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for mark in ("C: ", "S: "):
            said = "".join(f"{line[3:]}\r\n" for line in lines if line.startswith(mark))
            found.append(said.encode()[:LONGEST])
    for path in sorted((ROOT / "tests" / "notices").glob("*/*.eml")):
        found.append(path.read_bytes()[:LONGEST])
    return [seed for seed in found if seed]


def grow(chance: random.Random, corpus: list[bytes]) -> bytes:
    """An input that nobody has seen, out of those there are."""
    octets = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place = chance.randint(0, len(octets))
        match chance.randrange(7):
            case 0:
                octets[place:place] = chance.choice(WORDS) * chance.choice((1, 1, 1, 3, 50))
            case 1:
                del octets[place : place + chance.choice((1, 2, 10, 100))]
            case 2 if octets:
                octets[min(place, len(octets) - 1)] = chance.randrange(256)
            case 3:
                other = chance.choice(corpus)
                start = chance.randint(0, len(other))
                octets[place:place] = other[start : start + chance.choice((5, 50, 500))]
            case 4:
                octets[place:place] = bytes(octets[place : place + 40]) * chance.choice((1, 2, 30))
            case 5:
                octets[place:place] = chance.randbytes(chance.choice((1, 4, 40)))
            case _:
                octets[place:place] = bytes((chance.choice(b"ab .\r\n<>@0"),)) * chance.choice((1, 70, 1100, 13_000))
    return bytes(octets[:LONGEST])


def cut(chance: random.Random, octets: bytes) -> list[bytes]:
    """The octets as several reads bring them."""
    places = sorted(chance.randint(0, len(octets)) for _ in range(chance.choice((0, 0, 1, 3, 20))))
    return [octets[start:stop] for start, stop in zip([0, *places], [*places, len(octets)], strict=True)]


class Fuzzer:
    """One target with its corpus."""

    def __init__(self, name: str, target: Target, folder: Path, start: list[bytes]) -> None:
        self.name = name
        self.target = target
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.corpus = start + [path.read_bytes() for path in sorted(folder.glob("kept-*"))[:KEPT]]
        self.seen: set[object] = set()
        self.runs = self.failures = 0

    def work(self, chance: random.Random, seconds: float) -> None:
        """Runs for so long; the corpus first, once."""
        end = time.monotonic() + seconds
        for octets in list(self.corpus):
            if time.monotonic() > end:
                return
            self._try([octets], octets, keep=False)
        while time.monotonic() < end and self.failures < 5:
            octets = grow(chance, self.corpus)
            self._try(cut(chance, octets), octets, keep=True)

    def _try(self, pieces: list[bytes], octets: bytes, *, keep: bool) -> None:
        self.runs += 1
        began = time.monotonic()
        measured = not self.runs % 50
        if measured:  # it makes everything slow, so only some are measured
            tracemalloc.start()
        try:
            sight = self.target(pieces)
            most = tracemalloc.get_traced_memory()[1] if measured else 0
            assert most <= MEMORY, f"{most} octets of memory for {len(octets)} of input"
            took = time.monotonic() - began
            assert took <= SLOW, f"{took:.1f} s for {len(octets)} octets"
        except Exception:  # noqa: BLE001 - any exception is what we look for
            self._tell(pieces)
        else:
            if keep and not sight <= self.seen and len(self.corpus) < KEPT:
                self.corpus.append(octets)
                (self.folder / f"kept-{blake2b(octets, digest_size=8).hexdigest()}").write_bytes(octets)
            self.seen |= sight
        finally:
            if measured:
                tracemalloc.stop()

    def _tell(self, pieces: list[bytes]) -> None:
        self.failures += 1
        text = repr(pieces).encode()
        path = self.folder / f"fail-{blake2b(text, digest_size=8).hexdigest()}"
        path.write_bytes(text)
        traceback.print_exc()
        print(f"{self.name} fails; repeat it with: python -m tests.fuzz.run --repeat {path}", file=sys.stderr)


def fuzz(names: list[str], seconds: float, seed: int, folder: Path = CORPUS) -> int:
    """Fuzzes these targets for so long in all; returns how many inputs failed."""
    start, failures = seeds(), 0
    for name in names:
        one = Fuzzer(name, TARGETS[name], folder / name, list(start))
        one.work(random.Random(f"{seed} {name}"), seconds / len(names))
        print(f"{name:14} {one.runs:9,} inputs, {len(one.seen):6,} sights, {one.failures} failures", flush=True)
        failures += one.failures
    return failures


def main() -> int:
    """The command."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Random octets against every core.")
    options.add_argument("--seconds", type=float, default=600.0, help="how long in all (default: %(default)s)")
    options.add_argument("--only", default=",".join(TARGETS), help="targets, parted by commas (default: all)")
    options.add_argument("--seed", type=int, default=0, help="another number, other inputs; 0 takes the time")
    options.add_argument("--repeat", type=Path, help="run one input that failed")
    given = options.parse_args()
    if given.repeat is not None:
        import ast

        pieces = ast.literal_eval(given.repeat.read_text())
        TARGETS[given.repeat.parent.name](pieces)
        print("It does not fail any more.")
        return 0
    return 1 if fuzz(given.only.split(","), given.seconds, given.seed or time.time_ns()) else 0


if __name__ == "__main__":
    sys.exit(main())
