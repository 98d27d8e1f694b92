"""Rows of earlier releases are judged again on request; where the source is gone the row says so."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.maintenance.upgrade import upgrade
from tasks.restore.restore import restore
from tests.support.archive_builder import SMALL, folder, pack, png, rows
from tests.support.containers import film
from tests.support.format1_archives import as_format_1
from tests.tasks.restore.test_restore import FAKES, jpeg

pytestmark = pytest.mark.usefixtures("children_are_played_here")

SINCE = ("media_type", "carried", "discarded_parts", "coded_space", "group", "source_modified_at")


@pytest.fixture
def older(tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A source and its archive of an earlier release, which dropped films and did not record what it carried."""
    files = {"a.jpg": jpeg(1) + film(9_000), "b.png": png(2), "gone.jpg": jpeg(3), "kept.txt": b"no picture"}
    source, archive = folder(tmp_path / "s", files), tmp_path / "a"
    pack(source, archive, fake_bundle, replace(SMALL, discard=("motion",), max_images_per_shard=9))
    upgrade(as_format_1(archive, without=[*SINCE, "film_offset", "film_length", "film_sha256"]))
    (source / "gone.jpg").unlink()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "fdcodec" else real(name))
    return source, archive


def last(archive: Path) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in sorted(rows(archive), key=lambda row: row["run"])}


def test_what_is_judged_otherwise_is_taken_again_and_the_rest_is_not(
    older: tuple[Path, Path], fake_bundle: Path, tmp_path: Path
) -> None:
    source, archive = older
    pack(source, archive, fake_bundle, recheck=True)
    found = last(archive)
    assert {key: row["status"] for key, row in found.items()} == {
        "a.jpg": "compressed", "b.png": "unchanged", "gone.jpg": "unchanged", "kept.txt": "unchanged",
    }  # fmt: skip
    assert found["a.jpg"]["film_length"] == len(film(9_000))
    assert restore(str(archive), str(tmp_path / "out"), models=FAKES).errors == []
    assert (tmp_path / "out" / "a.jpg.mp4").read_bytes() == film(9_000)


def test_a_row_whose_source_is_gone_needs_attention_and_says_so_once(
    older: tuple[Path, Path], fake_bundle: Path, tmp_path: Path
) -> None:
    source, archive = older
    pack(source, archive, fake_bundle, recheck=True)
    said = {key: row["needs_attention"] for key, row in last(archive).items()}
    assert [key for key, text in said.items() if text] == ["gone.jpg"]
    assert "the source has been deleted" in str(said["gone.jpg"])
    assert pack(source, archive, fake_bundle, recheck=True).runs == []
    assert pack(source, archive, fake_bundle).runs == []
    assert restore(str(archive), str(tmp_path / "out"), models=FAKES).errors == []
    assert (tmp_path / "out" / "gone.jpg.png").exists()


def test_a_source_that_is_back_needs_no_attention_any_more(older: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = older
    pack(source, archive, fake_bundle, recheck=True)
    folder(source, {"gone.jpg": jpeg(3)})
    pack(source, archive, fake_bundle)
    row = last(archive)["gone.jpg"]
    assert (row["status"], row["needs_attention"]) == ("unchanged", None)
