"""A gateway served by a real uvicorn from a thread, and an archive with the pictures that its tests ask for."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from codec import encode_png
from tasks.archive.manifest import RunSettings
from tasks.archive.opening import existing
from tasks.compress.runs import compress
from tasks.gateway import connections
from tasks.gateway.cache import DiskCache
from tasks.gateway.pictures import DecodingLimits
from tasks.gateway.server import Gateway, application
from tasks.gateway.tokens import Gate
from tasks.processes.codec_process import Models
from tests.conftest import synthetic
from tests.support.archive_builder import in_process
from tests.support.image_files import DISPLAY_P3, profile

SETTINGS = RunSettings(quality=16.0, preview=64, metrics=("psnr",), verify=False, threads=1)
SECRET = b"planted secret place"


def photo(height: int = 240, width: int = 400, seed: int = 0) -> bytes:
    """A JPEG with a profile, turned by its orientation, whose EXIF says where it was taken."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = SECRET.decode()
    stream = io.BytesIO()
    pixels = Image.fromarray(synthetic(height, width, seed))
    pixels.save(stream, "JPEG", quality=95, exif=exif, icc_profile=profile(2.2, DISPLAY_P3))
    return stream.getvalue()


def animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (90, 60), color) for color in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


ODD_KEYS = (
    "a.png",
    "a.png.png",
    ".hidden",
    "..two dots.png",
    "100%.png",
    "%2e%2e/%2Fetc.png",
    "with space/ünï 日本.png",
    "a?b#c&d=e+f;g.png",
    '"><script>alert(1)</script>.png',
    "line\nend.png",
    "back\\slash.png",
    "health",
    "metrics.fdc",
    "key.png",
)
"""Names of files that may mean something else in an address, a page or a path."""


def files() -> dict[str, bytes]:
    """The source: a photo, pictures with odd names, files that are kept whole, and a text that is no picture."""
    pictures = {name: encode_png(synthetic(24, 32 + 8 * number)) for number, name in enumerate(ODD_KEYS)}
    whole = {"animated.gif": animation(), "page.html": b"<script>alert(1)</script>"}
    return {"2024/photo.jpg": photo(), **pictures, **whole}


def packed(source: Path | str, archive: Path | str, bundle: Path) -> None:
    """Compresses with the real codec of a bundle, in this process."""
    with in_process():
        compress(str(source), str(archive), SETTINGS, models=Models(str(bundle)))


class Running:
    """A running gateway: its address, the gateway and a client."""

    def __init__(self, address: str, gateway: Gateway) -> None:
        self.address = address
        self.gateway = gateway
        self.client = httpx.Client(base_url=address, timeout=120)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A response; the path is sent as given."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(path, headers=named)


@contextmanager
def running(
    archive: Path | str,
    cache: Path,
    *,
    limits: DecodingLimits = DecodingLimits(),  # noqa: B008  # frozen
    cache_bytes: int = 10**8,
    token: str | None = None,
    hosts: frozenset[str] = frozenset(),
    concurrency: int = 64,
    **options: Any,
) -> Iterator[Running]:
    """Serves an archive on a free port of the loopback interface."""
    options.setdefault("state_age", 0.0)  # what is forgotten is gone with the next request
    gateway = Gateway(existing(str(archive)), Models(""), DiskCache(cache, cache_bytes), limits, **options)
    app = application(gateway, Gate(token), hosts=hosts, concurrency=concurrency)
    listening = connections.bound("127.0.0.1", 0)
    server = connections.server(app)
    thread = threading.Thread(target=partial(server.run, sockets=[listening]), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive(), "the server does not start"
        time.sleep(0.02)
    served = Running(f"http://127.0.0.1:{listening.getsockname()[1]}", gateway)
    try:
        yield served
    finally:
        served.client.close()
        server.should_exit = True
        thread.join(60)
        listening.close()
        gateway.close()
        assert not thread.is_alive()
