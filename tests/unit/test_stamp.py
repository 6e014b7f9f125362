"""Received fields as the servers of the world write them: each shape in a file of `traces`, with what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from posthouse.mail.path import read_path, to_json
from posthouse.mail.trace import Hop, date_time, received

FOLDER = Path(__file__).parent / "traces"


def cases() -> list[object]:
    return list(_cases())


def _cases() -> Iterator[object]:
    for file in sorted(FOLDER.glob("*.txt")):
        for number, block in enumerate(file.read_text(encoding="utf-8").strip().split("\n\n"), 1):
            yield pytest.param(block, id=f"{file.stem}-{number}")


@pytest.mark.parametrize("block", cases())
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_field_says(block: str, end: str) -> None:
    """A line `= key value` follows each field; `-` is null, `said` a note."""
    lines = block.split("\n")
    field = "".join(line + end for line in lines if not line.startswith("= "))
    (hop,) = to_json(read_path((field + end).encode()))["hops"]
    tls = hop["tls"]
    hop["tls"] = tls and f"{tls['version'] or '-'} {tls['cipher'] or '-'}"
    expected = [line[2:].split(" ", 1) for line in lines if line.startswith("= ")]
    assert len(expected) >= 2 or expected[0][0] == "time", block
    for key, value in expected:
        if key == "said":
            assert value in hop["notes"]
        elif key == "notes":
            assert len(hop["notes"]) == int(value)
        else:
            assert hop[key] == (None if value == "-" else value), key


def test_what_we_write_ourselves_is_read_back() -> None:
    for address, reverse in (("192.0.2.7", "mail.example.net"), ("2001:db8::7", None), ("", None)):
        field = received(Hop("out.example.net", address, reverse, "x.example.org", "ESMTPSA", "abc", 1_700_000_000))
        (hop,) = to_json(read_path(field.encode()))["hops"]
        assert (hop["helo"], hop["ip"], hop["rdns"]) == ("out.example.net", address or None, reverse)
        assert (hop["by"], hop["with"], hop["id"], hop["notes"]) == ("x.example.org", "ESMTPSA", "abc", [])
        assert hop["time"] == "2023-11-14T22:13:20Z" and date_time(1_700_000_000).endswith("22:13:20 +0000")
