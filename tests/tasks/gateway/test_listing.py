"""The listing page: found by columns, a page at a time, escaped, and usable in a real browser by keyboard."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tasks.gateway import catalog, listing
from tasks.gateway.addresses import link
from tasks.gateway.catalog import COLUMNS, OPERATORS, Catalog, Condition, Search
from tasks.gateway.refusals import Refusal
from tasks.storage.keys import key_of
from tasks.storage.store import Store
from tests.support.browser import chromium, look, outside
from tests.support.gateways import ODD_KEYS, Running


@pytest.fixture(scope="module")
def rows(made_archive: Path) -> Iterator[Catalog]:
    opened = Catalog(Store(str(made_archive)))
    yield opened
    opened.close()


def names(page: str) -> list[str]:
    return [unescape(name) for name in re.findall(r'<p class="name" title="([^"]*)"', page)]


def test_pictures_are_found_by_every_column_of_the_report(rows: Catalog) -> None:
    assert {"key", "bpp", "psnr_db", "status", "created_at", "preview_bytes", "verified"} <= set(COLUMNS)
    everything = rows.search(Search()).total
    assert everything == len(ODD_KEYS) + 3
    for column in COLUMNS:
        assert rows.search(Search(sort=column, descending=True)).total == everything
        assert rows.search(Search(conditions=(Condition(column, "contains", ""),))).total <= everything
        value = next((row[column] for row in rows.search(Search(sort=column)).rows if row[column] is not None), None)
        if value is not None:  # most columns of this archive have one
            for operator in OPERATORS:
                sought = str(value)[:10] if operator == "contains" else str(value)
                assert rows.search(Search(conditions=(Condition(column, operator, sought),))).total >= 1


def test_conditions_hold_together_and_order_the_rows(rows: Catalog) -> None:
    search = Search("PNG", (Condition("codec", "is", "fdc"), Condition("width", "at_most", "60")), "width", True)
    found = rows.search(search)
    widths = [row["width"] for row in found.rows]
    assert widths == sorted(widths, reverse=True) and max(widths) <= 60 and len(widths) == found.total > 1
    assert all("png" in row["key"] for row in found.rows)
    kept = rows.search(Search(conditions=(Condition("reason", "is", "frames"),)))
    assert [row["key"] for row in kept.rows] == ["animated.gif"]


@pytest.mark.parametrize(
    "query",
    [
        b"sort=key%22%20DESC;%20DROP%20TABLE%20current;--",
        b"sort=nothing",
        b"column=bpp&operator=at_least&value=many",
        b"column=bpp%22&operator=is&value=1",
        b"column=bpp&operator=%3D%201%20OR%201&value=1",
        b"column=bpp",
        b"column=created_at&operator=at_least&value=yesterday",
        b"page=0",
        b"page=-1",
        b"page=99999999",
        b"page=x",
        b"unknown=1",
        b"q=%ff",
        b"&".join([b"column=bpp&operator=is&value=1"] * 30),
    ],
)
def test_a_search_that_is_not_valid_is_refused(rows: Catalog, query: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        rows.search(listing.parse(query))
    assert refused.value.status == 400


def test_a_value_is_never_taken_for_sql(rows: Catalog) -> None:
    for value in ("' OR 1=1 --", '" OR 1=1 --', "%", "_", "read_csv('/etc/passwd')"):
        assert rows.search(Search(conditions=(Condition("key", "is", value),))).total == 0
        assert rows.search(Search(value)).total == (value == "%") * sum("%" in key_of(key) for key in ODD_KEYS)


def test_pages_have_all_pictures_once(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalog, listing):
        monkeypatch.setattr(module, "PAGE", 5)
    found: list[str] = []
    to: str | None = "/?column=codec&operator=is&value=fdc"
    while to is not None:
        page = gateway.get(to).text
        found += names(page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        to = None if following is None else unescape(following[1])
    assert sorted(found) == sorted([*map(key_of, ODD_KEYS), "2024/photo.jpg"]) and len(found) > 10


def test_names_chosen_by_strangers_are_text_and_lead_to_their_pictures(gateway: Running) -> None:
    response = gateway.get("/")
    page = response.text
    assert "<script" not in page and "alert(1)&lt;/script&gt;" in page
    assert "script-src" not in response.headers["content-security-policy"], "scripts fall under default-src 'none'"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    for key in ODD_KEYS:
        assert link(key_of(key), "png").replace("&", "&amp;") in page
    reflected = gateway.get("/?q=%22%3E%3Cscript%3Ealert(2)%3C/script%3E").text
    assert "<script" not in reflected and "No file meets these conditions." in reflected


def test_each_condition_of_a_search_can_be_removed(gateway: Running) -> None:
    query = "/?q=p&column=bpp&operator=at_least&value=0&column=width&operator=at_most&value=50&sort=bpp&order=down"
    page = gateway.get(query).text
    removals = [unescape(to) for to in re.findall(r'<a href="([^"]+)" aria-label="Remove', page)]
    assert len(removals) == 2 and "column=width" in removals[0] and "column=bpp" not in removals[0]
    assert all(gateway.get(to).status_code == 200 and "order=down" in to and "q=p" in to for to in removals)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


NAMELESS = """
    return [...document.querySelectorAll('input:not([type=hidden]), select, button, a')]
        .filter(part => !(part.getAttribute('aria-label') || part.textContent.trim() || part.labels?.length))
        .map(part => part.outerHTML)
"""
HREF = """
    const links = [...document.querySelectorAll('a.frame')];
    return links.find(link => link.getAttribute('aria-label') == arguments[0]).href;
"""
LOADED = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"


def test_the_page_in_a_browser(browser: Any, gateway: Running) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    look(browser, 1280, 800)
    browser.get(f"{gateway.address}/")
    assert browser.execute_script("return document.images.length") == 1
    WebDriverWait(browser, 30).until(lambda shown: shown.execute_script(LOADED))  # it loads after the page
    assert outside(browser, gateway.address) == []
    assert browser.execute_script(NAMELESS) == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    # a link to each picture with an odd name arrives at that picture, whatever a browser does to paths
    for key in (".hidden", "line\nend.png", "back\\slash.png", "a?b#c&d=e+f;g.png", "..two dots.png"):
        to = browser.execute_script(HREF, key_of(key))
        assert gateway.get(to.removeprefix(gateway.address)).status_code == 200
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    look(browser, 390, 844, "dark", phone=True)
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != light
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, "no sideways scrolling"


def test_the_page_is_used_by_keyboard(browser: Any, gateway: Running) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    look(browser, 1280, 800)
    browser.get(f"{gateway.address}/")
    focused = "return document.activeElement.id || document.activeElement.textContent.trim()"
    order = []
    for _ in range(9):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        order.append(browser.execute_script(focused))
    assert order[0] == "Skip to the pictures"
    assert order[2:] == ["q", "sort", "order", "column", "operator", "value", "Search"]
    browser.find_element("id", "q").send_keys("photo", Keys.ENTER)
    WebDriverWait(browser, 30).until(lambda shown: shown.find_element("css selector", ".count").text == "1 file")
    assert browser.find_element("id", "q").get_attribute("value") == "photo"
    browser.find_element("css selector", "a.frame").send_keys(Keys.ENTER)
    # the picture is decoded first, which takes a while
    WebDriverWait(browser, 60).until(
        lambda shown: shown.execute_script("return document.images[0]?.naturalHeight") == 400
    )
