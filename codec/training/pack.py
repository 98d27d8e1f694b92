"""python -m codec.training.pack DATA OUTPUT.tar: packs crops of photos into one tar of limited size, for transfer.

Each photo gives a crop in turn, in an order and at places fixed by the seed, until the tar is full. Crops are stored as
JPEG at quality 95 without chroma subsampling; training on the tar is training on the photos, with less to choose from.
"""

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from codec.errors import FdcError
from codec.training.data import CropSampler, ShardedImages

BLOCK = 512
"""Size of a member's header, and of the blocks that its content is padded to."""
TRAILER = tarfile.RECORDSIZE
"""Upper bound on the end of a tar, in bytes."""


def pack(images: ShardedImages, output: Path, *, size: int, side: int, seed: int) -> int:
    """Write square crops of `side` pixels into a tar of at most `size` bytes; returns how many fit."""
    crops = CropSampler(images, seed=seed, batch_size=1, crop_size=side, flip=False)
    count = 0
    written = 0
    spool = output.with_suffix(".spool")
    with tarfile.open(spool, "w") as tar:
        while True:
            crop = crops.batch(count)[0].permute(1, 2, 0).numpy()  # in [-1, 1]
            pixels = ((crop + 1) * 127.5).round().astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=95, subsampling=0)
            data = stream.getvalue()
            content_blocks = -(-len(data) // BLOCK)  # rounded up
            written += BLOCK + content_blocks * BLOCK
            if written + TRAILER > size:
                break
            member = tarfile.TarInfo(f"{count:06d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            count += 1
    spool.replace(output)
    return count


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and packs. Returns 0, or 1 with one line on stderr for a usage error."""
    parser = argparse.ArgumentParser(prog="python -m codec.training.pack", description=__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="WebDataset tars, or folders of them")
    parser.add_argument("output", type=Path)
    parser.add_argument("--bytes", type=int, default=28_000_000)
    parser.add_argument("--side", type=int, default=256, help="of a crop, in pixels")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    try:
        count = pack(ShardedImages(given.data), given.output, size=given.bytes, side=given.side, seed=given.seed)
    except FdcError as error:
        print(f"codec.training.pack: {error}", file=sys.stderr)
        return 1
    print(f"{count} crops of {given.side} pixels, {given.output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
