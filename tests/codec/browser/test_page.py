"""The page in Chromium: a file's pixels, with and without a server, and one line for what it cannot decode."""

import base64
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image

from codec import Codec, encode_png, read_image
from codec.browser.embedding import embedded_page
from codec.browser.page import GIVEN, ORIGINAL, page_text
from codec.browser.server import PageServer
from codec.bundle import Bundle, find_bundle
from codec.format.bitstream import parse
from tests.golden.make import GOLDEN
from tests.support.browser import FLAGS, chromium, outside

pytestmark = pytest.mark.browser
CAT = Path(skimage.__path__[0], "data", "chelsea.png")
FINISHED = "return ['shown', 'failed'].includes(document.body.dataset.state)"
TESTED = "return document.body.dataset.exact === 'yes' || document.body.dataset.state === 'failed'"
PNG = """
const done = arguments[0];
fetch(document.getElementById("picture").src).then((answer) => answer.blob()).then((png) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.readAsDataURL(png);
});
"""


@contextmanager
def page(
    given: dict[str, bytes],
    bundle: Bundle,
    file_name: str | None,
    original: str | None = None,
    *,
    folder: Path | None = None,
    webgpu: Path | None = None,
) -> Iterator[str]:
    """The address of a server as `fdc view` starts it, with a folder of bundles."""
    text = page_text(bundle.id, file_name, original, webgpu=webgpu is not None)
    folders = () if folder is None else (str(folder),)
    with PageServer(given | {"page.html": text.encode()}, folders, webgpu=webgpu) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.address
        server.shutdown()


def until(browser: Any, condition: Callable[[Any], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 120, 0.05).until(condition)


def wait(browser: Any) -> str:
    """The page's state once it has shown a picture or said why not."""
    until(browser, lambda opened: opened.execute_script(FINISHED))
    return str(browser.execute_script("return document.body.dataset.state"))


def error(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('error').textContent"))


def shown(browser: Any) -> tuple[bytes, str]:
    """The PNG that the page shows, and the digest of its symbols."""
    assert wait(browser) == "shown", error(browser)
    data = browser.execute_async_script(PNG).partition(",")[2]
    return base64.b64decode(data), browser.execute_script("return window.decoded.digest")


def levels(png: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(png))).astype(np.int64)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load()


@pytest.fixture(scope="module")
def photo(codec: Codec) -> tuple[bytes, bytes, str]:
    """A file of the shipped bundle, the CPU's PNG of it, and the digest of its symbols."""
    encoded = codec.encode(read_image(CAT))
    digest = hashlib.sha256(encoded.symbols.astype("<i4").tobytes()).hexdigest()
    return encoded.data, encode_png(codec.decode_picture(encoded.data)), digest


def same_within_a_level(got: bytes, expected: bytes) -> None:
    difference = abs(levels(got) - levels(expected))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_a_photo_has_the_pixels_of_the_cpu_within_a_level(
    browser: Any, photo: tuple[bytes, bytes, str], codec: Codec
) -> None:
    data, expected, digest = photo
    with page({GIVEN: data, ORIGINAL: CAT.read_bytes()}, codec.bundle, "a<b.fdc", "chelsea.png") as address:
        browser.get(address)
        png, got = shown(browser)
        assert browser.execute_script("return window.crossOriginIsolated")
        assert browser.execute_script("return document.getElementById('original').naturalWidth") == 451
        assert browser.execute_script("return document.getElementById('name').textContent") == "a<b.fdc"
        assert [name for name in outside(browser, address) if not name.startswith("blob:")] == []
    assert got == digest
    same_within_a_level(png, expected)


def test_a_page_with_its_decoder_needs_no_server(
    browser: Any, photo: tuple[bytes, bytes, str], codec: Codec, tmp_path: Path
) -> None:
    data, expected, digest = photo
    bundle = codec.bundle
    (tmp_path / "page.html").write_bytes(embedded_page(bundle.path, bundle.id, {GIVEN: data}, "cat.fdc"))
    browser.get((tmp_path / "page.html").as_uri())
    png, got = shown(browser)
    assert got == digest
    same_within_a_level(png, expected)


KINDS = ("alpha", "binary-alpha", "gray", "icc-exif", "one-pixel", "odd")
FILES = [
    *(f"parallel-{kind}.fdc" for kind in KINDS),
    *(f"version2/orientation-{value}.fdc" for value in range(1, 9)),
    "version2/plain-dithered.fdc",
    "version2/plain-narrow.fdc",
    "version2/four-alphas-parallel.fdc",
]


def test_transparency_profile_gray_and_orientation_are_those_of_the_command(browser: Any, frozen: Path) -> None:
    bundle = Bundle.open(frozen / "parallel")
    codecs: dict[str, Codec] = {}
    with page({}, bundle, None, folder=frozen) as address:
        browser.get(address)
        for name in FILES:
            choose(browser, GOLDEN / name)
            png, _ = shown(browser)
            data = (GOLDEN / name).read_bytes()
            key = parse(data).bundle_id
            codecs[key] = codecs.get(key) or Codec.load(find_bundle(key, [frozen]))
            expected = encode_png(codecs[key].decode_picture(data))
            got, wanted = (Image.open(io.BytesIO(one)) for one in (png, expected))
            assert (got.mode, got.size) == (wanted.mode, wanted.size), name
            assert got.info.get("icc_profile") == wanted.info.get("icc_profile"), name
            difference = abs(levels(png) - levels(expected))
            assert difference.max() <= 1 and np.mean(difference > 0) < 1e-2, name


SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


@pytest.mark.skipif(
    "FDC_ONNXRUNTIME_WEB" not in os.environ, reason="FDC_ONNXRUNTIME_WEB names npm's onnxruntime-web/dist"
)
def test_a_gpu_gives_the_same_pixels_within_a_level(frozen: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(frozen / "parallel")
    data = (GOLDEN / "parallel-plain.fdc").read_bytes()
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"]
    webgpu = Path(os.environ["FDC_ONNXRUNTIME_WEB"])
    with page({GIVEN: data}, bundle, "a.fdc", folder=bundle.path, webgpu=webgpu) as address:
        with chromium(tmp_path / "profile", [*flags, *SOFTWARE_GPU]) as browser:
            browser.set_script_timeout(60)
            browser.get(address)
            png, _ = shown(browser)
            assert browser.execute_script("return window.decoded.device") == "WebGPU"
        with chromium(tmp_path / "other") as browser:  # a browser without one
            browser.set_script_timeout(60)
            browser.get(address)
            again, _ = shown(browser)
            assert "threads" in browser.execute_script("return window.decoded.device")
    expected = encode_png(Codec.load(bundle).decode_picture(data))
    same_within_a_level(png, expected)
    same_within_a_level(again, expected)


def choose(browser: Any, path: Path) -> None:
    """Gives the page a file as its user would."""
    browser.execute_script("document.body.dataset.state = 'idle'")
    browser.find_element("id", "choose").send_keys(str(path))


def test_a_bad_file_is_one_line_and_the_next_file_is_shown(browser: Any, frozen: Path, tmp_path: Path) -> None:
    refused = GOLDEN / "version2" / "refused"
    (tmp_path / "photo.fdc").write_bytes(CAT.read_bytes())
    (tmp_path / "empty.fdc").write_bytes(b"")
    tries = {
        tmp_path / "photo.fdc": "this is no .fdc file",
        tmp_path / "empty.fdc": "this is no .fdc file",
        refused / "checksum.fdc": "the checksum is wrong",
        refused / "stream-of-ones.fdc": "the stream is damaged",
        GOLDEN / "serial-plain.fdc": "no bundle with id",
    }
    bundle = Bundle.open(frozen / "parallel")
    with page({}, bundle, None, folder=bundle.path) as address:
        browser.get(address)
        for path, message in tries.items():
            choose(browser, path)
            assert wait(browser) == "failed"
            assert message in error(browser) and "\n" not in error(browser)
        choose(browser, GOLDEN / "parallel-plain.fdc")
        assert wait(browser) == "shown"
        assert error(browser) == ""


def test_a_picture_that_takes_long_can_be_stopped(browser: Any, frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    content = PageServer.content

    def late(server: PageServer, name: str) -> bytes | None:
        if name == "kernel.wat":
            released.wait(60)
        return content(server, name)

    monkeypatch.setattr(PageServer, "content", late)
    bundle = Bundle.open(frozen / "parallel")
    given = {GIVEN: (GOLDEN / "parallel-two-tiles-wide.fdc").read_bytes()}
    with page(given, bundle, "long.fdc", folder=bundle.path) as address:
        browser.get(address)
        until(browser, lambda opened: opened.find_element("id", "stop").is_displayed())
        browser.find_element("id", "stop").click()
        assert browser.execute_script("return document.body.dataset.state") == "idle"
        released.set()
        choose(browser, GOLDEN / "parallel-plain.fdc")
        assert wait(browser) == "shown"
        assert browser.execute_script("return [window.decoded.width, window.decoded.height]") == [96, 64]


def test_a_browser_that_computes_otherwise_is_told_from_one_that_is_exact(browser: Any, frozen: Path) -> None:
    bundle = Bundle.open(frozen / "parallel")
    stated = (bundle.path / "bundle.json").read_text()
    other = stated.replace(bundle.config.known_answer, "0" * 64)
    assert other != stated
    given = {GIVEN: (GOLDEN / "parallel-plain.fdc").read_bytes()}
    for text, state in ((stated, "shown"), (other, "failed")):
        served = given | {f"{bundle.id[:16]}/bundle.json": text.encode()}
        with page(served, bundle, "a.fdc", folder=bundle.path) as address:
            browser.get(address)
            until(browser, lambda opened: opened.execute_script(TESTED))
            assert wait(browser) == state
            assert ("does not compute the entropy model exactly" in error(browser)) == (state == "failed")
