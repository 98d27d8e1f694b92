"""Codecs beside each other: rows are measured once, and the report says what they say."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from codec import Codec, Picture, SettingsError, encode_png
from codec.baselines import Baseline, Pixels, available
from codec.bundle import Bundle
from codec.comparison import METRICS, Comparison, Row, draw, markdown
from codec.images import read_image
from tests.benchmarks import rate_distortion
from tests.conftest import synthetic


def row(codec: str, image: str, bpp: float, value: float, **changes: object) -> Row:
    """A row in which every metric is `value`."""
    values: Row = {"image": image, "codec": codec, "version": "1", "asked_bpp": bpp, "setting": bpp, "bpp": bpp}
    return {**values, **{metric.name: value for metric in METRICS}, "error": None, **changes}


ROWS = [
    *(row("jpeg", image, bpp, value) for image in "ab" for bpp, value in ((0.2, 0.4), (0.4, 0.2))),
    *(row("fdcodec-1", "a", bpp, value) for bpp, value in ((0.1, 0.4), (0.4, 0.1))),
    *(row("fdcodec-1", "b", bpp, value) for bpp, value in ((0.3, 0.2), (0.4, 0.1))),
    row("fdcodec-1", "b", 0.05, 9.0, error="out of memory"),
    row("autoencoder-1", "a", 24.0, 0.05, asked_bpp=0),
    row("autoencoder-1", "b", 24.0, 0.07, asked_bpp=0),
]


def cells(text: str, start: str) -> list[str]:
    """The cells of the one line of a table that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_are_of_the_photos_that_reach_the_rate_and_say_how_many() -> None:
    text = markdown(Comparison(ROWS), [0.2], "fdcodec-1")
    assert cells(text, "0.20 | jpeg | 2")[2:5] == ["2", "0.40", "0.4000"]
    assert cells(text, "0.20 | fdcodec-1")[2:5] == ["1", "0.25", "0.2500"]  # a alone, half way in log bpp
    assert cells(text, "- | autoencoder-1")[2:5] == ["2", "0.06", "0.0600"]


def test_differences_are_paired_and_have_intervals() -> None:
    text = markdown(Comparison(ROWS), [0.2, 0.4], "fdcodec-1")
    assert cells(text, "0.20 | jpeg | 1")[4] == "-0.1500"
    assert cells(text, "0.40 | jpeg | 2 | -")[4] == "-0.1000 (-0.1000 to -0.1000)"


def test_bits_at_equal_quality_count_the_direction_of_the_metric() -> None:
    rows = [row("jpeg", "a", bpp, value) for bpp, value in ((0.2, 0.4), (0.4, 0.2))]
    rows += [row("fdcodec-1", "a", bpp, value) for bpp, value in ((0.1, 0.4), (0.2, 0.2))]
    assert cells(markdown(Comparison(rows), [0.2], "fdcodec-1"), "jpeg |")[3] == "-50.0 % (1)"  # LPIPS falls with bits
    better = [{**each, "psnr_db": -each["psnr_db"]} for each in rows]
    assert cells(markdown(Comparison(better), [0.2], "fdcodec-1"), "jpeg |")[1] == "-50.0 % (1)"


def test_without_our_codec_there_is_a_table_of_the_others() -> None:
    text = markdown(Comparison(each for each in ROWS if each["codec"] == "jpeg"), [0.2, 0.05], None)
    assert cells(text, "0.05 | jpeg")[2:4] == ["0", "-"] and "minus" not in text


def test_curves_are_drawn_as_png_and_svg(tmp_path: Path) -> None:
    draw(Comparison(ROWS), [tmp_path / "c.png", tmp_path / "c.svg"], "fdcodec-1", (0.05, 0.4))
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 1000 and len(set(image.convert("L").tobytes())) > 50
    assert "<svg" in (tmp_path / "c.svg").read_text()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two pictures large enough for every metric."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in (0, 1):
        (folder / f"{seed}.png").write_bytes(encode_png(synthetic(161, 170, seed)))
    return sorted(folder.iterdir())


def counted(fail_on: int | None = None) -> tuple[Baseline, list[float]]:
    """JPEG that remembers what it was asked for, and fails in its nth file."""
    ((jpeg,), _) = available(["jpeg"])
    asked: list[float] = []

    def encode(pixels: Pixels, setting: float) -> bytes:
        asked.append(setting)
        if len(asked) == fail_on:
            raise ValueError("too\ndifficult")
        return jpeg.encode(pixels, setting)

    return Baseline("jpeg", "1", jpeg.settings, encode, jpeg.decode), asked


def rows_of(output: Path) -> list[Row]:
    return rate_distortion.read_rows([output / "rows" / "jpeg.parquet"])


def test_rows_are_of_whole_files_and_a_row_done_is_not_redone(photos: list[Path], tmp_path: Path) -> None:
    baseline, asked = counted()
    rate_distortion.measure(photos[:1], tmp_path, baseline, [0.5, 0.001])
    large, small = rows_of(tmp_path)
    pixels = read_image(photos[0]).pixels
    assert large["bytes"] == len(baseline.encode(pixels, large["setting"])) and large["bpp"] <= 0.5
    assert large["bpp"] == 8 * large["bytes"] / (161 * 170)
    assert small["setting"] == 1 and small["bpp"] > 0.001  # its smallest file
    assert all(each[metric.name] is not None for each in (large, small) for metric in METRICS)
    assert large["lpips_vgg"] != large["lpips_alex"] and large["psnr_db"] > small["psnr_db"]
    asked.clear()
    rate_distortion.measure(photos[:1], tmp_path, baseline, [0.5, 0.001])
    assert asked == [] and rows_of(tmp_path) == [large, small]
    rate_distortion.measure(photos, tmp_path, baseline, [0.001])
    assert [each["image"] for each in rows_of(tmp_path)] == ["0.png", "0.png", "1.png"]


def test_a_codec_or_photo_that_fails_costs_its_rows_and_is_tried_again(photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_text("no picture")
    rate_distortion.measure(photos, tmp_path, counted(fail_on=1)[0], [0.5, 0.8])
    assert [each["error"] for each in rows_of(tmp_path)[:2]] == ["too difficult"] * 2
    assert all("1.png is not a picture" in each["error"] for each in rows_of(tmp_path)[2:])
    rate_distortion.measure(photos, tmp_path, counted()[0], [0.5, 0.8])
    assert [each["error"] is None for each in rows_of(tmp_path)] == [True, True, False, False]


def test_this_codec_and_its_ceiling_are_measured_like_the_others(
    photos: list[Path], bundle: Bundle, tmp_path: Path
) -> None:
    codec = Codec.load(bundle)
    ours, ceiling = rate_distortion.ours(codec), rate_distortion.ceiling(codec)
    assert bundle.id[:8] in ours.name and ours.name != ceiling.name
    pixels = synthetic(20, 30)
    assert ours.encode(pixels, ours.settings[100]) == codec.encode(Picture(pixels), quality=ours.settings[100]).data
    assert list(ours.settings) == sorted(set(ours.settings))
    rate_distortion.measure(photos[:1], tmp_path, ceiling, [0])
    compared = Comparison(rate_distortion.read_rows((tmp_path / "rows").iterdir()))
    assert compared.ceilings == [ceiling.name] and compared.codecs == []


def test_the_report_needs_rows_and_one_codec_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="has no rows of any codec"):
        rate_distortion.report(tmp_path, [0.2], None)
    (tmp_path / "rows").mkdir()
    write(tmp_path, [*ROWS, row("fdcodec-2", "a", 0.2, 0.3)])
    with pytest.raises(SettingsError, match="choose one with --ours: fdcodec-1, fdcodec-2"):
        rate_distortion.report(tmp_path, [0.2], None)
    rate_distortion.main(tmp_path, tmp_path, mine="fdcodec-1", bpp=[0.2], step="report")
    assert capsys.readouterr().out.strip() == (tmp_path / "report.md").read_text().strip()
    assert {path.name for path in tmp_path.iterdir()} == {"rows", "report.md", "curves.png", "curves.svg"}


def write(output: Path, rows: list[Row]) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, rate_distortion.SCHEMA), output / "rows" / "x.parquet")


def test_a_folder_without_photos_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .* is no folder with photos in it"):
        rate_distortion.main(tmp_path / "absent", tmp_path)
