"""The quality report as a flow: one file without any request, and a summary in Prefect."""

import re
from functools import partial
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from codec.errors import ArchiveError
from flows import command, quality_report
from tasks.processes.codec_process import Models
from tests.support import archive_builder
from tests.support.archive_builder import folder, pack, png
from tests.support.fake_codec import FAKE
from tests.support.known_reports import archive_of

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_page_and_an_artifact_about_two_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality_report, "Models", partial(Models, codec=FAKE))
    source = folder(tmp_path / "s", {"a.png": png(1), "torn.png": b"no picture"})
    pack(source, tmp_path / "one", archive_builder.bundle(tmp_path / "bundle"))
    two = archive_of(tmp_path / "two", 12)
    row = quality_report.quality_report([str(tmp_path / "one"), two], str(tmp_path / "out" / "page.html"), worst=2)
    assert (row["pictures"], row["unreadable"]) == (14, 2)  # the second archive has no tars
    assert quality_report.show(row) == command.FAILED_ROWS
    assert "quality-report" in capsys.readouterr().out
    page = (tmp_path / "out" / "page.html").read_text()
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)\w+""", page) == []
    artifact = Artifact.get("quality-report")
    assert "**14 pictures** in 2 archive(s)" in str(getattr(artifact, "data", None))


def test_a_place_that_is_no_archive_fails_the_flow(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive here"):
        quality_report.quality_report([str(tmp_path)], str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()
