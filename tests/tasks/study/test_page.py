"""The pages in a real browser: pictures stay in step, choices are stored, each comparison starts afresh."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.study.gallery import StudyFolder
from tasks.study.server import study_app, viewer_app
from tasks.study.study import Study
from tests.support.browser import chromium, look, outside, serving
from tests.support.galleries import evaluation

WHOLE = "translate(0%, 0%) scale(1)"
READY = "return !document.getElementById('choose-left').disabled"
SHOWN = """
    return document.querySelectorAll('.waiting').length === 0
        && [...document.querySelectorAll('.pane img')].every(image => image.naturalWidth > 0)
"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluation(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def study(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    held = Study.create(tmp_path_factory.mktemp("held") / "study", StudyFolder(evaluated))
    held.invite(["ada", "ben", "cleo", "dan"])
    return held


@pytest.fixture(scope="module")
def study_address(study: Study) -> Iterator[str]:
    with serving(study_app(study)) as address:
        yield address


@pytest.fixture(scope="module")
def viewer_address(evaluated: Path) -> Iterator[str]:
    with serving(viewer_app(StudyFolder(evaluated))) as address:
        yield address


@pytest.fixture
def browser(chrome: Any) -> Any:
    look(chrome, 1280, 800)
    chrome.get("about:blank")
    return chrome


def until(browser: Any, script: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda asked: asked.execute_script(script), script)


def element(browser: Any, name: str) -> Any:
    return browser.find_element("id", name)


def views(browser: Any) -> list[str]:
    """How each picture is moved and scaled, left, original, right."""
    return list(
        browser.execute_script("return [...document.querySelectorAll('.pane img')].map(image => image.style.transform)")
    )


def in_step(browser: Any) -> str:
    left, original, right = views(browser)
    assert left == original == right
    return left


def press(browser: Any, keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(keys).perform()


def wheel(browser: Any, pane: str, turned: int) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    origin = ScrollOrigin.from_element(element(browser, pane), 40, -30)
    ActionChains(browser).scroll_from_origin(origin, 0, turned).perform()


def drag(browser: Any, pane: str, x: int, y: int) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser, duration=50).drag_and_drop_by_offset(element(browser, pane), x, y).perform()


def join(browser: Any, address: str, name: str) -> None:
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
    browser.get(f"{address}?participant={name}")
    until(browser, READY)


def stored(study: Study, participant: str) -> list[tuple[str, str]]:
    """The ids and choices of a participant's answers."""
    sql = "SELECT id, choice FROM answers JOIN comparisons ON comparison = id WHERE participant = ? ORDER BY position"
    with study.database() as database:
        return list(database.execute(sql, [participant]))


def test_zoom_and_pan_stay_in_step(browser: Any, study_address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    join(browser, study_address, "ada")
    assert in_step(browser) == WHOLE
    seen = [WHOLE]
    steps: list[Callable[[], None]] = [
        lambda: wheel(browser, "left", -400),
        lambda: drag(browser, "right", -60, 35),
        lambda: press(browser, "+"),
        lambda: press(browser, Keys.ARROW_DOWN),
        lambda: drag(browser, "original", 30, 10),
        lambda: wheel(browser, "right", 200),
    ]
    for step in steps:
        step()
        assert in_step(browser) not in seen
        seen.append(in_step(browser))
    press(browser, "0")
    assert in_step(browser) == WHOLE
    drag(browser, "left", 50, 50)
    assert in_step(browser) == WHOLE  # a picture never leaves its pane


def test_two_fingers_zoom_all_three(browser: Any, study_address: str) -> None:
    look(browser, 390, 844, phone=True)
    join(browser, study_address, "ada")
    box = element(browser, "right").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, apart in (("touchStart", 15), ("touchMove", 30), ("touchMove", 60), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    until(browser, "return document.querySelector('#left img').style.transform.includes('scale(4)')")
    in_step(browser)


def test_choices_are_stored_and_each_comparison_starts_at_the_whole_picture(
    browser: Any, study: Study, study_address: str
) -> None:
    join(browser, study_address, "ben")
    wheel(browser, "original", -400)
    assert in_step(browser) != WHOLE
    first = study.state("ben").comparison
    element(browser, "choose-right").click()
    until(browser, "return document.getElementById('progress').textContent === '2 of 9'")
    assert stored(study, "ben") == [(first, "right")]
    until(browser, READY)
    assert in_step(browser) == WHOLE
    second = study.state("ben").comparison
    assert second in element(browser, "left").find_element("tag name", "img").get_attribute("src")
    press(browser, "1")
    until(browser, "return document.getElementById('progress').textContent === '3 of 9'")
    assert stored(study, "ben") == [(first, "right"), (second, "left")]


def test_an_interrupted_session_goes_on_and_ends_with_thanks(browser: Any, study: Study, study_address: str) -> None:
    join(browser, study_address, "cleo")
    press(browser, "1")
    until(browser, "return document.getElementById('progress').textContent === '2 of 9'")
    browser.get("about:blank")
    browser.get(study_address)
    until(browser, "return !document.getElementById('compare').hidden")
    assert element(browser, "progress").text == "2 of 9"
    for number in range(2, 10):
        until(browser, READY)
        element(browser, "choose-left").click()
        until(browser, f"return document.getElementById('progress').textContent !== '{number} of 9'")
    until(browser, "return !document.getElementById('end').hidden")
    assert element(browser, "stored").text == "All 9 comparisons are stored."
    assert len(stored(study, "cleo")) == 9


def test_an_unknown_name_is_refused_in_words(browser: Any, study_address: str) -> None:
    # The study's own page would join as whoever took part last, and store that name again after it was cleared.
    browser.get(f"{study_address}no-page")
    browser.execute_script("sessionStorage.clear()")
    browser.get(study_address)
    until(browser, "return !document.getElementById('welcome').hidden")
    element(browser, "name").send_keys("mallory\n")
    until(browser, "return document.getElementById('refused').textContent !== ''")
    assert "No participant has this name" in element(browser, "refused").text
    assert element(browser, "compare").is_displayed() is False


def test_the_order_differs_from_one_participant_to_the_next(study: Study) -> None:
    with study.database() as database:
        plans = {
            name: database.execute(
                'SELECT image, "left", "right" FROM comparisons WHERE participant = ? ORDER BY position', [name]
            ).fetchall()
            for name in ("ada", "ben")
            if study.state(name).total
        }
    assert plans["ada"] != plans["ben"]


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 800, False), (390, 844, True), (844, 390, True)])
def test_everything_is_on_the_screen_of_a_desk_and_of_a_phone(
    browser: Any, study_address: str, viewer_address: str, width: int, height: int, phone: bool
) -> None:
    look(browser, width, height, phone=phone)
    join(browser, study_address, "dan")
    for name in ("left", "original", "right", "choose-left", "choose-right"):
        box = element(browser, name).rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height, name
    sizes = {
        (round(element(browser, name).rect["width"]), round(element(browser, name).rect["height"]))
        for name in ("left", "original", "right")
    }
    assert len(sizes) == 1
    browser.get(viewer_address)
    until(browser, SHOWN)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width


def test_the_viewer_goes_through_pictures_and_methods(browser: Any, viewer_address: str) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    browser.get(viewer_address)
    until(browser, SHOWN)
    assert element(browser, "figures-left").text.split() == ["bpp", "0.333", "PSNR", "30.00"]
    Select(element(browser, "method-left")).select_by_visible_text("middling")
    until(browser, "return document.getElementById('figures-left').textContent.includes('35.00')")
    until(browser, SHOWN)
    wheel(browser, "left", -400)
    assert in_step(browser) != WHOLE
    element(browser, "after").click()
    until(browser, "return document.getElementById('place').textContent === '2 of 3'")
    until(browser, SHOWN)
    assert in_step(browser) == WHOLE
    assert "pictures/1/2.png" in element(browser, "left").find_element("tag name", "img").get_attribute("src")
    element(browser, "image").send_keys(Keys.CONTROL + "a" + Keys.NULL + "photo2" + Keys.ENTER)
    until(browser, "return document.getElementById('place').textContent === '3 of 3'")
    browser.refresh()
    until(browser, "return document.getElementById('place').textContent === '3 of 3'")


def test_a_missing_picture_is_said_and_the_others_are_shown(browser: Any, tmp_path: Path) -> None:
    evaluation(tmp_path / "e", images=1)
    gallery = StudyFolder(tmp_path / "e")
    (tmp_path / "e" / "pictures" / "coarse" / "setting-1" / "set" / "photo0.png").unlink()
    with serving(viewer_app(gallery)) as address:
        browser.get(address)
        until(browser, "return document.getElementById('message').textContent.includes('cannot read')")
        until(browser, "return document.querySelectorAll('.waiting').length === 1")


def test_the_pages_ask_nobody_else(browser: Any, study_address: str, viewer_address: str) -> None:
    join(browser, study_address, "dan")
    assert outside(browser, study_address) == []
    browser.get(viewer_address)
    until(browser, SHOWN)
    assert outside(browser, viewer_address) == []
