"""A real browser, and an application served to it."""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which Chromium needs to start as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"


@contextmanager
def chromium(profile: Path, flags: Sequence[str] = FLAGS) -> Iterator[Any]:
    """A headless Chromium with a fresh profile, driven by selenium; the test is skipped where there is none."""
    found = [path for path in map(shutil.which, BROWSERS) if path is not None]
    browser = found[0] if found else None
    driver = shutil.which(DRIVER)
    if browser is None or driver is None:
        pytest.skip(f"no browser: install chromium and {DRIVER} (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        opened.set_page_load_timeout(60)
        yield opened
    finally:
        opened.quit()


def look(browser: Any, width: int, height: int, scheme: str = "light", *, phone: bool = False) -> None:
    """Set the size of the window in CSS pixels, the color scheme, and whether the screen is a phone's."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def outside(browser: Any, address: str) -> list[str]:
    """The addresses of what the page loaded from outside `address`."""
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    return [name for name in browser.execute_script(script) if not name.startswith(address)]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address at which an application is served from a thread."""
    # On port 0 the system chooses a free one, so that tests beside each other do not meet.
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.02)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(30)
