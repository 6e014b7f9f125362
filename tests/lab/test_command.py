"""`posthouse lab internet`: what it prints, draws, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from posthouse.cli.main import main
from posthouse.lab.scenario import shipped

BAD = '[[host]]\nname = "mx.a.example"\naddress = "nowhere"\n[[outage]]\nhost = "mx.b.example"\n'


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["lab", "internet", *arguments])
    return int(ended.value.code or 0)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--list") == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == list(shipped())


def test_a_journey_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("greylisting") == 0
    printed = capsys.readouterr()
    assert "mx.a.example attempt 1: mx.b.example: 451 4.7.1 Greylisted: try again in 5 minutes" in printed.out
    assert "bert@b.example: delivered at mx.b.example after 5 min" in printed.out
    assert "2 letters to 2 recipients: 2 delivered" in printed.out
    assert printed.err == ""


def test_long_rows_of_failures_are_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("dial-up") == 0
    short = capsys.readouterr().out
    assert "more attempts that ended the same way" in short
    assert command("dial-up", "-v") == 0
    whole = capsys.readouterr().out
    assert "more attempts" not in whole
    assert len(whole) > 5 * len(short)
    assert "<-  220 smart.isp.example ESMTP Posthouse" in whole


def test_the_notice_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("down-5d", "-v") == 0
    printed = capsys.readouterr().out
    assert "writes a notice (delayed) to anna@a.example" in printed
    assert "| " in printed and "bert@b.example" in printed.split("writes a notice")[1]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("down-5h", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["code"]) == (True, 0)
    assert answer["summary"]["delivered"] == 1
    (letter,) = answer["letters"]
    assert letter["recipients"][0]["state"] == "delivered"
    kinds = [event["what"] for event in letter["events"]]
    assert kinds == ["accepted", *["attempt"] * 8, "notice", "attempt", "accepted"]
    assert letter["events"][1]["results"][0]["next"].startswith("2026-03-02T08:01:")
    notice = letter["events"][9]
    assert notice["action"] == "delayed"
    assert "message/delivery-status" in notice["content"]
    assert any("MAIL FROM:<anna@a.example>" in line for line in letter["events"][10]["transcript"])


def test_the_answer_is_the_same_in_every_time_zone_and_process() -> None:
    answers = set()
    for zone, seed in (("UTC", "1"), ("Asia/Tokyo", "2")):
        environment = {**os.environ, "TZ": zone, "PYTHONHASHSEED": seed}
        line = [sys.executable, "-m", "posthouse.cli.main", "lab", "internet", "down-5h", "--json"]
        answers.add(subprocess.run(line, env=environment, capture_output=True, check=True).stdout)
    assert len(answers) == 1


@pytest.mark.parametrize("name", ["cc-list", "dial-up", "loop"])
def test_the_picture(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "journey.svg"
    assert command(name, "--svg", str(file), "--no-letters") == 0
    picture = ElementTree.parse(file).getroot()
    texts = {node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")}
    hosts = {host for host in texts if host and host.endswith(".example") and " " not in host}
    assert len(hosts) >= 3
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) >= 4
    assert " 0 waiting." in capsys.readouterr().out


def test_a_picture_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("greylisting", "--svg", str(tmp_path / "no" / "x.svg")) == 73
    assert "cannot be written" in capsys.readouterr().err


def test_the_scenario_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bcc", "--show") == 0
    assert capsys.readouterr().out == shipped()["bcc"]


def test_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(BAD)
    assert command(str(file)) == 78
    said = capsys.readouterr().err
    assert f'{file}:3: host[0].address: "nowhere" is not an IP address' in said
    assert "outage[0].host" in said
    assert command(str(file), "--json") == 78
    assert json.loads(capsys.readouterr().out)["stage"] == "scenario"


def test_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("missing.toml") == 66
    assert "--list" in capsys.readouterr().err
    assert command("missing.toml", "--show") == 66
    assert command() == 64


def test_what_still_waits_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "waits.toml"
    file.write_text(shipped()["down-5h"].replace("[scenario]", '[scenario]\nuntil = "2h"'))
    assert command(str(file)) == 1
    assert "waiting at mx.a.example, next attempt Mon 02 Mar 10:" in capsys.readouterr().out
