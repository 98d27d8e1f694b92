"""python -m tests.benchmarks.roundtrip FOLDER: every picture through `fdc encode` and `fdc decode`, two processes each.

Prints a row a picture and the means, checks that the size is restored and that `fdc info` accounts for every bit, and
ends with status 1 where a picture is below 20 dB or the mean LPIPS is not below 0.6.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from codec.images import read_image
from codec.metrics.quality import Metrics


def fdc(*arguments: str) -> str:
    """Run the command in a process of its own; what it printed."""
    return subprocess.run(["fdc", *arguments], capture_output=True, text=True, check=True).stdout


def main(folder: str, quality: str = "8") -> int:
    """Measure all pictures of a folder at one lambda."""
    metrics = Metrics("psnr", "ms-ssim", "lpips", "dists")
    rows = []
    print(f"{'picture':<16}{'bytes':>8}{'bpp':>9}{'PSNR':>8}{'MS-SSIM':>9}{'LPIPS':>8}{'DISTS':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(Path(folder).iterdir()):
            coded = Path(scratch) / f"{path.stem}.fdc"
            decoded = Path(scratch) / f"{path.stem}.png"
            fdc("encode", str(path), "-o", str(coded), "--quality", quality)
            fdc("decode", str(coded), "-o", str(decoded))
            original = read_image(path)
            restored = read_image(decoded)
            assert original.pixels.shape == restored.pixels.shape, f"{path.name}: the size is not restored"
            size = coded.stat().st_size
            entries = re.findall(r" (\d+) bits  ", fdc("info", str(coded)).split("\n\n")[0])
            assert sum(map(int, entries)) == 8 * size, f"{path.name}: fdc info does not account for every bit"
            measured = metrics.measure(original.pixels, restored.pixels)
            values = (measured.psnr_db, measured.ms_ssim, measured.lpips, measured.dists)
            rows.append((size, 8 * size / (original.width * original.height), *(value or 0.0 for value in values)))
            show(path.stem, rows[-1])
    means = tuple(fmean(column) for column in zip(*rows, strict=True))
    show(f"mean of {len(rows)}", means)
    return int(min(row[2] for row in rows) < 20 or means[4] >= 0.6)


def show(name: str, row: tuple[float, ...]) -> None:
    """Print one row."""
    size, bpp, psnr_db, ms_ssim, lpips, dists = row
    print(f"{name:<16}{size:>8.0f}{bpp:>9.4f}{psnr_db:>8.2f}{ms_ssim:>9.4f}{lpips:>8.4f}{dists:>8.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
