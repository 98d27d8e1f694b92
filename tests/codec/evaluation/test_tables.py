"""Codecs beside each other: the tables and figures say what the rows say."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from codec import SettingsError
from codec.evaluation import published
from codec.evaluation.baselines import Baseline
from codec.evaluation.plots import color
from codec.evaluation.report import write_report
from codec.evaluation.runner import COLUMNS, Evaluation, EvaluationJob, EvaluationRow, read_rows
from codec.evaluation.tables import METRICS, Comparison, markdown
from tests.conftest import synthetic


def row(codec: str, image: str, at: float, value: float, **changes: object) -> EvaluationRow:
    """A row in which every metric is `value`."""
    values: EvaluationRow = {"image": image, "codec": codec, "version": "1", "asked_bpp": at, "setting": at, "bpp": at}
    known = {**values, **{metric.name: value for metric in METRICS}, "status": "measured", "encode_seconds": 2.0}
    return {**dict.fromkeys(COLUMNS), **known, **changes}


ROWS = [
    *(row("jpeg", image, bpp, value) for image in "ab" for bpp, value in ((0.2, 0.4), (0.4, 0.2))),
    *(row("fdcodec-1", "a", bpp, value) for bpp, value in ((0.1, 0.4), (0.4, 0.1))),
    *(row("fdcodec-1", "b", bpp, value) for bpp, value in ((0.3, 0.2), (0.4, 0.1))),
    row("fdcodec-1", "b", 0.05, 9.0, status="failed", error="out of memory"),
    row("autoencoder-1", "a", 0, 0.05, asked_bpp=None, bpp=None),
    row("autoencoder-1", "b", 0, 0.07, asked_bpp=None, bpp=None),
]


def cells(text: str, start: str) -> list[str]:
    """The cells of the one line of a table that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_are_of_the_photos_that_reach_the_rate_and_say_how_many() -> None:
    text = markdown(Comparison(ROWS), [0.2], "fdcodec-1")
    assert cells(text, "0.20 | jpeg | 2")[2:5] == ["2", "0.40", "0.4000"]
    assert cells(text, "0.20 | fdcodec-1")[2:5] == ["1", "0.25", "0.2500"]  # a alone, half way in log bpp
    assert cells(text, "autoencoder-1 | setting 0")[2:5] == ["2", "-", "0.06"]
    assert cells(text, "jpeg | 0.2 bpp")[2:] == ["2", "0.2000", "0.40", "0.4000", "0.40", *["0.4000"] * 3, "2.00", "-"]
    assert "fdcodec-1 | 0.05 bpp" not in text and "- b, fdcodec-1: out of memory" in text


def test_differences_are_paired_and_have_intervals() -> None:
    text = markdown(Comparison(ROWS), [0.2, 0.4], "fdcodec-1")
    assert cells(text, "0.20 | jpeg | 1")[4] == "-0.1500"
    assert cells(text, "0.40 | jpeg | 2 | -")[4] == "-0.1000 (-0.1000 to -0.1000)"


def test_bits_at_equal_quality_count_the_direction_of_the_metric() -> None:
    rows = [row("jpeg", "a", bpp, value) for bpp, value in ((0.2, 0.4), (0.4, 0.2))]
    rows += [row("fdcodec-1", "a", bpp, value) for bpp, value in ((0.1, 0.4), (0.2, 0.2))]
    assert (
        cells(markdown(Comparison(rows), [0.2], "fdcodec-1"), "jpeg | - |")[4] == "-50.0 % (1)"
    )  # LPIPS falls with bits
    better = [{**each, "psnr_db": -each["psnr_db"]} for each in rows]
    assert cells(markdown(Comparison(better), [0.2], "fdcodec-1"), "jpeg | -50")[1] == "-50.0 % (1)"


def test_without_our_codec_there_is_a_table_of_the_others() -> None:
    text = markdown(Comparison(each for each in ROWS if each["codec"] == "jpeg"), [0.2, 0.05], None)
    assert "jpeg | 0.2 bpp" in text and "equal rates" not in text and "minus" not in text


def kept(folder: Path, rows: list[EvaluationRow]) -> Evaluation:
    """A folder that holds these rows."""
    evaluation = Evaluation(folder)
    for codec, image in sorted({(each["codec"], each["image"]) for each in rows}):
        baseline = Baseline(codec, "1", (1,), lambda *_: b"", lambda _: synthetic(1, 1))
        chosen = [each for each in rows if (each["codec"], each["image"]) == (codec, image)]
        evaluation.write(EvaluationJob(folder, image, baseline), chosen)
    return evaluation


def test_the_report_is_a_page_a_table_and_figures(tmp_path: Path) -> None:
    evaluation = kept(tmp_path, [{**each, "image": f"kodim0{5 if each['image'] == 'a' else 7}.png"} for each in ROWS])
    names = ["jpeg", "fdcodec-1", "autoencoder-1"]
    text = write_report(tmp_path, names, {"bpg": "the program bpgenc is not on PATH"})
    assert "- bpg: the program bpgenc is not on PATH" in text
    assert read_rows([tmp_path / "report.parquet"]) == evaluation.rows()
    for figure in ("curves", "published"):
        with Image.open(tmp_path / f"{figure}.png") as image:
            assert image.width > 1000 and len(set(image.convert("L").tobytes())) > 50
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        assert "<svg" in (tmp_path / f"{figure}.svg").read_text()
        assert "![" in text and f"({figure}.png)" in text
    page = (tmp_path / "index.html").read_text()
    assert '<img src="curves.png"' in page and "<td>jpeg</td>" in page and "http:" not in page and "https:" not in page


def test_published_figures_stand_beside_measured_ones_and_not_among_them(tmp_path: Path) -> None:
    evaluation = kept(tmp_path, [{**each, "image": f"kodim0{5 if each['image'] == 'a' else 7}.png"} for each in ROWS])
    text = write_report(tmp_path, ["jpeg", "fdcodec-1"], {})
    assert cells(text, "kodim07") == ["kodim07", "0.101", "0.111", "0.229", "0.147", "0.3000 to 0.4000"]
    assert cells(text, "kodim01")[-1] == "-"
    assert not {"Ours", "HFD", "CDC", "ILLM"} & {each["codec"] for each in evaluation.rows()}
    means = {name: sum(values) / len(values) for name, values in published.BITS_PER_PIXEL.items()}
    assert means == pytest.approx({"Ours": 0.1030, "HFD": 0.1075, "CDC": 0.2479, "ILLM": 0.1530}, abs=5e-5)
    assert {len(values) for values in published.BITS_PER_PIXEL.values()} == {len(published.PHOTOS)}


def test_a_report_of_other_pictures_does_not_mention_what_was_published(tmp_path: Path) -> None:
    kept(tmp_path, ROWS)
    assert "ublished" not in write_report(tmp_path, ["fdcodec-1"], {})
    assert not (tmp_path / "published.png").exists()


def test_a_report_is_of_the_codecs_that_are_named(tmp_path: Path) -> None:
    kept(tmp_path, ROWS)
    assert "fdcodec-1" not in write_report(tmp_path, ["jpeg"], {})
    with pytest.raises(SettingsError, match="has no rows of webp"):
        write_report(tmp_path, ["webp"], {})


def test_a_codec_has_one_color_and_no_two_share_one() -> None:
    names = ["avif", "bpg", "fdcodec-12345678", "hevc", "hfd", "cdc", "jpeg", "jpeg-xl", "webp"]
    assert len({color(name, names) for name in names}) == len(names)
    assert color("fdcodec-1") == color("fdcodec-2") and color("hevc", names) == color("hevc")


def test_figures_without_matplotlib_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, ROWS)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError, match=r"pip install 'fdcodec\[evaluate\]', then run again; rows are kept"):
        write_report(tmp_path, ["jpeg"], {})
