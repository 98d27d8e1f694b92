"""Rows of an evaluation: made once, of whole files, and a failure costs no more than its own row."""

from pathlib import Path

import numpy as np
import pytest

from codec import Codec, Picture, encode_png
from codec.bundle import Bundle
from codec.evaluation.baselines import Baseline, Pixels, available
from codec.evaluation.baselines.ours import ours, upper_bound
from codec.evaluation.report import realism_of
from codec.evaluation.runner import Evaluation, EvaluationJob, EvaluationRow, Meters, evaluate
from codec.evaluation.tables import METRICS, Comparison
from codec.images import read_image
from tests.conftest import synthetic

SIZE = 161  # the smallest that every metric takes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in (0, 1):
        (folder / f"{seed}.png").write_bytes(encode_png(synthetic(SIZE, SIZE, seed)))
    return folder


def counted(fail_at: float | None = None, shape: tuple[int, int] | None = None) -> tuple[Baseline, list[float]]:
    """JPEG that remembers what it was asked for, fails at a setting, and may decode to another size."""
    ((jpeg,), _) = available(["jpeg"])
    asked: list[float] = []

    def encode(pixels: Pixels, setting: float) -> bytes:
        asked.append(setting)
        if setting == fail_at:
            raise ValueError("too\ndifficult")
        return jpeg.encode(pixels, setting)

    decode = (lambda _: synthetic(*shape)) if shape else jpeg.decode
    return Baseline("jpeg", "1", jpeg.settings, encode, decode, (5, 50)), asked


def jobs(pictures: Path, baseline: Baseline, rates: tuple[float, ...] = ()) -> list[EvaluationJob]:
    return [EvaluationJob(pictures, image, baseline, rates) for image in ("0.png", "1.png")]


def test_rows_are_of_whole_files_and_a_row_done_is_not_redone(pictures: Path, tmp_path: Path) -> None:
    ((jpeg,), _) = available(["jpeg"])
    job = EvaluationJob(pictures, "0.png", jpeg, (0.001, 0.5))
    small, large = evaluate([job], tmp_path / "out")
    pixels = read_image(pictures / "0.png").pixels
    assert large["bytes"] == len(jpeg.encode(pixels, large["setting"])) and large["bpp"] <= 0.5
    assert large["bpp"] == 8 * large["bytes"] / SIZE**2
    assert small["setting"] == 1 and small["bpp"] > 0.001  # its smallest file
    assert all(each[metric.name] is not None for each in (large, small) for metric in METRICS)
    assert large["lpips_vgg"] != large["lpips_alex"] and large["psnr_db"] > small["psnr_db"]
    decoded = jpeg.decode(jpeg.encode(pixels, large["setting"]))
    assert np.array_equal(read_image(tmp_path / "out" / large["picture"]).pixels, decoded)
    kept = Evaluation(tmp_path / "out")
    assert not kept.pending(job) and kept.rows() == [small, large]
    assert kept.pending(EvaluationJob(pictures, "0.png", jpeg, (0.5, 0.7))) and kept.pending(
        EvaluationJob(pictures, "1.png", jpeg, (0.5,))
    )


def test_a_job_done_is_not_measured_again(pictures: Path, tmp_path: Path) -> None:
    baseline, asked = counted()
    first = evaluate(jobs(pictures, baseline), tmp_path / "out")
    assert asked == [5, 50, 5, 50]
    assert evaluate(jobs(pictures, baseline), tmp_path / "out") == first
    assert asked == [5, 50, 5, 50]


def test_a_failure_costs_one_row_and_is_tried_again(pictures: Path, tmp_path: Path) -> None:
    (pictures / "1.png").write_text("no picture")

    def errors(rows: list[EvaluationRow]) -> list[str | None]:
        return [row["error"] for row in rows]

    rows = evaluate(jobs(pictures, counted(fail_at=50)[0]), tmp_path / "out")
    assert errors(rows)[:2] == [None, "ValueError: too difficult"]
    assert all("1.png is not a picture" in str(error) for error in errors(rows)[2:])
    assert [row["status"] for row in rows] == ["measured", "failed", "failed", "failed"]
    assert (rows[1]["width"], rows[1]["bytes"], rows[1]["picture"]) == (SIZE, None, None)
    assert errors(evaluate(jobs(pictures, counted()[0]), tmp_path / "out"))[:2] == [None, None]


def test_a_decoder_that_gives_another_size_is_a_failure(pictures: Path, tmp_path: Path) -> None:
    first, _ = evaluate(jobs(pictures, counted(shape=(20, 30))[0])[:1], tmp_path / "out")
    assert first["status"] == "failed" and first["error"] == "decoded to (20, 30, 3) instead of (161, 161, 3)"


def test_this_codec_and_its_ceiling_are_measured_like_the_others(
    pictures: Path, bundle: Bundle, tmp_path: Path
) -> None:
    codec = Codec.load(bundle)
    mine, limit = ours(codec), upper_bound(codec)
    assert mine.name == f"fdcodec-{bundle.id[:8]}" and mine.name != limit.name
    pixels = synthetic(20, 30)
    assert mine.encode(pixels, mine.settings[100]) == codec.encode(Picture(pixels), quality=mine.settings[100]).data
    assert list(mine.settings) == sorted(set(mine.settings)) and set(mine.points) <= set(mine.settings)
    (row,) = evaluate([EvaluationJob(pictures, "0.png", limit)], tmp_path / "out")
    assert (row["bytes"], row["bpp"], row["setting"]) == (None, None, 0)
    compared = Comparison([row])
    assert compared.upper_bounds == [limit.name] and compared.codecs == []


def test_the_kernel_distance_of_better_files_is_smaller(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "wide.png").write_bytes(encode_png(synthetic(256, 530)))
    (folder / "small.png").write_bytes(encode_png(synthetic(SIZE, SIZE)))
    kept = Evaluation(tmp_path / "out")
    baseline, _ = counted()
    for image in ("wide.png", "small.png"):
        kept.measure(EvaluationJob(folder, image, baseline), Meters())
    features = kept.features("jpeg", "wide.png") or {}
    assert {name: part.shape for name, part in features.items()} == dict.fromkeys(
        ("original", "setting-5", "setting-50"), (2, 512)
    )
    assert kept.features("jpeg", "small.png") is None  # it has no whole patch
    (name, low, far), (_, high, near) = realism_of(kept, Comparison(kept.rows()))
    assert name == "jpeg" and low < high and 0 < near < far
