"""python -m tests.benchmarks.gateway FOLDER [--pictures 12] [--requests 400] [--clients 4]: the gateway under load.

Compresses the first pictures of a folder into a temporary archive, serves it with `python -m flows.gateway` on the
loopback interface, and prints requests a second and milliseconds a request: previews, cached pictures, answers without
a body, the listing page, a ranged file, and pictures decoded for the first time. The clients are threads of this
process, each with a connection of its own, on the same processors. Also prints what previews cost in these pictures.
"""

import argparse
import http.client
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from codec.support import processors
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.gateway.addresses import link
from tasks.processes.codec_process import Models
from tasks.storage.store import Store


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--bundle", default="")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{processors.available()} cores, load average {load:.1f} beforehand, {given.clients} clients\n")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "photos").mkdir()
        found = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        for path in found[: given.pictures]:
            (home / "photos" / path.name).symlink_to(path.resolve())
        settings = RunSettings(metrics=(), verify=False)
        compress(str(home / "photos"), str(home / "archive"), settings, models=Models(given.bundle))
        keys = previews(home / "archive")
        options = ["--port", "0", "--longest-wait", "600", "--workers", str(given.workers)]
        command = [sys.executable, "-m", "flows.gateway", str(home / "archive"), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
            try:
                assert gateway.stdout is not None
                address = urlsplit(gateway.stdout.readline().strip()).netloc
                _wait(address)
                loads(address, keys, given.requests, given.clients)
            finally:
                gateway.terminate()


def previews(archive: Path) -> list[str]:
    """Print what previews cost; the keys of pictures that have one."""
    rows = report.query(
        Store(str(archive)), "SELECT * FROM rows WHERE codec = 'fdc' AND preview_bytes > 0 ORDER BY key"
    )
    pixels = sum(row["width"] * row["height"] for row in rows)
    parts = sum(row["preview_bytes"] for row in rows)
    total = sum(row["bytes"] for row in rows)
    print("| pictures | pixels of a picture | preview, bytes | bpp with preview | bpp without |")
    print("|---|---|---|---|---|")
    print(
        f"| {len(rows)} | {pixels // len(rows):,} | {parts / len(rows):,.0f} | {8 * total / pixels:.3f} | "
        f"{8 * (total - parts) / pixels:.3f} |\n"
    )
    return [row["key"] for row in rows]


def loads(address: str, keys: Sequence[str], requests: int, clients: int) -> None:
    """Print a row for each kind of request."""
    thumbnails = [link(key, "webp", "preview=1") for key in keys]
    small = [link(key, "jpg", "width=100") for key in keys]
    whole = [link(key, "webp") for key in keys]
    print("| request | requests | requests a second | median, ms | slowest, ms |")
    print("|---|---|---|---|---|")
    show = partial(_show, address)
    show("picture decoded for the first time, one client", whole, len(whole), 1)
    show(
        f"picture decoded for the first time, {clients} clients", [link(key, "png") for key in keys], len(keys), clients
    )
    show("preview for the first time", thumbnails, len(thumbnails), clients)
    show("preview reduced to 100 pixels for the first time", small, len(small), clients)
    show("preview, cached", thumbnails, requests, clients)
    show("picture, cached", whole, requests, clients)
    tags = {path: _get(address, path)[1] for path in whole}
    show("picture that the client has (304)", whole, requests, clients, tags)
    show("half of an .fdc file", [link(key, "fdc") for key in keys], requests, clients, range_="bytes=1000-")
    show("listing page", ["/"], requests // 4, clients)


def _show(
    address: str,
    name: str,
    paths: Sequence[str],
    requests: int,
    clients: int,
    tags: dict[str, str] | None = None,
    range_: str = "",
) -> None:
    asked = list(itertools.islice(itertools.cycle(paths), requests))
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        shares = [asked[first::clients] for first in range(clients)]
        seconds = list(itertools.chain(*threads.map(lambda share: _ask(address, share, tags or {}, range_), shares)))
    spent = time.perf_counter() - started
    median = 1000 * statistics.median(seconds)
    print(
        f"| {name} | {len(seconds)} | {len(seconds) / spent:.1f} | {median:.1f} | {1000 * max(seconds):.0f} |",
        flush=True,
    )


def _ask(address: str, paths: Sequence[str], tags: dict[str, str], range_: str) -> list[float]:
    """The seconds of each request of one client, one after the other."""
    connection = http.client.HTTPConnection(address, timeout=600)
    seconds = []
    for path in paths:
        headers = {"If-None-Match": tags[path]} if path in tags else {}
        if range_:
            headers["Range"] = range_
        started = time.perf_counter()
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        seconds.append(time.perf_counter() - started)
        if response.status != (304 if path in tags else 206 if range_ else 200):
            raise SystemExit(f"{path}: {response.status}")
    connection.close()
    return seconds


def _get(address: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.getheader("ETag") or ""


def _wait(address: str) -> None:
    """Wait until it answers: it says its address a little before."""
    for _ in range(600):
        try:
            _get(address, "/health")
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the gateway does not answer")


if __name__ == "__main__":
    main()
