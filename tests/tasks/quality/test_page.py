"""The page about archives: complete, escaped, small, and without any request."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codec.images import Picture, read_image
from tasks import dataset
from tasks.processes.codec_process import Models
from tasks.quality import charts, page, questions
from tasks.quality.text import shown, size
from tasks.quality.thumbnails import LARGEST, SIDE, Thumbnail, pairs, thumbnail
from tasks.restore.before_after import Pictures
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support.archive_builder import folder, in_process, pack, png
from tests.support.browser import chromium, look, outside
from tests.support.fake_codec import FAKE
from tests.support.known_reports import archive_of


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> page.Report:
    home = tmp_path_factory.mktemp("report")
    return page.gather([archive_of(home / "<b>one</b>", 40, runs=3), archive_of(home / "two", 5)], worst=3)


def test_the_page_answers_every_question_and_shows_its_figures(report: page.Report) -> None:
    html = page.html(report)
    for question in questions.QUESTIONS.values():
        assert question in html
    assert ">125<" in html
    assert [chart.title for chart in report.distributions] == ["Bits per pixel", "PSNR, dB", "LPIPS"]
    assert [chart.title for chart in report.against_rate] == ["PSNR, dB at bits per pixel", "LPIPS at bits per pixel"]
    assert [chart.title for chart in report.trends] == ["Bits per pixel", "PSNR, dB", "LPIPS", "Failed, %"]
    assert html.count("<svg") == 9
    assert "the query is <code>below_floor.sql</code>" in html


def test_the_worst_come_first_and_say_what_is_missing(report: page.Report) -> None:
    assert [pair.row["key"] for pair in report.worst] == ["119.png", "118.png", "117.png"]
    assert report.worst_by == "LPIPS"
    html = page.html(report)
    assert html.count("Original unavailable") == 3
    assert html.count("Reconstruction unavailable") == 3


def test_names_from_an_archive_are_text_on_the_page(report: page.Report) -> None:
    html = page.html(report)
    assert "<b>one</b>" not in html
    assert "&lt;b&gt;one&lt;/b&gt;" in html


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> str:
    """An archive without metrics of three pictures, of which one changed since and one is gone."""
    home = tmp_path_factory.mktemp("packed")
    source = folder(home / "s", {f"{name}.png": png(number) for number, name in enumerate("abc")})
    with in_process():
        pack(source, home / "a", fake_bundle)
    folder(source, {"b.png": png(9)})
    (source / "c.png").unlink()
    return str(home / "a")


def test_an_original_is_shown_only_with_the_content_that_was_compressed(packed: str) -> None:
    with questions.database([packed]) as connection:
        rows = connection.sql("FROM rows ORDER BY key").to_arrow_table().to_pylist()
    same, changed, gone = pairs(rows, Models("", codec=FAKE))
    assert all(pair.stored.data for pair in (same, changed, gone))
    assert same.original.data
    assert "changed since it was compressed" in changed.original.missing
    assert "not found" in gone.original.missing


def test_an_original_is_found_in_the_tar_of_a_dataset(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {f"{name}.png": png(number) for number, name in enumerate("ab")})
    dataset.pack(str(source), str(tmp_path / "d"))
    with in_process():
        pack(tmp_path / "d", tmp_path / "a", fake_bundle)
    with questions.database([str(tmp_path / "a")]) as connection:
        rows = connection.sql("FROM rows").to_arrow_table().to_pylist()
    with Pictures(Store(str(tmp_path / "a")), Models("", codec=FAKE)) as pictures:
        for row in rows:
            original = read_image((source / row["key"]).read_bytes())
            assert np.array_equal(pictures.original(row).pixels, original.pixels)


@pytest.mark.parametrize(("width", "height"), [(1200, 800), (1, 1), (3000, 2)])
def test_thumbnails_stay_small_even_of_noise(width: int, height: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    data = thumbnail(Picture(noise))
    assert len(data) <= LARGEST
    with Image.open(io.BytesIO(data)) as image:
        assert max(image.size) <= SIDE


@pytest.mark.browser
def test_the_page_asks_nothing_of_the_network_and_fits_a_phone(report: page.Report, tmp_path: Path) -> None:
    small = thumbnail(Picture(synthetic(60, 90)))
    pair = report.worst[0]
    shown_pair = type(pair)(pair.row, Thumbnail(small), Thumbnail(small))
    html = page.html(page.Report(**{**vars(report), "worst": [shown_pair]}))
    assert re.findall(r"https?://(?!www\.w3\.org)", html) == []
    (tmp_path / "page.html").write_text(html)
    with chromium(tmp_path / "profile") as browser:
        for width, phone in ((1280, False), (390, True)):
            look(browser, width, 844, "dark", phone=phone)
            browser.get((tmp_path / "page.html").as_uri())
            assert outside(browser, "data:") == []
            assert browser.execute_script("return document.documentElement.scrollWidth") == width
            assert browser.execute_script("return [...document.images].every(image => image.naturalWidth === 90)")
        dark: Any = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        look(browser, 390, 844, "light", phone=True)
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != dark


def test_an_archive_without_metrics_has_a_page_without_charts_of_them(packed: str) -> None:
    report = page.gather([packed], Models("", codec=FAKE))
    assert [chart.title for chart in report.distributions] == ["Bits per pixel"]
    assert (report.worst, report.trends, report.against_rate) == ([], [], [])
    assert "the worst" not in page.html(report)
    assert "**3 pictures**" in page.markdown(report, "page.html")


def test_axes_have_round_ticks() -> None:
    assert charts.across(0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert charts.across(0.08, 0.17, log=True).ticks() == pytest.approx([0.08, 0.1, 0.12, 0.14, 0.16])
    assert charts.across(0.04, 2.5, log=True).ticks() == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert charts.across(1, 3, whole=True).ticks() == [1, 2, 3]
    assert charts.across(1, 1).low < 1 < charts.across(1, 1).high


def test_values_are_written_for_people() -> None:
    assert [size(count) for count in (0, 999, 1000, 1_234_567, 10**18)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1.23 MB",
        "1e+03 PB",
    ]
    assert shown("psnr_db", 31.234) == "31.23"
    assert shown("seconds", None) == "–"
    assert shown("first_keys", ["a", "b"]) == "a, b"
    assert shown("folder", None) == "all"
    assert shown("source_sha256", "0123456789abcdef" * 4) == "0123456789abcdef"
    assert shown("metric", "psnr_db") == "PSNR, dB"
