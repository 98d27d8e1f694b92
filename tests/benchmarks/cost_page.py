"""python -m tests.benchmarks.cost_page PHOTOS [-o infra/docs/cost.md]: what a million photos cost, as measured.

Photos of 1 and of 12 megapixels are put together from PHOTOS and written as JPEG. Archives of a few and of more of them
are made, audited and restored by the plain functions behind the flows, with one worker of one thread. The processor
seconds of the additional photos are their own cost: loading models is in neither. Everything else on the page is
arithmetic with the prices and machines below.
"""

import argparse
import io
import os
import platform
import resource
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from codec import read_image
from codec.support.waiting import wait_passively
from tasks.archive.manifest import RunSettings
from tasks.compress import process_pair
from tasks.compress.runs import compress
from tasks.maintenance.audit import audit
from tasks.restore.restore import restore

MILLION = 1_000_000
SIZES = {"1 megapixel": (1152, 864, 2, 8), "12 megapixels": (4000, 3000, 1, 2)}
"""Width, height, and how many photos the smaller and the larger archive have."""
MACHINES = {"a laptop of 8 cores": 8, "a server of 64 cores": 64}
"""Cores, each taken to be as fast as the one that was measured."""
CORE_HOUR = 0.04
"""Dollars."""
GB_MONTH = 0.023
READS_A_MILLION = 0.40
"""Dollars for a million GET or HEAD requests."""
WRITES_A_MILLION = 5.0
"""Dollars for a million PUT or LIST requests."""
NAMES_A_LIST = 1000
REQUESTS_A_SHARD = 10
PHOTOS_A_SHARD = 2000
STEPS = ("compress", "verify", "measure", "audit", "restore")


@dataclass(frozen=True)
class Cost:
    """What one photo of a size costs: processor seconds by step, bytes as JPEG, bytes in the archive."""

    seconds: Mapping[str, float]
    source_bytes: float
    archive_bytes: float


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photos that were not trained on")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    given = parser.parse_args()
    wait_passively()
    load = os.getloadavg()[0]
    page = report({name: measured(given.folder, *SIZES[name]) for name in given.sizes}, load)
    print(page)
    if given.output:
        given.output.write_text(page)


def measured(folder: Path, width: int, height: int, few: int, more: int) -> Cost:
    """The cost of a photo: that of `more` photos less that of `few`, by their number."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        write_photos(folder, home / "few", width, height, range(few))
        write_photos(folder, home / "more", width, height, range(few, few + more))
        seconds = []
        sizes = []
        for name in ("few", "more"):
            seconds.append(steps(home / name, home / f"{name}-archive", home / f"{name}-restored"))
            sizes.append((bytes_in(home / name, "*.jpg"), bytes_in(home / f"{name}-archive", "**/*.tar")))
    per_photo = {}
    for step in STEPS:
        # A small difference of two measurements may come out below zero, which no step costs.
        per_photo[step] = max(0.0, (seconds[1][step] - seconds[0][step]) / (more - few))
    source = sum(size for size, _ in sizes) / (few + more)
    archive = sum(size for _, size in sizes) / (few + more)
    return Cost(per_photo, source, archive)


def write_photos(folder: Path, target: Path, width: int, height: int, numbers: range) -> None:
    """Writes JPEGs of this size, each a mosaic of the folder's photos that begins with another one."""
    target.mkdir()
    paths = sorted(folder.iterdir())
    for number in numbers:
        mosaic = np.zeros((height, width, 3), np.uint8)
        index = number
        top = 0
        while top < height:
            left = 0
            row_height = 0
            while left < width:
                pixels = read_image(paths[index % len(paths)]).pixels[: height - top, : width - left]
                mosaic[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
                left += pixels.shape[1]
                row_height = max(row_height, pixels.shape[0])
                index += 1
            top += row_height
        stored = io.BytesIO()
        Image.fromarray(mosaic).save(stored, "JPEG", quality=92)
        (target / f"{number}.jpg").write_bytes(stored.getvalue())


def steps(photos: Path, archive: Path, restored: Path) -> dict[str, float]:
    """Processor seconds of each step for a folder of photos."""

    def archived(name: str, **changes: object) -> float:
        settings = RunSettings(**changes)  # type: ignore[arg-type]
        return spent(lambda: compress(str(photos), f"{archive}{name}", settings))

    alone = archived("-alone", metrics=(), verify=False)
    verified = archived("-verified", metrics=())
    whole = archived("")
    return {
        "compress": alone,
        "verify": verified - alone,
        "measure": whole - verified,
        "audit": spent(lambda: audit(str(archive))),
        "restore": spent(lambda: restore(str(archive), str(restored))),
    }


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of this process and of the children that end with the work."""
    before = processor_seconds()
    try:
        work()
    finally:
        process_pair.dismiss_all()  # their seconds count when they have ended
    return processor_seconds() - before


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    total = 0.0
    for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(whose)
        total += usage.ru_utime + usage.ru_stime
    return total


def bytes_in(folder: Path, pattern: str) -> int:
    """Size of the files that match."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def report(costs: Mapping[str, Cost], load: float) -> str:
    """The page."""
    return "\n".join([*_introduction(load), *_processor(costs), *_days(costs), *_money(costs), *_remarks()]) + "\n"


def _introduction(load: float) -> list[str]:
    return [
        "# What a million photos cost",
        "",
        "Made by `python -m tests.benchmarks.cost_page PHOTOS -o infra/docs/cost.md`; do not edit. Embedded default,",
        "lambda 8, default metrics, one worker of one thread: processor seconds of additional photos, without loading",
        f"models. Measured on {os.cpu_count()} {platform.machine()} cores, load average {load:.1f} beforehand:",
        "processor seconds grow under load. Photos are mosaics of PHOTOS, stored as JPEG (quality 92).",
        "",
    ]


def _heading(first: str, columns: Collection[str]) -> list[str]:
    """The first two lines of a table."""
    return [f"| {first}".rstrip() + " | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]


def _processor(costs: Mapping[str, Cost]) -> list[str]:
    lines = ["## Processor seconds of one photo", "", *_heading("step", costs)]
    for step in STEPS:
        lines.append(f"| {step} | " + " | ".join(f"{cost.seconds[step]:.2f}" for cost in costs.values()) + " |")
    return [*lines, ""]


def _days(costs: Mapping[str, Cost]) -> list[str]:
    """Wall time by machine."""
    columns = [f"{machine}, {size}" for machine in MACHINES for size in costs]
    lines = ["## Wall time for a million", "", *_heading("step", columns)]
    for step in STEPS:
        cells = []
        for cores in MACHINES.values():
            for cost in costs.values():
                cells.append(_duration(cost.seconds[step] * MILLION / cores))
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        "Cores are taken to be as fast as the measured one and to be fed without waiting; hyper-threads are not cores.",
        "The audit reads and decodes every picture; with `--sample 0.02` it takes about a fiftieth. One H100: not",
        "measured yet; `python -m tests.benchmarks.gpu` gives its megapixels a second",
        "([gpu.md](../../tests/benchmarks/results/gpu.md)).",
        "",
    ]


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _money(costs: Mapping[str, Cost]) -> list[str]:
    """Dollars, computing and storage."""
    lines = ["## Money for a million", "", *_heading("", costs)]
    shards = -(-MILLION // PHOTOS_A_SHARD)
    writes = MILLION / NAMES_A_LIST + REQUESTS_A_SHARD * shards
    rows: dict[str, Callable[[Cost], str]] = {
        "compress, verify and measure": lambda cost: f"${_compute(cost):,.0f}",
        "reading them: a GET and a HEAD each": lambda cost: f"${2 * READS_A_MILLION:.2f}",
        "listing and writing": lambda cost: f"${writes * WRITES_A_MILLION / MILLION:.2f}",
        "storing the originals, a month": lambda cost: _storage(cost.source_bytes),
        "storing the archive, a month": lambda cost: _storage(cost.archive_bytes),
        "months until the saved storage has paid, originals deleted": lambda cost: f"{_months(cost):.1f}",
    }
    for name, cell in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(cost) for cost in costs.values()) + " |")
    return [
        *lines,
        "",
        f"Assumed: ${CORE_HOUR} a core-hour, ${GB_MONTH} a GB-month, ${READS_A_MILLION:.2f} a million GET and HEAD,",
        f"${WRITES_A_MILLION:.0f} a million PUT and LIST, computing in the buckets' region. Replace the prices by your",
        "own.",
        "",
    ]


def _compute(cost: Cost) -> float:
    return sum(cost.seconds[step] for step in ("compress", "verify", "measure")) * MILLION / 3600 * CORE_HOUR


def _monthly(size: float) -> float:
    return size * MILLION / 1e9 * GB_MONTH


def _storage(size: float) -> str:
    return f"{size * MILLION / 1e9:,.0f} GB, ${_monthly(size):,.2f}"


def _months(cost: Cost) -> float:
    return _compute(cost) / (_monthly(cost.source_bytes) - _monthly(cost.archive_bytes))


def _remarks() -> list[str]:
    return [
        "Request costs are negligible; compute dominates. Bytes of the archive are those of its tars. `--metrics none`",
        "omits measuring; `--metrics all` measures LPIPS with VGG16 and DISTS as well, for one picture in fifty",
        "(`--metrics-sample 0.02`). `compress-archive --plan` estimates the hours from 20 of your own photos.",
        "`--effort 1` adds about 30 processor seconds a megapixel and `--effort 2` about 300",
        "([effort](../../tests/benchmarks/results/effort.md)).",
    ]


if __name__ == "__main__":
    main()
