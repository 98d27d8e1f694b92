"""On every page that the package writes or serves, the name of a picture is text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codec.evaluation.baselines import Baseline
from codec.evaluation.experiments import folder_of
from codec.evaluation.experiments.sheets import _title
from codec.evaluation.report import write_report
from codec.evaluation.runner import COLUMNS, Evaluation, EvaluationJob
from codec.evaluation.tables import METRICS
from tasks.processes.codec_process import Models
from tasks.quality import page
from tasks.study.gallery import Archives, StudyFolder
from tasks.study.server import study_app, viewer_app
from tasks.study.study import Study
from tests.conftest import synthetic
from tests.support.archive_builder import folder, in_process, pack, png
from tests.support.browser import chromium, serving
from tests.support.fake_codec import FAKE
from tests.support.galleries import save, write_rows
from tests.support.hostile_names import NAMES, inert

METHOD = "<img src=x onerror=window.ran=1>"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def browser(chrome: Any) -> Any:
    chrome.get("about:blank")
    return chrome


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> str:
    home = tmp_path_factory.mktemp("archive")
    pictures = {name: png(number) for number, name in enumerate(NAMES)}
    source = folder(home / "s", pictures | {f"{NAMES[0]}.jpg": b"no picture"})
    with in_process():
        pack(source, home / METHOD, fake_bundle)
    return str(home / METHOD)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation folder of two methods whose pictures have hostile names."""
    home, rows = tmp_path_factory.mktemp("evaluated"), []
    for number, name in enumerate(NAMES):
        save(home / "originals" / name, synthetic(300, 300, number))
        for place, method in enumerate((METHOD, "b")):
            path = f"pictures/{place}/{name}"
            save(home / path, synthetic(300, 300, number + place))
            figures: dict[str, object] = {"bpp": 0.1 * (place + 1), "psnr_db": 30.0, "error": None, "picture": path}
            rows.append({"image": name, "codec": method, "asked_bpp": None, "setting": 1.0, **figures})
    write_rows(home, rows)
    return home


def test_the_page_of_an_evaluation_shows_names_and_messages_as_they_are(browser: Any, tmp_path: Path) -> None:
    codecs, evaluation = (METHOD, "fdcodec-00000000"), Evaluation(tmp_path)
    for name in NAMES:
        for codec in codecs:
            values = {"image": name, "codec": codec, "version": f"1 {METHOD}", "asked_bpp": 0.1, "setting": 0.1}
            measured = {**values, "bpp": 0.1, "status": "measured", **{metric.name: 0.5 for metric in METRICS}}
            failed = {**values, "setting": 0.2, "status": "failed", "error": f"{name}: {METHOD}\nand more"}
            rows = [{**dict.fromkeys(COLUMNS), **row} for row in (measured, failed)]
            baseline = Baseline(codec, "1", (1,), lambda *_: b"", lambda _: synthetic(1, 1))
            evaluation.write(EvaluationJob(tmp_path, name, baseline), rows)
    said = folder_of(tmp_path, "00000000") / "sheets.md"
    said.parent.mkdir(parents=True)
    said.write_text("".join(f"\n### {_title(name)}\n\n![{_title(name)}](sheets/x.png)\n" for name in NAMES))
    write_report(tmp_path, codecs, {METHOD: f"no program {METHOD}"})
    browser.get(f"file://{tmp_path}/index.html")
    inert(browser, METHOD, f"no program {METHOD}", *NAMES)
    assert browser.execute_script("return document.querySelectorAll('a').length") == 0
    assert browser.execute_script("return document.querySelectorAll('h3').length") == len(NAMES)
    assert browser.execute_script("return document.querySelector('img').naturalWidth") > 1000


def test_the_page_about_archives_shows_names_as_they_are(browser: Any, archive: str, tmp_path: Path) -> None:
    report = page.gather([archive], worst=len(NAMES), models=Models("", codec=FAKE))
    (tmp_path / "page.html").write_text(page.html(report))
    browser.get(f"file://{tmp_path}/page.html")
    inert(browser, METHOD)
    assert browser.execute_script("return document.querySelectorAll('.worst img').length") == 2 * len(report.worst)


def shown_one_by_one(browser: Any, address: str, count: int) -> set[str]:
    """The names in the viewer's field, going through all pictures."""
    names = set()
    for number in range(count):
        browser.get(f"{address}?image={number}")
        wait(browser, "return !!document.getElementById('image').value")
        inert(browser)
        names.add(browser.execute_script("return document.getElementById('image').value"))
        browser.execute_script("document.getElementById('image').dispatchEvent(new Event('input'))")
        wait(browser, "return document.querySelectorAll('#images option').length > 0")
        inert(browser)
    return names


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, poll_frequency=0.02).until(lambda asked: asked.execute_script(script))


def test_the_viewer_shows_names_of_pictures_and_methods_as_they_are(browser: Any, evaluated: Path) -> None:
    with serving(viewer_app(StudyFolder(evaluated))) as address:
        assert shown_one_by_one(browser, address, len(NAMES)) == set(NAMES)
        assert METHOD in browser.execute_script("return document.getElementById('method-left').textContent")


def test_the_viewer_of_an_archive_shows_keys_as_they_are(browser: Any, archive: str) -> None:
    with Archives([archive], Models("", codec=FAKE)) as gallery, serving(viewer_app(gallery)) as address:
        assert shown_one_by_one(browser, address, 3) == set(gallery.images[:3])


def test_the_study_shows_names_of_participants_and_errors_as_they_are(
    browser: Any, evaluated: Path, tmp_path: Path
) -> None:
    study = Study.create(tmp_path / "study", StudyFolder(evaluated))
    study.invite([METHOD])
    with serving(study_app(study)) as address:
        for name in (NAMES[1], METHOD):
            browser.get(address)
            wait(browser, "return !document.getElementById('welcome').hidden")
            browser.execute_script("document.getElementById('name').value = arguments[0]", name)
            browser.execute_script("document.querySelector('#join button').click()")
            done = (
                "return !!document.getElementById('refused').textContent || !document.getElementById('compare').hidden"
            )
            wait(browser, done)
            inert(browser)
        assert browser.execute_script("return !document.getElementById('compare').hidden")
