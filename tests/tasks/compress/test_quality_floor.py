"""A picture below the floor gets a larger lambda, or is kept without loss; never less than was asked for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec import Codec, Picture, encode_png, lossless
from codec.bundle import Bundle
from codec.errors import SettingsError
from codec.format.tags import MetadataBlock
from tasks.archive.manifest import RunSettings
from tasks.compress import encoding
from tasks.processes.child import ChildDied
from tasks.processes.encode_worker import Worker
from tasks.processes.requests import Encode, Request, Transcode
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support.archive_builder import SMALL, InProcess, folder, pack, rows
from tests.support.fake_codec import OUT_OF_REACH

pytestmark = pytest.mark.usefixtures("children_are_played_here")

PHOTO = encode_png(synthetic(60, 80))
ASKED = Encode(
    quality=2.0, target_bpp=None, min_psnr_db=None, max_lpips=None,
    metadata="all", verify=True, discard=["preview"], metrics=[],
)  # fmt: skip


def one_row(home: Path, bundle: Path, **settings: Any) -> dict[str, Any]:
    source = folder(home / "s", {"a.png": PHOTO})
    pack(source, home / "a", bundle, replace(SMALL, **settings))
    (row,) = rows(home / "a")
    return row


def test_a_picture_above_the_floor_is_as_it_was_asked_for(tmp_path: Path, fake_bundle: Path) -> None:
    row = one_row(tmp_path, fake_bundle, min_psnr_db=10.0)
    assert (row["status"], row["quality_lambda"]) == ("compressed", SMALL.quality)


def test_below_the_floor_lambda_rises(tmp_path: Path, fake_bundle: Path) -> None:
    assert SMALL.quality is not None
    row = one_row(tmp_path, fake_bundle, min_psnr_db=26.0)
    assert row["status"] == "compressed"
    assert row["quality_lambda"] > SMALL.quality


def test_a_floor_out_of_reach_keeps_the_picture_without_loss(tmp_path: Path, fake_bundle: Path) -> None:
    row = one_row(tmp_path, fake_bundle, min_psnr_db=OUT_OF_REACH + 1)
    assert (row["status"], row["codec"], row["reason"]) == ("fallback", "jxl", "below_quality")
    assert "no file reaches" in row["error"]
    kept = Store(str(tmp_path / "a")).read_range(row["tar"], row["offset"], row["length"])
    assert lossless.content_hash(lossless.restore(kept)) == lossless.content_hash(PHOTO)


def test_a_lossless_coder_that_dies_or_is_wrong_leaves_the_own_bytes(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = InProcess.ask

    def dies(self: InProcess, request: Request, payload: bytes = b"", *, seconds: float) -> Any:
        if isinstance(request, Transcode):
            raise ChildDied(-9)
        return ask(self, request, payload, seconds=seconds)

    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "ask", dies)
        row = one_row(tmp_path / "dies", fake_bundle, min_psnr_db=OUT_OF_REACH + 1)
        assert (row["codec"], row["sha256"], row["reason"]) == ("original", row["source_sha256"], "below_quality")
    monkeypatch.setattr(encoding, "decodes", lambda *_, **__: False)
    row = one_row(tmp_path / "wrong", fake_bundle, min_psnr_db=OUT_OF_REACH + 1)
    assert (row["codec"], row["sha256"]) == ("original", row["source_sha256"])


def test_a_floor_must_be_possible() -> None:
    for settings in ({"min_psnr_db": 0.0}, {"max_lpips": -1.0}, {"max_lpips": 0.2, "metrics": ("psnr",)}):
        with pytest.raises(SettingsError):
            RunSettings(**settings)


@pytest.fixture(scope="module")
def real(bundle: Bundle) -> Iterator[Worker]:
    """The worker's own function, with a tiny codec."""
    yield Worker(Codec.load(bundle), None)


def reached(worker: Worker, data: bytes, original: np.ndarray[Any, Any]) -> float:
    error = np.square(worker.codec.decode(data).astype(float) - original).mean()
    return float(10 * np.log10(255**2 / error))


def test_the_codec_reaches_a_floor_with_more_bits_than_asked_or_says_that_it_cannot(real: Worker) -> None:
    original = synthetic(60, 80)
    answer, data = real.encode(ASKED, PHOTO)
    below = reached(real, data, original)
    better, more = real.encode(replace(ASKED, min_psnr_db=below + 0.5), PHOTO)
    assert reached(real, more, original) >= below + 0.5
    assert better["quality_lambda"] > answer["quality_lambda"]
    assert len(more) > len(data)
    same, again = real.encode(replace(ASKED, min_psnr_db=below - 0.5), PHOTO)
    assert again == data
    assert same["quality_lambda"] == answer["quality_lambda"]
    assert real.encode(replace(ASKED, min_psnr_db=80.0), PHOTO)[0]["fallback"] == "below_quality"


def test_exif_is_kept_as_asked(real: Worker) -> None:
    block = b"MM\0*\0\0\0\x08\0\0\0\0\0\0"
    picture = Picture(synthetic(60, 80), blocks=(MetadataBlock("exIf", block),))
    for policy, kept in (("all", block), ("none", None)):
        _, data = real.encode(replace(ASKED, metadata=policy), encode_png(picture))
        assert real.codec.decode_picture(data).exif == kept
