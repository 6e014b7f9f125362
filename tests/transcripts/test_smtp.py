"""The SMTP transcripts, each played twice: lines as they stand, and octet by octet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smtp_stage import SmtpStage
from tests.transcript_runner import play, transcripts

FOLDER = Path(__file__).parent / "smtp"


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("path", transcripts(FOLDER), ids=lambda path: path.stem)
async def test_transcript(path: Path, cut: bool) -> None:
    await play(path, SmtpStage(), cut=cut)
