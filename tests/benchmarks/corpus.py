"""python -m tests.benchmarks.corpus FOLDER... [--bundle FOLDER] [-o RESULT.md]: any files through the whole archive.

Files are compressed into an archive in a temporary folder (children decode them, as always), restored, and what comes
back is held against the sources by second readers: size, orientation, colors and transparency by libvips, metadata by
exiftool where it is installed. Prints how the files ended by container and reason, what share of the pictures is
compressed, crashes and timeouts, processor time and memory, and each picture that came back otherwise. Ends with status
1 for any of these.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.archive.schema import TROUBLE
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import Store

_TAGS = """
    Orientation ThumbnailOffset ThumbnailImage ExifByteOrder BitsPerSample Compression ImageHeight ImageWidth
    PhotometricInterpretation PlanarConfiguration ResolutionUnit RowsPerStrip SamplesPerPixel StripByteCounts
    StripOffsets XResolution YResolution TileOffsets TileByteCounts TileWidth TileLength Predictor ExtraSamples
    FillOrder
"""
EXPECTED_TO_DIFFER = frozenset(_TAGS.split())
"""Tags that a PNG has elsewhere or not at all: how pixels are stored and turned, resolution, places in the file."""
GROUPS = ("EXIF", "XMP", "IPTC")
BLOCKS = 6
"""Across and down: a turned or mirrored picture has other means of such blocks, and so have other colors."""
SMALLEST = 48
"""Pixels a side of the smallest picture whose block means are compared: of icons the coder changes them itself."""
FAR = 20.0
"""How far, of 255, the block means of a compressed picture may be from its source's on the average."""


def gathered(folders: Sequence[Path], target: Path) -> int:
    """Links to all files below some folders, each folder under its number; returns how many."""
    count = 0
    for number, folder in enumerate(folders):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                place = target / str(number) / path.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path.resolve())
                count += 1
    return count


def differences(source: Path, restored: Path) -> Iterator[str]:
    """How a restored picture differs from its source, by second readers."""
    import pyvips

    try:
        before = pyvips.Image.new_from_file(str(source)).autorot()
    except pyvips.Error:  # this libvips does not read the container
        return
    after = pyvips.Image.new_from_file(str(restored))
    if (before.width, before.height) != (after.width, after.height):
        yield f"is {after.width} x {after.height}, was {before.width} x {before.height}"
    transparent = before.hasalpha() and before[before.bands - 1].min() < 255
    if transparent != after.hasalpha():
        yield "transparency"
    far = float(np.abs(_block_means(before) - _block_means(after)).mean())
    if far > FAR and min(before.width, before.height) >= SMALLEST:
        yield f"colors or orientation: block means are {far:.0f} of 255 away"
    for tag in _lost_tags(source, restored):
        yield f"tag {tag}"


def _block_means(image: Any) -> NDArray[np.float64]:
    """Means of BLOCKS x BLOCKS parts in sRGB, over gray where it is transparent."""
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True)
    image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=[128])
    small = image.cast("float").resize(BLOCKS / image.width, vscale=BLOCKS / image.height, kernel="linear")
    return np.asarray(small.numpy(), np.float64)


def _lost_tags(source: Path, restored: Path) -> list[str]:
    """Tags of EXIF, XMP and IPTC that the source has and the restored file has not, or otherwise."""
    if shutil.which("exiftool") is None:
        return []
    command = ["exiftool", "-json", "-G0", "-n", "-struct", str(source), str(restored)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        own, other = json.loads(done.stdout)
    except ValueError:
        return ["(exiftool cannot read them)"]
    lost = []
    for name, value in own.items():
        group, _, tag = name.partition(":")
        if group in GROUPS and tag not in EXPECTED_TO_DIFFER and other.get(name) != value:
            lost.append(name)
    return sorted(lost)


def run(folders: Sequence[Path], models: Models, quality: float) -> tuple[str, int]:
    """The report in Markdown, and how many things went wrong."""
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "source"
        archive = Path(home) / "archive"
        target = Path(home) / "restored"
        count = gathered(folders, source)
        began = time.monotonic()
        settings = RunSettings(quality=quality, metrics=(), threads=1, exclude=())
        compress(str(source), str(archive), settings, models=models)
        seconds = time.monotonic() - began
        rows = report.query(Store(str(archive)), "SELECT * FROM rows ORDER BY key")
        errors = restore(str(archive), str(target), models=models).errors
        wrong = []
        for row in rows:
            wrong += [f"{row['key']}: {found}" for found in _checked(row, source, target)]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wrong += errors
    outcomes: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        if row["reason"] in TROUBLE:
            wrong.append(f"{row['key']}: {row['reason']}")
        outcomes[row["source_format"] or "-", row["status"], row["reason"] or ""] += 1
    # The share is of what could be compressed: not of files that no decoder reads, nor of raw data.
    pictures = [row for row in rows if row["reason"] not in ("not_an_image", "raw", "damaged")]
    compressed = [row for row in pictures if row["status"] == "compressed"]
    share = len(compressed) / max(1, len(pictures))
    lines = [
        f"# {count} files, {len(rows)} rows",
        "",
        f"{share:.1%} of the whole pictures are compressed; {len(wrong)} came back otherwise or made trouble. "
        f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} processor seconds of children, the largest of which "
        f"took {used.ru_maxrss / 2**20:.2f} GiB.",
        "",
        "| container | status | reason | files |",
        "|---|---|---|---:|",
        *(f"| {' | '.join(outcome)} | {number} |" for outcome, number in sorted(outcomes.items())),
        "",
        *(f"- {line}" for line in wrong),
    ]
    return "\n".join(lines).rstrip() + "\n", len(wrong)


def _checked(row: dict[str, Any], source: Path, target: Path) -> Iterator[str]:
    if row["tar"] is None:
        yield f"not kept: {row['reason']}"
        return
    original = source / row["key"]
    if row["codec"] == "fdc":
        name = row["key"] if row["key"].lower().endswith(".png") else f"{row['key']}.png"
        restored = target / name
        if not restored.exists():
            yield "was not restored"
        elif row["source_format"] not in ("HEIF", "JXL"):  # libvips here reads neither
            yield from differences(original, restored)
    elif row["codec"] == "original" and (target / row["key"]).read_bytes() != original.read_bytes():
        yield "its bytes did not come back"


def main() -> int:
    """Run and report."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("folders", nargs="+", type=Path)
    options.add_argument("--bundle", default="", help="folder of a trained codec; the embedded one if empty")
    options.add_argument("--quality", type=float, default=8.0)
    options.add_argument("-o", "--output", type=Path)
    arguments = options.parse_args()
    text, wrong = run(arguments.folders, Models(arguments.bundle, threads=1), arguments.quality)
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
