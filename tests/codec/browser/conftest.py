"""A page in Chromium that has the decoder's modules, the golden files and their bundles."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from codec.browser.page import SCRIPT
from codec.bundle_id import DEFAULT_BUNDLE
from tests.golden.make import GOLDEN, bundles
from tests.support.browser import chromium, serving

Answers = Callable[[Sequence[tuple[str, str | None]]], list[dict[str, Any]]]
Asked = Callable[[str, Any], Any]
ASK = """
const [name, argument, done] = arguments;
import(`/tests/${name}.mjs`).then((module) => module[name](argument)).then(done, (error) => done(String(error.stack)));
"""


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.set_script_timeout(300)
        yield opened


@pytest.fixture(scope="package")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the golden files' bundles."""
    folder = tmp_path_factory.mktemp("bundles")
    bundles(folder)
    return folder


@pytest.fixture(scope="package")
def ask(browser: Any, frozen: Path) -> Iterator[Asked]:
    """Calls the function NAME of NAME.mjs beside the tests, in a page that has the decoder's modules."""
    tests = Path(__file__).parent
    folders = {"page": SCRIPT, "tests": tests, "bundles": frozen, "golden": GOLDEN, "mini": DEFAULT_BUNDLE}
    mounts = [Mount(f"/{name}", StaticFiles(directory=path)) for name, path in folders.items()]
    app = Starlette(routes=[Route("/", lambda request: HTMLResponse("<!doctype html>")), *mounts])
    with serving(app) as address:

        def asked(name: str, argument: Any) -> Any:
            browser.get(address)
            return browser.execute_async_script(ASK, name, argument)

        yield asked


@pytest.fixture(scope="package")
def answers(ask: Asked) -> Answers:
    """Asks the modules about (bundle's folder, file) pairs, paths on the server; None asks for the known answer."""

    def answered(pairs: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
        found = ask("answers", pairs)
        assert isinstance(found, list), found
        return found

    return answered
