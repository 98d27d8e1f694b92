"""python -m tests.benchmarks.browser FOLDER [BUNDLE]: twelve photos decoded by the page in headless Chromium.

For each: whether the digest of its symbols is the one that `fdc info --symbols` prints, how far its pixels are from
those of the CPU, seconds of the CPU's decoder, and of the page by part. Then seconds of a page just opened, from `fdc
view` and from a page with its decoder in it. Ends with status 1 if a digest differs, or a pixel by more than a level.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codec import Codec, read_image
from codec.browser.embedding import embedded_page
from codec.browser.page import GIVEN
from codec.bundle import Bundle
from tests.codec.browser.test_page import choose, page, shown
from tests.support.browser import chromium

PHOTOS = 12
PARTS = ("symbols", "denoise", "decoder", "whole")
SECONDS = "return window.decoded.seconds"


def stated_digest(path: Path, bundle: Path) -> str:
    """The digest that the command prints."""
    command = [sys.executable, "-c", "from codec.cli import main; main()", "info", str(path), "--symbols"]
    done = subprocess.run([*command, "--bundle", str(bundle)], capture_output=True, text=True, check=True)
    return done.stdout.partition("SHA-256 ")[2][:64]


def row(name: str, seconds: dict[str, float], *cells: str) -> None:
    """Print one row of the table."""
    times = [f"{seconds[part]:.2f}" for part in PARTS]
    print(f"| {name} | {' | '.join([*cells, *times])} |", flush=True)


def opened(browser: Any, address: str) -> dict[str, float]:
    """Seconds by part of a page just opened, which shows the file that it was given."""
    browser.get(address)
    shown(browser)
    found: dict[str, float] = browser.execute_script(SECONDS)
    return found


def main(folder: str, bundle_folder: str = "") -> int:
    """Measure the first photos of a folder."""
    codec = Codec.load(bundle_folder or None)
    bundle = codec.bundle
    photos = sorted(path for path in Path(folder).iterdir() if path.suffix in (".png", ".jpg"))[:PHOTOS]
    print(f"bundle {bundle.id[:16]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print("| photo | size | symbols equal | largest difference | pixels that differ | CPU |", " | ".join(PARTS), "|")
    print("|---" * (6 + len(PARTS)) + "|")
    is_good = True
    with tempfile.TemporaryDirectory() as scratch, page({}, bundle, None, folder=bundle.path) as address:
        with chromium(Path(scratch) / "profile") as browser:
            browser.get(address)
            for photo in photos:
                path = Path(scratch) / f"{photo.stem}.fdc"
                picture = read_image(photo)
                path.write_bytes(codec.encode(picture).data)
                choose(browser, path)
                png, digest = shown(browser)
                got = np.asarray(Image.open(io.BytesIO(png))).astype(int)
                start = time.perf_counter()
                decoded = codec.decode(path.read_bytes())
                seconds = time.perf_counter() - start
                difference = abs(got - decoded).max(2)
                is_equal = digest == stated_digest(path, bundle.path)
                is_good &= is_equal and difference.max() <= 1
                size = f"{picture.width} x {picture.height}"
                share = f"{np.mean(difference > 0):.1e}"
                cells = (size, "yes" if is_equal else "no", str(difference.max()), share, f"{seconds:.2f}")
                row(photo.stem, browser.execute_script(SECONDS), *cells)
        first = path.read_bytes()
        show_opened(first, bundle, Path(scratch))
    return int(not is_good)


def show_opened(data: bytes, bundle: Bundle, scratch: Path) -> None:
    """Print the seconds of pages just opened, each in a browser just started."""
    print(f"\n| just opened | size of the page | {' | '.join(PARTS)} |")
    print("|---" * (2 + len(PARTS)) + "|")
    given = {GIVEN: data}
    with page(given, bundle, "photo.fdc", folder=bundle.path) as address, chromium(scratch / "served") as browser:
        row("`fdc view`, two threads", opened(browser, address), "")
    content = embedded_page(bundle.path, bundle.id, given, "photo.fdc")
    (scratch / "page.html").write_bytes(content)
    with chromium(scratch / "embedded") as browser:
        seconds = opened(browser, (scratch / "page.html").as_uri())
        row("`--embed-decoder`, one thread", seconds, f"{len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
